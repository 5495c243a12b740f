"""listVirtualMachines and the life cycle: start, stop, reboot, destroy, expunge, recover, restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, command
from simulator.errors import ApiError
from simulator.families import tags
from simulator.families.deploy import (
    add_volume,
    attach,
    detach,
    expunge,
    forget_volume,
    password,
    run,
)
from simulator.families.machines import (
    HOST,
    changed,
    describe,
    instance_name,
    machine,
    machines,
    refuse,
    removed,
    render,
    selection,
    set_state,
    submit,
)
from simulator.world import (
    Network,
    SecurityGroup,
    ServiceOffering,
    Template,
    User,
    VirtualMachine,
    Volume,
    World,
    Zone,
)

GONE = ("Destroyed", "Expunging")
Test = Callable[[VirtualMachine], bool]


# Lists


@command("listVirtualMachines")
def list_virtual_machines(call: Call) -> Listing:
    parts = selection(call)
    rows = _candidates(call)
    if not call.is_admin and not call.world.settings.view_destroyed:
        rows = [vm for vm in rows if vm.state not in GONE]
    for test in _tests(call):
        rows = list(filter(test, rows))
    rows = tags.filter_rows(call, rows)
    world, admin, with_user_data = call.world, call.is_admin, call.flag("userdata")

    def show(vm: VirtualMachine) -> dict[str, Any]:
        body = render(world, vm, parts=parts, admin=admin)
        return body | {"userdata": vm.user_data} if with_user_data and vm.user_data else body

    return Listing(Lazy(rows, show))


def _candidates(call: Call) -> list[VirtualMachine]:
    """The VMs that ids, names and ownership leave; other accounts' are silently missing."""
    wanted = _asked(call)
    owners = call.owners()
    index = machines(call.world)
    if wanted is None and (name := call.text("name")):
        wanted = index.of(name.lower())
    if wanted is None:
        return index.of(*owners)
    if call.is_admin:
        return [vm for vm in wanted if not vm.removed]
    return [vm for vm in wanted if vm.account in owners and not vm.removed]


def _asked(call: Call) -> list[VirtualMachine] | None:
    one, several = call.row(VirtualMachine, "id"), call.rows(VirtualMachine, "ids")
    if one is not None and several is not None:
        raise errors.invalid("Specify either id or ids but not both parameters")
    return several if one is None else [one]


def _tests(call: Call) -> Iterator[Test]:
    state = call.text("state").lower()
    if state == "present":
        yield lambda vm: vm.state not in GONE
    elif state:
        yield lambda vm: vm.state.lower() == state
    if name := call.text("name").lower():
        yield lambda vm: vm.name.lower() == name
    if keyword := call.text("keyword").lower():
        yield lambda vm: any(
            keyword in text.lower() for text in (vm.name, vm.display_name, vm.state, instance_name(vm))
        )
    if zone := call.row(Zone, "zoneid"):
        yield lambda vm: vm.zone is zone
    if network := call.row(Network, "networkid"):
        yield lambda vm: any(nic.network is network for nic in vm.nics)
    if template := call.row(Template, "templateid"):
        yield lambda vm: vm.template is template
    if offering := call.row(ServiceOffering, "serviceofferingid"):
        yield lambda vm: vm.offering is offering
    if group := call.row(SecurityGroup, "securitygroupid"):
        yield lambda vm: group in vm.security_groups
    if user := call.row(User, "userid"):
        yield lambda vm: vm.user is user
    if group_id := call.text("groupid"):
        yield lambda vm: vm.group_id == group_id
    if pair := call.text("keypair"):
        yield lambda vm: pair in vm.details.get("SSH.KeyPairNames", "").split(",")
    if hypervisor := call.text("hypervisor").lower():
        yield lambda vm: vm.template.hypervisor.lower() == hypervisor
    if "haenable" in call.parameters:
        ha_enabled = call.flag("haenable")
        yield lambda vm: vm.ha_enabled == ha_enabled
    if any(call.text(name) for name in ("affinitygroupid", "vpcid", "isoid", "autoscalevmgroupid", "backupofferingid")):
        yield lambda vm: False
    if host := call.text("hostid"):
        yield lambda vm: vm.state == "Running" and host == HOST["hostid"]


