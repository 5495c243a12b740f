"""The schemas of both services, on SQLite and on a real PostgreSQL: from nothing, from a database of before migrations,
by replicas that start together, and with a database that is newer than the release.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from structlog.testing import capture_logs

from auth_service import clients
from auth_service.store import tables as auth
from auth_service.store.auth_store import AuthStore
from auth_service.store.base import digest
from gstack.kernel import database as kernel
from gstack.kernel.database import open_database, schema_state
from gstack.kernel.sealing import Keyring, create_key
from tests import postgresql
from translator_service.kept import store as translator

MASTER = b"m" * 32
KEYRING = Keyring.of(b"n" * 32, MASTER)
SERVICES = pytest.mark.parametrize("service", [auth, translator], ids=["auth", "translator"])

database = postgresql.database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    return postgresql.empty_database(request.getfixturevalue("database"))


Open = Callable[[ModuleType], sa.Engine]


@pytest.fixture
def open_(url: str) -> Iterator[Open]:
    """Opens the database as the service does at its start."""
    opened: list[sa.Engine] = []

    def make(service: ModuleType) -> sa.Engine:
        opened.append(open_database(url, service.MIGRATIONS, keyring=KEYRING))
        return opened[-1]

    yield make
    for engine in opened:
        engine.dispose()


def version(service: ModuleType) -> str:
    return f"{service.MIGRATIONS.partition('.')[0]}_version"


def difference(engine: sa.Engine, service: ModuleType) -> list:
    """What the migrated schema lacks, or has too much, of the tables that the service's code knows."""
    with engine.connect() as connection:
        # Alembic reads SQLite's default '' as another one than itself.
        defaults = engine.dialect.name == "postgresql"
        options = {"version_table": version(service), "compare_type": True, "compare_server_default": defaults}
        return compare_metadata(MigrationContext.configure(connection, opts=options), service.metadata)


@SERVICES
def test_from_nothing_to_what_the_code_knows(service: ModuleType, open_: Open) -> None:
    engine = open_(service)
    current, head = schema_state(engine, service.MIGRATIONS)
    assert current == head
    assert difference(engine, service) == []


@SERVICES
def test_the_last_revision_is_that_of_alembic(service: ModuleType) -> None:
    """The head is read from the names of the files, as importing alembic takes long."""
    config = Config()
    config.set_main_option("script_location", service.MIGRATIONS.replace(".", ":"))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [kernel._revisions(service.MIGRATIONS)[-1]]
    assert [one.revision for one in script.walk_revisions()][::-1] == kernel._revisions(service.MIGRATIONS)


def test_services_may_share_a_database(open_: Open) -> None:
    for service in (auth, translator, auth):
        current, head = schema_state(open_(service), service.MIGRATIONS)
        assert current == head


def test_a_second_start_imports_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from translator_service.kept.store import open_store; "
        f"open_store('sqlite:///{tmp_path}/test.sqlite'); sys.exit('alembic' in sys.modules)"
    )
    assert [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(2)] == [1, 0]


@SERVICES
def test_a_database_that_is_newer_is_served_as_it_is(service: ModuleType, open_: Open) -> None:
    engine = open_(service)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {version(service)} SET version_num = '9999'"))
        connection.execute(sa.text(f"ALTER TABLE {next(iter(service.metadata.tables))} ADD COLUMN later INTEGER"))
    with capture_logs() as logs:
        again = open_(service)
    assert [(one["event"], one["log_level"]) for one in logs] == [("database_newer_than_release", "warning")]
    head = kernel._revisions(service.MIGRATIONS)[-1]
    assert schema_state(again, service.MIGRATIONS) == ("9999", head)
    assert [change[0] for change in difference(again, service)] == ["remove_column"]


@pytest.mark.parametrize("service", ["auth_service.store.tables", "translator_service.kept.store"])
def test_replicas_that_start_together(service: str, url: str, tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    code = (
        "import sys, pathlib; from gstack.kernel.sealing import Keyring; "
        f"from {service} import MIGRATIONS; from gstack.kernel.database import *; "
        "import alembic.command; print('ready', flush=True); sys.stdin.readline(); "
        f"engine = open_database({url!r}, MIGRATIONS, keyring=Keyring(pathlib.Path({str(tmp_path / 'key')!r}))); "
        "current, head = schema_state(engine, MIGRATIONS); assert current == head, current"
    )
    replicas = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for replica in replicas:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("\n")
        replica.stdin.flush()
    output = [replica.communicate(timeout=60)[0] for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0, 0, 0]
    assert sum("database_migrated" in text for text in output) == 1


# The tables as `create_all` made them before there were migrations.
_BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}
_FOUNDATION = (
    """CREATE TABLE credentials (id VARCHAR(36) NOT NULL, api_key_hash {bytes} NOT NULL, secret_hash {bytes} NOT NULL,
    keys {bytes} NOT NULL, account_id VARCHAR(64) NOT NULL, account_name VARCHAR(255) NOT NULL, user_id VARCHAR(64) NOT
    NULL, subject VARCHAR(255) NOT NULL, verified FLOAT NOT NULL, PRIMARY KEY (id), UNIQUE (api_key_hash))""",
    """CREATE TABLE tokens (hash {bytes} NOT NULL, kind VARCHAR(8) NOT NULL, family VARCHAR(36) NOT NULL, credential_id
    VARCHAR(36) NOT NULL, client_id VARCHAR(255) NOT NULL, scopes TEXT NOT NULL, expires FLOAT NOT NULL, redirect_uri
    TEXT NOT NULL, challenge VARCHAR(128) NOT NULL, used FLOAT, PRIMARY KEY (hash))""",
    "CREATE INDEX tokens_by_family ON tokens (family)",
    "CREATE INDEX tokens_by_expiry ON tokens (expires)",
)


