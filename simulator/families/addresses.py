"""Public addresses and static NAT.

An address is Free, or an account's: Reserved (held for later, in no network), Allocating (its job has not ended) or
Allocated (in a network: for source NAT, for static NAT to a VM, or idle).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, command
from simulator.errors import ApiError
from simulator.families import catalog, firewall, tags
from simulator.index import Index, index
from simulator.world import Account, Domain, Network, PublicAddress, VirtualMachine, World, Zone, timestamp


def _keys(address: PublicAddress) -> Iterable[Any]:
    free = ("Free", address.zone) if address.state == "Free" else None
    return address.account, address.network, address.vm, address.address, free


def addresses(world: World) -> Index[PublicAddress]:
    """Addresses by account, network, VM (static NAT) and text; free ones also by ("Free", zone)."""
    return index(world, PublicAddress, _keys)


def changed(world: World, address: PublicAddress) -> None:
    """For whoever changes an address, or its network's name."""
    address.rendered = None
    addresses(world).put(address)


def describe(address: PublicAddress) -> str:
    """How CloudStack's texts show an address."""
    shown = {
        "address": address.address,
        "dataCenterId": address.zone.number,
        "id": address.number,
        "uuid": address.id,
    }
    return "IPAddress " + json.dumps(shown, separators=(",", ":"))


# Answers


def render(address: PublicAddress) -> dict[str, Any]:
    if address.vm is not None:
        # Names of the VM may change at any time.
        return _render(address)
    if address.rendered is None:
        address.rendered = _render(address)
    body: dict[str, Any] = address.rendered
    return body


def _render(address: PublicAddress) -> dict[str, Any]:
    zone, owner, network, vm = address.zone, address.account, address.network, address.vm
    body: dict[str, Any] = {"id": address.id, "ipaddress": address.address}
    if owner:
        body["allocated"] = timestamp(address.allocated)
    body |= {"zoneid": zone.id, "zonename": zone.name, "issourcenat": address.source_nat}
    if owner:
        body |= tags.owner_keys(owner) | {"domainpath": owner.domain.path}
    body |= {"forvirtualnetwork": True, "isstaticnat": vm is not None, "issystem": False}
    if vm:
        body |= {
            "virtualmachineid": vm.id,
            "virtualmachinetype": "User",
            "vmipaddress": address.vm_ip,
            "virtualmachinename": vm.name,
            "virtualmachinedisplayname": vm.display_name or vm.name,
        }
    if network:
        body |= {"associatednetworkid": network.id, "associatednetworkname": network.name}
    return body | {
        "networkid": public_network_id(zone),
        "state": address.state,
        "physicalnetworkid": physical_network_id(zone),
        "tags": address.tags,
        "isportable": False,
        "hasrules": False,
        "forsystemvms": False,
        "forprovider": False,
        "hasannotations": False,
    }


def public_network_id(zone: Zone) -> str:
    return catalog.stable_id("publicnetwork", zone.id)


def physical_network_id(zone: Zone) -> str:
    return catalog.stable_id("physicalnetwork", zone.id)


def _result(address: PublicAddress) -> dict[str, Any]:
    """What a job's result keeps: later tags do not show in it."""
    return render(address) | {"tags": list(address.tags)}


# For the other families


def static_nat_of(world: World, vm: VirtualMachine) -> PublicAddress | None:
    """The address that leads to this VM."""
    return addresses(world).first(vm)


def release_for_vm(world: World, vm: VirtualMachine) -> None:
    """Static NAT off, with the rules; the addresses stay the account's."""
    for address in addresses(world).of(vm):
        static_nat_off(world, address)


def release_for_network(world: World, network: Network) -> None:
    for address in addresses(world).of(network):
        _free(world, address)


def add_source_nat(world: World, network: Network) -> None:
    """The address that a network gets when it is implemented, unless it has one."""
    if network.account is None or any(address.source_nat for address in addresses(world).of(network)):
        return
    address = addresses(world).first(("Free", network.zone))
    if address is None:
        raise ApiError(533, "Insufficient address capacity")
    address.account, address.network, address.source_nat = network.account, network, True
    address.state, address.allocated = "Allocated", world.now
    changed(world, address)


def static_nat_off(world: World, address: PublicAddress) -> None:
    """Static NAT off, with the rules of the address."""
    firewall.remove_rules(world, address)
    if address.vm is not None:
        address.vm.views.clear()
    address.vm, address.vm_ip = None, ""
    changed(world, address)


def _free(world: World, address: PublicAddress) -> None:
    static_nat_off(world, address)
    address.state, address.account, address.network, address.source_nat = "Free", None, None, False
    address.tags = []
    changed(world, address)


