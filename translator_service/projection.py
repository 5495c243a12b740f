"""Firewall rules as CloudStack has them: security groups, or rules of public addresses.

A rule of GCE is an intent in our store. What should be follows from the intents and the machines; it is compared with
what is, and the difference is applied. What is, is read *before* the intents: a rule found there whose intent is not
found afterwards has lost it, because an intent is written before its rules are. After a change all is read again, so
changes made at the same time meet.

Zones with security groups: the rules without target tags are in one group per network, `gce-<network>`; those with
target tags in one group per instance, `gce-vm-<instance>`. Isolated networks: the rules that match an instance are
firewall rules of the public address that has static NAT to it; traffic inside the network is open anyway. Other
addresses (source NAT, port forwarding) are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import details as kept
from translator_service.cloudstack.client import Answer, Call
from translator_service.cloudstack.errors import CloudStackError
from translator_service.naming import Row
from translator_service.operations.run import Run
from translator_service.resources import networks, zones
from translator_service.resources.zones import Zone
from translator_service.scope import Scope

_ROUNDS = 3
_ATTEMPTS = 30
# Jobs of one rule at a time, so that it leaves room for others.
_AT_ONCE = 16
# "Already there" and "gone" (recordings, Surprises 33, 50 and 58).
_OVERTAKEN = (431, 530, 537)
# Protocols that CloudStack's security groups know by number only (CloudStack's API; numbers: IANA).
_NUMBERS = {"esp": "50", "ah": "51", "ipip": "94", "sctp": "132"}
_WITH_PORTS = ("tcp", "udp")
_GONE = ("Destroyed", "Expunging", "Error")


@dataclass(frozen=True, order=True)
class Rule:
    """The smallest thing that CloudStack lets through: a protocol, its ports (icmp: type and code), one source."""

    protocol: str
    start: int
    end: int
    source: str


@dataclass
class Plan:
    """Jobs to do: (key, command, parameters). groups: of a new instance; missed: rules that reach not all instances."""

    deletes: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    creates: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """An instance as rules see it. groups: ids of its own groups."""

    id: str
    tags: frozenset[str]
    addresses: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Cause:
    """What changed: a rule, the tags of a machine, or (sources) which machines there are."""

    rule: pb.Firewall | None = None
    machine: str = ""
    tags: tuple[str, ...] = ()
    sources: bool = False


# What should be


def intents(scope: Scope, network: str) -> list[pb.Firewall]:
    """The rules of a GCE network that let something in."""
    found = []
    for row in scope.store.list_firewalls(scope.project.key):
        rule = pb.Firewall.FromString(row["rule"])
        if row["network"] == network and opens(rule):
            found.append(rule)
    return found


def opens(rule: pb.Firewall) -> bool:
    """Whether a rule has anything to project: egress is open anyway."""
    return not rule.disabled and rule.direction != "EGRESS" and bool(rule.allowed)


def applies(rule: pb.Firewall, tags: Iterable[str]) -> bool:
    return not rule.targetTags or not set(rule.targetTags).isdisjoint(tags)


def group_rules(rules: Iterable[pb.Firewall], machines: Iterable[Machine] = ()) -> set[Rule]:
    """Rules of a security group. machines: all of the network, whose addresses source tags stand for."""
    machines = list(machines)
    found = set()
    for rule in rules:
        tags = set(rule.sourceTags)
        tagged = [f"{address}/32" for machine in machines if tags & machine.tags for address in machine.addresses]
        for allowed in rule.allowed:
            protocol = _NUMBERS.get(allowed.IPProtocol, allowed.IPProtocol)
            for start, end in _ports(protocol, allowed.ports):
                found |= {Rule(protocol, start, end, source) for source in (*rule.sourceRanges, *tagged)}
    return found


def address_rules(rules: Iterable[pb.Firewall]) -> set[Rule]:
    """Firewall rules of a public address: tcp, udp and icmp only, and no two with the same source overlap.

    Sources by tag are inside the network, where nothing is closed.
    """
    ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for rule in rules:
        for allowed in rule.allowed:
            for protocol in ("tcp", "udp", "icmp") if allowed.IPProtocol == "all" else (allowed.IPProtocol,):
                for source in rule.sourceRanges:
                    ranges.setdefault((protocol, source), []).extend(_ports(protocol, allowed.ports))
    return {
        Rule(protocol, start, end, source)
        for (protocol, source), some in ranges.items()
        for start, end in _disjoint(some)
    }


def _ports(protocol: str, ports: Sequence[str]) -> list[tuple[int, int]]:
    if protocol == "icmp":
        return [(-1, -1)]
    if protocol not in _WITH_PORTS:
        return [(0, 0)]
    pairs = [(int(first), int(last or first)) for first, _, last in (port.partition("-") for port in ports)]
    return [(max(first, 1), last) for first, last in pairs] or [(1, 65535)]


def _disjoint(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping ranges as one: CloudStack refuses the second of two rules that overlap (recordings, Surprises 50)."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


# What is


def rules_of_row(row: Row) -> set[Rule]:
    """A rule of a group, or a row of listFirewallRules, which may have several sources. A group as source is ""."""
    protocol = str(row.get("protocol", "")).lower()
    start, end = ("icmptype", "icmpcode") if protocol == "icmp" else ("startport", "endport")
    sources = str(row.get("cidr") or row.get("cidrlist") or "").split(",")
    return {Rule(protocol, int(row.get(start, 0)), int(row.get(end, 0)), source.strip()) for source in sources}


def tags_of(row: Row) -> list[str]:
    found = kept.unpack(row.get("details") or {}, kept.TAGS, [])
    return [str(tag) for tag in found] if isinstance(found, list) else []


def _rows(answers: Iterable[Answer]) -> list[Row]:
    return [row for answer in answers for row in answer.items]


def _machines(scope: Scope, members: Sequence[Row], cause: Cause) -> list[Machine]:
    """The machines in these networks; the one of the cause has the cause's tags."""
    calls: list[Call] = [
        ("listVirtualMachines", {"networkid": member["id"], "details": "nics,secgrp"}) for member in members
    ]
    inside = {member["id"] for member in members}
    found: dict[str, Machine] = {}
    for row in (row for answers in scope.client.read_all_many(calls) for row in _rows(answers)):
        if row.get("state") in _GONE:
            continue
        tags = cause.tags if row["id"] == cause.machine else tags_of(row)
        addresses = [nic.get("ipaddress", "") for nic in row.get("nic", ()) if nic.get("networkid") in inside]
        groups = [group["id"] for group in row.get("securitygroup", ()) if _is_instance_group(group["name"])]
        found[row["id"]] = Machine(
            row["id"], frozenset(tags), tuple(address for address in addresses if address), tuple(groups)
        )
    return list(found.values())


