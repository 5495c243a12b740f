"""Passwords that were tried for a name since the last right one."""

from __future__ import annotations

import time
from typing import Literal

import sqlalchemy as sa

from auth_service.store.base import Part
from auth_service.store.tables import logins

Outcome = Literal["right", "wrong", "not tried"]

# No answer comes after this time any more.
_RUNS_SECONDS = 120.0


class Logins(Part):
    def begin(self, name: str, most: int) -> bool:
        """Count one more password that is going to be tried; False if there were `most` since the last right one.

        Counted before it is tried, so that many at a time, at all replicas, are no more than that.
        """
        now = time.time()
        # Whoever tried those did not live to tell what came of it.
        lost = logins.c.tried < now - _RUNS_SECONDS
        insert = self._insert(logins).values(name=name, failed=0, running=1, tried=now)
        counted = insert.on_conflict_do_update(
            index_elements=[logins.c.name],
            set_={
                "failed": logins.c.failed + sa.case((lost, logins.c.running), else_=0),
                "running": sa.case((lost, 1), else_=logins.c.running + 1),
                "tried": now,
            },
            where=logins.c.failed + logins.c.running < most,
        ).returning(logins.c.name)
        with self._engine.begin() as connection:
            return connection.execute(counted).first() is not None

    def end(self, name: str, outcome: Outcome, owner: str | None) -> None:
        """What came of a password that was counted. A right one makes up for all but those whose answer is open.

        owner: whom it let in.
        """
        left = sa.case((logins.c.running > 0, logins.c.running - 1), else_=0)
        failed = {"right": sa.literal(0), "wrong": logins.c.failed + 1, "not tried": logins.c.failed}[outcome]
        with self._engine.begin() as connection:
            values = {"failed": failed, "running": left, **({"owner": owner} if owner else {})}
            connection.execute(logins.update().where(logins.c.name == name).values(values))

    def owner(self, name: str) -> str | None:
        """Whom a password for this name let in last."""
        found: str | None = self._scalar(sa.select(logins.c.owner).where(logins.c.name == name))
        return found
