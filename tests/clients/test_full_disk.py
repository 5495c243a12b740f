"""A disk on which nothing can be written any more: what only reads goes on, and all comes back with the room."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.clients.conftest import Stack, run_stack
from tests.clients.sequences import machine, until

INSTANCES = "/zones/ch-gv2/instances"


def allow(stack: Stack, size: int) -> None:
    """How large files of the services may get; what is beyond cannot be written, logs and databases."""
    for name in ("auth", "translator", "gateway"):
        number = stack.processes[name].pid
        workers = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        for process in (number, *map(int, workers)):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_d6_reads_go_on_when_nothing_can_be_written(tmp_path: Path) -> None:
    for stack in run_stack(tmp_path, GSTACK_LOG_LEVEL="debug"):
        token = stack.token()
        stack.finish(stack.call("POST", INSTANCES, machine("first"), token=token).json())
        lines = len(stack.log("gateway"))
        allow(stack, 0)
        for path in ("/zones", INSTANCES, f"{INSTANCES}/first", "/global/firewalls", "/global/operations"):
            for _ in range(3):
                found = stack.call("GET", path, token=token)
                assert found.status_code == 200, (path, found.text)
        assert len(stack.log("gateway")) == lines
        refused = stack.call("POST", INSTANCES, machine("second"), token=token)
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) > 0
        allow(stack, resource.RLIM_INFINITY)
        until(lambda stack=stack: stack.call("POST", INSTANCES, machine("third")).status_code == 200)
        names = {item["name"] for item in stack.call("GET", INSTANCES).json()["items"]}
        assert "first" in names and "second" not in names
        assert all(process.poll() is None for process in stack.processes.values())
