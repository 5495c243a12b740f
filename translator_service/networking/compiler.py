"""Firewall rules compiled: from the intents of GCE to the smallest things that CloudStack lets through."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gstack.compute.v1 import firewalls_pb2 as pb
from translator_service.cloudstack.rows import Row

# Protocols that CloudStack's security groups know by number only (CloudStack's API; numbers: IANA).
_NUMBERS = {"esp": "50", "ah": "51", "ipip": "94", "sctp": "132"}
WITH_PORTS = ("tcp", "udp")


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


@dataclass(frozen=True)
class Machine:
    """An instance as rules see it. groups: ids of its own groups."""

    id: str
    tags: frozenset[str]
    addresses: tuple[str, ...]
    groups: tuple[str, ...]


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
    if protocol not in WITH_PORTS:
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
            if rule.protocol in WITH_PORTS and len(ranges) > 1:
                ranges[:] = _joined(ranges, 1)

    def rest(self, rule: Rule) -> list[tuple[int, int]]:
        """The parts of a rule that are not let through."""
        ranges = self._ranges.get((rule.protocol, rule.source), [])
        if rule.protocol not in WITH_PORTS:
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
    elif protocol in WITH_PORTS and "startport" not in row:
        start, end = 1, 65535
    else:
        start = int(row.get("startport", 0))
        end = int(row.get("endport", start))
    sources = str(row.get("cidr") or row.get("cidrlist") or "").split(",")
    return {Rule(protocol, start, end, source.strip()) for source in sources}


def contents_of(row: Row) -> frozenset[str]:
    """What a rule of a group or an address lets through, as claims know it."""
    return frozenset(rule.key for rule in rules_of_row(row))
