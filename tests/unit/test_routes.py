from __future__ import annotations

import re

import pytest

from gstack.compute.v1 import routes_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, recorded_rows
from tests.unit.made import ask, network
from translator_service.resources import routes
from translator_service.scope import Scope

PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
ROW = recorded_rows("a-catalog", "listNetworks")[0]


def listed(scope: Scope, expression: str = "") -> list[pb.Route]:
    return list(ask(scope, "Routes.List", pb.ListRoutesRequest(project="demo", filter=expression)).items)


def test_default_route(scope: Scope) -> None:
    found = routes.default_route(scope, "net-a", ROW)
    assert re.fullmatch("default-route-[0-9a-f]{8}", found.name)
    assert (found.destRange, found.priority, found.routeType) == ("0.0.0.0/0", 1000, "STATIC")
    assert found.nextHopGateway == f"{PROJECT}/global/gateways/default-internet-gateway"
    assert not found.nextHopNetwork
    assert found.network == f"{PROJECT}/global/networks/net-a"
    assert found.selfLink == f"{PROJECT}/global/routes/{found.name}"
    assert found.creationTimestamp == "2026-11-22T23:24:26.000+00:00"


def test_subnet_route(scope: Scope) -> None:
    found = routes.subnet_route(scope, "net-a", ROW)
    assert found.name != routes.default_route(scope, "net-a", ROW).name
    assert found.HasField("priority") and found.priority == 0
    assert (found.destRange, found.routeType) == ("10.1.1.0/24", "SUBNET")
    assert found.nextHopNetwork == f"{PROJECT}/global/networks/net-a"
    assert not found.nextHopGateway


def test_list_is_stable(scope: Scope, simulated: Cloud) -> None:
    found = listed(scope)
    assert sorted(route.destRange for route in found) == ["0.0.0.0/0", "0.0.0.0/0", "10.1.1.0/24", "10.147.0.0/16"]
    assert len({route.name for route in found}) == len({route.id for route in found}) == 4
    assert listed(scope) == found
    assert simulated.calls == {"listNetworks": 1, "listZones": 1}


def test_one_default_route_for_a_network_of_several_zones(scope: Scope) -> None:
    network(scope, "default")
    found = listed(scope, f'network="{PROJECT}/global/networks/default"')
    assert sorted(route.priority for route in found) == [0, 0, 1000]


def test_filter_of_clients(scope: Scope) -> None:
    link = f"{PROJECT}/global/networks/net-a"
    found = listed(scope, f'(network="{link}") AND (destRange="0.0.0.0/0")')
    assert [(route.network, route.priority) for route in found] == [(link, 1000)]


def test_get(scope: Scope) -> None:
    for route in listed(scope):
        assert ask(scope, "Routes.Get", pb.GetRouteRequest(project="demo", route=route.name)) == route
        assert ask(scope, "Routes.Get", pb.GetRouteRequest(project="demo", route=str(route.id))) == route
    with pytest.raises(ApiError) as error:
        ask(scope, "Routes.Get", pb.GetRouteRequest(project="demo", route="nope"))
    assert error.value.message == "The resource 'projects/demo/global/routes/nope' was not found"
