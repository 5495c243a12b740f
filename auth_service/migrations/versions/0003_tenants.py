"""What was exchanged from which token; whose the hosts of service accounts' addresses are; tried passwords."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DOMAIN = ".iam.gserviceaccount.com"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("parent", sa.LargeBinary(32)))
    op.create_index("tokens_by_parent", "tokens", ["parent"])

    hosts = op.create_table(
        "service_account_hosts",
        sa.Column("host", sa.String(255), primary_key=True),
        sa.Column("owner", sa.String(129), nullable=False),
        sa.Column("project_key", sa.String(64), nullable=False),
    )
    # Who came first has the host; accounts of others that have it already keep their addresses, with their key files.
    accounts = sa.table("service_accounts", *(sa.column(name) for name in ("email", "owner", "project_key", "created")))
    taken: dict[str, dict[str, str]] = {}
    for row in op.get_bind().execute(sa.select(accounts).order_by(accounts.c.created)).mappings():
        host = row["email"].partition("@")[2].removesuffix(_DOMAIN)
        taken.setdefault(host, {"host": host, "owner": row["owner"], "project_key": row["project_key"]})
    if taken:
        op.bulk_insert(hosts, list(taken.values()))

    op.create_table(
        "logins",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.Column("tried", sa.Float, nullable=False),
        sa.Column("owner", sa.String(129)),
        sa.Index("logins_by_time", "tried"),
    )


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")
