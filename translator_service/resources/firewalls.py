"""Firewalls: rules kept in our store and projected on CloudStack (see projection.py).

What people made in CloudStack is shown too, one firewall for each set of sources: security groups, as firewalls of the
network `default`, their rules in groups of ours, and their rules of public addresses. They change when it is asked for.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import already_exists, invalid, not_found, required, unsupported
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer, Call, all_rows
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce import naming
from translator_service.gce.naming import number
from translator_service.gce.times import UNKNOWN_TIME, rfc3339
from translator_service.kept.store import Duplicate
from translator_service.networking import claims, compiler, convergence, groups, networks, projection
from translator_service.networking.convergence import Plan
from translator_service.operations import engine
from translator_service.operations.run import Run, handler
from translator_service.rpc import rpc
from translator_service.scope import Scope

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


# gcutil 1.16 sends numbers; GCE answers with names.
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp"}


_NAMES = ("tcp", "udp", "icmp", "esp", "ah", "ipip", "sctp", "all")


_ISOLATED = ("tcp", "udp", "icmp", "all")


_EVERYWHERE = "0.0.0.0/0"


# Google's bounds for tags and for ranges; what becomes of the ranges is bounded too, because each port range with each
# source is a rule in a security group, which takes CloudStack a part of a second to make and to delete.
_MAX_TAGS = {"sourceTags": 30, "targetTags": 70}


_MAX_SOURCES = 256


_MAX_PORTS = 64


_MAX_GROUP_RULES = 1000


_DEFAULT_GROUP = "default"


# Begins the names of firewalls that are somebody's rules of a public address.
_ADDRESS = "address-"


# Answers about security groups, and about rules of addresses.
_Answers = tuple[list[Answer], list[Answer]]


_Claimed = Mapping[str, claims.Claims]


# Rules of a request


def normalised(scope: Scope, wanted: pb.Firewall) -> pb.Firewall:
    """The rule as kept, with the GCE name of its network. Raises 400 and 404 for what GCE refuses or no zone can do."""
    naming.check_new_name(wanted.name)
    rule = pb.Firewall()
    rule.CopyFrom(wanted)
    for field in ("id", "creationTimestamp", "selfLink"):
        rule.ClearField(field)
    # Tells it from intents of before there were claims, which had none.
    rule.kind = "compute#firewall"
    rule.direction = wanted.direction or "INGRESS"
    if rule.direction not in ("INGRESS", "EGRESS"):
        raise invalid("resource.direction", f"'{rule.direction}'. Must be INGRESS or EGRESS.")
    rule.disabled = wanted.disabled
    rule.priority = wanted.priority if wanted.HasField("priority") else 1000
    if not 0 <= rule.priority <= 65535:
        raise invalid("resource.priority", f"'{rule.priority}'. Values must be within the range: [0, 65535]")
    network = wanted.network or f"global/networks/{networks.DEFAULT}"
    rule.network = networks.resolve(scope, network, "resource.network")
    if wanted.allowed and wanted.denied:
        raise invalid("resource.denied", "Exactly one of allowed and denied must be specified.")
    if wanted.denied:
        raise unsupported("resource.denied", "deny rules are not supported; ingress that no rule allows is denied.")
    if not wanted.allowed:
        raise required("resource.allowed")
    for field in ("sourceServiceAccounts", "targetServiceAccounts"):
        if getattr(wanted, field):
            raise unsupported(f"resource.{field}", "rules by service account are not supported.")
    _check_direction(rule)
    for field in ("sourceRanges", "destinationRanges"):
        _check_ranges(getattr(rule, field), f"resource.{field}")
    for field in ("sourceTags", "targetTags"):
        for position, tag in enumerate(getattr(rule, field)):
            naming.check_new_name(tag, f"resource.{field}[{position}]")
    for position, allowed in enumerate(rule.allowed):
        _check_allowed(allowed, f"resource.allowed[{position}]")
    sources, ports = _check_size(rule)
    _check_possible(scope, rule, sources, ports)
    return rule


def _check_size(rule: pb.Firewall) -> tuple[int, int]:
    """(sources, ranges of ports) of a rule, neighbours joined. Raises 400 for more than CloudStack can bear."""
    for field, limit in _MAX_TAGS.items():
        if (count := len(getattr(rule, field))) > limit:
            raise invalid(f"resource.{field}", f"{count} tags. At most {limit} are allowed.")
    field = "destinationRanges" if rule.direction == "EGRESS" else "sourceRanges"
    sources = len(compiler.collapsed(getattr(rule, field)))
    if sources > _MAX_SOURCES:
        raise invalid(
            f"resource.{field}", f"{sources} ranges that cannot be joined. At most {_MAX_SOURCES} are allowed."
        )
    ports = sum(map(len, compiler.port_ranges(rule).values()))
    if ports > _MAX_PORTS:
        why = f"{ports} ranges of ports that cannot be joined. At most {_MAX_PORTS} are allowed."
        raise invalid("resource.allowed", why)
    return sources, ports


def _check_direction(rule: pb.Firewall) -> None:
    """Each direction has fields of its own; what is not given is everywhere."""
    if rule.direction == "EGRESS":
        for field in ("sourceRanges", "sourceTags"):
            if getattr(rule, field):
                raise invalid(f"resource.{field}", "Sources can be specified for INGRESS rules only.")
        if not rule.destinationRanges:
            rule.destinationRanges.append(_EVERYWHERE)
        return
    if rule.destinationRanges:
        raise invalid("resource.destinationRanges", "Destinations can be specified for EGRESS rules only.")
    if not rule.sourceRanges and not rule.sourceTags:
        rule.sourceRanges.append(_EVERYWHERE)


def _check_ranges(ranges: Any, field: str) -> None:
    found = []
    for position, text in enumerate(ranges):
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError:
            why = f"'{text}'. Must be a valid CIDR address range, without bits behind its prefix."
            raise invalid(f"{field}[{position}]", why) from None
    if len({network.version for network in found}) > 1:
        raise invalid(field, "IPv4 and IPv6 ranges cannot be mixed in one rule.")
    ranges[:] = list(dict.fromkeys(str(network) for network in found))


def _check_allowed(allowed: Any, field: str) -> None:
    protocol = allowed.IPProtocol.lower()
    if not protocol:
        raise required(f"{field}.IPProtocol")
    if protocol.isascii() and protocol.isdigit() and len(protocol) <= 3 and int(protocol) <= 255:
        protocol = str(int(protocol))
    elif protocol not in _NAMES:
        why = f"'{allowed.IPProtocol}'. Must be one of {', '.join(_NAMES)} or a number from 0 to 255."
        raise invalid(f"{field}.IPProtocol", why)
    protocol = allowed.IPProtocol = _PROTOCOLS.get(protocol, protocol)
    if allowed.ports and protocol not in ("tcp", "udp", "sctp"):
        why = "Ports may only be specified on rules whose protocol is one of [TCP, UDP, SCTP]."
        raise invalid(f"{field}.ports", why)
    for position, text in enumerate(allowed.ports):
        match = _PORTS.fullmatch(text)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        # GCE's own default rules have 0-65535, which is all ports.
        if not (first <= last and 1 <= last <= 65535):
            why = f"'{text}'. Must be a port or a range of ports between 1 and 65535, such as 80 or 8000-8080."
            raise invalid(f"{field}.ports[{position}]", why)


def _check_possible(scope: Scope, rule: pb.Firewall, sources: int, ports: int) -> None:
    """Refuse what a zone of the network cannot express, so that no rule silently does less."""
    if rule.direction == "EGRESS":
        return
    for row in networks.members(scope, rule.network):
        zone = places.zone_by_id(scope, row["zoneid"])
        grouped = zone is not None and zone.security_groups
        if row.get("vpcid"):
            raise unsupported("resource.network", f"network '{rule.network}' has no firewalls.")
        if grouped and sources * ports > _MAX_GROUP_RULES:
            field = "resource.sourceRanges" if sources >= ports else "resource.allowed"
            why = (
                f"{sources} sources for {ports} ranges of ports. In network '{rule.network}' a rule may have at most"
                f" {_MAX_GROUP_RULES} of both multiplied."
            )
            raise invalid(field, why)
        if not grouped and any(":" in text for text in rule.sourceRanges):
            raise unsupported("resource.sourceRanges", f"network '{rule.network}' has no IPv6.")
        for position, allowed in enumerate(rule.allowed):
            field = f"resource.allowed[{position}]"
            if grouped and allowed.IPProtocol == "sctp" and allowed.ports:
                raise unsupported(f"{field}.ports", f"network '{rule.network}' cannot tell ports of sctp apart.")
            if not grouped and allowed.IPProtocol not in _ISOLATED:
                why = f"network '{rule.network}' can only filter {', '.join(_ISOLATED)}."
                raise unsupported(f"{field}.IPProtocol", why)


# Mapping


def to_firewall(scope: Scope, rule: pb.Firewall, created: str, identity: str) -> pb.Firewall:
    """A kept rule as a client sees it. identity: what its id is made of."""
    shown = pb.Firewall()
    shown.CopyFrom(rule)
    shown.kind = "compute#firewall"
    shown.id = number(identity)
    shown.creationTimestamp = created
    shown.network = networks.link(scope, rule.network)
    shown.selfLink = scope.links.of("global", "firewalls", rule.name)
    shown.logConfig.enable = False
    return shown


def _intent(scope: Scope, row: Any) -> pb.Firewall:
    identity = f"firewall/{scope.project.key}/{row['name']}/{row['created']}"
    return to_firewall(scope, pb.Firewall.FromString(row["rule"]), rfc3339(row["created"]), identity)


@dataclass(frozen=True)
class Foreign:
    """A part of what was made elsewhere in a security group or at an address. rules: ids of CloudStack's rules."""

    firewall: pb.Firewall
    target: str
    is_address: bool
    rules: tuple[str, ...]


