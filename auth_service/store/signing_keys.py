"""Keys that sign ID tokens; the private halves are sealed."""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sa

from auth_service.store.base import Part
from auth_service.store.tables import signing_keys
from gstack.kernel.sealing import key_id_of


class SigningKeys(Part):
    def since(self, time_: float) -> list[sa.RowMapping]:
        """Made after that time, newest first."""
        return self._all(
            signing_keys.select().where(signing_keys.c.created > time_).order_by(signing_keys.c.created.desc())
        )

    def add(self, private_key: bytes, public_key: str) -> None:
        """private_key: PKCS8 in PEM."""
        identity = str(uuid.uuid4())
        sealed = self._keyring.seal_record(private_key, purpose_of(identity))
        row = {
            "id": identity,
            "private_key": sealed,
            "key_id": key_id_of(sealed),
            "public_key": public_key,
            "created": time.time(),
        }
        self._change(signing_keys.insert().values(row))

    def open(self, row: sa.RowMapping) -> bytes:
        return self._keyring.open_record(row["private_key"], purpose_of(row["id"]))


def purpose_of(identity: str) -> str:
    return f"signing_keys/{identity}"
