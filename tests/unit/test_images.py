from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import images_pb2 as pb
from gstack.compute.v1.image_family_views_pb2 import GetImageFamilyViewRequest
from gstack.kernel.errors import ApiError
from simulator.world import Account, Template, Zone
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask
from translator_service import places
from translator_service.gce.naming import number
from translator_service.resources.images import families, references, templates, view
from translator_service.rpc import METHODS
from translator_service.scope import Scope

ROWS = recorded_rows("a-catalog", "listTemplates executable showunique")
PROJECT = "https://www.googleapis.com/compute/v1/projects/demo"
CENTOS, DEBIAN, UBUNTU = "Linux CentOS 6.4 64-bit", "Linux Debian 12 64-bit", "Linux Ubuntu 12.04 LTS 64-bit"


def template(simulated: Cloud, name: str, age: float = 0.0, *, zone: str = "", **values: Any) -> Template:
    """A featured template, as many seconds younger than the others as told."""
    world = simulated.app.world
    admin = next(row for row in world.all(Account) if row.name == "admin")
    given = {"display_text": name, "size": 10 << 30, "account": admin, "featured": True, **values}
    found = [row for row in world.all(Zone) if row.name == zone]
    return world.add(Template, name=name, created=world.now + age, zones=found, **given)


def row_of(scope: Scope, text: str, zone: str = "ch-gv2") -> Any:
    return references.resolve(scope, text, places.resolve_zone(scope, zone), "f").row


def resolved(scope: Scope, text: str, zone: str = "ch-gv2") -> str:
    return str(row_of(scope, text, zone)["name"])


def refused(scope: Scope, text: str, zone: str = "ch-gv2") -> ApiError:
    with pytest.raises(ApiError) as error:
        row_of(scope, text, zone)
    return error.value


def public(scope_for: OpenScope, project: str) -> Scope:
    return scope_for(project, public_projects=METHODS["Images.Get"].public_projects)


def got(scope: Scope, name: str, project: str = "demo") -> pb.Image:
    image: pb.Image = ask(scope, "Images.Get", pb.GetImageRequest(project=project, image=name))
    return image


def listed(scope: Scope, project: str = "demo", expression: str = "") -> list[pb.Image]:
    return list(ask(scope, "Images.List", common_pb2.ListRequest(project=project, filter=expression)).items)


# Mapping


def test_mapping(scope: Scope) -> None:
    found = view.to_image(scope, "centos", ROWS[0])
    assert (found.kind, found.name, found.status) == ("compute#image", "centos", "READY")
    assert (found.diskSizeGb, found.archiveSizeBytes) == (2, 2147483648)
    assert found.description == "CentOS 5.6 (64-bit) no GUI (Simulator)"
    assert found.selfLink == f"{PROJECT}/global/images/centos"
    assert found.creationTimestamp == "2026-11-22T15:02:40.000-08:00"
    assert (found.sourceType, found.architecture, found.family) == ("RAW", "X86_64", "centos-5")
    assert not found.licenses and not found.HasField("deprecated")


@pytest.mark.parametrize(("size", "gigabytes"), [(1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (10 << 30, 10)])
def test_size_is_rounded_up(scope: Scope, size: int, gigabytes: int) -> None:
    assert view.to_image(scope, "x", {**ROWS[0], "size": size}).diskSizeGb == gigabytes


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"isready": True}, "READY"),
        ({"isready": True, "status": "Download Complete"}, "READY"),
        ({"isready": False}, "PENDING"),
        ({"isready": False, "status": "12% Downloaded"}, "PENDING"),
        ({"isready": False, "status": "Failed to download: connection refused"}, "FAILED"),
    ],
)
def test_status(row: dict[str, Any], status: str) -> None:
    assert view.status(row) == status


