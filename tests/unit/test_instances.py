"""Instances: how machines are shown, found, started and stopped, and how what GCE knows of them is kept."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, operations_pb2, projects_pb2
from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.app import Fault
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask, first, job, machine, volume
from tests.unit.test_firewalls import insert as insert_firewall
from tests.unit.test_firewalls import rule
from tests.waits import LONG
from translator_service import places
from translator_service.gce.naming import number
from translator_service.kept import details
from translator_service.kept.store import Store
from translator_service.operations import engine
from translator_service.places import Zone
from translator_service.resources.common_metadata import common_items
from translator_service.resources.instances import change, find, view
from translator_service.scope import Scope

ROOT = "https://www.googleapis.com/compute/v1/projects/demo"
ZONE_LINK = f"{ROOT}/zones/ch-zh-1"
ISOLATED = Zone("ch-zh-1", "a4fe2e11-8416-4893-91e3-56fee3ef9cfa", "ch-zh", False)
GROUPS = Zone("ch-gv2", "1e841edf-3cdf-440c-9133-6ebfdb8373da", "ch", True)
IMAGE = "linux-debian-12-64-bit"
NET_A = "global/networks/net-a"
Finish = Callable[..., Any]

LISTED = {row["name"]: row for row in recorded_rows("c-instances", "listVirtualMachines details=nics,tmpl,servoff")}
VM_1, VM_2, VM_3, CUSTOM = (LISTED[name] for name in ("vm-1", "vm-2", "vm-3", "vm-custom"))
(TWO_NICS,) = recorded_rows("c-instances", "listVirtualMachines with two nics")
SG_1 = recorded_rows("h-security-groups", "listVirtualMachines details=secgrp,nics")[0]
LOWER, UPPER = recorded_rows("c2-instances-more", "listVirtualMachines by name matches both")
ATTACHED = recorded_rows("d-volumes", "listVolumes attached")[0]
ROOT_VOLUME = recorded_rows("d-volumes", "listVolumes")[0]


def while_state(file: str, what: str, state: str) -> dict[str, Any]:
    return recorded_rows(file, f"{what}: listVirtualMachines while state={state}")[0]


pytestmark = pytest.mark.usefixtures("quick_jobs")


# What these tests and those of insert and delete do


def wanted(name: str = "web-1", **fields: Any) -> pb.Instance:
    """What a client sends for a small instance with an external address."""
    body: dict[str, Any] = {
        "machineType": "zones/ch-zh-1/machineTypes/micro",
        "disks": [
            pb.AttachedDisk(
                boot=True, autoDelete=True, initializeParams=pb.AttachedDiskInitializeParams(sourceImage=IMAGE)
            )
        ],
        "networkInterfaces": [pb.NetworkInterface(network=NET_A, accessConfigs=[pb.AccessConfig()])],
    }
    return pb.Instance(name=name, **{**body, **fields})


def insert(scope: Scope, resource: pb.Instance, zone: str = "ch-zh-1", **options: Any) -> operations_pb2.Operation:
    if zone != "ch-zh-1":
        resource.machineType = resource.machineType.replace("ch-zh-1", zone)
        for interface in resource.networkInterfaces:
            interface.network = "" if interface.network == NET_A else interface.network
    request = pb.InsertInstanceRequest(project="demo", zone=zone, resource=resource, **options)
    found = ask(scope, "Instances.Insert", request)
    assert isinstance(found, operations_pb2.Operation)
    return found


def delete(scope: Scope, name: str = "web-1", zone: str = "ch-zh-1") -> operations_pb2.Operation:
    found = ask(scope, "Instances.Delete", pb.DeleteInstanceRequest(project="demo", zone=zone, instance=name))
    assert isinstance(found, operations_pb2.Operation)
    return found


def get(scope: Scope, name: str = "web-1", zone: str = "ch-zh-1") -> pb.Instance:
    found = ask(scope, "Instances.Get", pb.GetInstanceRequest(project="demo", zone=zone, instance=name))
    assert isinstance(found, pb.Instance)
    return found


def names(scope: Scope, zone: str = "ch-zh-1", **options: Any) -> list[str]:
    found = ask(scope, "Instances.List", common_pb2.ListInZoneRequest(project="demo", zone=zone, **options))
    return [item.name for item in found.items]


def row_of(scope: Scope, name: str = "web-1") -> dict[str, Any]:
    """CloudStack's view of a machine."""
    return first(scope, "listVirtualMachines", name=name)


def user_data(scope: Scope, name: str = "web-1") -> str:
    """What the guest gets, decoded."""
    row = scope.client.read("getVirtualMachineUserData", virtualmachineid=row_of(scope, name)["id"]).one()
    return base64.b64decode(row.get("userdata", "")).decode()


def metadata(**items: str) -> common_pb2.Metadata:
    return common_pb2.Metadata(items=[common_pb2.Metadata.Items(key=key, value=value) for key, value in items.items()])


def done(scope: Scope, operations: Finish, operation: operations_pb2.Operation) -> Any:
    """The finished row of an operation that must succeed."""
    row = operations(scope, operation)
    assert not row["error"], row["error"]
    return row


