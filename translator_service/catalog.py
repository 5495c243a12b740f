"""What changes seldom in a CloudStack: zones, offerings, templates, networks, projects, limits.

Cached per principal and project, one fetch at a time for each list (single flight), fetched anew when it is old or when
a name is not found. Everything else is asked fresh each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from gstack.kernel.metrics import CACHE
from translator_service.cloudstack.client import Answer, Client

if TYPE_CHECKING:
    from translator_service.naming import Index, Row

_MISS_PAUSE = 1.0


@dataclass(frozen=True)
class Kind:
    """A cached list. calls: what to ask; ttl in seconds; build: rows -> Index."""

    name: str
    ttl: float
    fetch: Callable[[Client], list[Answer]]
    build: Callable[[list[Row]], Index]


@dataclass
class Entry:
    """A fetched list. digest changes when the list does, so it can stand for the list in a cache key."""

    index: Index
    digest: int
    fetched: float


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    entry: Entry | None = None


class Catalog:
    def __init__(self, size: int = 20_000):
        self._slots: LRUCache[tuple[str, str], _Slot] = LRUCache(size)
        self._lock = threading.Lock()

    def get(self, owner: str, kind: Kind, client: Client, *, newer_than: float = 0.0) -> Entry:
        """The list as `owner` (principal and project) sees it, fetched after `newer_than` (monotonic seconds)."""
        with self._lock:
            slot = self._slots.get((owner, kind.name))
            if slot is None:
                slot = self._slots[owner, kind.name] = _Slot()
        entry = slot.entry
        oldest = max(newer_than, time.monotonic() - kind.ttl)
        fresh = entry is not None and entry.fetched >= oldest
        CACHE.labels("catalog", "hit" if fresh else "miss").inc()
        if entry is not None and fresh:
            return entry
        with slot.lock:
            entry = slot.entry
            if entry is not None and entry.fetched >= oldest:
                return entry
            started = time.monotonic()
            answers = kind.fetch(client)
            rows = [row for answer in answers for row in answer.items]
            digest = hash(tuple(answer.raw for answer in answers))
            if entry is not None and entry.digest == digest:
                entry.fetched = started
                return entry
            slot.entry = Entry(kind.build(rows), digest, started)
            return slot.entry

    def find(self, owner: str, kind: Kind, client: Client, name: str) -> dict[str, Any] | None:
        """The row with this GCE name (or verbatim name, uuid, number); a miss asks again, at most each second."""
        entry = self.get(owner, kind, client)
        row = entry.index.find(name)
        if row is None and entry.fetched < time.monotonic() - _MISS_PAUSE:
            row = self.get(owner, kind, client, newer_than=time.monotonic() - _MISS_PAUSE).index.find(name)
        return row

    def forget(self, owner: str, kind: Kind) -> None:
        """The next question fetches anew; called after our own changes."""
        with self._lock:
            self._slots.pop((owner, kind.name), None)