# References


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("linux-debian-12-64-bit", DEBIAN),
        ("Linux Debian 12 64-bit", DEBIAN),
        ("CentOS 5.5(64-bit) no GUI (KVM)", "CentOS 5.5(64-bit) no GUI (KVM)"),
        ("global/images/linux-debian-12-64-bit", DEBIAN),
        ("projects/demo/global/images/Linux Debian 12 64-bit", DEBIAN),
        ("https://www.googleapis.com/compute/v1/projects/demo/global/images/Linux%20Debian%2012%2064-bit", DEBIAN),
        ("http://h/compute/v1/projects/demo/global/images/Linux%2520Debian%252012%252064-bit", DEBIAN),
        ("global/images/family/debian-12", DEBIAN),
        ("projects/demo/global/images/family/ubuntu-1204-lts", UBUNTU),
        ("projects/debian-cloud/global/images/family/debian-12", DEBIAN),
        ("https://www.googleapis.com/compute/v1/projects/debian-cloud/zones/-/imageFamilyViews/debian-12", DEBIAN),
        ("projects/debian-cloud/global/images/linux-debian-12-64-bit", DEBIAN),
        ("projects/centos-cloud/global/images/centos-6-v20140718", CENTOS),
        ("projects/windows-cloud/global/images/family/windows-2012", "Windows Server 2012"),
        ("projects/ubuntu-os-cloud/global/images/family/ubuntu-1304-amd64", "Linux Ubuntu 13.04 64-bit"),
    ],
)
def test_resolve(scope: Scope, text: str, name: str) -> None:
    assert resolved(scope, text) == name


def test_resolve_by_ids(scope: Scope) -> None:
    row = row_of(scope, "linux-debian-12-64-bit")
    assert row_of(scope, row["id"]) == row_of(scope, str(got(scope, row["id"]).id)) == row


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nope", "projects/demo/global/images/nope"),
        ("global/images/nope", "projects/demo/global/images/nope"),
        ("global/images/family/nope-1", "projects/demo/global/images/family/nope-1"),
        ("projects/debian-cloud/global/images/family/debian-7", "projects/debian-cloud/global/images/family/debian-7"),
        ("projects/debian-cloud/zones/-/imageFamilyViews/x", "projects/debian-cloud/global/images/family/x"),
        ("projects/debian-cloud/global/images/family/centos-6", "projects/debian-cloud/global/images/family/centos-6"),
        (
            "projects/debian-cloud/global/images/windows-server-2012",
            "projects/debian-cloud/global/images/windows-server-2012",
        ),
        ("projects/other/global/images/linux-debian-12-64-bit", "projects/other/global/images/linux-debian-12-64-bit"),
    ],
)
def test_unknown(scope: Scope, text: str, path: str) -> None:
    error = refused(scope, text)
    assert (error.code, error.message) == (404, f"The resource '{path}' was not found")


@pytest.mark.parametrize("text", ["zones/ch-gv2/disks/linux-debian-12-64-bit", "", "a/b/c/d"])
def test_references_to_something_else(scope: Scope, text: str) -> None:
    error = refused(scope, text)
    assert (error.code, error.location) == (400, "f")


@pytest.mark.parametrize("zone", ["ch-gv2", "ch-zh-1"])
def test_resolve_costs_no_call_beyond_the_list(scope: Scope, simulated: Cloud, zone: str) -> None:
    for text in (
        "linux-debian-12-64-bit",
        "global/images/family/debian-12",
        "projects/debian-cloud/global/images/family/debian-12",
    ):
        resolved(scope, text, zone)
    assert simulated.calls == {"listTemplates": 3, "listZones": 1}


