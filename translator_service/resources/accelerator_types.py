"""Accelerator types: none are offered, so lists are empty and a get is 404."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import accelerator_types_pb2 as pb
from gstack.kernel.errors import not_found
from translator_service import lists
from translator_service.resources import zones
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc("AcceleratorTypes.Get", differences="There are none.")
def get(scope: Scope, request: pb.GetAcceleratorTypeRequest) -> Message:
    zone = zones.resolve(scope, request.zone)
    raise not_found(scope.links.path(zone.path, "acceleratorTypes", request.acceleratorType))


@rpc("AcceleratorTypes.List", differences="There are none.")
def list_(scope: Scope, request: pb.ListAcceleratorTypesRequest) -> Message:
    zone = zones.resolve(scope, request.zone)
    return lists.page(scope, request, [], pb.AcceleratorTypeList, f"{zone.path}/acceleratorTypes")


@rpc("AcceleratorTypes.AggregatedList", differences="There are none.")
def aggregated_list(scope: Scope, request: pb.AggregatedListAcceleratorTypesRequest) -> Message:
    return lists.aggregated(
        scope,
        request,
        [],
        zones.scopes(scope, request.includeAllScopes),
        pb.AcceleratorTypeAggregatedList,
        "acceleratorTypes",
    )
