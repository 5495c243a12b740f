from __future__ import annotations

import pytest

from gstack.compute.v1 import addresses_pb2 as pb
from gstack.compute.v1 import common_pb2
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask, first, job, machine, tag
from translator_service.gce.naming import number
from translator_service.kept import details
from translator_service.places import Zone
from translator_service.resources import addresses
from translator_service.scope import Scope

PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
ZONE = Zone("ch-zh-1", "a4fe2e11-8416-4893-91e3-56fee3ef9cfa", "ch-zh", False)
(STATIC_NAT,) = recorded_rows("f-network", "listPublicIpAddresses with static NAT")
(RESERVED,) = recorded_rows("f-network", "listPublicIpAddresses reserved by tag")
SOURCE_NAT, IDLE = recorded_rows("f-network", "listPublicIpAddresses by network")


def test_static_nat(scope: Scope) -> None:
    found = addresses.to_address(scope, ZONE, STATIC_NAT)
    assert (found.kind, found.id) == ("compute#address", number(STATIC_NAT["id"]))
    assert (found.name, found.address, found.status) == ("address-192-168-2-5", "192.168.2.5", "IN_USE")
    assert list(found.users) == [f"{PROJECT}/zones/ch-zh-1/instances/vm-1"]
    assert found.selfLink == f"{PROJECT}/regions/ch-zh/addresses/address-192-168-2-5"
    assert found.region == f"{PROJECT}/regions/ch-zh"
    assert found.creationTimestamp == "2026-11-22T15:35:37.000-08:00"
    assert (found.networkTier, found.addressType, found.ipVersion) == ("PREMIUM", "EXTERNAL", "IPV4")
    assert len(found.labelFingerprint) == 8


def test_reserved_with_a_name(scope: Scope) -> None:
    found = addresses.to_address(scope, ZONE, RESERVED)
    assert (found.name, found.status, list(found.users)) == ("addr-1", "RESERVED", [])


def test_idle_and_with_rules(scope: Scope) -> None:
    assert addresses.to_address(scope, ZONE, IDLE).status == "RESERVED"
    found = addresses.to_address(scope, ZONE, {**IDLE, "hasrules": True})
    assert (found.status, list(found.users)) == ("IN_USE", [])


def test_labels(scope: Scope) -> None:
    kept = [{"key": "gce-labels", "value": details.encode({"env": "test"})}]
    found = addresses.to_address(scope, ZONE, {**IDLE, "tags": kept})
    assert dict(found.labels) == {"env": "test"}
    assert found.labelFingerprint != addresses.to_address(scope, ZONE, IDLE).labelFingerprint


@pytest.mark.parametrize(
    "row",
    [SOURCE_NAT, {**IDLE, "tags": [{"key": "gce-ephemeral", "value": "true"}]}, {**IDLE, "state": "Allocating"}],
)
def test_hidden(row: dict[str, object]) -> None:
    assert addresses.is_shown(IDLE)
    assert not addresses.is_shown(row)


def test_names_of_duplicates() -> None:
    other = {**RESERVED, "id": "99999999-1111-4111-8111-111111111111", "allocated": "2026-11-23T00:00:00+0000"}
    assert [name for name, _ in addresses.names([other, RESERVED])] == ["addr-1", "addr-1-99999999"]