def refused(call: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        call()
    return error.value


# How machines are shown


def shown(scope: Scope, row: dict[str, Any], zone: Zone = ISOLATED, **options: Any) -> pb.Instance:
    volumes, busy = options.get("volumes", []), options.get("busy")
    return view.to_instance(scope, zone, options.get("name", row["name"].lower()), row, volumes, busy)


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (while_state("c-instances", "deployVirtualMachine first VM", "Stopped"), "PROVISIONING"),
        (while_state("c-instances", "deployVirtualMachine startvm=false", "Stopped"), "PROVISIONING"),
        (while_state("c-instances", "deployVirtualMachine first VM", "Starting"), "STAGING"),
        (while_state("c-instances", "deployVirtualMachine first VM", "Running"), "RUNNING"),
        (while_state("c2-instances-more", "stopVirtualMachine", "Stopping"), "STOPPING"),
        (while_state("c2-instances-more", "stopVirtualMachine", "Stopped"), "TERMINATED"),
        (while_state("c2-instances-more", "startVirtualMachine", "Stopped"), "TERMINATED"),
        (while_state("c2-instances-more", "startVirtualMachine", "Starting"), "STAGING"),
        (while_state("c-instances", "destroyVirtualMachine expunge=true", "Stopping"), "STOPPING"),
        (while_state("c-instances", "deployVirtualMachine that fits on no host", "Stopped"), "PROVISIONING"),
        (while_state("c-instances", "deployVirtualMachine that fits on no host", "Error"), "TERMINATED"),
        (VM_3, "TERMINATED"),
        ({**VM_1, "state": "Migrating"}, "RUNNING"),
        ({**VM_1, "state": "Shutdown"}, "TERMINATED"),
        ({**VM_1, "state": "Restoring"}, "REPAIRING"),
        ({**VM_1, "state": "Unknown"}, "REPAIRING"),
        ({**VM_1, "state": "NeverHeardOf"}, "REPAIRING"),
    ],
)
def test_status(row: dict[str, Any], status: str) -> None:
    assert view.status(row, None) == status


@pytest.mark.parametrize(
    ("state", "under_way", "status"),
    [
        ("Stopped", "insert", "PROVISIONING"),
        ("Starting", "insert", "STAGING"),
        ("Running", "insert", "RUNNING"),
        ("Error", "insert", "TERMINATED"),
        ("Running", "stop", "STOPPING"),
        ("Stopped", "start", "STAGING"),
        ("Running", "delete", "STOPPING"),
        ("Stopped", "delete", "STOPPING"),
        ("Running", "setTags", "RUNNING"),
        ("Stopped", "setLabels", "TERMINATED"),
        ("Running", "reset", "RUNNING"),
    ],
)
def test_status_with_an_operation(state: str, under_way: str, status: str) -> None:
    assert view.status({**VM_1, "state": state}, under_way) == status


def test_a_running_machine(scope: Scope) -> None:
    found = shown(scope, VM_1)
    assert (found.kind, found.id, found.name) == ("compute#instance", number(VM_1["id"]), "vm-1")
    assert found.creationTimestamp == "2026-11-22T15:24:26.000-08:00"
    assert (found.lastStartTimestamp, found.lastStopTimestamp) == ("2026-11-22T15:24:28.000-08:00", "")
    assert (found.zone, found.selfLink) == (ZONE_LINK, f"{ZONE_LINK}/instances/vm-1")
    assert found.machineType == f"{ZONE_LINK}/machineTypes/small"
    assert found.HasField("deletionProtection") and not found.deletionProtection
    assert found.HasField("canIpForward") and not found.canIpForward
    assert (found.description, found.statusMessage) == ("", "")


def test_what_terraform_reads_without_looking_is_there(scope: Scope) -> None:
    found = shown(scope, VM_1)
    for field in ("tags", "metadata", "scheduling"):
        assert found.HasField(field)
    assert found.scheduling == pb.Scheduling(
        automaticRestart=True, onHostMaintenance="MIGRATE", preemptible=False, provisioningModel="STANDARD"
    )
    for fingerprint in (found.fingerprint, found.labelFingerprint, found.tags.fingerprint, found.metadata.fingerprint):
        assert len(fingerprint) == 8


def test_a_machine_that_could_not_be_made(scope: Scope) -> None:
    found = shown(scope, while_state("c-instances", "deployVirtualMachine that fits on no host", "Error"))
    assert (found.status, found.statusMessage) == ("TERMINATED", "The instance could not be created.")


def test_a_stopped_machine_tells_since_when(scope: Scope) -> None:
    found = shown(scope, while_state("c2-instances-more", "stopVirtualMachine", "Stopped"))
    assert (found.lastStopTimestamp, found.lastStartTimestamp) == ("2026-11-22T15:55:41.000-08:00", "")


def test_a_free_size_is_told_by_the_machine(scope: Scope) -> None:
    own = first(scope, "listServiceOfferings", name="Custom")["id"]
    found = shown(scope, {**CUSTOM, "serviceofferingid": own})
    assert found.machineType == f"{ZONE_LINK}/machineTypes/custom-3-1536"


def test_an_isolated_network(scope: Scope) -> None:
    nic = {**VM_1["nic"][0], "publicip": "192.0.2.7"}
    (interface,) = shown(scope, {**VM_1, "nic": [nic]}).networkInterfaces
    assert (interface.name, interface.networkIP) == ("nic0", "10.1.1.123")
    assert interface.network == f"{ROOT}/global/networks/net-a"
    assert interface.subnetwork.startswith(f"{ROOT}/regions/ch-zh/subnetworks/")
    (access,) = interface.accessConfigs
    assert (access.natIP, access.type, access.name) == ("192.0.2.7", "ONE_TO_ONE_NAT", "external-nat")
    (without,) = shown(scope, VM_1).networkInterfaces
    assert not without.accessConfigs
    assert without.fingerprint != interface.fingerprint


