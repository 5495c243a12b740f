"""SQL databases as all services open them: SQLite in a file, or PostgreSQL for replicas."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

# Any number that is ours: replicas that start together make the tables one after another.
_SCHEMA_LOCK = 0x67737461636B


def open_database(url: str, metadata: sa.MetaData) -> sa.Engine:
    """Connect, and create the tables that are missing. SQLite runs in WAL mode: readers never wait for a writer."""
    engine = sa.create_engine(
        url, poolclass=QueuePool, pool_size=20, max_overflow=40, pool_pre_ping=not url.startswith("sqlite")
    )
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
                connection.execute(f"PRAGMA {pragma}")

    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
        metadata.create_all(connection)
    return engine
