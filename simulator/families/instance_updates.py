"""What changes a VM without a new life: update, size, password, SSH key, console."""

from __future__ import annotations

import json
from typing import Any

from simulator import errors
from simulator.commands import Call, command
from simulator.families import security_groups, ssh_keys
from simulator.families.deploy import (
    check_name,
    check_user_data,
    given_details,
    key_details,
    password,
    same_name,
    set_group,
)
from simulator.families.machines import (
    HIDDEN_DETAILS,
    SIZE_DETAILS,
    changed,
    check_limit,
    describe,
    machine,
    machines,
    refuse,
    render,
    size_of,
    submit,
)
from simulator.world import ServiceOffering, VirtualMachine

CONSOLE = "192.168.2.2"

# Update


@command("updateVirtualMachine")
def update(call: Call) -> dict[str, Any]:
    vm, world = machine(call), call.world
    if vm.state in ("Error", "Expunging"):
        raise errors.invalid("unable to find a virtual machine with the specified id in the right state")
    name = call.text("name")
    if name:
        check_name(call, name)
        if name != vm.name and same_name(world, name, [nic.network for nic in vm.nics]):
            raise errors.internal()
    details = _details(call, vm)
    user_data = check_user_data(call)
    if "isdynamicallyscalable" in call.parameters and vm.state == "Running":
        raise errors.internal()
    if call.text("securitygroupids") or call.text("securitygroupnames"):
        if vm.state != "Stopped":
            raise errors.internal()
        vm.security_groups = security_groups.groups_for_deploy(call, vm.account, vm.zone)
    if name:
        vm.name = name
        machines(world).put(vm)
    if call.text("displayname"):
        vm.display_name = call.text("displayname")
    if details is not None:
        vm.details = details
    if user_data:
        vm.user_data = user_data
    vm.ha_enabled = call.flag("haenable", vm.ha_enabled)
    vm.delete_protection = call.flag("deleteprotection", vm.delete_protection)
    vm.dynamically_scalable = call.flag("isdynamicallyscalable", vm.dynamically_scalable)
    set_group(world, vm, call.text("group"))
    changed(vm)
    return render(world, vm)


def _details(call: Call, vm: VirtualMachine) -> dict[str, str] | None:
    """The details after an update: those given replace all that the caller sees; None leaves them alone."""
    hidden = {key: value for key, value in vm.details.items() if key in HIDDEN_DETAILS and not call.is_admin}
    if call.flag("cleanupdetails"):
        return hidden
    given = given_details(call)
    if not given:
        return None
    if vm.offering.customized:
        # A customized VM's size is part of its details and must be given again.
        size_of(vm.offering, {"cpuNumber": "0", "memory": "0"} | given)
    return hidden | given


# Size


@command("changeServiceForVirtualMachine")
def change_service(call: Call) -> dict[str, Any]:
    vm, offering = machine(call), call.require(ServiceOffering, "serviceofferingid")
    if vm.state != "Stopped":
        raise errors.invalid(
            f"Unable to upgrade virtual machine {describe(vm)}  in state {vm.state}; make sure the virtual machine is "
            "stopped"
        )
    _resize(vm, offering, call.details())
    return render(call.world, vm)


