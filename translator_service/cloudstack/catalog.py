"""What changes seldom in a CloudStack: zones, offerings, templates, networks, projects, limits.

Cached per principal and project, one fetch at a time for each list (single flight), fetched anew when it is old or when
a name is not found. Everything else is asked fresh each time. Bounded by bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from cachetools import LRUCache

from gstack.kernel.metrics import CACHE
from translator_service.cloudstack.client import Answer, Client, all_rows
from translator_service.cloudstack.rows import Row

_MISS_PAUSE = 1.0
# What a list takes in memory: by measure, so many times the bytes of CloudStack's answers, and this besides.
_BYTES_PARSED = 4
_ENTRY_BYTES = 2000

_Key = tuple[str, str]


class Index(Protocol):
    """A list by the names of its rows."""

    def find(self, name: str) -> Row | None: ...

    def name(self, identity: str) -> str | None: ...

    def __iter__(self) -> Iterator[tuple[str, Row]]: ...


@dataclass(frozen=True)
class Kind:
    """A cached list. calls: what to ask; ttl in seconds; build: rows -> Index."""

    name: str
    ttl: float
    fetch: Callable[[Client], list[Answer]]
    build: Callable[[list[Row]], Index]


@dataclass
class Entry:
    """A fetched list. digest changes when the list does, so it can stand for the list in a cache key; size in bytes."""

    index: Index
    digest: int
    fetched: float
    size: int


@dataclass
class _Flight:
    """Those who want one list now: one of them fetches it for all, also if it is too large to be kept."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    entry: Entry | None = None


class Catalog:
    def __init__(self, size: int = 64 * 1024 * 1024):
        """size: bytes for all lists together; those that nobody asked for longest go."""
        self._entries: LRUCache[_Key, Entry] = LRUCache(size, getsizeof=lambda entry: entry.size)
        self._flights: dict[_Key, _Flight] = {}
        self._lock = threading.Lock()

    def get(self, owner: str, kind: Kind, client: Client, *, newer_than: float = 0.0) -> Entry:
        """The list as `owner` (principal and project) sees it, fetched after `newer_than` (monotonic seconds)."""
        key = (owner, kind.name)
        with self._lock:
            entry = self._entries.get(key)
        oldest = max(newer_than, time.monotonic() - kind.ttl)
        fresh = entry is not None and entry.fetched >= oldest
        CACHE.labels("catalog", "hit" if fresh else "miss").inc()
        if entry is not None and fresh:
            return entry
        with self._flight(key) as flight:
            with self._lock:
                entry = flight.entry or self._entries.get(key)
            if entry is not None and entry.fetched >= oldest:
                return entry
            started = time.monotonic()
            answers = kind.fetch(client)
            digest = hash(tuple(answer.raw for answer in answers))
            if entry is not None and entry.digest == digest:
                entry.fetched = started
            else:
                rows = all_rows(answers)
                size = _ENTRY_BYTES + _BYTES_PARSED * sum(len(answer.raw) for answer in answers)
                entry = Entry(kind.build(rows), digest, started, size)
            self._keep(key, flight, entry)
            return entry

    @contextmanager
    def _flight(self, key: _Key) -> Iterator[_Flight]:
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.users += 1
        try:
            with flight.lock:
                yield flight
        finally:
            with self._lock:
                flight.users -= 1
                if not flight.users and self._flights.get(key) is flight:
                    del self._flights[key]

    def _keep(self, key: _Key, flight: _Flight, entry: Entry) -> None:
        flight.entry = entry
        with self._lock:
            # Unless it was forgotten while it was fetched.
            if self._flights.get(key) is flight and entry.size <= self._entries.maxsize:
                self._entries[key] = entry

    def find(self, owner: str, kind: Kind, client: Client, name: str) -> Row | None:
        """The row with this GCE name (or verbatim name, uuid, number); a miss asks again, at most each second."""
        entry = self.get(owner, kind, client)
        row = entry.index.find(name)
        if row is None and entry.fetched < time.monotonic() - _MISS_PAUSE:
            row = self.get(owner, kind, client, newer_than=time.monotonic() - _MISS_PAUSE).index.find(name)
        return row

    def forget(self, owner: str, kind: Kind) -> None:
        """The next question fetches anew; called after our own changes."""
        with self._lock:
            self._entries.pop((owner, kind.name), None)
            self._flights.pop((owner, kind.name), None)
