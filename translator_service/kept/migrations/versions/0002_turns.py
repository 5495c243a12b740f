"""Operations know who carries them out and when they are to be gone on with; what is not done is found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("operations", sa.Column("executor", sa.String(80)))
    op.add_column("operations", sa.Column("due", sa.Float))
    unfinished = sa.text("status <> 'DONE'")
    op.create_index(
        "operations_unfinished",
        "operations",
        ["owner", "target", "sequence"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    # What the release before left unfinished is gone on with.
    op.execute("UPDATE operations SET due = 0 WHERE status = 'RUNNING'")
