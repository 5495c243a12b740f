from __future__ import annotations

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import machine_types_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.world import ServiceOffering, Zone
from tests.conftest import Cloud, recorded_rows
from tests.unit.made import ask
from translator_service import places
from translator_service.resources import machine_types
from translator_service.scope import Scope

ROWS = {row["name"]: row for row in recorded_rows("a-catalog", "listServiceOfferings")}
PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
FIXED = ["extra-large", "huge", "large", "medium", "micro", "small", "tiny"]


def resolved(scope: Scope, text: str, zone: str = "ch-gv2") -> machine_types.MachineType:
    return machine_types.resolve(scope, places.resolve_zone(scope, zone), text, "resource.machineType")


def refused(scope: Scope, text: str, zone: str = "ch-gv2") -> ApiError:
    with pytest.raises(ApiError) as error:
        resolved(scope, text, zone)
    return error.value


def listed(scope: Scope, zone: str = "ch-gv2", expression: str = "") -> list[pb.MachineType]:
    request = common_pb2.ListInZoneRequest(project="demo", zone=zone, filter=expression)
    return list(ask(scope, "MachineTypes.List", request).items)


def offering(simulated: Cloud, name: str, **values: object) -> ServiceOffering:
    world = simulated.app.world
    given = {"display_text": name, "cpu_number": 1, "cpu_speed": 1000, "memory": 512, **values}
    return world.add(ServiceOffering, name=name, **given)


def test_mapping(scope: Scope) -> None:
    found = machine_types.to_machine_type(scope, places.resolve_zone(scope, "ch-gv2"), "small", ROWS["Small"])
    assert (found.kind, found.name, found.description) == ("compute#machineType", "small", "Small 2048MB 2 core")
    assert (found.guestCpus, found.memoryMb) == (2, 2048)
    assert found.HasField("isSharedCpu") and not found.isSharedCpu
    assert found.maximumPersistentDisks > 0 and found.maximumPersistentDisksSizeGb > 0
    assert found.zone == "ch-gv2"
    assert found.selfLink == f"{PROJECT}/zones/ch-gv2/machineTypes/small"
    assert found.creationTimestamp == "2026-11-22T15:21:04.000-08:00"


@pytest.mark.parametrize(
    ("zoneid", "expected"), [(None, True), ("", True), ("{id}", True), ("x,{id}", True), ("x", False)]
)
def test_offerings_of_some_zones(scope: Scope, zoneid: str | None, expected: bool) -> None:
    zone = places.resolve_zone(scope, "ch-gv2")
    row = {**ROWS["Small"], "zoneid": zoneid and zoneid.format(id=zone.id)}
    assert machine_types.in_zone(row, zone) is expected


def test_list(scope: Scope, simulated: Cloud) -> None:
    assert [item.name for item in listed(scope)] == FIXED
    assert listed(scope) == listed(scope)
    assert simulated.calls == {"listServiceOfferings": 1, "listZones": 1}


def test_list_shows_what_the_zone_has(scope: Scope, simulated: Cloud) -> None:
    zone = next(zone for zone in simulated.app.world.all(Zone) if zone.name == "CH-ZH-1")
    offering(simulated, "Only here", zone=zone)
    assert "only-here" in [item.name for item in listed(scope, "ch-zh-1")]
    assert "only-here" not in [item.name for item in listed(scope, "ch-gv2")]
    assert refused(scope, "only-here").code == 404
    assert resolved(scope, "only-here", "ch-zh-1").name == "only-here"


def test_filter(scope: Scope) -> None:
    assert [item.name for item in listed(scope, expression="guestCpus > 2")] == ["extra-large", "huge", "large"]


