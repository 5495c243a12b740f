from __future__ import annotations

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import regions_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud
from tests.unit.made import ask, machine
from translator_service.scope import Scope

PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"


def test_get(scope: Scope, simulated: Cloud) -> None:
    found = ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region="ch-zh"))
    assert (found.kind, found.name, found.status) == ("compute#region", "ch-zh", "UP")
    assert list(found.zones) == [f"{PROJECT}/zones/ch-zh-1"]
    assert found.selfLink == f"{PROJECT}/regions/ch-zh"
    assert simulated.calls == {"listZones": 1, "listAccounts": 1}


def test_quotas_are_those_of_the_project(scope: Scope) -> None:
    machine(scope, "a")
    found = ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region="ch"))
    usage = {quota.metric: quota.usage for quota in found.quotas}
    assert sorted(usage) == ["CPUS", "DISKS_TOTAL_GB", "INSTANCES", "IN_USE_ADDRESSES", "STATIC_ADDRESSES"]
    assert usage["INSTANCES"] == 1
    assert all(quota.HasField("limit") and quota.HasField("usage") for quota in found.quotas)


def test_list(scope: Scope, simulated: Cloud) -> None:
    found = ask(scope, "Regions.List", common_pb2.ListRequest(project="demo"))
    assert [region.name for region in found.items] == ["ch", "ch-zh"]
    assert len({region.id for region in found.items}) == 2
    assert ask(scope, "Regions.List", common_pb2.ListRequest(project="demo")) == found
    assert simulated.calls == {"listZones": 1, "listAccounts": 1}


def test_filter(scope: Scope) -> None:
    found = ask(scope, "Regions.List", common_pb2.ListRequest(project="demo", filter="name eq ch"))
    assert [region.name for region in found.items] == ["ch"]


def test_zones_that_the_operator_put_together(scope: Scope) -> None:
    scope.names.regions.update({"ch-gv2": "here", "ch-zh-1": "here"})
    (found,) = ask(scope, "Regions.List", common_pb2.ListRequest(project="demo")).items
    assert list(found.zones) == [f"{PROJECT}/zones/ch-gv2", f"{PROJECT}/zones/ch-zh-1"]


@pytest.mark.parametrize(("text", "name"), [("CH", "ch"), ("CH-ZH", "ch-zh"), ("ch", "ch")])
def test_names_of_cloudstack(scope: Scope, text: str, name: str) -> None:
    assert ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region=text)).name == name
    for method in ("Addresses.List", "Subnetworks.List"):
        ask(scope, method, common_pb2.ListInRegionRequest(project="demo", region=text))


def test_names_of_cloudstack_that_the_operator_maps(scope: Scope) -> None:
    scope.names.zones["CH-GV2"] = "europe-west6-a"
    for text in ("CH", "europe-west6"):
        assert ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region=text)).name == "europe-west6"


def test_slugs_where_names_are_verbatim(scope: Scope) -> None:
    scope.environment.settings.naming = "verbatim"
    for text in ("CH", "ch"):
        assert ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region=text)).name == "CH"


def test_unknown(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "Regions.Get", pb.GetRegionRequest(project="demo", region="nope"))
    assert error.value.message == "The resource 'projects/demo/regions/nope' was not found"
