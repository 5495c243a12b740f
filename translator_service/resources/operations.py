"""zoneOperations, regionOperations, globalOperations: one store, found under any scope.

Clients derive the scope from links and sometimes look under the wrong one (gcutil, libcloud), so get, wait and delete
find an operation by its name wherever it belongs; lists show only their own scope.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import operations_pb2 as pb
from gstack.kernel.errors import ApiError, not_found
from gstack.kernel.rpc import may_wait
from translator_service import places
from translator_service.gce import lists
from translator_service.gce.naming import number
from translator_service.gce.times import rfc3339
from translator_service.operations import engine, render
from translator_service.rpc import rpc
from translator_service.scope import Scope


def _find(scope: Scope, request: Any, where: str) -> pb.Operation:
    row = scope.store.operation(scope.project.key, request.operation)
    if row is None:
        raise not_found(scope.links.path(where, "operations", request.operation))
    return render.operation(row, scope.links)


def _where(request: Any) -> str:
    if hasattr(request, "zone"):
        return f"zones/{request.zone}"
    return f"regions/{request.region}" if hasattr(request, "region") else "global"


def get(scope: Scope, request: Any) -> Message:
    return _find(scope, request, _where(request))


def wait(scope: Scope, request: Any) -> Message:
    """Blocks until the operation is done, at most two minutes; a caller with many things to ask for is not held up."""
    found = _find(scope, request, _where(request))
    if not may_wait():
        return found
    engine.wait(scope, request.operation)
    return _find(scope, request, _where(request))


def list_(scope: Scope, request: Any) -> Message:
    where = _where(request)
    if where.startswith("zones/"):
        where = f"zones/{places.resolve_zone(scope, request.zone).name}"
    elif where.startswith("regions/"):
        where = f"regions/{places.resolve_region(scope, request.region)}"
    rows = scope.store.list_operations(scope.project.key, where, time.time() - engine.RETENTION)
    items = (_later(scope, row) for row in rows)
    return lists.page(scope, request, items, pb.OperationList, f"{where}/operations")


def _later(scope: Scope, row: Mapping[Any, Any]) -> lists.Later:
    name = row["name"]
    return lists.Later(name, rfc3339(row["inserted"]), number(name), partial(render.operation, row, scope.links))


def delete(scope: Scope, request: Any) -> Message:
    """Forgets a finished operation; one that runs cannot be deleted."""
    found = _find(scope, request, _where(request))
    if found.status != "DONE" or not scope.store.delete_operation(scope.project.key, request.operation):
        raise ApiError(400, f"The operation '{request.operation}' is not done.", "resourceNotReady")
    return _EMPTY[_where(request).partition("/")[0]]()


@rpc("GlobalOperations.AggregatedList")
def aggregated_list(scope: Scope, request: common_pb2.AggregatedListRequest) -> Message:
    rows = scope.store.list_operations(scope.project.key, None, time.time() - engine.RETENTION)
    pairs = ((row["scope"], _later(scope, row)) for row in rows)
    everywhere = places.scopes(scope, everywhere=bool(request.includeAllScopes))
    return lists.aggregated(scope, request, pairs, everywhere, pb.OperationAggregatedList, "operations")


_EMPTY: dict[str, type[Message]] = {
    "zones": pb.DeleteZoneOperationResponse,
    "regions": pb.DeleteRegionOperationResponse,
    "global": pb.DeleteGlobalOperationResponse,
}

for _scope in ("Zone", "Region", "Global"):
    rpc(f"{_scope}Operations.Get")(get)
    rpc(f"{_scope}Operations.List")(list_)
    rpc(f"{_scope}Operations.Wait")(wait)
    rpc(f"{_scope}Operations.Delete")(delete)
