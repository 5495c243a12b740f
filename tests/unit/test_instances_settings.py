"""What can be changed of an instance: each method, each switch on and off, what GCE refuses, and crashes in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from gstack.compute.v1 import common_pb2, iam_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from simulator.world import ServiceOffering
from tests.conftest import Cloud
from tests.unit.killed import killed_once
from tests.unit.made import ask, job, machine
from tests.unit.test_firewalls import insert as insert_firewall
from tests.unit.test_firewalls import rule
from tests.unit.test_instances import (
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
from translator_service.gce import naming
from translator_service.operations.engine import replay
from translator_service.resources import machine_types
from translator_service.scope import Scope

ZONE = "ch-zh-1"
TYPES = f"zones/{ZONE}/machineTypes"


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def begin(request: pytest.FixtureRequest) -> Callable[[], Finish]:
    """Operations wait until this is called."""
    return lambda: request.getfixturevalue("operations")


def change(scope: Scope, method: str, resource: Any = None, name: str = "web-1", **options: Any) -> Any:
    request = getattr(pb, f"{method}InstanceRequest")(project="demo", zone=ZONE, instance=name, **options)
    if resource is not None:
        request.resource.CopyFrom(resource)
    return ask(scope, f"Instances.{method}", request)


def act(scope: Scope, what: str, name: str = "web-1") -> Any:
    return change(scope, what, name=name)


@pytest.fixture
def running(scope: Scope, operations: Finish) -> Scope:
    done(scope, operations, insert(scope, wanted()))
    return scope


@pytest.fixture
def stopped(running: Scope, operations: Finish) -> Scope:
    done(running, operations, act(running, "Stop"))
    return running


def machine_type(name: str) -> pb.InstancesSetMachineTypeRequest:
    return pb.InstancesSetMachineTypeRequest(machineType=f"{TYPES}/{name}")


def type_of(scope: Scope, name: str = "web-1") -> str:
    return get(scope, name).machineType.rpartition("/")[2]


# Machine types


@pytest.mark.parametrize("name", ["small", "e2-medium", "custom-2-2048", "e2-custom-4-4096"])
def test_the_machine_type_of_a_stopped_instance(stopped: Scope, operations: Finish, name: str) -> None:
    """Names are kept as they were asked for, and the instance runs with its new size."""
    done(stopped, operations, change(stopped, "SetMachineType", machine_type(name)))
    assert type_of(stopped) == name
    done(stopped, operations, act(stopped, "Start"))
    assert (type_of(stopped), get(stopped).status) == (name, "RUNNING")


def test_from_a_fixed_to_a_free_size_and_back(stopped: Scope, operations: Finish) -> None:
    sizes = []
    for name in ("custom-2-2048", "custom-4-4096", "micro"):
        done(stopped, operations, change(stopped, "SetMachineType", machine_type(name)))
        row = row_of(stopped)
        sizes.append((type_of(stopped), row["cpunumber"], row["memory"], "cpuNumber" in row["details"]))
    assert sizes == [("custom-2-2048", 2, 2048, True), ("custom-4-4096", 4, 4096, True), ("micro", 1, 512, False)]


def test_what_is_kept_survives_another_size(stopped: Scope, operations: Finish) -> None:
    labels = pb.InstancesSetLabelsRequest(labels={"a": "b"})
    done(stopped, operations, change(stopped, "SetLabels", labels))
    done(stopped, operations, change(stopped, "SetMachineType", machine_type("custom-2-2048")))
    done(stopped, operations, change(stopped, "SetLabels", pb.InstancesSetLabelsRequest(labels={"c": "d"})))
    assert (type_of(stopped), dict(get(stopped).labels)) == ("custom-2-2048", {"c": "d"})


def test_the_same_machine_type_again(stopped: Scope, simulated: Cloud, operations: Finish) -> None:
    done(stopped, operations, change(stopped, "SetMachineType", machine_type("micro")))
    assert "changeServiceForVirtualMachine" not in simulated.calls
    assert type_of(stopped) == "micro"


def test_refused_machine_types(stopped: Scope) -> None:
    for name, code in (("nonsense", 404), ("custom-1000-2048", 400)):
        error = refused(lambda name=name: change(stopped, "SetMachineType", machine_type(name)))
        assert (error.code, "machineType" in error.message) == (code, True)
    error = refused(lambda: change(stopped, "SetMachineType", pb.InstancesSetMachineTypeRequest()))
    assert (error.code, error.reason, error.location) == (400, "required", "resource.machineType")


def test_a_size_that_the_account_may_not_have(stopped: Scope, simulated: Cloud, operations: Finish) -> None:
    simulated.app.faults.append(Fault("status", "changeServiceForVirtualMachine", status=535))
    assert operations(stopped, change(stopped, "SetMachineType", machine_type("small")))["error"]["status"] == 403
    assert type_of(stopped) == "micro"


# Only of stopped instances

STOPPED: list[tuple[str, Any, str]] = [
    ("SetMachineType", machine_type("small"), "the machine type"),
    ("SetServiceAccount", pb.InstancesSetServiceAccountRequest(email="a@b.c", scopes=["x"]), "the service account"),
    ("SetMinCpuPlatform", pb.InstancesSetMinCpuPlatformRequest(minCpuPlatform="x"), "the minimum CPU platform"),
    ("UpdateShieldedInstanceConfig", pb.ShieldedInstanceConfig(enableVtpm=True), "the shielded instance config"),
    ("UpdateDisplayDevice", pb.DisplayDevice(enableDisplay=True), "the display device"),
    ("SetName", pb.InstancesSetNameRequest(name="web-2"), "the name"),
]


@pytest.mark.parametrize(("method", "body", "what"), STOPPED)
def test_a_running_instance_is_refused(running: Scope, method: str, body: Any, what: str) -> None:
    error = refused(lambda: change(running, method, body))
    assert (error.code, error.message) == (400, f"The instance must be stopped before {what} can be changed.")


@pytest.mark.parametrize(("method", "body", "what"), STOPPED)
def test_one_that_was_started_in_between_is_refused_too(
    scope: Scope, begin: Callable[[], Finish], method: str, body: Any, what: str
) -> None:
    made = machine(scope, "web-1")
    job(scope, "stopVirtualMachine", id=made["id"])
    sent = change(scope, method, body)
    job(scope, "startVirtualMachine", id=made["id"])
    error = begin()(scope, sent)["error"]
    assert (error["status"], error["message"]) == (400, f"The instance must be stopped before {what} can be changed.")
    assert not any(key.startswith("gce.") for key in row_of(scope)["details"])


@pytest.mark.parametrize(("method", "body", "what"), STOPPED)
def test_one_that_is_under_insert_is_refused(scope: Scope, method: str, body: Any, what: str) -> None:
    insert(scope, wanted())
    assert what in refused(lambda: change(scope, method, body)).message


# Kept, on and off


def test_service_accounts_come_and_go(stopped: Scope, operations: Finish) -> None:
    account = pb.InstancesSetServiceAccountRequest(email="one@example.org", scopes=["scope-a", "scope-b"])
    done(stopped, operations, change(stopped, "SetServiceAccount", account))
    assert [(one.email, list(one.scopes)) for one in get(stopped).serviceAccounts] == [
        ("one@example.org", ["scope-a", "scope-b"])
    ]
    default = pb.InstancesSetServiceAccountRequest(email="default", scopes=["scope-c"])
    done(stopped, operations, change(stopped, "SetServiceAccount", default))
    assert get(stopped).serviceAccounts[0].email.endswith("-compute@developer.gserviceaccount.com")
    done(stopped, operations, change(stopped, "SetServiceAccount", pb.InstancesSetServiceAccountRequest()))
    assert not get(stopped).serviceAccounts
    error = refused(
        lambda: change(stopped, "SetServiceAccount", pb.InstancesSetServiceAccountRequest(scopes=["scope-a"]))
    )
    assert (error.code, error.location) == (400, "resource.email")


def test_the_least_cpu_platform_comes_and_goes(stopped: Scope, operations: Finish) -> None:
    for platform in ("Intel Skylake", ""):
        body = pb.InstancesSetMinCpuPlatformRequest(minCpuPlatform=platform)
        done(stopped, operations, change(stopped, "SetMinCpuPlatform", body))
        assert get(stopped).minCpuPlatform == platform


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("UpdateDisplayDevice", "displayDevice.enableDisplay"),
        ("UpdateShieldedInstanceConfig", "shieldedInstanceConfig.enableSecureBoot"),
        ("UpdateShieldedInstanceConfig", "shieldedInstanceConfig.enableVtpm"),
        ("UpdateShieldedInstanceConfig", "shieldedInstanceConfig.enableIntegrityMonitoring"),
        ("SetShieldedInstanceIntegrityPolicy", "shieldedInstanceIntegrityPolicy.updateAutoLearnPolicy"),
        ("SetScheduling", "scheduling.automaticRestart"),
        ("SetScheduling", "scheduling.preemptible"),
        ("SetScheduling", "scheduling.onInstanceStopAction.discardLocalSsd"),
    ],
)
def test_each_switch_on_off_and_on(stopped: Scope, operations: Finish, method: str, path: str) -> None:
    holder, _, below = path.partition(".")
    for value in (True, False, True):
        body = getattr(pb.Instance(), holder)
        target, *_, leaf = body, *below.split(".")
        for step in below.split(".")[:-1]:
            target = getattr(target, step)
        setattr(target, leaf, value)
        done(stopped, operations, change(stopped, method, body))
        found = getattr(get(stopped), holder)
        for step in below.split("."):
            found = getattr(found, step)
        assert found is value


def test_what_a_patch_does_not_send_stays(stopped: Scope, operations: Finish) -> None:
    both = pb.ShieldedInstanceConfig(enableSecureBoot=True, enableVtpm=True)
    done(stopped, operations, change(stopped, "UpdateShieldedInstanceConfig", both))
    off = pb.ShieldedInstanceConfig(enableSecureBoot=False)
    done(stopped, operations, change(stopped, "UpdateShieldedInstanceConfig", off))
    found = get(stopped).shieldedInstanceConfig
    assert (found.enableSecureBoot, found.enableVtpm) == (False, True)
    done(stopped, operations, change(stopped, "SetScheduling", pb.Scheduling(onHostMaintenance="TERMINATE")))
    done(stopped, operations, change(stopped, "SetScheduling", pb.Scheduling(automaticRestart=False)))
    scheduling = get(stopped).scheduling
    assert (scheduling.onHostMaintenance, scheduling.automaticRestart) == ("TERMINATE", False)


def test_scheduling_numbers_and_terminations_go_again(running: Scope, operations: Finish) -> None:
    """Of a running instance, which GCE's users change so."""
    spot = pb.Scheduling(
        provisioningModel="SPOT",
        preemptible=True,
        automaticRestart=False,
        instanceTerminationAction="STOP",
        availabilityDomain=2,
        hostErrorTimeoutSeconds=120,
        localSsdRecoveryTimeout=common_pb2.Duration(seconds=3600),
    )
    done(running, operations, change(running, "SetScheduling", spot))
    found = get(running).scheduling
    assert (found.provisioningModel, found.instanceTerminationAction, found.availabilityDomain) == ("SPOT", "STOP", 2)
    assert (found.hostErrorTimeoutSeconds, found.localSsdRecoveryTimeout.seconds) == (120, 3600)
    none = pb.Scheduling(
        provisioningModel="STANDARD", preemptible=False, availabilityDomain=0, hostErrorTimeoutSeconds=0
    )
    none.localSsdRecoveryTimeout.SetInParent()
    done(running, operations, change(running, "SetScheduling", none))
    found = get(running).scheduling
    assert not found.instanceTerminationAction and found.provisioningModel == "STANDARD"
    for field in ("availabilityDomain", "hostErrorTimeoutSeconds", "localSsdRecoveryTimeout"):
        assert not found.HasField(field)