@command("getVirtualMachineUserData")
def get_user_data(call: Call) -> dict[str, Any]:
    vm = machine(call, "virtualmachineid")
    return {"virtualmachineid": vm.id} | ({"userdata": vm.user_data} if vm.user_data else {})


# Life cycle


@command("startVirtualMachine")
def start(call: Call) -> dict[str, Any]:
    vm, world = machine(call), call.world
    if vm.state == "Running":
        return refuse(call, vm, _already_running(vm))
    if vm.state in (*GONE, "Error"):
        text = f'VM instance {{"instanceName":"{instance_name(vm)}","uuid":"{vm.id}"}}'
        return refuse(call, vm, errors.internal(f"Unable to orchestrate the start of {text}."))

    def starting() -> None:
        if vm.state == "Stopped" and not vm.offering.fits_nowhere and _has_root(vm):
            set_state(world, vm, "Starting")

    def started() -> dict[str, str]:
        if vm.state == "Running":
            raise _already_running(vm)
        if not _has_root(vm):
            raise errors.internal(f"Unable to deploy VM [{vm.id}] because the ROOT volume is missing.")
        if vm.offering.fits_nowhere:
            raise errors.internal(f"Unable to create a deployment for {describe(vm)}")
        if vm.state in GONE or vm.removed:
            raise errors.internal(f"Unable to orchestrate the start of {describe(vm)}.")
        # The first start of what was deployed without one shows the password (recordings, Surprises 116).
        is_first = "deployvm" in vm.details
        run(world, vm)
        return password(vm) if is_first else {}

    return submit(call, vm, started, steps=[(0.1, starting)])


def _already_running(vm: VirtualMachine) -> ApiError:
    return errors.invalid(f"The virtual machine {vm.id} ({vm.display_name or vm.name}) is already running")


def _has_root(vm: VirtualMachine) -> bool:
    return any(disk.type == "ROOT" for disk in vm.volumes)


@command("stopVirtualMachine")
def stop(call: Call) -> dict[str, Any]:
    vm, world = machine(call), call.world

    def stopping() -> None:
        if vm.state == "Running":
            set_state(world, vm, "Stopping")

    def stopped() -> None:
        if vm.state in ("Running", "Stopping"):
            halt(world, vm)

    return submit(call, vm, stopped, steps=[(0.1, stopping)])


def halt(world: World, vm: VirtualMachine) -> None:
    for nic in vm.nics:
        nic.plugged = nic.network.type == "Shared"
    vm.details["Message.ReservedCapacityFreed.Flag"] = "false"
    set_state(world, vm, "Stopped")


@command("rebootVirtualMachine")
def reboot(call: Call) -> dict[str, Any]:
    vm, world, forced = machine(call), call.world, call.flag("forced")
    if vm.state != "Running":
        text = f"The VM {vm.id} ({vm.display_name or vm.name}) is not running, unable to reboot it"
        return refuse(call, vm, errors.invalid(text))

    def rebooted() -> None:
        if vm.state != "Running":
            raise errors.internal("Unable to retrieve host with id null")
        if forced:
            set_state(world, vm, "Running")

    return submit(call, vm, rebooted)


@command("destroyVirtualMachine")
def destroy(call: Call) -> dict[str, Any]:
    vm, world, at_once = machine(call), call.world, call.flag("expunge")
    disks = call.rows(Volume, "volumeids") or []
    if vm.delete_protection:
        text = (
            f"Instance [id = {vm.id}, name = {instance_name(vm)}] has delete protection enabled and cannot be deleted."
        )
        return refuse(call, vm, errors.invalid(text))
    if at_once and not _may_expunge(call):
        return refuse(call, vm, errors.internal("Account does not have permission for expunging."))

    def stopping() -> None:
        if vm.state == "Running":
            set_state(world, vm, "Stopping")

    def stopped() -> None:
        if vm.state == "Stopping":
            halt(world, vm)

    def expunging() -> None:
        if at_once:
            set_state(world, vm, "Expunging")

    def destroyed() -> None:
        if vm.removed:
            raise removed("VirtualMachine", vm.number)
        for disk in disks:
            if disk.vm is vm and disk.type == "DATADISK":
                detach(disk)
                forget_volume(world, disk)
        if at_once:
            expunge(world, vm)
        elif vm.state not in GONE:
            _to_trash(world, vm)

    return submit(call, vm, destroyed, steps=[(0.1, stopping), (0.3, stopped), (0.5, expunging)])


