"""Networks, and the NICs that VMs have in them.

An Isolated network is Allocated until its first VM starts in it, then Implemented, with a source NAT address; a Shared
one is in state Setup and everybody's.
"""

from __future__ import annotations

import json
from importlib import resources
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from simulator import errors
from simulator.commands import Call, Listing, command
from simulator.errors import ApiError
from simulator.families import addresses, catalog, firewall, tags
from simulator.families.addresses import isolated_networks, networks_of
from simulator.world import Account, Domain, Network, Nic, VirtualMachine, World, Zone, timestamp

SERVICES: dict[str, list[dict[str, Any]]] = json.loads(
    resources.files("simulator").joinpath("network_services.json").read_text()
)
SMALLEST_PREFIX = 22  # network.guest.cidr.limit, for everybody but administrators
_PRIVATE = [IPv4Network(cidr) for cidr in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
_RANDOM_TRIES = 20


# Answers


def render(world: World, network: Network) -> dict[str, Any]:
    if network.rendered is None:
        network.rendered = _render(world, network)
    body: dict[str, Any] = network.rendered
    return body


def _render(world: World, network: Network) -> dict[str, Any]:
    zone, owner = network.zone, network.account
    offering = catalog.NETWORK_OFFERINGS_BY_ID[network.offering_id]
    body: dict[str, Any] = {
        "id": network.id,
        "name": network.name,
        "displaytext": network.display_text,
        "broadcastdomaintype": "Vlan",
        "traffictype": "Guest",
        "gateway": network.gateway,
        "netmask": str(network.cidr.netmask),
        "cidr": str(network.cidr),
        "zoneid": zone.id,
        "zonename": zone.name,
        "networkofferingid": offering["id"],
        "networkofferingname": offering["name"],
        "networkofferingdisplaytext": offering["displaytext"],
        "networkofferingconservemode": offering["conservemode"],
        "networkofferingavailability": offering["availability"],
        "issystem": False,
        "state": network.state,
        "related": network.id,
        "dns1": zone.dns,
        "type": network.type,
    }
    if owner:
        body |= {"acltype": "Account"} | tags.owner_keys(owner) | {"domainpath": owner.domain.path}
    else:
        root = world.all(Domain)[0]
        body |= {"acltype": "Domain", "subdomainaccess": True, "domainid": root.id, "domain": root.name}
        body["domainpath"] = root.path
    services: list[dict[str, Any]] = SERVICES.get(network.offering_name) or offering["service"]
    body |= {
        "service": services,
        "networkdomain": domain_of(network),
        "physicalnetworkid": addresses.physical_network_id(zone),
        "restartrequired": False,
        "specifyvlan": offering["specifyvlan"],
        "specifyipranges": offering["specifyipranges"],
        "canusefordeploy": True,
        "ispersistent": False,
        "tags": network.tags,
        "strechedl2subnet": False,
        "redundantrouter": False,
        "supportsvmautoscaling": any(service["name"] == "Lb" for service in services),
        "created": timestamp(network.created),
        "receivedbytes": 0,
        "sentbytes": 0,
    }
    if network.type == "Isolated":
        body["egressdefaultpolicy"] = network.egress_default_allow
    return body | {"publicmtu": 1500, "privatemtu": 1500, "hasannotations": False}


def domain_of(network: Network) -> str:
    """The DNS domain of the network's VMs: one for each owner."""
    number = network.account.number if network.account else 1
    return f"cs{number:x}{network.zone.domain_suffix}"


def render_nic(world: World, nic: Nic, vm: VirtualMachine) -> dict[str, Any]:
    """A NIC as VMs show it; `publicip` where static NAT leads to it."""
    network = nic.network
    body: dict[str, Any] = {
        "id": nic.id,
        "networkid": network.id,
        "networkname": network.name,
        "netmask": str(network.cidr.netmask),
        "gateway": network.gateway,
        "ipaddress": nic.ip,
    }
    if nic.plugged:
        body |= {"isolationuri": f"vlan://{network.vlan}", "broadcasturi": f"vlan://{network.vlan}"}
    body |= {
        "traffictype": "Guest",
        "type": network.type,
        "isdefault": nic.default,
        "macaddress": nic.mac,
        "secondaryip": [{"id": row.id, "ipaddress": row.address} for row in nic.secondary],
        "extradhcpoption": [],
        "deviceid": str(nic.device),
    }
    for public in addresses.addresses(world).of(vm):
        if public.network is network and public.vm_ip == nic.ip:
            body |= {"publicipid": public.id, "publicip": public.address}
    return body


# For VMs


def networks_for_deploy(call: Call, account: Account, zone: Zone, ids: list[Network] | None) -> list[Network]:
    """The networks a new VM of `account` gets: those asked for, else the zone's or the account's only one."""
    if not ids:
        return [_default_network(call.world, account, zone)]
    for network in ids:
        if network.removed:
            raise errors.invalid(f"Unable to find network by id {network.id}")
        if zone.security_groups and network.type != "Shared":
            text = "Can specify only Shared or L2 Guest networks when deploy vm in Advance Security Group enabled zone"
            raise errors.invalid(text)
        if network.account not in (None, account):
            raise errors.denied(f"Unable to use network with id= {network.id}, permission denied")
        if network.zone is not zone:
            raise errors.invalid(f"Network id={network.id} doesn't belong to zone {zone.id}")
    return ids


def _default_network(world: World, account: Account, zone: Zone) -> Network:
    if zone.security_groups:
        for network in networks_of(world).of("Shared"):
            if network.zone is zone:
                return network
        raise errors.invalid(f"No network with security enabled is found in zone id={zone.id}")
    found = [row for row in isolated_networks(world, account, zone) if row.offering_name == catalog.ISOLATED]
    if len(found) > 1:
        shown = {"accountName": account.name, "id": account.number, "uuid": account.id}
        raise errors.invalid(
            "More than 1 default Isolated networks are found for account Account "
            f"[{json.dumps(shown, separators=(',', ':'))}]; please specify networkIds"
        )
    name = f"{account.name}-network"
    offering = catalog.NETWORK_OFFERINGS_BY_NAME[catalog.ISOLATED]
    if found:
        return found[0]
    return _add(world, account, zone, offering, name=name, display_text=name, cidr=zone.guest_cidr)


def plug(
    world: World, vm: VirtualMachine, network: Network, *, ip: str | None = None, default: bool | None = None
) -> Nic:
    """A new NIC of the VM, the default one if it is the first. 530 when the fixed address cannot be had."""
    prepared = network.state != "Allocated"
    nic = Nic(
        id=world.new_id(),
        network=network,
        ip=allocate(world, network, ip),
        mac=_mac(world, network),
        device=next(number for number in range(len(vm.nics) + 1) if number not in {nic.device for nic in vm.nics}),
        default=not vm.nics if default is None else default,
        plugged=prepared,
    )
    try:
        implement(world, network)
    except ApiError:
        network.used_addresses.discard(nic.ip)
        raise
    vm.nics.append(nic)
    vm.views.clear()
    return nic


def unplug(world: World, vm: VirtualMachine, nic: Nic) -> None:
    """Take a NIC from its VM and give its addresses back."""
    nic.network.used_addresses.difference_update([nic.ip, *(row.address for row in nic.secondary)])
    for address in addresses.addresses(world).of(vm):
        if address.network is nic.network:
            addresses.static_nat_off(world, address)
    if nic in vm.nics:
        vm.nics.remove(nic)
    vm.views.clear()


def implement(world: World, network: Network) -> None:
    """What the start of the first VM does to an isolated network."""
    if network.state == "Allocated":
        addresses.add_source_nat(world, network)
        network.state = "Implemented"
        network.rendered = None


def allocate(world: World, network: Network, wanted: str | None = None) -> str:
    """A guest address, marked as used."""
    if wanted is None:
        wanted = _free_address(world, network)
    elif not _is_usable(network, wanted):
        raise errors.internal(cserrorcode=0)
    network.used_addresses.add(wanted)
    return wanted


def release(network: Network, address: str) -> None:
    network.used_addresses.discard(address)


def _is_usable(network: Network, text: str) -> bool:
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    outside = address not in network.cidr or address in (network.cidr.network_address, network.cidr.broadcast_address)
    return not outside and text != network.gateway and text not in network.used_addresses


def _free_address(world: World, network: Network) -> str:
    """Any free one, in no order, as CloudStack does; looked for one by one when the network is nearly full."""
    first, last = int(network.cidr.network_address) + 1, int(network.cidr.broadcast_address) - 1
    for _ in range(_RANDOM_TRIES):
        address = str(IPv4Address(world.random.randint(first, last)))
        if address != network.gateway and address not in network.used_addresses:
            return address
    for number in range(first, last + 1):
        address = str(IPv4Address(number))
        if address != network.gateway and address not in network.used_addresses:
            return address
    raise ApiError(533, f"Unable to acquire Guest IP address for network {network.name}")


def _mac(world: World, network: Network) -> str:
    prefix = "02:01:00" if network.type == "Isolated" else "1e:00:0a"
    return prefix + "".join(f":{world.random.getrandbits(8):02x}" for _ in range(3))


# Lists


@command("listNetworks")
def list_networks(call: Call) -> Listing:
    """The account's networks and the shared ones, newest first."""
    one, zone, owners = call.row(Network, "id"), call.row(Zone, "zoneid"), call.owners()
    if "vpcid" in call.parameters and call.text("vpcid") != "-1":
        raise errors.no_such_entity(call.command, "vpcid", call.text("vpcid"))
    found = networks_of(call.world).of(*owners, "Shared")
    if one is not None:
        found = [row for row in found if row is one]
    shown = [row for row in tags.filter_rows(call, found) if (zone is None or row.zone is zone) and _matches(call, row)]
    return Listing([render(call.world, row) for row in reversed(shown)])


def _matches(call: Call, network: Network) -> bool:
    """The filters on what an answer shows."""
    body = render(call.world, network)
    for name in ("name", "type", "traffictype", "acltype", "networkofferingid", "physicalnetworkid"):
        if name in call.parameters and call.text(name).lower() != body[name].lower():
            return False
    for name in ("canusefordeploy", "issystem", "restartrequired", "specifyipranges"):
        if name in call.parameters and call.flag(name) != body[name]:
            return False
    keyword = call.text("keyword").lower()
    if keyword not in network.name.lower() and keyword not in network.display_text.lower():
        return False
    services = {service.lower() for service in call.items("supportedservices")}
    if services - {service["name"].lower() for service in body["service"]}:
        return False
    kind = call.text("networkfilter", "all").lower()
    return not call.flag("forvpc") and (kind == "all" or (kind == "account") == (network.account is not None))


# Creation


@command("createNetwork")
def create_network(call: Call) -> dict[str, Any]:
    zone, owner = call.require(Zone, "zoneid"), call.owner()
    call.check_named_account()
    offering = catalog.NETWORK_OFFERINGS_BY_ID.get(call.text("networkofferingid").lower())
    if offering is None:
        raise errors.no_such_entity(call.command, "networkofferingid", call.text("networkofferingid"))
    kind = offering["guestiptype"]
    if zone.security_groups and kind != "Shared":
        raise errors.invalid("Only shared or L2 guest network can be created in security group enabled zone")
    if offering["forvpc"]:
        raise errors.invalid("Network offering can be used for VPC networks only")
    if offering["specifyvlan"] and not call.is_admin:
        raise errors.denied("Only ROOT admin is allowed to specify vlanId")
    cidr = _cidr(call, zone)
    if kind == "Isolated":
        addresses.check_limit(owner, "network", "network", len(networks_of(call.world).of(owner)))
    name = call.text("name")
    network = _add(
        call.world,
        owner if kind == "Isolated" else None,
        zone,
        offering,
        name=name,
        display_text=call.text("displaytext", name),
        cidr=cidr,
        gateway=call.text("gateway") or None,
    )
    return render(call.world, network)


def _add(
    world: World,
    owner: Account | None,
    zone: Zone,
    offering: dict[str, Any],
    *,
    name: str,
    display_text: str,
    cidr: IPv4Network,
    gateway: str | None = None,
) -> Network:
    network = world.add(
        Network,
        name=name,
        display_text=display_text,
        zone=zone,
        type=offering["guestiptype"],
        cidr=cidr,
        gateway=gateway or str(cidr.network_address + 1),
        account=owner,
        state="Allocated" if owner else "Setup",
        offering_name=offering["name"],
        offering_id=offering["id"],
        egress_default_allow=offering["egressdefaultpolicy"],
    )
    network.vlan = 100 + network.number
    networks_of(world).put(network)
    return network


def _cidr(call: Call, zone: Zone) -> IPv4Network:
    """The zone's guest CIDR unless gateway and netmask say otherwise."""
    gateway, netmask = call.text("gateway"), call.text("netmask")
    if not gateway and not netmask:
        return zone.guest_cidr
    if not gateway or not netmask:
        raise errors.invalid("Both gateway and netmask have to be specified")
    try:
        address, cidr = IPv4Address(gateway), IPv4Network(f"{gateway}/{netmask}", strict=False)
    except ValueError:
        text = "Invalid gateway IP provided. Either the IP is broadcast or network IP."
        raise errors.invalid(text) from None
    if address in (cidr.network_address, cidr.broadcast_address):
        raise errors.invalid("Invalid gateway IP provided. Either the IP is broadcast or network IP.")
    if cidr.prefixlen < SMALLEST_PREFIX and not call.is_admin:
        raise errors.invalid(f"Cidr size can't be less than {SMALLEST_PREFIX}")
    if not any(cidr.subnet_of(private) for private in _PRIVATE):
        raise errors.invalid(f"Virtual Guest Cidr {cidr} is not RFC 1918 or 6598 compliant")
    return cidr


# Changes


def _network(call: Call) -> Network:
    """The network a command works on, when the caller may."""
    network = call.require(Network, "id")
    if network.removed:
        raise errors.invalid(f"Network ID={network.number} doesn't exist")
    if network.account is None and not call.is_admin:
        shown = {"id": network.number, "name": network.name, "uuid": network.id, "networkofferingid": 7}
        raise errors.denied(
            f"Shared network Network {json.dumps(shown)} with specifyvlan=true can only be operated by root admin"
        )
    call.check_access(network.account)
    return network


@command("updateNetwork")
def update_network(call: Call) -> dict[str, Any]:
    world, network = call.world, _network(call)

    def update() -> dict[str, Any]:
        network.name = call.text("name", network.name)
        network.display_text = call.text("displaytext", network.display_text)
        network.rendered = None
        for address in addresses.addresses(world).of(network):
            addresses.changed(world, address)
        for vm in world.all(VirtualMachine):
            if any(nic.network is network for nic in vm.nics):
                vm.views.clear()
        return {"network": render(world, network) | {"tags": list(network.tags)}}

    return call.job(update, instance=("Network", ""))


@command("restartNetwork")
def restart_network(call: Call) -> dict[str, Any]:
    network = _network(call)
    if network.state not in ("Implemented", "Setup"):
        raise errors.invalid(
            "Network is not in the right state to be restarted. Correct states are: Implemented, Setup"
        )
    return call.job(lambda: {"success": True}, instance=("Network", ""))


@command("deleteNetwork")
def delete_network(call: Call) -> dict[str, Any]:
    """Its addresses and rules go with it; refused in the job while VMs have NICs in it."""
    world, network = call.world, _network(call)

    def delete() -> dict[str, Any]:
        if network.used_addresses or network.removed:
            raise errors.internal("Failed to delete network")
        addresses.release_for_network(world, network)
        firewall.remove_rules(world, network)
        network.state, network.removed = "Destroy", True
        networks_of(world).put(network)
        return {"success": True}

    return call.job(delete, instance=("Network", ""))
