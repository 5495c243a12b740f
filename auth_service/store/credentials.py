"""CloudStack users and the keys they signed in with."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from auth_service.store.base import Part, digest
from auth_service.store.tables import credentials, service_accounts
from gstack.auth.v1 import identity_pb2
from gstack.kernel.sealing import Keyring, key_id_of

# Of a row of another table that is joined with its owner.
OWNER_COLUMNS = tuple(column.label(f"credential_{column.name}") for column in credentials.c)


@dataclass(frozen=True)
class Credential:
    """A CloudStack user and the keys it signed in with."""

    id: str
    account_id: str
    account_name: str
    user_id: str
    subject: str
    domain_path: str
    verified: float
    refused: float
    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @property
    def owner(self) -> str:
        """Stable key of the user, whatever its keys are."""
        return f"{self.account_id}/{self.user_id}"


class Credentials(Part):
    def save(self, api_key: str, secret_key: str, account: identity_pb2.Account) -> Credential:
        """Insert or refresh the row of this API key, which CloudStack has just accepted."""
        keys = orjson.dumps({"api_key": api_key, "secret_key": secret_key})
        values = {
            "secret_hash": digest(secret_key),
            "account_id": account.account_id,
            "account_name": account.account_name,
            "user_id": account.user_id,
            "subject": account.email or account.user_name,
            "domain_path": account.domain_path,
            "verified": time.time(),
            "refused": None,
        }
        with self._engine.begin() as connection:
            query = sa.select(credentials.c.id).where(credentials.c.api_key_hash == digest(api_key))
            identity = connection.execute(query).scalar()
            if identity is None:
                identity = str(uuid.uuid4())
                row = {
                    "id": identity,
                    "api_key_hash": digest(api_key),
                    **values,
                    **self._sealed(identity, values, keys),
                }
                try:
                    with connection.begin_nested():
                        connection.execute(credentials.insert().values(row))
                except IntegrityError:  # another replica was first
                    identity = connection.execute(query).scalar_one()
            else:
                changed = {**values, **self._sealed(identity, values, keys)}
                connection.execute(credentials.update().where(credentials.c.id == identity).values(changed))
        found = self.find(identity)
        assert found is not None
        return found

    def _sealed(self, identity: str, values: dict[str, Any], keys: bytes) -> dict[str, Any]:
        sealed = self._keyring.seal_record(keys, purpose_of(identity, values["account_id"]))
        return {"keys": sealed, "key_id": key_id_of(sealed)}

    def verified(self, api_key: str, secret_key: str, since: float) -> Credential | None:
        """The credential of exactly these keys if CloudStack accepted them after `since`."""
        query = credentials.select().where(
            credentials.c.api_key_hash == digest(api_key),
            credentials.c.secret_hash == digest(secret_key),
            credentials.c.verified >= since,
            credentials.c.refused.is_(None),
        )
        return self._one(query)

    def find(self, identity: str) -> Credential | None:
        return self._one(credentials.select().where(credentials.c.id == identity))

    def _one(self, query: sa.Select[Any]) -> Credential | None:
        row = self._first(query)
        return opened(self._keyring, row) if row else None

    def mark_verified(self, identity: str, accepted: bool) -> None:
        """What CloudStack says of the keys now."""
        now = time.time()
        values = {"verified": now, "refused": None} if accepted else {"verified": 0.0, "refused": now}
        self._change(credentials.update().where(credentials.c.id == identity).values(values))

    def adopt(self, credential: Credential) -> None:
        """After a sign-in: service accounts of this user whose keys are refused or lost act with these from now on."""
        good = ids_of(credential).where(credentials.c.refused.is_(None))
        self._change(
            service_accounts.update()
            .where(service_accounts.c.owner == credential.owner, service_accounts.c.credential_id.not_in(good))
            .values(credential_id=credential.id)
        )


def opened(keyring: Keyring, row: Any) -> Credential:
    """Raises SealError for a row that was changed or moved."""
    keys = orjson.loads(keyring.open_record(row["keys"], purpose_of(row["id"], row["account_id"])))
    return Credential(
        row["id"],
        row["account_id"],
        row["account_name"],
        row["user_id"],
        row["subject"],
        row["domain_path"],
        row["verified"],
        row["refused"] or 0.0,
        keys["api_key"],
        keys["secret_key"],
    )


def owner_of(keyring: Keyring, row: Any) -> Credential:
    """Of a row with OWNER_COLUMNS."""
    return opened(keyring, {column.name: row[f"credential_{column.name}"] for column in credentials.c})


def ids_of(owner: Credential) -> sa.Select[tuple[str]]:
    """The ids of all pairs of keys of one user."""
    return sa.select(credentials.c.id).where(
        credentials.c.account_id == owner.account_id, credentials.c.user_id == owner.user_id
    )


def purpose_of(identity: str, account_id: str) -> str:
    return f"credentials/{identity}/{account_id}"
