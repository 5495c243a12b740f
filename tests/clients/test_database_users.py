"""The users and databases that deploy/helm/gstack/files/databases.sql makes: each service has its own, and no other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import postgresql
from tests.clients.conftest import Stack, make_stack
from tests.clients.sequences import machine

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parents[2] / "deploy" / "helm" / "gstack" / "files" / "databases.sql"
SERVICES = {"auth": "gstack_auth_database_url", "translator": "gstack_database_url"}

server = postgresql.server


def run_script(server: postgresql.Server, passwords: Path, user: str = "gstack") -> subprocess.CompletedProcess[str]:
    command = [server.binaries / "psql", "-h", "127.0.0.1", "-p", str(server.port), "-U", user, "-d", "postgres"]
    environment = {**os.environ, "PASSWORDS": str(passwords)}
    return subprocess.run(
        [*command, "--file", SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def stack(server: postgresql.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """gstack with what `gstack secrets` and the script make."""
    made = make_stack(tmp_path_factory.mktemp("users"))
    secrets = made.folder / "secrets"
    assert made.run("secrets", str(secrets), "--database-host", f"127.0.0.1:{server.port}").returncode == 0
    # Twice: the second time changes nothing.
    for _ in range(2):
        done = run_script(server, secrets / "postgres")
        assert done.returncode == 0, done.stderr
    for service, file in SERVICES.items():
        made.environment[file.upper()] = (secrets / service / file).read_text()
    for name in ("simulator", "auth", "translator", "gateway"):
        made.start(name)
    try:
        made.wait_ready()
        made.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
        yield made
    finally:
        for process in reversed(made.processes.values()):
            process.kill()
            process.wait()


def test_a4_everything_works_with_them(stack: Stack) -> None:
    """Migrations, tokens, operations and their workflows."""
    operation = stack.call("POST", "/zones/ch-gv2/instances", machine("users-1")).json()
    assert "error" not in stack.finish(operation)
    checked = stack.run("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a4_a_service_reads_nothing_of_the_other(stack: Stack, server: postgresql.Server, service: str) -> None:
    own = sa.make_url(stack.environment[SERVICES[service].upper()])
    (other,) = SERVICES.keys() - {service}
    assert own.username == own.database == f"gstack_{service}"
    for database, reason in ((f"gstack_{other}", "permission denied for database"), (own.database, "")):
        engine = sa.create_engine(own.set(database=database))
        try:
            if reason:
                with pytest.raises(sa.exc.OperationalError, match=reason):
                    engine.connect()
                continue
            with engine.connect() as connection:
                rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles"
                assert connection.scalar(sa.text(f"{rights} WHERE rolname = current_user")) is False
                members = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
                assert connection.scalar(sa.text(f"{members} WHERE r.rolname = current_user")) == 0
                tables = set(sa.inspect(connection).get_table_names())
                assert {"auth": "credentials", "translator": "operations"}[service] in tables
                with pytest.raises(sa.exc.DBAPIError, match="permission denied"):
                    connection.execute(sa.text("SELECT * FROM pg_authid"))
        finally:
            engine.dispose()


def test_the_workflows_are_in_the_translators_database(stack: Stack) -> None:
    engine = sa.create_engine(stack.environment["GSTACK_DATABASE_URL"])
    with engine.connect() as connection:
        assert "dbos" in sa.inspect(connection).get_schema_names()
    engine.dispose()


def test_an_administrator_need_not_be_superuser(server: postgresql.Server, stack: Stack, tmp_path: Path) -> None:
    """It moves away what was made; no test that needs it follows."""
    engine = sa.create_engine(server.url + "postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB"))
        for service in SERVICES:
            stack.kill(service)
            name = f"gstack_{service}"
            ending = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(sa.text(ending), {"name": name})
            for kind in ("DATABASE", "ROLE"):
                connection.execute(sa.text(f"ALTER {kind} {name} RENAME TO old_{name}"))
    for name in ("auth", "translator"):
        (tmp_path / name).write_text("secret")
    done = run_script(server, tmp_path, "administrator")
    assert done.returncode == 0, done.stderr
    owners = "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname LIKE 'gstack\\_%'"
    with engine.connect() as connection:
        assert {tuple(row) for row in connection.execute(sa.text(owners))} == {
            ("gstack_auth", "gstack_auth"), ("gstack_translator", "gstack_translator"),
        }  # fmt: skip
    engine.dispose()


def test_without_passwords_nothing_is_made(server: postgresql.Server, tmp_path: Path) -> None:
    done = run_script(server, tmp_path)
    assert done.returncode != 0
    assert "PASSWORDS must name the folder" in done.stderr
