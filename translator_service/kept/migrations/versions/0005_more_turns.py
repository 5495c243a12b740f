"""Operations may take turns on more than their target."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("operation", sa.String(80), primary_key=True),
        sa.Column("target", sa.String(512), primary_key=True),
        sa.Column("owner", sa.String(80), nullable=False),
    )
    op.create_index("turns_by_target", "turns", ["owner", "target"])