def test_automatic_restart_is_high_availability_where_the_offering_has_it(
    stopped: Scope, simulated: Cloud, operations: Finish
) -> None:
    values: dict[str, Any] = {"display_text": "available", "cpu_number": 1, "cpu_speed": 1000, "memory": 512}
    simulated.app.world.add(ServiceOffering, name="available", offer_ha=True, **values)
    stopped.forget(machine_types.kind(stopped))
    name = "available"
    done(stopped, operations, change(stopped, "SetMachineType", machine_type(name)))
    assert row_of(stopped)["haenable"] is True
    for value in (False, True):
        done(stopped, operations, change(stopped, "SetScheduling", pb.Scheduling(automaticRestart=value)))
        assert (row_of(stopped)["haenable"], get(stopped).scheduling.automaticRestart) == (value, value)
    # What was switched off stays off with another size, which CloudStack would switch on.
    done(stopped, operations, change(stopped, "SetScheduling", pb.Scheduling(automaticRestart=False)))
    done(stopped, operations, change(stopped, "SetMachineType", machine_type("micro")))
    done(stopped, operations, change(stopped, "SetMachineType", machine_type(name)))
    assert row_of(stopped)["haenable"] is False


BLOCKS: list[dict[str, Any]] = [
    {
        "advancedMachineFeatures": {"enableNestedVirtualization": False, "threadsPerCore": 0},
        "confidentialInstanceConfig": {"enableConfidentialCompute": False},
        "networkPerformanceConfig": {"totalEgressBandwidthTier": "DEFAULT"},
        "workloadIdentityConfig": {"identityCertificateEnabled": False},
        "displayDevice": {"enableDisplay": False},
    },
    # As a library writes them that leaves out what is false.
    {
        name: {}
        for name in (
            "advancedMachineFeatures", "confidentialInstanceConfig", "networkPerformanceConfig", "displayDevice",
            "shieldedInstanceConfig", "reservationAffinity",
        )
    },
]  # fmt: skip


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_that_say_nothing_come_back(
    scope: Scope, simulated: Cloud, operations: Finish, blocks: dict[str, Any]
) -> None:
    """To Terraform a block of false values that is not read back is a change, each time."""
    resource = ParseDict(blocks, wanted())
    resource.scheduling.gracefulShutdown.enabled = False
    done(scope, operations, insert(scope, resource))
    found = get(scope)
    assert {name: MessageToDict(getattr(found, name)) for name in blocks if found.HasField(name)} == blocks
    assert found.scheduling.HasField("gracefulShutdown") and found.scheduling.gracefulShutdown.HasField("enabled")
    calls = dict(simulated.calls)
    # Sent back it is no change, nor is an empty block that there was none of.
    found.shieldedInstanceConfig.SetInParent()
    assert change(scope, "Update", found).status == "DONE"
    assert simulated.calls.get("updateVirtualMachine") == calls.get("updateVirtualMachine")


