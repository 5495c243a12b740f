"""How many requests a process takes on: beyond that it answers at once, instead of letting all of them wait."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gstack.kernel.errors import ApiError
from gstack.kernel.metrics import HTTP_REFUSED

# Threads beyond the limit, which have nothing to do but to refuse.
SPARE_THREADS = 8
_PATIENCE = 0.5
_CROWDED = 1.0


class Room:
    """Room for so many requests in hand. A crowd of quick ones passes; in a lasting one nobody waits."""

    def __init__(self, limit: int):
        self._free = threading.BoundedSemaphore(limit)
        self._refused = float("-inf")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Raises 503 when there is none."""
        if not self._free.acquire(blocking=False):
            crowded = time.monotonic() - self._refused < _CROWDED
            if crowded or not self._free.acquire(timeout=_PATIENCE):
                self._refused = time.monotonic()
                HTTP_REFUSED.labels("overload").inc()
                raise ApiError(503, "The service is overloaded. Try again later.", retry_after=1)
        try:
            yield
        finally:
            self._free.release()


class Users:
    """At most so many requests in hand for each user, so that one alone cannot take the place of all."""

    def __init__(self, limit: int):
        self._limit = limit
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, user: str) -> None:
        """Raises 429; otherwise `leave` must follow."""
        with self._lock:
            if self._running[user] < self._limit:
                self._running[user] += 1
                return
        HTTP_REFUSED.labels("user").inc()
        text = f"More than {self._limit} requests at a time. Try again when some of them are answered."
        raise ApiError(429, text, retry_after=1)

    def leave(self, user: str) -> None:
        with self._lock:
            self._running[user] -= 1
            if not self._running[user]:
                del self._running[user]