def foreign(
    scope: Scope,
    rows: Iterable[Row],
    kept: Sequence[pb.Firewall] = (),
    claimed: Mapping[str, claims.Claims] | None = None,
) -> list[Foreign]:
    """What others made, one firewall for each set of sources. rows: of groups, and of `address_rows`.

    kept: our own rules; claimed: which of CloudStack's rules are ours.
    """
    taken = {rule.name for rule in kept}
    has_older = any(not rule.kind for rule in kept)
    others = [_without_ours(row, claimed or {}, has_older) for row in rows]
    found = []
    for name, row in scope.environment.index(others):
        for sources, rules in _by_sources(row):
            # Of the sources alone: a name stays when other rules of the group come or go.
            is_open = sources == [_EVERYWHERE]
            suffix = hashlib.sha256(",".join(sources).encode()).hexdigest()[:8]
            rule = pb.Firewall(
                name=name if is_open and name not in taken else naming.with_suffix(name, suffix),
                description=row.get("description", ""),
                network=row.get("network", networks.DEFAULT),
                priority=1000,
                direction="INGRESS",
                disabled=False,
                sourceRanges=sources,
                allowed=_allowed(rules),
            )
            shown = to_firewall(scope, rule, UNKNOWN_TIME, row["id"] if is_open else f"{row['id']}/{suffix}")
            identities = tuple(dict.fromkeys(one["ruleid"] for one in rules))
            found.append(Foreign(shown, row["id"], "network" in row, identities))
    return found