# The difference


def _difference(rows: Iterable[Row], id_key: str, wanted: set[Rule]) -> tuple[list[str], list[tuple[Rule, str]]]:
    """(ids to delete, what to create: one rule for all sources of the same ports).

    A row stays when all that it lets through is wanted, so that adding a source interrupts no other.
    """
    deletes: list[str] = []
    there: set[Rule] = set()
    for row in rows:
        rules = rules_of_row(row)
        if rules <= wanted and not rules & there:
            there |= rules
        else:
            deletes.append(row[id_key])
    sources: dict[tuple[str, int, int], list[str]] = {}
    for rule in sorted(wanted - there):
        sources.setdefault((rule.protocol, rule.start, rule.end), []).append(rule.source)
    return deletes, [(Rule(*key, some[0]), ",".join(some)) for key, some in sources.items()]


def _parameters(rule: Rule, sources: str) -> dict[str, str]:
    parameters = {"protocol": rule.protocol, "cidrlist": sources}
    if rule.protocol == "icmp":
        return parameters | {"icmptype": str(rule.start), "icmpcode": str(rule.end)}
    if rule.protocol in _WITH_PORTS:
        return parameters | {"startport": str(rule.start), "endport": str(rule.end)}
    return parameters


def _plan_group(plan: Plan, group: Row, wanted: set[Rule]) -> None:
    """A group's egress rules go too: a single one closes all other egress."""
    deletes, creates = _difference(group.get("ingressrule", ()), "ruleid", wanted)
    plan.deletes += [(identity, "revokeSecurityGroupIngress", {"id": identity}) for identity in deletes]
    for row in group.get("egressrule", ()):
        plan.deletes.append((row["ruleid"], "revokeSecurityGroupEgress", {"id": row["ruleid"]}))
    for rule, sources in creates:
        parameters = {"securitygroupid": group["id"], **_parameters(rule, sources)}
        plan.creates.append((_key(group["id"], rule), "authorizeSecurityGroupIngress", parameters))


