"""What GCE lets change of an instance besides labels, tags and metadata, each by a method of its own."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.accounts import default_service_account
from gstack.kernel.errors import ApiError, required
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.kept import fields
from translator_service.operations import engine
from translator_service.places import Zone
from translator_service.resources import machine_types
from translator_service.resources.instances.change import Size, update
from translator_service.resources.instances.find import AWAITED, check_free, find, path, target_id
from translator_service.resources.machine_types import MachineType
from translator_service.rpc import rpc
from translator_service.scope import Scope

_READ = ("listVirtualMachines", "updateVirtualMachine")


@rpc(
    "Instances.SetMachineType",
    calls=("listVirtualMachines", "changeServiceForVirtualMachine", "scaleVirtualMachine", "updateVirtualMachine"),
    differences="Of a stopped instance, as GCE; of a running one where CloudStack can scale it up live, if the operator"
    " allows it (`GSTACK_SCALE_RUNNING`).",
)
def set_machine_type(scope: Scope, request: pb.SetMachineTypeInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    if not request.resource.machineType:
        raise required("resource.machineType")
    wanted = machine_types.resolve(scope, zone, request.resource.machineType, "resource.machineType")
    stopped = "" if scales_live(scope, row, wanted) else "the machine type"
    config = {"machineType": wanted.kept or None}
    return update(scope, zone, name, row, "setMachineType", config=config, size=size_for(wanted), stopped=stopped)


def size_for(wanted: MachineType) -> Size:
    return Size(wanted.row["id"], wanted.details, bool(wanted.row.get("offerha")))


def scales_live(scope: Scope, row: Row, wanted: MachineType) -> bool:
    """Whether a running machine can be given more while it runs, and may."""
    if not scope.environment.settings.scale_running or row.get("state") != "Running" or AWAITED in row:
        return False
    if not row.get("isdynamicallyscalable") or not wanted.row.get("dynamicscalingenabled", True):
        return False
    cpus, memory = (
        int(wanted.details.get(name) or wanted.row.get(name.lower()) or 0) for name in ("cpuNumber", "memory")
    )
    if cpus < int(row.get("cpunumber", 0)) or memory < int(row.get("memory", 0)):
        return False
    return bool(scope.client.read("listCapabilities").one().get("dynamicscalingenabled"))


@rpc(
    "Instances.SetScheduling",
    calls=_READ,
    differences="In any state. `automaticRestart` is CloudStack's high availability where the machine type has it; the"
    " rest is kept and returned. `instanceTerminationAction` goes when an instance is no SPOT one any more.",
)
def set_scheduling(scope: Scope, request: pb.SetSchedulingInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    patch = scheduling_patch(request.resource)
    return update(scope, zone, name, row, "setScheduling", config={"scheduling": patch})


def scheduling_patch(wanted: pb.Scheduling) -> dict[str, Any]:
    """What is kept of it, as a patch. A number of 0 is none."""
    found: dict[str, Any] = fields.kept(wanted)
    for field in ("availabilityDomain", "hostErrorTimeoutSeconds"):
        if wanted.HasField(field) and not getattr(wanted, field):
            found[field] = None
    if wanted.HasField("localSsdRecoveryTimeout") and not found.get("localSsdRecoveryTimeout"):
        found["localSsdRecoveryTimeout"] = None
    # Only a SPOT instance has one, so this is how to be rid of it.
    if wanted.provisioningModel == "STANDARD" and not wanted.instanceTerminationAction:
        found["instanceTerminationAction"] = None
    return found


@rpc("Instances.SetServiceAccount", calls=_READ, differences="Kept and returned; the guest gets no tokens.")
def set_service_account(scope: Scope, request: pb.SetServiceAccountInstanceRequest) -> Message:
    wanted = request.resource
    if wanted.scopes and not wanted.email:
        raise required("resource.email")
    if wanted.email == "default":
        wanted.email = default_service_account(scope.project.number)
    accounts = [fields.kept(wanted)] if wanted.email else None
    return _keep(scope, request, "setServiceAccount", {"serviceAccounts": accounts}, "the service account")


@rpc("Instances.SetMinCpuPlatform", calls=_READ, differences="Kept and returned.")
def set_min_cpu_platform(scope: Scope, request: pb.SetMinCpuPlatformInstanceRequest) -> Message:
    wanted = request.resource.minCpuPlatform or None
    return _keep(scope, request, "setMinCpuPlatform", {"minCpuPlatform": wanted}, "the minimum CPU platform")


@rpc("Instances.UpdateShieldedInstanceConfig", calls=_READ, differences="Kept and returned.")
def update_shielded_instance_config(scope: Scope, request: pb.UpdateShieldedInstanceConfigInstanceRequest) -> Message:
    config = {"shieldedInstanceConfig": _patch(scope, request.resource)}
    return _keep(scope, request, "updateShieldedInstanceConfig", config, "the shielded instance config")


@rpc("Instances.SetShieldedInstanceIntegrityPolicy", calls=_READ, differences="Kept and returned.")
def set_shielded_instance_integrity_policy(
    scope: Scope, request: pb.SetShieldedInstanceIntegrityPolicyInstanceRequest
) -> Message:
    config = {"shieldedInstanceIntegrityPolicy": _patch(scope, request.resource)}
    return _keep(scope, request, "setShieldedInstanceIntegrityPolicy", config)


@rpc("Instances.UpdateDisplayDevice", calls=_READ, differences="Kept and returned; every instance has a console.")
def update_display_device(scope: Scope, request: pb.UpdateDisplayDeviceInstanceRequest) -> Message:
    config = {"displayDevice": _patch(scope, request.resource)}
    return _keep(scope, request, "updateDisplayDevice", config, "the display device")


def _patch(scope: Scope, wanted: Message) -> dict[str, Any]:
    """What is kept of a body without messages in it, as a patch: what was null is taken away."""
    return fields.kept(wanted) | dict.fromkeys(scope.cleared)


def _keep(scope: Scope, request: Any, type: str, config: dict[str, Any], stopped: str = "") -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    return update(scope, zone, name, row, type, config=config, stopped=stopped)


@rpc("Instances.SetMachineResources", calls=("listVirtualMachines",), differences="There are no accelerators to add.")
def set_machine_resources(scope: Scope, request: pb.SetMachineResourcesInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    return _nothing(scope, zone, name, row, "setMachineResources")


def _nothing(scope: Scope, zone: Zone, name: str, row: Row, type: str) -> Message:
    return engine.finished(scope, type=type, target=path(zone, name), target_id=target_id(row))


@rpc(
    "Instances.SetName",
    calls=("listVirtualMachines", "listVolumes", "createTags", "updateVirtualMachine"),
    differences="The host name of the guest is another one from its next start on. The boot disk keeps its name.",
)
def set_name(scope: Scope, request: pb.SetNameInstanceRequest) -> Message:
    wanted = request.resource
    naming.check_new_name(wanted.name)
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    if wanted.currentName and wanted.currentName != name:
        text = f"The name of the instance is '{name}', not '{wanted.currentName}'."
        raise ApiError(412, text, "conditionNotMet", "resource.currentName")
    if wanted.name == name:
        return _nothing(scope, zone, name, row, "setName")
    check_free(scope, zone, wanted.name)
    return update(scope, zone, name, row, "setName", rename=wanted.name, stopped="the name")
