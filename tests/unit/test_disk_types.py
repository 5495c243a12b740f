from __future__ import annotations

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import disk_types_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.world import DiskOffering, Zone
from tests.conftest import Cloud, recorded_rows
from tests.unit.made import ask
from translator_service import places
from translator_service.resources import disk_types
from translator_service.scope import Scope

ROWS = {row["name"]: row for row in recorded_rows("a-catalog", "listDiskOfferings")}
PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"


def resolved(scope: Scope, text: str, zone: str = "ch-gv2") -> str:
    """Name of the offering."""
    row = disk_types.resolve(scope, places.resolve_zone(scope, zone), text, "resource.type").row
    return str(row["name"]) if row else ""


def for_boot_disk(scope: Scope, text: str) -> tuple[str, str]:
    found = disk_types.for_boot_disk(scope, places.resolve_zone(scope, "ch-gv2"), text, "f")
    return found.name, found.row["name"] if found.row else ""


def got(scope: Scope, name: str) -> pb.DiskType:
    found: pb.DiskType = ask(
        scope, "DiskTypes.Get", pb.GetDiskTypeRequest(project="demo", zone="ch-gv2", diskType=name)
    )
    return found


def names(scope: Scope, zone: str = "ch-gv2") -> list[str]:
    return [
        item.name
        for item in ask(scope, "DiskTypes.List", common_pb2.ListInZoneRequest(project="demo", zone=zone)).items
    ]


def only(simulated: Cloud, *offerings: tuple[str, int]) -> None:
    """The cloud with these disk offerings: name and size, 0 for one that is chosen."""
    world = simulated.app.world
    for row in world.all(DiskOffering):
        world.purge(row)
    for name, size in offerings:
        world.add(DiskOffering, name=name, display_text=name, size=size, customized=not size)


def test_names_of_a_recorded_cloud(scope: Scope) -> None:
    index = disk_types.kind(scope).build(list(ROWS.values()))
    shown = {row["name"]: name for name, row in index}
    assert shown == {
        "SSD": "pd-ssd",
        "Custom": "pd-standard",
        "Standard": "standard",
        "Small": "small",
        "Medium": "medium",
        "Large": "large",
        "20GB": "x-20gb",
    }


def test_mapping(scope: Scope) -> None:
    zone = places.resolve_zone(scope, "ch-gv2")
    fixed = disk_types.to_disk_type(scope, zone, "x-20gb", ROWS["20GB"])
    assert (fixed.kind, fixed.validDiskSize, fixed.defaultDiskSizeGb) == ("compute#diskType", "20GB-20GB", 20)
    assert (fixed.description, fixed.zone) == ("Fixed 20 GB disk", f"{PROJECT}/zones/ch-gv2")
    assert fixed.selfLink == f"{PROJECT}/zones/ch-gv2/diskTypes/x-20gb"
    assert fixed.creationTimestamp == "2026-11-22T15:21:05.000-08:00"
    assert disk_types.to_disk_type(scope, zone, "pd-ssd", ROWS["SSD"]).validDiskSize == "1GB-1024GB"


def test_list(scope: Scope, simulated: Cloud) -> None:
    assert names(scope) == names(scope) == ["pd-ssd", "pd-standard", "small"]
    assert simulated.calls == {"listDiskOfferings": 1, "listZones": 1}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pd-ssd", "SSD"),
        ("pd-standard", "Standard"),
        ("zones/ch-gv2/diskTypes/pd-ssd", "SSD"),
        ("https://www.googleapis.com/compute/v1/projects/demo/zones/ch-gv2/diskTypes/pd-standard", "Standard"),
        ("SSD", "SSD"),
        ("ssd", "SSD"),
        ("standard", "Standard"),
        ("small", "Small"),
    ],
)
def test_resolve(scope: Scope, text: str, name: str) -> None:
    assert resolved(scope, text) == name


def test_resolve_by_ids(scope: Scope) -> None:
    row = disk_types.resolve(scope, places.resolve_zone(scope, "ch-gv2"), "pd-ssd", "f").row
    assert row
    assert resolved(scope, row["id"]) == resolved(scope, str(got(scope, "pd-ssd").id)) == "SSD"


@pytest.mark.parametrize("text", ["pd-extreme", "zones/ch-gv2/diskTypes/hyperdisk-balanced", "nope"])
def test_unknown(scope: Scope, text: str) -> None:
    with pytest.raises(ApiError) as error:
        resolved(scope, text)
    name = text.rpartition("/")[2]
    assert error.value.message == f"The resource 'projects/demo/zones/ch-gv2/diskTypes/{name}' was not found"
    assert error.value.code == 404


