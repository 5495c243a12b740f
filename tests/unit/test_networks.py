from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import networks_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.families.networks import networks_of
from simulator.world import Account, Network
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask, network
from translator_service import places
from translator_service.gce.naming import number
from translator_service.networking import networks, subnetworks
from translator_service.resources.subnetworks import to_subnetwork
from translator_service.scope import Scope

ROWS = recorded_rows("a-catalog", "listNetworks")
NET_A, SHARED = ROWS
LINK = "https://www.googleapis.com/compute/v1/projects/demo/global/networks/"


def rename(row: dict[str, Any], name: str, identity: str = "", created: str = "2026-11-23T00:00:00+0000") -> Any:
    return {**row, "name": name, "id": identity or row["id"], "created": created}


def test_shared_network_of_security_groups_is_default() -> None:
    index = networks.Networks(ROWS, "rfc1035")
    assert [name for name, _ in index] == ["default", "net-a"]
    assert index.name(SHARED["id"]) == "default"
    assert index.find("Shared SG enabled network") == SHARED
    assert index.find(str(number(SHARED["id"]))) == SHARED


def test_shared_network_without_security_groups_is_its_own() -> None:
    index = networks.Networks([{**SHARED, "service": []}], "rfc1035")
    assert [name for name, _ in index] == ["shared-sg-enabled-network"]


def test_default_has_members_of_several_zones_the_oldest_first() -> None:
    own = rename(NET_A, "default", "11111111-1111-4111-8111-111111111111")
    index = networks.Networks([own, SHARED, NET_A], "rfc1035")
    assert [name for name, _ in index] == ["default", "net-a"]
    assert [row["id"] for row in index.members("default")] == [SHARED["id"], own["id"]]
    assert index.name(own["id"]) == "default"
    assert index.find(own["id"]) == own


def test_same_name_twice_gets_a_suffix() -> None:
    other = rename(NET_A, "Net A", "22222222-1111-4111-8111-111111111111")
    index = networks.Networks([other, NET_A], "rfc1035")
    assert [name for name, _ in index] == ["net-a", "net-a-22222222"]
    assert index.members("net-a") == [NET_A]
    assert index.members("nothing") == []


def test_verbatim_names_tell_case() -> None:
    assert networks.is_default(rename(NET_A, "Default"), "rfc1035")
    assert not networks.is_default(rename(NET_A, "Default"), "verbatim")


def test_list(scope: Scope, simulated: Cloud) -> None:
    found = ask(scope, "Networks.List", common_pb2.ListRequest(project="demo"))
    assert found.kind == "compute#networkList"
    assert [item.name for item in found.items] == ["default", "net-a"]
    default, own = found.items
    assert default.autoCreateSubnetworks is True
    assert own.autoCreateSubnetworks is False and own.HasField("autoCreateSubnetworks")
    assert default.selfLink == LINK + "default"
    assert list(default.subnetworks) == [
        "https://www.googleapis.com/compute/v1/projects/demo/regions/ch/subnetworks/default"
    ]
    assert own.routingConfig.routingMode == "REGIONAL"
    assert (own.mtu, own.networkFirewallPolicyEnforcementOrder) == (1460, "AFTER_CLASSIC_FIREWALL")
    assert own.description == "Network A"
    assert own.creationTimestamp.endswith(".000-08:00") and not own.creationTimestamp.startswith("1969")
    ask(scope, "Networks.List", common_pb2.ListRequest(project="demo"))
    assert simulated.calls == {"listNetworks": 1, "listZones": 1}


def test_get_by_every_name(scope: Scope) -> None:
    row = networks.members(scope, "net-a")[0]
    for name in ("net-a", row["id"], row["id"].upper(), str(number(row["id"]))):
        found = ask(scope, "Networks.Get", pb.GetNetworkRequest(project="demo", network=name))
        assert (found.name, found.id) == ("net-a", number(row["id"]))
    shared = ask(scope, "Networks.Get", pb.GetNetworkRequest(project="demo", network="Shared SG enabled network"))
    assert shared.name == "default"


def test_get_unknown(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "Networks.Get", pb.GetNetworkRequest(project="demo", network="nope"))
    assert error.value.code == 404
    assert error.value.message == "The resource 'projects/demo/global/networks/nope' was not found"


def test_list_filter(scope: Scope) -> None:
    found = ask(scope, "Networks.List", common_pb2.ListRequest(project="demo", filter="name eq net-.*"))
    assert [item.name for item in found.items] == ["net-a"]


