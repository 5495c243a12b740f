"""Links out, and every spelling of a reference that clients send."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gstack.kernel.errors import ApiError
from translator_service.gce.links import Links, Reference, parse

LINKS = Links("https://www.googleapis.com/compute/v1", "demo")
MACHINE_TYPE = Reference("small", "machineTypes", "zones/z", "p")

names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("projects", "global", "zones", "regions", "images", "family", "compute")
)
wide_names = st.text("aZ9 .@:+#?&=ü-_", min_size=1, max_size=20).filter(
    lambda name: name.strip() and name not in (".", "..")
)
scopes = st.one_of(
    st.just(()), st.just(("global",)), st.tuples(st.just("zones"), names), st.tuples(st.just("regions"), names)
)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("https://www.googleapis.com/compute/v1/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("https://compute.googleapis.com/compute/v1/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("https://www.googleapis.com/compute/beta/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("https://www.googleapis.com/compute/v1beta16/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("http://127.0.0.1:5000/compute/v1/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("https://gw.example.org/prefix/compute/v1/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("compute/v1/projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("compute/v1//projects/p/zones/z/machineTypes/small", MACHINE_TYPE),
        ("https://www.googleapis.com/compute/v1//projects/p/zones/z/machineTypes/small/", MACHINE_TYPE),
        ("zones/z/machineTypes/small", Reference("small", "machineTypes", "zones/z")),
        ("/zones/z/machineTypes/custom-2-4096", Reference("custom-2-4096", "machineTypes", "zones/z")),
        ("regions/r/subnetworks/s", Reference("s", "subnetworks", "regions/r")),
        ("projects/p/regions//subnetworks/s", Reference("s", "subnetworks", "", "p")),
        ("http://127.0.0.1:5000/compute/v1/projects/p/regions//subnetworks/s", Reference("s", "subnetworks", "", "p")),
        ("regions//subnetworks/s", Reference("s", "subnetworks")),
        ("regions/subnetworks", Reference("subnetworks", "regions")),
        ("global/networks/default", Reference("default", "networks", "global")),
        ("projects/p/global/networks/default", Reference("default", "networks", "global", "p")),
        ("projects/p/zones/z", Reference("z", "zones", "", "p")),
        ("zones/z", Reference("z", "zones")),
        ("n1-standard-1", Reference("n1-standard-1")),
        ("pd-standard", Reference("pd-standard")),
        ("projects/debian-cloud/global/images/debian-12", Reference("debian-12", "images", "global", "debian-cloud")),
        (
            "projects/debian-cloud/global/images/family/debian-12",
            Reference("debian-12", "imageFamilyViews", "global", "debian-cloud"),
        ),
        ("global/images/family/debian-12", Reference("debian-12", "imageFamilyViews", "global")),
        ("projects/p/zones/-/imageFamilyViews/f", Reference("f", "imageFamilyViews", "zones/-", "p")),
        ("projects/ian@example.org/global/images/i", Reference("i", "images", "global", "ian@example.org")),
        ("projects/example.org:p/global/images/i", Reference("i", "images", "global", "example.org:p")),
        ("projects/p/global/images/My%20Image", Reference("My Image", "images", "global", "p")),
        ("projects/p/global/images/My%2520Image", Reference("My Image", "images", "global", "p")),
        ("projects/p/global/images/My Image", Reference("My Image", "images", "global", "p")),
        (
            "https://www.googleapis.com/compute/v1/projects/p/global/licenses/debian?alt=json",
            Reference("debian", "licenses", "global", "p"),
        ),
    ],
)
def test_spellings(spelling: str, expected: Reference) -> None:
    assert parse(spelling, "resource.x") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "projects/p",
        "projects/p/",
        "https://www.googleapis.com/compute/v1/projects/p",
        "https://www.googleapis.com/",
        "zones/z/machineTypes/small/more",
        "projects/p/global/images/../x",
        "projects/p/global/images/%2e%2e",
        "projects/p/global/images/%20",
        "http://[x/y",
    ],
)
def test_what_is_no_link_is_refused_by_the_fields_name(text: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(text, "resource.disks[0].source")
    assert (raised.value.code, raised.value.location) == (400, "resource.disks[0].source")
    assert "resource.disks[0].source" in raised.value.message


def test_zone_and_region() -> None:
    assert parse("zones/z/disks/d", "f").zone == "z"
    assert parse("zones/z/disks/d", "f").region == ""
    assert parse("regions/r/addresses/a", "f").region == "r"
    assert parse("global/networks/n", "f").zone == ""


def test_links_are_absolute_and_escaped() -> None:
    root = "https://www.googleapis.com/compute/v1/projects/demo"
    assert LINKS.of() == root
    assert LINKS.of("zones", "z", "instances", "i") == f"{root}/zones/z/instances/i"
    assert LINKS.of("global", "images", "My Image") == f"{root}/global/images/My%20Image"
    assert LINKS.of("global", "images", "CentOS 6.4 (64-bit)+x") == f"{root}/global/images/CentOS%206.4%20(64-bit)+x"
    assert Links("http://h:1/compute/v1", "ian@example.org").root == "http://h:1/compute/v1/projects/ian@example.org"
    assert LINKS.path("zones", "z", "instances", "i") == "projects/demo/zones/z/instances/i"


@given(scopes, st.sampled_from(["instances", "disks", "networks", "machineTypes"]), names | wide_names, names)
@settings(max_examples=150)
def test_a_link_reads_as_what_it_was_made_of(scope: tuple[str, ...], collection: str, name: str, project: str) -> None:
    links = Links("http://localhost:5000/compute/v1", project)
    expected = Reference(name, collection, "/".join(scope), project)
    link = links.of(*scope, collection, name)
    assert parse(link, "f") == expected
    assert parse(link.removeprefix("http://localhost:5000/compute/v1/"), "f") == expected
    assert " " not in link


@given(st.text(max_size=60) | st.text("/:[]%?#pro.", max_size=30))
@example("http://[x/y")
@example("://")
@settings(max_examples=200)
def test_any_text_is_a_reference_or_400(text: str) -> None:
    try:
        found = parse(text, "f")
    except ApiError as error:
        assert error.code == 400
    else:
        assert found.name.strip()
