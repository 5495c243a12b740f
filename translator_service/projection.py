"""Firewall rules as CloudStack has them: security groups, or rules of public addresses.

A rule of GCE is an intent in our store. What should be follows from the intents and the machines; it is compared with
what is, and the difference is applied. What is, is read *before* the intents: a rule found there whose intent is not
found afterwards has lost it, because an intent is written before its rules are. After a change all is read again, so
changes made at the same time meet.

Rules that people made in CloudStack are theirs (see claims): what they let through counts as there, and nothing of it
is ever taken away. While operations on other rules are under way, each does its own part, so that none waits for the
work of another.

Zones with security groups: the rules without target tags are in one group per network, `gce-<network>`; those with
target tags in one group per instance, which is the instance's because no other is in it: `gce-vm-<instance>.<suffix>`,
with a suffix of the operation that makes the instance, since names are free again when an instance is renamed or gone.
Isolated networks: the rules that match an instance are firewall rules of the public address that has static NAT to it;
traffic inside the network is open anyway. Other addresses (source NAT, port forwarding) are left alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import structlog

from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import claims
from translator_service import details as kept
from translator_service.cloudstack.client import Answer, Call
from translator_service.cloudstack.errors import CloudStackError
from translator_service.naming import Row
from translator_service.operations.run import Run
from translator_service.resources import networks, zones
from translator_service.resources.zones import Zone
from translator_service.scope import Scope

log = structlog.get_logger()

_ROUNDS = 3
_ATTEMPTS = 30
# Jobs of one rule at a time, so that it leaves room for others.
_AT_ONCE = 16
# Sources of one rule: the answer about a job may not be longer than 64 kB (recordings, Surprises 4).
_SOURCES = 200
# Groups of instances that are gone, cleared at a time.
_LEFTOVERS = 16
# "Already there" and "gone" (recordings, Surprises 33, 50 and 58).
_OVERTAKEN = (431, 530, 537)
# Protocols that CloudStack's security groups know by number only (CloudStack's API; numbers: IANA).
_NUMBERS = {"esp": "50", "ah": "51", "ipip": "94", "sctp": "132"}
_WITH_PORTS = ("tcp", "udp")
_GONE = ("Destroyed", "Expunging", "Error")
_INSTANCE_GROUP = "gce-vm-"
# How the description of an instance's group ends.
_OPERATION = re.compile(r"\((operation-[0-9a-f-]+)\)$")


@dataclass(frozen=True, order=True)
class Rule:
    """The smallest thing that CloudStack lets through: a protocol, its ports (icmp: type and code), one source."""

    protocol: str
    start: int
    end: int
    source: str

    @property
    def key(self) -> str:
        return f"{self.protocol}/{self.start}/{self.end}/{self.source}"


@dataclass
class Plan:
    """Jobs to do: (key, command, parameters). made: what the creates make, as (target, content of a rule).

    groups: of a new instance; missed: rules that reach not all instances.
    """

    deletes: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    creates: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)
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
    """What changed: a rule, the tags of a machine, or (sources) which machines there are. Nothing: a deploy."""

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
        sources = (*collapsed(rule.sourceRanges), *tagged)
        for protocol, ranges in port_ranges(rule).items():
            number = _NUMBERS.get(protocol, protocol)
            found |= {Rule(number, start, end, source) for start, end in ranges for source in sources}
    return found


def address_rules(rules: Iterable[pb.Firewall]) -> set[Rule]:
    """Firewall rules of a public address: tcp, udp and icmp only, and no two with the same source overlap.

    Sources by tag are inside the network, where nothing is closed.
    """
    ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for rule in rules:
        sources = collapsed(rule.sourceRanges)
        for allowed, some in port_ranges(rule).items():
            for protocol in ("tcp", "udp", "icmp") if allowed == "all" else (allowed,):
                for source in sources:
                    ranges.setdefault((protocol, source), []).extend(some if allowed != "all" else _ports(protocol, ()))
    return {
        Rule(protocol, start, end, source)
        for (protocol, source), some in ranges.items()
        for start, end in _joined(some, 0)
    }


def collapsed(ranges: Iterable[str]) -> list[str]:
    """The fewest ranges that are the same addresses."""
    parsed = [ipaddress.ip_network(text) for text in ranges]
    four = [one for one in parsed if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in parsed if isinstance(one, ipaddress.IPv6Network)]
    return [str(one) for one in (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))]


def port_ranges(rule: pb.Firewall) -> dict[str, list[tuple[int, int]]]:
    """The fewest ranges of ports that are the same ports, by protocol."""
    found: dict[str, list[tuple[int, int]]] = {}
    for allowed in rule.allowed:
        found.setdefault(allowed.IPProtocol, []).extend(_ports(allowed.IPProtocol, allowed.ports))
    return {protocol: _joined(ranges, 1) for protocol, ranges in found.items()}


def _ports(protocol: str, ports: Sequence[str]) -> list[tuple[int, int]]:
    if protocol == "icmp":
        return [(-1, -1)]
    if protocol not in _WITH_PORTS:
        return [(0, 0)]
    pairs = [(int(first), int(last or first)) for first, _, last in (port.partition("-") for port in ports)]
    return [(max(first, 1), last) for first, last in pairs] or [(1, 65535)]


def _joined(ranges: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Overlapping ranges as one: CloudStack refuses the second of two rules that overlap (recordings, Surprises 50).

    gap: 1 to join neighbours too. Not those of two intents: one that goes would interrupt the other.
    """
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Openings:
    """What rules let through, to compare with others: ports by protocol and source; types of icmp only as they are."""

    def __init__(self, rules: Iterable[Rule] = ()):
        self._ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.add(rules)

    def add(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            ranges = self._ranges.setdefault((rule.protocol, rule.source), [])
            ranges.append((rule.start, rule.end))
            if rule.protocol in _WITH_PORTS and len(ranges) > 1:
                ranges[:] = _joined(ranges, 1)

    def rest(self, rule: Rule) -> list[tuple[int, int]]:
        """The parts of a rule that are not let through."""
        ranges = self._ranges.get((rule.protocol, rule.source), [])
        if rule.protocol not in _WITH_PORTS:
            return [] if (rule.start, rule.end) in ranges else [(rule.start, rule.end)]
        parts, start = [], rule.start
        for first, last in ranges:
            if last < start or first > rule.end:
                continue
            if first > start:
                parts.append((start, first - 1))
            start = last + 1
        return parts if start > rule.end else [*parts, (start, rule.end)]

    def hold(self, rules: Iterable[Rule]) -> bool:
        return not any(map(self.rest, rules))

    def meet(self, rules: Iterable[Rule]) -> bool:
        """Whether any part of the rules is let through."""
        return any(self.rest(rule) != [(rule.start, rule.end)] for rule in rules)


# What is


def rules_of_row(row: Row) -> set[Rule]:
    """A rule of a group, or a row of listFirewallRules, which may have several sources. A group as source is ""."""
    protocol = str(row.get("protocol", "")).lower()
    if protocol == "icmp":
        start, end = int(row.get("icmptype", -1)), int(row.get("icmpcode", -1))
    elif protocol in _WITH_PORTS and "startport" not in row:
        start, end = 1, 65535
    else:
        start = int(row.get("startport", 0))
        end = int(row.get("endport", start))
    sources = str(row.get("cidr") or row.get("cidrlist") or "").split(",")
    return {Rule(protocol, start, end, source.strip()) for source in sources}


def contents_of(row: Row) -> frozenset[str]:
    """What a rule of a group or an address lets through, as claims know it."""
    return frozenset(rule.key for rule in rules_of_row(row))


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


@dataclass(frozen=True)
class Wanted:
    """What a target should let through. now: without what other operations see to at this moment.

    touched: the only rules that may be taken away, None for all; older: those of intents from before there were claims.
    """

    all: set[Rule]
    now: set[Rule]
    touched: set[Rule] | None = None
    older: set[Rule] = field(default_factory=set)


def _difference(
    rows: Iterable[Row], id_key: str, ours: Iterable[str], wanted: Wanted
) -> tuple[list[str], list[tuple[Rule, list[str]]]]:
    """(ids to delete, what to create: one rule for all sources of the same ports).

    A row of ours stays when all that it lets through is wanted, so that adding a source interrupts no other. What
    others made is there, and stays.
    """
    ours = set(ours)
    there, right = Openings(), Openings(wanted.all)
    touched = None if wanted.touched is None else Openings(wanted.touched)
    deletes: list[str] = []
    for row in sorted(rows, key=lambda row: row[id_key] in ours):
        rules = rules_of_row(row)
        is_right = right.hold(rules) and not there.hold(rules)
        if row[id_key] in ours and not is_right and (touched is None or touched.meet(rules)):
            deletes.append(row[id_key])
        else:
            there.add(rules)
    sources: dict[tuple[str, int, int], list[str]] = {}
    for rule in sorted(wanted.now):
        for start, end in there.rest(rule):
            sources.setdefault((rule.protocol, start, end), []).append(rule.source)
            there.add([Rule(rule.protocol, start, end, rule.source)])
    return deletes, [(Rule(*key, some[0]), some) for key, some in sources.items()]


def _parts(creates: Iterable[tuple[Rule, list[str]]]) -> list[tuple[str, Rule, list[str]]]:
    """(key, rule, sources) of each call."""
    return [
        (f"{rule.protocol}/{rule.start}/{rule.end}{f'/{start}' if start else ''}", rule, some[start : start + _SOURCES])
        for rule, some in creates
        for start in range(0, len(some), _SOURCES)
    ]


def _add(plan: Plan, scope: Scope, target: str, rows: Iterable[Row], wanted: Wanted, how: _Commands) -> None:
    """What makes the rules of a target right."""
    found = {row[how.id_key]: row for row in rows}
    older = Openings(wanted.older)
    ours = claims.recognise(
        scope,
        target,
        {identity: contents_of(row) for identity, row in found.items()},
        lambda identity: older.hold(rules_of_row(found[identity])),
    )
    deletes, creates = _difference(found.values(), how.id_key, ours, wanted)
    plan.deletes += [(identity, how.delete, {"id": identity}) for identity in deletes]
    for key, rule, sources in _parts(creates):
        parameters = {how.target: target, **_parameters(rule, ",".join(sources))}
        plan.creates.append((f"{target}/{key}", how.create, parameters))
        plan.made += [(target, Rule(rule.protocol, rule.start, rule.end, source).key) for source in sources]


@dataclass(frozen=True)
class _Commands:
    """How rules of a kind of target come and go. target: the parameter; id_key: of the rows."""

    create: str
    delete: str
    target: str
    id_key: str


_OF_GROUPS = _Commands("authorizeSecurityGroupIngress", "revokeSecurityGroupIngress", "securitygroupid", "ruleid")
_OF_ADDRESSES = _Commands("createFirewallRule", "deleteFirewallRule", "ipaddressid", "id")


def _parameters(rule: Rule, sources: str) -> dict[str, str]:
    parameters = {"protocol": rule.protocol, "cidrlist": sources}
    if rule.protocol == "icmp":
        return parameters | {"icmptype": str(rule.start), "icmpcode": str(rule.end)}
    if rule.protocol in _WITH_PORTS:
        return parameters | {"startport": str(rule.start), "endport": str(rule.end)}
    return parameters


def _plan_group(plan: Plan, scope: Scope, group: Row, wanted: Wanted) -> None:
    _add(plan, scope, group["id"], group.get("ingressrule", ()), wanted, _OF_GROUPS)


def _plan_address(plan: Plan, scope: Scope, address: str, rows: Iterable[Row], wanted: Wanted) -> None:
    rows = [row for row in rows if row.get("state") != "Revoke"]
    _add(plan, scope, address, rows, wanted, _OF_ADDRESSES)


def converge(run: Run, step: str, plan: Callable[[Scope], Plan]) -> dict[str, Any]:
    """Plan and apply until nothing is left; returns the last plan.

    Others who change the same rules at this moment make some jobs fail, but then the next plan is another one. Raises
    CloudStackError when the same plan has failed three times.
    """

    def work(scope: Scope) -> dict[str, Any]:
        found = plan(scope)
        made: dict[str, list[str]] = {}
        for target, content in found.made:
            made.setdefault(target, []).append(content)
        for target, contents in made.items():
            claims.claim(scope, target, contents, run.name)
        return asdict(found)

    first: dict[str, Any] = {}
    todo: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    vain = 0
    for attempt in range(1, _ATTEMPTS + 1):
        todo = run.look(f"{step}/{attempt}", work)
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
        why = "that were not created here, or that share a security group"
        run.warn("NOT_APPLIED", f"These rules do not reach instances {why}: {rules}.")
    return todo


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


@dataclass(frozen=True)
class _Intents:
    """The intents of a network, as one plan sees them."""

    rules: list[pb.Firewall]
    cause: Cause
    # Whose own operations see to them at this moment, and whether any others are under way.
    busy: frozenset[str]
    is_alone: bool

    def wanted(
        self,
        compile: Callable[[Iterable[pb.Firewall]], set[Rule]],
        applying: Callable[[pb.Firewall], bool],
        *,
        is_own: bool = False,
    ) -> Wanted:
        """applying: which rules a target has. is_own: nobody else looks after the target, as a new machine's."""
        rules = [rule for rule in self.rules if applying(rule)]
        now = rules if is_own else [rule for rule in rules if rule.name not in self.busy]
        rule, known = self.cause.rule, [*self.rules, *((self.cause.rule,) if self.cause.rule else ())]
        limited = not is_own and not self.is_alone and rule is not None and not rule.sourceTags
        return Wanted(
            all=compile(rules),
            now=compile(now),
            touched=compile([rule, *_apart([rule])]) if limited and rule is not None else None,
            older=compile(_apart(rule for rule in known if not rule.kind)),
        )


def _apart(rules: Iterable[pb.Firewall]) -> Iterator[pb.Firewall]:
    """The rules with one source each, as they were made before sources were joined."""
    for rule in rules:
        for source in rule.sourceRanges:
            part = pb.Firewall()
            part.CopyFrom(rule)
            part.sourceRanges[:] = [source]
            yield part
        if rule.sourceTags:
            yield rule


def _read_intents(scope: Scope, network: str, cause: Cause) -> _Intents:
    own = f"global/firewalls/{cause.rule.name}" if cause.rule else ""
    others = [
        (target, type)
        for target, type in scope.store.running(scope.project.key)
        if target.startswith("global/firewalls/") and target != own
    ]
    busy = frozenset(target.rpartition("/")[2] for target, type in others if type == "insert")
    return _Intents(intents(scope, network), cause, busy, not others)


def _plan_groups(scope: Scope, plan: Plan, network: str, members: Sequence[Row], cause: Cause) -> None:
    if cause.rule is None and not any(_by_tag(rule, cause) for rule in intents(scope, network)):
        return
    by_instance = cause.rule is None or bool(cause.rule.targetTags)
    question = {} if by_instance else {"securitygroupname": network_group(network)}
    groups = {row["id"]: row for row in _rows(scope.client.read_all("listSecurityGroups", **question))}
    found = _read_intents(scope, network, cause)
    rules = found.rules
    changed = [cause.rule] if cause.rule else [rule for rule in rules if rule.sourceTags]
    needed = by_instance or any(rule.sourceTags for rule in rules if not rule.targetTags)
    machines = _machines(scope, members, cause) if needed else []

    def compile(rules: Iterable[pb.Firewall]) -> set[Rule]:
        return group_rules(rules, machines)

    if any(not rule.targetTags for rule in changed):
        for row in groups.values():
            if _same_name(row, network_group(network)):
                _plan_group(plan, scope, row, found.wanted(compile, lambda rule: not rule.targetTags))
    by_group: dict[str, list[Machine]] = {}
    for machine in machines:
        for group in machine.groups:
            by_group.setdefault(group, []).append(machine)
    planned: set[str] = set()
    for machine in machines:
        own = [rule for rule in rules if rule.targetTags and applies(rule, machine.tags)]
        if machine.id != cause.machine and not any(rule.targetTags and applies(rule, machine.tags) for rule in changed):
            continue
        told = [rule for rule in own if cause.rule is None or rule.name == cause.rule.name]
        if not machine.groups:
            plan.missed += [rule.name for rule in told]
        for group in machine.groups:
            together = by_group[group]

            # Of a group that several machines are in, none may get what only another one should have.
            def common(rule: pb.Firewall, together: list[Machine] = together) -> bool:
                return bool(rule.targetTags) and all(applies(rule, one.tags) for one in together)

            plan.missed += [rule.name for rule in told if not common(rule)]
            if group in groups and group not in planned:
                planned.add(group)
                is_own = machine.id == cause.machine
                _plan_group(plan, scope, groups[group], found.wanted(compile, common, is_own=is_own))


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
    found = _read_intents(scope, network, cause)
    rules = found.rules
    tags: dict[str, Iterable[str]] = {cause.machine: cause.tags}
    if led and not cause.machine and any(rule.targetTags for rule in (*rules, *((cause.rule,) if cause.rule else ()))):
        tags |= {machine.id: machine.tags for machine in _machines(scope, [member], cause)}
    for row in led:
        have = tags.get(row["virtualmachineid"], ())
        if cause.rule is None or applies(cause.rule, have):

            def matching(rule: pb.Firewall, have: Iterable[str] = have) -> bool:
                return applies(rule, have)

            wanted = found.wanted(address_rules, matching, is_own=bool(cause.machine))
            there = [rule for rule in _rows(firewalls) if rule.get("ipaddressid") == row["id"]]
            _plan_address(plan, scope, row["id"], there, wanted)


# Groups


def network_group(network: str) -> str:
    return f"gce-{network}"


def instance_group(run: Run, name: str) -> str:
    """The name of the group that an operation makes for its new instance, and that no other can have."""
    return f"{_INSTANCE_GROUP}{name}.{run.job_id('group')[-12:]}"


def is_ours(group: str) -> bool:
    return group.lower().startswith("gce-")


def _is_instance_group(name: str) -> bool:
    return name.lower().startswith(_INSTANCE_GROUP)


def _same_name(row: Row, name: str) -> bool:
    """CloudStack ignores case in names of groups (recordings, Surprises 58)."""
    return str(row["name"]).lower() == name.lower()


def _make_group(scope: Scope, name: str, description: str) -> Row:
    """The row of a new group; somebody else, or an earlier try, may have made it already."""
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
    # Names of this process; after a restart they are made again, which tells that they are there.
    known: list[str] = []
    is_new = False

    def find(scope: Scope, shown: str) -> list[Row]:
        nonlocal is_new
        if known:
            rows = _rows(scope.client.read_many([("listSecurityGroups", {"securitygroupname": one}) for one in known]))
            if len(rows) == len(known):
                return rows
        names = [network_group(shown), instance_group(run, name)]
        rows = scope.client.read("listSecurityGroups", securitygroupname=names[0]).items
        shared = next((row for row in rows if _same_name(row, names[0])), None)
        # Who made the network's group a moment ago may not have filled it yet.
        is_new = is_new or shared is None
        if shared is None:
            shared = _make_group(scope, names[0], f"Rules of network {shown}")
        own = _make_group(scope, names[1], f"Rules of instance {name} ({run.name})")
        known[:] = names
        return [shared, own]

    def plan(scope: Scope) -> Plan:
        shown = networks.name_of(scope, network["id"], network.get("name", ""))
        shared, own = find(scope, shown)
        intended = _read_intents(scope, shown, Cause())
        machines: list[Machine] = []
        if any(rule.sourceTags and applies(rule, tags) for rule in intended.rules):
            machines = _machines(scope, [row for row in _members(scope, shown) if _has_groups(scope, row)], Cause())

        def compile(rules: Iterable[pb.Firewall]) -> set[Rule]:
            return group_rules(rules, machines)

        found = Plan(groups=[str(shared["id"]), str(own["id"])])
        common = intended.wanted(compile, lambda rule: not rule.targetTags, is_own=is_new)
        # What is too much in the group of all is seen to by others; this instance waits for what it lacks.
        _plan_group(found, scope, shared, replace(common, touched=set()))
        mine = intended.wanted(compile, lambda rule: bool(rule.targetTags) and applies(rule, tags), is_own=True)
        _plan_group(found, scope, own, mine)
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
            found.made += part.made
            found.missed += part.missed
        return found

    converge(run, step, plan)


def release_instance(run: Run, zone: Zone, name: str, row: Row | None = None) -> None:
    """The instance is gone: so are its groups and its addresses in the rules that have its tags as sources.

    row: of listVirtualMachines with its groups; without one it is the instance that this operation was to make. A group
    that CloudStack still counts as used, because its machine is not expunged, is cleared by one of the next releases.
    """
    if not zone.security_groups:
        return

    def delete(scope: Scope) -> None:
        if row is None:
            rows = scope.client.read("listSecurityGroups", securitygroupname=instance_group(run, name)).items
            own = [group["id"] for group in rows]
        else:
            own = [group["id"] for group in row.get("securitygroup", ()) if _is_instance_group(group["name"])]
        for group in own:
            _delete_group(scope, group)
        _clear_leftovers(scope, {*own})

    def plan(scope: Scope) -> Plan:
        found = Plan()
        here = [row for row in networks.index(scope).rows if row["zoneid"] == zone.id]
        for network in sorted({networks.name_of(scope, row["id"], row["name"]) for row in here}):
            part = _plan(scope, network, _members(scope, network), Cause(sources=True))
            found.deletes += part.deletes
            found.creates += part.creates
            found.made += part.made
        return found

    run.look("release-group", delete)
    converge(run, "release-sources", plan)


def _delete_group(scope: Scope, group: str) -> None:
    """Unless it is gone, or in use."""
    try:
        scope.client.write("deleteSecurityGroup", id=group)
    except CloudStackError as error:
        if error.code not in (431, 536):
            raise
        if error.code == 536:
            return
    claims.forget(scope, group)


def _clear_leftovers(scope: Scope, tried: set[str]) -> None:
    """Delete some groups of instances that are gone: deleted in CloudStack, or expunged since gstack deleted them."""
    try:
        rows = _rows(scope.client.read_all("listSecurityGroups", keyword=_INSTANCE_GROUP))
        unused = [row for row in rows if row["id"] not in tried and _is_instance_group(row["name"])]
        unused = [row for row in unused if not row.get("virtualmachinecount") and not row.get("virtualmachineids")]
        for row in [row for row in unused if not _is_awaited(scope, row)][:_LEFTOVERS]:
            _delete_group(scope, row["id"])
    except CloudStackError as error:
        log.warning("groups_not_cleared", error=str(error))


def _is_awaited(scope: Scope, group: Row) -> bool:
    """Whether an operation is about to put an instance into the group."""
    if match := _OPERATION.search(group.get("description", "")):
        row = scope.store.operation(scope.project.key, match[1])
        return row is not None and row["status"] != "DONE"
    # Made before there were suffixes.
    name = group["name"][len(_INSTANCE_GROUP) :].partition(".")[0]
    return any(target.endswith(f"/instances/{name}") for target, _ in scope.store.running(scope.project.key))


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
