"""Credentials, codes and tokens. Tokens are kept as SHA-256 only, CloudStack keys encrypted and bound to their row."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gstack.kernel.database import open_database
from gstack.kernel.sealing import Sealer

metadata = sa.MetaData()

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    # HMAC-free lookup of an API key that is random anyway.
    sa.Column("api_key_hash", sa.LargeBinary(32), unique=True, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("keys", sa.LargeBinary, nullable=False),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("account_name", sa.String(255), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("verified", sa.Float, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),  # "code", "access", "refresh"
    sa.Column("family", sa.String(36), nullable=False),  # all tokens that came from one login
    sa.Column("credential_id", sa.String(36), nullable=False),
    sa.Column("client_id", sa.String(255), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("redirect_uri", sa.Text, nullable=False, default=""),
    sa.Column("challenge", sa.String(128), nullable=False, default=""),
    sa.Column("used", sa.Float),
    sa.Index("tokens_by_family", "family"),
    sa.Index("tokens_by_expiry", "expires"),
)


@dataclass(frozen=True)
class Credential:
    """A CloudStack user and the keys it signed in with."""

    id: str
    account_id: str
    account_name: str
    user_id: str
    subject: str
    api_key: str
    secret_key: str


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class AuthStore:
    def __init__(self, url: str, sealer: Sealer):
        self.engine = open_database(url, metadata)
        self._sealer = sealer

    # Credentials

    def save_credential(self, api_key: str, secret_key: str, account: Any) -> Credential:
        """Insert or refresh the row of this API key. account: gstack.auth.v1.Account."""
        values = {
            "secret_hash": _hash(secret_key),
            "account_id": account.account_id,
            "account_name": account.account_name,
            "user_id": account.user_id,
            "subject": account.email or account.user_name,
            "verified": time.time(),
        }
        keys = orjson.dumps({"api_key": api_key, "secret_key": secret_key})
        with self.engine.begin() as connection:
            query = sa.select(credentials.c.id).where(credentials.c.api_key_hash == _hash(api_key))
            identity = connection.execute(query).scalar()
            if identity is None:
                identity = str(uuid.uuid4())
                sealed = self._sealer.seal(keys, f"credentials/{identity}")
                try:
                    with connection.begin_nested():
                        row = {"id": identity, "api_key_hash": _hash(api_key), "keys": sealed, **values}
                        connection.execute(credentials.insert().values(row))
                except IntegrityError:  # another replica was first
                    identity = connection.execute(query).scalar_one()
            else:
                sealed = self._sealer.seal(keys, f"credentials/{identity}")
                connection.execute(
                    credentials.update().where(credentials.c.id == identity).values(keys=sealed, **values)
                )
        found = self.credential(identity)
        assert found is not None
        return found

    def verified_credential(self, api_key: str, secret_key: str, since: float) -> Credential | None:
        """The credential of exactly these keys if CloudStack accepted them after `since`."""
        query = sa.select(credentials.c.id).where(
            credentials.c.api_key_hash == _hash(api_key),
            credentials.c.secret_hash == _hash(secret_key),
            credentials.c.verified >= since,
        )
        with self.engine.connect() as connection:
            identity = connection.execute(query).scalar()
        return self.credential(identity) if identity else None

    def credential(self, identity: str) -> Credential | None:
        with self.engine.connect() as connection:
            row = connection.execute(credentials.select().where(credentials.c.id == identity)).mappings().first()
        if row is None:
            return None
        keys = orjson.loads(self._sealer.open(row["keys"], f"credentials/{identity}"))
        return Credential(identity, row["account_id"], row["account_name"], row["user_id"], row["subject"], **keys)

    # Tokens

    def add_token(self, token: str, **values: Any) -> None:
        """values: the columns of `tokens` but `hash`."""
        with self.engine.begin() as connection:
            connection.execute(tokens.insert().values(hash=_hash(token), **values))

    def token(self, token: str, kind: str) -> sa.RowMapping | None:
        """A token that is not expired; codes also when used, so that their reuse can be told."""
        query = tokens.select().where(
            tokens.c.hash == _hash(token), tokens.c.kind == kind, tokens.c.expires > time.time()
        )
        with self.engine.connect() as connection:
            return connection.execute(query).mappings().first()

    def use_code(self, code: str) -> bool:
        """Mark a code as used; False when it was used before, by whichever replica."""
        query = tokens.update().where(tokens.c.hash == _hash(code), tokens.c.used.is_(None)).values(used=time.time())
        with self.engine.begin() as connection:
            return connection.execute(query).rowcount == 1

    def revoke(self, token: str) -> None:
        """Forget the token and all that came from the same login."""
        with self.engine.begin() as connection:
            family = connection.execute(sa.select(tokens.c.family).where(tokens.c.hash == _hash(token))).scalar()
            if family:
                connection.execute(tokens.delete().where(tokens.c.family == family))

    def revoke_family(self, family: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(tokens.delete().where(tokens.c.family == family))

    def purge(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(tokens.delete().where(tokens.c.expires < time.time()))