def check_limit(owner: Account, name: str, kind: str, used: int) -> None:
    """535 when an account cannot have one more; `name` is the key in `account.limits`."""
    limit = owner.limits.get(name, -1)
    if limit < 0 or used < limit:
        return
    what = "Project" if owner.project else "Account"
    who = f"Project Name = {owner.project.name}" if owner.project else f"Account Name = {owner.name}"
    raise ApiError(
        535,
        f"Maximum amount of resources of Type = '{kind}', tag = 'null' for {who} in Domain Id = "
        f"{owner.domain.number} is exceeded: {what} Resource Limit = {limit}, Current {what} Resource Amount = {used}, "
        f"Current {what} Resource Reservation = 0, Requested Resource Amount = 1.",
        errors.RESOURCE_ALLOCATION,
    )


# Lists


@command("listPublicIpAddresses")
def list_public_ip_addresses(call: Call) -> Listing:
    """Allocated addresses of the account; other states only when asked for by name, one at a time."""
    one, zone = call.row(PublicAddress, "id"), call.row(Zone, "zoneid")
    network, owners = call.row(Network, "associatednetworkid"), call.owners()
    if network is not None:
        call.check_access(network.account)
    index_, state = addresses(call.world), call.text("state").lower()
    with_free = state == "free" or (not state and not call.flag("allocatedonly", True))
    if one is not None:
        found = [one]
    elif network is not None:
        found = index_.of(network)
    elif "ipaddress" in call.parameters:
        found = index_.of(call.text("ipaddress"))
    else:
        zones = [zone] if zone else call.world.all(Zone)
        free = [("Free", zone) for zone in zones] if with_free else []
        found = index_.of(*free, *(() if state == "free" else owners))
    states = {state} if state else {"allocated"} if call.flag("allocatedonly", True) else set()
    wanted = _filters(call)
    shown = [
        row
        for row in found
        if (not states or row.state.lower() in states)
        and (row.account in owners or (with_free and row.state == "Free"))
        and (zone is None or row.zone is zone)
        and all(getattr(row, name) == value for name, value in wanted.items())
        and ("isstaticnat" not in call.parameters or (row.vm is not None) == call.flag("isstaticnat"))
        and call.text("keyword") in row.address
    ]
    if not call.flag("forvirtualnetwork", True) or call.flag("forsystemvms"):
        shown = []
    return Listing(Lazy(tags.filter_rows(call, shown), render))


def _filters(call: Call) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if "ipaddress" in call.parameters:
        wanted["address"] = call.text("ipaddress")
    if "issourcenat" in call.parameters:
        wanted["source_nat"] = call.flag("issourcenat")
    return wanted


# Association


@command("associateIpAddress")
def associate_ip_address(call: Call) -> dict[str, Any]:
    world, network = call.world, _network(call)
    owner = network.account
    if owner is None or network.type != "Isolated":
        raise errors.invalid("Can't assign ip to the network: it is not an isolated network")
    address = _pick(world, network, owner, call.text("ipaddress"))
    if address.state == "Free":
        check_limit(owner, "ip", "public_ip", len(addresses(world).of(owner)))
        address.state, address.account, address.allocated = "Allocating", owner, world.now
        changed(world, address)

    def associate() -> dict[str, Any]:
        if network.removed or address.account is not owner or address.network is not None:
            raise errors.internal(f"Failed to associate ip address {address.address}")
        # The first address of a network that is not implemented becomes its source NAT.
        address.source_nat = not any(other.source_nat for other in addresses(world).of(network))
        address.network = network
        changed(world, address)
        result = _result(address)
        address.state = "Allocated"
        changed(world, address)
        return {"ipaddress": result}

    return call.job(associate, instance=("IpAddress", address.id), create_id=address.id)


def _network(call: Call) -> Network:
    """The network of `networkid`, or the only isolated one of the account in `zoneid`."""
    network, zone = call.row(Network, "networkid"), call.row(Zone, "zoneid")
    owner = call.owner()
    call.check_named_account()
    if "vpcid" in call.parameters:
        raise errors.no_such_entity(call.command, "vpcid", call.text("vpcid"))
    if network is not None:
        if network.removed:
            raise errors.invalid(f"Unable to find network by id={network.number}")
        call.check_access(network.account)
        return network
    if zone is None:
        raise errors.invalid("Unable to figure out zone to assign ip to")
    networks = isolated_networks(call.world, owner, zone)
    if not networks:
        raise errors.invalid(
            f"Account name={owner.name} domain={owner.domain.name} doesn't have virtual networks in zone={zone.name}"
        )
    if len(networks) > 1:
        raise errors.invalid("Account has more than one isolated network in the zone")
    return networks[0]


def isolated_networks(world: World, owner: Account, zone: Zone) -> list[Network]:
    return [row for row in networks_of(world).of(owner) if row.zone is zone and row.type == "Isolated"]


def networks_of(world: World) -> Index[Network]:
    """Networks by account; those that everybody may use, also one that an account lends, by "Shared"."""
    return index(world, Network, lambda network: (network.account, "Shared" if network.type == "Shared" else None))


def _pick(world: World, network: Network, owner: Account, text: str) -> PublicAddress:
    """A free address, or the free or reserved one of this text."""
    if text:
        for address in addresses(world).of(text):
            mine = address.state == "Reserved" and address.account is owner
            if address.zone is network.zone and (address.state == "Free" or mine):
                return address
    elif free := addresses(world).first(("Free", network.zone)):
        return free
    raise ApiError(533, "Insufficient address capacity")


