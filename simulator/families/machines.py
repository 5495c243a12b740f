"""What the commands on virtual machines share: lookups by account and name, the answers, and their jobs.

An answer is rendered once per selection of `details` and kept in `vm.views` until `changed(vm)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from simulator import errors
from simulator.commands import Call
from simulator.errors import ApiError
from simulator.families import addresses, networks, security_groups
from simulator.index import Index, index
from simulator.world import Account, Job, ServiceOffering, Snapshot, Template, VirtualMachine, Volume, World, timestamp

Step = tuple[float, Callable[[], None]]  # a share of the job's duration, and what happens then

DETAIL_PARTS = (
    "all", "group", "nics", "stats", "secgrp", "tmpl", "servoff", "diskoff", "backoff", "iso", "volume", "min",
    "affgrp", "vnfnics",
)  # fmt: skip
HIDDEN_DETAILS = ("memoryOvercommitRatio", "cpuOvercommitRatio", "Message.ReservedCapacityFreed.Flag", "rootdisksize")
SIZE_DETAILS = ("cpuNumber", "cpuSpeed", "memory")
HOST = {
    "hostid": "7c3a9c1e-6a39-4d5b-9a65-0b54b6d9a1f2",
    "hostname": "SimulatedAgent.2f6a1f0b-3f2e-4c35-8a56-a2a0b1c7d9e4",
}
STATISTICS = {
    "cpuused": "10%",
    "networkkbsread": 32768,
    "networkkbswrite": 16384,
    "diskkbsread": 0,
    "diskkbswrite": 0,
    "diskioread": 0,
    "diskiowrite": 0,
    "memorykbs": 0,
    "memoryintfreekbs": 0,
    "memorytargetkbs": 0,
}
EVERYTHING = frozenset({"all"})
WORK_DONE = 0.9  # share of a job's duration after which lists show what it did


def machines(world: World) -> Index[VirtualMachine]:
    """VMs that are not expunged, by account and by lower-case name."""
    return index(world, VirtualMachine, lambda vm: (vm.account, vm.name.lower()))


def volumes(world: World) -> Index[Volume]:
    """Disks that are not expunged, by account and by lower-case name."""
    return index(world, Volume, lambda disk: (disk.account, disk.name.lower()))


def snapshots(world: World) -> Index[Snapshot]:
    """Snapshots that are not deleted, by account, by disk and by lower-case name."""
    return index(world, Snapshot, lambda row: (row.account, row.volume, row.name.lower()))


def changed(vm: VirtualMachine) -> None:
    """Forget the rendered answers; for everybody who changes what a VM's answer shows."""
    vm.views.clear()


def set_state(world: World, vm: VirtualMachine, state: str) -> None:
    vm.state, vm.updated = state, world.now
    changed(vm)


# Lookup


def removed(kind: str, number: int) -> ApiError:
    return errors.invalid(f"Unable to find UUID for id [{number}] of type [{kind}]")


def machine(call: Call, parameter: str = "id") -> VirtualMachine:
    """The VM a command works on, when the caller may."""
    vm = call.require(VirtualMachine, parameter)
    if vm.removed:
        raise removed("VirtualMachine", vm.number)
    call.check_access(vm.account)
    return vm


def volume(call: Call, parameter: str = "id") -> Volume:
    row = call.require(Volume, parameter)
    if row.removed:
        raise removed("Volume", row.number)
    return row


# Answers


def instance_name(vm: VirtualMachine) -> str:
    return f"i-{vm.account.number}-{vm.number}-VM"


def describe(vm: VirtualMachine) -> str:
    """How CloudStack's texts show a VM."""
    shown = {
        "id": vm.number,
        "instanceName": instance_name(vm),
        "state": vm.state,
        "type": "User",
        "uuid": vm.id,
    }
    return "VM instance " + json.dumps(shown, separators=(",", ":"))


def describe_disk(disk: Volume) -> str:
    """How CloudStack's texts show a disk."""
    instance = disk.vm.number if disk.vm else "null"
    return (
        f'Volume {{"id":{disk.number},"instanceId":{instance},"name":"{disk.name}","uuid":"{disk.id}",'
        f'"volumeType":"{disk.type}"}}'
    )


def owner_fields(owner: Account) -> dict[str, Any]:
    if owner.project:
        return {"projectid": owner.project.id, "project": owner.project.name}
    return {"account": owner.name}


def selection(call: Call) -> frozenset[str]:
    """The parts of the answer asked for with `details`."""
    parts = frozenset(call.items("details"))
    if not parts <= frozenset(DETAIL_PARTS):
        raise errors.invalid(
            f"The details parameter contains a non permitted value. The allowed values are [{', '.join(DETAIL_PARTS)}]"
        )
    return parts or EVERYTHING