def test_project_sees_the_shared_network(scope_for: OpenScope, simulated: Cloud) -> None:
    """As recorded (k 59): one call with projectid answers the project's networks and the shared ones."""
    scope = scope_for("webshop")
    found = ask(scope, "Networks.List", common_pb2.ListRequest(project="webshop"))
    assert [item.name for item in found.items] == ["default"]
    assert simulated.calls["listNetworks"] == 1


def test_other_accounts_networks_are_not_seen(scope_for: OpenScope) -> None:
    scope = scope_for("ian@example.org", account="ian@example.org")
    found = ask(scope, "Networks.List", common_pb2.ListRequest(project="ian@example.org"))
    assert [item.name for item in found.items] == ["default"]


def test_name_of(scope: Scope) -> None:
    row = networks.members(scope, "default")[0]
    assert networks.name_of(scope, row["id"], "x") == "default"
    assert networks.name_of(scope, "33333333-1111-4111-8111-111111111111", "Not Seen") == "not-seen"


@pytest.mark.parametrize(
    "text",
    [
        "net-a",
        "global/networks/net-a",
        "projects/demo/global/networks/net-a",
        LINK + "net-a",
        "https://elsewhere/compute/beta/projects/demo/global/networks/net-a",
    ],
)
def test_resolve(scope: Scope, text: str) -> None:
    assert networks.resolve(scope, text, "resource.network") == "net-a"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("global/networks/nope", 404),
        ("projects/other/global/networks/net-a", 404),
        ("global/firewalls/net-a", 400),
        ("zones/ch-gv2/networks/net-a", 400),
    ],
)
def test_resolve_refused(scope: Scope, text: str, code: int) -> None:
    with pytest.raises(ApiError) as error:
        networks.resolve(scope, text, "resource.network")
    assert error.value.code == code
    if code == 400:
        assert error.value.location == "resource.network"


