"""Operations of one request that makes many things have an id together."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("operations", sa.Column("group_id", sa.String(80), nullable=False, server_default=""))
