"""Counters of a stretch of time, for the limits."""

from __future__ import annotations

import sqlalchemy as sa

from auth_service.store.base import Part
from auth_service.store.tables import limits


class Counters(Part):
    def add(self, name: str, expires: float, number: int) -> int:
        """Add to a counter that ends at `expires` and return what it is then."""
        insert = self._insert(limits).values(name=name, count=number, expires=expires)
        counted = insert.on_conflict_do_update(
            index_elements=[limits.c.name], set_={"count": limits.c.count + number}
        ).returning(limits.c.count)
        with self._engine.begin() as connection:
            return int(connection.execute(counted).scalar_one())

    def value(self, name: str) -> int:
        return self._scalar(sa.select(limits.c.count).where(limits.c.name == name)) or 0