def render(
    world: World, vm: VirtualMachine, *, parts: frozenset[str] = EVERYTHING, admin: bool = False
) -> dict[str, Any]:
    """A VM as the lists show it, with the job that runs on it."""
    key = (parts, admin, len(vm.tags) > 1)
    body = vm.views.get(key)
    if body is None:
        body = vm.views[key] = _render(world, vm, parts, admin)
    if vm.jobs:
        return body | {"jobid": vm.jobs[0].id, "jobstatus": 0}
    return body


def _render(world: World, vm: VirtualMachine, parts: frozenset[str], admin: bool) -> dict[str, Any]:
    template = vm.template
    disk_offering = next((disk.offering for disk in vm.volumes if disk.offering), None)
    everything = "all" in parts
    # A VM that fills several rows of CloudStack's view shows parts that `details` left out.
    several = len(vm.volumes) > 1 or len(vm.tags) > 1 or len(vm.nics) > 1 or len(vm.security_groups) > 1
    with_nics = everything or "nics" in parts or several
    on_host = vm.state in ("Running", "Stopping")
    ready = any(disk.state == "Ready" for disk in vm.volumes)
    body: dict[str, Any] = {"id": vm.id, "name": vm.name, "displayname": vm.display_name or vm.name}
    body |= owner_fields(vm.account)
    body |= {
        "userid": vm.user.id,
        "username": vm.user.name,
        "domainid": vm.account.domain.id,
        "domain": vm.account.domain.name,
        "domainpath": vm.account.domain.path,
        "created": timestamp(vm.created),
    }
    if vm.updated is not None:
        body["lastupdated"] = timestamp(vm.updated)
    body |= {"state": vm.state, "haenable": vm.ha_enabled}
    if vm.group and (everything or "group" in parts):
        body |= {"groupid": vm.group_id, "group": vm.group}
    body |= {"zoneid": vm.zone.id, "zonename": vm.zone.name}
    if on_host:
        body |= (HOST if admin else {}) | {"hostcontrolstate": "Enabled"}
    if everything or "tmpl" in parts:
        body |= {
            "templateid": template.id,
            "templatename": template.name,
            "templatetype": template.type,
            "templateformat": template.format,
            "templatedisplaytext": template.display_text,
            "passwordenabled": template.password_enabled,
        }
    if everything or "servoff" in parts:
        body |= {"serviceofferingid": vm.offering.id, "serviceofferingname": vm.offering.name}
    if disk_offering:
        body |= {"diskofferingid": disk_offering.id, "diskofferingname": disk_offering.name}
    if everything or "servoff" in parts:
        body |= {"cpunumber": vm.cpu_number, "cpuspeed": vm.cpu_speed, "memory": vm.memory}
    if vm.measured and (everything or "stats" in parts):
        body |= STATISTICS | {"memorykbs": vm.memory * 1024}
    body["guestosid"] = template.os_id
    if vm.volumes and (everything or "volume" in parts):
        # The first volume, even when the root disk is detached.
        body |= {"rootdeviceid": vm.volumes[0].device, "rootdevicetype": vm.volumes[0].type}
    groups = vm.security_groups if everything or "secgrp" in parts else vm.security_groups[1:]
    body["securitygroup"] = [security_groups.render_in_vm(group) for group in groups]
    address = addresses.static_nat_of(world, vm)
    public = {"publicipid": address.id, "publicip": address.address} if address else {}
    nics = sorted(vm.nics, key=lambda nic: not nic.default) if with_nics else []
    body["nic"] = [networks.render_nic(world, nic, vm) for nic in nics]
    body["hypervisor"] = template.hypervisor
    if nics:
        body["ipaddress"] = nics[0].ip
    body |= public
    if admin:
        body["instancename"] = instance_name(vm)
    body["details"] = {key: value for key, value in vm.details.items() if admin or key not in HIDDEN_DETAILS}
    if not admin:
        body["readonlydetails"] = "dataDiskController, rootDiskController"
    if names := vm.details.get("SSH.KeyPairNames"):
        body["keypairs"] = names
    body["affinitygroup"] = []
    if admin:
        body["displayvm"] = True
    body |= {
        "isdynamicallyscalable": vm.dynamically_scalable,
        "deleteprotection": vm.delete_protection,
        "ostypeid": template.os_id,
        "osdisplayname": template.os_name,
    }
    if ready:
        body["pooltype"] = "NetworkFilesystem"
    body |= {"receivedbytes": 0, "sentbytes": 0}
    if admin:
        body["arch"] = template.arch
    body |= {"tags": vm.tags, "hasannotations": False}
    return body


# Jobs


