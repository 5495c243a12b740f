"""The same services on a real PostgreSQL, which replicas share: two translators, one database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgresql
from tests.clients.conftest import Stack, free_ports, make_stack
from tests.clients.sequences import machine

pytestmark = pytest.mark.real

database = postgresql.database


@pytest.fixture(scope="module")
def replicas(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """gstack with two translators behind one gateway."""
    stack = make_stack(tmp_path_factory.mktemp("replicas"))
    second = f"127.0.0.1:{free_ports(1)[0]}"
    first = stack.environment["GSTACK_TRANSLATOR_LISTEN"]
    stack.environment |= {
        "GSTACK_DATABASE_URL": database + "translator",
        "GSTACK_AUTH_DATABASE_URL": database + "auth",
        "GSTACK_TRANSLATOR_TARGET": f"ipv4:{first},{second}",
    }
    for name in ("simulator", "auth", "translator"):
        stack.start(name)
    stack.start("translator-2", GSTACK_TRANSLATOR_LISTEN=second, GSTACK_EXECUTOR_ID="tests-2")
    stack.start("gateway")
    try:
        stack.wait_ready()
        stack.wait_for_translators(first, second)
        yield stack
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


def test_life_of_an_instance(replicas: Stack) -> None:
    done = replicas.finish(replicas.call("POST", "/zones/ch-gv2/instances", machine("pg-1")).json())
    assert "error" not in done
    rule = {"name": "web", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}]}
    assert "error" not in replicas.finish(replicas.call("POST", "/global/firewalls", rule).json())
    # Each of the two translators is asked in turn, and both know everything.
    for _ in range(4):
        assert replicas.call("GET", "/zones/ch-gv2/instances/pg-1").json()["status"] == "RUNNING"
        assert replicas.call("GET", "/global/firewalls/web").status_code == 200
        assert replicas.call("GET", f"/zones/ch-gv2/operations/{done['name']}").json()["status"] == "DONE"
    assert "error" not in replicas.finish(replicas.call("DELETE", "/zones/ch-gv2/instances/pg-1").json())
    assert "error" not in replicas.finish(replicas.call("DELETE", "/global/firewalls/web").json())


def test_the_other_translator_goes_on(replicas: Stack) -> None:
    replicas.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "deployVirtualMachine": 3}})
    operations = [
        replicas.call("POST", "/zones/ch-gv2/instances", machine(f"over-{number}")).json() for number in range(4)
    ]
    replicas.kill("translator-2")
    for operation in operations:
        assert "error" not in replicas.finish(operation)
    found = replicas.call("GET", "/zones/ch-gv2/instances?filter=name eq over-.*").json()["items"]
    assert sorted(item["name"] for item in found) == [f"over-{number}" for number in range(4)]
    assert {item["status"] for item in found} == {"RUNNING"}
