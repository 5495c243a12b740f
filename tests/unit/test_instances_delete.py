"""instances.delete: what goes with the machine, what stays, and what may not be deleted."""

from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from simulator.families.jobs import restart
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, first, job, machine, until, volume
from tests.unit.test_firewalls import insert as insert_firewall
from tests.unit.test_firewalls import rule
from tests.unit.test_instances import (
    IMAGE,
    NET_A,
    ZONE_LINK,
    Finish,
    delete,
    documents,
    done,
    get,
    insert,
    metadata,
    names,
    refused,
    row_of,
    wanted,
)
from translator_service.cloudstack.errors import CloudStackError
from translator_service.scope import Scope

pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def web(scope: Scope, operations: Finish) -> Scope:
    """A scope with the instance web-1."""
    done(scope, operations, insert(scope, wanted()))
    return scope


def disk_names(scope: Scope) -> list[str]:
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(project="demo", zone="ch-zh-1"))
    return [item.name for item in found.items]


def ephemeral(scope: Scope) -> list[dict[str, Any]]:
    return [row for row in scope.client.read("listPublicIpAddresses").items if not row.get("issourcenat")]


def test_everything_goes(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, insert_firewall(web, rule("ssh", "tcp:22", network="net-a")))
    identity = get(web).id
    assert ephemeral(web)
    sent = delete(web)
    assert (sent.operationType, sent.targetLink) == ("delete", f"{ZONE_LINK}/instances/web-1")
    assert (sent.targetId, sent.zone) == (identity, ZONE_LINK)
    done(web, operations, sent)
    assert names(web) == []
    assert disk_names(web) == []
    assert ephemeral(web) == []
    assert refused(lambda: get(web)).code == 404
    assert simulated.calls["destroyVirtualMachine"] == 1
    assert web.client.read("listVirtualMachines").items == []


def test_the_name_is_free_at_once(web: Scope, operations: Finish) -> None:
    done(web, operations, delete(web))
    done(web, operations, insert(web, wanted()))
    assert names(web) == ["web-1"]


def test_by_its_number(web: Scope, operations: Finish) -> None:
    done(web, operations, delete(web, str(get(web).id)))
    assert names(web) == []


def test_a_stopped_one(web: Scope, operations: Finish) -> None:
    job(web, "stopVirtualMachine", id=row_of(web)["id"])
    done(web, operations, delete(web))
    assert names(web) == []
    assert ephemeral(web) == []


