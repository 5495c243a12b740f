"""Service accounts, devices, browser sessions, limits, ID tokens; envelope encryption of credentials.

Credentials are sealed anew, which replicas of the foundation cannot read: stop them first.
"""

import sqlalchemy as sa
from alembic import context, op

from auth_service.migrations.reseal import reseal_credentials

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("credentials", sa.Column("key_id", sa.String(8), nullable=False, server_default=""))
    op.add_column("credentials", sa.Column("domain_path", sa.String(255), nullable=False, server_default=""))
    op.add_column("credentials", sa.Column("refused", sa.Float))
    op.create_index("credentials_by_user", "credentials", ["account_id", "user_id"])

    op.add_column("tokens", sa.Column("nonce", sa.String(255), nullable=False, server_default=""))
    op.add_column("tokens", sa.Column("created", sa.Float, nullable=False, server_default="0"))
    op.add_column("tokens", sa.Column("remote_address", sa.String(64), nullable=False, server_default=""))
    op.add_column("tokens", sa.Column("service_account_key", sa.String(40)))
    op.create_index("tokens_by_credential", "tokens", ["credential_id", "kind"])
    op.create_index("tokens_by_service_account_key", "tokens", ["service_account_key"])

    op.create_table(
        "sessions",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("credential_id", sa.String(36), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Index("sessions_by_expiry", "expires"),
    )
    op.create_table(
        "devices",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("user_code_hash", sa.LargeBinary(32), unique=True, nullable=False),
        sa.Column("client_id", sa.String(255), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("interval", sa.Integer, nullable=False),
        sa.Column("polled", sa.Float, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("credential_id", sa.String(36)),
        sa.Index("devices_by_expiry", "expires"),
    )
    op.create_table(
        "service_accounts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("unique_id", sa.String(21), unique=True, nullable=False),
        sa.Column("owner", sa.String(129), nullable=False),
        sa.Column("credential_id", sa.String(36), nullable=False),
        sa.Column("project_key", sa.String(64), nullable=False),
        sa.Column("project", sa.String(255), nullable=False),
        sa.Column("account_id", sa.String(30), nullable=False),
        sa.Column("email", sa.String(255), nullable=False),
        sa.Column("display_name", sa.String(255), nullable=False),
        sa.Column("description", sa.String(1024), nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("owner", "project_key", "account_id", name="service_account_names"),
        sa.Index("service_accounts_by_email", "email"),
    )
    op.create_table(
        "service_account_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("service_account_id", sa.String(36), nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("uploaded", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("last_used", sa.Float, nullable=False),
        sa.Column("projects", sa.Text, nullable=False),
        sa.Column("read_only", sa.Boolean, nullable=False),
        sa.Index("service_account_keys_by_account", "service_account_id"),
    )
    op.create_table(
        "assertions",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("used", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Index("assertions_by_expiry", "expires"),
    )
    op.create_table(
        "limits",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Index("limits_by_expiry", "expires"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.String(8), nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )

    # What the foundation sealed with the master key itself gets a data key of its own.
    reseal_credentials(op.get_bind(), context.config.attributes["keyring"])
    # Where the client is a pair of keys its id was kept in clear. Such tokens live an hour, and are asked for again.
    op.execute("DELETE FROM tokens WHERE client_id NOT LIKE '%.apps.googleusercontent.com'")


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")