def test_unknown_zone(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        listed(scope, "nope")
    assert error.value.message == "The resource 'projects/demo/zones/nope' was not found"


@pytest.mark.parametrize("everywhere", [False, True])
def test_aggregated(scope: Scope, everywhere: bool) -> None:
    request = common_pb2.AggregatedListRequest(project="demo", filter="name=micro", includeAllScopes=everywhere)
    found = ask(scope, "MachineTypes.AggregatedList", request)
    of_zones = ["zones/ch-gv2", "zones/ch-zh-1"]
    assert sorted(found.items) == (["global", "regions/ch", "regions/ch-zh", *of_zones] if everywhere else of_zones)
    assert [item.name for item in found.items["zones/ch-gv2"].machineTypes] == ["micro"]
    if everywhere:
        assert found.items["global"].warning.code == "NO_RESULTS_ON_PAGE"


@pytest.mark.parametrize(
    "text",
    [
        "small",
        "Small",
        "zones/ch-gv2/machineTypes/small",
        "/zones/ch-gv2/machineTypes/small",
        "projects/demo/zones/ch-gv2/machineTypes/small",
        "https://elsewhere/compute/beta/projects/demo/zones/CH-GV2/machineTypes/small",
    ],
)
def test_resolve(scope: Scope, text: str) -> None:
    found = resolved(scope, text)
    assert (found.name, found.row["name"], found.details) == ("small", "Small", {})


def test_resolve_by_ids(scope: Scope) -> None:
    found = resolved(scope, "small")
    assert resolved(scope, found.row["id"]) == found
    number = ask(
        scope, "MachineTypes.Get", pb.GetMachineTypeRequest(project="demo", zone="ch-gv2", machineType="small")
    ).id
    assert resolved(scope, str(number)) == found


def test_unknown(scope: Scope) -> None:
    for name in ("n1-standard-3", "e2-standard-32", "e2-mega"):
        error = refused(scope, f"projects/demo/zones/ch-gv2/machineTypes/{name}")
        assert error.code == 404
        assert error.message == f"The resource 'projects/demo/zones/ch-gv2/machineTypes/{name}' was not found"


@pytest.mark.parametrize("text", ["zones/ch-zh-1/machineTypes/small", "zones/ch-gv2/disks/small", ""])
def test_references_to_something_else(scope: Scope, text: str) -> None:
    error = refused(scope, text)
    assert (error.code, error.location) == (400, "resource.machineType")


@pytest.mark.parametrize(
    "text",
    ["custom-2-4096", "/zones/ch-gv2/machineTypes/custom-2-4096", "e2-custom-2-4096", "n2d-custom-2-4096-ext",
     "zones/ch-gv2/machineTypes/e2-custom-2-4096", "custom-2-4096-ext"],
)  # fmt: skip
def test_custom(scope: Scope, text: str) -> None:
    found = resolved(scope, text)
    assert found.name == found.kept == text.rpartition("/")[2]
    assert (found.row["name"], found.details) == ("Custom", {"cpuNumber": "2", "memory": "4096"})


@pytest.mark.parametrize("name", ["e2-custom-micro-2048", "e2-custom-small-4096", "e2-custom-medium-6912"])
def test_custom_with_a_share_of_two_cpus(scope: Scope, name: str) -> None:
    memory = name.rpartition("-")[2]
    found = resolved(scope, name)
    assert (found.kept, found.row["name"], found.details) == (name, "Custom", {"cpuNumber": "2", "memory": memory})
    shown = ask(scope, "MachineTypes.Get", pb.GetMachineTypeRequest(project="demo", zone="ch-gv2", machineType=name))
    assert (shown.name, shown.guestCpus, shown.memoryMb, shown.isSharedCpu) == (name, 2, int(memory), True)
    assert refused(scope, "e2-custom-micro-65536").code == 400
    assert refused(scope, "n1-custom-micro-2048").code == 404


def test_custom_where_no_size_is_free(scope: Scope, simulated: Cloud) -> None:
    without_free_sizes(simulated)
    found = resolved(scope, "e2-custom-2-4096")
    assert (found.name, found.row["name"], found.details) == ("e2-custom-2-4096", "Medium", {})
    assert refused(scope, "e2-custom-2-4097").code == 400


def without_free_sizes(simulated: Cloud) -> None:
    for row in simulated.app.world.all(ServiceOffering):
        if row.customized:
            simulated.app.world.purge(row)


@pytest.mark.parametrize(
    ("name", "offering", "size"),
    [
        ("e2-medium", "Medium", None),
        ("e2-small", "Small", None),
        ("e2-micro", "Custom", (2, 1024)),
        ("f1-micro", "Custom", (1, 614)),
        ("g1-small", "Custom", (1, 1740)),
        ("e2-standard-2", "Custom", (2, 8192)),
        ("e2-standard-8", "Custom", (8, 32768)),
        ("n1-standard-1", "Custom", (1, 3840)),
        ("n1-standard-4", "Custom", (4, 15360)),
        ("n1-highmem-2", "Custom", (2, 13312)),
        ("n1-highcpu-4", "Custom", (4, 3686)),
        ("n2-highcpu-8", "Custom", (8, 8192)),
        ("n2d-standard-4", "Extra-large", None),
        ("c2-standard-4", "Extra-large", None),
        ("t2d-standard-1", "Custom", (1, 4096)),
    ],
)
def test_names_of_google(scope: Scope, name: str, offering: str, size: tuple[int, int] | None) -> None:
    found = resolved(scope, f"zones/ch-gv2/machineTypes/{name}")
    assert (found.name, found.row["name"]) == (name, offering)
    assert found.details == ({"cpuNumber": str(size[0]), "memory": str(size[1])} if size else {})
    request = pb.GetMachineTypeRequest(project="demo", zone="ch-gv2", machineType=name)
    shown = ask(scope, "MachineTypes.Get", request)
    assert (shown.name, shown.guestCpus, shown.memoryMb) == (name, *machine_types.PREDEFINED[name])
    assert shown.selfLink == f"{PROJECT}/zones/ch-gv2/machineTypes/{name}"
    assert shown.isSharedCpu == (name in ("e2-micro", "e2-small", "e2-medium", "f1-micro", "g1-small"))
    assert [item.name for item in listed(scope)] == FIXED


def test_a_name_of_google_costs_no_question(scope: Scope, simulated: Cloud) -> None:
    for name in ("e2-medium", "e2-standard-2", "e2-custom-2-4096"):
        resolved(scope, name)
    assert simulated.calls == {"listServiceOfferings": 1, "listZones": 1}


def test_a_name_of_google_where_no_size_is_free(scope: Scope, simulated: Cloud) -> None:
    without_free_sizes(simulated)
    assert resolved(scope, "e2-medium").row["name"] == "Medium"
    assert refused(scope, "n1-standard-1").code == 404


def test_names_of_the_operator(scope: Scope) -> None:
    scope.names.machine_types.update({"Tiny": "e2-micro", "Large": "n1-standard-2"})
    found = resolved(scope, "e2-micro")
    assert (found.name, found.row["name"], found.details, found.kept) == ("e2-micro", "Tiny", {}, "")
    assert resolved(scope, "Tiny").name == "e2-micro"
    assert {"e2-micro", "n1-standard-2"} < {item.name for item in listed(scope)}
    machine = {"serviceofferingid": found.row["id"], "cpunumber": 1, "memory": 1024}
    assert machine_types.name_of(scope, places.resolve_zone(scope, "ch-gv2"), machine) == "e2-micro"


def test_a_kept_name_is_good_while_the_machine_has_its_size(scope: Scope) -> None:
    zone, row = places.resolve_zone(scope, "ch-gv2"), resolved(scope, "e2-standard-2").row
    machine = {"serviceofferingid": row["id"], "cpunumber": 2, "memory": 8192}
    for name in ("e2-standard-2", "e2-custom-2-8192", "n2-custom-2-8192-ext"):
        assert machine_types.name_of(scope, zone, machine, name) == name
        assert machine_types.name_of(scope, zone, {**machine, "memory": 4096}, name) == "custom-2-4096"
    assert machine_types.name_of(scope, zone, machine, "whatever") == "custom-2-8192"


@pytest.mark.parametrize("text", ["custom-9-4096", "custom-2-256", "custom-0-1024", "custom-8-32769"])
def test_custom_outside_the_bounds(scope: Scope, text: str) -> None:
    error = refused(scope, text)
    assert (error.code, error.location) == (400, "resource.machineType")
    assert text in error.message


@pytest.mark.parametrize("text", ["custom-8-32768", "custom-1-512"])
def test_custom_at_the_bounds(scope: Scope, text: str) -> None:
    assert resolved(scope, text).name == text


def test_custom_without_bounds(scope: Scope, simulated: Cloud) -> None:
    offering(simulated, "Any", customized=True, cpu_number=None, cpu_speed=None, memory=None)
    found = resolved(scope, "custom-9-4096")
    assert found.row["name"] == "Any"
    assert found.details == {"cpuNumber": "9", "memory": "4096", "cpuSpeed": "1000"}
    # The one with bounds is taken where it fits, although the other comes first by name.
    assert resolved(scope, "custom-2-4096").row["name"] == "Custom"


def test_customized_offerings_have_no_name_of_their_own(scope: Scope) -> None:
    assert refused(scope, "custom").code == 404


def test_get(scope: Scope, simulated: Cloud) -> None:
    request = pb.GetMachineTypeRequest(project="demo", zone="ch-gv2", machineType="large")
    found = ask(scope, "MachineTypes.Get", request)
    assert (found.name, found.guestCpus, found.memoryMb) == ("large", 4, 8182)
    assert found in listed(scope)
    assert simulated.calls == {"listServiceOfferings": 1, "listZones": 1}


def test_get_custom(scope: Scope) -> None:
    request = pb.GetMachineTypeRequest(project="demo", zone="ch-gv2", machineType="custom-2-4096")
    found = ask(scope, "MachineTypes.Get", request)
    assert (found.name, found.guestCpus, found.memoryMb) == ("custom-2-4096", 2, 4096)
    assert found.selfLink.endswith("/zones/ch-gv2/machineTypes/custom-2-4096")


def test_name_of_a_machine(scope: Scope) -> None:
    zone = places.resolve_zone(scope, "ch-gv2")
    fixed = {"serviceofferingid": resolved(scope, "small").row["id"], "serviceofferingname": "Small"}
    assert machine_types.name_of(scope, zone, fixed) == "small"
    free = {"serviceofferingid": resolved(scope, "custom-2-4096").row["id"], "cpunumber": 2, "memory": 4096}
    assert machine_types.name_of(scope, zone, free) == "custom-2-4096"
    withdrawn = {"serviceofferingid": "00000000-0000-4000-8000-000000000001", "serviceofferingname": "Old One"}
    assert machine_types.name_of(scope, zone, withdrawn) == "old-one"


def test_names_that_two_offerings_share(scope: Scope, simulated: Cloud) -> None:
    younger = offering(simulated, "small", memory=1, created=simulated.app.world.now + 1000)
    names = [item.name for item in listed(scope) if item.name.startswith("small")]
    assert names == ["small", f"small-{younger.id[:8]}"]
    assert resolved(scope, "small").row["name"] == "Small"
