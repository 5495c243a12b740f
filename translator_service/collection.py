"""get, list and aggregatedList, alike for all collections: a module only says what there is and how one is found.

    lists("Disks", read)    read(scope, place) -> Reading of (path of its scope as `zones/z`, item) pairs
    gets("Disks", find)     find(scope, place, name) -> Reading of one resource

`place` is what the method's path in the protos says: a Zone, the name of a region, or None for what belongs to the
whole project. An aggregated list reads with None: everything, wherever it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gstack.kernel.contract import http_rule, services
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.gce.lists import aggregated, page
from translator_service.places import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope

T = TypeVar("T")
Place = Zone | str | None
Items = Iterable[tuple[str, Any]]

_PATH = re.compile(r"/compute/v1/projects/\{project\}/((zones|regions)/\{\w+\}/|global/)?(\w+)")


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What an answer is made from; it is built again only when one of its sources, or its state, is another.

    build: makes it. sources: CloudStack's answers and cached lists; none means that it is built each time.
    """

    build: Callable[[], T]
    sources: Sequence[Answer | Entry] = ()
    state: tuple[Any, ...] = ()

    def reply(self, scope: Scope, request: Message, name: str, build: Callable[[], Message]) -> Message | bytes:
        """build: of the whole answer. name: of the method, as several have requests of one type."""
        return scope.reply(list(self.sources), request, build, name, *self.state) if self.sources else build()


Read = Callable[[Scope, Any], Reading[Items]]
Find = Callable[[Scope, Any, str], Reading[Message]]


def lists(
    service: str, read: Read, *, calls: tuple[str, ...] = (), differences: str = "", public_projects: bool = False
) -> None:
    """Register `List`, and `AggregatedList` where the protos have one."""
    methods = _methods(service)
    options: Any = {"calls": calls, "differences": differences, "public_projects": public_projects}
    level, where, collection = _path(methods["List"])

    def list_(scope: Scope, request: Any) -> Message | bytes:
        place = _place(scope, request, level)
        found = read(scope, place)
        path = f"{_path_of(place) or where}{collection}"
        answer = GetMessageClass(methods["List"].output_type)
        return found.reply(
            scope,
            request,
            f"{service}.List",
            lambda: page(scope, request, [item for _, item in found.build()], answer, path),
        )

    def aggregated_list(scope: Scope, request: Any) -> Message | bytes:
        found = read(scope, None)
        scopes = places.scopes(scope, level, everywhere=request.includeAllScopes)
        answer = GetMessageClass(methods["AggregatedList"].output_type)
        return found.reply(
            scope,
            request,
            f"{service}.AggregatedList",
            lambda: aggregated(scope, request, found.build(), scopes, answer, collection),
        )

    rpc(f"{service}.List", **options)(list_)
    if "AggregatedList" in methods:
        rpc(f"{service}.AggregatedList", **options)(aggregated_list)


def gets(
    service: str, find: Find, *, calls: tuple[str, ...] = (), differences: str = "", public_projects: bool = False
) -> None:
    """Register `Get`."""
    method = _methods(service)["Get"]
    level, _, _ = _path(method)
    parameter = re.findall(r"\{(\w+)\}", http_rule(method).path)[-1]

    def get(scope: Scope, request: Any) -> Message | bytes:
        found = find(scope, _place(scope, request, level), getattr(request, parameter))
        return found.reply(scope, request, f"{service}.Get", found.build)

    rpc(f"{service}.Get", calls=calls, differences=differences, public_projects=public_projects)(get)


def _methods(service: str) -> dict[str, MethodDescriptor]:
    (found,) = (one for one in services() if one.name == service)
    return dict(found.methods_by_name)


def _path(method: MethodDescriptor) -> tuple[str, str, str]:
    """("zones", "regions" or "", "global/" or "", collection) of a method's path."""
    match = _PATH.match(http_rule(method).path)
    assert match is not None
    return match[2] or "", match[1] if match[1] == "global/" else "", match[3]


def _place(scope: Scope, request: Any, level: str) -> Place:
    """Raises 404."""
    if level == "zones":
        return places.resolve_zone(scope, request.zone)
    return places.resolve_region(scope, request.region) if level == "regions" else None


def _path_of(place: Place) -> str:
    if isinstance(place, Zone):
        return f"{place.path}/"
    return f"regions/{place}/" if place is not None else ""