# Families


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("debian-12", "Linux Debian 12 64-bit", True),
        ("debian-1", "Linux Debian 12 64-bit", False),
        ("debian-2", "Linux Debian 12 64-bit", False),
        ("debian-64", "Linux Debian 12 64-bit", False),
        ("ubuntu-1204-lts", "Linux Ubuntu 12.04 LTS 64-bit", True),
        ("ubuntu-2404-lts-amd64", "Ubuntu 24.04 LTS", True),
        ("ubuntu-2404-lts", "Ubuntu 24.04", False),
        ("centos-6", "Linux CentOS 6.4 64-bit", True),
        ("centos-6", "CentOS6 minimal", True),
        ("centos-6", "CentOS 5.6(64-bit)", False),
        ("centos-stream-9", "CentOS Stream 9", True),
        ("centos-9-stream", "CentOS Stream 9", False),
        ("opensuse-leap-15-6", "openSUSE Leap 15.6", True),
        ("cos-stable", "CentOS stable", False),
        ("windows-2012-r2", "Windows Server 2012 R2", True),
        ("windows-2012-r2", "Windows Server 2012", False),
        ("-", "Windows Server 2012", False),
    ],
)
def test_words_of_a_family(scope: Scope, simulated: Cloud, family: str, name: str, expected: bool) -> None:
    for row in simulated.app.world.all(Template):
        row.ready = False
        row.rendered = None
    template(simulated, name)
    if expected:
        assert resolved(scope, f"global/images/family/{family}") == name
    else:
        assert refused(scope, f"global/images/family/{family}").code == 404


def test_the_newest_of_a_family(scope: Scope, simulated: Cloud) -> None:
    newest = template(simulated, "Debian 12 large", 200, size=50 << 30)
    template(simulated, "Debian 12", 100)
    template(simulated, "Debian 12 unfinished", 300, ready=False)
    assert row_of(scope, "global/images/family/debian-12")["id"] == newest.id


def test_the_smallest_of_one_age(scope: Scope, simulated: Cloud) -> None:
    for size in (50, 10, 100):
        template(simulated, "Debian 13", 100, size=size << 30)
    assert row_of(scope, "global/images/family/debian-13")["size"] == 10 << 30


def test_families_of_the_operator(scope: Scope) -> None:
    scope.names.families.update({"stable": DEBIAN, "enterprise": "linux centos .*", "broken": "("})
    assert resolved(scope, "global/images/family/stable") == DEBIAN
    assert resolved(scope, "projects/debian-cloud/global/images/family/enterprise") == CENTOS
    assert refused(scope, "global/images/family/broken").code == 404
    families = {image.name: image.family for image in listed(scope)}
    assert families["linux-debian-12-64-bit"] == got(scope, "linux-debian-12-64-bit").family == "stable"
    assert families["linux-centos-6-4-64-bit"] == "enterprise"
    assert families["windows-server-2012"] == "windows-2012"


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (DEBIAN, "debian-12"),
        ("Debian GNU/Linux 12 (bookworm)", "debian-12"),
        ("debian12", "debian-12"),
        (UBUNTU, "ubuntu-1204-lts"),
        ("Ubuntu 22.04.3 LTS", "ubuntu-2204-lts"),
        ("Ubuntu 23.10", "ubuntu-2310"),
        (CENTOS, "centos-6"),
        ("CentOS Stream 9", "centos-stream-9"),
        ("Rocky Linux 9", "rocky-linux-9"),
        ("Windows Server 2012 R2", "windows-2012-r2"),
        ("openSUSE Leap 15.6", "opensuse-leap"),
        ("Alpine 3", "alpine-3"),
        ("Alpine Linux 3.19 x86_64", "alpine-linux-3"),
        ("ACME Appliance (64-bit)", "acme-appliance"),
        ("Red Hat Enterprise Linux 9", "red-hat-enterprise-linux-9"),
        ("k8s node 1.29", "k8s-node-1"),
        ("FreeBSD13.2", "freebsd13"),
    ],
)
def test_a_family_is_the_same_everywhere(scope: Scope, simulated: Cloud, name: str, family: str) -> None:
    for row in simulated.app.world.all(Template):
        row.ready = False
        row.rendered = None
    made = template(simulated, name)
    image = next(image for image in listed(scope) if image.id == number(made.id))
    assert image.family == got(scope, image.name).family == family
    if family:
        assert [one.id for one in listed(scope, expression=f"family={family}") if one.status == "READY"] == [image.id]
        assert [one.id for one in listed(scope, expression=f"family eq {family}") if one.status == "READY"] == [
            image.id
        ]
        found = ask(scope, "Images.GetFromFamily", pb.GetFromFamilyImageRequest(project="demo", family=family))
        assert (found.id, found.family) == (image.id, family)