def _without_ours(row: Row, claimed: Mapping[str, claims.Claims], has_older: bool) -> Row:
    """A group or an address with the rules that we did not make. Of a group made elsewhere these are all.

    has_older: there are intents from before there were claims. Until a target has been seen since, its rules may be
    theirs, so none is taken for somebody else's.
    """
    if "network" not in row and not groups.is_ours(row["name"]):
        return row
    known = claimed.get(row["id"])
    if known is None and has_older:
        return {**row, "ingressrule": []}
    rules = row.get("ingressrule", ())
    by_id: dict[str, set[str]] = {}
    for rule in rules:
        by_id.setdefault(rule["ruleid"], set()).update(compiler.contents_of(rule))
    others = {identity for identity, contents in by_id.items() if not claims.is_ours(known or {}, identity, contents)}
    return {**row, "ingressrule": [rule for rule in rules if rule["ruleid"] in others]}


def address_rows(scope: Scope, rows: Iterable[Row]) -> list[Row]:
    """Rows of listFirewallRules by address, each like a security group."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.get("state") == "Revoke" or not row.get("ipaddressid"):
            continue
        text = row.get("ipaddress", "")
        address = found.setdefault(
            row["ipaddressid"],
            {
                "id": row["ipaddressid"],
                "name": f"{_ADDRESS}{re.sub('[.:]', '-', text)}",
                "description": f"Rules of address {text}",
                "network": networks.name_of(scope, row.get("networkid", ""), ""),
                "ingressrule": [],
            },
        )
        for rule in sorted(compiler.rules_of_row(row)):
            ports = {"startport": rule.start, "endport": rule.end}
            types = {"icmptype": rule.start, "icmpcode": rule.end}
            numbers = types if rule.protocol == "icmp" else ports
            part = {"ruleid": row["id"], "protocol": rule.protocol, "cidr": rule.source, **numbers}
            address["ingressrule"].append(part)
    return list(found.values())


def _by_sources(group: Row) -> list[tuple[list[str], list[Row]]]:
    """(sources, rules) of a group, the ports with the same sources together, in the order of the rules."""
    by_port: dict[tuple[str, str], list[Row]] = {}
    for rule in group.get("ingressrule", ()):
        if rule.get("cidr"):
            by_port.setdefault((_protocol(rule), _port(rule)), []).append(rule)
    found: dict[tuple[str, ...], list[Row]] = {}
    for rules in by_port.values():
        found.setdefault(tuple(sorted({rule["cidr"] for rule in rules})), []).extend(rules)
    return [(list(sources), rules) for sources, rules in found.items()]


def _allowed(rules: Iterable[Row]) -> list[pb.Firewall.Allowed]:
    ports: dict[str, list[str]] = {}
    for rule in rules:
        ports.setdefault(_protocol(rule), []).append(_port(rule))
    # One rule for all ports makes the other ports of its protocol redundant.
    return [
        pb.Firewall.Allowed(IPProtocol=protocol, ports=[] if "" in some else dict.fromkeys(some))
        for protocol, some in ports.items()
    ]


def _protocol(rule: Row) -> str:
    protocol = str(rule.get("protocol", "all")).lower()
    return _PROTOCOLS.get(protocol, protocol)


def _port(rule: Row) -> str:
    if _protocol(rule) not in ("tcp", "udp") or not {"startport", "endport"} <= rule.keys():
        return ""
    start, end = int(rule["startport"]), int(rule["endport"])
    if start <= 1 and end == 65535:
        return ""
    return str(start) if start == end else f"{start}-{end}"


# Reading


def _read_foreign(scope: Scope, *, addresses: bool = True) -> _Answers:
    """Security groups and rules of addresses, each asked for only where a zone has them."""
    every = places.all_zones(scope)
    has_groups = any(zone.security_groups for zone in every)
    has_addresses = addresses and not all(zone.security_groups for zone in every)
    asked = (("listSecurityGroups", has_groups), ("listFirewallRules", has_addresses))
    calls: list[Call] = [(command, {}) for command, is_asked in asked if is_asked]
    found = iter(scope.client.read_all_many(calls) if calls else ())
    return next(found) if has_groups else [], next(found) if has_addresses else []


def _all_foreign(scope: Scope, answers: _Answers, kept: Iterable[Any], claimed: _Claimed) -> list[Foreign]:
    """kept: the rows of our own rules."""
    groups, addresses = answers
    rows = [*all_rows(groups), *address_rows(scope, all_rows(addresses))]
    return foreign(scope, rows, [pb.Firewall.FromString(row["rule"]) for row in kept], claimed)


def _find_intent(scope: Scope, text: str) -> Any:
    """The row of the rule with this name or number, None when there is none."""
    row = scope.store.firewall(scope.project.key, text)
    if row is None and text.isdigit():
        rows = scope.store.list_firewalls(scope.project.key)
        return next((row for row in rows if str(_intent(scope, row).id) == text), None)
    return row


def _find_foreign(scope: Scope, some: Iterable[Foreign], text: str) -> Foreign:
    for found in some:
        if text in (found.firewall.name, str(found.firewall.id)):
            return found
    raise not_found(scope.links.path("global", "firewalls", text))


_DIFFERENCES = (
    "Security groups made elsewhere are shown as firewalls of network `default`, one for each set of sources, although"
    " they concern only the instances in the group; so are rules that others put into groups of gstack, and rules that"
    " they made at public addresses, as firewalls named `address-...`. Egress rules, rules whose source is a group and"
    " types of icmp are not shown."
)


_READ = ("listSecurityGroups", "listFirewallRules", "listZones")


def _state(kept: Iterable[Any], claimed: _Claimed) -> tuple[Any, ...]:
    """What else a reply about firewalls depends on."""
    return tuple((row["name"], row["created"]) for row in kept), claims.digest(claimed)


def _sources(scope: Scope, answers: _Answers) -> list[Answer | Entry]:
    """Rules of addresses name their networks."""
    groups, addresses = answers
    return [*groups, *addresses, scope.catalog(networks.kind(scope))] if addresses else [*groups]


def _get(scope: Scope, place: None, name: str) -> Reading[Message]:
    row = _find_intent(scope, name)
    if row is not None:
        return Reading(lambda: _intent(scope, row))
    answers, claimed = _read_foreign(scope), claims.of_project(scope)
    kept = scope.store.list_firewalls(scope.project.key)
    return Reading(
        lambda: _find_foreign(scope, _all_foreign(scope, answers, kept, claimed), name).firewall,
        _sources(scope, answers),
        _state(kept, claimed),
    )


def _read(scope: Scope, place: None) -> Reading[Items]:
    answers, claimed = _read_foreign(scope), claims.of_project(scope)
    kept = scope.store.list_firewalls(scope.project.key)

    def build() -> Items:
        mine = [_intent(scope, row) for row in kept]
        others = [found.firewall for found in _all_foreign(scope, answers, kept, claimed)]
        return [("", firewall) for firewall in (*mine, *others)]

    return Reading(build, _sources(scope, answers), _state(kept, claimed))


def effective(scope: Scope, network: str, tags: Iterable[str], targets: Collection[str]) -> list[pb.Firewall]:
    """The firewalls that apply in a network to a machine with these tags. targets: ids of its security groups, and of
    its public address, where others may have made rules."""
    answers, kept = _read_foreign(scope), scope.store.list_firewalls(scope.project.key)
    own = [(row, pb.Firewall.FromString(row["rule"])) for row in kept if row["network"] == network]
    mine = [_intent(scope, row) for row, rule in own if not rule.disabled and compiler.applies(rule, tags)]
    others = _all_foreign(scope, answers, kept, claims.of_project(scope))
    return mine + [found.firewall for found in others if found.target in targets]


gets("Firewalls", _get, calls=_READ, differences=_DIFFERENCES)
lists("Firewalls", _read, calls=_READ, differences=_DIFFERENCES)


# Changing

_APPLIED = (
    "listSecurityGroups", "authorizeSecurityGroupIngress", "revokeSecurityGroupIngress", "listVirtualMachines",
    "listPublicIpAddresses", "listFirewallRules", "createFirewallRule", "deleteFirewallRule",
)  # fmt: skip


@rpc(
    "Firewalls.Insert",
    calls=("listNetworks", "listZones", *_APPLIED),
    differences="Deny rules, rules by service account and logging are refused, as is what a zone of the network cannot"
    " do: ports of sctp in zones with security groups, other protocols than tcp, udp and icmp and IPv6 in isolated"
    " networks. Egress rules that allow are kept and change nothing: the offering of an isolated network and its rules"
    " in CloudStack decide what it lets out (`GSTACK_OPEN_EGRESS`). Priorities are kept and change nothing without"
    " deny rules. Traffic inside an isolated network is always open. In zones with security groups rules reach the"
    f" instances that were created here. Rules have at most {_MAX_SOURCES} sources and {_MAX_PORTS} ranges of ports,"
    f" counted after neighbours were joined, and in zones with security groups at most {_MAX_GROUP_RULES} of both"
    " multiplied. What a rule made in CloudStack already lets through is not made once more.",
)
def insert(scope: Scope, request: pb.InsertFirewallRequest) -> Message:
    rule = normalised(scope, request.resource)
    path = f"global/firewalls/{rule.name}"
    others = _read_foreign(scope, addresses=rule.name.startswith(_ADDRESS))
    if any(found.firewall.name == rule.name for found in _all_foreign(scope, others, (), claims.of_project(scope))):
        raise already_exists(scope.links.path(path))
    content = rule.SerializeToString(deterministic=True)
    try:
        scope.store.add_firewall(scope.project.key, rule.name, rule.network, content)
    except Duplicate:
        raise already_exists(scope.links.path(path)) from None
    try:
        return _submit(scope, "insert", scope.store.firewall(scope.project.key, rule.name))
    except Exception:
        scope.store.delete_firewall(scope.project.key, rule.name)
        raise


def _submit(scope: Scope, type: str, row: Any) -> Message:
    """An operation on a rule of ours."""
    path = f"global/firewalls/{row['name']}"
    payload = {"name": row["name"], "network": row["network"], "rule": row["rule"].hex(), "created": row["created"]}
    identity = _intent(scope, row).id
    return engine.submit(
        scope, type=type, target=path, target_id=identity, handler=f"firewalls.{type}", payload=payload
    )


@rpc(
    "Firewalls.Delete",
    calls=(*_APPLIED, "deleteSecurityGroup"),
    differences="Of what was made elsewhere the rules are deleted, and a security group when it is empty and unused.",
)
def delete(scope: Scope, request: pb.DeleteFirewallRequest) -> Message:
    row = _find_intent(scope, request.firewall)
    if row is not None:
        return _submit(scope, "delete", row)
    kept = scope.store.list_firewalls(scope.project.key)
    some = _all_foreign(scope, _read_foreign(scope), kept, claims.of_project(scope))
    found = _find_foreign(scope, some, request.firewall)
    target = {"address": found.target} if found.is_address else {"group": found.target}
    return engine.submit(
        scope,
        type="delete",
        target=f"global/firewalls/{found.firewall.name}",
        target_id=found.firewall.id,
        handler="firewalls.deleteForeign",
        payload={**target, "rules": list(found.rules)},
    )


def _forget(run: Run) -> bool:
    """Delete the operation's own intent, not one that has taken its name since."""
    store, owner, name = run.scope.store, run.scope.project.key, run.payload["name"]
    row = store.firewall(owner, name)
    return row is not None and row["created"] == run.payload["created"] and store.delete_firewall(owner, name)


