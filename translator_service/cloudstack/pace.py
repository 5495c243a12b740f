"""How fast an account may ask: CloudStack's API limit is learned from its refusals (429), account by account.

An account that was never refused is not held up. After a refusal its calls pass a token bucket, whose rate falls with
each further refusal and grows again while there are none; by default CloudStack permits 25 calls a second, in effect
about 12 (`api.throttling.max`, and each signed request is counted twice).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from cachetools import LRUCache

_ACCOUNTS = 10_000
_FIRST_RATE = 8.0
_LEAST_RATE = 1.0
# Refusals that come together are one: they were all sent before the first was answered.
_TOGETHER = 1.0
# Seconds without a refusal after which the rate grows by a quarter; beyond _ENOUGH calls a second there is no limit.
_QUIET = 5.0
_ENOUGH = 50.0


@dataclass
class _Bucket:
    rate: float
    refused: float
    grown: float
    # When the next call may go.
    free: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Pace:
    def __init__(self) -> None:
        self._buckets: LRUCache[str, _Bucket] = LRUCache(_ACCOUNTS)
        self._lock = threading.Lock()

    def wait(self, account: str, until: float) -> bool:
        """Hold a call up as the account's limit demands; False, at once, when its turn is only after `until`."""
        if account not in self._buckets:
            return True
        with self._lock:
            bucket = self._buckets.get(account)
        if bucket is None:
            return True
        now = time.monotonic()
        with bucket.lock:
            self._grow(account, bucket, now)
            turn = max(bucket.free, now)
            if turn > until:
                return False
            bucket.free = turn + 1.0 / bucket.rate
        time.sleep(max(turn - now, 0.0))
        return True

    def refused(self, account: str) -> None:
        """CloudStack said 429."""
        now = time.monotonic()
        with self._lock:
            bucket = self._buckets.get(account)
            if bucket is None:
                bucket = self._buckets[account] = _Bucket(_FIRST_RATE * 2, float("-inf"), now)
        with bucket.lock:
            if now - bucket.refused > _TOGETHER:
                bucket.rate = max(bucket.rate / 2, _LEAST_RATE)
                bucket.refused = bucket.grown = now
            bucket.free = max(bucket.free, now + 1.0)

    def _grow(self, account: str, bucket: _Bucket, now: float) -> None:
        while now - bucket.grown > _QUIET and bucket.rate < _ENOUGH:
            bucket.rate *= 1.25
            bucket.grown += _QUIET
        if bucket.rate >= _ENOUGH:
            with self._lock:
                self._buckets.pop(account, None)