def test_two_interfaces(scope: Scope) -> None:
    found = shown(scope, TWO_NICS).networkInterfaces
    assert [one.name for one in found] == [f"nic{nic['deviceid']}" for nic in TWO_NICS["nic"]]
    assert [one.networkIP for one in found] == [nic["ipaddress"] for nic in TWO_NICS["nic"]]


def test_a_zone_with_security_groups(scope: Scope) -> None:
    """The guest's address is the external one."""
    shared = first(scope, "listNetworks", keyword="Shared")["id"]
    row = {**SG_1, "nic": [{**SG_1["nic"][0], "networkid": shared}]}
    (interface,) = shown(scope, row, GROUPS).networkInterfaces
    assert interface.network == f"{ROOT}/global/networks/default"
    assert interface.networkIP == interface.accessConfigs[0].natIP == "10.147.31.22"
    closed = {"details": details.pack(details.CONFIG, {"external": False})}
    assert not shown(scope, {**row, **closed}, GROUPS).networkInterfaces[0].accessConfigs


def test_no_interface_yet(scope: Scope) -> None:
    row = {key: value for key, value in VM_1.items() if key != "nic"}
    assert not shown(scope, row).networkInterfaces


def test_disks_of_a_machine_made_elsewhere(scope: Scope) -> None:
    found = shown(scope, VM_1, volumes=[ATTACHED, ROOT_VOLUME]).disks
    assert [(disk.boot, disk.index) for disk in found] == [(True, 0), (False, 1)]
    assert [disk.source for disk in found] == [f"{ZONE_LINK}/disks/vm-1", f"{ZONE_LINK}/disks/disk-1"]
    assert [disk.deviceName for disk in found] == ["vm-1", "disk-1"]
    assert [disk.diskSizeGb for disk in found] == [15, 12]
    assert [disk.autoDelete for disk in found] == [True, False]
    assert {(disk.type, disk.mode, disk.interface, disk.kind) for disk in found} == {
        ("PERSISTENT", "READ_WRITE", "SCSI", "compute#attachedDisk")
    }


def test_disks_of_a_machine_made_here(scope: Scope) -> None:
    disk = {"name": "boot", "deviceName": "sda", "autoDelete": False, "sizeGb": 20, "interface": "NVME"}
    (found,) = shown(scope, {**VM_1, "details": details.pack(details.DISK, disk)}, volumes=None).disks
    assert (found.source, found.deviceName) == (f"{ZONE_LINK}/disks/boot", "sda")
    assert (found.diskSizeGb, found.autoDelete, found.interface, found.boot) == (20, False, "NVME", True)


def test_what_is_kept_in_details(scope: Scope) -> None:
    kept = {
        **details.pack(details.TAGS, ["http-server", "ssh"]),
        **details.pack(details.LABELS, {"env": "tëst"}),
        **details.pack(details.METADATA, {"motd": 'Grüezi \U0001f600 "\\u0041" <&>'}),
        **details.pack(
            details.CONFIG,
            {
                "description": "a",
                "canIpForward": True,
                "hostname": "web-1.example.org",
                "scheduling": {"preemptible": True, "onHostMaintenance": "TERMINATE"},
                "serviceAccounts": [{"email": "default", "scopes": ["compute"]}],
                "shieldedInstanceConfig": {"enableVtpm": True},
                "accessConfig": "nat",
            },
        ),
        "other": "kept by somebody else",
    }
    found = shown(scope, {**VM_1, "details": kept, "nic": [{**VM_1["nic"][0], "publicip": "192.0.2.7"}]})
    assert list(found.tags.items) == ["http-server", "ssh"]
    assert dict(found.labels) == {"env": "tëst"}
    assert {item.key: item.value for item in found.metadata.items} == {"motd": 'Grüezi \U0001f600 "\\u0041" <&>'}
    assert (found.description, found.canIpForward, found.hostname) == ("a", True, "web-1.example.org")
    assert found.scheduling == pb.Scheduling(
        automaticRestart=False, onHostMaintenance="TERMINATE", preemptible=True, provisioningModel="STANDARD"
    )
    assert [(one.email, list(one.scopes)) for one in found.serviceAccounts] == [("default", ["compute"])]
    assert found.shieldedInstanceConfig.enableVtpm
    assert found.networkInterfaces[0].accessConfigs[0].name == "nat"
    without = shown(scope, VM_1)
    assert found.tags.fingerprint != without.tags.fingerprint
    assert found.labelFingerprint != without.labelFingerprint
    assert found.metadata.fingerprint != without.metadata.fingerprint


def test_details_of_others_that_look_like_ours(scope: Scope) -> None:
    """The recorded machine has details of another gateway, as plain text."""
    assert VM_2["details"]["gce.tags"].startswith("http-server")
    found = shown(scope, VM_2)
    assert not found.tags.items
    assert dict(found.labels) == {"env": "test"}


