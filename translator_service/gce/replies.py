"""Replies that are not built twice: CloudStack is asked each time, but the same answer gives the same reply.

Content-addressed: the key is a hash of the question, the link base, the caller and the raw answers. Values are
serialized messages, so a hit costs neither parsing nor mapping nor encoding. Bounded by bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache
from google.protobuf.message import Message

from gstack.kernel.metrics import CACHE

# Larger replies would push out many small ones that are asked for more often.
_LARGEST = 8 * 1024 * 1024
# Of one entry, besides its bytes: key, links, objects.
_ENTRY_BYTES = 400


class Replies:
    def __init__(self, size: int = 64 * 1024 * 1024):
        self._cache: LRUCache[int, bytes] = LRUCache(size, getsizeof=_size)
        self._lock = threading.Lock()

    def get(self, key: int, build: Callable[[], Message]) -> bytes:
        with self._lock:
            known = self._cache.get(key)
        CACHE.labels("replies", "miss" if known is None else "hit").inc()
        if known is not None:
            return known
        encoded = build().SerializeToString()
        if _size(encoded) <= min(_LARGEST, self._cache.maxsize):
            with self._lock:
                self._cache[key] = encoded
        return encoded


def _size(encoded: bytes) -> int:
    return len(encoded) + _ENTRY_BYTES
