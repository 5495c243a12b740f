"""Places for those who wait for something to end, shared among users."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Waits:
    """How many requests may be kept waiting for something to end: the others are answered as it is by then.

    Each of them holds a thread, in a gateway and in a translator, which the quick ones need.
    """

    def __init__(self, limit: int, per_user: int):
        self._limit = limit
        self._per_user = per_user
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, user: str) -> Iterator[bool]:
        """Whether this one may wait."""
        with self._lock:
            granted = self._running.total() < self._limit and self._running.get(user, 0) < self._per_user
            if granted:
                self._running[user] += 1
        try:
            yield granted
        finally:
            if granted:
                with self._lock:
                    self._running[user] -= 1
                    if not self._running[user]:
                        del self._running[user]