class TestMethods:
    @pytest.fixture(autouse=True)
    def make(self, scope: Scope) -> None:
        """web-1 with static NAT, an idle address with a name, an ephemeral one, a reserved one, and source NAT."""
        web = machine(scope, "web-1")
        network = web["nic"][0]["networkid"]
        self.nat, self.idle, self.ephemeral = (
            job(scope, "associateIpAddress", networkid=network)["id"] for _ in range(3)
        )
        scope.client.write("enableStaticNat", ipaddressid=self.nat, virtualmachineid=web["id"])
        tag(scope, "PublicIpAddress", self.idle, "gce-name", "idle")
        tag(scope, "PublicIpAddress", self.ephemeral, "gce-ephemeral", "true")
        free = first(scope, "listPublicIpAddresses", state="Free", forvirtualnetwork="true")
        scope.client.write("reserveIpAddress", id=free["id"])
        self.reserved, self.reserved_ip = free["id"], free["ipaddress"]

    def list(self, scope: Scope, region: str) -> list[str]:
        found = ask(scope, "Addresses.List", common_pb2.ListInRegionRequest(project="demo", region=region))
        return [item.name for item in found.items]

    def get(self, scope: Scope, name: str, region: str = "ch-zh") -> pb.Address:
        found = ask(scope, "Addresses.Get", pb.GetAddressRequest(project="demo", region=region, address=name))
        assert isinstance(found, pb.Address)
        return found

    def name(self, ip: str) -> str:
        return "address-" + ip.replace(".", "-")

    def test_list(self, scope: Scope, simulated: Cloud) -> None:
        nat = first(scope, "listPublicIpAddresses", id=self.nat)["ipaddress"]
        before = simulated.calls["listPublicIpAddresses"]
        assert self.list(scope, "ch-zh") == sorted([self.name(nat), self.name(self.reserved_ip), "idle"])
        assert simulated.calls["listPublicIpAddresses"] - before == 2

    def test_zone_with_security_groups_has_none(self, scope: Scope, simulated: Cloud) -> None:
        before = simulated.calls["listPublicIpAddresses"]
        assert self.list(scope, "ch") == []
        with pytest.raises(ApiError) as error:
            self.get(scope, "idle", "ch")
        assert error.value.message == "The resource 'projects/demo/regions/ch/addresses/idle' was not found"
        assert simulated.calls["listPublicIpAddresses"] == before

    def test_aggregated(self, scope: Scope) -> None:
        request = common_pb2.AggregatedListRequest(project="demo", filter="status = IN_USE")
        found = ask(scope, "Addresses.AggregatedList", request)
        assert found.items["regions/ch"].warning.code == "NO_RESULTS_ON_PAGE"
        (item,) = found.items["regions/ch-zh"].addresses
        assert list(item.users) == [f"{PROJECT}/zones/ch-zh-1/instances/web-1"]

    def test_get_by_tag_and_address(self, scope: Scope, simulated: Cloud) -> None:
        before = simulated.calls["listPublicIpAddresses"]
        assert self.get(scope, "idle").id == number(self.idle)
        assert simulated.calls["listPublicIpAddresses"] - before == 2
        found = self.get(scope, self.name(self.reserved_ip))
        assert (found.id, found.status) == (number(self.reserved), "RESERVED")
        assert simulated.calls["listPublicIpAddresses"] - before == 4

    def test_get_by_id(self, scope: Scope) -> None:
        for known in (self.idle, self.reserved):
            assert self.get(scope, known).id == number(known)
            assert self.get(scope, str(number(known))).id == number(known)

    def test_get_by_a_number_not_seen_before(self, scope: Scope) -> None:
        assert self.get(scope, str(number(self.idle))).name == "idle"

    def test_get_hidden_or_unknown(self, scope: Scope) -> None:
        for name in (
            self.ephemeral,
            "nope",
            "IDLE",
            "\U0001f600",
            "²",
            "address-192-0-2-250",
            "33333333-1111-4111-8111-111111111111",
        ):
            with pytest.raises(ApiError) as error:
                self.get(scope, name)
            assert error.value.code == 404

    def test_duplicate_names(self, scope: Scope) -> None:
        tag(scope, "PublicIpAddress", self.reserved, "gce-name", "idle")
        shown = f"idle-{self.reserved[:8]}"
        if shown not in self.list(scope, "ch-zh"):
            shown = f"idle-{self.idle[:8]}"
        assert {"idle", shown} <= set(self.list(scope, "ch-zh"))
        assert {self.get(scope, "idle").id, self.get(scope, shown).id} == {number(self.idle), number(self.reserved)}

    def test_other_accounts_see_nothing(self, scope_for: OpenScope) -> None:
        other = scope_for("ian@example.org", account="ian@example.org")
        assert self.list(other, "ch-zh") == []
        with pytest.raises(ApiError) as error:
            self.get(other, self.idle)
        assert error.value.code == 404