def test_blocks_that_say_nothing_come_back_from_many(scope: Scope, operations: Finish) -> None:
    properties = pb.InstanceProperties(
        machineType="micro", disks=wanted().disks, networkInterfaces=wanted().networkInterfaces
    )
    properties.advancedMachineFeatures.enableNestedVirtualization = False
    resource = pb.BulkInsertInstanceResource(count=1, namePattern="web-#", instanceProperties=properties)
    request = pb.BulkInsertInstanceRequest(project="demo", zone="ch-zh-1", resource=resource)
    done(scope, operations, ask(scope, "Instances.BulkInsert", request))
    assert get(scope).advancedMachineFeatures.HasField("enableNestedVirtualization")


def test_accelerators(running: Scope) -> None:
    operation = change(running, "SetMachineResources", pb.InstancesSetMachineResourcesRequest())
    assert (operation.status, operation.operationType) == ("DONE", "setMachineResources")


# Growing while it runs


@pytest.mark.parametrize("name", ["small", "custom-2-2048"])
def test_a_running_instance_grows_where_the_operator_allows_it(
    running: Scope, monkeypatch: pytest.MonkeyPatch, operations: Finish, name: str
) -> None:
    monkeypatch.setattr(running.environment.settings, "scale_running", True)
    assert row_of(running)["isdynamicallyscalable"]
    done(running, operations, change(running, "SetMachineType", machine_type(name)))
    assert (type_of(running), get(running).status) == (name, "RUNNING")
    assert "must be stopped" in refused(lambda: change(running, "SetMachineType", machine_type("micro"))).message