def test_what_is_shown_with_a_family_goes_before_what_has_its_words(scope: Scope, simulated: Cloud) -> None:
    template(simulated, "Windows Server 2012 R2", 1000)
    assert resolved(scope, "global/images/family/windows-2012") == "Windows Server 2012"
    assert resolved(scope, "global/images/family/windows-2012-r2") == "Windows Server 2012 R2"


def test_what_a_stranger_shares_has_no_family(scope: Scope, simulated: Cloud) -> None:
    strange(simulated, "Debian 12 of mallory")
    assert next(image for image in listed(scope) if "mallory" in image.name).family == ""
    scope.names.families["debian-12"] = CENTOS
    assert got(scope, DEBIAN).family == ""


def test_newest_in_the_zone(scope: Scope, simulated: Cloud) -> None:
    there = template(simulated, "Debian 12 there", 100, zone="CH-ZH-1")
    assert row_of(scope, "global/images/family/debian-12", "ch-zh-1")["id"] == there.id
    assert resolved(scope, "global/images/family/debian-12", "ch-gv2") == DEBIAN


# What others share


def account(simulated: Cloud, name: str) -> Account:
    return next(row for row in simulated.app.world.all(Account) if row.name == name)


def strange(simulated: Cloud, name: str, age: float = 1000.0, **values: Any) -> Template:
    """A public template of another tenant, younger than all others."""
    return template(simulated, name, age, account=account(simulated, "ian@example.org"), featured=False, **values)


@pytest.mark.parametrize(
    "text",
    [
        "projects/debian-cloud/global/images/family/debian-12",
        "projects/debian-cloud/zones/-/imageFamilyViews/debian-12",
        "projects/debian-cloud/global/images/debian-12-bookworm-v20240101",
        "projects/debian-cloud/global/images/linux-debian-12-64-bit",
        "projects/acme-images/global/images/family/debian-12",
        "global/images/family/debian-12",
        "global/images/linux-debian-12-64-bit",
        "Linux Debian 12 64-bit",
    ],
)
@pytest.mark.parametrize("mapped", [{}, {"debian-12": "linux debian 12.*"}, {"debian-12": DEBIAN}])
def test_a_stranger_cannot_be_what_an_image_is_taken_for(
    scope: Scope, simulated: Cloud, text: str, mapped: dict[str, str]
) -> None:
    scope.names.families.update(mapped)
    scope.names.image_projects["acme-images"] = ["debian-12"]
    genuine = next(row for row in simulated.app.world.all(Template) if row.name == DEBIAN).id
    for age in (1000.0, -1e9):
        for name in (DEBIAN, "Debian 12 (by mallory)", "Debian 12 bookworm", genuine, str(number(genuine))):
            strange(simulated, name, age)
    if "bookworm" in text:
        with pytest.raises(ApiError):
            row_of(scope, text)
        return
    assert row_of(scope, text)["id"] == genuine


def test_ids_mean_what_has_them_whatever_others_are_called(scope: Scope, simulated: Cloud) -> None:
    made = template(simulated, "Genuine", id="abcdefab-1111-4111-8111-111111111111")
    for age in (1000.0, -1e9):
        strange(simulated, made.id, age)
        strange(simulated, str(number(made.id)), age)
    for text in (made.id, made.id.upper(), str(number(made.id))):
        assert row_of(scope, text)["id"] == made.id