def _to_trash(world: World, vm: VirtualMachine) -> None:
    """Destroyed, until the expunge run; recovering and destroying again starts anew."""
    if vm.state == "Error":
        # There is nothing to recover: it goes on to the expunge run at once.
        set_state(world, vm, "Expunging")
        world.at(world.settings.expunge_seconds, lambda: expunge(world, vm))
        return
    if vm.state in ("Running", "Stopping"):
        halt(world, vm)
    for disk in [disk for disk in vm.volumes if disk.type == "DATADISK"]:
        detach(disk)
    set_state(world, vm, "Destroyed")
    since = vm.updated

    def run_expunge() -> None:
        if vm.state == "Destroyed" and vm.updated == since:
            expunge(world, vm)

    world.at(world.settings.expunge_seconds, run_expunge)


def _may_expunge(call: Call) -> bool:
    return call.is_admin or (call.world.settings.user_may_expunge and call.account.may_expunge)


@command("expungeVirtualMachine")
def expunge_virtual_machine(call: Call) -> dict[str, Any]:
    vm, world = machine(call), call.world
    if not _may_expunge(call):
        text = "Expunging a vm can only be done by an Admin. Or when the allow.user.expunge.recover.vm key is set."
        return refuse(call, vm, errors.internal(text))
    if vm.state not in ("Destroyed", "Expunging", "Error"):
        return refuse(call, vm, errors.invalid(f"Please destroy vm with specified vmId: {vm.id} before expunge"))

    def expunged() -> dict[str, Any]:
        expunge(world, vm)
        return {"success": True}

    return submit(call, vm, expunged)


@command("recoverVirtualMachine")
def recover(call: Call) -> dict[str, Any]:
    vm = machine(call)
    if not _may_expunge(call):
        raise errors.denied(
            "Recovering a vm can only be done by an Admin. Or when the allow.user.expunge.recover.vm key is set."
        )
    if vm.state != "Destroyed":
        raise errors.invalid(f"Vm with id {vm.id} is not in the right state")
    set_state(call.world, vm, "Stopped")
    # This answer shows some of the administrator's fields to users too.
    return render(call.world, vm) | {"instancename": instance_name(vm), "arch": vm.template.arch}


@command("restoreVirtualMachine")
def restore(call: Call) -> dict[str, Any]:
    """A new root disk from the template; the old one stays as a destroyed data disk."""
    vm, world = machine(call, "virtualmachineid"), call.world
    template = call.row(Template, "templateid") or vm.template
    size = call.integer("rootdisksize")

    def restored() -> dict[str, Any]:
        if vm.state not in ("Running", "Stopped"):
            raise errors.internal(
                f"Vm {vm.id} currently in {vm.state} state, restore vm can only execute when VM in Running or Stopped"
            )
        old = next((disk for disk in vm.volumes if disk.type == "ROOT"), None)
        if old is None:
            raise errors.invalid(f"Can not find root volume for VM {vm.id}")
        detach(old)
        old.type, old.state = "DATADISK", "Destroy"
        new = add_volume(
            world,
            vm.account,
            vm.zone,
            name=old.name,
            type="ROOT",
            size=size * 1024**3 if size else max(old.size, template.size),
            state="Ready" if vm.state == "Running" else "Allocated",
            template=template,
            service_offering=old.service_offering,
            offering=old.offering,
        )
        attach(new, vm, 0)
        vm.template = template
        changed(vm)
        return password(vm)

    return submit(call, vm, restored)