def _plan_address(plan: Plan, address: str, rows: Iterable[Row], wanted: set[Rule]) -> None:
    deletes, creates = _difference([row for row in rows if row.get("state") != "Revoke"], "id", wanted)
    plan.deletes += [(identity, "deleteFirewallRule", {"id": identity}) for identity in deletes]
    for rule, sources in creates:
        parameters = {"ipaddressid": address, **_parameters(rule, sources)}
        plan.creates.append((_key(address, rule), "createFirewallRule", parameters))


def _key(target: str, rule: Rule) -> str:
    return f"{target}/{rule.protocol}/{rule.start}/{rule.end}"


def converge(run: Run, step: str, plan: Callable[[Scope], Plan]) -> dict[str, Any]:
    """Plan and apply until nothing is left; returns the first plan.

    Others who change the same rules at this moment make some jobs fail, but then the next plan is another one. Raises
    CloudStackError when the same plan has failed three times.
    """
    first: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    vain = 0
    for attempt in range(1, _ATTEMPTS + 1):
        todo = run.look(f"{step}/{attempt}", lambda scope: asdict(plan(scope)))
        first = first or todo
        if not todo["deletes"] and not todo["creates"]:
            break
        vain = vain if todo == failed else 0
        try:
            for part in ("deletes", "creates"):
                _apply(run, f"{step}/{attempt}/{part}", todo[part])
        except CloudStackError as error:
            failed, vain = todo, vain + 1
            if error.code not in _OVERTAKEN or vain == _ROUNDS or attempt == _ATTEMPTS:
                raise
    if first["missed"]:
        rules = ", ".join(f"'{name}'" for name in sorted(set(first["missed"])))
        run.warn("NOT_APPLIED", f"These rules do not reach instances that were not created here: {rules}.")
    return first


def _apply(run: Run, step: str, calls: Sequence[tuple[str, str, dict[str, str]]]) -> None:
    for start in range(0, len(calls), _AT_ONCE):
        some = [(f"{step}/{key}", command, parameters) for key, command, parameters in calls[start : start + _AT_ONCE]]
        run.jobs(f"{step}/{start}", some)


# Plans


def _plan(scope: Scope, network: str, members: Sequence[Row], cause: Cause) -> Plan:
    """All that a cause changes in the CloudStack networks behind a GCE network."""
    plan = Plan()
    grouped = [row for row in members if _has_groups(scope, row)]
    if grouped:
        _plan_groups(scope, plan, network, grouped, cause)
    if not cause.sources:
        for row in members:
            if row not in grouped and not row.get("vpcid"):
                _plan_addresses(scope, plan, network, row, cause)
    return plan


def _has_groups(scope: Scope, network: Row) -> bool:
    zone = zones.by_id(scope, network["zoneid"])
    return zone is not None and zone.security_groups