def test_members_of_nothing(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        networks.members(scope, "nope")
    assert error.value.code == 404


def test_zone_of(scope: Scope) -> None:
    zone = networks.zone_of(scope, networks.members(scope, "net-a")[0])
    assert zone is not None and zone.name == "ch-zh-1"
    assert networks.zone_of(scope, {"zoneid": "44444444-1111-4111-8111-111111111111"}) is None


class TestForInstance:
    def get(self, scope: Scope, zone: str, network: str = "", subnetwork: str = "") -> str:
        return str(subnetworks.for_instance(scope, places.resolve_zone(scope, zone), network, subnetwork)["name"])

    def refused(self, scope: Scope, *arguments: str) -> ApiError:
        with pytest.raises(ApiError) as error:
            self.get(scope, *arguments)
        return error.value

    def test_default(self, scope: Scope) -> None:
        assert self.get(scope, "ch-gv2") == "Shared SG enabled network"
        assert self.get(scope, "ch-gv2", "global/networks/default") == "Shared SG enabled network"

    def test_default_is_no_other_network(self, scope: Scope) -> None:
        """Its rules would not reach the instance there."""
        for text in ("", LINK + "default"):
            error = self.refused(scope, "ch-zh-1", text)
            assert (error.code, error.location) == (400, "resource.networkInterfaces[0].network")
            assert error.message.endswith("zone 'ch-zh-1'. Networks of the zone: 'net-a'.")

    def test_default_among_several(self, scope: Scope) -> None:
        network(scope, "net-b")
        error = self.refused(scope, "ch-zh-1")
        assert (error.code, error.location) == (400, "resource.networkInterfaces[0].network")
        assert error.message.endswith("zone 'ch-zh-1'. Networks of the zone: 'net-a', 'net-b'.")

    def test_default_by_name(self, scope: Scope) -> None:
        network(scope, "default")
        assert self.get(scope, "ch-zh-1") == "default"
        assert self.get(scope, "ch-gv2") == "Shared SG enabled network"

    def test_default_in_a_zone_without_any(self, scope_for: OpenScope) -> None:
        error = self.refused(scope_for("ian@example.org", account="ian@example.org"), "ch-zh-1")
        assert error.code == 400
        assert error.message.endswith("The zone has no network.")

    def test_network_of_another_zone(self, scope: Scope) -> None:
        error = self.refused(scope, "ch-gv2", "global/networks/net-a")
        assert (error.code, error.location) == (400, "resource.networkInterfaces[0].network")
        assert "'default'" in error.message

    def test_unknown_network(self, scope: Scope) -> None:
        assert self.refused(scope, "ch-gv2", "nope").code == 404

    def test_by_subnetwork(self, scope: Scope) -> None:
        assert self.get(scope, "ch-zh-1", "", "regions/ch-zh/subnetworks/net-a") == "net-a"
        assert self.get(scope, "ch-zh-1", "net-a", "net-a") == "net-a"

    def test_subnetwork_of_another_network(self, scope: Scope) -> None:
        error = self.refused(scope, "ch-zh-1", "default", "net-a")
        assert (error.code, error.location) == (400, "resource.networkInterfaces[0].subnetwork")

    def test_subnetwork_of_another_region(self, scope: Scope) -> None:
        error = self.refused(scope, "ch-gv2", "", "regions/ch-zh/subnetworks/net-a")
        assert (error.code, error.location) == (400, "resource.networkInterfaces[0].subnetwork")

    def test_unknown_subnetwork(self, scope: Scope) -> None:
        error = self.refused(scope, "ch-gv2", "", "nope")
        assert error.message == "The resource 'projects/demo/regions/ch/subnetworks/nope' was not found"

    def test_subnetwork_of_another_zone_of_the_region(self, scope: Scope) -> None:
        scope.names.regions.update({"ch-gv2": "here", "ch-zh-1": "here"})
        error = self.refused(scope, "ch-gv2", "net-a", "net-a")
        assert (error.code, error.location) == (400, "resource.networkInterfaces[0].subnetwork")

    def test_a_network_made_elsewhere_just_now(self, scope: Scope) -> None:
        assert self.get(scope, "ch-zh-1", "net-a") == "net-a"
        network(scope, "net-b")
        scope.forget(networks.kind(scope))
        assert self.get(scope, "ch-zh-1", "net-b") == "net-b"


# What others lend

LENDER = {"account": "mallory", "created": "2000-01-01T00:00:00+0000"}


def lent(row: dict[str, Any]) -> bool:
    return row.get("account") == "mallory"


@pytest.mark.parametrize("lender", [SHARED, NET_A])
@pytest.mark.parametrize("name", ["default", "Default", "net-a", "Net A", "Shared SG enabled network", NET_A["id"]])
def test_a_network_that_another_account_lends_takes_no_name(lender: dict[str, Any], name: str) -> None:
    identity = "99999999-1111-4111-8111-111111111111"
    theirs = {**lender, "id": identity, "name": name, **LENDER}
    index = networks.Networks([theirs, *ROWS], "rfc1035", lent)
    assert index.members("default") == [SHARED]
    assert index.find("net-a") == index.find(NET_A["id"]) == NET_A
    assert index.find("Shared SG enabled network") == SHARED
    assert index.name(identity) not in (None, "default", "net-a")
    assert index.find(identity) == theirs
    assert index.rows[-1] == theirs
    assert networks.Networks([theirs], "rfc1035", lent).members("default") == []


def _lend(simulated: Cloud, name: str) -> Network:
    """A network in the zone with isolated ones that another account lets everybody use."""
    world = simulated.app.world
    net_a = next(row for row in world.all(Network) if row.name == "net-a")
    owner = next(row for row in world.all(Account) if row.name == "ian@example.org")
    alike = {key: getattr(net_a, key) for key in ("zone", "cidr", "gateway", "state", "offering_name", "offering_id")}
    made = world.add(
        Network, name=name, display_text="Network A", account=owner, type="Shared", created=world.now, **alike
    )
    networks_of(world).put(made)
    return made


def test_a_lent_network_is_used_by_its_own_name_only(scope: Scope, simulated: Cloud) -> None:
    zone = places.resolve_zone(scope, "ch-zh-1")
    theirs = _lend(simulated, "default")
    found = {item.id: item for item in ask(scope, "Networks.List", common_pb2.ListRequest(project="demo")).items}
    shown = found[number(theirs.id)]
    assert shown.name == f"default-{theirs.id[:8]}"
    assert shown.description == "Network A (of ian@example.org)"
    with pytest.raises(ApiError):
        subnetworks.for_instance(scope, zone, "", "")
    assert subnetworks.for_instance(scope, zone, f"global/networks/{shown.name}", "")["id"] == theirs.id
    (subnetwork,) = (one for one in subnetworks.table(scope).values() if one.row["id"] == theirs.id)
    assert subnetworks.find(scope, "ch-zh", "net-a").row["name"] == "net-a"
    assert to_subnetwork(scope, subnetwork).description == "Network A (of ian@example.org)"
