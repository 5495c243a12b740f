"""The NICs of VMs and their secondary addresses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from simulator import errors
from simulator.commands import Call, Listing, command
from simulator.families import networks
from simulator.families.machines import changed, describe, instance_name, machine, submit
from simulator.world import Network, Nic, SecondaryIp, VirtualMachine

WITH_NICS = frozenset({"nics"})


def _nic(vm: VirtualMachine, call: Call) -> Nic:
    for nic in vm.nics:
        if nic.id == call.text("nicid").lower():
            return nic
    raise errors.no_such_entity(call.command, "nicid", call.text("nicid"))


def _owner_of_nic(call: Call) -> tuple[VirtualMachine, Nic]:
    """A NIC that the caller names without its VM."""
    for vm in call.world.all(VirtualMachine):
        for nic in vm.nics:
            if nic.id == call.text("nicid").lower():
                call.check_access(vm.account)
                return vm, nic
    raise errors.no_such_entity(call.command, "nicid", call.text("nicid"))


@command("listNics")
def list_nics(call: Call) -> Listing:
    vm = machine(call, "virtualmachineid")
    network = call.row(Network, "networkid")
    wanted = call.text("nicid").lower()
    nics = sorted(vm.nics, key=lambda nic: not nic.default)
    return Listing(
        [
            networks.render_nic(call.world, nic, vm) | {"virtualmachineid": vm.id}
            for nic in nics
            if (not wanted or nic.id == wanted) and (network is None or nic.network is network)
        ]
    )


@command("addNicToVirtualMachine")
def add_nic(call: Call) -> dict[str, Any]:
    vm, network, world = machine(call, "virtualmachineid"), call.require(Network, "networkid"), call.world
    call.check_access(network.account)
    ip = call.text("ipaddress") or None

    def added() -> None:
        if any(nic.network is network for nic in vm.nics):
            raise errors.internal(f"A NIC already exists for VM:{instance_name(vm)} in network: {network.id}")
        if vm.state not in ("Running", "Stopped"):
            raise errors.internal(f"Unable to add NIC to {describe(vm)} in state {vm.state}")
        nic = networks.plug(world, vm, network, ip=ip, default=False)
        nic.plugged = vm.state == "Running"
        if call.text("macaddress"):
            nic.mac = call.text("macaddress")

    return submit(call, vm, added, parts=WITH_NICS)


@command("removeNicFromVirtualMachine")
def remove_nic(call: Call) -> dict[str, Any]:
    vm, world = machine(call, "virtualmachineid"), call.world
    nic = _nic(vm, call)

    def done() -> None:
        if nic.default:
            network = {
                "id": nic.network.number,
                "name": nic.network.name,
                "uuid": nic.network.id,
                "networkofferingid": 10,
            }
            text = f"Unable to remove nic from {describe(vm)} in Network {json.dumps(network)}, nic is default."
            raise errors.invalid(text)
        networks.unplug(world, vm, nic)

    return submit(call, vm, done, named=False, parts=WITH_NICS)


@command("updateDefaultNicForVirtualMachine")
def update_default_nic(call: Call) -> dict[str, Any]:
    vm = machine(call, "virtualmachineid")
    nic = _nic(vm, call)

    def done() -> None:
        if nic.default:
            raise errors.internal(f"Nic {nic.id} is already default on {describe(vm)}")
        for other in vm.nics:
            if other.default:
                other.default = False
                other.device, nic.device = nic.device, other.device
        nic.default = True
        changed(vm)

    return submit(call, vm, done, named=False, parts=WITH_NICS)


@command("addIpToNic")
def add_ip(call: Call) -> dict[str, Any]:
    vm, nic = _owner_of_nic(call)
    network = nic.network
    row = SecondaryIp(
        id=call.world.new_id(), address=networks.allocate(call.world, network, call.text("ipaddress") or None)
    )
    nic.secondary.append(row)
    changed(vm)
    shown = {"id": row.id, "ipaddress": row.address, "nicid": nic.id, "networkid": network.id}
    return call.job(lambda: {"nicsecondaryip": shown}, instance=("IpAddress", call.world.new_id()), create_id=row.id)


@command("removeIpFromNic")
def remove_ip(call: Call) -> dict[str, Any]:
    identity = call.text("id").lower()
    for vm in call.world.all(VirtualMachine):
        for nic in vm.nics:
            for row in nic.secondary:
                if row.id == identity:
                    call.check_access(vm.account)
                    return call.job(partial(_remove_ip, vm, nic, row))
    raise errors.no_such_entity(call.command, "id", identity)


def _remove_ip(vm: VirtualMachine, nic: Nic, row: SecondaryIp) -> dict[str, Any]:
    if row not in nic.secondary:
        raise errors.invalid("Unable to find secondary ip address by id")
    nic.secondary.remove(row)
    networks.release(nic.network, row.address)
    changed(vm)
    return {"success": True}
