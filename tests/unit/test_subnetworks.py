from __future__ import annotations

import time

import pytest
import time_machine

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import subnetworks_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, recorded_rows
from tests.unit.made import ask, network
from translator_service import places
from translator_service.gce.naming import number
from translator_service.networking import networks, subnetworks
from translator_service.resources.networks import to_network
from translator_service.resources.subnetworks import to_subnetwork
from translator_service.scope import Scope

PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
ROW = recorded_rows("a-catalog", "listNetworks")[0]


def test_mapping(scope: Scope) -> None:
    zone = places.resolve_zone(scope, "ch-zh-1")
    found = to_subnetwork(scope, subnetworks.Subnetwork("net-a", "net-a", zone, ROW))
    assert found.kind == "compute#subnetwork"
    assert found.id == number(ROW["id"])
    assert found.creationTimestamp == "2026-11-22T15:24:26.000-08:00"
    assert (found.ipCidrRange, found.gatewayAddress) == ("10.1.1.0/24", "10.1.1.1")
    assert found.region == f"{PROJECT}/regions/ch-zh"
    assert found.selfLink == f"{PROJECT}/regions/ch-zh/subnetworks/net-a"
    assert found.network == f"{PROJECT}/global/networks/net-a"
    assert (found.purpose, found.stackType, found.state) == ("PRIVATE", "IPV4_ONLY", "READY")
    assert found.privateIpv6GoogleAccess == "DISABLE_GOOGLE_ACCESS"
    assert len(found.fingerprint) == 8
    moved = {**ROW, "cidr": "10.1.2.0/24"}
    other = to_subnetwork(scope, subnetworks.Subnetwork("net-a", "net-a", zone, moved))
    assert other.fingerprint != found.fingerprint


def test_list_of_a_region(scope: Scope, simulated: Cloud) -> None:
    for region, name in (("ch", "default"), ("ch-zh", "net-a")):
        found = ask(scope, "Subnetworks.List", common_pb2.ListInRegionRequest(project="demo", region=region))
        assert [item.name for item in found.items] == [name]
    assert simulated.calls == {"listNetworks": 1, "listZones": 1}


def test_aggregated(scope: Scope) -> None:
    request = common_pb2.AggregatedListRequest(project="demo", filter="name=net-a")
    found = ask(scope, "Subnetworks.AggregatedList", request)
    assert sorted(found.items) == ["regions/ch", "regions/ch-zh"]
    assert found.items["regions/ch"].warning.code == "NO_RESULTS_ON_PAGE"
    assert [item.name for item in found.items["regions/ch-zh"].subnetworks] == ["net-a"]


def test_get_by_every_name(scope: Scope) -> None:
    row = networks.members(scope, "default")[0]
    for name in ("default", row["id"], row["name"], str(number(row["id"]))):
        found = ask(scope, "Subnetworks.Get", pb.GetSubnetworkRequest(project="demo", region="ch", subnetwork=name))
        assert (found.name, found.ipCidrRange) == ("default", "10.147.0.0/16")


@pytest.mark.parametrize(
    ("region", "name", "path"),
    [("ch", "net-a", "regions/ch/subnetworks/net-a"), ("nowhere", "default", "regions/nowhere")],
)
def test_get_unknown(scope: Scope, region: str, name: str, path: str) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "Subnetworks.Get", pb.GetSubnetworkRequest(project="demo", region=region, subnetwork=name))
    assert error.value.message == f"The resource 'projects/demo/{path}' was not found"


def test_several_of_a_network_in_one_region(scope: Scope) -> None:
    scope.names.regions.update({"ch-gv2": "here", "ch-zh-1": "here"})
    own = network(scope, "default")
    found = ask(scope, "Subnetworks.List", common_pb2.ListInRegionRequest(project="demo", region="here"))
    assert [item.name for item in found.items] == ["default-ch-gv2", "default-ch-zh-1", "net-a"]
    assert {item.network for item in found.items[:2]} == {f"{PROJECT}/global/networks/default"}
    assert subnetworks.name_of(scope, own["id"]) == "default-ch-zh-1"
    assert len(to_network(scope, "default", networks.members(scope, "default")).subnetworks) == 2


@pytest.mark.parametrize("zone", ["ch-gv2", "ch-zh-1"])
def test_a_network_in_several_zones_of_a_region_has_a_subnetwork_of_its_name(scope: Scope, zone: str) -> None:
    """Clients make it of the network's; an instance gets the part in its zone."""
    scope.names.regions.update({"ch-gv2": "here", "ch-zh-1": "here"})
    network(scope, "default")
    found = ask(scope, "Subnetworks.Get", pb.GetSubnetworkRequest(project="demo", region="here", subnetwork="default"))
    assert found.name.startswith("default-")
    place = places.resolve_zone(scope, zone)
    row = subnetworks.for_instance(scope, place, "", "regions/here/subnetworks/default")
    assert row["zoneid"] == place.id


def test_names_never_collide(scope: Scope) -> None:
    network(scope, "default")
    with time_machine.travel(time.time() + 2):
        second = network(scope, "Default")
    found = ask(scope, "Subnetworks.List", common_pb2.ListInRegionRequest(project="demo", region="ch-zh"))
    expected = ["default-ch-zh-1", f"default-ch-zh-1-{second['id'][:8]}", "net-a"]
    assert [item.name for item in found.items] == expected


def test_name_of_what_cannot_be_seen(scope: Scope) -> None:
    assert subnetworks.name_of(scope, "33333333-1111-4111-8111-111111111111") == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("regions/ch-zh/subnetworks/nope", 404),
        ("projects/x/regions/ch-zh/subnetworks/net-a", 404),
        ("zones/z/disks/d", 400),
    ],
)
def test_resolve_refused(scope: Scope, text: str, code: int) -> None:
    with pytest.raises(ApiError) as error:
        subnetworks.resolve(scope, text, places.resolve_zone(scope, "ch-zh-1"), "resource.subnetwork")
    assert error.value.code == code


def test_resolve_in_a_region_by_cloudstacks_own_name(scope: Scope) -> None:
    zone = places.resolve_zone(scope, "ch-zh-1")
    assert subnetworks.resolve(scope, "regions/CH-ZH/subnetworks/net-a", zone, "f").name == "net-a"
    with pytest.raises(ApiError) as error:
        subnetworks.resolve(scope, "regions/CH/subnetworks/net-a", zone, "f")
    assert error.value.code == 400
