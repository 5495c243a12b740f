from __future__ import annotations

import pytest

from gstack.compute.v1 import accelerator_types_pb2 as pb
from gstack.compute.v1 import common_pb2
from gstack.kernel.errors import ApiError
from tests.unit.made import ask
from translator_service.scope import Scope


def test_list_is_empty(scope: Scope) -> None:
    found = ask(scope, "AcceleratorTypes.List", common_pb2.ListInZoneRequest(project="demo", zone="ch-gv2"))
    assert found.kind == "compute#acceleratorTypeList"
    assert found.id == "projects/demo/zones/ch-gv2/acceleratorTypes"
    assert not found.items


def test_list_of_an_unknown_zone(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "AcceleratorTypes.List", common_pb2.ListInZoneRequest(project="demo", zone="nope"))
    assert error.value.message == "The resource 'projects/demo/zones/nope' was not found"


@pytest.mark.parametrize("everywhere", [False, True])
def test_aggregated(scope: Scope, everywhere: bool) -> None:
    request = common_pb2.AggregatedListRequest(project="demo", includeAllScopes=everywhere)
    found = ask(scope, "AcceleratorTypes.AggregatedList", request)
    assert {"zones/ch-gv2", "zones/ch-zh-1"} <= set(found.items)
    assert ("global" in found.items) is everywhere
    assert {item.warning.code for item in found.items.values()} == {"NO_RESULTS_ON_PAGE"}
    assert not any(item.acceleratorTypes for item in found.items.values())


def test_get(scope: Scope) -> None:
    request = pb.GetAcceleratorTypeRequest(project="demo", zone="ch-gv2", acceleratorType="nvidia-tesla-t4")
    with pytest.raises(ApiError) as error:
        ask(scope, "AcceleratorTypes.Get", request)
    path = "projects/demo/zones/ch-gv2/acceleratorTypes/nvidia-tesla-t4"
    assert (error.value.code, error.value.message) == (404, f"The resource '{path}' was not found")
