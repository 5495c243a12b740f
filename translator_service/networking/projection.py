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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import places
from translator_service.cloudstack.client import Call, all_rows
from translator_service.cloudstack.rows import Row
from translator_service.kept import details as kept
from translator_service.networking import networks
from translator_service.networking.compiler import Machine, Rule, address_rules, applies, group_rules, opens
from translator_service.networking.convergence import Plan, Wanted, converge, plan_address, plan_group
from translator_service.networking.groups import (
    clear_leftovers,
    delete_group,
    instance_group,
    is_instance_group,
    make_group,
    network_group,
    same_name,
)
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.scope import Scope

_GONE = ("Destroyed", "Expunging", "Error")


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


def tags_of(row: Row) -> list[str]:
    found = kept.unpack(row.get("details") or {}, kept.TAGS, [])
    return [str(tag) for tag in found] if isinstance(found, list) else []


def _machines(scope: Scope, members: Sequence[Row], cause: Cause) -> list[Machine]:
    """The machines in these networks; the one of the cause has the cause's tags."""
    calls: list[Call] = [
        ("listVirtualMachines", {"networkid": member["id"], "details": "nics,secgrp"}) for member in members
    ]
    inside = {member["id"] for member in members}
    found: dict[str, Machine] = {}
    for row in (row for answers in scope.client.read_all_many(calls) for row in all_rows(answers)):
        if row.get("state") in _GONE:
            continue
        tags = cause.tags if row["id"] == cause.machine else tags_of(row)
        addresses = [nic.get("ipaddress", "") for nic in row.get("nic", ()) if nic.get("networkid") in inside]
        groups = [group["id"] for group in row.get("securitygroup", ()) if is_instance_group(group["name"])]
        found[row["id"]] = Machine(
            row["id"], frozenset(tags), tuple(address for address in addresses if address), tuple(groups)
        )
    return list(found.values())


# The difference


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
    zone = places.zone_by_id(scope, network["zoneid"])
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
    groups = {row["id"]: row for row in all_rows(scope.client.read_all("listSecurityGroups", **question))}
    found = _read_intents(scope, network, cause)
    rules = found.rules
    changed = [cause.rule] if cause.rule else [rule for rule in rules if rule.sourceTags]
    needed = by_instance or any(rule.sourceTags for rule in rules if not rule.targetTags)
    machines = _machines(scope, members, cause) if needed else []

    def compile(rules: Iterable[pb.Firewall]) -> set[Rule]:
        return group_rules(rules, machines)

    if any(not rule.targetTags for rule in changed):
        for row in groups.values():
            if same_name(row, network_group(network)):
                plan_group(plan, scope, row, found.wanted(compile, lambda rule: not rule.targetTags))
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
                plan_group(plan, scope, groups[group], found.wanted(compile, common, is_own=is_own))


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
    led = [row for row in all_rows(addresses) if row.get("isstaticnat") and row.get("virtualmachineid")]
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
            there = [rule for rule in all_rows(firewalls) if rule.get("ipaddressid") == row["id"]]
            plan_address(plan, scope, row["id"], there, wanted)


# Groups


def groups_for_deploy(run: Run, zone: Zone, network: Row, name: str, tags: list[str]) -> list[str]:
    """Ids of the groups that a new instance gets, with their rules already in place."""
    # Names of this process; after a restart they are made again, which tells that they are there.
    known: list[str] = []
    is_new = False

    def find(scope: Scope, shown: str) -> list[Row]:
        nonlocal is_new
        if known:
            rows = all_rows(
                scope.client.read_many([("listSecurityGroups", {"securitygroupname": one}) for one in known])
            )
            if len(rows) == len(known):
                return rows
        names = [network_group(shown), instance_group(run, name)]
        rows = scope.client.read("listSecurityGroups", securitygroupname=names[0]).items
        shared = next((row for row in rows if same_name(row, names[0])), None)
        # Who made the network's group a moment ago may not have filled it yet.
        is_new = is_new or shared is None
        if shared is None:
            shared = make_group(scope, names[0], f"Rules of network {shown}")
        own = make_group(scope, names[1], f"Rules of instance {name} ({run.name})")
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
        plan_group(found, scope, shared, replace(common, touched=set()))
        mine = intended.wanted(compile, lambda rule: bool(rule.targetTags) and applies(rule, tags), is_own=True)
        plan_group(found, scope, own, mine)
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
            own = [group["id"] for group in row.get("securitygroup", ()) if is_instance_group(group["name"])]
        for group in own:
            delete_group(scope, group)
        clear_leftovers(scope, {*own})

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