@pytest.mark.parametrize("text", ["zones/ch-zh-1/diskTypes/pd-ssd", "global/images/pd-ssd"])
def test_references_to_something_else(scope: Scope, text: str) -> None:
    with pytest.raises(ApiError) as error:
        resolved(scope, text)
    assert (error.value.code, error.value.location) == (400, "resource.type")


def test_cloud_without_ssd(scope: Scope, simulated: Cloud) -> None:
    only(simulated, ("Gold", 0), ("Fast SSD", 50))
    assert names(scope) == ["fast-ssd", "pd-standard"]
    for name in ("pd-ssd", "pd-balanced", "pd-standard"):
        assert resolved(scope, name) == "Gold"
        assert got(scope, name).name == name


def test_the_usual_names_are_there(scope: Scope, simulated: Cloud) -> None:
    assert resolved(scope, "zones/ch-gv2/diskTypes/pd-balanced") in ("SSD", "Standard")
    shown = got(scope, "pd-balanced")
    assert (shown.name, shown.validDiskSize) == ("pd-balanced", "1GB-1024GB")
    assert shown.selfLink == f"{PROJECT}/zones/ch-gv2/diskTypes/pd-balanced"
    assert names(scope) == ["pd-ssd", "pd-standard", "small"]
    assert simulated.calls == {"listDiskOfferings": 1, "listZones": 1}


def test_a_boot_disk_needs_no_offering(scope: Scope, simulated: Cloud) -> None:
    assert for_boot_disk(scope, "pd-standard") == ("pd-standard", "")
    assert for_boot_disk(scope, "pd-balanced") == ("pd-balanced", "")
    assert for_boot_disk(scope, "pd-ssd") == ("pd-ssd", "SSD")
    assert for_boot_disk(scope, "Small") == ("small", "Small")
    only(simulated, ("Fixed", 5))
    scope.forget(disk_types.kind(scope))
    for name in ("pd-standard", "pd-balanced", "pd-ssd"):
        assert for_boot_disk(scope, name) == (name, "")
        assert (got(scope, name).name, got(scope, name).description) == (name, "Of boot disks")
    assert names(scope) == ["fixed"]
    with pytest.raises(ApiError):
        for_boot_disk(scope, "pd-extreme")


def test_the_first_of_several(scope: Scope, simulated: Cloud) -> None:
    only(simulated, ("Local SSD", 0), ("Best SSD", 0), ("B", 0), ("A", 0))
    assert resolved(scope, "pd-ssd") == "Local SSD"
    assert resolved(scope, "pd-standard") == "B"
    assert names(scope) == ["a", "best-ssd", "pd-ssd", "pd-standard"]


def test_names_of_the_operator(scope: Scope) -> None:
    scope.names.disk_types.update({"Standard": "pd-ssd", "Small": "pd-balanced"})
    assert resolved(scope, "pd-ssd") == "Standard"
    assert resolved(scope, "pd-balanced") == "Small"
    assert for_boot_disk(scope, "pd-balanced") == ("pd-balanced", "Small")
    assert names(scope) == ["pd-balanced", "pd-ssd", "ssd"]


def test_name_of(scope: Scope) -> None:
    row = disk_types.resolve(scope, places.resolve_zone(scope, "ch-gv2"), "pd-ssd", "f").row
    assert row
    assert disk_types.name_of(scope, row["id"]) == "pd-ssd"
    assert disk_types.name_of(scope, None) == "pd-standard"


def test_offerings_of_one_zone(scope: Scope, simulated: Cloud) -> None:
    world = simulated.app.world
    zone = next(zone for zone in world.all(Zone) if zone.name == "CH-ZH-1")
    world.add(DiskOffering, name="Here", display_text="Here", size=5, zone=zone)
    assert "here" in names(scope, "ch-zh-1")
    assert "here" not in names(scope, "ch-gv2")


@pytest.mark.parametrize("everywhere", [False, True])
def test_aggregated(scope: Scope, everywhere: bool) -> None:
    request = common_pb2.AggregatedListRequest(project="demo", filter="name=pd-ssd", includeAllScopes=everywhere)
    found = ask(scope, "DiskTypes.AggregatedList", request)
    assert [item.name for item in found.items["zones/ch-zh-1"].diskTypes] == ["pd-ssd"]
    assert ("regions/ch" in found.items) is everywhere
