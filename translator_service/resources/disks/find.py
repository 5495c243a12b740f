"""How one disk is found, and those of one machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gstack.kernel.errors import invalid, not_found, unsupported
from translator_service import places
from translator_service.cloudstack.client import Answer, all_rows
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.links import parse
from translator_service.gce.naming import number, slug
from translator_service.kept import tags
from translator_service.places import Zone
from translator_service.resources.disks import intents
from translator_service.resources.disks.intents import Intent
from translator_service.resources.disks.view import DESTROYED_MACHINE, identity_of, is_shown, name_of, names
from translator_service.scope import Scope

_WORD = re.compile(r"[a-z0-9]+")


def find(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, list[Answer]]:
    """(GCE name, row, the answers it came from) of one disk; the row of an intent is as that of a volume. Raises 404.

    Two questions side by side find a disk by its own name or its tag. Only what they miss costs more.
    """
    found = None
    if naming.UUID.fullmatch(name) or naming.is_number(name):
        found = _by_id(scope, zone, name)
    elif naming.is_askable(name):
        found = _by_name(scope, zone, name)
        if found is None and (parts := naming.split_suffix(name)):
            found = _by_name(scope, zone, parts[0], parts[1])
    if found is None:
        raise not_found(scope.links.path(zone.path, "disks", name))
    return found


def reference(scope: Scope, text: str, field: str) -> tuple[Zone, str]:
    """The zone, and what a reference calls a disk there. Raises 400 and 404."""
    found = parse(text, field)
    if found.region:
        raise unsupported(field, f"'{text}'. There are no regional disks.")
    if found.collection != "disks" or not found.zone:
        raise invalid(field, f"'{text}'. The URL does not name a disk of a zone.")
    if not scope.owns(found):
        raise not_found(f"projects/{found.project}/zones/{found.zone}/disks/{found.name}")
    return places.resolve_zone(scope, found.zone), found.name


def _by_id(scope: Scope, zone: Zone, text: str) -> tuple[str, Row, list[Answer]] | None:
    if (intent := intents.find(scope, zone, text)) is not None:
        return intent.name, intent.row, []
    known = scope.environment.ids.find(int(text)) if naming.is_number(text) else text
    # CloudStack knows no numbers: one that no answer has shown yet is looked for in the zone, as is what a disk had for
    # its id before it was a volume.
    for question in [{"id": known}, {}] if known else [{}]:
        try:
            answers = scope.client.read_all("listVolumes", zoneid=zone.id, **question)
        except CloudStackError as error:
            if error.code not in NO_SUCH_ROW:
                raise
            continue
        rows = unique_rows(answers)
        for row in rows:
            scope.environment.ids.remember(row["id"], identity_of(row))
        for shown, row in names(rows):
            identity = identity_of(row)
            if text in (str(number(identity)), row["id"]) or text.lower() in (identity, row["id"]):
                return shown, row, answers
        if naming.UUID.fullmatch(text) and rows:
            break
    return None


def _by_name(scope: Scope, zone: Zone, name: str, prefix: str = "") -> tuple[str, Row, list[Answer]] | None:
    """prefix: the beginning of the disk's uuid, when several have the name."""
    where = {"zoneid": zone.id}
    intent = intents.find(scope, zone, name)
    answers = scope.client.read_many(
        [("listVolumes", {"name": name, **where}), ("listVolumes", {**tags.question(tags.NAME, name), **where})]
    )
    if found := _pick(answers, name, prefix, intent):
        return *found, answers
    # A boot disk made elsewhere has the name of its machine. A disk with a name that is no GCE name, as `My Disk`, is
    # found by a part of it: no filter knows `my-disk`.
    word = max(_WORD.findall(slug(name)), key=len)
    machines, similar = scope.client.read_all_many(
        [
            ("listVirtualMachines", {"name": name, "details": "min", **where}),
            ("listVolumes", {"keyword": word, **where}),
        ]
    )
    answers += similar
    for machine in unique_rows(machines):
        if name in (slug(machine["name"]), machine["name"]) and machine.get("state") not in DESTROYED_MACHINE:
            answers.append(scope.client.read("listVolumes", virtualmachineid=machine["id"], type="ROOT"))
    found = _pick(answers, name, prefix, intent)
    return (*found, answers) if found else None


def look(scope: Scope, zone: Zone, identity: str) -> Row | None:
    """The disk of an identity (see view.identity_of) as it is now, None when it is gone: when an operation's turn has
    come, the disk's name may be another's, and what was an intent at its submit may be a volume."""
    found = _by_id(scope, zone, identity)
    return found[1] if found else None


def volume(scope: Scope, identity: str) -> Row | None:
    """A row of listVolumes as it is now, None when there is none any more."""
    return next((row for row in scope.client.rows_of_id("listVolumes", identity) if is_shown(row)), None)


def of_machine(scope: Scope, zone: Zone, machine: Row, shown: str) -> tuple[list[Row], dict[str, str], list[Answer]]:
    """(volumes of a machine made elsewhere, their names by uuid, the answers they came from).

    shown: the machine's GCE name. Its boot disk has the same one, unless another disk has that for its own.
    """
    where, name = {"zoneid": zone.id}, slug(machine["name"])
    answers = scope.client.read_many(
        [
            ("listVolumes", {"virtualmachineid": machine["id"]}),
            ("listVolumes", {"name": name, **where}),
            ("listVolumes", {**tags.question(tags.NAME, name), **where}),
        ]
    )
    volumes = [row for row in answers[0].items if is_shown(row)]
    found = {row["id"]: shown for shown, row in names(unique_rows(answers))}
    for row in volumes:
        if row.get("type") == "ROOT" and shown != name and name_of(row) == name and tags.NAME not in tags.of(row):
            # Another machine has the name, and so has its disk.
            found[row["id"]] = naming.with_suffix(name, row["id"])
    return volumes, found, answers


def names_of(scope: Scope, zone: Zone, volumes: Iterable[Row]) -> tuple[dict[str, str], list[Answer]]:
    """(names of some disks of a zone by uuid, the answers they came from): others may have the same ones."""
    where, rows = {"zoneid": zone.id}, list(volumes)
    questions = [{"name": name} for name in dict.fromkeys(one for row in rows for one in (row["name"], name_of(row)))]
    questions += [tags.question(tags.NAME, name) for name in dict.fromkeys(map(name_of, rows))]
    answers = scope.client.read_many([("listVolumes", {**question, **where}) for question in questions])
    index = names(unique_rows(answers))
    return {row["id"]: index.name(row["id"]) or name_of(row) for row in rows}, answers


def unique_rows(answers: Iterable[Answer]) -> list[Row]:
    """All rows, each once."""
    return list({row["id"]: row for row in all_rows(answers)}.values())


def _pick(answers: Iterable[Answer], name: str, prefix: str, intent: Intent | None) -> tuple[str, Row] | None:
    """The disk with this name, which may also be CloudStack's own, as it is written there."""
    rows = with_intents(unique_rows(answers), [intent] if intent else [])
    for shown, row in names(row for row in rows if name_of(row) == name):
        if row["id"].startswith(prefix) if prefix else shown == name:
            return shown, row
    for shown, row in names(rows):
        is_named_as_machine = row.get("type") == "ROOT" and tags.NAME not in tags.of(row)
        if not prefix and name in (row["name"], row.get("vmname") if is_named_as_machine else None):
            return shown, row
    return None


def with_intents(rows: list[Row], found: Iterable[Intent]) -> list[Row]:
    """Volumes, and what is none yet."""
    there = {identity_of(row) for row in rows}
    return [*rows, *(intent.row for intent in found if intent.id not in there)]
