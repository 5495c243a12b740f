"""What the auth service keeps. Tokens, codes and sessions as SHA-256 only, CloudStack keys encrypted and bound to their
row and account; nothing in a copy of this database opens anything.

Every function is one short transaction, so that replicas on one PostgreSQL agree.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from gstack.auth.v1 import identity_pb2
from gstack.kernel.database import open_database
from gstack.kernel.sealing import KeyFileError, Keyring, SealError, key_id_of

MIGRATIONS = "auth_service.migrations"

metadata = sa.MetaData()

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    # An API key is random: its hash cannot be guessed backwards.
    sa.Column("api_key_hash", sa.LargeBinary(32), unique=True, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("keys", sa.LargeBinary, nullable=False),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("account_name", sa.String(255), nullable=False),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("verified", sa.Float, nullable=False),  # when CloudStack last accepted the keys
    sa.Column("key_id", sa.String(8), nullable=False, server_default=""),  # master key of `keys`
    sa.Column("domain_path", sa.String(255), nullable=False, server_default=""),
    sa.Column("refused", sa.Float),  # when CloudStack refused the keys, until it accepts them again
    sa.Index("credentials_by_user", "account_id", "user_id"),
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
    sa.Column("nonce", sa.String(255), nullable=False, server_default=""),
    sa.Column("created", sa.Float, nullable=False, server_default="0"),
    sa.Column("remote_address", sa.String(64), nullable=False, server_default=""),
    sa.Column("service_account_key", sa.String(40)),  # the key whose assertion got it
    sa.Column("parent", sa.LargeBinary(32)),  # hash of the token that was exchanged for it
    sa.Index("tokens_by_family", "family"),
    sa.Index("tokens_by_expiry", "expires"),
    sa.Index("tokens_by_credential", "credential_id", "kind"),
    sa.Index("tokens_by_service_account_key", "service_account_key"),
    sa.Index("tokens_by_parent", "parent"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("credential_id", sa.String(36), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Index("sessions_by_expiry", "expires"),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("user_code_hash", sa.LargeBinary(32), unique=True, nullable=False),
    sa.Column("client_id", sa.String(255), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("interval", sa.Integer, nullable=False),
    sa.Column("polled", sa.Float, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # "pending", "authorized", "denied"
    sa.Column("credential_id", sa.String(36)),
    sa.Index("devices_by_expiry", "expires"),
)

service_accounts = sa.Table(
    "service_accounts",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("unique_id", sa.String(21), unique=True, nullable=False),
    # Seen and used by its owner only (account id/user id): it acts with that user's CloudStack keys.
    sa.Column("owner", sa.String(129), nullable=False),
    sa.Column("credential_id", sa.String(36), nullable=False),
    sa.Column("project_key", sa.String(64), nullable=False),
    sa.Column("project", sa.String(255), nullable=False),
    sa.Column("account_id", sa.String(30), nullable=False),
    # One account's, because its host is one owner's and project's.
    sa.Column("email", sa.String(255), nullable=False),
    sa.Column("display_name", sa.String(255), nullable=False),
    sa.Column("description", sa.String(1024), nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("owner", "project_key", "account_id", name="service_account_names"),
    sa.Index("service_accounts_by_email", "email"),
)

# Two tenants may have projects of one name. Rows stay when the accounts are gone: an address never goes to another.
service_account_hosts = sa.Table(
    "service_account_hosts",
    metadata,
    sa.Column("host", sa.String(255), primary_key=True),
    sa.Column("owner", sa.String(129), nullable=False),
    sa.Column("project_key", sa.String(64), nullable=False),
)

service_account_keys = sa.Table(
    "service_account_keys",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("service_account_id", sa.String(36), nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),  # PEM
    sa.Column("certificate", sa.Text, nullable=False),  # PEM, empty when only the public key is known
    sa.Column("uploaded", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),  # 0 is never
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("last_used", sa.Float, nullable=False),  # 0 is never
    sa.Column("projects", sa.Text, nullable=False),  # JSON: {key: name} of the projects it is limited to
    sa.Column("read_only", sa.Boolean, nullable=False),
    sa.Index("service_account_keys_by_account", "service_account_id"),
)

assertions = sa.Table(
    "assertions",
    metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("used", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Index("assertions_by_expiry", "expires"),
)

limits = sa.Table(
    "limits",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Index("limits_by_expiry", "expires"),
)

# Passwords that were tried for a user since the last right one.
logins = sa.Table(
    "logins",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),  # whose answer is not known yet
    sa.Column("tried", sa.Float, nullable=False),  # the last of them
    sa.Column("owner", sa.String(129)),  # whom the last right one let in
    sa.Index("logins_by_time", "tried"),
)

signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("private_key", sa.LargeBinary, nullable=False),  # sealed PKCS8
    sa.Column("key_id", sa.String(8), nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),  # PEM
    sa.Column("created", sa.Float, nullable=False),
)

Outcome = Literal["right", "wrong", "not tried"]

# What may be asked of the database as text: PostgreSQL knows no NUL, and nobody knows half a surrogate.
_PLAIN = re.compile(r"[!-~]{1,255}")
_EXPIRING = (tokens, sessions, devices, assertions, limits)
_PURGE_BATCH = 5_000
# Of one user; the oldest go. As many as Google keeps refresh tokens of a user.
_MAX_SESSIONS = 50
_MAX_GRANTS = 100
# Wrong passwords are remembered for long, because CloudStack does not forget them either. Beyond the number the oldest
# go: somebody who makes up that many names has tried as many.
_LOGIN_SECONDS = 365 * 24 * 3600.0
_MAX_LOGINS = 1_000_000
# No answer comes after this time any more.
_LOGIN_RUNS_SECONDS = 120.0
_LAST_USED_STEP = 60.0


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


@dataclass(frozen=True)
class ServiceKey:
    """A service account key with what is needed of its account. projects: key -> name, empty is all."""

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


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class AuthStore:
    def __init__(self, url: str, keyring: Keyring, **options: Any):
        """options: of `open_database`."""
        self.engine = open_database(url, MIGRATIONS, keyring=keyring, **options)
        self._keyring = keyring
        self._insert: Any = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert

    # Credentials

    def save_credential(self, api_key: str, secret_key: str, account: identity_pb2.Account) -> Credential:
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
        with self.engine.begin() as connection:
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
        found = self.credential(identity)
        assert found is not None
        return found

    def _sealed(self, identity: str, values: dict[str, Any], keys: bytes) -> dict[str, Any]:
        sealed = self._keyring.seal_record(keys, _credential_purpose(identity, values["account_id"]))
        return {"keys": sealed, "key_id": key_id_of(sealed)}

    def verified_credential(self, api_key: str, secret_key: str, since: float) -> Credential | None:
        """The credential of exactly these keys if CloudStack accepted them after `since`."""
        query = credentials.select().where(
            credentials.c.api_key_hash == digest(api_key),
            credentials.c.secret_hash == digest(secret_key),
            credentials.c.verified >= since,
            credentials.c.refused.is_(None),
        )
        return self._credential(query)

    def credential(self, identity: str) -> Credential | None:
        return self._credential(credentials.select().where(credentials.c.id == identity))

    def _credential(self, query: sa.Select[Any]) -> Credential | None:
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return self._open(row) if row else None

    def _open(self, row: Any) -> Credential:
        """Raises SealError for a row that was changed or moved."""
        keys = orjson.loads(self._keyring.open_record(row["keys"], _credential_purpose(row["id"], row["account_id"])))
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

    def _owner(self, row: Any) -> Credential:
        """Of a row with _OWNER_COLUMNS."""
        return self._open({column.name: row[f"credential_{column.name}"] for column in credentials.c})

    def mark_verified(self, identity: str, accepted: bool) -> None:
        """What CloudStack says of the keys now."""
        now = time.time()
        values = {"verified": now, "refused": None} if accepted else {"verified": 0.0, "refused": now}
        with self.engine.begin() as connection:
            connection.execute(credentials.update().where(credentials.c.id == identity).values(values))

    def adopt(self, credential: Credential) -> None:
        """After a sign-in: service accounts of this user whose keys are refused or lost act with these from now on."""
        good = _keys_of(credential).where(credentials.c.refused.is_(None))
        with self.engine.begin() as connection:
            connection.execute(
                service_accounts.update()
                .where(service_accounts.c.owner == credential.owner, service_accounts.c.credential_id.not_in(good))
                .values(credential_id=credential.id)
            )

    # Tokens

    def add_tokens(self, rows: Iterable[dict[str, Any]]) -> None:
        """rows: the columns of `tokens`, with the token itself as `token` instead of `hash`."""
        now = time.time()
        values = [{**_TOKEN, "created": now, **row, "hash": digest(row["token"])} for row in rows]
        for row in values:
            del row["token"]
        with self.engine.begin() as connection:
            connection.execute(tokens.insert(), values)

    def token(self, token: str, kind: str) -> sa.RowMapping | None:
        """A token that is not expired; codes and refresh tokens also when used, so that their reuse can be told."""
        query = tokens.select().where(
            tokens.c.hash == digest(token), tokens.c.kind == kind, tokens.c.expires > time.time()
        )
        with self.engine.connect() as connection:
            return connection.execute(query).mappings().first()

    def bearer(self, token: str) -> tuple[sa.RowMapping, Credential, ServiceKey | None] | None:
        """An access token with its owner and, if one got it, its service account key: one query."""
        query = (
            sa.select(
                tokens.c.scopes,
                tokens.c.expires,
                tokens.c.client_id,
                tokens.c.created,
                tokens.c.hash,
                tokens.c.family,
            )
            .add_columns(*_OWNER_COLUMNS)
            .add_columns(*_KEY_COLUMNS)
            .join(credentials, credentials.c.id == tokens.c.credential_id)
            .outerjoin(service_account_keys, service_account_keys.c.id == tokens.c.service_account_key)
            .outerjoin(service_accounts, service_accounts.c.id == service_account_keys.c.service_account_id)
            .where(
                tokens.c.hash == digest(token),
                tokens.c.kind == "access",
                tokens.c.expires > time.time(),
                # A token whose key is gone has lost its limits with it.
                sa.or_(tokens.c.service_account_key.is_(None), service_accounts.c.id.is_not(None)),
            )
        )
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        owner = self._owner(row)
        return row, owner, _service_key(row, owner) if row["key_id"] else None

    def use_token(self, token: str, again_within: float = 0.0) -> bool:
        """Mark a code or a refresh token as used; False when it was used before, by whichever replica.

        again_within: seconds after its first use in which another one is no theft but a retry.
        """
        now = time.time()
        fresh = tokens.update().where(tokens.c.hash == digest(token), tokens.c.used.is_(None)).values(used=now)
        with self.engine.begin() as connection:
            if connection.execute(fresh).rowcount == 1:
                return True
            used = connection.execute(sa.select(tokens.c.used).where(tokens.c.hash == digest(token))).scalar()
        return used is not None and now - used < again_within

    def prolong(self, token: str, expires: float) -> None:
        """A refresh token that is not rotated lives on while it is used."""
        with self.engine.begin() as connection:
            connection.execute(
                tokens.update().where(tokens.c.hash == digest(token)).values(expires=expires, used=time.time())
            )

    def revoke(self, token: str) -> str | None:
        """Forget the token and all that came from the same login. Returns the id of that family.

        Of an exchanged token only itself and what it was exchanged for: who was given less cannot end the login.
        """
        query = sa.select(tokens.c.family, tokens.c.parent).where(tokens.c.hash == digest(token))
        with self.engine.begin() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            if row.parent is None:
                ended: Any = tokens.c.family == row.family
            else:
                tree = sa.select(tokens.c.hash).where(tokens.c.hash == digest(token)).cte("tree", recursive=True)
                tree = tree.union(sa.select(tokens.c.hash).join(tree, tokens.c.parent == tree.c.hash))
                ended = tokens.c.hash.in_(sa.select(tree.c.hash))
            connection.execute(tokens.delete().where(ended))
        return str(row.family)

    def revoke_family(self, family: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(tokens.delete().where(tokens.c.family == family))

    def grants(self, owner: Credential) -> list[sa.RowMapping]:
        """Logins of programs that can still go on: family, client_id, scopes, created, last_used, remote_address."""
        query = (
            sa.select(
                tokens.c.family,
                tokens.c.client_id,
                sa.func.max(tokens.c.scopes).label("scopes"),
                sa.func.min(tokens.c.created).label("created"),
                sa.func.max(sa.func.coalesce(tokens.c.used, tokens.c.created)).label("last_used"),
                sa.func.min(tokens.c.remote_address).label("remote_address"),
            )
            .where(
                tokens.c.credential_id.in_(_keys_of(owner)), tokens.c.kind == "refresh", tokens.c.expires > time.time()
            )
            .group_by(tokens.c.family, tokens.c.client_id)
            .order_by(sa.desc("last_used"))
        )
        with self.engine.connect() as connection:
            return list(connection.execute(query).mappings())

    def end_old_grants(self, owner: Credential) -> None:
        """So many logins of programs live on; those that were not used for longest end."""
        for grant in self.grants(owner)[_MAX_GRANTS:]:
            self.revoke_family(grant["family"])

    def owns_family(self, owner: Credential, family: str) -> bool:
        return any(grant["family"] == family for grant in self.grants(owner))

    # Browser sessions

    def add_session(self, session: str, credential: Credential, seconds: float) -> None:
        with self.engine.begin() as connection:
            row = {"hash": digest(session), "credential_id": credential.id, "expires": time.time() + seconds}
            connection.execute(sessions.insert().values(row))
            own = sa.select(sessions.c.hash).where(sessions.c.credential_id.in_(_keys_of(credential)))
            old = own.order_by(sessions.c.expires.desc()).offset(_MAX_SESSIONS)
            connection.execute(sessions.delete().where(sessions.c.hash.in_(old)))

    def session(self, session: str) -> Credential | None:
        query = (
            sa.select(*credentials.c)
            .join(sessions, sessions.c.credential_id == credentials.c.id)
            .where(sessions.c.hash == digest(session), sessions.c.expires > time.time())
        )
        return self._credential(query)

    def end_session(self, session: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sessions.delete().where(sessions.c.hash == digest(session)))

    def end_sessions(self, owner: Credential) -> None:
        with self.engine.begin() as connection:
            connection.execute(sessions.delete().where(sessions.c.credential_id.in_(_keys_of(owner))))

    # Devices (RFC 8628)

    def add_device(self, device_code: str, user_code: str, **values: Any) -> None:
        row = {
            "hash": digest(device_code),
            "user_code_hash": digest(user_code),
            "polled": 0.0,
            "state": "pending",
            **values,
        }
        with self.engine.begin() as connection:
            connection.execute(devices.insert().values(row))

    def device_by_user_code(self, user_code: str) -> sa.RowMapping | None:
        """A device that still waits."""
        query = devices.select().where(
            devices.c.user_code_hash == digest(user_code),
            devices.c.state == "pending",
            devices.c.expires > time.time(),
        )
        with self.engine.connect() as connection:
            return connection.execute(query).mappings().first()

    def decide_device(self, device: bytes, credential: Credential, allow: bool) -> bool:
        """device: its hash. False when it does not wait any more."""
        query = devices.update().where(
            devices.c.hash == device, devices.c.state == "pending", devices.c.expires > time.time()
        )
        values = {"state": "authorized" if allow else "denied", "credential_id": credential.id}
        with self.engine.begin() as connection:
            return connection.execute(query.values(values)).rowcount == 1

    def poll_device(self, device_code: str, slower: int) -> sa.RowMapping | None:
        """The device as it was at its last poll, this poll noted; `interval` grows by `slower` when it came too soon.

        An authorized device is given out once, and is gone.
        """
        now = time.time()
        where = devices.c.hash == digest(device_code)
        with self.engine.begin() as connection:
            row = connection.execute(devices.select().where(where)).mappings().first()
            if row is None:
                return None
            if row["state"] == "authorized" and row["expires"] > now:
                return row if connection.execute(devices.delete().where(where)).rowcount == 1 else None
            soon = now - row["polled"] < row["interval"]
            interval = row["interval"] + (slower if soon else 0)
            connection.execute(devices.update().where(where).values(polled=now, interval=interval))
        return row

    # Service accounts

    def add_service_account(self, **values: Any) -> bool:
        """False when the owner has one of this name in the project."""
        try:
            with self.engine.begin() as connection:
                connection.execute(service_accounts.insert().values(**values))
        except IntegrityError:
            return False
        return True

    def service_accounts(self, owner: str, project_key: str | None = None) -> list[sa.RowMapping]:
        """The owner's, by e-mail address; of one project or of all."""
        query = service_accounts.select().where(service_accounts.c.owner == owner)
        if project_key is not None:
            query = query.where(service_accounts.c.project_key == project_key)
        with self.engine.connect() as connection:
            return list(connection.execute(query.order_by(service_accounts.c.email)).mappings())

    def service_account_host(self, owner: str, project_key: str, name: str) -> str:
        """What stands before `.iam.gserviceaccount.com` in addresses of this owner's accounts in this project.

        It is the project's name (at most 100 characters), with a suffix if that is another's.
        """
        suffix = digest(f"{owner} {project_key}").hex()
        row = {"owner": owner, "project_key": project_key}
        for host in (name, f"{name}-{suffix[:8]}", f"{name}-{suffix}"):
            insert = self._insert(service_account_hosts).values(host=host, **row).on_conflict_do_nothing()
            query = service_account_hosts.select().where(service_account_hosts.c.host == host)
            with self.engine.begin() as connection:
                connection.execute(insert)
                found = connection.execute(query).mappings().one()
            if (found["owner"], found["project_key"]) == (owner, project_key):
                break
        return host

    def change_service_account(self, identity: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(service_accounts.update().where(service_accounts.c.id == identity).values(**values))
            if values.get("disabled"):
                keys = sa.select(service_account_keys.c.id).where(service_account_keys.c.service_account_id == identity)
                connection.execute(tokens.delete().where(tokens.c.service_account_key.in_(keys)))

    def delete_service_account(self, identity: str) -> None:
        keys = sa.select(service_account_keys.c.id).where(service_account_keys.c.service_account_id == identity)
        with self.engine.begin() as connection:
            connection.execute(tokens.delete().where(tokens.c.service_account_key.in_(keys)))
            connection.execute(
                service_account_keys.delete().where(service_account_keys.c.service_account_id == identity)
            )
            connection.execute(service_accounts.delete().where(service_accounts.c.id == identity))

    def add_key(self, **values: Any) -> bool:
        """False when there is a key of this id."""
        try:
            with self.engine.begin() as connection:
                connection.execute(service_account_keys.insert().values(**values))
        except IntegrityError:
            return False
        return True

    def keys(self, account: str) -> list[sa.RowMapping]:
        """The keys of a service account, oldest first."""
        query = service_account_keys.select().where(service_account_keys.c.service_account_id == account)
        with self.engine.connect() as connection:
            ordered = query.order_by(service_account_keys.c.created, service_account_keys.c.id)
            return list(connection.execute(ordered).mappings())

    def disable_key(self, key: str, disabled: bool) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                service_account_keys.update().where(service_account_keys.c.id == key).values(disabled=disabled)
            )
            if disabled:
                connection.execute(tokens.delete().where(tokens.c.service_account_key == key))

    def delete_key(self, key: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(tokens.delete().where(tokens.c.service_account_key == key))
            connection.execute(service_account_keys.delete().where(service_account_keys.c.id == key))

    def service_keys(self, *, key: str = "", email: str = "") -> list[ServiceKey]:
        """By key id, or all keys of the accounts with an e-mail address; none for texts that can be neither."""
        if not _PLAIN.fullmatch(key or email):
            return []
        query = (
            sa.select(*_KEY_COLUMNS, *_OWNER_COLUMNS)
            .join(service_accounts, service_accounts.c.id == service_account_keys.c.service_account_id)
            .join(credentials, credentials.c.id == service_accounts.c.credential_id)
        )
        query = query.where(service_account_keys.c.id == key) if key else query.where(service_accounts.c.email == email)
        with self.engine.connect() as connection:
            return [_service_key(row, self._owner(row)) for row in connection.execute(query).mappings()]

    def note_use(self, key: ServiceKey) -> None:
        """The time of the last use, exact to a minute: not a write for each token."""
        now = time.time()
        if now - key.last_used < _LAST_USED_STEP:
            return
        with self.engine.begin() as connection:
            connection.execute(
                service_account_keys.update().where(service_account_keys.c.id == key.id).values(last_used=now)
            )

    def first_use(self, assertion: str, expires: float, again_within: float) -> bool:
        """Whether this text was not used yet, or only within the last `again_within` seconds."""
        now = time.time()
        row = {"hash": digest(assertion), "used": now, "expires": expires}
        insert = self._insert(assertions).values(row).on_conflict_do_nothing().returning(assertions.c.used)
        with self.engine.begin() as connection:
            if connection.execute(insert).scalar() is not None:
                return True
            used = connection.execute(sa.select(assertions.c.used).where(assertions.c.hash == row["hash"])).scalar()
        return used is not None and now - used < again_within

    # Limits

    def count(self, name: str, expires: float, add: int) -> int:
        """Add to a counter that ends at `expires` and return what it is then."""
        insert = self._insert(limits).values(name=name, count=add, expires=expires)
        counted = insert.on_conflict_do_update(
            index_elements=[limits.c.name], set_={"count": limits.c.count + add}
        ).returning(limits.c.count)
        with self.engine.begin() as connection:
            return int(connection.execute(counted).scalar_one())

    def counted(self, name: str) -> int:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(limits.c.count).where(limits.c.name == name)).scalar() or 0

    # Passwords

    def begin_login(self, name: str, most: int) -> bool:
        """Count one more password that is going to be tried; False if there were `most` since the last right one.

        Counted before it is tried, so that many at a time, at all replicas, are no more than that.
        """
        now = time.time()
        # Whoever tried those did not live to tell what came of it.
        lost = logins.c.tried < now - _LOGIN_RUNS_SECONDS
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
        with self.engine.begin() as connection:
            return connection.execute(counted).first() is not None

    def end_login(self, name: str, outcome: Outcome, owner: str | None) -> None:
        """What came of a password that was counted. A right one makes up for all but those whose answer is open.

        owner: whom it let in.
        """
        left = sa.case((logins.c.running > 0, logins.c.running - 1), else_=0)
        failed = {"right": sa.literal(0), "wrong": logins.c.failed + 1, "not tried": logins.c.failed}[outcome]
        with self.engine.begin() as connection:
            values = {"failed": failed, "running": left, **({"owner": owner} if owner else {})}
            connection.execute(logins.update().where(logins.c.name == name).values(values))

    def login_owner(self, name: str) -> str | None:
        """Whom a password for this name let in last."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(logins.c.owner).where(logins.c.name == name)).scalar()

    # Keys of ID tokens

    def signing_keys(self, since: float) -> list[sa.RowMapping]:
        """Made after `since`, newest first."""
        query = signing_keys.select().where(signing_keys.c.created > since).order_by(signing_keys.c.created.desc())
        with self.engine.connect() as connection:
            return list(connection.execute(query).mappings())

    def add_signing_key(self, private_key: bytes, public_key: str) -> None:
        """private_key: PKCS8 in PEM."""
        identity = str(uuid.uuid4())
        sealed = self._keyring.seal_record(private_key, _signing_purpose(identity))
        row = {
            "id": identity,
            "private_key": sealed,
            "key_id": key_id_of(sealed),
            "public_key": public_key,
            "created": time.time(),
        }
        with self.engine.begin() as connection:
            connection.execute(signing_keys.insert().values(row))

    def open_signing_key(self, row: sa.RowMapping) -> bytes:
        return self._keyring.open_record(row["private_key"], _signing_purpose(row["id"]))

    # The keyring's work on what is stored

    def key_use(self) -> dict[str, int]:
        """Id of a master key -> records that need it."""
        found: dict[str, int] = {}
        with self.engine.connect() as connection:
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
            with self.engine.begin() as connection:
                for row in connection.execute(query).mappings().all():
                    purpose = (
                        _credential_purpose(row["id"], row["account_id"])
                        if table is credentials
                        else _signing_purpose(row["id"])
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

    def check_keys(self, file: Path) -> None:
        """Raises KeyFileError when records were sealed with keys that the ring does not have."""
        known = dict(self._keyring.keys())
        lost = {key_id: count for key_id, count in self.key_use().items() if key_id not in known}
        if lost:
            raise KeyFileError(
                f"{sum(lost.values())} stored records need the master key {', '.join(sorted(lost))}, which is not in "
                f"{file}: put the right file there, or, if that key is lost for good, let their users sign in again "
                "after `gstack keys forget`"
            )

    def forget(self, key_ids: Collection[str]) -> int:
        """Delete the records under these keys, with the tokens and sessions of their users; returns how many."""
        lost = sa.select(credentials.c.id).where(credentials.c.key_id.in_(key_ids))
        with self.engine.begin() as connection:
            for table in (tokens, sessions):
                connection.execute(table.delete().where(table.c.credential_id.in_(lost)))
            return sum(
                connection.execute(table.delete().where(table.c.key_id.in_(key_ids))).rowcount
                for table in (credentials, signing_keys)
            )

    def purge(self) -> None:
        """Forget what is over."""
        now = time.time()
        for table in _EXPIRING:
            self._purge(table, table.c.expires < now)
        self._purge(logins, logins.c.tried < now - _LOGIN_SECONDS)
        newest = sa.select(logins.c.tried).order_by(logins.c.tried.desc()).offset(_MAX_LOGINS).limit(1)
        self._purge(logins, logins.c.tried < newest.scalar_subquery())

    def _purge(self, table: sa.Table, over: Any) -> None:
        """A part at a time: nobody waits for a million rows."""
        key = next(iter(table.primary_key))
        while True:
            with self.engine.begin() as connection:
                rows = sa.select(key).where(over).limit(_PURGE_BATCH).scalar_subquery()
                if connection.execute(table.delete().where(key.in_(rows))).rowcount < _PURGE_BATCH:
                    return


# Defaults of a row of `tokens`, so that rows of all kinds go into one statement.
_TOKEN: dict[str, Any] = {
    "redirect_uri": "",
    "challenge": "",
    "used": None,
    "nonce": "",
    "remote_address": "",
    "service_account_key": None,
    "parent": None,
}

_OWNER_COLUMNS = tuple(column.label(f"credential_{column.name}") for column in credentials.c)
_KEY_COLUMNS = (
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
)


def _keys_of(owner: Credential) -> sa.Select[tuple[str]]:
    """The ids of all pairs of keys of one user."""
    return sa.select(credentials.c.id).where(
        credentials.c.account_id == owner.account_id, credentials.c.user_id == owner.user_id
    )


def _service_key(row: Any, owner: Credential) -> ServiceKey:
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


def _credential_purpose(identity: str, account_id: str) -> str:
    return f"credentials/{identity}/{account_id}"


def _signing_purpose(identity: str) -> str:
    return f"signing_keys/{identity}"
