"""Inserts tell what they are to make, so that it is there for a client before CloudStack shows it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("operations", sa.Column("preview", sa.LargeBinary))