def test_what_a_stranger_shares_has_a_name_of_its_own_and_tells_the_owner(scope: Scope, simulated: Cloud) -> None:
    older = strange(simulated, DEBIAN, -1e9)
    other = strange(simulated, "Special", display_text="Special system")
    shown = {image.id: image for image in listed(scope)}
    assert shown[number(older.id)].name == f"linux-debian-12-64-bit-{older.id[:8]}"
    assert shown[number(other.id)].name == "special"
    assert shown[number(other.id)].description == "Special system (of ian@example.org)"
    assert not any(image.description.endswith("(of admin)") for image in shown.values())
    assert row_of(scope, "special")["id"] == other.id
    assert refused(scope, "projects/debian-cloud/global/images/special").code == 404


def test_own_templates_have_their_names_and_the_families_of_the_project(scope: Scope, simulated: Cloud) -> None:
    own = template(simulated, DEBIAN, 2000.0, account=account(simulated, "demo"), featured=False, public=False)
    strange(simulated, DEBIAN, -1e9)
    for text in ("linux-debian-12-64-bit", "global/images/family/debian-12"):
        assert row_of(scope, text)["id"] == own.id
    for text in ("family/debian-12", "linux-debian-12-64-bit"):
        assert row_of(scope, f"projects/debian-cloud/global/images/{text}")["id"] != own.id


def test_an_own_template_is_shown_while_it_is_made(scope: Scope, simulated: Cloud) -> None:
    template(simulated, "Mine", account=account(simulated, "demo"), featured=False, public=False, ready=False)
    assert got(scope, "mine").status == "PENDING"


def test_an_operator_names_a_template_that_is_not_featured_by_its_id(scope: Scope, simulated: Cloud) -> None:
    chosen = template(simulated, "Alpine 3", featured=False)
    scope.names.families["alpine-3"] = chosen.id
    scope.names.image_projects["acme-images"] = ["alpine-3"]
    for text in ("projects/acme-images/global/images/family/alpine-3", "projects/acme-images/global/images/alpine-3"):
        assert row_of(scope, text)["id"] == chosen.id
    assert got(scope, "alpine-3").family == "alpine-3"


def test_a_family_of_a_public_project_is_the_same_everywhere(scope_for: OpenScope, simulated: Cloud) -> None:
    """The operator lists families that only words mean."""
    template(simulated, "ACME Appliance 3.1")
    scope_for().names.image_projects["acme-images"] = ["appliance", "debian"]
    scope = public(scope_for, "acme-images")
    for family, name in (("appliance", "acme-appliance-3-1"), ("debian", "linux-debian-12-64-bit")):
        request = pb.GetFromFamilyImageRequest(project="acme-images", family=family)
        found = ask(scope, "Images.GetFromFamily", request)
        assert (found.name, found.family) == (name, family)
        assert got(scope, name, "acme-images") == found
        assert listed(scope, "acme-images", f"family = {family}") == [found]
        view_request = GetImageFamilyViewRequest(project="acme-images", zone="ch-zh-1", family=family)
        assert ask(scope, "ImageFamilyViews.Get", view_request).image == found
        assert ask(scope_for(), "Images.Get", pb.GetImageRequest(project="demo", image=name)).family == family


# Zones and readiness


def test_template_of_another_zone(scope: Scope, simulated: Cloud) -> None:
    template(simulated, "There", zone="CH-ZH-1")
    assert resolved(scope, "there", "ch-zh-1") == "There"
    error = refused(scope, "there", "ch-gv2")
    assert (error.code, error.location) == (400, "f")
    assert "ch-gv2" in error.message


def test_template_of_some_zones_is_listed_with_one(scope: Scope, simulated: Cloud) -> None:
    made = template(simulated, "Both", zone="CH-GV2")
    made.zones = simulated.app.world.all(Zone)
    for zone in ("ch-gv2", "ch-zh-1"):
        assert resolved(scope, "both", zone) == "Both"
    # The list, and one more question for the zone that the list does not name.
    assert simulated.calls["listTemplates"] == 5