@handler("firewalls.insert")
def do_insert(run: Run) -> None:
    """When the rule cannot be applied it does not stay either."""
    rule = pb.Firewall.FromString(bytes.fromhex(run.payload["rule"]))
    try:
        projection.refresh_network(run, "apply", run.payload["network"], rule)
    except (CloudStackError, Unreachable):
        run.step("forget", lambda: _forget(run))
        try:
            projection.refresh_network(run, "undo", run.payload["network"], rule)
        except (CloudStackError, Unreachable):
            run.warn("CLEANUP_FAILED", "A part of the rule could not be taken away again.")
        raise


@handler("firewalls.delete")
def do_delete(run: Run) -> None:
    """The intent goes first: whoever projects in between already leaves it out. It comes back when its rules remain."""
    rule = pb.Firewall.FromString(bytes.fromhex(run.payload["rule"]))
    if not run.step("forget", lambda: _forget(run)):
        return
    try:
        projection.refresh_network(run, "apply", run.payload["network"], rule)
    except (CloudStackError, Unreachable):
        run.step("restore", lambda: _restore(run))
        raise


def _restore(run: Run) -> None:
    content = bytes.fromhex(run.payload["rule"])
    try:
        run.scope.store.add_firewall(run.scope.project.key, run.payload["name"], run.payload["network"], content)
    except Duplicate:
        pass


