"""An instance from the moment its insert is accepted, changes made side by side, and names that others have too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from gstack.compute.v1 import common_pb2, disks_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, first, job, machine
from tests.unit.test_instances import (
    NET_A,
    ROOT,
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
from translator_service.gce.naming import asked_name, host_name, number
from translator_service.networking import networks, subnetworks
from translator_service.resources.instances import insert as instances_insert
from translator_service.scope import Scope

GROUPS = "ch-gv2"


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def begin(request: pytest.FixtureRequest) -> Callable[[], Finish]:
    """Operations wait until this is called: whatever a test submits before comes before any of it is carried out."""
    return lambda: request.getfixturevalue("operations")


def change(scope: Scope, method: str, resource: Any, zone: str = "ch-zh-1") -> Any:
    request = getattr(pb, f"{method}InstanceRequest")(project="demo", zone=zone, instance="web-1", resource=resource)
    return ask(scope, f"Instances.{method}", request)


def protect(scope: Scope, **fields: bool) -> Any:
    request = pb.SetDeletionProtectionInstanceRequest(project="demo", zone="ch-zh-1", resource="web-1", **fields)
    return ask(scope, "Instances.SetDeletionProtection", request)


def all_names(scope: Scope) -> list[str]:
    found = ask(scope, "Instances.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    return [one.name for part in found.items.values() for one in part.instances]


# There from the moment its insert is accepted


def test_an_instance_is_there_once_its_insert_is_accepted(scope: Scope, simulated: Cloud) -> None:
    resource = wanted(
        labels={"env": "test"},
        tags=pb.Tags(items=["b", "a"]),
        metadata=metadata(motd="x"),
        description="a",
        deletionProtection=True,
        networkInterfaces=[pb.NetworkInterface(network=NET_A, networkIP="10.1.1.77")],
    )
    insert(scope, resource)
    simulated.app.calls.clear()
    found = get(scope)
    assert (found.name, found.status, found.zone) == ("web-1", "PROVISIONING", f"{ROOT}/zones/ch-zh-1")
    assert found.machineType == f"{ROOT}/zones/ch-zh-1/machineTypes/micro"
    assert (dict(found.labels), list(found.tags.items)) == ({"env": "test"}, ["a", "b"])
    assert found.metadata.items == resource.metadata.items
    assert (found.description, found.deletionProtection) == ("a", True)
    assert found.disks[0].source == f"{ROOT}/zones/ch-zh-1/disks/web-1"
    assert found.networkInterfaces[0].network == f"{ROOT}/{NET_A}"
    assert found.networkInterfaces[0].networkIP == "10.1.1.77"
    assert found.id and found.creationTimestamp > "2020"
    assert simulated.calls == {"listVirtualMachines": 2}
    assert names(scope) == all_names(scope) == ["web-1"]
    assert names(scope, GROUPS) == []
    assert get(scope, str(found.id)).name == "web-1"
    assert names(scope, filter="labels.env=test") == ["web-1"]
    assert refused(lambda: insert(scope, wanted())).code == 409


def test_a_free_size_is_told_before_it_is_there(scope: Scope) -> None:
    insert(scope, wanted(machineType="zones/ch-zh-1/machineTypes/custom-2-4096"))
    assert get(scope).machineType.endswith("/machineTypes/custom-2-4096")


def test_others_do_not_see_it(scope: Scope, scope_for: OpenScope) -> None:
    insert(scope, wanted())
    other = scope_for("ian@example.org", account="ian@example.org")
    assert names(other) == []
    assert refused(lambda: get(other)).code == 404


def test_a_delete_right_after_the_insert(scope: Scope, begin: Callable[[], Finish]) -> None:
    sent, gone = insert(scope, wanted()), delete(scope)
    operations = begin()
    done(scope, operations, sent)
    row = done(scope, operations, gone)
    assert row["target_id"] == scope.store.operation_by_name(sent.name)["target_id"]
    assert names(scope) == scope.client.read("listVirtualMachines").items == []


def test_a_delete_after_an_insert_that_fails(scope: Scope, simulated: Cloud, begin: Callable[[], Finish]) -> None:
    sent, gone = insert(scope, wanted()), delete(scope)
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    operations = begin()
    assert operations(scope, sent)["error"]
    done(scope, operations, gone)
    assert names(scope) == []


def test_what_was_awaited_is_never_another_of_its_name(scope: Scope, begin: Callable[[], Finish]) -> None:
    """Somebody makes a machine of the name in CloudStack, and the insert comes to nothing."""
    sent, gone = insert(scope, wanted()), delete(scope)
    other = machine(scope, "web-1")
    operations = begin()
    assert operations(scope, sent)["error"]["code"] == "RESOURCE_ALREADY_EXISTS"
    done(scope, operations, gone)
    assert row_of(scope)["id"] == other["id"]


def test_changes_right_after_the_insert(scope: Scope, begin: Callable[[], Finish]) -> None:
    sent = insert(scope, wanted(labels={"a": "b"}))
    found = get(scope)
    changes = [
        change(scope, "SetTags", pb.Tags(items=["x"], fingerprint=found.tags.fingerprint)),
        change(scope, "SetMetadata", metadata(motd="later")),
        ask(scope, "Instances.Stop", pb.StopInstanceRequest(project="demo", zone="ch-zh-1", instance="web-1")),
    ]
    operations = begin()
    for one in (sent, *changes):
        done(scope, operations, one)
    found = get(scope)
    assert (found.status, list(found.tags.items), found.metadata.items[0].value) == ("TERMINATED", ["x"], "later")


def test_a_row_of_cloudstack_wins(scope: Scope) -> None:
    insert(scope, wanted())
    row = machine(scope, "web-1")
    assert get(scope).id == number(row["id"])
    assert names(scope) == ["web-1"]


def test_what_is_undone_is_not_there(
    scope: Scope, simulated: Cloud, operations: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    clear_away = instances_insert.clear_away

    def look_first(run: Any, parts: Any) -> None:
        seen.append(names(scope))
        clear_away(run, parts)

    monkeypatch.setattr(instances_insert, "clear_away", look_first)
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    assert operations(scope, insert(scope, wanted()))["error"]
    assert seen == [[]]
    assert refused(lambda: get(scope)).code == 404


def test_no_ghost_after_a_day(scope: Scope) -> None:
    sent = insert(scope, wanted())
    scope.store.update_operation(sent.name, inserted=time.time() - 24 * 3600 - 1)
    assert names(scope) == []
    assert refused(lambda: get(scope)).code == 404


def test_previews_are_sealed_and_go(scope: Scope, begin: Callable[[], Finish]) -> None:
    sent = insert(scope, wanted(metadata=metadata(secret="canary-canary")))
    kept = scope.store.operation_by_name(sent.name)["preview"]
    assert b"web-1" not in kept and b"canary" not in kept
    done(scope, begin(), sent)
    assert scope.store.operation_by_name(sent.name)["preview"] is None


# Changes made from the same state


def labelled(fingerprint: bytes, value: str) -> pb.InstancesSetLabelsRequest:
    return pb.InstancesSetLabelsRequest(labels={"k": value}, labelFingerprint=fingerprint)


CHANGES: dict[str, Callable[[pb.Instance, str], Any]] = {
    "SetTags": lambda found, value: pb.Tags(items=[value], fingerprint=found.tags.fingerprint),
    "SetLabels": lambda found, value: labelled(found.labelFingerprint, value),
    "SetMetadata": lambda found, value: common_pb2.Metadata(
        fingerprint=found.metadata.fingerprint, items=metadata(k=value, large="x" * 20_000).items
    ),
}


@pytest.mark.parametrize("method", CHANGES)
def test_of_three_changes_with_one_fingerprint_one_wins(scope: Scope, method: str, begin: Callable[[], Finish]) -> None:
    sent = insert(scope, wanted())
    found = get(scope)
    changes = [change(scope, method, CHANGES[method](found, value)) for value in ("a", "b", "c")]
    operations = begin()
    done(scope, operations, sent)
    rows = [operations(scope, one) for one in changes]
    assert [row["error"] and (row["error"]["code"], row["error"]["status"]) for row in rows] == [
        None,
        ("CONDITION_NOT_MET", 412),
        ("CONDITION_NOT_MET", 412),
    ]
    assert documents(scope.store) == (method == "SetMetadata")
    assert refused(lambda: change(scope, method, CHANGES[method](found, "d"))).code == 412


@pytest.mark.parametrize("method", CHANGES)
def test_without_a_fingerprint_the_last_one_wins(scope: Scope, method: str, begin: Callable[[], Finish]) -> None:
    sent = insert(scope, wanted())
    changes = [change(scope, method, CHANGES[method](pb.Instance(), value)) for value in ("a", "b")]
    operations = begin()
    for one in (sent, *changes):
        done(scope, operations, one)
    assert "b" in str(get(scope)) and documents(scope.store) == (method == "SetMetadata")


# What can be switched on can be switched off


def test_deletion_protection(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(deletionProtection=True)))
    assert refused(lambda: delete(scope)).code == 400
    done(scope, operations, protect(scope, deletionProtection=False))
    assert not get(scope).deletionProtection
    done(scope, operations, protect(scope))
    assert get(scope).deletionProtection
    done(scope, operations, protect(scope, deletionProtection=False))
    done(scope, operations, delete(scope))
    assert names(scope) == []


def test_protection_is_looked_at_again_when_the_turn_of_a_delete_comes(
    scope: Scope, begin: Callable[[], Finish]
) -> None:
    sent, protected, gone = insert(scope, wanted()), protect(scope), delete(scope)
    operations = begin()
    done(scope, operations, sent)
    done(scope, operations, protected)
    row = operations(scope, gone)
    assert row["error"]["status"] == 400 and "protected against deletion" in row["error"]["message"]
    assert names(scope) == ["web-1"]


# What an insert can switch on -> the method that switches it off, or why nothing needs to.
SWITCHES = {
    "deletionProtection": "Instances.SetDeletionProtection",
    "disks.autoDelete": "Instances.SetDiskAutoDelete",
    "canIpForward": "cannot be changed in GCE either, and changes nothing here",
    "scheduling.automaticRestart": "kept and shown; changes nothing",
    "scheduling.preemptible": "kept and shown; changes nothing",
    "displayDevice.enableDisplay": "kept and shown; changes nothing",
    "shieldedInstanceConfig.enableSecureBoot": "kept and shown; changes nothing",
    "shieldedInstanceConfig.enableVtpm": "kept and shown; changes nothing",
    "shieldedInstanceConfig.enableIntegrityMonitoring": "kept and shown; changes nothing",
    "scheduling.onInstanceStopAction.discardLocalSsd": "kept and shown; changes nothing",
    "shieldedInstanceIntegrityPolicy.updateAutoLearnPolicy": "kept and shown; changes nothing",
    "advancedMachineFeatures.enableNestedVirtualization": "only what says nothing is kept",
    "advancedMachineFeatures.enableUefiNetworking": "only what says nothing is kept",
    "confidentialInstanceConfig.enableConfidentialCompute": "only what says nothing is kept",
    "scheduling.gracefulShutdown.enabled": "only what says nothing is kept",
    "workloadIdentityConfig.identityCertificateEnabled": "only what says nothing is kept",
    "disks.boot": "detachDisk and attachDisk make another disk the boot disk",
    "startRestricted": "output only",
    "networkInterfaces.accessConfigs.setPublicPtr": "needs a name of the address, which cannot be given",
}


def switches(message: Any, path: str = "", depth: int = 0) -> set[str]:
    found = set()
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_BOOL:
            found.add(f"{path}{field.name}")
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry and depth < 4:
            found |= switches(field.message_type, f"{path}{field.name}.", depth + 1)
    return found


def test_whatever_can_be_switched_on_can_be_switched_off() -> None:
    """A new switch needs a line above: a method, or why none is needed."""
    from translator_service.rpc import METHODS

    methods = {what for what in SWITCHES.values() if what.startswith("Instances.")}
    assert methods <= METHODS.keys()
    unknown = switches(pb.Instance.DESCRIPTOR) - SWITCHES.keys()
    assert not unknown


# Names that others have too


@pytest.fixture
def ian(scope_for: OpenScope) -> Scope:
    return scope_for("ian@example.org", account="ian@example.org")


def groups_zone(name: str = "web-1") -> pb.Instance:
    return wanted(name, networkInterfaces=[pb.NetworkInterface()])


def test_two_tenants_have_the_same_name(scope: Scope, ian: Scope, operations: Finish) -> None:
    done(ian, operations, insert(ian, groups_zone(), GROUPS))
    with pytest.raises(CloudStackError, match="already exists in the network domain"):
        machine(scope, "web-1", GROUPS)
    assert refused(lambda: get(scope, zone=GROUPS)).code == 404
    sent = insert(scope, groups_zone(), GROUPS)
    done(scope, operations, sent)
    assert sent.targetLink == f"{ROOT}/zones/{GROUPS}/instances/web-1"
    (row,) = scope.client.read("listVirtualMachines").items
    assert row["name"] == host_name(scope.project.key, "web-1", 0) and row["displayname"] == "web-1"
    found = get(scope, zone=GROUPS)
    assert (found.name, found.selfLink) == ("web-1", f"{ROOT}/zones/{GROUPS}/instances/web-1")
    assert found.id == number(row["id"]) != get(ian, zone=GROUPS).id
    assert get(scope, row["name"], GROUPS) == get(scope, str(found.id), GROUPS) == found
    assert names(scope, GROUPS) == all_names(scope) == ["web-1"]
    request = disks_pb2.GetDiskRequest(project="demo", zone=GROUPS, disk="web-1")
    disk = ask(scope, "Disks.Get", request)
    assert list(disk.users) == [found.selfLink] and found.disks[0].source == disk.selfLink
    assert refused(lambda: insert(scope, groups_zone(), GROUPS)).code == 409
    done(scope, operations, delete(scope, zone=GROUPS))
    assert names(scope, GROUPS) == [] and names(ian, GROUPS) == ["web-1"]
    done(scope, operations, insert(scope, groups_zone(), GROUPS))
    assert names(scope, GROUPS) == ["web-1"]


def test_a_name_that_is_asked_for_costs_one_question_and_no_other(
    scope: Scope, ian: Scope, operations: Finish, simulated: Cloud
) -> None:
    done(ian, operations, insert(ian, groups_zone(), GROUPS))
    done(scope, operations, insert(scope, groups_zone(), GROUPS))
    for who, count in ((ian, 1), (scope, 2)):
        get(who, zone=GROUPS)
        simulated.app.calls.clear()
        get(who, zone=GROUPS)
        assert simulated.calls == {"listVirtualMachines": count}


def test_the_machine_whose_host_name_it_is_goes_first(scope: Scope, ian: Scope, operations: Finish) -> None:
    done(ian, operations, insert(ian, groups_zone(), GROUPS))
    done(scope, operations, insert(scope, groups_zone(), GROUPS))
    ours = row_of(scope, host_name(scope.project.key, "web-1", 0))
    done(ian, operations, delete(ian, zone=GROUPS))
    other = machine(scope, "web-1", GROUPS)
    suffixed = f"web-1-{ours['id'][:8]}"
    assert names(scope, GROUPS) == ["web-1", suffixed]
    assert get(scope, zone=GROUPS).id == number(other["id"])
    found = get(scope, suffixed, GROUPS)
    assert (found.name, found.id) == (suffixed, number(ours["id"]))


def test_one_that_is_not_expunged_keeps_the_next_name(scope: Scope, operations: Finish) -> None:
    for attempt in range(2):
        done(scope, operations, insert(scope, wanted()))
        (row,) = scope.client.read("listVirtualMachines").items
        job(scope, "destroyVirtualMachine", id=row["id"])
        assert names(scope) == [], attempt
    done(scope, operations, insert(scope, wanted()))
    (row,) = scope.client.read("listVirtualMachines").items
    assert row["name"] == host_name(scope.project.key, "web-1", 1)
    assert get(scope).id == number(row["id"])


def test_a_machine_that_was_renamed_has_its_new_name(scope: Scope, ian: Scope, operations: Finish) -> None:
    done(ian, operations, insert(ian, groups_zone(), GROUPS))
    done(scope, operations, insert(scope, groups_zone(), GROUPS))
    (row,) = scope.client.read("listVirtualMachines").items
    scope.client.write("updateVirtualMachine", id=row["id"], name="other")
    assert names(scope, GROUPS) == ["other"]


@pytest.mark.parametrize("name", ["a", "web-1", "x" * 54, "x" * 63])
def test_host_names(name: str) -> None:
    host = host_name("owner", name, 3)
    assert len(host) <= 63 and host != name
    assert asked_name("owner", host, name) == name
    assert asked_name("owner", host) == (name if len(name) <= 54 else host)
    assert asked_name("other", host, name) == host


# What an insert asks of CloudStack


@pytest.mark.parametrize(
    ("zone", "calls"),
    [
        (
            "ch-gv2",
            {
                "listVirtualMachines": 2, "listVolumes": 5, "listSecurityGroups": 1, "createSecurityGroup": 1,
                "deployVirtualMachine": 1, "createTags": 1,
            },
        ),
        (
            "ch-zh-1",
            {
                "listVirtualMachines": 2, "listVolumes": 5, "deployVirtualMachine": 1, "listEgressFirewallRules": 1,
                "associateIpAddress": 1, "createTags": 2, "enableStaticNat": 1, "listPublicIpAddresses": 1,
                "listFirewallRules": 1,
            },
        ),
    ],
)  # fmt: skip
def test_calls(scope: Scope, operations: Finish, simulated: Cloud, zone: str, calls: dict[str, int]) -> None:
    done(scope, operations, insert(scope, wanted("first"), zone))
    get(scope, "first", zone)
    networks.index(scope)
    simulated.app.calls.clear()
    done(scope, operations, insert(scope, wanted(), zone))
    assert simulated.calls == calls


def test_an_address_is_made_beside_the_machine(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """In a network that runs; it goes when the machine comes to nothing."""
    done(scope, operations, insert(scope, wanted("first")))
    simulated.app.calls.clear()
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    assert operations(scope, insert(scope, wanted()))["error"]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert (simulated.calls["associateIpAddress"], simulated.calls["disassociateIpAddress"]) == (1, 1)
    assert len(scope.client.read("listPublicIpAddresses", isstaticnat="true").items) == 1


# Networks


@pytest.mark.parametrize("row", [{"vpcid": "x", "service": [{"name": "StaticNat"}]}, {"type": "L2", "service": []}])
def test_an_external_address_where_there_can_be_none(
    scope: Scope, row: dict[str, Any], simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = first(scope, "listNetworks", keyword="net-a") | row
    monkeypatch.setattr(subnetworks, "for_instance", lambda *_: network)
    error = refused(lambda: insert(scope, wanted()))
    assert (error.code, error.location) == (400, "resource.networkInterfaces[0].accessConfigs")
    assert "deployVirtualMachine" not in simulated.calls


def test_networks_of_the_zone_are_named_to_who_asks_for_default(scope: Scope) -> None:
    error = refused(lambda: insert(scope, wanted(networkInterfaces=[pb.NetworkInterface()])))
    assert error.code == 400 and "Networks of the zone: 'net-a'." in error.message


def egress_rules(scope: Scope) -> list[Any]:
    return scope.client.read("listEgressFirewallRules").items


def test_a_network_that_lets_nothing_out_is_told(scope: Scope, operations: Finish) -> None:
    (warning,) = done(scope, operations, insert(scope, wanted()))["warnings"]
    assert warning["code"] == "NOT_CRITICAL_ERROR" and "'net-a'" in warning["message"]
    assert egress_rules(scope) == []
    assert not done(scope, operations, insert(scope, groups_zone("web-2"), GROUPS))["warnings"]


def test_a_network_that_lets_nothing_out_is_opened(scope: Scope, operations: Finish) -> None:
    scope.environment.settings.open_egress = True
    assert not done(scope, operations, insert(scope, wanted()))["warnings"]
    assert [rule["protocol"] for rule in egress_rules(scope)] == ["all"]
    assert not done(scope, operations, insert(scope, wanted("web-2")))["warnings"]
    assert len(egress_rules(scope)) == 1


def test_rules_of_others_about_egress_stay(scope: Scope, operations: Finish) -> None:
    scope.environment.settings.open_egress = True
    net = first(scope, "listNetworks", keyword="net-a")["id"]
    job(scope, "createEgressFirewallRule", networkid=net, protocol="tcp", startport="443", endport="443")
    assert not done(scope, operations, insert(scope, wanted()))["warnings"]
    assert [rule["protocol"] for rule in egress_rules(scope)] == ["tcp"]
