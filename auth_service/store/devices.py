"""Devices that want to sign in (RFC 8628)."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from auth_service.store.base import Part, digest
from auth_service.store.credentials import Credential
from auth_service.store.tables import devices


class Devices(Part):
    def add(self, device_code: str, user_code: str, **values: Any) -> None:
        row = {
            "hash": digest(device_code),
            "user_code_hash": digest(user_code),
            "polled": 0.0,
            "state": "pending",
            **values,
        }
        self._change(devices.insert().values(row))

    def by_user_code(self, user_code: str) -> sa.RowMapping | None:
        """A device that still waits."""
        query = devices.select().where(
            devices.c.user_code_hash == digest(user_code),
            devices.c.state == "pending",
            devices.c.expires > time.time(),
        )
        return self._first(query)

    def decide(self, device: bytes, credential: Credential, allow: bool) -> bool:
        """device: its hash. False when it does not wait any more."""
        query = devices.update().where(
            devices.c.hash == device, devices.c.state == "pending", devices.c.expires > time.time()
        )
        values = {"state": "authorized" if allow else "denied", "credential_id": credential.id}
        return self._change(query.values(values)) == 1

    def poll(self, device_code: str, slower: int) -> sa.RowMapping | None:
        """The device as it was at its last poll, this poll noted; `interval` grows by `slower` when it came too soon.

        An authorized device is given out once, and is gone.
        """
        now = time.time()
        where = devices.c.hash == digest(device_code)
        with self._engine.begin() as connection:
            row = connection.execute(devices.select().where(where)).mappings().first()
            if row is None:
                return None
            if row["state"] == "authorized" and row["expires"] > now:
                return row if connection.execute(devices.delete().where(where)).rowcount == 1 else None
            soon = now - row["polled"] < row["interval"]
            interval = row["interval"] + (slower if soon else 0)
            connection.execute(devices.update().where(where).values(polled=now, interval=interval))
        return row