def test_one_that_could_not_be_made(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    net = first(scope, "listNetworks", keyword="net-a")["id"]
    machine(scope, "other", networkids=net, ipaddress="10.1.1.77")
    with pytest.raises(CloudStackError):
        machine(scope, "web-1", networkids=net, ipaddress="10.1.1.77")
    assert get(scope).status == "TERMINATED"
    done(scope, operations, delete(scope))
    assert names(scope) == ["other"]


def test_while_it_runs(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "destroyVirtualMachine": 0.5}
    sent = delete(web)
    assert get(web).status == "STOPPING"
    assert refused(lambda: insert(web, wanted())).code == 409
    done(web, operations, sent)


def test_twice(web: Scope, operations: Finish) -> None:
    sent = [delete(web), delete(web)]
    for operation in sent:
        done(web, operations, operation)
    assert refused(lambda: delete(web)).code == 404


def test_unknown(scope: Scope, scope_for: OpenScope) -> None:
    error = refused(lambda: delete(scope, "nope"))
    assert (error.code, error.reason) == (404, "notFound")
    machine(scope, "web-1")
    other = scope_for("ian@example.org", account="ian@example.org")
    assert refused(lambda: delete(other)).code == 404
    assert refused(lambda: delete(other, row_of(scope)["id"])).code == 404


def test_groups_go_with_the_instance(scope: Scope, operations: Finish) -> None:
    for name in ("web-1", "web-2"):
        done(scope, operations, insert(scope, wanted(name), "ch-gv2"))
    done(scope, operations, delete(scope, zone="ch-gv2"))
    groups = sorted(row["name"].partition(".")[0] for row in scope.client.read("listSecurityGroups").items)
    assert groups == ["default", "gce-default", "gce-vm-web-2"]


def test_its_address_goes_from_the_rules_with_its_tag_as_source(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert_firewall(scope, rule("db", "tcp:5432", sourceTags=["front"])))
    done(scope, operations, insert(scope, wanted(tags=pb.Tags(items=["front"])), "ch-gv2"))
    done(scope, operations, insert(scope, wanted("web-2"), "ch-gv2"))

    def sources() -> list[str]:
        group = first(scope, "listSecurityGroups", securitygroupname="gce-default")
        return [row["cidr"] for row in group["ingressrule"]]

    assert sources() == [f"{get(scope, zone='ch-gv2').networkInterfaces[0].networkIP}/32"]
    done(scope, operations, delete(scope, zone="ch-gv2"))
    assert sources() == []


def test_large_metadata_goes_too(scope: Scope, operations: Finish) -> None:
    large = metadata(**{f"key-{index}": "x" * 2000 for index in range(10)})
    done(scope, operations, insert(scope, wanted(metadata=large)))
    assert documents(scope.store) == 1
    done(scope, operations, delete(scope))
    assert documents(scope.store) == 0


# What stays


def test_an_address_of_its_own_stays(scope: Scope, operations: Finish) -> None:
    net = first(scope, "listNetworks", keyword="net-a")["id"]
    machine(scope, "other", networkids=net)
    address = job(scope, "associateIpAddress", networkid=net)
    access = pb.AccessConfig(natIP=address["ipaddress"])
    resource = wanted(networkInterfaces=[pb.NetworkInterface(network=NET_A, accessConfigs=[access])])
    done(scope, operations, insert(scope, resource))
    done(scope, operations, delete(scope))
    (left,) = ephemeral(scope)
    assert (left["id"], left["isstaticnat"]) == (address["id"], False)


def test_addresses_of_others_stay(web: Scope, operations: Finish) -> None:
    done(web, operations, insert(web, wanted("web-2")))
    done(web, operations, delete(web))
    assert get(web, "web-2").networkInterfaces[0].accessConfigs[0].natIP
    assert len(ephemeral(web)) == 1


@pytest.mark.parametrize("auto_delete", [False, None])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_boot_disk_that_stays(scope: Scope, operations: Finish, auto_delete: bool | None, stopped: bool) -> None:
    """autoDelete is false when it is not sent."""
    disk = pb.AttachedDisk(boot=True, initializeParams=pb.AttachedDiskInitializeParams(sourceImage=IMAGE))
    if auto_delete is not None:
        disk.autoDelete = auto_delete
    done(scope, operations, insert(scope, wanted(disks=[disk])))
    if stopped:
        job(scope, "stopVirtualMachine", id=row_of(scope)["id"])
    done(scope, operations, delete(scope))
    assert names(scope) == []
    found = ask(scope, "Disks.Get", disks_pb2.GetDiskRequest(project="demo", zone="ch-zh-1", disk="web-1"))
    assert (found.status, list(found.users)) == ("READY", [])
    error = refused(lambda: insert(scope, wanted()))
    assert (error.code, error.message.split("'")[1]) == (409, "projects/demo/zones/ch-zh-1/disks/web-1")
    initial = pb.AttachedDiskInitializeParams(sourceImage=IMAGE, diskName="web-2")
    done(scope, operations, insert(scope, wanted(disks=[pb.AttachedDisk(boot=True, initializeParams=initial)])))
    assert get(scope).disks[0].source == f"{ZONE_LINK}/disks/web-2"
    assert disk_names(scope) == ["web-1", "web-2"]


def test_a_boot_disk_with_a_name_of_its_own_stays_with_it(scope: Scope, operations: Finish) -> None:
    initial = pb.AttachedDiskInitializeParams(sourceImage=IMAGE, diskName="web-boot")
    disk = pb.AttachedDisk(boot=True, autoDelete=False, initializeParams=initial)
    done(scope, operations, insert(scope, wanted(disks=[disk])))
    done(scope, operations, delete(scope))
    assert disk_names(scope) == ["web-boot"]


def test_data_disks_stay(web: Scope, operations: Finish) -> None:
    data = volume(web, "data-1")
    job(web, "attachVolume", id=data["id"], virtualmachineid=row_of(web)["id"])
    done(web, operations, delete(web))
    assert disk_names(web) == ["data-1"]
    assert "virtualmachineid" not in first(web, "listVolumes", id=data["id"])


# Where the account may not expunge


@pytest.mark.parametrize("told", [True, False])
def test_without_the_right_to_expunge(web: Scope, operations: Finish, simulated: Cloud, told: bool) -> None:
    """told: the capabilities say so; otherwise the role forbids it, which only the job tells."""
    if told:
        simulated.app.world.settings.user_may_expunge = False
    else:
        simulated.app.world.users_by_key["demo-api-key"].account.may_expunge = False
    simulated.app.world.settings.view_destroyed = True
    identity = row_of(web)["id"]
    done(web, operations, delete(web))
    assert simulated.calls["destroyVirtualMachine"] == (1 if told else 2)
    gone = first(web, "listVirtualMachines", id=identity)
    assert (gone["state"], gone["name"]) == ("Destroyed", f"x-{identity[:8]}")
    assert names(web) == []
    assert ephemeral(web) == []
    assert refused(lambda: get(web)).code == 404
    done(web, operations, insert(web, wanted()))
    assert names(web) == ["web-1"]


@pytest.mark.parametrize("told", [True, False])
def test_one_that_could_not_be_made_without_the_right_to_expunge(
    scope: Scope, operations: Finish, simulated: Cloud, told: bool
) -> None:
    """It takes no other name, in CloudStack, and needs none."""
    if told:
        simulated.app.world.settings.user_may_expunge = False
    else:
        simulated.app.world.users_by_key["demo-api-key"].account.may_expunge = False
    net = first(scope, "listNetworks", keyword="net-a")["id"]
    machine(scope, "other", networkids=net, ipaddress="10.1.1.77")
    with pytest.raises(CloudStackError):
        machine(scope, "web-1", networkids=net, ipaddress="10.1.1.77")
    done(scope, operations, delete(scope))
    assert names(scope) == ["other"]


@pytest.mark.parametrize("told", [True, False])
def test_a_destroy_that_fails_leaves_the_machine_its_name(
    web: Scope, operations: Finish, simulated: Cloud, told: bool
) -> None:
    simulated.app.world.settings.user_may_expunge = not told
    simulated.app.faults.append(Fault("status", "destroyVirtualMachine", status=530, count=1 if told else 2))
    assert operations(web, delete(web))["error"]["code"] == "INTERNAL_ERROR"
    assert get(web).status == "RUNNING"
    done(web, operations, delete(web))
    assert names(web) == []


@pytest.mark.parametrize("expunge", [True, False])
@pytest.mark.parametrize("zone", ["ch-zh-1", "ch-gv2"])
def test_a_restart_of_cloudstack(scope: Scope, operations: Finish, simulated: Cloud, zone: str, expunge: bool) -> None:
    simulated.app.world.settings.user_may_expunge = expunge
    done(scope, operations, insert(scope, wanted(), zone))
    simulated.app.world.settings.job_seconds = {"": 0.02, "destroyVirtualMachine": 3600.0}
    sent = delete(scope, zone=zone)
    until(lambda: simulated.calls.get("destroyVirtualMachine", 0) > 0)
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=True)
    done(scope, operations, sent)
    assert names(scope, zone) == []
    done(scope, operations, insert(scope, wanted(), zone))