@pytest.mark.parametrize("value", [["a"], "text", 5, None])
def test_details_of_a_wrong_kind(scope: Scope, value: Any) -> None:
    """A user can write anything there; the machine is shown all the same."""
    keys = (details.TAGS, details.LABELS, details.METADATA, details.CONFIG, details.DISK)
    wrong = {key: details.encode(value) for key in keys}
    found = shown(scope, {**VM_1, "details": wrong}, volumes=[ROOT_VOLUME])
    assert (found.name, dict(found.labels), list(found.metadata.items)) == ("vm-1", {}, [])
    assert found.disks[0].source == f"{ZONE_LINK}/disks/vm-1"


def test_names(scope: Scope) -> None:
    gone = {**VM_1, "id": VM_1["id"][::-1], "state": "Destroyed"}
    (destroyed,) = recorded_rows(
        "c2-instances-more", "listVirtualMachines destroyed as user (allow.user.view.destroyed.vm=true)"
    )
    index = view.index(scope, [UPPER, gone, {**VM_2, "state": "Expunging"}, LOWER, VM_1, destroyed])
    assert [name for name, _ in index] == ["dyn-1", f"dyn-1-{UPPER['id'][:8]}", "vm-1"]
    assert index.name(LOWER["id"]) == "dyn-1"


# Reading


@pytest.fixture
def web(scope: Scope, operations: Finish) -> Scope:
    """A scope with the instance web-1."""
    resource = wanted(
        labels={"env": "test"}, tags=pb.Tags(items=["http-server"]), metadata=metadata(motd="Grüezi \U0001f600")
    )
    done(scope, operations, insert(scope, resource))
    return scope


def test_calls(web: Scope, operations: Finish, simulated: Cloud) -> None:
    get(web)
    simulated.app.calls.clear()
    found = get(web)
    assert simulated.calls == {"listVirtualMachines": 1}
    simulated.app.calls.clear()
    assert names(web) == ["web-1"]
    assert simulated.calls == {"listVirtualMachines": 1, "listVolumes": 1}
    simulated.app.calls.clear()
    every = ask(web, "Instances.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    assert simulated.calls == {"listVirtualMachines": 1, "listVolumes": 1}
    assert list(every.items["zones/ch-zh-1"].instances) == [found]


def test_get_and_list_show_the_same(web: Scope) -> None:
    listed = ask(web, "Instances.List", common_pb2.ListInZoneRequest(project="demo", zone="ch-zh-1"))
    assert list(listed.items) == [get(web)]
    assert (listed.kind, listed.selfLink) == ("compute#instanceList", f"{ZONE_LINK}/instances")


def test_get_by_every_name(web: Scope) -> None:
    found = get(web)
    identity = row_of(web)["id"]
    for name in (identity, identity.upper(), str(found.id)):
        assert get(web, name) == found


def test_get_by_a_number_not_seen_before(scope: Scope) -> None:
    made = machine(scope, "web-1")
    assert get(scope, str(number(made["id"]))).name == "web-1"


def test_get_with_disks_of_a_machine_made_elsewhere(scope: Scope) -> None:
    made = machine(scope, "Web-1")
    data = volume(scope, "data-1")
    job(scope, "attachVolume", id=data["id"], virtualmachineid=made["id"])
    found = get(scope, "web-1")
    assert found.name == "web-1"
    assert [disk.source for disk in found.disks] == [f"{ZONE_LINK}/disks/web-1", f"{ZONE_LINK}/disks/data-1"]
    assert get(scope, "Web-1") == found


def test_names_that_differ_in_case(scope: Scope) -> None:
    older, newer = machine(scope, "web-1"), machine(scope, "WEB-1")
    other = f"web-1-{newer['id'][:8]}"
    assert names(scope) == ["web-1", other]
    assert get(scope, "web-1").id == number(older["id"])
    assert get(scope, other).id == number(newer["id"])
    assert get(scope, "WEB-1").id == number(newer["id"])


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "web-1-1a2b3c4d",
        "33333333-1111-4111-8111-111111111111",
        "12345",
        "²",
        "9" * 1000,
        "\U0001f600",
        "a" * 300,
    ],
)
def test_get_unknown(scope: Scope, name: str) -> None:
    error = refused(lambda: get(scope, name))
    assert error.code == 404
    assert error.message == f"The resource 'projects/demo/zones/ch-zh-1/instances/{name}' was not found"


def test_get_in_another_zone(web: Scope) -> None:
    assert refused(lambda: get(web, zone="ch-gv2")).code == 404
    assert refused(lambda: get(web, row_of(web)["id"], zone="ch-gv2")).code == 404
    assert names(web, "ch-gv2") == []


