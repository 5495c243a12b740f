"""Firewall rules as CloudStack has them: security groups, or rules of public addresses.

A rule of GCE is an intent in our store. What should be follows from the intents and the machines; it is compared with
what is, and the difference is applied. Reading what is *before* what should be makes concurrent changes harmless: a rule
may be added or removed twice, but never the wrong one, and "already there" and "gone" are looked over and read again.

Zones with security groups: the rules without target tags are in one group per network, `gce-<network>`; those with target
tags in one group per instance, `gce-vm-<instance>`. Isolated networks: the rules that match an instance are firewall rules
of the public address that has static NAT to it; traffic inside the network is open anyway.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gstack.compute.v1 import firewalls_pb2 as pb
from translator_service import details as kept
from translator_service.cloudstack.errors import CloudStackError
from translator_service.naming import Row
from translator_service.operations.engine import Run
from translator_service.resources import networks, zones
from translator_service.resources.zones import Zone
from translator_service.scope import Scope

_ROUNDS = 3
_EVERYWHERE = "0.0.0.0/0"
# What a repeated or a lost race of adding and removing looks like (recordings, Surprises 50, 52, 58).
_TOLERATED = (431, 530, 537)


@dataclass(frozen=True, order=True)
class Rule:
    """One rule as CloudStack counts them: a protocol, a port range ("" is all), one source."""

    protocol: str
    start: str
    end: str
    source: str


# What should be


def intents(scope: Scope, network: str) -> list[pb.Firewall]:
    """The rules of a GCE network that let something in."""
    found = []
    for row in scope.store.list_firewalls(scope.project.key):
        rule = pb.Firewall.FromString(row["rule"])
        if row["network"] == network and not rule.disabled and rule.direction != "EGRESS" and rule.allowed:
            found.append(rule)
    return found


def applies(rule: pb.Firewall, tags: Iterable[str]) -> bool:
    return not rule.targetTags or bool(set(rule.targetTags) & set(tags))


def group_rules(rule: pb.Firewall, tagged: Callable[[Iterable[str]], list[str]]) -> set[Rule]:
    """Rules of a security group. tagged: addresses of the instances that have one of some tags."""
    sources = list(rule.sourceRanges) + [f"{address}/32" for address in tagged(rule.sourceTags)]
    found = set()
    for allowed in rule.allowed:
        protocol = allowed.IPProtocol
        for start, end in _ports(allowed.ports, protocol):
            found |= {Rule(protocol, start, end, source) for source in sources}
    return found


def address_rules(rule: pb.Firewall) -> set[Rule]:
    """Firewall rules of a public address: tcp, udp and icmp only, and ports for the first two."""
    found = set()
    for allowed in rule.allowed:
        protocols = ("tcp", "udp", "icmp") if allowed.IPProtocol == "all" else (allowed.IPProtocol,)
        for protocol in protocols:
            for start, end in _ports(allowed.ports, protocol):
                # Sources by tag are inside the network, where nothing is closed.
                found |= {Rule(protocol, start, end, source) for source in rule.sourceRanges}
    return found


def _ports(ports: Sequence[str], protocol: str) -> list[tuple[str, str]]:
    if protocol not in ("tcp", "udp"):
        return [("", "")]
    if not ports:
        return [("1", "65535")]
    return [(port.partition("-")[0], port.partition("-")[2] or port) for port in ports]


# What is


def _actual_group(row: Row) -> dict[Rule, str]:
    """Ingress rules of a row of listSecurityGroups, with their ids."""
    found = {}
    for rule in row.get("ingressrule", []):
        protocol = str(rule.get("protocol", ""))
        ported = protocol in ("tcp", "udp")
        start, end = (str(rule.get("startport", "")), str(rule.get("endport", ""))) if ported else ("", "")
        found[Rule(protocol, start, end, rule.get("cidr") or f"group:{rule.get('securitygroupname')}")] = rule["ruleid"]
    return found


def _actual_address(rows: Iterable[Row]) -> dict[Rule, str]:
    """Rows of listFirewallRules with their ids; a row may hold several sources."""
    found = {}
    for row in rows:
        protocol = str(row.get("protocol", ""))
        ported = protocol in ("tcp", "udp")
        start, end = (str(row.get("startport", "")), str(row.get("endport", ""))) if ported else ("", "")
        for source in str(row.get("cidrlist", _EVERYWHERE)).split(","):
            found[Rule(protocol, start, end, source)] = row["id"]
    return found


def _merged(rules: Iterable[Rule]) -> list[tuple[Rule, str]]:
    """One call for all sources of the same ports: (rule of the first source, sources in a comma list)."""
    grouped: dict[tuple[str, str, str], list[Rule]] = {}
    for rule in sorted(rules):
        grouped.setdefault((rule.protocol, rule.start, rule.end), []).append(rule)
    return [(same[0], ",".join(rule.source for rule in same)) for same in grouped.values()]


def _key(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _parameters(rule: Rule, sources: str) -> dict[str, str]:
    parameters = {"protocol": rule.protocol, "cidrlist": sources}
    if rule.start:
        parameters |= {"startport": rule.start, "endport": rule.end}
    elif rule.protocol == "icmp":
        parameters |= {"icmptype": "-1", "icmpcode": "-1"}
    return parameters


# Bringing both together


@dataclass(frozen=True)
class Target:
    """A security group or a public address, and how to read, add to and take from it."""

    id: str
    read: Callable[[], dict[Rule, str]]
    wanted: Callable[[], set[Rule]]
    add: tuple[str, dict[str, str]]
    remove: str


def _converge(run: Run, step: str, target: Target) -> None:
    """Make the target's rules what they should be. Raises what CloudStack says when three rounds do not do it."""
    for attempt in range(_ROUNDS):

        def plan() -> dict[str, Any]:
            actual = target.read()
            wanted = target.wanted()
            return {
                "add": [[*vars(rule).values(), sources] for rule, sources in _merged(wanted - actual.keys())],
                "remove": sorted({actual[rule] for rule in actual.keys() - wanted}),
            }

        changes = run.step(f"{step}/{attempt}/plan", plan)
        if not changes["add"] and not changes["remove"]:
            return
        command, base = target.add
        calls: list[tuple[str, str, dict[str, str]]] = [
            (f"{step}/{attempt}/remove/{identity}", target.remove, {"id": identity}) for identity in changes["remove"]
        ]
        _apply(run, f"{step}/{attempt}/remove", calls, attempt)
        calls = []
        for protocol, start, end, source, sources in changes["add"]:
            rule = Rule(protocol, start, end, source)
            name = f"{step}/{attempt}/add/{_key(protocol, start, end, sources)}"
            calls.append((name, command, {**base, **_parameters(rule, sources)}))
        _apply(run, f"{step}/{attempt}/add", calls, attempt)