def test_a_group_of_a_machine_that_is_not_expunged_yet(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.user_may_expunge = False
    done(scope, operations, insert(scope, wanted(), "ch-gv2"))
    done(scope, operations, delete(scope, zone="ch-gv2"))
    done(scope, operations, insert(scope, wanted(), "ch-gv2"))
    assert names(scope, "ch-gv2") == ["web-1"]


# What may not be deleted, and failures


def test_protected(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, wanted(deletionProtection=True)))
    error = refused(lambda: delete(scope))
    assert (error.code, error.reason) == (400, "invalidUsage")
    assert "protected against deletion" in error.message
    assert "destroyVirtualMachine" not in simulated.calls
    scope.client.write("updateVirtualMachine", id=row_of(scope)["id"], deleteprotection="false")
    done(scope, operations, delete(scope))


def test_protected_elsewhere_in_the_meantime(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "destroyVirtualMachine", status=431, text="protected [7]"))
    row = operations(web, delete(web))
    assert (row["error"]["code"], row["error"]["status"]) == ("INVALID_USAGE", 400)
    assert names(web) == ["web-1"]
    assert len(ephemeral(web)) == 1


def test_an_answer_that_is_lost(web: Scope, operations: Finish, simulated: Cloud) -> None:
    for command in ("destroyVirtualMachine", "disassociateIpAddress"):
        simulated.app.faults.append(Fault("drop", command))
    done(web, operations, delete(web))
    assert names(web) == []
    assert ephemeral(web) == []
    assert simulated.calls["destroyVirtualMachine"] == 1


def test_an_address_that_cannot_be_given_back_is_told(web: Scope, operations: Finish, simulated: Cloud) -> None:
    """The machine is gone: an error would say that it is not, and nobody could delete it again."""
    simulated.app.faults.append(Fault("status", "disassociateIpAddress", status=531))
    (address,) = ephemeral(web)
    row = operations(web, delete(web))
    assert row["error"] is None
    (warning,) = row["warnings"]
    assert warning["code"] == "CLEANUP_FAILED"
    assert address["ipaddress"] in warning["message"]
    assert names(web) == []
