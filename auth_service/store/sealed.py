"""The keyring's work on what is stored."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa

from auth_service.store.base import Part
from auth_service.store.credentials import purpose_of as credential_purpose
from auth_service.store.signing_keys import purpose_of as signing_purpose
from auth_service.store.tables import credentials, sessions, signing_keys, tokens
from gstack.kernel.sealing import KeyFileError, SealError, key_id_of


class Sealed(Part):
    def use(self) -> dict[str, int]:
        """Id of a master key -> records that need it."""
        found: dict[str, int] = {}
        with self._engine.connect() as connection:
            for table in (credentials, signing_keys):
                query = sa.select(table.c.key_id, sa.func.count()).group_by(table.c.key_id)
                for key_id, number in connection.execute(query):
                    found[key_id] = found.get(key_id, 0) + number
        return found

    def rewrap(self, batch: int = 100) -> int:
        """Wrap the data keys of up to `batch` records with the primary key; returns how many, 0 when all are.

        A record that a running service changes at the same time is left to the next call.
        """
        done = 0
        for table, column in ((credentials, credentials.c["keys"]), (signing_keys, signing_keys.c.private_key)):
            query = table.select().where(table.c.key_id != self._keyring.primary_id).limit(batch - done)
            with self._engine.begin() as connection:
                for row in connection.execute(query).mappings().all():
                    purpose = (
                        credential_purpose(row["id"], row["account_id"])
                        if table is credentials
                        else signing_purpose(row["id"])
                    )
                    try:
                        sealed = self._keyring.rewrap(row[column.name], purpose)
                    except SealError:
                        # It stays in key_use, keeps its key from being retired, and that is how the operator knows.
                        continue
                    unchanged = (table.c.id == row["id"]) & (column == row[column.name])
                    values = {column.name: sealed, "key_id": key_id_of(sealed)}
                    done += connection.execute(table.update().where(unchanged).values(values)).rowcount
        return done

    def check(self, file: Path) -> None:
        """Raises KeyFileError when records were sealed with keys that the ring does not have."""
        known = dict(self._keyring.keys())
        lost = {key_id: count for key_id, count in self.use().items() if key_id not in known}
        if lost:
            raise KeyFileError(
                f"{sum(lost.values())} stored records need the master key {', '.join(sorted(lost))}, which is not in "
                f"{file}: put the right file there, or, if that key is lost for good, let their users sign in again "
                "after `gstack keys forget`"
            )

    def forget(self, key_ids: Collection[str]) -> int:
        """Delete the records under these keys, with the tokens and sessions of their users; returns how many."""
        lost = sa.select(credentials.c.id).where(credentials.c.key_id.in_(key_ids))
        with self._engine.begin() as connection:
            for table in (tokens, sessions):
                connection.execute(table.delete().where(table.c.credential_id.in_(lost)))
            return sum(
                connection.execute(table.delete().where(table.c.key_id.in_(key_ids))).rowcount
                for table in (credentials, signing_keys)
            )