# Names


def named(name: str, current: str = "web-1") -> pb.InstancesSetNameRequest:
    return pb.InstancesSetNameRequest(name=name, currentName=current)


def test_an_instance_is_renamed_and_its_disk_is_not(stopped: Scope, operations: Finish) -> None:
    before = get(stopped)
    done(stopped, operations, change(stopped, "SetName", named("web-2")))
    assert names(stopped) == ["web-2"]
    found = get(stopped, "web-2")
    assert (found.id, found.disks[0].source, found.disks[0].deviceName) == (
        before.id, before.disks[0].source, before.disks[0].deviceName,
    )  # fmt: skip
    assert found.selfLink.endswith("/instances/web-2")
    assert refused(lambda: get(stopped)).code == 404
    done(stopped, operations, act(stopped, "Start", "web-2"))
    done(stopped, operations, insert(stopped, wanted(disks=[_disk("other")])))
    assert names(stopped) == ["web-1", "web-2"]
    done(stopped, operations, delete(stopped, "web-2"))
    assert names(stopped) == ["web-1"]


def _disk(name: str) -> pb.AttachedDisk:
    disk = wanted().disks[0]
    disk.initializeParams.diskName = name
    return disk


def test_the_disk_of_a_machine_made_elsewhere_keeps_its_name(scope: Scope, operations: Finish) -> None:
    made = machine(scope, "Elsewhere")
    job(scope, "stopVirtualMachine", id=made["id"])
    before = get(scope, "elsewhere").disks[0].source
    done(scope, operations, change(scope, "SetName", named("renamed", "elsewhere"), "elsewhere"))
    assert get(scope, "renamed").disks[0].source == before
    assert before.endswith("/disks/elsewhere")


def test_names_that_cannot_be_had(stopped: Scope, operations: Finish) -> None:
    machine(stopped, "taken")
    assert refused(lambda: change(stopped, "SetName", named("taken"))).code == 409
    assert refused(lambda: change(stopped, "SetName", named("Not Valid"))).code == 400
    assert refused(lambda: change(stopped, "SetName", named(""))).code == 400
    error = refused(lambda: change(stopped, "SetName", named("web-2", "web-7")))
    assert (error.code, error.reason) == (412, "conditionNotMet")
    assert change(stopped, "SetName", named("web-1")).status == "DONE"


def test_a_name_that_is_taken_meanwhile(scope: Scope, begin: Callable[[], Finish]) -> None:
    made = machine(scope, "web-1")
    job(scope, "stopVirtualMachine", id=made["id"])
    sent = change(scope, "SetName", named("web-2"))
    machine(scope, "web-2")
    assert begin()(scope, sent)["error"]["code"] == "RESOURCE_ALREADY_EXISTS"
    assert names(scope) == ["web-1", "web-2"]


def test_a_host_name_that_is_somebody_elses_is_made_unique(
    stopped: Scope, simulated: Cloud, operations: Finish
) -> None:
    simulated.app.faults.append(Fault("status", "updateVirtualMachine", status=530))
    done(stopped, operations, change(stopped, "SetName", named("web-2")))
    assert names(stopped) == ["web-2"]
    assert row_of(stopped, naming.host_name(stopped.project.key, "web-2", 0))["displayname"] == "web-2"
    done(stopped, operations, change(stopped, "SetName", named("web-3", "web-2"), "web-2"))
    assert names(stopped) == ["web-3"] and row_of(stopped, "web-3")


def test_what_waits_for_its_turn_follows_the_name(scope: Scope, begin: Callable[[], Finish]) -> None:
    made = machine(scope, "web-1")
    job(scope, "stopVirtualMachine", id=made["id"])
    rename = change(scope, "SetName", named("web-2"))
    label = change(scope, "SetLabels", pb.InstancesSetLabelsRequest(labels={"a": "b"}))
    operations = begin()
    rows = [done(scope, operations, one) for one in (rename, label)]
    assert {row["target"] for row in rows} == {f"zones/{ZONE}/instances/web-2"}
    assert dict(get(scope, "web-2").labels) == {"a": "b"}


