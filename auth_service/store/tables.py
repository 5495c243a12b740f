"""The schema, as the last of the migrations leaves it."""

from __future__ import annotations

import sqlalchemy as sa

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
    sa.Column("service_account", sa.String(36)),  # whose it is, when no key got it
    sa.Index("tokens_by_family", "family"),
    sa.Index("tokens_by_expiry", "expires"),
    sa.Index("tokens_by_credential", "credential_id", "kind"),
    sa.Index("tokens_by_service_account_key", "service_account_key"),
    sa.Index("tokens_by_parent", "parent"),
    sa.Index("tokens_by_service_account", "service_account"),
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
