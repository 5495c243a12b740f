"""Keys of service accounts: their public halves, what they are limited to, and the assertions they signed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from auth_service.store.base import Part, digest
from auth_service.store.credentials import OWNER_COLUMNS, Credential, owner_of
from auth_service.store.tables import assertions, credentials, service_account_keys, service_accounts, tokens

# What may be asked of the database as text: PostgreSQL knows no NUL, and nobody knows half a surrogate.
_PLAIN = re.compile(r"[!-~]{1,255}")
_LAST_USED_STEP = 60.0
# Of a row that is joined with its key and account.
KEY_COLUMNS = (
    service_account_keys.c.id.label("key_id"),
    service_account_keys.c.public_key.label("key_public_key"),
    service_account_keys.c.disabled.label("key_disabled"),
    service_account_keys.c.expires.label("key_expires"),
    service_account_keys.c.projects.label("key_projects"),
    service_account_keys.c.read_only.label("key_read_only"),
    service_account_keys.c.last_used.label("key_last_used"),
    service_accounts.c.id.label("account_id"),
    service_accounts.c.email.label("account_email"),
    service_accounts.c.unique_id.label("account_unique_id"),
    service_accounts.c.disabled.label("account_disabled"),
    service_accounts.c.project_key.label("account_project_key"),
    service_accounts.c.project.label("account_project"),
)


@dataclass(frozen=True)
class ServiceKey:
    """A service account key with what is needed of its account. projects: key -> name, empty is all.

    Also what stands for a key when an account got a token without one; its id is "" then.
    """

    id: str
    account: str  # id of the service account
    email: str
    unique_id: str
    owner: Credential  # whose keys it acts with
    public_key: str
    usable: bool  # neither the key nor the account is disabled, and the key is not over
    projects: dict[str, str]
    read_only: bool
    last_used: float
    expires: float  # 0 is never


class ServiceAccountKeys(Part):
    def add(self, **values: Any) -> bool:
        """False when there is a key of this id."""
        try:
            self._change(service_account_keys.insert().values(**values))
        except IntegrityError:
            return False
        return True

    def of(self, account: str) -> list[sa.RowMapping]:
        """The keys of a service account, oldest first."""
        query = service_account_keys.select().where(service_account_keys.c.service_account_id == account)
        return self._all(query.order_by(service_account_keys.c.created, service_account_keys.c.id))

    def disable(self, key: str, disabled: bool) -> None:
        change = service_account_keys.update().where(service_account_keys.c.id == key).values(disabled=disabled)
        self._change(*((_tokens_of(key), change) if disabled else (change,)))

    def delete(self, key: str) -> None:
        self._change(_tokens_of(key), service_account_keys.delete().where(service_account_keys.c.id == key))

    def find(self, *, key: str = "", email: str = "") -> list[ServiceKey]:
        """By key id, or all keys of the accounts with an e-mail address; none for texts that can be neither."""
        if not _PLAIN.fullmatch(key or email):
            return []
        query = (
            sa.select(*KEY_COLUMNS, *OWNER_COLUMNS)
            .join(service_accounts, service_accounts.c.id == service_account_keys.c.service_account_id)
            .join(credentials, credentials.c.id == service_accounts.c.credential_id)
        )
        query = query.where(service_account_keys.c.id == key) if key else query.where(service_accounts.c.email == email)
        return [key_of(row, owner_of(self._keyring, row)) for row in self._all(query)]

    def note_use(self, key: ServiceKey) -> None:
        """The time of the last use, exact to a minute: not a write for each token."""
        now = time.time()
        if now - key.last_used < _LAST_USED_STEP:
            return
        self._change(service_account_keys.update().where(service_account_keys.c.id == key.id).values(last_used=now))

    def first_use(self, assertion: str, expires: float, again_within: float) -> bool:
        """Whether this text was not used yet, or only within the last `again_within` seconds."""
        now = time.time()
        row = {"hash": digest(assertion), "used": now, "expires": expires}
        insert = self._insert(assertions).values(row).on_conflict_do_nothing().returning(assertions.c.used)
        with self._engine.begin() as connection:
            if connection.execute(insert).scalar() is not None:
                return True
            used = connection.execute(sa.select(assertions.c.used).where(assertions.c.hash == row["hash"])).scalar()
        return used is not None and now - used < again_within


def key_of(row: Any, owner: Credential) -> ServiceKey:
    if row["key_id"] is None:
        return ServiceKey(
            id="",
            account=row["account_id"],
            email=row["account_email"],
            unique_id=row["account_unique_id"],
            owner=owner,
            public_key="",
            usable=not row["account_disabled"],
            projects={row["account_project_key"]: row["account_project"]},
            read_only=False,
            last_used=0.0,
            expires=0.0,
        )
    over = 0 < row["key_expires"] <= time.time()
    return ServiceKey(
        id=row["key_id"],
        account=row["account_id"],
        email=row["account_email"],
        unique_id=row["account_unique_id"],
        owner=owner,
        public_key=row["key_public_key"],
        usable=not (row["key_disabled"] or row["account_disabled"] or over),
        projects=orjson.loads(row["key_projects"]),
        read_only=row["key_read_only"],
        last_used=row["key_last_used"],
        expires=row["key_expires"],
    )


def _tokens_of(key: str) -> sa.Delete:
    return tokens.delete().where(tokens.c.service_account_key == key)