@command("scaleVirtualMachine")
def scale(call: Call) -> dict[str, Any]:
    vm, offering = machine(call), call.require(ServiceOffering, "serviceofferingid")
    details = call.details()

    def scaled() -> None:
        new = size_of(offering, details)
        old = (vm.cpu_number, vm.cpu_speed, vm.memory)
        if offering is vm.offering and new == old:
            raise errors.invalid(
                f"Not upgrading vm {describe(vm)} since it already has the requested service offering ({offering.name})"
            )
        if vm.state == "Running":
            if any(after < before for after, before in zip(new, old, strict=True)):
                raise errors.invalid(
                    f"While the VM is running, only scalling up it is supported. New service offering {_json(new)} "
                    f"should have at least one value (ram, speed or cpu) greater than the current values {_json(old)}."
                )
            if not vm.dynamically_scalable:
                raise errors.internal(
                    f"Unable to scale {describe(vm)} as it does not have tools to support dynamic scaling."
                )
            if offering.fits_nowhere:
                raise errors.internal(f"Unable to scale {describe(vm)} due to insufficient capacity")
        elif vm.state != "Stopped":
            raise errors.invalid(f"Unable to scale {describe(vm)} in state {vm.state}")
        check_limit(call, vm.account, "cpu", max(new[0] - old[0], 0))
        check_limit(call, vm.account, "memory", max(new[2] - old[2], 0))
        _resize(vm, offering, details)

    return submit(call, vm, scaled)


def _json(size: tuple[int, int, int]) -> str:
    return json.dumps({"memory": size[2], "speed": size[1], "cpu": size[0]})


def _resize(vm: VirtualMachine, offering: ServiceOffering, details: dict[str, str]) -> None:
    vm.cpu_number, vm.cpu_speed, vm.memory = size_of(offering, details)
    vm.offering, vm.ha_enabled = offering, offering.offer_ha
    vm.details = {key: value for key, value in vm.details.items() if key not in SIZE_DETAILS}
    if offering.customized:
        vm.details |= {"cpuNumber": str(vm.cpu_number), "memory": str(vm.memory), "cpuSpeed": str(vm.cpu_speed)}
    for disk in vm.volumes:
        if disk.service_offering:
            disk.service_offering = offering
    changed(vm)


# Access


@command("resetPasswordForVirtualMachine")
def reset_password(call: Call) -> dict[str, Any]:
    vm = machine(call)
    if not vm.template.password_enabled:
        text = "Fail to reset password for the virtual machine, the template is not password enabled"
        return refuse(call, vm, errors.invalid(text))

    def done() -> dict[str, Any]:
        _check_stopped(vm, "password reset")
        return password(vm)

    return submit(call, vm, done)


@command("resetSSHKeyForVirtualMachine")
def reset_ssh_key(call: Call) -> dict[str, Any]:
    vm = machine(call)
    keys = ssh_keys.named(call.world, vm.account, [*call.items("keypairs"), *call.items("keypair")])

    def done() -> None:
        _check_stopped(vm, "SSH Key reset")
        vm.details.pop("Encrypted.Password", None)
        vm.details |= key_details(keys)
        changed(vm)

    return submit(call, vm, done)


def _check_stopped(vm: VirtualMachine, what: str) -> None:
    if vm.state != "Stopped":
        raise errors.invalid(f"Vm {describe(vm)} should be stopped to do {what}")


@command("getVMPassword")
def get_password(call: Call) -> dict[str, Any]:
    vm = machine(call)
    encrypted = vm.details.get("Encrypted.Password")
    if encrypted is None:
        raise errors.invalid(
            f"No password found for VM [{describe(vm)}]. When the VM's SSH keypair is changed, the current encrypted "
            "password is removed due to inconsistency in the encryption, as the new SSH keypair is different from "
            "which the password was encrypted. To get a new password, it must be reseted."
        )
    return {"encryptedpassword": encrypted}


@command("createConsoleEndpoint")
def create_console_endpoint(call: Call) -> dict[str, Any]:
    """Another account's VM is refused with a success."""
    vm = call.require(VirtualMachine, "virtualmachineid")
    if vm.removed or not call.may_use(vm.account):
        return {"success": False, "details": "Permission denied"}
    if vm.state != "Running":
        return {"success": False, "details": f"VM {vm.id} must be running to connect console"}
    token = call.world.new_id()
    return {
        "success": True,
        "url": f"http://{CONSOLE}/resource/noVNC/vnc.html?autoconnect=true&show_dot=true&port=8080&token={token}",
        "websocket": {"token": token, "host": CONSOLE, "port": "8080", "path": "websockify"},
    }