def submit(
    call: Call,
    vm: VirtualMachine,
    effect: Callable[[], dict[str, Any] | None],
    *,
    steps: Iterable[Step] = (),
    seconds: float | None = None,
    created: bool = False,
    named: bool = True,
    parts: frozenset[str] = EVERYTHING,
) -> dict[str, Any]:
    """A job on a VM, behind those that were submitted before: `steps` on the way, `effect` shortly before its end.

    The result is the VM (`parts` of it), with what `effect` returns on top; a removed VM leaves only its empty lists.
    """
    world = call.world
    wait = max(vm.busy_until - world.now, 0.0)
    duration = call.duration() if seconds is None else seconds
    begun: list[Job] = []
    outcome: list[dict[str, Any] | ApiError] = []

    def work() -> None:
        try:
            outcome.append(effect() or {})
        except ApiError as error:
            outcome.append(error)

    def guarded(step: Callable[[], None]) -> Callable[[], None]:
        # A submit that fails after all leaves no job behind whose steps could happen, nor does a restart.
        return lambda: step() if begun and begun[0].status == 0 else None

    for share, step in (*steps, (WORK_DONE, work)):
        world.at(wait + share * duration, guarded(step))

    def finish() -> dict[str, Any]:
        if named:
            vm.jobs.remove(begun[0])
        (extra,) = outcome
        if isinstance(extra, ApiError):
            raise extra
        if "success" in extra:
            return extra
        if vm.removed:
            empty: dict[str, Any] = {"securitygroup": [], "nic": [], "affinitygroup": []}
            return {"virtualmachine": empty | {"deleteprotection": False, "tags": []}}
        shown = render(world, vm, parts=parts) | extra | {"tags": list(vm.tags)}
        if named:
            shown |= {"jobid": begun[0].id, "jobstatus": 0}
        return {"virtualmachine": shown}

    answer = call.job(
        finish,
        instance=("VirtualMachine", vm.id) if named else None,
        create_id=vm.id if created else None,
        seconds=wait + duration,
    )
    job = world.find(Job, answer["jobid"])
    assert job is not None
    begun.append(job)
    if named:
        vm.jobs.append(job)
    vm.busy_until = world.now + wait + duration
    return answer


def refuse(call: Call, vm: VirtualMachine, error: ApiError) -> dict[str, Any]:
    """A job that fails soon after its start, without waiting for others on the VM."""

    def fail() -> dict[str, Any]:
        raise error

    return call.job(fail, instance=("VirtualMachine", vm.id), seconds=call.duration() / 5)


# Sizes


def size_of(offering: ServiceOffering, details: Mapping[str, str]) -> tuple[int, int, int]:
    """CPUs, MHz and MB of a VM with this offering; `details` are looked at for customized ones only."""
    if not offering.customized:
        if any(key in details for key in SIZE_DETAILS):
            raise errors.invalid("cpuNumber or cpuSpeed or memory should not be specified for static service offering")
        return offering.cpu_number or 0, offering.cpu_speed or 0, offering.memory or 0
    if "cpuNumber" not in details or "memory" not in details:
        raise errors.invalid(
            "Need to specify custom parameter values cpu, cpu speed and memory when using custom offering"
        )
    cpus = _within(details["cpuNumber"], offering, "cpunumber", "cpu cores")
    memory = _within(details["memory"], offering, "memory", "memory")
    return cpus, int(details.get("cpuSpeed") or offering.cpu_speed or 0), memory


def _within(text: str, offering: ServiceOffering, key: str, name: str) -> int:
    low = int(offering.details.get(f"min{key}", 1))
    high = int(offering.details.get(f"max{key}", 2147483647))
    value = int(text) if text.isdigit() else 0
    if not low <= value <= high:
        raise errors.invalid(f"Invalid {name} value, specify a value between {low} and {high}")
    return value


# Limits


def check_limit(call: Call, owner: Account, kind: str, requested: int, code: int = errors.RESOURCE_ALLOCATION) -> None:
    """535 when an account's limit would be exceeded; `kind` is the key in `account.limits`."""
    limit = owner.limits.get(kind, -1)
    if limit < 0:
        return
    amount = _amount(call.world, owner, kind)
    if amount + requested <= limit:
        return
    name = "user_vm" if kind == "vm" else kind
    who = f"Project Name = {owner.project.name}" if owner.project else f"Account Name = {owner.name}"
    what = "Project" if owner.project else "Account"
    raise ApiError(
        535,
        f"Maximum amount of resources of Type = '{name}', tag = 'null' for {who} in Domain Id = "
        f"{owner.domain.number} is exceeded: {what} Resource Limit = {limit}, Current {what} Resource Amount = "
        f"{amount}, Current {what} Resource Reservation = 0, Requested Resource Amount = {requested}.",
        code,
    )


def _amount(world: World, owner: Account, kind: str) -> int:
    if kind == "volume":
        return sum(row.state != "Destroy" for row in volumes(world).of(owner))
    if kind == "snapshot":
        return len(snapshots(world).of(owner))
    if kind == "template":
        return sum(row.account is owner for row in world.all(Template))
    rows = [vm for vm in machines(world).of(owner) if vm.state not in ("Destroyed", "Expunging", "Error")]
    if kind == "cpu":
        return sum(vm.cpu_number for vm in rows)
    if kind == "memory":
        return sum(vm.memory for vm in rows)
    return len(rows)