def _plan_groups(scope: Scope, plan: Plan, network: str, members: Sequence[Row], cause: Cause) -> None:
    if cause.rule is None and not any(_by_tag(rule, cause) for rule in intents(scope, network)):
        return
    by_instance = cause.rule is None or bool(cause.rule.targetTags)
    question = {} if by_instance else {"securitygroupname": network_group(network)}
    groups = {row["id"]: row for row in _rows(scope.client.read_all("listSecurityGroups", **question))}
    rules = intents(scope, network)
    changed = [cause.rule] if cause.rule else [rule for rule in rules if rule.sourceTags]
    shared = [rule for rule in rules if not rule.targetTags]
    targeted = [rule for rule in rules if rule.targetTags]
    needed = by_instance or any(rule.sourceTags for rule in shared)
    machines = _machines(scope, members, cause) if needed else []
    if any(not rule.targetTags for rule in changed):
        for row in groups.values():
            if _same_name(row, network_group(network)):
                _plan_group(plan, row, group_rules(shared, machines))
    for machine in machines:
        own = [rule for rule in targeted if applies(rule, machine.tags)]
        if machine.id != cause.machine and not any(rule.targetTags and applies(rule, machine.tags) for rule in changed):
            continue
        if own and not machine.groups:
            plan.missed += [rule.name for rule in own]
        for group in machine.groups:
            if group in groups:
                _plan_group(plan, groups.pop(group), group_rules(own, machines))


def _by_tag(rule: pb.Firewall, cause: Cause) -> bool:
    return bool(rule.sourceTags or (rule.targetTags and not cause.sources))


def _plan_addresses(scope: Scope, plan: Plan, network: str, member: Row, cause: Cause) -> None:
    """The public addresses of an isolated network with static NAT."""
    if cause.rule is not None and not cause.rule.sourceRanges:
        return
    addresses, firewalls = scope.client.read_all_many(
        [
            ("listPublicIpAddresses", {"associatednetworkid": member["id"], "isstaticnat": "true"}),
            ("listFirewallRules", {"networkid": member["id"]}),
        ]
    )
    led = [row for row in _rows(addresses) if row.get("isstaticnat") and row.get("virtualmachineid")]
    if cause.machine:
        led = [row for row in led if row["virtualmachineid"] == cause.machine]
    rules = intents(scope, network)
    tags: dict[str, Iterable[str]] = {cause.machine: cause.tags}
    if led and not cause.machine and any(rule.targetTags for rule in (*rules, *((cause.rule,) if cause.rule else ()))):
        tags |= {machine.id: machine.tags for machine in _machines(scope, [member], cause)}
    for row in led:
        have = tags.get(row["virtualmachineid"], ())
        if cause.rule is None or applies(cause.rule, have):
            wanted = address_rules(rule for rule in rules if applies(rule, have))
            there = [rule for rule in _rows(firewalls) if rule.get("ipaddressid") == row["id"]]
            _plan_address(plan, row["id"], there, wanted)


# Groups


def network_group(network: str) -> str:
    return f"gce-{network}"


def instance_group(scope: Scope, zone: Zone, name: str) -> str:
    """Groups have no zone. Where several zones have groups, two instances may have the same name."""
    several = sum(other.security_groups for other in zones.all_zones(scope)) > 1
    return f"gce-vm-{name}.{zone.id[:8]}" if several else f"gce-vm-{name}"


def is_ours(group: str) -> bool:
    return group.lower().startswith("gce-")


def _is_instance_group(name: str) -> bool:
    return name.lower().startswith("gce-vm-")


def _same_name(row: Row, name: str) -> bool:
    """CloudStack ignores case in names of groups (recordings, Surprises 58)."""
    return str(row["name"]).lower() == name.lower()


def _ensure_group(scope: Scope, rows: Sequence[Row], name: str, description: str) -> Row:
    """The row of the group, made if it is not among these; somebody else may make it at the same moment."""
    found = next((row for row in rows if _same_name(row, name)), None)
    if found is not None:
        return found
    try:
        return scope.client.write("createSecurityGroup", name=name, description=description).one()
    except CloudStackError as error:
        if error.code != 431:
            raise
        rows = scope.client.read("listSecurityGroups", securitygroupname=name).items
        if not rows:
            raise
        return rows[0]


