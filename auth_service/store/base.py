"""What the parts of the store share: the database, its keyring, and how a question is asked."""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from auth_service.store.tables import MIGRATIONS
from gstack.kernel.database import open_database
from gstack.kernel.sealing import Keyring


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Database:
    """keyring: for what is stored sealed. insert: the dialect's own, which knows `ON CONFLICT`."""

    def __init__(self, url: str, keyring: Keyring, **options: Any):
        """options: of `open_database`."""
        self.engine = open_database(url, MIGRATIONS, keyring=keyring, **options)
        self.keyring = keyring
        self.insert: Any = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert


class Part:
    """One concern of the store."""

    def __init__(self, database: Database):
        self._engine = database.engine
        self._keyring = database.keyring
        self._insert = database.insert

    def _first(self, query: sa.Select[Any]) -> sa.RowMapping | None:
        with self._engine.connect() as connection:
            return connection.execute(query).mappings().first()

    def _all(self, query: sa.Select[Any]) -> list[sa.RowMapping]:
        with self._engine.connect() as connection:
            return list(connection.execute(query).mappings())

    def _scalar(self, query: sa.Select[Any]) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def _change(self, *statements: sa.UpdateBase) -> int:
        """All of them, or none; returns how many rows the last one changed."""
        with self._engine.begin() as connection:
            return [connection.execute(statement).rowcount for statement in statements][-1]