def _apply(run: Run, step: str, calls: list[tuple[str, str, dict[str, str]]], attempt: int) -> None:
    if not calls:
        return
    try:
        run.jobs(step, calls)
    except CloudStackError as error:
        if error.code not in _TOLERATED or attempt == _ROUNDS - 1:
            raise


def _group_target(run: Run, group: str, wanted: Callable[[], set[Rule]]) -> Target:
    def read() -> dict[Rule, str]:
        rows = run.client().read("listSecurityGroups", id=group).items
        return _actual_group(rows[0]) if rows else {}

    add = ("authorizeSecurityGroupIngress", {"securitygroupid": group})
    return Target(group, read, wanted, add, "revokeSecurityGroupIngress")


def _address_target(run: Run, address: str, wanted: Callable[[], set[Rule]]) -> Target:
    def read() -> dict[Rule, str]:
        answers = run.client().read_all("listFirewallRules", ipaddressid=address)
        return _actual_address(row for answer in answers for row in answer.items)

    return Target(address, read, wanted, ("createFirewallRule", {"ipaddressid": address}), "deleteFirewallRule")


# Groups


def network_group(network: str) -> str:
    return f"gce-{network}"


def instance_group(name: str) -> str:
    return f"gce-vm-{name}"


def is_ours(group: str) -> bool:
    return group.startswith("gce-")