def test_destroyed_machines_are_hidden(scope: Scope, simulated: Cloud) -> None:
    simulated.app.world.settings.view_destroyed = True
    made = machine(scope, "web-1")
    job(scope, "destroyVirtualMachine", id=made["id"])
    assert row_of(scope)["state"] == "Destroyed"
    assert names(scope) == []
    for name in ("web-1", made["id"]):
        assert refused(lambda name=name: get(scope, name)).code == 404
    every = ask(scope, "Instances.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    assert not every.items["zones/ch-zh-1"].instances


def test_other_accounts_see_nothing(web: Scope, scope_for: OpenScope) -> None:
    other = scope_for("ian@example.org", account="ian@example.org")
    assert names(other) == []
    for name in ("web-1", row_of(web)["id"], str(get(web).id)):
        assert refused(lambda name=name: get(other, name)).code == 404


def test_list_filters_and_pages(scope: Scope) -> None:
    for name in ("web-1", "web-2", "db-1"):
        machine(scope, name)
    assert names(scope) == ["db-1", "web-1", "web-2"]
    assert names(scope, filter="name=web-*") == ["web-1", "web-2"]
    assert names(scope, filter="status=TERMINATED") == []
    request = common_pb2.ListInZoneRequest(project="demo", zone="ch-zh-1", maxResults=2)
    page = ask(scope, "Instances.List", request)
    assert [item.name for item in page.items] == ["db-1", "web-1"]
    assert names(scope, maxResults=2, pageToken=page.nextPageToken) == ["web-2"]


def test_aggregated_list(scope: Scope) -> None:
    machine(scope, "here")
    machine(scope, "here", zone="ch-gv2")
    request = common_pb2.AggregatedListRequest(project="demo")
    found = ask(scope, "Instances.AggregatedList", request)
    assert {key: [one.name for one in value.instances] for key, value in found.items.items()} == {
        "zones/ch-gv2": ["here"],
        "zones/ch-zh-1": ["here"],
    }
    request.filter = "zone eq .*ch-gv2"
    filtered = ask(scope, "Instances.AggregatedList", request)
    assert filtered.items["zones/ch-zh-1"].warning.code == "NO_RESULTS_ON_PAGE"
    request = common_pb2.AggregatedListRequest(project="demo", includeAllScopes=True)
    assert {"global", "regions/ch-zh"} <= set(ask(scope, "Instances.AggregatedList", request).items)


# Life cycle


def act(scope: Scope, method: str, name: str = "web-1") -> operations_pb2.Operation:
    request_type = {
        "Start": pb.StartInstanceRequest,
        "Stop": pb.StopInstanceRequest,
        "Reset": pb.ResetInstanceRequest,
    }[method]
    found = ask(scope, f"Instances.{method}", request_type(project="demo", zone="ch-zh-1", instance=name))
    assert isinstance(found, operations_pb2.Operation)
    return found


def test_stop_and_start(web: Scope, operations: Finish, simulated: Cloud) -> None:
    sent = act(web, "Stop")
    assert (sent.operationType, sent.targetLink) == ("stop", f"{ZONE_LINK}/instances/web-1")
    assert (sent.targetId, sent.zone) == (get(web).id, ZONE_LINK)
    done(web, operations, sent)
    assert get(web).status == "TERMINATED"
    assert get(web).lastStopTimestamp
    done(web, operations, act(web, "Start"))
    assert get(web).status == "RUNNING"


def test_stop_and_start_again_do_nothing(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, act(web, "Start"))
    assert "startVirtualMachine" not in simulated.calls
    done(web, operations, act(web, "Stop"))
    done(web, operations, act(web, "Stop"))
    assert simulated.calls["stopVirtualMachine"] == 1


def test_what_is_sent_together_is_done_in_turn(web: Scope, operations: Finish) -> None:
    """CloudStack would refuse the start while it stops (recordings, Surprises 5)."""
    sent = [act(web, method) for method in ("Stop", "Start", "Stop")]
    for operation in sent:
        done(web, operations, operation)
    assert get(web).status == "TERMINATED"


def test_status_while_an_operation_runs(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.5}
    sent = act(web, "Stop")
    assert get(web).status == "STOPPING"
    done(web, operations, sent)
    sent = act(web, "Start")
    assert get(web).status == "STAGING"
    assert names(web, filter="status=STAGING") == ["web-1"]
    done(web, operations, sent)
    assert get(web).status == "RUNNING"


def test_reset(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, act(web, "Reset"))
    assert simulated.calls["rebootVirtualMachine"] == 1
    done(web, operations, act(web, "Stop"))
    error = refused(lambda: act(web, "Reset"))
    assert (error.code, error.reason) == (400, "resourceNotReady")


@pytest.mark.parametrize("method", ["Start", "Stop", "Reset"])
def test_unknown_instances_do_nothing(scope: Scope, method: str) -> None:
    assert refused(lambda: act(scope, method, "nope")).code == 404


def test_start_of_one_deleted_meanwhile(web: Scope, operations: Finish) -> None:
    done(web, operations, act(web, "Stop"))
    sent = [delete(web), act(web, "Start")]
    done(web, operations, sent[0])
    assert operations(web, sent[1])["error"]["code"] == "RESOURCE_NOT_FOUND"


# Changing what is kept


def set_tags(scope: Scope, *tags: str, fingerprint: bytes = b"", **options: Any) -> operations_pb2.Operation:
    options = {"zone": "ch-zh-1", "instance": "web-1", **options}
    resource = pb.Tags(items=tags, fingerprint=fingerprint)
    return ask(scope, "Instances.SetTags", pb.SetTagsInstanceRequest(project="demo", resource=resource, **options))


def set_labels(scope: Scope, fingerprint: bytes = b"", **labels: str) -> operations_pb2.Operation:
    resource = pb.InstancesSetLabelsRequest(labels=labels, labelFingerprint=fingerprint)
    request = pb.SetLabelsInstanceRequest(project="demo", zone="ch-zh-1", instance="web-1", resource=resource)
    return ask(scope, "Instances.SetLabels", request)


def set_metadata(scope: Scope, fingerprint: bytes = b"", **items: str) -> operations_pb2.Operation:
    resource = metadata(**items)
    resource.fingerprint = fingerprint
    request = pb.SetMetadataInstanceRequest(project="demo", zone="ch-zh-1", instance="web-1", resource=resource)
    return ask(scope, "Instances.SetMetadata", request)


def items_of(scope: Scope) -> dict[str, str]:
    return {item.key: item.value for item in get(scope).metadata.items}


def test_set_tags(web: Scope, operations: Finish) -> None:
    before = get(web)
    sent = set_tags(web, "ssh", "db", "ssh", fingerprint=before.tags.fingerprint)
    assert sent.operationType == "setTags"
    done(web, operations, sent)
    after = get(web)
    assert list(after.tags.items) == ["db", "ssh"]
    assert (after.labels, after.metadata, after.disks) == (before.labels, before.metadata, before.disks)
    done(web, operations, set_tags(web))
    assert not get(web).tags.items
    done(web, operations, set_tags(web, "http-server"))
    assert get(web).tags.fingerprint == before.tags.fingerprint


def test_set_tags_moves_the_firewall_rules(web: Scope, operations: Finish) -> None:
    open_ssh = rule("ssh", "tcp:22", network="net-a", targetTags=["ssh"], sourceRanges=["10.0.0.0/8"])
    done(web, operations, insert_firewall(web, open_ssh))
    address = first(web, "listPublicIpAddresses", isstaticnat="true")["id"]

    def ports() -> list[int]:
        return [row["startport"] for row in web.client.read("listFirewallRules", ipaddressid=address).items]

    assert ports() == []
    done(web, operations, set_tags(web, "ssh"))
    assert ports() == [22]
    done(web, operations, set_tags(web, "http-server"))
    assert ports() == []


def test_set_tags_moves_the_rules_of_groups(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert_firewall(scope, rule("ssh", "tcp:22", targetTags=["ssh"])))
    done(scope, operations, insert(scope, wanted(), "ch-gv2"))

    def ports() -> list[int]:
        group = first(scope, "listSecurityGroups", keyword="gce-vm-web-1.")
        return [row["startport"] for row in group["ingressrule"]]

    assert ports() == []
    done(scope, operations, set_tags(scope, "ssh", zone="ch-gv2"))
    assert ports() == [22]


def test_set_labels(web: Scope, operations: Finish) -> None:
    before = get(web)
    done(web, operations, set_labels(web, before.labelFingerprint, env="prod", empty=""))
    after = get(web)
    assert dict(after.labels) == {"env": "prod", "empty": ""}
    assert (after.tags, after.metadata, after.disks) == (before.tags, before.metadata, before.disks)
    done(web, operations, set_labels(web))
    assert not get(web).labels
    done(web, operations, set_labels(web, env="test"))
    assert get(web).labelFingerprint == before.labelFingerprint


def test_set_labels_keeps_what_others_wrote(web: Scope, operations: Finish) -> None:
    row = row_of(web)
    kept = {**row["details"], "vendor.note": "ünchanged"}
    web.client.write("updateVirtualMachine", id=row["id"], **details.parameters(kept))
    before = row_of(web)["details"]
    done(web, operations, set_labels(web, env="prod"))
    after = row_of(web)["details"]
    assert after.pop(details.LABELS) != before.pop(details.LABELS)
    assert after == before
    assert after["vendor.note"] == "ünchanged"


def test_the_last_label_of_a_machine_made_elsewhere(scope: Scope, operations: Finish) -> None:
    machine(scope, "web-1")
    done(scope, operations, set_labels(scope, env="prod"))
    assert dict(get(scope).labels) == {"env": "prod"}
    done(scope, operations, set_labels(scope))
    assert not get(scope).labels


def test_a_free_size_stays_when_labels_change(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(machineType="custom-2-4096")))
    done(scope, operations, set_labels(scope, env="prod"))
    assert get(scope).machineType == f"{ZONE_LINK}/machineTypes/custom-2-4096"
    assert dict(get(scope).labels) == {"env": "prod"}


