"""How often who may ask: counters in the database, so that replicas count together.

All requests of an address are counted, and its failures apart, which are what somebody who guesses makes. A name that
is guessed from many addresses has a counter of its own.

A replica writes its requests down in small parts, and reads the failures that others counted once a second: a limit may
be passed by a few requests, and a request costs no round trip to the database for it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from cachetools import TTLCache

from auth_service.store import AuthStore, digest
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings

_MINUTE = 60.0
_HOUR = 3600.0
# Failures of one name from all addresses in an hour: far more than a person makes, far too few to guess.
_NAME_FAILURES = 100
# A replica keeps this part of a limit to itself before it writes.
_PART = 50
_READ_SECONDS = 1.0
_SIZE = 100_000


@dataclass
class _Counter:
    """What the database said last, and what came since."""

    known: int = 0
    pending: int = 0


class Limits:
    def __init__(self, store: AuthStore, settings: Settings):
        self._store = store
        self._requests = settings.rate_requests
        self._failures = settings.rate_failures
        self._keys = settings.rate_keys
        self._lock = threading.Lock()
        self._counters: TTLCache[str, _Counter] = TTLCache(_SIZE, 2 * _MINUTE)
        self._read: TTLCache[str, int] = TTLCache(_SIZE, _READ_SECONDS)

    def request(self, address: str) -> None:
        """Count a request. Raises 429 when the address asks too often, or failed too often."""
        name, expires = _window("requests", address, _MINUTE)
        if self._add(name, expires, self._requests) > self._requests:
            raise _too_many(expires)
        name, expires = _window("failures", address, _MINUTE)
        if self._total(name) >= self._failures:
            raise _too_many(expires)

    def failure(self, address: str) -> None:
        self._fail(*_window("failures", address, _MINUTE))

    def name(self, name: str) -> None:
        """Raises 429 when too many failed with this user name or user code."""
        counter, expires = _window("name", name, _HOUR)
        if self._total(counter) >= _NAME_FAILURES:
            raise _too_many(expires)

    def name_failure(self, name: str) -> None:
        self._fail(*_window("name", name, _HOUR))

    def key(self, owner: str) -> None:
        """Count a service account or key that a user makes. Raises 429."""
        name, expires = _window("keys", owner, _HOUR)
        if self._store.count(name, expires, 1) > self._keys:
            raise _too_many(expires)

    def _add(self, name: str, expires: float, limit: int) -> int:
        with self._lock:
            counter = self._counters.setdefault(name, _Counter())
            counter.pending += 1
            if counter.pending <= limit // _PART and counter.known + counter.pending <= limit:
                return counter.known + counter.pending
            add, counter.pending = counter.pending, 0
        known = self._store.count(name, expires, add)
        with self._lock:
            counter.known = max(counter.known, known)
        return known

    def _fail(self, name: str, expires: float) -> None:
        total = self._store.count(name, expires, 1)
        with self._lock:
            self._read[name] = total

    def _total(self, name: str) -> int:
        with self._lock:
            known = self._read.get(name)
        if known is None:
            known = self._store.counted(name)
            with self._lock:
                self._read[name] = known
        return known


def _window(kind: str, who: str, seconds: float) -> tuple[str, float]:
    """Name of the counter of this moment and when it ends. The name tells nobody's name."""
    number = int(time.time() // seconds)
    return f"{kind}/{digest(who).hex()[:32]}/{number}", (number + 1) * seconds


def _too_many(expires: float) -> ApiError:
    return ApiError(
        429,
        "Too many requests. Wait a little and try again.",
        "rateLimitExceeded",
        retry_after=max(int(expires - time.time()) + 1, 1),
    )