def _ensure_group(run: Run, step: str, name: str, description: str) -> str:
    """Id of the group, made if it is not there; somebody else may make it at the same moment."""

    def work() -> str:
        client = run.client()
        for attempt in range(2):
            rows = client.read("listSecurityGroups", securitygroupname=name).items
            if rows:
                return str(rows[0]["id"])
            try:
                return str(client.write("createSecurityGroup", name=name, description=description).one()["id"])
            except CloudStackError as error:
                if error.code != 431 or attempt:
                    raise
        raise AssertionError

    return run.step(f"{step}/{name}", work)


def _find_group(run: Run, step: str, name: str) -> str | None:
    rows = run.read(f"{step}/{name}", "listSecurityGroups", securitygroupname=name)
    return str(rows[0]["id"]) if rows else None


def _machines(scope: Scope, zone_ids: Iterable[str]) -> list[Row]:
    """The machines of some zones, with what the rules need of them."""
    rows = []
    for zone_id in zone_ids:
        for answer in scope.client.read_all("listVirtualMachines", zoneid=zone_id, details="nics,min"):
            rows += [row for row in answer.items if row.get("state") not in ("Destroyed", "Expunging")]
    return rows


def tags_of(row: Row) -> list[str]:
    found = kept.unpack(row.get("details") or {}, kept.TAGS, [])
    return [str(tag) for tag in found] if isinstance(found, list) else []


def _tagged(
    run: Run, zone: Zone, extra: tuple[str, Sequence[str]] | None = None
) -> Callable[[Iterable[str]], list[str]]:
    """Addresses of the zone's instances by tag; `extra` is (machine id, tags) for one whose tags are just changing."""

    def find(tags: Iterable[str]) -> list[str]:
        wanted = set(tags)
        if not wanted:
            return []
        scope = run.scope
        scope.client = run.client()
        found = []
        for row in _machines(scope, [zone.id]):
            have = extra[1] if extra and row["id"] == extra[0] else tags_of(row)
            if wanted & set(have):
                found += [nic["ipaddress"] for nic in row.get("nic", []) if _is_v4(nic.get("ipaddress", ""))]
        return sorted(found)

    return find


def _is_v4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def _network_wanted(run: Run, zone: Zone, network: str) -> Callable[[], set[Rule]]:
    tagged = _tagged(run, zone)
    return lambda: _union(group_rules(rule, tagged) for rule in intents(run.scope, network) if not rule.targetTags)


def _instance_wanted(
    run: Run, zone: Zone, network: str, tags: Sequence[str], extra: tuple[str, Sequence[str]] | None = None
) -> Callable[[], set[Rule]]:
    tagged = _tagged(run, zone, extra)
    return lambda: _union(
        group_rules(rule, tagged) for rule in intents(run.scope, network) if rule.targetTags and applies(rule, tags)
    )


def _union(sets: Iterable[set[Rule]]) -> set[Rule]:
    found: set[Rule] = set()
    for one in sets:
        found |= one
    return found


# For instances


def groups_for_deploy(run: Run, zone: Zone, network: Row, name: str, tags: list[str]) -> list[str]:
    """Ids of the groups that a new instance gets, with their rules already in place."""
    shown = networks.name_of(run.scope, network["id"], network.get("name", ""))
    common = _ensure_group(run, "group", network_group(shown), f"Rules of network {shown}")
    own = _ensure_group(run, "group", instance_group(name), f"Rules of instance {name}")
    _converge(run, "network-group", _group_target(run, common, _network_wanted(run, zone, shown)))
    _converge(run, "instance-group", _group_target(run, own, _instance_wanted(run, zone, shown, tags)))
    return [common, own]