def test_set_metadata(web: Scope, operations: Finish) -> None:
    before = get(web)
    assert lines_of_keys(web) == []
    done(web, operations, set_metadata(web, before.metadata.fingerprint, **{"startup-script": "echo hí", "a": "1"}))
    assert items_of(web) == {"startup-script": "echo hí", "a": "1"}
    assert base64.b64encode("echo hí".encode()).decode() in user_data(web)
    done(web, operations, set_metadata(web, motd="Grüezi \U0001f600"))
    assert get(web).metadata == before.metadata


def test_a_script_that_is_taken_away_runs_no_more(web: Scope, operations: Finish) -> None:
    done(web, operations, set_metadata(web, **{"startup-script": "echo secret"}))
    assert "echo secret" in user_data(web)
    done(web, operations, set_metadata(web, a="1"))
    assert "echo secret" not in user_data(web) and "#cloud-boothook" in user_data(web)
    done(web, operations, set_metadata(web, **{"user-data": "#!/bin/sh\necho mine\n"}))
    assert "echo mine" in user_data(web) and "#:gstack keys" in user_data(web)


def test_user_data_of_nobody_elses_is_never_wrapped(web: Scope, operations: Finish) -> None:
    text = '{"ignition":{"version":"3.3.0"},"x":"a>b>c>d~"}'
    done(web, operations, set_metadata(web, **{"user-data": text}))
    assert user_data(web) == text
    done(web, operations, set_metadata(web, **{"user-data": text, "a": "1"}))
    assert user_data(web) == text
    done(web, operations, set_metadata(web, a="1"))
    assert lines_of_keys(web) == [] and "ignition" not in user_data(web)