def test_the_firewall_follows_a_renamed_instance(scope: Scope, operations: Finish) -> None:
    zone = "ch-gv2"
    done(scope, operations, insert(scope, wanted(tags=pb.Tags(items=["web"])), zone))
    done(
        scope,
        operations,
        ask(scope, "Instances.Stop", pb.StopInstanceRequest(project="demo", zone=zone, instance="web-1")),
    )
    request = pb.SetNameInstanceRequest(project="demo", zone=zone, instance="web-1", resource=named("web-2"))
    done(scope, operations, ask(scope, "Instances.SetName", request))
    done(scope, operations, insert_firewall(scope, rule("allow-web", "tcp:80", targetTags=["web"])))
    groups = {group["name"]: group for group in scope.client.read("listSecurityGroups").items}
    own = next(group for name, group in groups.items() if name.startswith("gce-vm-web-1."))
    assert own["ingressrule"] and own["virtualmachinecount"] == 1
    done(scope, operations, delete(scope, "web-2", zone))
    assert own["name"] not in {group["name"] for group in scope.client.read("listSecurityGroups").items}


# Update: whatever differs


def put(scope: Scope, resource: pb.Instance, name: str = "web-1", **options: Any) -> Any:
    return change(scope, "Update", resource, name, **options)


def edited(scope: Scope, **fields: Any) -> pb.Instance:
    """The instance as it is, but for some fields."""
    found = get(scope)
    for field, value in fields.items():
        found.ClearField(field)
        found.MergeFrom(pb.Instance(**{field: value}))
    return found


def test_an_update_of_everything_at_once(running: Scope, simulated: Cloud, operations: Finish) -> None:
    before = get(running)
    resource = edited(
        running,
        description="new",
        labels={"a": "b"},
        tags=pb.Tags(items=["web", "db"], fingerprint=before.tags.fingerprint),
        deletionProtection=True,
        canIpForward=True,
        machineType=f"{TYPES}/e2-medium",
        serviceAccounts=[pb.ServiceAccount(email="one@example.org", scopes=["scope-a"])],
        minCpuPlatform="Intel Skylake",
        displayDevice=pb.DisplayDevice(enableDisplay=True),
        shieldedInstanceConfig=pb.ShieldedInstanceConfig(enableVtpm=True),
        scheduling=pb.Scheduling(automaticRestart=False, onHostMaintenance="TERMINATE"),
    )
    resource.metadata.items.extend(metadata(motd="x").items)
    simulated.app.calls.clear()
    operation = put(running, resource)
    assert operation.operationType == "update"
    done(running, operations, operation)
    counts = {name: count for name, count in simulated.calls.items() if not name.startswith("list")}
    assert counts["updateVirtualMachine"] == counts["stopVirtualMachine"] == counts["startVirtualMachine"] == 1
    after = get(running)
    assert after.status == "RUNNING"
    for field in ("id", "disks", "networkInterfaces", "name"):
        assert getattr(after, field) == getattr(before, field)
    assert (after.description, dict(after.labels), list(after.tags.items)) == ("new", {"a": "b"}, ["db", "web"])
    assert (after.deletionProtection, after.canIpForward, type_of(running)) == (True, True, "e2-medium")
    assert (after.serviceAccounts, after.minCpuPlatform) == (resource.serviceAccounts, "Intel Skylake")
    assert (after.displayDevice.enableDisplay, after.shieldedInstanceConfig.enableVtpm) == (True, True)
    assert (after.scheduling.automaticRestart, after.scheduling.onHostMaintenance) == (False, "TERMINATE")
    assert after.metadata.items == resource.metadata.items
    # And all of it back again: what is left out is taken away.
    gone = pb.Instance()
    gone.CopyFrom(after)
    for field in ("description", "labels", "tags", "deletionProtection", "canIpForward", "serviceAccounts"):
        gone.ClearField(field)
    for field in ("minCpuPlatform", "displayDevice", "shieldedInstanceConfig", "scheduling", "metadata"):
        gone.ClearField(field)
    done(running, operations, put(running, gone))
    back = get(running)
    assert back.scheduling == before.scheduling
    assert not (back.description or back.labels or back.tags.items or back.deletionProtection or back.canIpForward)
    assert not (back.serviceAccounts or back.minCpuPlatform or back.metadata.items)
    assert not (back.HasField("displayDevice") or back.HasField("shieldedInstanceConfig"))


def test_an_update_that_changes_nothing(running: Scope, simulated: Cloud) -> None:
    assert put(running, get(running)).status == "DONE"
    assert "updateVirtualMachine" not in simulated.calls


