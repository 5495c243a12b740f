"""deployVirtualMachine, and the end of a VM: expunging."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from simulator import errors
from simulator.commands import Call, command
from simulator.errors import ApiError
from simulator.families import addresses, networks, security_groups, ssh_keys, templates
from simulator.families.machines import (
    HIDDEN_DETAILS,
    changed,
    check_limit,
    describe,
    machines,
    set_state,
    size_of,
    submit,
    volumes,
)
from simulator.world import (
    Account,
    DiskOffering,
    Network,
    ServiceOffering,
    SshKeyPair,
    Template,
    VirtualMachine,
    Volume,
    World,
    Zone,
)

GIB = 1024**3
USER_DATA_BY_GET = 4096
USER_DATA = 32768
DETAIL_VALUE = 5120
DETAIL_KEY = 255
STATISTICS_SECONDS = 60.0
OVERCOMMIT = {"memoryOvercommitRatio": "4", "cpuOvercommitRatio": "8"}
ATTACHED = "Please specify a volume that is not attached to any VM."
MAX_NAME = 63
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?")


@dataclass
class DiskPlan:
    offering: DiskOffering
    size: int  # GB
    device: int | None = None


@dataclass
class Plan:
    """A checked request."""

    owner: Account
    zone: Zone
    template: Template
    offering: ServiceOffering
    size: tuple[int, int, int]
    details: dict[str, str]
    user_data: str
    keys: list[SshKeyPair]
    networks: list[Network]
    fixed_ips: dict[str, str]
    root_size: int  # bytes
    root_offering: DiskOffering | None
    root: Volume | None  # one that exists
    disks: list[DiskPlan] = field(default_factory=list)


@command("deployVirtualMachine")
def deploy_virtual_machine(call: Call) -> dict[str, Any]:
    plan = _plan(call)
    vm = _create(call, plan)
    _plug(call, plan, vm)
    world = call.world
    if not call.flag("startvm", True):
        return submit(call, vm, lambda: {}, seconds=call.duration() / 10, created=True)
    result: dict[str, str] = {}

    def starting() -> None:
        if not _fits_nowhere(vm):
            result.update(password(vm))
            set_state(world, vm, "Starting")

    def started() -> dict[str, str]:
        if _fits_nowhere(vm):
            error = ApiError(533, f"No destination found for a deployment for {describe(vm)}")
            set_state(world, vm, "Error")
            raise error
        run(world, vm)
        return result

    return submit(call, vm, started, steps=[(0.1, starting)], created=True)


def _fits_nowhere(vm: VirtualMachine) -> bool:
    """Also with a tag on its template, which anybody may set (recordings, Surprises 113)."""
    return vm.offering.fits_nowhere or bool(vm.template.tag)


def run(world: World, vm: VirtualMachine) -> None:
    """The VM runs: its disks and NICs are in place."""
    for disk in vm.volumes:
        if disk.state == "Allocated":
            disk.state = "Ready"
    for nic in vm.nics:
        nic.plugged = True
    vm.details.pop("deployvm", None)
    vm.details |= OVERCOMMIT
    set_state(world, vm, "Running")
    if not vm.measured:
        world.at(STATISTICS_SECONDS, lambda: _measure(vm))


def _measure(vm: VirtualMachine) -> None:
    if vm.state == "Running":
        vm.measured = True
        changed(vm)


def password(vm: VirtualMachine) -> dict[str, str]:
    """A new password, for the result of a job on a password enabled template; kept encrypted with the SSH key."""
    if not vm.template.password_enabled:
        return {}
    if "SSH.PublicKey" in vm.details:
        vm.details["Encrypted.Password"] = base64.b64encode(secrets.token_bytes(256)).decode()
        changed(vm)
    return {"password": secrets.token_urlsafe(8)[:10]}


def expunge(world: World, vm: VirtualMachine) -> None:
    """The VM is gone for good, with its root disk, its addresses and its name; data disks stay."""
    if vm.removed:
        return
    addresses.release_for_vm(world, vm)
    for nic in list(vm.nics):
        networks.unplug(world, vm, nic)
    for disk in list(vm.volumes):
        detach(disk)
        if disk.type == "ROOT":
            forget_volume(world, disk)
    vm.state, vm.removed = "Expunging", True
    machines(world).put(vm)
    changed(vm)


def detach(disk: Volume) -> None:
    if disk.vm is not None:
        disk.vm.volumes.remove(disk)
        changed(disk.vm)
    disk.vm = disk.device = disk.attached = None


def attach(disk: Volume, vm: VirtualMachine, device: int) -> None:
    disk.vm, disk.device = vm, device
    vm.volumes.append(disk)
    vm.volumes.sort(key=lambda row: row.device or 0)
    changed(vm)


def forget_volume(world: World, disk: Volume) -> None:
    disk.state, disk.removed = "Expunged", True
    volumes(world).put(disk)


def add_volume(world: World, account: Account, zone: Zone, **values: Any) -> Volume:
    disk = world.add(Volume, account=account, zone=zone, **values)
    volumes(world).put(disk)
    return disk


# Checks


def check_name(call: Call, name: str) -> None:
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ApiError(
            431,
            f"Unable to execute API command {call.command.lower()} due to invalid value. Invalid value provided for "
            "API arg: name - it can contain ASCII letters 'a' through 'z', the digits '0' through '9', and the hyphen "
            "('-'), must be between 1 and 63 characters long, and can't start or end with \"-\" and can't start with "
            "digit",
        )


def same_name(world: World, name: str, used: list[Network]) -> Network | None:
    """The network where a VM has this name, in the same case; a VM without NICs any more does not count."""
    for vm in machines(world).of(name.lower()):
        for nic in vm.nics:
            if vm.name == name and nic.network in used:
                return nic.network
    return None


def check_user_data(call: Call) -> str:
    """The given user data; CloudStack decodes one with a `%` as part of a URL before base64, so that `+` is a blank."""
    text = call.text("userdata")
    if not text:
        return ""
    if "%" in text:
        if bad := re.search(r"%(?![0-9A-Fa-f]{2})(.{0,2})", text):
            raise ApiError(
                431,
                f'URLDecoder: Illegal hex characters in escape (%) pattern - Error at index 0 in: "{bad[1]}"',
            )
        text = unquote_plus(text)
    if call.method == "GET" and len(text) >= USER_DATA_BY_GET:
        raise errors.invalid("User data is too long for http GET request")
    if len(text) > USER_DATA:
        raise errors.invalid(f"User data has exceeded configurable max length: {USER_DATA}")
    # Blanks and missing padding are no error; they shift what is behind them.
    bare = "".join(text.split()).rstrip("=")
    bare = bare[:-1] if len(bare) % 4 == 1 else bare
    try:
        content = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise errors.invalid("User data is not base64 encoded.") from None
    return base64.b64encode(content).decode()


def given_details(call: Call) -> dict[str, str]:
    """The details of a request; too long ones are cut without a word."""
    details = {key[:DETAIL_KEY]: value[:DETAIL_VALUE] for key, value in call.details().items() if key}
    if not call.is_admin and any(key in HIDDEN_DETAILS for key in details):
        raise errors.internal()
    return details


def key_details(keys: list[SshKeyPair]) -> dict[str, str]:
    if not keys:
        return {}
    return {
        "SSH.PublicKey": "\n".join(key.public_key for key in keys) + ("" if len(keys) == 1 else "\n"),
        "SSH.KeyPairNames": ",".join(key.name for key in keys),
    }


def _plan(call: Call) -> Plan:
    zone = call.require(Zone, "zoneid")
    offering = call.require(ServiceOffering, "serviceofferingid")
    template, root = call.row(Template, "templateid"), call.row(Volume, "volumeid")
    disk_offering = call.row(DiskOffering, "diskofferingid")
    root_offering = call.row(DiskOffering, "overridediskofferingid")
    asked, fixed_ips = _asked_networks(call)
    for parameter in ("hostid", "clusterid", "podid"):
        if parameter in call.parameters:
            raise errors.no_such_entity(call.command, parameter, call.text(parameter))
    call.check_named_account()
    owner = call.owner()
    if (name := call.text("name")) != "":
        check_name(call, name)
    from_disk = root is not None or bool(call.text("snapshotid"))
    if from_disk == (template is not None):
        raise errors.internal()
    if from_disk:
        template = _template_of(call, root)
    assert template is not None
    if template.removed or not templates.may_launch(call, template):
        raise errors.denied()
    hypervisor = call.text("hypervisor")
    if hypervisor and hypervisor.lower() != template.hypervisor.lower():
        raise errors.invalid(
            "Hypervisor passed to the deployVm call, is different from the hypervisor type of the template"
        )
    details = given_details(call)
    size = size_of(offering, details)
    _check_limits(call, owner, size, 1 + bool(disk_offering) + len(call.entries("datadisksdetails")))
    root_size = _root_size(call, template, root_offering)
    user_data = check_user_data(call)
    keys = ssh_keys.named(call.world, owner, [*call.items("keypairs"), *call.items("keypair")])
    if call.text("affinitygroupnames") or call.text("affinitygroupids"):
        name = call.text("affinitygroupnames") or call.text("affinitygroupids")
        raise errors.invalid(f"Unable to find group by name {name}")
    used = networks.networks_for_deploy(call, owner, zone, asked)
    if ip := call.text("ipaddress"):
        fixed_ips.setdefault(used[0].id, ip)
    name = call.text("name")
    if name and (taken := same_name(call.world, name, used)):
        raise errors.invalid(
            f"The vm with hostName {name} already exists in the network domain: {networks.domain_of(taken)}; "
            f"network={taken.name}"
        )
    plan = Plan(
        owner, zone, template, offering, size, details, user_data, keys, used, fixed_ips, root_size, root_offering, root
    )
    plan.disks = _data_disks(call, disk_offering)
    return plan


def _template_of(call: Call, root: Volume | None) -> Template:
    """What tells hypervisor and system of a VM that is made of a disk; a snapshot is never enough here."""
    hypervisor = root.template.hypervisor if root and root.template else ""
    if root is None or not root.template or not call.world.settings.zone_wide_storage or hypervisor != "KVM":
        raise errors.invalid("Deployment of virtual machine is supported only for Zone-wide storage pools")
    call.check_access(root.account)
    if root.vm is not None:
        raise errors.invalid(ATTACHED)
    return root.template


def _asked_networks(call: Call) -> tuple[list[Network], dict[str, str]]:
    """The networks of `networkids` or `iptonetworklist`, and the fixed addresses by network."""
    entries = call.entries("iptonetworklist")
    if entries and call.text("networkids"):
        raise errors.invalid("ipToNetworkMap can't be specified along with networkIds or ipAddress")
    asked, fixed_ips = call.rows(Network, "networkids") or [], {}
    for entry in entries:
        network = call.world.find(Network, entry.get("networkid", ""))
        if network is None:
            raise errors.invalid(f"Unable to translate and find entity with networkId: {entry.get('networkid')}")
        asked.append(network)
        if entry.get("ip"):
            fixed_ips[network.id] = entry["ip"]
    return asked, fixed_ips


def _check_limits(call: Call, owner: Account, size: tuple[int, int, int], disks: int) -> None:
    for kind, amount in (("vm", 1), ("cpu", size[0]), ("memory", size[2]), ("volume", disks)):
        check_limit(call, owner, kind, amount, errors.SERVER_API)


def _root_size(call: Call, template: Template, override: DiskOffering | None) -> int:
    size = call.integer("rootdisksize")
    if size is None:
        return override.size * GIB if override and override.size else template.size
    if size * GIB < template.size:
        raise errors.invalid(
            f"Unsupported: rootdisksize override ({size} GB) is smaller than template size "
            f"({template.size / GIB:.2f} GB) {template.size}"
        )
    return size * GIB


def _data_disks(call: Call, offering: DiskOffering | None) -> list[DiskPlan]:
    plans = []
    if offering:
        plans.append(DiskPlan(offering, disk_size(offering, call.integer("size"))))
    for entry in call.entries("datadisksdetails"):
        found = call.world.find(DiskOffering, entry.get("diskofferingid", ""))
        if found is None:
            raise errors.invalid(f"Unable to find disk offering {entry.get('diskofferingid')}")
        size = int(entry["size"]) if entry.get("size", "").isdigit() else None
        device = int(entry["deviceid"]) if entry.get("deviceid", "").isdigit() else len(plans) + 1
        plans.append(DiskPlan(found, disk_size(found, size), device))
    return plans


def disk_size(offering: DiskOffering, size: int | None) -> int:
    """GB of a new disk."""
    if not offering.customized:
        if size is not None:
            raise errors.invalid("This disk offering does not allow custom size")
        return offering.size
    if size is None:
        raise errors.invalid("This disk offering requires a custom size specified")
    if size <= 0:
        raise errors.invalid("Disk size must be larger than 0")
    if size > 1024:
        raise errors.invalid(f"Volume size: {size} GB is out of allowed range. Min: 1. Max: 1024")
    return size


# Creation


def _create(call: Call, plan: Plan) -> VirtualMachine:
    world = call.world
    groups = security_groups.groups_for_deploy(call, plan.owner, plan.zone)
    identity = world.new_id()
    vm = world.add(
        VirtualMachine,
        id=identity,
        name=call.text("name") or f"VM-{identity}",
        display_name=call.text("displayname"),
        account=plan.owner,
        user=call.user,
        zone=plan.zone,
        template=plan.template,
        offering=plan.offering,
        cpu_number=plan.size[0],
        cpu_speed=plan.size[1],
        memory=plan.size[2],
        state="Stopped",
        details={"deployvm": "true"} | plan.template.details | plan.details | key_details(plan.keys),
        user_data=plan.user_data,
        ha_enabled=plan.offering.offer_ha,
        security_groups=groups,
        dynamically_scalable=plan.template.dynamically_scalable and call.flag("dynamicscalingenabled", True),
    )
    machines(world).put(vm)
    set_group(world, vm, call.text("group"))
    return vm


def _add_disks(world: World, vm: VirtualMachine, plan: Plan) -> None:
    root = plan.root or add_volume(
        world,
        plan.owner,
        plan.zone,
        name=f"ROOT-{vm.number}",
        type="ROOT",
        size=plan.root_size,
        state="Allocated",
        template=plan.template,
        service_offering=None if plan.root_offering else plan.offering,
        offering=plan.root_offering,
    )
    attach(root, vm, 0)
    root.type = "ROOT"
    for disk_plan in plan.disks:
        suffix = "" if disk_plan.device is None else f"-{disk_plan.device}"
        disk = add_volume(
            world,
            plan.owner,
            plan.zone,
            name=f"DATA-{vm.number}{suffix}",
            type="DATADISK",
            size=disk_plan.size * GIB,
            state="Allocated",
            offering=disk_plan.offering,
        )
        attach(disk, vm, disk_plan.device or 1)


def _plug(call: Call, plan: Plan, vm: VirtualMachine) -> None:
    """NICs and disks; a refused address leaves the VM behind in state Error, until the next expunge run."""
    world = call.world
    try:
        for position, network in enumerate(plan.networks):
            nic = networks.plug(world, vm, network, ip=plan.fixed_ips.get(network.id), default=position == 0)
            if position == 0 and call.text("macaddress"):
                nic.mac = call.text("macaddress")
    except ApiError:
        for nic in list(vm.nics):
            networks.unplug(world, vm, nic)
        set_state(world, vm, "Error")
        world.at(world.settings.expunge_seconds, lambda: expunge(world, vm))
        raise
    _add_disks(world, vm, plan)
    changed(vm)


def set_group(world: World, vm: VirtualMachine, name: str) -> None:
    """Put the VM into the account's instance group of this name, which is made when there is none."""
    if not name:
        return
    groups: dict[tuple[str, str], str] = world.indexes.setdefault(str, {})
    vm.group, vm.group_id = name, groups.setdefault((vm.account.id, name), world.new_id())
    changed(vm)