@pytest.mark.parametrize(("sent", "kept"), [("+/+/", "+/+/"), ("%2B/%2B/", "+/+/"), ("%2B/+/", "+/8="), ("ab", "aQ==")])
def test_the_cloud_decodes_user_data_with_a_percent_as_a_part_of_a_url(web: Scope, sent: str, kept: str) -> None:
    """And makes no difference of a blank in base64, so that a plus gets lost."""
    web.client.write("updateVirtualMachine", id=row_of(web)["id"], userdata=sent)
    row = web.client.read("getVirtualMachineUserData", virtualmachineid=row_of(web)["id"]).one()
    assert row["userdata"] == kept


# The project's metadata and machines that are there


def set_common(scope: Scope, **items: str) -> operations_pb2.Operation:
    request = projects_pb2.SetCommonInstanceMetadataRequest(project="demo", resource=metadata(**items))
    return ask(scope, "Projects.SetCommonInstanceMetadata", request)


def lines_of_keys(scope: Scope, name: str = "web-1") -> list[str]:
    """What the guest reads of its user data once a minute. Fails for a guest that looks for nothing."""
    begin, mark, rest = user_data(scope, name).partition("#:gstack keys\n")
    assert mark, begin
    return rest.partition("#:gstack end\n")[0].splitlines()


ANN, JOE = "ann 0 ssh-rsa AAAA", "joe 0 ssh-rsa BBBB"


def test_a_key_of_the_project_reaches_the_guests_that_are_there(
    web: Scope, operations: Finish, simulated: Cloud
) -> None:
    """`gcloud compute ssh` makes its key, and puts it there, when the machine runs already."""
    blocked = metadata(**{"block-project-ssh-keys": "true", "ssh-keys": "joe:ssh-rsa BBBB"})
    done(web, operations, insert(web, wanted("web-2", metadata=blocked)))
    machine(web, "elsewhere", userdata=base64.b64encode(b"#!/bin/sh\n# theirs\n").decode())
    simulated.app.calls.clear()
    row = done(web, operations, set_common(web, **{"ssh-keys": "ann:ssh-rsa AAAA"}))
    assert not row["warnings"]
    assert (lines_of_keys(web), lines_of_keys(web, "web-2")) == ([ANN], [JOE])
    assert user_data(web, "elsewhere") == "#!/bin/sh\n# theirs\n"
    assert simulated.calls["updateVirtualMachine"] == 2
    done(web, operations, set_common(web))
    assert (lines_of_keys(web), lines_of_keys(web, "web-2")) == ([], [JOE])
    # What is not for guests leaves them alone.
    simulated.app.calls.clear()
    assert set_common(web, zone="a").status == "DONE"
    assert "updateVirtualMachine" not in simulated.calls


def test_a_key_of_the_project_comes_beside_user_data_too(web: Scope, operations: Finish) -> None:
    done(web, operations, set_metadata(web, **{"user-data": "#!/bin/sh\necho mine\n"}))
    done(web, operations, set_common(web, **{"ssh-keys": "ann:ssh-rsa AAAA"}))
    assert lines_of_keys(web) == [ANN] and "echo mine" in user_data(web)


def test_a_machine_that_cannot_be_given_it_is_named(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "updateVirtualMachine", status=530))
    (warning,) = done(web, operations, set_common(web, **{"ssh-keys": "ann:ssh-rsa AAAA"}))["warnings"]
    assert "'web-1'" in warning["message"]


def test_an_instance_gets_what_the_project_has_when_its_turn_comes(
    web: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project may have got it between the submit and the turn."""
    sent = threading.Event()
    real = change.machine

    def later(*arguments: Any) -> Any:
        assert sent.wait(LONG)
        return real(*arguments)

    monkeypatch.setattr(change, "machine", later)
    operation = set_metadata(web, **{"ssh-keys": "joe:ssh-rsa BBBB"})
    other = set_common(web, **{"ssh-keys": "ann:ssh-rsa AAAA"})
    done(web, operations, other)
    sent.set()
    done(web, operations, operation)
    assert lines_of_keys(web) == [JOE, ANN]


def test_a_project_that_cannot_begin_it_keeps_what_it_had(web: Scope) -> None:
    web.environment.settings = web.environment.settings.model_copy(update={"operations_unfinished": 0})
    assert refused(lambda: set_common(web, **{"ssh-keys": "ann:ssh-rsa AAAA"})).code == 429
    assert common_items(web) == {}


def documents(store: Store) -> int:
    with store.engine.connect() as connection:
        return int(connection.exec_driver_sql("select count(*) from documents").scalar_one())


def test_large_metadata(web: Scope, operations: Finish) -> None:
    """Details over 64 kB would make the machine's jobs unreadable (recordings, Surprises 4)."""
    large = {f"key-{n}": "ä" * 1000 for n in range(10)}
    done(web, operations, set_metadata(web, **large))
    assert items_of(web) == large
    assert sum(map(len, row_of(web)["details"].values())) < 2000
    assert documents(web.store) == 1
    before = get(web)
    done(web, operations, set_labels(web, env="prod"))
    assert get(web).metadata == before.metadata
    done(web, operations, set_metadata(web, **{**large, "key-0": "b"}))
    assert items_of(web)["key-0"] == "b"
    assert documents(web.store) == 1
    done(web, operations, set_metadata(web, a="1"))
    assert items_of(web) == {"a": "1"}
    assert documents(web.store) == 0


def test_metadata_of_several_details(web: Scope, operations: Finish) -> None:
    """One detail holds 5120 characters."""
    done(web, operations, set_metadata(web, a="x" * 9000))
    assert items_of(web) == {"a": "x" * 9000}
    assert f"{details.METADATA}.2" in row_of(web)["details"]
    done(web, operations, set_metadata(web, a="y"))
    assert items_of(web) == {"a": "y"}
    assert f"{details.METADATA}.1" not in row_of(web)["details"]


def test_metadata_without_end_is_refused(web: Scope) -> None:
    script = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(800))
    error = refused(lambda: set_metadata(web, **{"startup-script": script}))
    assert (error.code, error.location) == (400, "resource.items[0].value")
    error = refused(lambda: set_metadata(web, **{"enable-oslogin": "TRUE"}))
    assert (error.code, error.location) == (400, "resource.items[0].value")


