"""Rows by what they belong to, so that a list need not look at everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from simulator.world import Row, World

R = TypeVar("R", bound=Row)


class Index(Generic[R]):
    """Rows by key: an account, a network, a VM, a text. `put` a row whenever its keys have changed."""

    def __init__(self, keys: Callable[[R], Iterable[Any]]):
        self._keys = keys
        self._rows: dict[Any, dict[int, R]] = {}
        self._placed: dict[int, tuple[Any, ...]] = {}
        self._sorted: dict[Any, list[R]] = {}

    def put(self, row: R) -> None:
        """Add the row or find its new places; a removed row is taken out."""
        for key in self._placed.pop(row.number, ()):
            del self._rows[key][row.number]
            self._sorted.pop(key, None)
        if row.removed:
            return
        keys = self._placed[row.number] = tuple({key for key in self._keys(row) if key is not None})
        for key in keys:
            self._rows.setdefault(key, {})[row.number] = row
            self._sorted.pop(key, None)

    def of(self, *keys: Any) -> list[R]:
        """The rows with any of these keys, oldest first."""
        if len(keys) == 1:
            return self._of_one(keys[0])
        found = {number: row for key in keys for number, row in self._rows.get(key, {}).items()}
        return [found[number] for number in sorted(found)]

    def _of_one(self, key: Any) -> list[R]:
        rows = self._rows.get(key)
        if not rows:
            return []
        if key not in self._sorted:
            self._sorted[key] = [rows[number] for number in sorted(rows)]
        return self._sorted[key].copy()

    def first(self, key: Any) -> R | None:
        rows = self._rows.get(key)
        return rows[min(rows)] if rows else None


def index(world: World, kind: type[R], keys: Callable[[R], Iterable[Any]]) -> Index[R]:
    """The world's index of this kind of rows, made of what there is when first asked for."""
    found: Index[R] | None = world.indexes.get(kind)
    if found is None:
        found = world.indexes[kind] = Index(keys)
        for row in world.all(kind):
            found.put(row)
    return found
