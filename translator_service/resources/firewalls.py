"""Firewalls: rules kept in our store and projected on CloudStack (see projection.py).

Security groups made elsewhere are shown as firewalls of the network `default`, one for each set of sources.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import already_exists, invalid, not_found, required, unsupported
from translator_service import lists, naming, projection
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import CloudStackError
from translator_service.naming import Row, number
from translator_service.operations import engine
from translator_service.operations.engine import Run, handler
from translator_service.operations.render import UNKNOWN_TIME, rfc3339
from translator_service.resources import networks, zones
from translator_service.rpc import rpc
from translator_service.scope import Scope
from translator_service.store import Duplicate

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
# Numbers of gcutil to names; GCE answers with names too.
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "50": "esp", "51": "ah", "94": "ipip", "132": "sctp"}
_NAMES = ("tcp", "udp", "icmp", "esp", "ah", "ipip", "sctp", "all")
_NUMBERS = {name: value for value, name in _PROTOCOLS.items()}
_ISOLATED = ("tcp", "udp", "icmp", "all")


# Rules of a request


def normalised(scope: Scope, wanted: pb.Firewall) -> tuple[pb.Firewall, str]:
    """(the rule as kept, GCE name of its network). Raises 400 and 404 for what GCE refuses or no zone can do."""
    naming.check_new_name(wanted.name)
    rule = pb.Firewall()
    rule.CopyFrom(wanted)
    for field in ("kind", "id", "creationTimestamp", "selfLink"):
        rule.ClearField(field)  # type: ignore[arg-type]
    rule.direction = wanted.direction or "INGRESS"
    rule.disabled = wanted.disabled
    rule.priority = wanted.priority if wanted.HasField("priority") else 1000
    if not 0 <= rule.priority <= 65535:
        raise invalid("resource.priority", f"'{rule.priority}'. Must be between 0 and 65535")
    network = networks.resolve(scope, wanted.network or f"global/networks/{networks.DEFAULT}", "resource.network")
    rule.network = network
    if bool(wanted.allowed) == bool(wanted.denied):
        raise (
            required("resource.allowed")
            if not wanted.allowed
            else invalid("resource.denied", "Exactly one of allowed and denied must be specified.")
        )
    if wanted.denied:
        raise unsupported("resource.denied", "deny rules are not supported; what no rule allows is denied already.")
    for field in ("sourceServiceAccounts", "targetServiceAccounts"):
        if getattr(wanted, field):
            raise unsupported(f"resource.{field}", "rules by service account are not supported.")
    if wanted.logConfig.enable:
        raise unsupported("resource.logConfig.enable", "logging of rules is not supported.")
    _check_direction(rule)
    _check_ranges(rule.sourceRanges, "resource.sourceRanges")
    _check_ranges(rule.destinationRanges, "resource.destinationRanges")
    for field in ("sourceTags", "targetTags"):
        for position, tag in enumerate(getattr(rule, field)):
            naming.check_new_name(tag, f"resource.{field}[{position}]")
    for position, allowed in enumerate(rule.allowed):
        _check_allowed(allowed, f"resource.allowed[{position}]")
    _check_possible(scope, rule, network)
    return rule, network


def _check_direction(rule: pb.Firewall) -> None:
    if rule.direction == "EGRESS":
        if rule.sourceRanges or rule.sourceTags:
            field = "sourceRanges" if rule.sourceRanges else "sourceTags"
            raise invalid(f"resource.{field}", "An EGRESS rule has no sources.")
        if not rule.destinationRanges:
            rule.destinationRanges.append("0.0.0.0/0")
        return
    if rule.destinationRanges:
        raise invalid("resource.destinationRanges", "An INGRESS rule has no destinations.")
    if not rule.sourceRanges and not rule.sourceTags:
        rule.sourceRanges.append("0.0.0.0/0")


def _check_ranges(ranges: Any, field: str) -> None:
    for position, text in enumerate(ranges):
        try:
            ranges[position] = str(ipaddress.ip_network(text))
        except ValueError:
            why = f"'{text}'. Must be a valid CIDR address range."
            raise invalid(f"{field}[{position}]", why) from None


def _check_allowed(allowed: Any, field: str) -> None:
    protocol = allowed.IPProtocol.lower()
    protocol = _PROTOCOLS.get(protocol, protocol)
    if not protocol:
        raise required(f"{field}.IPProtocol")
    if protocol not in _NAMES and not (protocol.isdigit() and int(protocol) <= 255):
        raise invalid(f"{field}.IPProtocol", f"'{allowed.IPProtocol}'. Must be a well-known protocol or a number.")
    allowed.IPProtocol = protocol
    if allowed.ports and protocol not in ("tcp", "udp", "sctp"):
        raise invalid(f"{field}.ports", f"Ports may not be specified for protocol '{protocol}'.")
    for position, text in enumerate(allowed.ports):
        match = _PORTS.fullmatch(text)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 65535:
            why = f"'{text}'. Must be a port or a range of ports between 1 and 65535, such as 80 or 8000-8080."
            raise invalid(f"{field}.ports[{position}]", why)


def _check_possible(scope: Scope, rule: pb.Firewall, network: str) -> None:
    """Refuse what a zone of the network cannot express, so that no rule silently does less."""
    if rule.direction == "EGRESS":
        return
    for row in networks.members(scope, network):
        zone = zones.by_id(scope, row["zoneid"])
        for position, allowed in enumerate(rule.allowed):
            field = f"resource.allowed[{position}]"
            if zone is not None and zone.security_groups:
                if allowed.IPProtocol == "sctp" and allowed.ports:
                    raise unsupported(f"{field}.ports", f"zone '{zone.name}' cannot filter ports of sctp.")
            elif allowed.IPProtocol not in _ISOLATED:
                why = f"network '{network}' can only filter tcp, udp and icmp."
                raise unsupported(f"{field}.IPProtocol", why)
        if zone is not None and not zone.security_groups and any(":" in text for text in rule.sourceRanges):
            raise unsupported("resource.sourceRanges", f"network '{network}' has no IPv6.")


# Mapping


def to_firewall(scope: Scope, rule: pb.Firewall, created: str, identity: str) -> pb.Firewall:
    """A kept rule as a client sees it."""
    shown = pb.Firewall()
    shown.CopyFrom(rule)
    shown.kind = "compute#firewall"
    shown.id = number(identity)
    shown.creationTimestamp = created
    shown.network = scope.links.of("global", "networks", rule.network)
    shown.selfLink = scope.links.of("global", "firewalls", rule.name)
    shown.logConfig.enable = False
    return shown


def _intent(scope: Scope, row: Any) -> pb.Firewall:
    rule = pb.Firewall.FromString(row["rule"])
    return to_firewall(
        scope, rule, rfc3339(row["created"]), f"firewall/{scope.project.key}/{rule.name}/{row['created']}"
    )


def foreign(scope: Scope, rows: list[Row]) -> list[tuple[pb.Firewall, str, list[str]]]:
    """Security groups made elsewhere: (firewall, group id, ids of its rules), one for each set of sources."""
    groups = [row for row in rows if not projection.is_ours(row["name"])]
    found = []
    for name, row in scope.environment.index(groups):
        ports: dict[tuple[str, str], dict[str, list[str]]] = {}
        for rule in row.get("ingressrule", []):
            if rule.get("cidr"):
                key = (_protocol_name(str(rule.get("protocol", "all"))), _port_text(rule))
                ports.setdefault(key, {}).setdefault(rule["cidr"], []).append(rule["ruleid"])
        by_sources: dict[tuple[str, ...], list[tuple[tuple[str, str], list[str]]]] = {}
        for key, sources in ports.items():
            ids = [identity for rules in sources.values() for identity in rules]
            by_sources.setdefault(tuple(sorted(sources)), []).append((key, ids))
        for position, (sources_, entries) in enumerate(sorted(by_sources.items())):
            suffix = hashlib.sha256(",".join(sources_).encode()).hexdigest()[:8]
            shown = name if position == 0 else naming.with_suffix(name, suffix)
            rule_ = pb.Firewall(
                name=shown,
                description=row.get("description", ""),
                network=networks.DEFAULT,
                priority=1000,
                direction="INGRESS",
                disabled=False,
                sourceRanges=list(sources_),
            )
            allowed: dict[str, list[str]] = {}
            for (protocol, port), _ in entries:
                allowed.setdefault(protocol, []).extend([port] if port else [])
            for protocol, texts in sorted(allowed.items()):
                rule_.allowed.add(IPProtocol=protocol, ports=sorted(texts))
            ids = [identity for _, some in entries for identity in some]
            key_ = row["id"] if position == 0 else f"{row['id']}/{suffix}"
            found.append((to_firewall(scope, rule_, UNKNOWN_TIME, key_), str(row["id"]), ids))
    return found


def _protocol_name(text: str) -> str:
    return _PROTOCOLS.get(text, text)


def _port_text(rule: Row) -> str:
    if rule.get("protocol") not in ("tcp", "udp") or "startport" not in rule:
        return ""
    start, end = rule["startport"], rule["endport"]
    if (start, end) in ((0, 65535), (1, 65535)):
        return ""
    return str(start) if start == end else f"{start}-{end}"


def _groups(scope: Scope) -> list[Answer]:
    """Security groups, asked for only where a zone has them."""
    if not any(zone.security_groups for zone in zones.all_zones(scope)):
        return []
    return scope.client.read_all("listSecurityGroups")


def _rows(answers: list[Answer]) -> list[Row]:
    return [row for answer in answers for row in answer.items]


# Methods

_DIFFERENCES = (
    "Security groups made elsewhere are shown as firewalls of network `default`, one for each set of sources; rules whose "
    "source is a group are not shown."
)


@rpc("Firewalls.Get", calls=("listSecurityGroups",), differences=_DIFFERENCES)
def get(scope: Scope, request: pb.GetFirewallRequest) -> Message:
    row = scope.store.firewall(scope.project.key, request.firewall)
    if row is not None:
        return _intent(scope, row)
    if request.firewall.isdigit():
        for row in scope.store.list_firewalls(scope.project.key):
            if _intent(scope, row).id == int(request.firewall):
                return _intent(scope, row)
    return _find_foreign(scope, request.firewall)[0]


def _find_foreign(scope: Scope, name: str) -> tuple[pb.Firewall, str, list[str]]:
    for found in foreign(scope, _rows(_groups(scope))):
        if name in (found[0].name, str(found[0].id)):
            return found
    raise not_found(scope.links.path("global", "firewalls", name))


@rpc("Firewalls.List", calls=("listSecurityGroups",), differences=_DIFFERENCES)
def list_(scope: Scope, request: pb.ListFirewallsRequest) -> Any:
    answers = _groups(scope)
    kept = scope.store.list_firewalls(scope.project.key)

    def build() -> Message:
        mine = [_intent(scope, row) for row in kept]
        names = {rule.name for rule in mine}
        others = [rule for rule, _, _ in foreign(scope, _rows(answers)) if rule.name not in names]
        return lists.page(scope, request, [*mine, *others], pb.FirewallList, "global/firewalls")

    return scope.reply(list(answers), request, build, tuple((row["name"], row["created"]) for row in kept))


@rpc(
    "Firewalls.Insert",
    calls=("listNetworks", "listSecurityGroups", "createSecurityGroup", "authorizeSecurityGroupIngress",
           "listFirewallRules", "createFirewallRule"),
    differences="Deny rules, rules by service account and logging are refused. Egress rules that allow are kept; egress "
    "is open anyway. Priorities are kept; without deny rules they change nothing.",
)  # fmt: skip
def insert(scope: Scope, request: pb.InsertFirewallRequest) -> Message:
    rule, network = normalised(scope, request.resource)
    path = f"global/firewalls/{rule.name}"
    if any(found.name == rule.name for found, _, _ in foreign(scope, _rows(_groups(scope)))):
        raise already_exists(scope.links.path(path))
    try:
        scope.store.add_firewall(scope.project.key, rule.name, network, rule.SerializeToString())
    except Duplicate:
        raise already_exists(scope.links.path(path)) from None
    row = scope.store.firewall(scope.project.key, rule.name)
    identity = _intent(scope, row).id if row else 0
    payload = {"network": network, "rule": rule.SerializeToString().hex()}
    return engine.submit(
        scope, type="insert", target=path, target_id=identity, handler="firewalls.insert", payload=payload
    )


@handler("firewalls.insert")
def do_insert(run: Run) -> None:
    """When the rule cannot be applied it does not stay either."""
    rule = pb.Firewall.FromString(bytes.fromhex(run.payload["rule"]))
    if rule.disabled or rule.direction == "EGRESS":
        return
    try:
        projection.refresh_network(run, "apply", run.payload["network"], rule)
    except CloudStackError:
        run.step("forget", lambda: run.scope.store.delete_firewall(run.scope.project.key, rule.name))
        try:
            projection.refresh_network(run, "undo", run.payload["network"], rule)
        except CloudStackError:
            run.warn("CLEANUP_FAILED", "A part of the rule could not be taken away again.")
        raise


@rpc("Firewalls.Delete", calls=("revokeSecurityGroupIngress", "deleteFirewallRule", "deleteSecurityGroup"))
def delete(scope: Scope, request: pb.DeleteFirewallRequest) -> Message:
    path = f"global/firewalls/{request.firewall}"
    row = scope.store.firewall(scope.project.key, request.firewall)
    if row is None:
        shown, group, ids = _find_foreign(scope, request.firewall)
        return engine.submit(
            scope,
            type="delete",
            target=f"global/firewalls/{shown.name}",
            target_id=shown.id,
            handler="firewalls.deleteForeign",
            payload={"group": group, "rules": ids},
        )
    identity = _intent(scope, row).id
    payload = {"network": row["network"], "rule": row["rule"].hex()}
    operation = engine.submit(
        scope, type="delete", target=path, target_id=identity, handler="firewalls.delete", payload=payload
    )
    return operation


@handler("firewalls.delete")
def do_delete(run: Run) -> None:
    """The intent goes first: whoever projects in between already leaves it out."""
    rule = pb.Firewall.FromString(bytes.fromhex(run.payload["rule"]))
    run.step("forget", lambda: run.scope.store.delete_firewall(run.scope.project.key, rule.name))
    if not rule.disabled and rule.direction != "EGRESS":
        projection.refresh_network(run, "apply", run.payload["network"], rule)


@handler("firewalls.deleteForeign")
def do_delete_foreign(run: Run) -> None:
    """Exactly the rules that were shown; then the group, if nothing else is in it and nobody uses it."""
    calls = [
        (f"revoke/{identity}", "revokeSecurityGroupIngress", {"id": identity}) for identity in run.payload["rules"]
    ]
    run.jobs("revoke", calls)
    rows = run.read("group", "listSecurityGroups", id=run.payload["group"])
    if (
        rows
        and rows[0]["name"] != "default"
        and not rows[0].get("ingressrule")
        and not rows[0].get("virtualmachinecount")
    ):
        run.call("delete-group", "deleteSecurityGroup", id=run.payload["group"])
