"""Operations, firewalls, documents, heartbeats. A database that was made without migrations has these tables, and is
adopted as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(80), unique=True, nullable=False),
        sa.Column("owner", sa.String(80), nullable=False),
        sa.Column("project", sa.String(255), nullable=False),
        sa.Column("scope", sa.String(255), nullable=False),
        sa.Column("type", sa.String(80), nullable=False),
        sa.Column("target", sa.String(512), nullable=False),
        sa.Column("target_id", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("handler", sa.String(80), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("inserted", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("error", sa.JSON),
        sa.Column("warnings", sa.JSON),
        sa.Column("request_id", sa.String(64)),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("executions", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "request_id"),
        if_not_exists=True,
    )
    op.create_index("operations_by_owner", "operations", ["owner", "status"], if_not_exists=True)
    op.create_table(
        "firewalls",
        sa.Column("owner", sa.String(80), primary_key=True),
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("network", sa.String(255), nullable=False),
        sa.Column("rule", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "documents",
        sa.Column("owner", sa.String(80), primary_key=True),
        sa.Column("kind", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "heartbeats",
        sa.Column("executor", sa.String(80), primary_key=True),
        sa.Column("beat", sa.Float, nullable=False),
        if_not_exists=True,
    )