@pytest.mark.parametrize(
    ("fields", "least", "most", "restarts"),
    [
        ({"description": "x"}, "", "NO_EFFECT", False),
        ({"description": "x"}, "REFRESH", "REFRESH", False),
        ({"description": "x"}, "RESTART", "", True),
        ({}, "RESTART", "RESTART", True),
        ({"canIpForward": True}, "", "REFRESH", False),
        ({"minCpuPlatform": "x"}, "", "", True),
        ({"machineType": f"{TYPES}/small"}, "NO_EFFECT", "RESTART", True),
    ],
)
def test_an_update_disturbs_no_more_than_it_must(
    running: Scope, simulated: Cloud, operations: Finish, fields: dict[str, Any], least: str, most: str, restarts: bool
) -> None:
    resource = edited(running, **fields)
    sent = put(running, resource, minimalAction=least, mostDisruptiveAllowedAction=most)
    done(running, operations, sent)
    assert ("stopVirtualMachine" in simulated.calls, get(running).status) == (restarts, "RUNNING")


@pytest.mark.parametrize(
    ("fields", "least", "most", "location"),
    [
        ({"canIpForward": True}, "", "NO_EFFECT", "mostDisruptiveAllowedAction"),
        ({"minCpuPlatform": "x"}, "", "REFRESH", "mostDisruptiveAllowedAction"),
        ({"machineType": f"{TYPES}/small"}, "", "NO_EFFECT", "mostDisruptiveAllowedAction"),
        ({"description": "x"}, "RESTART", "REFRESH", "minimalAction"),
        ({"description": "x"}, "INVALID", "", "minimalAction"),
        ({"description": "x"}, "", "INVALID", "mostDisruptiveAllowedAction"),
    ],
)
def test_an_update_that_would_disturb_too_much(
    running: Scope, fields: dict[str, Any], least: str, most: str, location: str
) -> None:
    resource = edited(running, **fields)
    error = refused(lambda: put(running, resource, minimalAction=least, mostDisruptiveAllowedAction=most))
    assert (error.code, error.location) == (400, location)


def test_an_update_of_a_stopped_instance_leaves_it_stopped(stopped: Scope, operations: Finish) -> None:
    resource = edited(stopped, machineType=f"{TYPES}/small")
    done(stopped, operations, put(stopped, resource, mostDisruptiveAllowedAction="NO_EFFECT"))
    assert (type_of(stopped), get(stopped).status) == ("small", "TERMINATED")


def test_an_update_finds_the_machine_started_meanwhile(scope: Scope, begin: Callable[[], Finish]) -> None:
    made = machine(scope, "web-1")
    job(scope, "stopVirtualMachine", id=made["id"])
    sent = put(scope, edited(scope, minCpuPlatform="x"), mostDisruptiveAllowedAction="NO_EFFECT")
    job(scope, "startVirtualMachine", id=made["id"])
    assert begin()(scope, sent)["error"]["status"] == 400
    assert row_of(scope)["state"] == "Running"


def _edit(path: str, value: Any) -> Callable[[pb.Instance], None]:
    def edit(resource: pb.Instance) -> None:
        target: Any = resource
        *above, leaf = path.split(".")
        for step in above:
            name, _, index = step.partition("[")
            target = getattr(target, name)
            target = target[int(index.rstrip("]"))] if index else target
        if callable(value):
            value(getattr(target, leaf))
        else:
            setattr(target, leaf, value)

    return edit


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "web-9"),
        ("hostname", "other.example.org"),
        ("keyRevocationActionType", "STOP"),
        ("disks", lambda disks: disks.add(source="x")),
        ("disks[0].autoDelete", False),
        ("disks[0].source", "zones/ch-zh-1/disks/other"),
        ("networkInterfaces", lambda nics: nics.add()),
        ("networkInterfaces[0].network", "global/networks/other"),
        ("networkInterfaces[0].accessConfigs", lambda configs: configs.pop()),
        ("networkInterfaces[0].accessConfigs[0].natIP", "192.0.2.77"),
    ],
)
def test_what_cannot_be_changed_is_named(running: Scope, path: str, value: Any) -> None:
    resource = get(running)
    _edit(path, value)(resource)
    resource.description = "and this is not changed either"
    if path.endswith("accessConfigs"):
        # Left out as a whole it would be as it is.
        resource.networkInterfaces[0].accessConfigs.extend([pb.AccessConfig(), pb.AccessConfig()])
    error = refused(lambda: put(running, resource))
    assert (error.code, error.location) == (400, f"resource.{path}")
    assert not get(running).description


def test_references_in_any_form_are_no_difference(running: Scope, operations: Finish) -> None:
    resource = edited(running, description="x")
    resource.networkInterfaces[0].network = "global/networks/net-a"
    resource.disks[0].source = "https://compute.googleapis.com/compute/v1/projects/demo/zones/ch-zh-1/disks/web-1"
    resource.machineType = "micro"
    done(running, operations, put(running, resource, mostDisruptiveAllowedAction="NO_EFFECT"))
    assert get(running).description == "x"


def test_a_body_without_what_an_instance_must_have(running: Scope) -> None:
    error = refused(lambda: put(running, pb.Instance(description="x")))
    assert (error.reason, error.location) == ("required", "resource.machineType")


