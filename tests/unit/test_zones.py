from __future__ import annotations

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import zones_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, recorded_rows
from tests.unit.made import ask
from translator_service import places
from translator_service.resources import zones
from translator_service.scope import Scope

PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
ROWS = recorded_rows("a-catalog", "listZones")


def test_mapping(scope: Scope) -> None:
    found = zones.to_zone(scope, "ch-gv2", ROWS[1])
    assert (found.kind, found.name, found.status) == ("compute#zone", "ch-gv2", "UP")
    assert found.region == f"{PROJECT}/regions/ch"
    assert found.selfLink == f"{PROJECT}/zones/ch-gv2"
    assert found.id > 0
    assert found.creationTimestamp == "1969-12-31T16:00:00.000-08:00"


def test_zone_that_is_off(scope: Scope) -> None:
    assert zones.to_zone(scope, "z-a", {**ROWS[0], "allocationstate": "Disabled"}).status == "DOWN"


def test_list_is_asked_once(scope: Scope, simulated: Cloud) -> None:
    first = ask(scope, "Zones.List", common_pb2.ListRequest(project="demo"))
    assert [zone.name for zone in first.items] == ["ch-gv2", "ch-zh-1"]
    assert (first.kind, first.selfLink) == ("compute#zoneList", f"{PROJECT}/zones")
    assert ask(scope, "Zones.List", common_pb2.ListRequest(project="demo")) == first
    assert simulated.calls == {"listZones": 1}


def test_get_by_every_name(scope: Scope) -> None:
    row = scope.lookup(places.kind(scope), "CH-GV2")
    assert row is not None
    number = ask(scope, "Zones.Get", pb.GetZoneRequest(project="demo", zone="ch-gv2")).id
    for name in ("ch-gv2", "CH-GV2", row["id"], str(number)):
        assert ask(scope, "Zones.Get", pb.GetZoneRequest(project="demo", zone=name)).name == "ch-gv2"


def test_unknown(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "Zones.Get", pb.GetZoneRequest(project="demo", zone="nope"))
    assert error.value.code == 404
    assert error.value.message == "The resource 'projects/demo/zones/nope' was not found"


def test_names_of_the_operator_and_without_a_dash(scope: Scope) -> None:
    scope.names.zones["CH-GV2"] = "europe"
    scope.names.regions["ch-zh-1"] = "here"
    assert [(zone.name, zone.region) for zone in places.all_zones(scope)] == [
        ("ch-zh-1", "here"),
        ("europe-a", "europe"),
    ]


def test_kinds_of_zones(scope: Scope) -> None:
    assert {zone.name: zone.security_groups for zone in places.all_zones(scope)} == {"ch-gv2": True, "ch-zh-1": False}


def test_scopes(scope: Scope) -> None:
    assert places.scopes(scope, "zones") == ["zones/ch-gv2", "zones/ch-zh-1"]
    assert places.scopes(scope, everywhere=True) == [
        "global",
        "regions/ch",
        "regions/ch-zh",
        "zones/ch-gv2",
        "zones/ch-zh-1",
    ]


@pytest.mark.parametrize(
    "text", ["x", "zones/ch-gv2/things/x", "https://h/compute/v1/projects/demo/zones/CH-GV2/things/x"]
)
def test_name_in_zone(scope: Scope, text: str) -> None:
    assert places.name_in(scope, places.resolve_zone(scope, "ch-gv2"), text, "f", "things") == "x"


@pytest.mark.parametrize("text", ["zones/ch-zh-1/things/x", "zones/ch-gv2/disks/x"])
def test_name_of_elsewhere(scope: Scope, text: str) -> None:
    with pytest.raises(ApiError) as error:
        places.name_in(scope, places.resolve_zone(scope, "ch-gv2"), text, "f", "things")
    assert (error.value.code, error.value.location) == (400, "f")