def test_template_that_is_not_ready(scope: Scope) -> None:
    kind = templates.kind(scope)
    entry = scope.catalog(kind)
    entry.index = kind.build([{**ROWS[0], "isready": False}])
    error = refused(scope, ROWS[0]["name"])
    assert (error.code, error.reason) == (400, "resourceNotReady")
    assert view.to_image(scope, "x", {**ROWS[0], "isready": False}).status == "PENDING"


# Methods


def test_list(scope: Scope, simulated: Cloud) -> None:
    found = listed(scope)
    assert len(found) == 13
    assert [image.name for image in found] == sorted(image.name for image in found)
    assert len({image.name for image in found}) == len({image.id for image in found}) == 13
    assert listed(scope) == found
    assert simulated.calls == {"listTemplates": 3}


def test_templates_that_share_a_name(scope: Scope, simulated: Cloud) -> None:
    younger = template(simulated, DEBIAN, 100)
    names = [image.name for image in listed(scope, expression="name eq .*debian.*")]
    assert names == ["linux-debian-12-64-bit", f"linux-debian-12-64-bit-{younger.id[:8]}"]
    assert row_of(scope, "linux-debian-12-64-bit")["id"] != younger.id
    assert row_of(scope, names[1])["id"] == younger.id


def test_get(scope: Scope) -> None:
    found = got(scope, DEBIAN)
    assert found == got(scope, "linux-debian-12-64-bit")
    assert (found.name, found.diskSizeGb) == ("linux-debian-12-64-bit", 10)
    with pytest.raises(ApiError) as error:
        got(scope, "nope")
    assert error.value.message == "The resource 'projects/demo/global/images/nope' was not found"


def test_get_from_family(scope: Scope) -> None:
    request = pb.GetFromFamilyImageRequest(project="demo", family="debian-12")
    found = ask(scope, "Images.GetFromFamily", request)
    assert (found.name, found.family) == ("linux-debian-12-64-bit", "debian-12")
    with pytest.raises(ApiError) as error:
        ask(scope, "Images.GetFromFamily", pb.GetFromFamilyImageRequest(project="demo", family="debian-7"))
    assert error.value.message == "The resource 'projects/demo/global/images/family/debian-7' was not found"


def test_public_project(scope_for: OpenScope) -> None:
    scope = public(scope_for, "debian-cloud")
    found = got(scope, "linux-debian-12-64-bit", "debian-cloud")
    assert listed(scope, "debian-cloud") == [found]
    assert listed(scope, "debian-cloud", "family = debian-12") == [found]
    assert [image.name for image in listed(public(scope_for, "centos-cloud"), "centos-cloud", "name = *6-4*")]
    assert found.selfLink.endswith("/projects/debian-cloud/global/images/linux-debian-12-64-bit")
    with pytest.raises(ApiError) as error:
        got(scope, "windows-server-2012", "debian-cloud")
    path = "projects/debian-cloud/global/images/windows-server-2012"
    assert error.value.message == f"The resource '{path}' was not found"