def refresh_instance(run: Run, step: str, zone: Zone, row: Row, tags: Sequence[str]) -> None:
    """After an instance got its address or other tags: its own rules, and those of others that name its tags as source."""
    shown = _network_of(run.scope, row)
    if not zone.security_groups:
        _refresh_addresses(run, step, shown, [(row["id"], tags)])
        return
    group = _find_group(run, step, instance_group(row["name"]))
    if group:
        wanted = _instance_wanted(run, zone, shown, tags, (row["id"], tags))
        _converge(run, f"{step}/own", _group_target(run, group, wanted))
    # Who is a source of the network's rules may have changed too.
    for rule in intents(run.scope, shown):
        if rule.sourceTags:
            _refresh_zone(run, f"{step}/{rule.name}", zone, shown, rule)


def release_instance(run: Run, zone: Zone, name: str) -> None:
    """The instance is gone: so is its group. One that CloudStack still counts as used stays until it is expunged."""
    group = _find_group(run, "release", instance_group(name))
    if group is None:
        return

    def work() -> None:
        try:
            run.client().write("deleteSecurityGroup", id=group)
        except CloudStackError as error:
            if error.code not in (431, 536):
                raise

    run.step("release-group", work)


def _network_of(scope: Scope, row: Row) -> str:
    nics = row.get("nic") or [{}]
    nic = next((nic for nic in nics if nic.get("isdefault")), nics[0])
    return networks.name_of(scope, nic.get("networkid", ""), nic.get("networkname", ""))


# For rules


def refresh_network(run: Run, step: str, network: str, rule: pb.Firewall) -> None:
    """After a rule came or went: the groups and addresses that it concerns."""
    for row in networks.members(run.scope, network):
        zone = zones.by_id(run.scope, row["zoneid"])
        if zone is None:
            continue
        if zone.security_groups:
            _refresh_zone(run, f"{step}/{zone.name}", zone, network, rule)
        else:
            machines = run.step(f"{step}/{zone.name}/machines", lambda row=row: _in_network(run, row))
            concerned = [(identity, tags) for identity, tags in machines if applies(rule, tags)]
            _refresh_addresses(run, f"{step}/{zone.name}", network, concerned)


def _refresh_zone(run: Run, step: str, zone: Zone, network: str, rule: pb.Firewall) -> None:
    """Groups of one zone with security groups."""
    if not rule.targetTags:
        group = _ensure_group(run, f"{step}/group", network_group(network), f"Rules of network {network}")
        _converge(run, f"{step}/common", _group_target(run, group, _network_wanted(run, zone, network)))
        return

    def find() -> list[list[Any]]:
        run.scope.client = run.client()
        rows = _machines(run.scope, [zone.id])
        return [[row["name"], tags_of(row)] for row in rows if applies(rule, tags_of(row))]

    for name, tags in run.step(f"{step}/machines", find):
        group_ = _find_group(run, f"{step}/find", instance_group(name))
        if group_:
            _converge(run, f"{step}/{name}", _group_target(run, group_, _instance_wanted(run, zone, network, tags)))


def _in_network(run: Run, network: Row) -> list[tuple[str, list[str]]]:
    """(id, tags) of the machines in an isolated network."""
    answers = run.client().read_all("listVirtualMachines", networkid=network["id"], details="min")
    return [(row["id"], tags_of(row)) for answer in answers for row in answer.items]


def _refresh_addresses(run: Run, step: str, network: str, machines: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Rules of the public addresses that have static NAT to these machines."""
    if not machines:
        return
    rows = run.read(f"{step}/addresses", "listPublicIpAddresses", isstaticnat="true")
    by_machine = {row.get("virtualmachineid"): row["id"] for row in rows}
    for identity, tags in machines:
        address = by_machine.get(identity)
        if address:

            def wanted(tags: Sequence[str] = tags) -> set[Rule]:
                return _union(address_rules(rule) for rule in intents(run.scope, network) if applies(rule, tags))

            _converge(run, f"{step}/{address}", _address_target(run, address, wanted))
