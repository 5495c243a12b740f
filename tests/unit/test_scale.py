"""Ten thousand machines: every one is listed once, and the number of questions does not grow faster than the pages."""

from __future__ import annotations

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator import world as w
from simulator.commands import execute
from tests.conftest import Cloud
from translator_service.rpc import METHODS
from translator_service.scope import Scope

MACHINES = 10_000


def fill(simulated: Cloud) -> None:
    world = simulated.app.world
    user = world.users_by_key["demo-api-key"]
    zone = next(row for row in world.all(w.Zone) if row.security_groups)
    parameters = {
        "zoneid": zone.id,
        "templateid": world.all(w.Template)[0].id,
        "serviceofferingid": world.all(w.ServiceOffering)[0].id,
    }
    for number in range(MACHINES):
        execute(world, user, "deployVirtualMachine", {**parameters, "name": f"m-{number:05}"})


def test_ten_thousand_machines_are_listed(simulated: Cloud, scope: Scope) -> None:
    fill(simulated)
    found: list[str] = []
    token, pages = "", 0
    simulated.app.calls.clear()
    while pages == 0 or token:
        request = common_pb2.ListInZoneRequest(project="demo", zone="ch-gv2", pageToken=token, maxResults=500)
        reply = METHODS["Instances.List"].function(scope, request)
        page = pb.InstanceList.FromString(reply) if isinstance(reply, bytes) else reply
        assert isinstance(page, pb.InstanceList)
        if pages == 0:
            # Machines and their volumes, 500 a page, and nothing for any one machine.
            assert simulated.calls["listVirtualMachines"] == MACHINES // 500
            assert simulated.calls["listVolumes"] == MACHINES // 500
        found += [item.name for item in page.items]
        token, pages = page.nextPageToken, pages + 1
        if pages == 3:
            break
    assert found == [f"m-{number:05}" for number in range(1500)]
    assert token


def test_one_of_ten_thousand_is_one_question(simulated: Cloud, scope: Scope) -> None:
    fill(simulated)
    request = pb.GetInstanceRequest(project="demo", zone="ch-gv2", instance="m-09999")
    METHODS["Instances.Get"].function(scope, request)
    simulated.app.calls.clear()
    METHODS["Instances.Get"].function(scope, request)
    # A machine made elsewhere: its disks, and others of its disk's name, whatever the number of machines.
    assert simulated.calls == {"listVirtualMachines": 1, "listVolumes": 3}