@handler("firewalls.deleteForeign")
def do_delete_foreign(run: Run) -> None:
    """Exactly the rules that were shown; then the group, if nothing else is in it and nobody uses it."""
    rules = run.payload["rules"]
    if address := run.payload.get("address"):
        _delete_at_address(run, address, rules)
        return
    group = run.payload["group"]

    def plan(scope: Scope) -> Plan:
        there = {rule["ruleid"] for row in _group(scope, group) for rule in row.get("ingressrule", ())}
        calls = [(rule, "revokeSecurityGroupIngress", {"id": rule}) for rule in rules if rule in there]
        return Plan(deletes=calls)

    def clear(scope: Scope) -> None:
        for row in _group(scope, group):
            empty = not row.get("ingressrule") and not row.get("egressrule")
            is_kept = row["name"].lower() == _DEFAULT_GROUP or groups.is_ours(row["name"])
            if empty and not is_kept and not row.get("virtualmachinecount"):
                try:
                    scope.client.write("deleteSecurityGroup", id=group)
                except CloudStackError as error:
                    # Somebody else was quicker, or uses it in a rule.
                    if error.code not in (431, 536):
                        raise

    convergence.converge(run, "revoke", plan)
    run.look("delete-group", clear)


def _delete_at_address(run: Run, address: str, rules: list[str]) -> None:
    def plan(scope: Scope) -> Plan:
        try:
            answers = scope.client.read_all("listFirewallRules", ipaddressid=address)
        except CloudStackError as error:
            if error.code != 431:
                raise
            answers = []
        there = {row["id"] for row in all_rows(answers) if row.get("state") != "Revoke"}
        return Plan(deletes=[(rule, "deleteFirewallRule", {"id": rule}) for rule in rules if rule in there])

    convergence.converge(run, "delete", plan)


def _group(scope: Scope, identity: str) -> list[Row]:
    """The group, if it still is there; CloudStack refuses ids that it no longer knows (recordings, Surprises 33)."""
    try:
        return scope.client.read("listSecurityGroups", id=identity).items
    except CloudStackError as error:
        if error.code != 431:
            raise
        return []
