"""A database that is away for a while: what can go on does, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests import postgresql
from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, run_stack
from tests.clients.sequences import machine
from tests.waits import LONG, until

pytestmark = pytest.mark.real

server = postgresql.server
INSTANCES = "/zones/ch-gv2/instances"


@pytest.fixture(scope="module")
def stack(server: postgresql.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from run_stack(
        tmp_path_factory.mktemp("away"),
        GSTACK_DATABASE_URL=server.url + "translator",
        GSTACK_AUTH_DATABASE_URL=server.url + "auth",
    )


def test_operations_wait_and_reads_go_on(stack: Stack, server: postgresql.Server) -> None:
    token, other = stack.token(), stack.token()
    assert stack.call("GET", INSTANCES, token=token).json().get("items") is None
    stack.finish(stack.call("POST", INSTANCES, machine("first"), token=token).json())
    stack.simulate(
        "PATCH", "settings", {"job_seconds": {"": 0.1, "deployVirtualMachine": 3600, "stopVirtualMachine": 3600}}
    )
    stack.simulate("DELETE", "calls")
    # The second of these looks into the database all the time, whether it is its turn.
    turns = [stack.call("POST", f"{INSTANCES}/first/{verb}", token=token).json() for verb in ("stop", "start")]
    begun = [stack.call("POST", INSTANCES, machine(f"away-{number}"), token=token).json() for number in range(3)]
    until(lambda: stack.simulate("GET", "calls").get("deployVirtualMachine", 0) == 3)
    server.stop()

    # CloudStack is there, and so is the token that the gateway knows.
    assert stack.call("GET", "/zones", token=token).status_code == 200
    refused = stack.call("POST", INSTANCES, machine("away-9"), token=token)
    assert (refused.status_code, refused.headers.get("Retry-After")) == (503, "5"), refused.text
    assert stack.call("GET", "/zones", token=other).status_code == 503
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    assert requests.post(f"{stack.url}/oauth2/token", form, timeout=LONG).status_code == 503
    # The jobs come to their end meanwhile, and that is seen. Counted from before they end: nobody asks again after.
    asked = stack.simulate("DELETE", "calls")
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
    stack.simulate("POST", "finish")
    until(lambda: stack.simulate("GET", "calls").get("queryAsyncJobResult", 0) >= 4)

    server.start()
    until(lambda: stack.call("GET", "/zones", token=other).status_code == 200)
    for operation in (*turns, *begun):
        assert "error" not in stack.finish(operation)
    assert asked["deployVirtualMachine"] + stack.simulate("GET", "calls").get("deployVirtualMachine", 0) == 3
    names = [item["name"] for item in stack.call("GET", INSTANCES, token=token).json()["items"]]
    assert names == ["away-0", "away-1", "away-2", "first"]
    assert "error" not in stack.finish(stack.call("POST", INSTANCES, machine("away-9"), token=token).json())
