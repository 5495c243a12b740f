"""Addresses: public addresses of zones with isolated networks, but for source NAT and those of access configs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from google.protobuf.message import Message

from gstack.compute.v1 import addresses_pb2 as pb
from gstack.kernel.errors import not_found
from translator_service import places
from translator_service.cloudstack.client import Answer, Call, all_rows
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce import naming
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.naming import Index, number, with_suffix
from translator_service.gce.times import from_cloudstack
from translator_service.kept import tags
from translator_service.places import Zone
from translator_service.scope import Scope

_BY_ADDRESS = re.compile(r"address-(\d{1,3}(?:-\d{1,3}){3})(?:-[0-9a-f]{8})?")


# Mapping


def is_shown(row: Row) -> bool:
    """Whether a row of listPublicIpAddresses is an address for GCE."""
    hidden = row.get("issourcenat") or row.get("issystem") or tags.EPHEMERAL in tags.of(row)
    return row.get("state") in ("Allocated", "Reserved") and not hidden


def name_of(row: Row) -> str:
    """The name of an address, before duplicates in its region are told apart."""
    return tags.of(row).get(tags.NAME) or f"address-{re.sub('[.:]', '-', row['ipaddress'])}"


def names(rows: Iterable[Row]) -> Index:
    """The addresses of one region by name."""
    aged = [{**row, "created": row.get("allocated", "")} for row in rows if is_shown(row)]
    return Index(aged, "verbatim", label=name_of)


def to_address(scope: Scope, zone: Zone, row: Row, name: str = "") -> pb.Address:
    """A row of listPublicIpAddresses. name: the one that `names` gave it."""
    name = name or name_of(row)
    scope.environment.ids.remember(row["id"])
    used = row.get("isstaticnat") or row.get("hasrules")
    address = pb.Address(
        kind="compute#address",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("allocated", "")),
        name=name,
        address=row["ipaddress"],
        status="IN_USE" if used else "RESERVED",
        region=scope.links.of("regions", zone.region),
        selfLink=scope.links.of("regions", zone.region, "addresses", name),
        networkTier="PREMIUM",
        addressType="EXTERNAL",
        labels=tags.labels(row),
        ipVersion="IPV4",
    )
    address.labelFingerprint = label_fingerprint(address.labels)
    if row.get("isstaticnat") and row.get("virtualmachinename"):
        machine = scope.machine_name(row["virtualmachinename"])
        address.users.append(scope.links.of(zone.path, "instances", machine))
    return address


# Reading


def _ask(scope: Scope, in_zones: list[Zone], question: dict[str, str]) -> list[Answer]:
    """Reserved addresses are only told to who asks for that state, and for it alone (recordings, Surprises 38)."""
    if not in_zones:
        return []
    where = {"zoneid": in_zones[0].id} if len(in_zones) == 1 else {}
    calls: list[Call] = [
        ("listPublicIpAddresses", {**question, **where}),
        ("listPublicIpAddresses", {**question, **where, "state": "Reserved"}),
    ]
    return [answer for answers in scope.client.read_all_many(calls) for answer in answers]


def _isolated(some: Iterable[Zone]) -> list[Zone]:
    """In zones with security groups the guests' own addresses are public, and there are no others."""
    return [zone for zone in some if not zone.security_groups]


def _addresses(scope: Scope, in_zones: list[Zone], answers: Iterable[Answer]) -> list[tuple[str, pb.Address]]:
    """(region, address) of the rows in these zones."""
    by_id = {zone.id: zone for zone in in_zones}
    by_region: dict[str, list[Row]] = {}
    for answer in answers:
        for row in answer.items:
            if row["zoneid"] in by_id:
                by_region.setdefault(by_id[row["zoneid"]].region, []).append(row)
    return [
        (region, to_address(scope, by_id[row["zoneid"]], row, name))
        for region, rows in by_region.items()
        for name, row in names(rows)
    ]


def find(scope: Scope, region: str, text: str) -> tuple[str, Zone, Row, list[Answer]]:
    """(GCE name, zone, row, the answers it came from) of one address. Raises 404."""
    in_zones = {zone.id: zone for zone in _isolated(places.zones_of(scope, region))}
    for question in _questions(scope, text):
        try:
            answers = _ask(scope, list(in_zones.values()), question)
        except CloudStackError as error:
            if error.code not in NO_SUCH_ROW:
                raise
            continue
        rows = [row for row in all_rows(answers) if row["zoneid"] in in_zones]
        for name, row in names(rows):
            if (
                text in (name, str(number(row["id"])), with_suffix(name_of(row), row["id"]))
                or text.lower() == row["id"]
            ):
                return name, in_zones[row["zoneid"]], row, answers
    raise not_found(scope.links.path("regions", region, "addresses", text))


def _questions(scope: Scope, name: str) -> list[dict[str, str]]:
    """What to ask for one address, the likely question first."""
    if naming.UUID.fullmatch(name):
        return [{"id": name}]
    if naming.is_number(name):
        # A number that no answer has shown yet is looked for in the region.
        known = scope.environment.ids.find(int(name))
        return [{"id": known} if known else {}]
    if not naming.is_askable(name):
        return []
    found = [tags.question(tags.NAME, name)]
    if parts := naming.split_suffix(name):
        found.append(tags.question(tags.NAME, parts[0]))
    if match := _BY_ADDRESS.fullmatch(name):
        found.insert(0, {"ipaddress": match[1].replace("-", ".")})
    return found


_CALLS = ("listPublicIpAddresses", "listZones")


_DIFFERENCES = (
    "Source NAT addresses are not shown. An address is a zone's and can be used there only. A region whose zones have"
    " security groups has none: instances there have public addresses of their own."
)


def _find(scope: Scope, region: str, text: str) -> Reading[Message]:
    name, zone, row, answers = find(scope, region, text)
    return Reading(lambda: to_address(scope, zone, row, name), [*answers, scope.catalog(places.kind(scope))])


def _read(scope: Scope, region: str | None) -> Reading[Items]:
    in_zones = _isolated(places.zones_of(scope, region) if region else places.all_zones(scope))
    answers = _ask(scope, in_zones, {})

    def build() -> Items:
        return [(f"regions/{where}", address) for where, address in _addresses(scope, in_zones, answers)]

    return Reading(build, [*answers, scope.catalog(places.kind(scope))])


gets("Addresses", _find, calls=_CALLS, differences=_DIFFERENCES)
lists("Addresses", _read, calls=_CALLS, differences=_DIFFERENCES)
