"""The templates of CloudStack that a caller may use, and what is kept with them."""

from __future__ import annotations

from collections.abc import Container
from typing import Any
from urllib.parse import quote

from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.client import Answer, Client, all_rows
from translator_service.cloudstack.rows import Row
from translator_service.gce.naming import Index, Naming
from translator_service.kept import details, tags
from translator_service.places import Zone
from translator_service.resources.images import second
from translator_service.scope import Scope

_FILTERS = ("executable", "sharedexecutable")
# A mark of ours on rows of the caller's own; names of accounts are not unique.
_OWN = "gstack-own"


class Templates(Index):
    """The index of templates: by name the caller's own go first, then the operator's, then those of others.

    offered: an index of the operator's alone, the names in public image projects.
    """

    def __init__(self, rows: list[Row], naming: Naming, named: Container[str]):
        """named: ids in the operator's names file."""

        def is_offered(row: Row) -> bool:
            return bool(row.get("isfeatured")) or row["id"] in named

        super().__init__(rows, naming, rank=lambda row: 0 if row.get(_OWN) else 1 if is_offered(row) else 2)
        self.offered = Index(filter(is_offered, rows), naming)


def kind(scope: Scope) -> Kind:
    """Templates that the caller may deploy, own, public and shared ones, and own ones that are not ready."""
    naming, named = scope.environment.settings.naming, frozenset(scope.names.families.values())

    def fetch(client: Client) -> list[Answer]:
        filters = ("self", *_FILTERS)
        own, *others = client.read_all_many(
            [("listTemplates", {"templatefilter": one, "showunique": "true"}) for one in filters]
        )
        for row in all_rows(own):
            row[_OWN] = True
        return [*own, *(answer for answers in others for answer in answers), second.answer(scope)]

    def build(rows: list[Row]) -> Index:
        unique: dict[str, Row] = {}
        for row in rows:
            unique.setdefault(row["id"], _sized(row))
        for row in list(unique.values()):
            if template := second.template_of(row):
                del unique[row["id"]]
                if template in unique:
                    unique[row["id"]] = {**unique[template], "isfeatured": False, "ispublic": False, **row, _OWN: True}
        return Templates(list(unique.values()), naming, named)

    return Kind("templates", 60.0, fetch, build)


def _sized(row: Row) -> Row:
    """CloudStack may not tell the size of a template that was made of a snapshot (recordings, e)."""
    size = about(row).get("sizeGb") if row.get(_OWN) and not row.get("size") else None
    return {**row, "size": size << 30} if isinstance(size, int) and 0 < size < 1 << 20 else row


def about(row: Row) -> dict[str, Any]:
    """What is kept with an image that was made here: the fields of `Image` that CloudStack has no place for, `sizeGb`,
    and the sources as paths. {} for one that was made elsewhere."""
    found: dict[str, Any] = details.unpack(tags.of(row), tags.IMAGE, {})
    return found


def state_of(row: Row) -> str:
    """ACTIVE, DEPRECATED, OBSOLETE or DELETED."""
    found = about(row).get("deprecated")
    state = found.get("state") if isinstance(found, dict) else None
    return state if state in ("DEPRECATED", "OBSOLETE", "DELETED") else "ACTIVE"


def is_own(row: Row) -> bool:
    """Whether an image belongs to the project of the request."""
    return bool(row.get(_OWN))


def templates(scope: Scope) -> Templates:
    found = scope.catalog(kind(scope)).index
    assert isinstance(found, Templates)
    return found


def template_row(scope: Scope, row: Row) -> Row:
    """The template that an image is, or is a second name of."""
    template = second.template_of(row)
    return (templates(scope).find(template) if template else None) or row


def in_zone(scope: Scope, row: Row, zone: Zone) -> bool:
    """Whether a template may be used in the zone. The list names one zone of each, so the others cost a question."""
    if row.get("crossZones") or row.get("zoneid") in (None, zone.id):
        return True
    # By name: the id of another account's template is refused where the list would be empty (recordings, Surprises 36).
    calls = [("listTemplates", {"templatefilter": one, "name": row["name"], "zoneid": zone.id}) for one in _FILTERS]
    return any(item["id"] == row["id"] for answer in scope.client.read_many(calls) for item in answer.items)


def link_of(scope: Scope, template_id: str, template_name: str, asked: str = "") -> str:
    """Link of the image that a volume or a machine was made from; it may be deleted by now. asked: see Asked.path."""
    if asked:
        return f"{scope.links.base}/{quote(asked, safe='/@:')}"
    name = scope.catalog(kind(scope)).index.name(template_id) or scope.environment.name(template_name)
    return scope.links.of("global", "images", name)


def architecture(row: Row) -> str:
    return "ARM64" if row.get("arch") == "aarch64" else "X86_64"


def architecture_of(scope: Scope, template_id: str | None) -> str:
    """Of what is made from a template, which may be deleted by now."""
    return architecture((scope.catalog(kind(scope)).index.find(template_id) if template_id else None) or {})


def is_trusted(row: Row) -> bool:
    """Whether the name of a template may decide: nobody else can have given it to mislead."""
    return bool(row.get("isfeatured") or row.get(_OWN))