def test_old_fingerprints(web: Scope) -> None:
    old = b"12345678"
    for call, what in (
        (lambda: set_tags(web, "a", fingerprint=old), "tags"),
        (lambda: set_labels(web, old, a="1"), "label"),
        (lambda: set_metadata(web, old, a="1"), "metadata"),
    ):
        error = refused(call)
        assert (error.code, error.reason) == (412, "conditionNotMet")
        assert error.message == f"Supplied fingerprint does not match current {what} fingerprint."


@pytest.mark.parametrize(
    ("tags", "location"),
    [(["a", "B"], "resource.items[1]"), ([""], "resource.items[0]"), ([f"t{n}" for n in range(65)], "resource.items")],
)
def test_bad_tags(scope: Scope, tags: list[str], location: str) -> None:
    error = refused(lambda: set_tags(scope, *tags))
    assert (error.code, error.location) == (400, location)


@pytest.mark.parametrize(
    ("labels", "location"),
    [
        ({"Env": "a"}, "resource.labels.Env"),
        ({"env": "A"}, "resource.labels.env"),
        ({"env": "a" * 64}, "resource.labels.env"),
        ({f"l{n}": "" for n in range(65)}, "resource.labels"),
    ],
)
def test_bad_labels(scope: Scope, labels: dict[str, str], location: str) -> None:
    error = refused(lambda: set_labels(scope, **labels))
    assert (error.code, error.location) == (400, location)


def test_bad_metadata(scope: Scope) -> None:
    assert refused(lambda: set_metadata(scope, **{"a b": "1"})).location == "resource.items[0].key"


def set_auto_delete(scope: Scope, device: str, **flag: bool) -> operations_pb2.Operation:
    common = {"project": "demo", "zone": "ch-zh-1", "instance": "web-1", "deviceName": device}
    return ask(scope, "Instances.SetDiskAutoDelete", pb.SetDiskAutoDeleteInstanceRequest(**common, **flag))


def test_set_disk_auto_delete(web: Scope, operations: Finish) -> None:
    device = get(web).disks[0].deviceName
    done(web, operations, set_auto_delete(web, device, autoDelete=False))
    assert not get(web).disks[0].autoDelete
    done(web, operations, set_auto_delete(web, device, autoDelete=True))
    assert get(web).disks[0].autoDelete
    assert refused(lambda: set_auto_delete(web, device)).location == "autoDelete"
    assert refused(lambda: set_auto_delete(web, "", autoDelete=True)).location == "deviceName"
    assert refused(lambda: set_auto_delete(web, "sdz", autoDelete=True)).location == "deviceName"


def test_set_disk_auto_delete_of_a_machine_made_elsewhere(scope: Scope, operations: Finish) -> None:
    made = machine(scope, "web-1")
    data = volume(scope, "data-1")
    job(scope, "attachVolume", id=data["id"], virtualmachineid=made["id"])
    done(scope, operations, set_auto_delete(scope, "data-1", autoDelete=True))
    done(scope, operations, set_auto_delete(scope, "web-1", autoDelete=False))
    boot, other = get(scope).disks
    assert (boot.autoDelete, boot.source) == (False, f"{ZONE_LINK}/disks/web-1")
    assert (other.autoDelete, other.source) == (True, f"{ZONE_LINK}/disks/data-1")


def test_a_change_of_one_deleted_meanwhile(web: Scope, operations: Finish) -> None:
    sent = [delete(web), set_labels(web, a="1")]
    done(web, operations, sent[0])
    assert operations(web, sent[1])["error"]["code"] == "RESOURCE_NOT_FOUND"


def test_a_change_that_is_refused(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "updateVirtualMachine", status=531, text="Acct[7] has no access"))
    row = operations(web, set_labels(web, a="1"))
    assert (row["error"]["code"], row["error"]["status"]) == ("PERMISSION_DENIED", 403)
    assert dict(get(web).labels) == {"env": "test"}


def test_under_way_is_told_by_the_store(scope: Scope) -> None:
    zone = places.resolve_zone(scope, "ch-zh-1")
    assert find.under_way(scope) == {}
    engine.finished(scope, type="insert", target=find.path(zone, "web-1"))
    assert find.under_way(scope) == {}
    scope.store.add_operation(
        name="operation-1",
        owner=scope.project.key,
        project="demo",
        scope=zone.path,
        type="stop",
        target=find.path(zone, "web-1"),
        subject="x",
        status="PENDING",
        inserted=time.time(),
    )
    assert find.under_way(scope) == {"zones/ch-zh-1/instances/web-1": "stop"}
