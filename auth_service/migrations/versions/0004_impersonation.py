"""Tokens that a service account got without a key of its own: which one's they are."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("service_account", sa.String(36)))
    op.create_index("tokens_by_service_account", "tokens", ["service_account"])


def downgrade() -> None:
    raise NotImplementedError("Restore the backup that was made before the upgrade.")