@pytest.mark.parametrize("guard", ["fingerprint", "labelFingerprint", "tags.fingerprint", "metadata.fingerprint"])
def test_an_update_of_something_older_is_refused(running: Scope, operations: Finish, guard: str) -> None:
    old = edited(running, description="old")
    newer = edited(running, labels={"a": "b"}, tags=pb.Tags(items=["a"]))
    newer.metadata.items.extend(metadata(a="b").items)
    done(running, operations, put(running, newer))
    for other in {"fingerprint", "labelFingerprint", "tags.fingerprint", "metadata.fingerprint"} - {guard}:
        holder, _, leaf = other.rpartition(".")
        (getattr(old, holder) if holder else old).ClearField(leaf)
    error = refused(lambda: put(running, old))
    assert (error.code, error.reason) == (412, "conditionNotMet")


def test_of_two_updates_made_from_one_state_the_second_one_loses(scope: Scope, begin: Callable[[], Finish]) -> None:
    machine(scope, "web-1")
    one, other = (put(scope, edited(scope, description=text)) for text in ("one", "other"))
    operations = begin()
    done(scope, operations, one)
    assert operations(scope, other)["error"]["code"] == "CONDITION_NOT_MET"
    assert get(scope).description == "one"


def test_changes_made_side_by_side_are_all_there(scope: Scope, begin: Callable[[], Finish]) -> None:
    machine(scope, "web-1")
    policy = pb.ShieldedInstanceIntegrityPolicy(updateAutoLearnPolicy=True)
    sent = [
        change(scope, "SetScheduling", pb.Scheduling(automaticRestart=False)),
        change(scope, "SetScheduling", pb.Scheduling(onHostMaintenance="TERMINATE")),
        change(scope, "SetLabels", pb.InstancesSetLabelsRequest(labels={"a": "b"})),
        change(scope, "SetShieldedInstanceIntegrityPolicy", policy),
    ]
    operations = begin()
    for one in sent:
        done(scope, operations, one)
    found = get(scope)
    assert (found.scheduling.automaticRestart, found.scheduling.onHostMaintenance) == (False, "TERMINATE")
    assert dict(found.labels) == {"a": "b"} and found.shieldedInstanceIntegrityPolicy.updateAutoLearnPolicy


def test_a_large_metadata_update(running: Scope, operations: Finish) -> None:
    resource = get(running)
    resource.metadata.items.extend(metadata(big="x" * 40_000).items)
    done(running, operations, put(running, resource))
    assert get(running).metadata.items[0].value == "x" * 40_000
    assert documents(running.store) == 1
    resource = get(running)
    resource.metadata.items[0].value = "small"
    done(running, operations, put(running, resource))
    assert documents(running.store) == 0


# When something goes wrong in between


@pytest.mark.parametrize("command", ["changeServiceForVirtualMachine", "updateVirtualMachine"])
def test_a_restart_that_fails_leaves_the_machine_as_it_was(
    running: Scope, simulated: Cloud, operations: Finish, command: str
) -> None:
    sent = put(running, edited(running, machineType=f"{TYPES}/small", description="x"))
    simulated.app.faults.append(Fault("status", command, status=431))
    row = operations(running, sent)
    assert row["error"] and not row["warnings"]
    found = get(running)
    assert (type_of(running), found.status, found.description) == ("micro", "RUNNING", "")


def test_what_cannot_be_put_back_is_told(running: Scope, simulated: Cloud, operations: Finish) -> None:
    sent = put(running, edited(running, machineType=f"{TYPES}/small", description="x"))
    simulated.app.faults.append(Fault("status", "updateVirtualMachine", status=431))
    simulated.app.faults.append(Fault("status", "startVirtualMachine", status=431))
    row = operations(running, sent)
    assert [one["code"] for one in row["warnings"]] == ["CLEANUP_FAILED"]


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("SetMachineType", machine_type("small")),
        ("SetMachineType", machine_type("custom-2-2048")),
        ("SetScheduling", pb.Scheduling(automaticRestart=False)),
        ("SetServiceAccount", pb.InstancesSetServiceAccountRequest(email="a@b.c", scopes=["x"])),
        ("SetMinCpuPlatform", pb.InstancesSetMinCpuPlatformRequest(minCpuPlatform="x")),
        ("UpdateShieldedInstanceConfig", pb.ShieldedInstanceConfig(enableVtpm=True)),
        ("SetShieldedInstanceIntegrityPolicy", pb.ShieldedInstanceIntegrityPolicy(updateAutoLearnPolicy=True)),
        ("UpdateDisplayDevice", pb.DisplayDevice(enableDisplay=True)),
        ("SetName", pb.InstancesSetNameRequest(name="web-2")),
        ("SetMachineResources", pb.InstancesSetMachineResourcesRequest()),
        ("Update", pb.Instance(machineType="small", description="x")),
    ],
)
def test_the_same_request_again_is_the_same_operation(
    stopped: Scope, operations: Finish, method: str, body: Any
) -> None:
    again = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    request = getattr(pb, f"{method}InstanceRequest")(project="demo", zone=ZONE, instance="web-1", requestId=again)
    request.resource.CopyFrom(body)
    assert replay(stopped, request) is None
    sent = ask(stopped, f"Instances.{method}", request)
    done(stopped, operations, sent)
    found = replay(stopped, request)
    assert found is not None and found.name == sent.name
    other = type(request)()
    other.CopyFrom(request)
    other.instance = "another"
    assert refused(lambda: replay(stopped, other)).code == 400


