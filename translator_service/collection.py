"""get, list, aggregatedList and what IAM asks, alike for all collections: a module only says what there is and how one
is found.

    lists("Disks", read)    read(scope, place) -> Reading of (path of its scope as `zones/z`, item) pairs
    gets("Disks", find)     find(scope, place, name) -> Reading of one resource
    permits("Disks", find)  testIamPermissions and getIamPolicy, where the protos have them

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

from gstack.compute.v1.iam_pb2 import Policy, TestPermissionsResponse
from gstack.kernel.contract import http_rule, services
from gstack.kernel.errors import invalid
from translator_service import places
from translator_service.cloudstack.catalog import Entry
from translator_service.cloudstack.client import Answer
from translator_service.gce.fingerprints import fingerprint
from translator_service.gce.lists import aggregated, page
from translator_service.places import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope

T = TypeVar("T")
Place = Zone | str | None
Items = Iterable[tuple[str, Any]]

_MOST_PERMISSIONS = 100
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
    methods = methods_of(service)
    options: Any = {"calls": calls, "differences": differences, "public_projects": public_projects}
    level, where, collection = path_of(methods["List"])

    def list_(scope: Scope, request: Any) -> Message | bytes:
        place = place_of(scope, request, level)
        found = read(scope, place)
        path = f"{prefix_of(place) or where}{collection}"
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
    method = methods_of(service)["Get"]
    level, _, _ = path_of(method)
    parameter = re.findall(r"\{(\w+)\}", http_rule(method).path)[-1]

    def get(scope: Scope, request: Any) -> Message | bytes:
        found = find(scope, place_of(scope, request, level), getattr(request, parameter))
        return found.reply(scope, request, f"{service}.Get", found.build)

    rpc(f"{service}.Get", calls=calls, differences=differences, public_projects=public_projects)(get)


def permits(
    service: str,
    find: Callable[[Scope, Any, str], object],
    *,
    calls: tuple[str, ...] = (),
    public_projects: bool = False,
    policy: Callable[[Scope, Any, str], Policy] | None = None,
    differences: str = "Always empty.",
) -> None:
    """Register `TestIamPermissions`, and `GetIamPolicy` where the protos have it: who sees a resource may do anything
    with it, and nobody else has a role of it, unless `policy` says so. find, policy: raise 404."""
    methods = methods_of(service)
    level, _, _ = path_of(methods["TestIamPermissions"])

    def test_iam_permissions(scope: Scope, request: Any) -> Message:
        if len(request.body.permissions) > _MOST_PERMISSIONS:
            raise invalid("body.permissions", f"At most {_MOST_PERMISSIONS} permissions can be tested at once.")
        find(scope, place_of(scope, request, level), request.resource)
        return TestPermissionsResponse(permissions=request.body.permissions)

    def get_iam_policy(scope: Scope, request: Any) -> Message:
        if policy is not None:
            return policy(scope, place_of(scope, request, level), request.resource)
        find(scope, place_of(scope, request, level), request.resource)
        return Policy(version=1, etag=fingerprint("policy"))

    rpc(f"{service}.TestIamPermissions", calls=calls, public_projects=public_projects)(test_iam_permissions)
    if "GetIamPolicy" in methods:
        options: Any = {"calls": calls, "differences": differences, "public_projects": public_projects}
        rpc(f"{service}.GetIamPolicy", **options)(get_iam_policy)


def methods_of(service: str) -> dict[str, MethodDescriptor]:
    (found,) = (one for one in services() if one.name == service)
    return dict(found.methods_by_name)


def path_of(method: MethodDescriptor) -> tuple[str, str, str]:
    """("zones", "regions" or "", "global/" or "", collection) of a method's path."""
    match = _PATH.match(http_rule(method).path)
    assert match is not None
    return match[2] or "", match[1] if match[1] == "global/" else "", match[3]


def place_of(scope: Scope, request: Any, level: str) -> Place:
    """Raises 404."""
    if level == "zones":
        return places.resolve_zone(scope, request.zone)
    return places.resolve_region(scope, request.region) if level == "regions" else None


def prefix_of(place: Place) -> str:
    """`zones/z/`, `regions/r/`, or "" for what belongs to the whole project."""
    if isinstance(place, Zone):
        return f"{place.path}/"
    return f"regions/{place}/" if place is not None else ""
