"""SQL databases as all services open them: SQLite in a file, or PostgreSQL for replicas.

The schema of a service is made by its migrations, `versions/<revision>_<what>.py` in its package. Each adds to what is
there, so that replicas of the release before go on with the new schema, and a release can be taken back without it.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
import structlog
from sqlalchemy.pool import QueuePool

from gstack.kernel import metrics
from gstack.kernel.errors import ApiError

log = structlog.get_logger()

# Any number that is ours: replicas that start together migrate one after another.
_SCHEMA_LOCK = 0x67737461636B
_BUSY_SECONDS = 10.0
_CONNECTIONS = 20
# What each connection keeps of an SQLite file; the system keeps the rest for all of them.
_PAGES_KB = 500
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Engines whose file was found damaged: no later question makes it whole.
_damaged: WeakSet[sa.Engine] = WeakSet()


class DatabaseFileError(OSError):
    """An SQLite file that cannot be used; the text says which, and what to do."""


def open_database(url: str, migrations: str, *, connections: int = _CONNECTIONS, **attributes: Any) -> sa.Engine:
    """Connect, and bring the schema to the last of the migrations; whatever is newer than this release stays.

    migrations: name of their package. attributes: what they need, as `context.config.attributes`. connections: the most
    that this process may have; who needs another waits for it.
    SQLite runs in WAL mode: readers never wait for a writer. Raises DatabaseFileError.
    """
    path = sqlite_file(url)
    if path is not None:
        prepare_file(path)
    engine = sa.create_engine(
        with_patience(url),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        # What was used last is used next: the others, made for a crowd, keep nothing in memory.
        pool_use_lifo=True,
        pool_pre_ping=not url.startswith("sqlite"),
    )
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000:.0f}")
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA cache_size=-{_PAGES_KB}")

    if path is not None:
        _watch_for_damage(engine, path)
    try:
        current, head = schema_state(engine, migrations)
        if _is_older(current, migrations):
            _migrate(engine, migrations, attributes)
        elif current != head:
            log.warning("database_newer_than_release", migrations=migrations, schema=current, release=head)
    except sa.exc.DBAPIError as error:
        if path is None or not isinstance(error.orig, sqlite3.Error):
            raise
        engine.dispose()
        raise DatabaseFileError(_advice(path, error.orig)) from None
    return engine


# What SQLAlchemy says when the database, or its name, is not there, or has no connection left.
AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)

# A PostgreSQL that vanished without a word is away after seconds: threads that wait for it are missed elsewhere.
_PATIENCE = {"connect_timeout": "5", "keepalives_idle": "10", "keepalives_interval": "5", "tcp_user_timeout": "20000"}


def with_patience(url: str) -> sa.URL:
    """What the operator says of these wins."""
    known = sa.make_url(url)
    if known.get_backend_name() != "postgresql":
        return known
    return known.set(query={**_PATIENCE, **known.query})


def sqlite_file(url: str) -> Path | None:
    """The file of a database, if it is one."""
    known = sa.make_url(url)
    found = known.database if known.get_backend_name() == "sqlite" else None
    return Path(found) if found and found != ":memory:" and not found.startswith("file:") else None


def prepare_file(path: Path) -> None:
    """Make an SQLite file, or look at the one that is there, so that nobody else reads it. Raises DatabaseFileError."""
    try:
        # SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DatabaseFileError(_advice(path, error)) from None
    except OSError as error:
        raise DatabaseFileError(f"database {path}: {error.strerror}; let the service's user write it") from None
    for suffix in ("", "-wal", "-shm"):
        # Of a release before, or copied here.
        with suppress(OSError):
            path.with_name(path.name + suffix).chmod(0o600)


def _advice(path: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return (
            f"database {path} is damaged, or no database: bring it back from a backup, or move it away with "
            f"{path.name}-wal and {path.name}-shm beside it, to begin with an empty one"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"database {path} is locked by another process for more than {_BUSY_SECONDS:.0f} seconds: end that one"
    if code == sqlite3.SQLITE_FULL:
        return f"database {path}: no space is left on the disk"
    return f"database {path}: {error}; let the service's user write it and its folder"


def _watch_for_damage(engine: sa.Engine, path: Path) -> None:
    """A damaged file is told of once; whoever asks it is told what is told of a database that is away."""

    @sa.event.listens_for(engine, "handle_error")
    def _noticed(context: Any) -> sa.exc.OperationalError | None:
        error = context.original_exception
        if not isinstance(error, sqlite3.Error) or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            return None
        if engine not in _damaged:
            _damaged.add(engine)
            log.error("database_damaged", file=str(path), advice=_advice(path, error))
        return sa.exc.OperationalError(context.statement, None, error)


def _use_wal(connection: sqlite3.Connection) -> None:
    """A new file's change to WAL is refused at once while another process makes it, whatever `busy_timeout` is."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def measure(engine: sa.Engine) -> None:
    """Metrics of this process's database, looked up whenever Prometheus asks."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    metrics.DATABASE_UP.set_function(lambda: float(answers(engine)))
    metrics.DATABASE_CONNECTIONS.set_function(pool.checkedout)
    metrics.DATABASE_CONNECTIONS_MAX.set(pool.size())


def unavailable() -> ApiError:
    """What a request is told when the database is away (`sqlalchemy.exc.OperationalError`)."""
    return ApiError(503, "The service is unavailable. Try again later.", retry_after=5)


def answers(engine: sa.Engine) -> bool:
    """Whether the database is there, and whole as far as is known."""
    question = "SELECT count(*) FROM sqlite_master" if engine.dialect.name == "sqlite" else "SELECT 1"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(question)
    except sa.exc.SQLAlchemyError:
        return False
    return engine not in _damaged


def schema_state(engine: sa.Engine, migrations: str) -> tuple[str | None, str]:
    """(revision of the schema, None before the first migration; the last revision that this release knows)."""
    with engine.connect() as connection:
        return _current(connection, migrations), _revisions(migrations)[-1]


def _migrate(engine: sa.Engine, migrations: str, attributes: dict[str, Any]) -> None:
    # Slow to import, and seldom needed.
    from alembic import command
    from alembic.config import Config

    with engine.connect() as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        before = _current(connection, migrations)
        if not _is_older(before, migrations):
            return
        config = Config(attributes={**attributes, "connection": connection, "version_table": _table(migrations)})
        config.set_main_option("script_location", str(_folder(migrations)).replace("%", "%%"))
        command.upgrade(config, "head")
        log.info("database_migrated", migrations=migrations, before=before, schema=_current(connection, migrations))


def _current(connection: sa.Connection, migrations: str) -> str | None:
    if not sa.inspect(connection).has_table(_table(migrations)):
        return None
    return connection.execute(sa.select(sa.column("version_num")).select_from(sa.table(_table(migrations)))).scalar()


def _is_older(current: str | None, migrations: str) -> bool:
    return current is None or current in _revisions(migrations)[:-1]


def _revisions(migrations: str) -> list[str]:
    """Oldest first: the files of the versions are named by their revisions, `0001_<what>.py`."""
    return sorted(path.name.partition("_")[0] for path in (_folder(migrations) / "versions").glob("[0-9]*.py"))


def _folder(migrations: str) -> Path:
    found = importlib.util.find_spec(migrations)
    assert found is not None and found.origin is not None, migrations
    return Path(found.origin).parent


def _table(migrations: str) -> str:
    """One for each service, as services may share a database."""
    return f"{migrations.partition('.')[0]}_version"