def make_foundation(url: str) -> None:
    """A database of before migrations: the keys of users 0 and 1 open, those of 2 were sealed with a key that is lost,
    and 3 has those of 0. Each has a token.
    """
    sealed = [
        b"n" * 12
        + AESGCM(key).encrypt(b"n" * 12, b'{"api_key":"key-%d","secret_key":"s"}' % row, b"credentials/%d" % row)
        for row, key in ((0, MASTER), (1, MASTER), (2, b"?" * 32), (0, MASTER))
    ]
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in _FOUNDATION:
            connection.execute(sa.text(statement.format(bytes=_BYTES[engine.dialect.name])))
        for row, keys in enumerate(sealed):
            connection.execute(
                sa.text(
                    "INSERT INTO credentials VALUES (:id, :api, :secret, :keys, 'a-1', 'demo', :user, 'me@demo', 1.5)"
                ),
                {
                    "id": str(row),
                    "api": digest(f"key-{row}"),
                    "secret": digest("s"),
                    "keys": keys,
                    "user": f"u-{row}",
                },
            )
            connection.execute(
                sa.text("INSERT INTO tokens VALUES (:hash, 'access', :id, :id, :client, 'compute', 4e9, '', '', NULL)"),
                {"hash": digest(f"token-{row}"), "id": str(row), "client": clients.SDK},
            )
        # Got with a pair of keys: its client id is an API key in clear.
        connection.execute(
            sa.text("INSERT INTO tokens VALUES (:hash, 'access', '0', '0', 'key-0', 'compute', 4e9, '', '', NULL)"),
            {"hash": digest("token-of-keys")},
        )
    engine.dispose()


def test_b3_a_database_of_before_migrations_is_adopted(url: str) -> None:
    make_foundation(url)
    with capture_logs() as logs:
        store = AuthStore(url, KEYRING)
    try:
        assert [(one["log_level"], one["rows"]) for one in logs if one["event"] == "sealed_rows_lost"] == [
            ("warning", 2)
        ]
        assert difference(store.engine, auth) == []
        assert store.sealed.use() == {KEYRING.primary_id: 2}
        for row in range(2):
            found = store.credentials.find(str(row))
            assert found is not None
            assert (found.api_key, found.secret_key, found.user_id) == (f"key-{row}", "s", f"u-{row}")
            assert store.credentials.verified(f"key-{row}", "s", 1.0) == found
            token = store.tokens.find(f"token-{row}", "access")
            assert token is not None and token["credential_id"] == str(row)
        assert store.tokens.find("token-of-keys", "access") is None
        for row in range(2, 4):
            assert store.credentials.find(str(row)) is None
            assert store.tokens.find(f"token-{row}", "access") is None
    finally:
        store.engine.dispose()


def make_first(engine: sa.Engine) -> None:
    """The translator's tables of before migrations, without what came later."""
    translator.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP INDEX operations_unfinished"))
        connection.execute(sa.text("DROP TABLE turns"))
        for column in ("executor", "due", "preview", "group_id"):
            connection.execute(sa.text(f"ALTER TABLE operations DROP COLUMN {column}"))


def test_a_translators_database_of_before_migrations_is_adopted(url: str, open_: Open) -> None:
    engine = sa.create_engine(url)
    make_first(engine)
    translator.Store(engine).add_firewall("o", "web", "default", b"rule")
    engine.dispose()
    adopted = open_(translator)
    assert difference(adopted, translator) == []
    assert [row["name"] for row in translator.Store(adopted).list_firewalls("o")] == ["web"]


def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sa.Connection, _: Keyring) -> None:
        connection.execute(sa.text("UPDATE credentials SET subject = 'changed'"))
        raise RuntimeError("on the way")

    make_foundation(url)
    monkeypatch.setattr("auth_service.migrations.reseal.reseal_credentials", fail)
    with pytest.raises(RuntimeError, match="on the way"):
        AuthStore(url, KEYRING)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT DISTINCT subject FROM credentials")).scalars().all() == ["me@demo"]
        assert sorted(sa.inspect(connection).get_table_names()) == ["credentials", "tokens"]
    engine.dispose()
    monkeypatch.undo()
    store = AuthStore(url, KEYRING)
    assert store.sealed.use() == {KEYRING.primary_id: 2}
    store.engine.dispose()
