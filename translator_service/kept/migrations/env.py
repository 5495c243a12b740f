"""Run by alembic: the migrations within the transaction that `gstack.kernel.database` holds."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