# Questions


def test_permissions_and_an_empty_policy(running: Scope) -> None:
    wished = ["compute.instances.get", "compute.instances.delete"]
    request = pb.TestIamPermissionsInstanceRequest(
        project="demo", zone=ZONE, resource="web-1", body=iam_pb2.TestPermissionsRequest(permissions=wished)
    )
    assert list(ask(running, "Instances.TestIamPermissions", request).permissions) == wished
    policy = pb.GetIamPolicyInstanceRequest(project="demo", zone=ZONE, resource="web-1")
    assert not ask(running, "Instances.GetIamPolicy", policy).bindings
    policy.resource = "nonsense"
    assert refused(lambda: ask(running, "Instances.GetIamPolicy", policy)).code == 404


def test_referrers_and_guest_attributes(running: Scope) -> None:
    found = change(running, "ListReferrers")
    assert (found.kind, list(found.items)) == ("compute#instanceListReferrers", [])
    assert refused(lambda: change(running, "ListReferrers", name="nonsense")).code == 404
    error = refused(lambda: change(running, "GetGuestAttributes", queryPath="hostkeys/"))
    assert (error.code, "hostkeys/" in error.message) == (404, True)


def test_effective_firewalls(scope: Scope, operations: Finish) -> None:
    for name, fields in (("all", {}), ("web", {"targetTags": ["web"]}), ("db", {"targetTags": ["db"]})):
        done(scope, operations, insert_firewall(scope, rule(name, "tcp:80", network="global/networks/net-a", **fields)))
    done(
        scope, operations, insert_firewall(scope, rule("off", "tcp:80", network="global/networks/net-a", disabled=True))
    )
    done(scope, operations, insert(scope, wanted(tags=pb.Tags(items=["web"]))))
    address = next(row for row in scope.client.read("listPublicIpAddresses").items if row.get("isstaticnat"))
    job(
        scope, "createFirewallRule", ipaddressid=address["id"], protocol="tcp", startport="99", endport="99",
        cidrlist="192.0.2.0/24",
    )  # fmt: skip
    found = change(scope, "GetEffectiveFirewalls", networkInterface="nic0").firewalls
    assert sorted(one.name.partition("-")[0] for one in found) == ["address", "all", "web"]
    error = refused(lambda: change(scope, "GetEffectiveFirewalls", networkInterface="nic7"))
    assert (error.code, error.location) == (400, "networkInterface")


# A translator that dies with the work of a step done and not recorded


def everything(scope: Scope) -> Any:
    tags = pb.Tags(items=["web"])
    return put(scope, edited(scope, machineType=f"{TYPES}/small", description="x", tags=tags))


def free_size(scope: Scope) -> Any:
    return put(scope, edited(scope, machineType=f"{TYPES}/custom-2-2048", description="x"))


def renamed(scope: Scope) -> Any:
    job(scope, "stopVirtualMachine", id=row_of(scope)["id"])
    return change(scope, "SetName", named("web-2"))


STEPS: list[tuple[Callable[[Scope], Any], list[str]]] = [
    (everything, ["machine", "stop", "size", "resized", "update", "firewall", "start"]),
    (free_size, ["machine", "stop", "size", "resized", "update", "start"]),
    (renamed, ["machine", "name-free", "root", "name-disk", "rename/web-2", "retarget"]),
]


@pytest.mark.parametrize(
    ("begun", "step"), [(begun, step) for begun, steps in STEPS for step in ["", *steps] if step != "firewall"]
)
def test_a_crash_after_any_step(
    scope: Scope,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[], Finish],
    begun: Callable[[Scope], Any],
    step: str,
) -> None:
    machine(scope, "web-1")
    killer = killed_once(monkeypatch, step)
    sent = begun(scope)
    simulated.app.calls.clear()
    done(scope, begin(), sent)
    assert killer.died == ([step] if step else [])
    expected = next(steps for one, steps in STEPS if one is begun)
    assert set(expected) - {"firewall"} <= {*killer.died, *killer.steps}
    # Jobs are found again, and not begun twice.
    for command in ("stopVirtualMachine", "scaleVirtualMachine", "createTags", "startVirtualMachine"):
        assert simulated.calls.get(command, 0) <= 1, command
    assert simulated.calls.get("changeServiceForVirtualMachine", 0) == (begun is everything)
    if begun is renamed:
        found = get(scope, "web-2")
        assert (found.status, found.disks[0].source.rpartition("/")[2]) == ("TERMINATED", "web-1")
    else:
        found = get(scope)
        assert (found.status, found.description) == ("RUNNING", "x")
        assert type_of(scope) == ("small" if begun is everything else "custom-2-2048")
