"""The drill of docs/operations.md: a backup while gstack works, everything lost, all of it back."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from click.testing import CliRunner

from gstack.cli import main
from tests import postgresql
from tests.auth import JWT_BEARER, OOB, SDK, assertion
from tests.clients.conftest import Stack, run_stack
from tests.clients.people import Person
from tests.clients.sequences import cloud, machine, until
from tests.clients.test_database_users import SCRIPT, SERVICES, run_script

pytestmark = pytest.mark.real

server = postgresql.server
DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
INSTANCES = "/zones/ch-gv2/instances"

# Both are in the document as they stand here.
BACKUP = """\
for database in $DATABASES; do
  pg_dump --format=custom --file=backup/$database.dump $database
done
cp -a secrets backup-of-secrets
"""
RESTORE = """\
for database in $DATABASES; do
  dropdb --if-exists --force $database
done
PASSWORDS=backup-of-secrets/postgres psql --dbname=postgres --file=databases.sql
for database in $DATABASES; do
  pg_restore --single-transaction --no-owner --role=$database --dbname=$database backup/$database.dump
done
cp -a backup-of-secrets secrets
"""


def test_the_document_has_these_commands() -> None:
    text = DOCUMENT.read_text()
    assert BACKUP in text and RESTORE in text


@pytest.fixture
def stack(server: postgresql.Server, tmp_path: Path) -> Iterator[Stack]:
    """With the secrets, users and databases of a deployment."""
    (tmp_path / "backup").mkdir()
    made = CliRunner().invoke(main, ["secrets", f"{tmp_path}/secrets", "--database-host", f"127.0.0.1:{server.port}"])
    assert made.exit_code == 0, made.output
    shutil.copy(SCRIPT, tmp_path)
    run_script(server, tmp_path / "secrets" / "postgres")
    folder = tmp_path / "secrets" / "auth"
    settings = {f"GSTACK_{ring.upper()}_KEY_FILE": str(folder / f"{ring}.key") for ring in ("sealing", "master")}
    for service, file in SERVICES.items():
        settings[file.upper()] = (tmp_path / "secrets" / service / file).read_text()
    yield from run_stack(tmp_path, **settings)


def shell(commands: str, stack: Stack, server: postgresql.Server) -> None:
    environment = {
        "PATH": f"{server.binaries}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "gstack",
        "DATABASES": "gstack_auth gstack_translator",
    }
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=stack.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def sign_in(stack: Stack) -> dict[str, Any]:
    """Tokens of a person, a refresh token among them."""
    query = {"response_type": "code", "client_id": SDK, "redirect_uri": OOB, "access_type": "offline"}
    code = Person(stack).code(f"/oauth2/auth?{urlencode(query)}")
    return token_of(stack, grant_type="authorization_code", code=code, client_id=SDK, redirect_uri=OOB)


def token_of(stack: Stack, **form: str) -> dict[str, Any]:
    reply = requests.post(f"{stack.url}/oauth2/token", form, timeout=30)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def key_file(stack: Stack, token: str) -> dict[str, Any]:
    """Of a new service account, made by IAM's REST API."""
    accounts = f"{stack.url}/v1/projects/demo/serviceAccounts"
    made = stack.call("POST", accounts, {"accountId": "robot-1"}, token=token).json()
    key = stack.call("POST", f"{accounts}/{made['email']}/keys", {}, token=token).json()
    found: dict[str, Any] = json.loads(base64.b64decode(key["privateKeyData"]))
    return found


def calls(stack: Stack, *commands: str) -> list[int]:
    counted = stack.simulate("GET", "calls")
    return [counted.get(command, 0) for command in commands]


@pytest.mark.timeout(120)
def test_everything_is_back(stack: Stack, server: postgresql.Server) -> None:
    person = sign_in(stack)
    token = person["access_token"]
    key = key_file(stack, token)
    rule = {"name": "web", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}], "targetTags": ["web"]}
    done = [stack.finish(stack.call("POST", "/global/firewalls", rule, token=token).json())]
    metadata = {"items": [{"key": "k", "value": "v"}]}
    done += [stack.finish(stack.call("POST", "/setCommonInstanceMetadata", metadata, token=token).json())]
    done += [stack.finish(stack.call("POST", INSTANCES, machine("first", tags={"items": ["web"]}), token=token).json())]
    firewall = stack.call("GET", "/global/firewalls/web", token=token).json()

    # Two wait for CloudStack while the backup is made, the third for its turn.
    slow = {"": 0.1, "deployVirtualMachine": 3600.0, "stopVirtualMachine": 3600.0}
    stack.simulate("PATCH", "settings", {"job_seconds": slow})
    running = [
        stack.call("POST", INSTANCES, machine("running"), token=token).json(),
        stack.call("POST", f"{INSTANCES}/first/stop", token=token).json(),
        stack.call("POST", f"{INSTANCES}/first/start", token=token).json(),
    ]
    until(lambda: calls(stack, "deployVirtualMachine", "stopVirtualMachine") == [2, 1])
    ended = threading.Event()

    def work() -> set[int]:
        seen: set[int] = set()
        while not ended.is_set():
            seen.add(stack.call("GET", INSTANCES).status_code)
        return seen

    with ThreadPoolExecutor(2) as pool:
        load = [pool.submit(work) for _ in range(2)]
        shell(BACKUP, stack, server)
        ended.set()
        assert [one.result() for one in load] == [{200}, {200}]
    for one in running:
        assert stack.call("GET", operation(one), token=token).json()["status"] != "DONE"
    late = stack.call("POST", INSTANCES, machine("late"), token=token).json()
    until(lambda: calls(stack, "deployVirtualMachine") == [3])

    stack.stop("gateway")
    for name in ("auth", "translator"):
        stack.kill(name)
    shutil.rmtree(stack.folder / "secrets")
    shell(RESTORE, stack, server)
    for name in ("auth", "translator", "gateway"):
        stack.start(name)
    stack.wait_ready()

    assert stack.call("GET", "/global/firewalls/web", token=token).json() == firewall
    assert stack.call("GET", "", token=token).json()["commonInstanceMetadata"]["items"] == metadata["items"]
    for one in done:
        assert stack.call("GET", operation(one), token=token).json() == one
    fresh = token_of(stack, grant_type="refresh_token", refresh_token=person["refresh_token"], client_id=SDK)
    robot = token_of(stack, grant_type=JWT_BEARER, assertion=assertion(key))
    for made in (fresh, robot):
        assert stack.call("GET", "/global/firewalls/web", token=made["access_token"]).json() == firewall

    # What was running comes to its end, with the jobs that it had begun.
    stack.simulate("POST", "finish")
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
    for one in running:
        assert "error" not in stack.finish(one)
    # What was begun after the backup is known to CloudStack only.
    assert stack.call("GET", operation(late), token=token).status_code == 404
    until(lambda: stack.call("GET", f"{INSTANCES}/late", token=token).json().get("status") == "RUNNING")
    assert calls(stack, "deployVirtualMachine", "stopVirtualMachine", "startVirtualMachine") == [3, 1, 1]
    machines = {row["name"]: row["state"] for row in cloud(stack, "listVirtualMachines")["virtualmachine"]}
    assert machines == dict.fromkeys(("first", "late", "running"), "Running")
    assert "error" not in stack.finish(stack.call("POST", INSTANCES, machine("second"), token=token).json())


def operation(one: dict[str, Any]) -> str:
    """Its path below the project."""
    return str(one["selfLink"].partition("/projects/demo")[2])