@command("disassociateIpAddress")
def disassociate_ip_address(call: Call) -> dict[str, Any]:
    """Whether the caller may is found out in the job."""
    world, address = call.world, call.row(PublicAddress, "id")
    if address is None:
        text = call.text("ipaddress")
        address = next((row for row in addresses(world).of(text) if call.may_use(row.account)), None)
        if address is None:
            raise errors.invalid(f"Unable to find ip address by id={text or 'null'}")
    if address.state == "Free":
        raise errors.internal()
    chosen = address

    def disassociate() -> dict[str, Any]:
        if chosen.state == "Free":
            raise errors.internal("Failed to disassociate ip address")
        if not call.may_use(chosen.account):
            raise errors.internal("Caller does not have permission to operate with provided resource.")
        if chosen.source_nat and chosen.network is not None and chosen.network.state == "Implemented":
            raise errors.internal("ip address is used for source nat purposes and can not be disassociated.")
        _free(world, chosen)
        return {"success": True}

    return call.job(disassociate, instance=("IpAddress", address.id))


# Reservation


@command("reserveIpAddress")
def reserve_ip_address(call: Call) -> dict[str, Any]:
    address, owner = call.require(PublicAddress, "id"), call.owner()
    call.row(Domain, "domainid")
    call.check_named_account()
    if address.state == "Reserved":
        if address.account is not owner:
            raise errors.invalid("Unable to reserve a IP because it has already been reserved for another account.")
        return render(address)
    if address.state != "Free":
        raise errors.invalid("Unable to reserve a IP because it is not in Free state.")
    check_limit(owner, "ip", "public_ip", len(addresses(call.world).of(owner)))
    address.state, address.account, address.allocated = "Reserved", owner, call.world.now
    changed(call.world, address)
    return render(address)


@command("releaseIpAddress")
def release_ip_address(call: Call) -> dict[str, Any]:
    """Tags stay on the address, as they do in CloudStack."""
    address = call.require(PublicAddress, "id")
    call.check_access(address.account)
    if address.state != "Reserved":
        raise errors.invalid(
            f"Unable to release a public IP in {address.state} state, please use disassociateIpAddress instead"
        )
    address.state, address.account = "Free", None
    changed(call.world, address)
    return {"success": True}


# Static NAT


@command("enableStaticNat")
def enable_static_nat(call: Call) -> dict[str, Any]:
    world = call.world
    address, vm = call.require(PublicAddress, "ipaddressid"), call.require(VirtualMachine, "virtualmachineid")
    network = call.row(Network, "networkid") or address.network
    call.check_access(vm.account)
    call.check_access(address.account)
    if vm.removed:
        raise errors.invalid(f"Can't enable static NAT for the address id={address.number}, invalid virtual machine id")
    if network is None or address.account is None:
        raise errors.invalid(
            f"Unable to enable static NAT for the ipAddress id={address.number} as IP is not associated with any "
            "network and no networkId is passed in"
        )
    if network is not address.network:
        raise errors.invalid("Unable to enable static nat for the ip address: it belongs to another network")
    if address.source_nat:
        raise errors.invalid(f"Can't enable static, ip address {describe(address)} is a sourceNat ip address")
    guest_ip = _guest_address(call, vm, network)
    if address.vm is not None and address.vm is not vm:
        raise ApiError(
            537,
            f"Failed to enable static for the ip address {describe(address)} and vm id={vm.number} as it's already "
            "assigned to antoher vm",
        )
    for other in addresses(world).of(vm):
        if other.network is network and other.vm_ip == guest_ip:
            raise errors.invalid(
                f"Failed to enable static nat on the  ip {address.address} with Id {address.id} as the vm "
                f"i-{vm.account.number}-{vm.number}-VM with Id {vm.id} is already associated with another public ip "
                f"{other.address} with id {other.id}"
            )
    address.vm, address.vm_ip = vm, guest_ip
    vm.views.clear()
    changed(world, address)
    return {"success": True}


def _guest_address(call: Call, vm: VirtualMachine, network: Network) -> str:
    nic = next((nic for nic in vm.nics if nic.network is network), None)
    if nic is None:
        raise errors.invalid("Vm doesn't belong to the network with specified id")
    wanted = call.text("vmguestip", nic.ip)
    if wanted != nic.ip and wanted not in [row.address for row in nic.secondary]:
        raise errors.invalid(f"VM ip {wanted} address not belongs to the vm")
    return wanted


@command("disableStaticNat")
def disable_static_nat(call: Call) -> dict[str, Any]:
    """The address's firewall rules go as well."""
    world, address = call.world, call.require(PublicAddress, "ipaddressid")

    def disable() -> dict[str, Any]:
        if not call.may_use(address.account):
            raise errors.internal("Caller does not have permission to operate with provided resource.")
        if address.vm is None:
            raise errors.invalid("Specified IP address id is not associated with any vm Id")
        static_nat_off(world, address)
        return {"success": True}

    return call.job(disable)
