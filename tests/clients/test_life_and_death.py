"""Services that die and come back: no operation, token or firewall is lost, and nothing is done twice."""

from __future__ import annotations

import time
import uuid

from tests.clients.conftest import Stack
from tests.clients.sequences import machine

SLOW = {"job_seconds": {"": 0.1, "deployVirtualMachine": 2.0}}


def names(stack: Stack, zone: str = "ch-gv2") -> list[str]:
    return [item["name"] for item in stack.call("GET", f"/zones/{zone}/instances").json().get("items", [])]


def test_translator_killed_in_the_middle_of_an_insert(own_stack: Stack) -> None:
    stack = own_stack
    stack.simulate("PATCH", "settings", SLOW)
    operation = stack.call("POST", "/zones/ch-gv2/instances", machine("survivor")).json()
    until = time.monotonic() + 20
    while not stack.simulate("GET", "calls").get("deployVirtualMachine"):
        assert time.monotonic() < until
        time.sleep(0.05)
    stack.kill("translator")
    stack.start("translator")
    stack.wait_ready()
    done = stack.finish(operation)
    assert "error" not in done, done
    assert names(stack) == ["survivor"]
    assert stack.simulate("GET", "calls")["deployVirtualMachine"] == 1
    assert stack.call("GET", "/zones/ch-gv2/instances/survivor").json()["status"] == "RUNNING"


def test_a_translator_that_is_gone_is_replaced_by_another(own_stack: Stack) -> None:
    """The second one shares the database, notices the silence of the first, and goes on at the interrupted step."""
    stack = own_stack
    stack.simulate("PATCH", "settings", SLOW)
    operation = stack.call("POST", "/zones/ch-gv2/instances", machine("survivor")).json()
    while not stack.simulate("GET", "calls").get("deployVirtualMachine"):
        time.sleep(0.05)
    stack.kill("translator")
    del stack.processes["translator"]
    stack.start("translator", GSTACK_EXECUTOR_ID="another")
    stack.wait_ready()
    assert "error" not in stack.finish(operation)
    assert names(stack) == ["survivor"]
    assert stack.simulate("GET", "calls")["deployVirtualMachine"] == 1


def test_everything_is_there_after_a_restart_of_each_service(own_stack: Stack) -> None:
    stack = own_stack
    token = stack.token()
    rule = {"name": "web", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}]}
    operation = stack.finish(stack.call("POST", "/global/firewalls", rule, token=token).json())
    for service in ("auth", "translator", "gateway"):
        stack.stop(service)
        stack.start(service)
        stack.wait_ready()
        assert stack.call("GET", "/global/firewalls/web", token=token).status_code == 200, service
        found = stack.call("GET", f"/global/operations/{operation['name']}", token=token)
        assert found.json() == operation, service


def test_auth_away(own_stack: Stack) -> None:
    stack = own_stack
    token = stack.token()
    assert stack.call("GET", "/zones", token=token).status_code == 200
    stack.kill("auth")
    del stack.processes["auth"]
    assert stack.call("GET", "/zones", token=token).status_code == 200
    unknown = stack.call("GET", "/zones", token="unknown")
    assert unknown.status_code == 503
    assert unknown.headers["Retry-After"]
    ready = stack.call("GET", stack.url + "/readyz", token=token)
    assert ready.status_code == 503
    assert ready.json()["services"] == {"translator": True, "auth": False}


def test_the_same_request_id_is_one_operation(stack: Stack) -> None:
    request_id = str(uuid.uuid4())
    first = stack.call("POST", f"/zones/ch-gv2/instances?requestId={request_id}", machine("once")).json()
    second = stack.call("POST", f"/zones/ch-gv2/instances?requestId={request_id}", machine("once")).json()
    assert first["name"] == second["name"]
    assert first["clientOperationId"] == request_id
    other = stack.call("POST", f"/zones/ch-gv2/instances?requestId={request_id}", machine("other"))
    assert other.status_code == 400
    assert "requestId" in other.json()["error"]["message"]
    stack.finish(first)
    assert names(stack).count("once") == 1
    again = stack.call("POST", "/zones/ch-gv2/instances", machine("once"))
    assert again.status_code == 409
    assert again.json()["error"]["errors"][0]["reason"] == "alreadyExists"
    stack.finish(stack.call("DELETE", "/zones/ch-gv2/instances/once").json())


def test_a_failing_step_leaves_nothing_behind(stack: Stack) -> None:
    stack.simulate("POST", "faults", {"kind": "status", "command": "enableStaticNat", "status": 530})
    operation = stack.call("POST", "/zones/ch-zh-1/instances", machine("halfway", "ch-zh-1", "net-a")).json()
    done = stack.finish(operation)
    assert done["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert done["httpErrorStatusCode"] == 500
    assert "halfway" not in names(stack, "ch-zh-1")
    assert "warnings" not in done
    addresses = stack.call("GET", "/regions/ch-zh/addresses").json()
    assert "items" not in addresses
    # The name is free, and so is everything else.
    again = stack.finish(stack.call("POST", "/zones/ch-zh-1/instances", machine("halfway", "ch-zh-1", "net-a")).json())
    assert "error" not in again
    stack.finish(stack.call("DELETE", "/zones/ch-zh-1/instances/halfway").json())


def test_a_lost_answer_does_not_start_the_work_twice(stack: Stack) -> None:
    stack.simulate("DELETE", "calls")
    stack.simulate("POST", "faults", {"kind": "drop", "command": "deployVirtualMachine"})
    done = stack.finish(stack.call("POST", "/zones/ch-gv2/instances", machine("dropped")).json())
    assert "error" not in done, done
    assert names(stack).count("dropped") == 1
    assert stack.simulate("GET", "calls")["deployVirtualMachine"] == 1
    stack.finish(stack.call("DELETE", "/zones/ch-gv2/instances/dropped").json())


def test_operations_on_one_instance_take_turns(stack: Stack) -> None:
    stack.finish(stack.call("POST", "/zones/ch-gv2/instances", machine("turns")).json())
    path = "/zones/ch-gv2/instances/turns"
    operations = [stack.call("POST", path + verb).json() for verb in ("/stop", "/stop", "/start", "/stop", "/start")]
    finished = [stack.finish(operation) for operation in operations]
    assert all("error" not in operation for operation in finished), finished
    ends = [operation["endTime"] for operation in finished]
    assert ends == sorted(ends)
    assert stack.call("GET", path).json()["status"] == "RUNNING"
    stack.finish(stack.call("DELETE", path).json())


def test_questions_are_few(stack: Stack) -> None:
    stack.finish(stack.call("POST", "/zones/ch-gv2/instances", machine("few")).json())
    token = stack.token()
    for path, expected in (
        ("/zones/ch-gv2/instances/few", {"listVirtualMachines": 1}),
        ("/zones/ch-gv2/instances", {"listVirtualMachines": 1, "listVolumes": 1}),
        ("/aggregated/instances", {"listVirtualMachines": 1, "listVolumes": 1}),
        ("/zones/ch-gv2/disks", {"listVolumes": 1}),
        ("/zones", {}),
    ):
        stack.call("GET", path, token=token)
        stack.simulate("DELETE", "calls")
        assert stack.call("GET", path, token=token).status_code == 200
        assert stack.simulate("GET", "calls") == expected, path
    stack.finish(stack.call("DELETE", "/zones/ch-gv2/instances/few").json())
