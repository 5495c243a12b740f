"""Ingress rules of public addresses and egress rules of networks."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, command
from simulator.errors import ApiError
from simulator.families import tags
from simulator.index import Index, index
from simulator.world import FirewallRule, Network, PublicAddress, World

MAX_PORT = 65535
Ports = tuple[int | None, int | None]


def _keys(rule: FirewallRule) -> Iterable[Any]:
    return rule.account, rule.address, rule.network


def rules(world: World) -> Index[FirewallRule]:
    """Ingress rules by account and address, egress rules by account and network."""
    return index(world, FirewallRule, _keys)


def remove_rules(world: World, of: PublicAddress | Network) -> None:
    for rule in rules(world).of(of):
        _remove(world, rule)


def _remove(world: World, rule: FirewallRule) -> None:
    if not rule.removed:
        world.purge(rule)
        rules(world).put(rule)


def _network_of(rule: FirewallRule) -> Network | None:
    return rule.address.network if rule.address else rule.network


def render(rule: FirewallRule) -> dict[str, Any]:
    body: dict[str, Any] = {"id": rule.id, "protocol": rule.protocol}
    if rule.start_port is not None:
        body |= {"startport": rule.start_port, "endport": rule.end_port}
    if rule.address:
        body["ipaddressid"] = rule.address.id
    if network := _network_of(rule):
        body["networkid"] = network.id
    if rule.address:
        body["ipaddress"] = rule.address.address
    body |= {"state": rule.state, "cidrlist": ",".join(rule.cidrs)}
    if rule.icmp_type is not None:
        body |= {"icmptype": rule.icmp_type, "icmpcode": rule.icmp_code}
    return body | {
        "tags": rule.tags,
        "destcidrlist": ",".join(rule.destination_cidrs),
        "traffictype": "Ingress" if rule.address else "Egress",
    }


# Checks


def check_cidrs(cidrs: list[str], kind: str) -> None:
    """Host bits are let through, as are IPv6 CIDRs."""
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise ApiError(431, f"{kind} CIDRs formatting error {cidr}") from None
        if "/" not in cidr:
            raise ApiError(431, f"{kind} CIDRs formatting error {cidr}")


def _ports(call: Call) -> Ports:
    start, end = call.integer("startport"), call.integer("endport")
    start = end if start is None else start
    end = start if end is None else end
    for port in (start, end):
        if port is not None and not 1 <= port <= MAX_PORT:
            raise errors.invalid(f"Public port range is an invalid value: {port}")
    if start is not None and end is not None and start > end:
        raise errors.invalid("Start port can't be bigger than end port")
    return start, end


def _icmp(call: Call, protocol: str) -> Ports:
    """ICMP type and code, -1 for any."""
    kind, code = call.integer("icmptype"), call.integer("icmpcode")
    if protocol != "icmp":
        if kind is not None or code is not None:
            raise errors.invalid("Can specify icmpType and icmpCode for ICMP protocol only")
        return None, None
    if "startport" in call.parameters or "endport" in call.parameters:
        raise errors.invalid("Can't specify start/end port when protocol is ICMP")
    return -1 if kind is None else kind, -1 if code is None else code


def _overlap(new: FirewallRule, old: FirewallRule) -> bool:
    """Rules conflict only when they share a CIDR, letter for letter; rules without ports never do."""
    if new.protocol != old.protocol or not set(new.cidrs) & set(old.cidrs):
        return False
    if new.protocol == "icmp":
        return (new.icmp_type, new.icmp_code) == (old.icmp_type, old.icmp_code)
    if new.start_port is None or new.end_port is None or old.start_port is None or old.end_port is None:
        return False
    return new.start_port <= old.end_port and old.start_port <= new.end_port


def _check_conflicts(world: World, new: FirewallRule, cserrorcode: int) -> None:
    for old in rules(world).of(new.address or new.network):
        if old is new:
            continue
        if new.protocol == old.protocol == "all":
            text = "There is already a firewall rule specified with protocol = all and no ports"
            raise ApiError(537, text, cserrorcode)
        if _overlap(new, old):
            network = _network_of(old)
            shown = {
                "id": old.number,
                "networkId": network.number if network else None,
                "purpose": "Firewall",
                "state": old.state,
                "uuid": old.id,
            }
            text = (
                f"The range specified, {new.start_port}-{new.end_port}, conflicts with rule FirewallRule "
                f"{json.dumps(shown, separators=(',', ':'))} which has {old.start_port}-{old.end_port}"
            )
            raise ApiError(537, text, cserrorcode)


# Commands


def _submit(call: Call, rule: FirewallRule, cserrorcode: int) -> dict[str, Any]:
    """The job of a new rule, which stays behind in state Add when there is no job after all."""
    world = call.world
    try:
        _check_conflicts(world, rule, cserrorcode)
    except ApiError:
        world.purge(rule)
        raise
    rules(world).put(rule)

    def activate() -> dict[str, Any]:
        if rule.removed:
            raise errors.internal("Failed to create firewall rule")
        rule.state = "Active"
        return {"firewallrule": render(rule) | {"tags": list(rule.tags)}}

    return call.job(activate, instance=("FirewallRule", rule.id), create_id=rule.id)


@command("createFirewallRule")
def create_firewall_rule(call: Call) -> dict[str, Any]:
    address = call.require(PublicAddress, "ipaddressid")
    call.check_access(address.account)
    cidrs = call.items("cidrlist") or ["0.0.0.0/0"]
    check_cidrs(cidrs, "Source")
    if address.network is None or address.account is None:
        text = f"Unable to create firewall rule for the ip id={address.number} as ip is not associated with any network"
        raise errors.invalid(text)
    protocol = call.text("protocol").lower()
    start, end = _ports(call)
    if protocol not in ("tcp", "udp", "icmp"):
        raise errors.invalid(f"Protocol {protocol} is not supported in zone {address.zone.number}")
    icmp_type, icmp_code = _icmp(call, protocol)
    rule = call.world.add(
        FirewallRule,
        account=address.account,
        address=address,
        protocol=protocol,
        cidrs=cidrs,
        start_port=start,
        end_port=end,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        state="Add",
    )
    return _submit(call, rule, errors.NETWORK_RULE_CONFLICT)


@command("createEgressFirewallRule")
def create_egress_firewall_rule(call: Call) -> dict[str, Any]:
    network = call.require(Network, "networkid")
    if network.removed:
        raise errors.invalid(f"Unable to find network by id={network.number}")
    call.check_access(network.account)
    if network.account is None or network.type != "Isolated":
        raise errors.invalid(f"Egress firewall rules are not supported for network id={network.number}")
    cidrs, destinations = call.items("cidrlist") or [str(network.cidr)], call.items("destcidrlist")
    check_cidrs(cidrs, "Source")
    check_cidrs(destinations, "Destination")
    for cidr in cidrs:
        source = ipaddress.ip_network(cidr, strict=False)
        if not isinstance(source, ipaddress.IPv4Network) or not source.subnet_of(network.cidr):
            raise ApiError(431, f"[{cidr}] is not within the guest CIDR [{network.cidr}]. ")
    protocol = call.text("protocol").lower()
    start, end = _ports(call)
    if protocol not in ("tcp", "udp", "icmp", "all"):
        raise errors.invalid(f"Protocol {protocol} is not supported in zone {network.zone.number}")
    if protocol == "all" and start is not None:
        raise errors.invalid("Port range can't be specified when protocol is all")
    icmp_type, icmp_code = _icmp(call, protocol)
    rule = call.world.add(
        FirewallRule,
        account=network.account,
        network=network,
        protocol=protocol,
        cidrs=cidrs,
        destination_cidrs=destinations,
        start_port=start,
        end_port=end,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        state="Add",
    )
    return _submit(call, rule, errors.SERVER_API)


def _delete(call: Call, ingress: bool) -> dict[str, Any]:
    rule = call.require(FirewallRule, "id")
    if (rule.address is not None) != ingress:
        raise errors.no_such_entity(call.command, "id", call.text("id"))
    call.check_access(rule.account)

    def delete() -> dict[str, Any]:
        _remove(call.world, rule)
        return {"success": True}

    answer = call.job(delete)
    rule.state = "Revoke"
    return answer


@command("deleteFirewallRule")
def delete_firewall_rule(call: Call) -> dict[str, Any]:
    return _delete(call, ingress=True)


@command("deleteEgressFirewallRule")
def delete_egress_firewall_rule(call: Call) -> dict[str, Any]:
    return _delete(call, ingress=False)


def _list(call: Call, ingress: bool) -> Listing:
    """The rules of an address, a network or the account, newest first."""
    one = call.row(FirewallRule, "id")
    address, network = call.row(PublicAddress, "ipaddressid"), call.row(Network, "networkid")
    owners = call.owners()
    if address is not None:
        call.check_access(address.account)
    if one is not None:
        found = [one]
    elif address is not None:
        found = rules(call.world).of(address)
    elif network is not None and not ingress:
        found = rules(call.world).of(network)
    else:
        found = rules(call.world).of(*owners)
    shown = [
        rule
        for rule in found
        if (rule.address is not None) == ingress
        and rule.account in owners
        and (address is None or rule.address is address)
        and (network is None or _network_of(rule) is network)
    ]
    return Listing(Lazy(tags.filter_rows(call, shown)[::-1], render))


@command("listFirewallRules")
def list_firewall_rules(call: Call) -> Listing:
    return _list(call, ingress=True)


@command("listEgressFirewallRules")
def list_egress_firewall_rules(call: Call) -> Listing:
    return _list(call, ingress=False)