def test_public_projects_list_what_is_offered_and_no_more(
    scope_for: OpenScope, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange(simulated, "Debian 12 of mallory")
    template(simulated, "Debian 13 unfinished", ready=False)
    scope = public(scope_for, "debian-cloud")
    assert [image.name for image in listed(scope, "debian-cloud")] == ["linux-debian-12-64-bit"]
    assert listed(public(scope_for, "cos-cloud"), "cos-cloud") == []
    monkeypatch.setattr(families, "_MOST", 2)
    assert len(listed(public(scope_for, "centos-cloud"), "centos-cloud")) == 2


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("projects/debian-cloud/global/images/family/debian-12", "debian-cloud/global/images/linux-debian-12-64-bit"),
        ("projects/debian-cloud/global/images/debian-12", "debian-cloud/global/images/linux-debian-12-64-bit"),
        ("projects/debian-cloud/zones/-/imageFamilyViews/debian-12",
         "debian-cloud/global/images/linux-debian-12-64-bit"),
        ("https://compute.googleapis.com/compute/v1/projects/debian-cloud/global/images/Linux%20Debian%2012%2064-bit",
         "debian-cloud/global/images/linux-debian-12-64-bit"),
        ("projects/acme-images/global/images/family/stable", "acme-images/global/images/stable"),
        ("projects/acme-images/global/images/linux-debian-12-64-bit",
         "acme-images/global/images/linux-debian-12-64-bit"),
        ("projects/centos-cloud/global/images/centos-6-v20140718", "centos-cloud/global/images/centos-6-v20140718"),
        ("linux-debian-12-64-bit", ""),
        ("global/images/family/debian-12", ""),
        ("projects/demo/global/images/family/debian-12", ""),
    ],
)  # fmt: skip
def test_an_image_of_a_public_project_is_shown_as_it_was_asked_for(
    scope: Scope, scope_for: OpenScope, text: str, path: str
) -> None:
    """Terraform makes a machine anew whose image has another project, or a name without the family's in it."""
    scope.names.families["stable"] = DEBIAN
    scope.names.image_projects["acme-images"] = ["stable"]
    found = references.resolve(scope, text, places.resolve_zone(scope, "ch-gv2"), "f")
    assert found.path == (f"projects/{path}" if path else "")
    link = templates.link_of(scope, found.row["id"], found.row["name"], found.path)
    assert link.endswith(found.path or "projects/demo/global/images/linux-debian-12-64-bit")
    assert row_of(scope, link)["id"] == found.row["id"]
    project, name = link.split("/")[-4], link.split("/")[-1]
    where = scope if project == "demo" else public(scope_for, project)
    assert got(where, name, project).id == number(found.row["id"])


def test_public_project_of_the_operator(scope_for: OpenScope) -> None:
    scope = public(scope_for, "debian-cloud")
    scope.names.image_projects["debian-cloud"] = ["debian-12", "other"]
    scope.names.families["other"] = "Windows Server 2012"
    assert [image.name for image in listed(scope, "debian-cloud")] == ["linux-debian-12-64-bit", "windows-server-2012"]
    assert got(scope, "windows-server-2012", "debian-cloud").name == "windows-server-2012"
    for name in ("windows-server-2008-r2-sp1", "family/debian"):
        with pytest.raises(ApiError):
            got(scope, name, "debian-cloud")


def test_public_project_that_the_operator_closed(scope_for: OpenScope) -> None:
    scope = public(scope_for, "debian-cloud")
    scope.names.image_projects["debian-cloud"] = []
    scope.names.families["debian-12"] = DEBIAN
    assert listed(scope, "debian-cloud") == []
    for text in ("global/images/family/debian-12", "global/images/linux-debian-12-64-bit"):
        assert refused(scope, f"projects/debian-cloud/{text}").code == 404


def test_project_of_the_operator_that_nobody_knows(scope: Scope) -> None:
    scope.names.image_projects["acme-images"] = ["debian-12"]
    assert resolved(scope, "projects/acme-images/global/images/family/debian-12") == DEBIAN


def test_cloudstack_project(scope_for: OpenScope, simulated: Cloud) -> None:
    scope = scope_for("webshop")
    assert got(scope, DEBIAN, "webshop").selfLink.endswith("/projects/webshop/global/images/linux-debian-12-64-bit")
    assert resolved(scope, f"projects/{scope.project.number}/global/images/linux-debian-12-64-bit") == DEBIAN


def test_link_of(scope: Scope) -> None:
    row = row_of(scope, DEBIAN)
    assert templates.link_of(scope, row["id"], "anything") == f"{PROJECT}/global/images/linux-debian-12-64-bit"
    gone = "00000000-0000-4000-8000-000000000001"
    assert templates.link_of(scope, gone, "Old One") == f"{PROJECT}/global/images/old-one"