# For instances


def groups_for_deploy(run: Run, zone: Zone, network: Row, name: str, tags: list[str]) -> list[str]:
    """Ids of the groups that a new instance gets, with their rules already in place."""

    def plan(scope: Scope) -> Plan:
        shown = networks.name_of(scope, network["id"], network.get("name", ""))
        names = (network_group(shown), instance_group(scope, zone, name))
        answers = scope.client.read_many([("listSecurityGroups", {"securitygroupname": group}) for group in names])
        descriptions = (f"Rules of network {shown}", f"Rules of instance {name}")
        groups = [
            _ensure_group(scope, answer.items, group, description)
            for answer, group, description in zip(answers, names, descriptions, strict=True)
        ]
        rules = [rule for rule in intents(scope, shown) if applies(rule, tags)]
        machines = []
        if any(rule.sourceTags for rule in rules):
            machines = _machines(scope, [row for row in _members(scope, shown) if _has_groups(scope, row)], Cause())
        found = Plan(groups=[str(group["id"]) for group in groups])
        _plan_group(found, groups[0], group_rules([rule for rule in rules if not rule.targetTags], machines))
        _plan_group(found, groups[1], group_rules([rule for rule in rules if rule.targetTags], machines))
        return found

    return list(converge(run, "groups", plan)["groups"])


def refresh_instance(run: Run, step: str, zone: Zone, row: Row, tags: Sequence[str]) -> None:
    """After an instance was made, got an address or other tags: its rules, and those that have its tags as sources.

    Costs nothing in a zone with security groups where no rule has tags.
    """
    cause = Cause(machine=row["id"], tags=tuple(tags))

    def plan(scope: Scope) -> Plan:
        found = Plan()
        ids = {nic["networkid"]: nic.get("networkname", "") for nic in row.get("nic", ()) if nic.get("networkid")}
        shown = {networks.name_of(scope, identity, name) for identity, name in ids.items()}
        for network in sorted(shown):
            members = _members(scope, network)
            # A group's sources may be in all zones of the network, an address belongs to one.
            members = [member for member in members if zone.security_groups or member["id"] in ids]
            members = [member for member in members if _has_groups(scope, member) == zone.security_groups]
            part = _plan(scope, network, members, cause)
            found.deletes += part.deletes
            found.creates += part.creates
            found.missed += part.missed
        return found

    converge(run, step, plan)


def release_instance(run: Run, zone: Zone, name: str) -> None:
    """The instance is gone: so are its group and its addresses in the rules that have its tags as sources.

    A group that CloudStack still counts as used stays until a new instance has the name.
    """
    if not zone.security_groups:
        return

    def delete(scope: Scope) -> None:
        for group in sorted({f"gce-vm-{name}", instance_group(scope, zone, name)}):
            try:
                scope.client.write("deleteSecurityGroup", name=group)
            except CloudStackError as error:
                if error.code not in (431, 536):
                    raise

    def plan(scope: Scope) -> Plan:
        found = Plan()
        here = [row for row in networks.index(scope).rows if row["zoneid"] == zone.id]
        for network in sorted({networks.name_of(scope, row["id"], row["name"]) for row in here}):
            part = _plan(scope, network, _members(scope, network), Cause(sources=True))
            found.deletes += part.deletes
            found.creates += part.creates
        return found

    run.look("release-group", delete)
    converge(run, "release-sources", plan)


def _members(scope: Scope, network: str) -> list[Row]:
    """The CloudStack networks behind a GCE network; none when it is gone."""
    try:
        return networks.members(scope, network)
    except ApiError as error:
        if error.code != 404:
            raise
        return []


# For rules


def refresh_network(run: Run, step: str, network: str, rule: pb.Firewall) -> None:
    """After a rule came or went: the groups and addresses that it concerns."""
    if opens(rule):
        converge(run, step, lambda scope: _plan(scope, network, _members(scope, network), Cause(rule=rule)))
