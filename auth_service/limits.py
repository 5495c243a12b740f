"""How often who may ask: counters in the database, so that replicas count together.

All requests of an address are counted, and its failures apart, which are what somebody who guesses makes: when there
are too many, what would have to be found out about strangers from there is not, and who is known goes on. A person who
guesses codes from many addresses has a counter of their own.

A replica writes its requests down in small parts, and reads the failures that others counted once a second: a limit may
be passed by a few requests, and a request costs no round trip to the database for it.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import TTLCache

from auth_service.store.auth_store import AuthStore
from auth_service.store.base import digest
from gstack.kernel.errors import NOT_TRIED, ApiError
from gstack.kernel.settings import Settings

_MINUTE = 60.0
_HOUR = 3600.0
# Failures of one person from all addresses in an hour: far more than anybody makes, far too few to guess.
_NAME_FAILURES = 100
# Of the requests of an address so many may begin a device's login, which is a row for half an hour.
_DEVICES_PART = 10
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
        self._tokens = settings.rate_tokens
        self._lock = threading.Lock()
        self._counters: TTLCache[str, _Counter] = TTLCache(_SIZE, 2 * _MINUTE)
        self._read: TTLCache[str, int] = TTLCache(_SIZE, _READ_SECONDS)

    def request(self, address: str) -> None:
        """Count a request. Raises 429 when the address asks too often."""
        self._count("requests", network_of(address), _MINUTE, self._requests)

    def device(self, address: str) -> None:
        """Count a device that wants to sign in. Raises 429."""
        self._count("devices", network_of(address), _MINUTE, max(self._requests // _DEVICES_PART, 1))

    def token(self, owner: str) -> None:
        """Count a token that a user gets. Raises 429."""
        self._count("tokens", owner, _HOUR, self._tokens)

    def stranger(self, address: str) -> None:
        """Before something is found out for somebody who is not known. Raises 429 when the address failed too often."""
        name, expires = _window("failures", network_of(address), _MINUTE)
        if self._total(name) >= self._failures:
            raise _too_many(expires)

    def failure(self, address: str) -> None:
        self._fail(*_window("failures", network_of(address), _MINUTE))

    def name(self, name: str) -> None:
        """Raises 429 when too many codes of devices were wrong that this person typed."""
        counter, expires = _window("name", name, _HOUR)
        if self._total(counter) >= _NAME_FAILURES:
            raise _too_many(expires)

    def name_failure(self, name: str) -> None:
        self._fail(*_window("name", name, _HOUR))

    def key(self, owner: str) -> None:
        """Count a service account or key that a user makes. Raises 429."""
        name, expires = _window("keys", owner, _HOUR)
        if self._store.counters.add(name, expires, 1) > self._keys:
            raise _too_many(expires)

    def _count(self, kind: str, who: str, seconds: float, limit: int) -> None:
        name, expires = _window(kind, who, seconds)
        if self._add(name, expires, limit) > limit:
            raise _too_many(expires)

    def _add(self, name: str, expires: float, limit: int) -> int:
        with self._lock:
            counter = self._counters.setdefault(name, _Counter())
            counter.pending += 1
            if counter.pending <= limit // _PART and counter.known + counter.pending <= limit:
                return counter.known + counter.pending
            add, counter.pending = counter.pending, 0
        known = self._store.counters.add(name, expires, add)
        with self._lock:
            counter.known = max(counter.known, known)
        return known

    def _fail(self, name: str, expires: float) -> None:
        total = self._store.counters.add(name, expires, 1)
        with self._lock:
            self._read[name] = total

    def _total(self, name: str) -> int:
        with self._lock:
            known = self._read.get(name)
        if known is None:
            known = self._store.counters.value(name)
            with self._lock:
                self._read[name] = known
        return known


class Room:
    """Room for so many questions at a time, and for so many of one who asks: none of them holds all threads."""

    def __init__(self, limit: int, each: int):
        self._limit = limit
        self._each = each
        self._inside: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def place(self, who: str, patience: float = 0.0) -> Iterator[None]:
        """patience: seconds to wait for one. Raises 503 when there is none."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free(who), patience):
                raise ApiError(503, "The service is overloaded. Try again later.", NOT_TRIED, retry_after=1)
            self._inside[who] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[who] -= 1
                if not self._inside[who]:
                    del self._inside[who]
                self._changed.notify_all()

    def _is_free(self, who: str) -> bool:
        return self._inside.total() < self._limit and self._inside[who] < self._each


def network_of(address: str) -> str:
    """Who an address counts as: of IPv6 everybody has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))


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
