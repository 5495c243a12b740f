"""images.delete, deprecate, patch, setLabels, their policies; families and lists agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, iam_pb2, image_family_views_pb2, instances_pb2, operations_pb2
from gstack.compute.v1 import images_pb2 as pb
from simulator.world import Account, Template
from tests.conftest import Cloud, Hold, OpenScope
from tests.unit import test_disks_insert as disks
from tests.unit import test_instances as instances
from tests.unit.killed import killed_once
from tests.unit.made import ask, first, job, machine, tag, volume
from tests.unit.test_images_insert import (
    DISK,
    PROJECT,
    Finish,
    done,
    failed,
    get,
    insert,
    refused,
    templates_of,
)
from translator_service import places
from translator_service.kept import tags
from translator_service.resources.images import references
from translator_service.rpc import METHODS
from translator_service.scope import Scope

ROLE = "roles/compute.imageUser"
DEBIAN = "linux-debian-12-64-bit"


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture(params=["template", "second name"])
def web(request: pytest.FixtureRequest, scope: Scope, operations: Finish) -> Scope:
    """A scope with the image img-1 of the family mine, a template of its own or a second name."""
    job(scope, "stopVirtualMachine", id=machine(scope, "web-1")["id"])
    source = {"sourceDisk": DISK} if request.param == "template" else {"sourceImage": f"global/images/{DEBIAN}"}
    done(scope, operations, insert(scope, family="mine", description="first", labels={"a": "b"}, **source))
    return scope


@pytest.fixture
def plain(scope: Scope, operations: Finish) -> Scope:
    """The same, a template."""
    job(scope, "stopVirtualMachine", id=machine(scope, "web-1")["id"])
    done(scope, operations, insert(scope, family="mine"))
    return scope


def delete(scope: Scope, name: str = "img-1", project: str = "demo") -> Any:
    return ask(scope, "Images.Delete", pb.DeleteImageRequest(project=project, image=name))


def deprecate(scope: Scope, state: str, name: str = "img-1", **fields: str) -> Any:
    status = common_pb2.DeprecationStatus(state=state, **fields)
    return ask(scope, "Images.Deprecate", pb.DeprecateImageRequest(project="demo", image=name, resource=status))


def patch(scope: Scope, name: str = "img-1", **fields: Any) -> Any:
    return ask(scope, "Images.Patch", pb.PatchImageRequest(project="demo", image=name, resource=pb.Image(**fields)))


def set_labels(scope: Scope, labels: dict[str, str], sent: bytes = b"", name: str = "img-1") -> Any:
    body = common_pb2.GlobalSetLabelsRequest(labels=labels, labelFingerprint=sent)
    return ask(scope, "Images.SetLabels", pb.SetLabelsImageRequest(project="demo", resource=name, body=body))


def policy(scope: Scope, name: str = "img-1") -> iam_pb2.Policy:
    found = ask(scope, "Images.GetIamPolicy", pb.GetIamPolicyImageRequest(project="demo", resource=name))
    assert isinstance(found, iam_pb2.Policy)
    return found


def set_policy(scope: Scope, *members: str, etag: bytes = b"", role: str = ROLE, name: str = "img-1") -> iam_pb2.Policy:
    bindings = [iam_pb2.Binding(role=role, members=members)] if members else []
    body = iam_pb2.GlobalSetPolicyRequest(policy=iam_pb2.Policy(bindings=bindings, etag=etag))
    request = pb.SetIamPolicyImageRequest(project="demo", resource=name, body=body)
    found = ask(scope, "Images.SetIamPolicy", request)
    assert isinstance(found, iam_pb2.Policy)
    return found


def members(found: iam_pb2.Policy) -> list[str]:
    return [member for binding in found.bindings for member in binding.members]


def listed(scope: Scope, expression: str = "") -> list[pb.Image]:
    return list(ask(scope, "Images.List", common_pb2.ListRequest(project="demo", filter=expression)).items)


def from_family(scope: Scope, family: str, project: str = "demo") -> pb.Image:
    found = ask(scope, "Images.GetFromFamily", pb.GetFromFamilyImageRequest(project=project, family=family))
    assert isinstance(found, pb.Image)
    return found


def view(scope: Scope, family: str, zone: str) -> pb.Image:
    request = image_family_views_pb2.GetImageFamilyViewRequest(project="demo", zone=zone, family=family)
    found: pb.Image = ask(scope, "ImageFamilyViews.Get", request).image
    return found


def public(scope_for: OpenScope, method: str) -> Scope:
    return scope_for("debian-cloud", public_projects=METHODS[method].public_projects)


# Delete


def test_delete(web: Scope, operations: Finish, simulated: Cloud) -> None:
    image = get(web)
    before = len(simulated.app.world.all(Template))
    sent = delete(web)
    assert (sent.operationType, sent.targetLink, sent.targetId) == (
        "delete", f"{PROJECT}/global/images/img-1", image.id,
    )  # fmt: skip
    done(web, operations, sent)
    assert refused(lambda: get(web)).code == 404 and refused(lambda: delete(web)).code == 404
    assert templates_of(simulated) == []
    assert before - len(simulated.app.world.all(Template)) == (0 if image.sourceImage else 1)


def test_one_that_machines_use(plain: Scope, operations: Finish, simulated: Cloud) -> None:
    """Fine, as at Google."""
    template = first(plain, "listTemplates", templatefilter="self")["id"]
    offering = first(plain, "listServiceOfferings", name="Micro")["id"]
    zone = places.resolve_zone(plain, "ch-zh-1").id
    job(plain, "deployVirtualMachine", name="web-2", zoneid=zone, serviceofferingid=offering, templateid=template)
    done(plain, operations, delete(plain))
    assert templates_of(simulated) == []
    assert first(plain, "listVirtualMachines", name="web-2")["state"] == "Running"


def test_one_with_another_name(plain: Scope, operations: Finish) -> None:
    done(plain, operations, insert(plain, "img-2", sourceImage="global/images/img-1"))
    error = refused(lambda: delete(plain))
    assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
    assert "global/images/img-2" in error.message
    done(plain, operations, delete(plain, "img-2"))
    done(plain, operations, delete(plain))


def test_one_that_is_gone_by_then(plain: Scope, operations: Finish, simulated: Cloud) -> None:
    sent = [delete(plain)]
    sent.append(delete(plain))
    for operation in sent:
        done(plain, operations, operation)
    assert simulated.calls["deleteTemplate"] >= 1


CHANGES: list[Callable[..., Any]] = [
    delete,
    lambda scope, name, project: ask(
        scope,
        "Images.Deprecate",
        pb.DeprecateImageRequest(
            project=project, image=name, resource=common_pb2.DeprecationStatus(state="DEPRECATED")
        ),
    ),
    lambda scope, name, project: ask(
        scope, "Images.Patch", pb.PatchImageRequest(project=project, image=name, resource=pb.Image(family="x"))
    ),
    lambda scope, name, project: ask(
        scope,
        "Images.SetLabels",
        pb.SetLabelsImageRequest(project=project, resource=name, body=common_pb2.GlobalSetLabelsRequest()),
    ),
    lambda scope, name, project: ask(
        scope,
        "Images.SetIamPolicy",
        pb.SetIamPolicyImageRequest(project=project, resource=name, body=iam_pb2.GlobalSetPolicyRequest()),
    ),
]


@pytest.mark.parametrize("change", CHANGES, ids=["delete", "deprecate", "patch", "setLabels", "setIamPolicy"])
def test_images_of_others(scope: Scope, scope_for: OpenScope, change: Callable[..., Any]) -> None:
    error = refused(lambda: change(scope, DEBIAN, "demo"))
    assert error.code == 403 and f"projects/demo/global/images/{DEBIAN}" in error.message
    error = refused(lambda: change(public(scope_for, "Images.Delete"), DEBIAN, "debian-cloud"))
    assert error.code == 403 and f"projects/debian-cloud/global/images/{DEBIAN}" in error.message
    assert refused(lambda: change(scope, "nope", "demo")).code == 404


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("position", "step"), list(enumerate(["unused", "delete"])))
def test_killed_between_two_steps_of_deleting(
    plain: Scope,
    operations: Finish,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    position: int,
    step: str,
    kept: bool,
) -> None:
    killer = killed_once(monkeypatch, position, kept=kept)
    done(plain, operations, delete(plain))
    assert killer.died == [step] and templates_of(simulated) == [] and simulated.calls["deleteTemplate"] == 1


# Deprecate


@pytest.mark.parametrize("active", ["ACTIVE", ""])
def test_deprecate(web: Scope, operations: Finish, active: str) -> None:
    times = {"deprecated": "2026-11-26T00:00:00.000-08:00", "obsolete": "2027-01-01T00:00:00Z"}
    sent = deprecate(web, "DEPRECATED", replacement=f"{PROJECT}/global/images/{DEBIAN}", **times)
    assert sent.targetId == get(web).id
    done(web, operations, sent)
    found = get(web).deprecated
    assert (found.state, found.deprecated, found.obsolete) == ("DEPRECATED", *times.values())
    assert found.replacement == f"{PROJECT}/global/images/{DEBIAN}" and not found.deleted
    assert get(web).description == "first" and dict(get(web).labels) == {"a": "b"}
    assert [one.name for one in listed(web, 'deprecated.state = "DEPRECATED"')] == ["img-1"]
    # Still good for a machine that asks for it by its name; its family has nothing newer.
    zone = places.resolve_zone(web, "ch-zh-1")
    assert references.resolve(web, "global/images/img-1", zone, "f").row
    assert refused(lambda: from_family(web, "mine")).code == 404
    done(web, operations, deprecate(web, active))
    assert not get(web).HasField("deprecated") and from_family(web, "mine").name == "img-1"


@pytest.mark.parametrize("state", ["OBSOLETE", "DELETED"])
def test_what_makes_nothing_any_more(web: Scope, operations: Finish, state: str) -> None:
    done(web, operations, deprecate(web, state))
    zone = places.resolve_zone(web, "ch-zh-1")
    error = refused(lambda: references.resolve(web, "global/images/img-1", zone, "resource.sourceImage"))
    assert (error.code, error.location) == (400, "resource.sourceImage") and state.lower() in error.message
    assert refused(lambda: insert(web, "img-2", sourceImage="global/images/img-1")).code == 400
    assert get(web).deprecated.state == state


def _of_image(name: str = "vm-1", **fields: Any) -> Any:
    initial = instances_pb2.AttachedDiskInitializeParams(sourceImage="global/images/img-1")
    boot = instances_pb2.AttachedDisk(boot=True, initializeParams=initial)
    return instances.wanted(name, disks=[boot, *fields.pop("disks", ())], **fields)


def _bulk(scope: Scope) -> Any:
    one = _of_image()
    properties = instances_pb2.InstanceProperties(
        machineType="micro", disks=one.disks, networkInterfaces=one.networkInterfaces
    )
    resource = instances_pb2.BulkInsertInstanceResource(count=2, namePattern="bulk-#", instanceProperties=properties)
    request = instances_pb2.BulkInsertInstanceRequest(project="demo", zone="ch-zh-1", resource=resource)
    return ask(scope, "Instances.BulkInsert", request)


_USES: dict[str, Callable[[Scope], Any]] = {
    "instances.insert": lambda scope: instances.insert(scope, _of_image()),
    "instances.bulkInsert": _bulk,
    "disks.insert": lambda scope: disks.insert(scope, "boot-1", sourceImage="global/images/img-1"),
}


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("use", _USES)
def test_what_is_made_of_a_deprecated_image_says_so(plain: Scope, operations: Finish, use: str, replaced: bool) -> None:
    replacement = f"projects/demo/global/images/{DEBIAN}"
    done(plain, operations, deprecate(plain, "DEPRECATED", **({"replacement": replacement} if replaced else {})))
    sent = _USES[use](replace(plain, warnings=[]))
    done(plain, operations, sent)
    request = operations_pb2.GetZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    for found in (sent, ask(plain, "ZoneOperations.Get", request)):
        (warning,) = (one for one in found.warnings if one.code == "DEPRECATED_RESOURCE_USED")
        text = "The resource 'projects/demo/global/images/img-1' is deprecated."
        assert warning.message == text + (f" A suggested replacement is '{replacement}'." if replaced else "")
        data = {one.key: one.value for one in warning.data}
        assert data.pop("resource_name") == "projects/demo/global/images/img-1"
        assert data == ({"suggested_replacement": replacement} if replaced else {})
    # And nothing says so of what is made of another.
    assert not disks.insert(replace(plain, warnings=[]), "boot-2", sourceImage=f"global/images/{DEBIAN}").warnings


@pytest.mark.parametrize("state", ["OBSOLETE", "DELETED"])
def test_an_image_that_makes_nothing_any_more_at_its_turn(
    plain: Scope, operations: Finish, simulated: Cloud, hold: Hold, state: str
) -> None:
    volume(plain, "data-1")
    held = hold.on(plain, "disks/data-1")
    source = instances_pb2.AttachedDisk(source="zones/ch-zh-1/disks/data-1")
    deployed = simulated.calls["deployVirtualMachine"]
    sent = instances.insert(plain, _of_image(disks=[source]))
    done(plain, operations, deprecate(plain, state))
    hold.let_go()
    done(plain, operations, held)
    row = operations(plain, sent)
    assert (row["error"]["code"], row["error"]["status"]) == ("INVALID_USAGE", 400)
    assert state.lower() in row["error"]["message"] and "disks[0]" in row["error"]["message"]
    assert simulated.calls["deployVirtualMachine"] == deployed


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"state": "DEPRECATED", "deprecated": "soon"}, "resource.deprecated"),
        ({"state": "DEPRECATED", "obsolete": "2027-01-01T00:00:00"}, "resource.obsolete"),
        ({"state": "DEPRECATED", "replacement": "global/snapshots/x"}, "resource.replacement"),
    ],
)
def test_deprecate_refused(scope: Scope, fields: dict[str, str], field: str) -> None:
    error = refused(lambda: deprecate(scope, **fields))
    assert (error.code, error.location) == (400, field)


# Patch and labels


def test_null_takes_the_family_and_the_description_away(web: Scope, operations: Finish) -> None:
    done(web, operations, patch(replace(web, cleared=("family", "description"))))
    assert not get(web).family and get(web).description != "first"
    error = refused(lambda: patch(replace(web, cleared=("labels",))))
    assert (error.code, error.location) == (400, "resource.labels")
    assert patch(replace(web, cleared=("licenses",)), family="x").operationType == "patch"


def test_patch(web: Scope, operations: Finish) -> None:
    done(web, operations, patch(web, family="other"))
    assert (get(web).family, get(web).description) == ("other", "first")
    done(web, operations, patch(web, description="second"))
    assert (get(web).family, get(web).description) == ("other", "second")
    done(web, operations, patch(web, family="", description=""))
    assert not get(web).family and not get(web).description
    assert dict(get(web).labels) == {"a": "b"}


def test_patch_with_what_is_as_it_is(web: Scope, operations: Finish) -> None:
    image = get(web)
    image.family = "other"
    sent = ask(web, "Images.Patch", pb.PatchImageRequest(project="demo", image="img-1", resource=image))
    done(web, operations, sent)
    assert get(web).family == "other"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"family": "Bad"}, "resource.family"),
        ({"description": "x" * 9000}, "resource.description"),
        ({"labels": {"x": "y"}}, "resource.labels"),
        ({"diskSizeGb": 99}, "resource.diskSizeGb"),
        ({"licenses": ["x"]}, "resource.licenses"),
        ({"storageLocations": ["eu"]}, "resource.storageLocations"),
    ],
)
def test_patch_refused(web: Scope, fields: dict[str, Any], field: str) -> None:
    error = refused(lambda: patch(web, **fields))
    assert (error.code, error.location) == (400, field)


def test_one_made_elsewhere_is_patched(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """It shows its own description until it has another one."""
    world = simulated.app.world
    demo = next(row for row in world.all(Account) if row.name == "demo")
    world.add(Template, name="Own Thing", display_text="Thing", size=1 << 30, account=demo, public=False)
    done(scope, operations, patch(scope, "own-thing", family="things"))
    found = get(scope, "own-thing")
    assert (found.description, found.family) == ("Thing", "things")
    done(scope, operations, set_labels(scope, {"x": "y"}, name="own-thing"))
    assert dict(get(scope, "own-thing").labels) == {"x": "y"}


def test_labels(web: Scope, operations: Finish) -> None:
    sent = get(web).labelFingerprint
    accepted = [set_labels(web, {"c": "d"}, sent), set_labels(web, {"e": "f"}, sent)]
    ended = [operations(web, one)["error"] for one in accepted]
    assert not ended[0] and ended[1]["code"] == "CONDITION_NOT_MET"
    assert dict(get(web).labels) == {"c": "d"} and get(web).family == "mine"
    assert refused(lambda: set_labels(web, {}, sent)).code == 412
    assert refused(lambda: set_labels(web, {"Bad": "x"})).code == 400
    done(web, operations, set_labels(web, {}))
    assert not get(web).labels


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("position", "step"), list(enumerate(["row", "tags/delete", "tags/create"])))
def test_killed_between_two_steps_of_a_change(
    plain: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch, position: int, step: str, kept: bool
) -> None:
    killer = killed_once(monkeypatch, position, kept=kept)
    done(plain, operations, patch(plain, family="other"))
    assert killer.died == [step] and get(plain).family == "other"


def test_one_that_is_gone_meanwhile(web: Scope, operations: Finish) -> None:
    sent = [delete(web), patch(web, family="other")]
    done(web, operations, sent[0])
    assert failed(web, operations, sent[1])["code"] == "RESOURCE_NOT_FOUND"


# Families


def test_families_and_lists_agree(web: Scope, operations: Finish) -> None:
    assert from_family(web, "mine").name == "img-1"
    assert [one.name for one in listed(web, "family = mine")] == ["img-1"]
    assert [one.name for one in listed(web, "family eq debian-12")] == [from_family(web, "debian-12").name]
    done(web, operations, insert(web, "img-2", family="mine", sourceImage=f"global/images/{DEBIAN}"))
    assert from_family(web, "mine").name in ("img-1", "img-2")
    assert {one.name for one in listed(web, "family = mine")} == {"img-1", "img-2"}


def test_a_family_of_ones_own_goes_first(plain: Scope, operations: Finish) -> None:
    done(plain, operations, insert(plain, "own-debian", family="debian-12", sourceDisk=DISK))
    assert from_family(plain, "debian-12").name == "own-debian"
    # What has it for a name only is none of it.
    done(plain, operations, insert(plain, "ubuntu-1204", sourceDisk=DISK))
    assert from_family(plain, "ubuntu-1204").name != "ubuntu-1204"


def test_public_projects_stay_the_operators(plain: Scope, scope_for: OpenScope, operations: Finish) -> None:
    done(plain, operations, insert(plain, "debian-12-own", family="debian-12", sourceDisk=DISK))
    there = public(scope_for, "Images.GetFromFamily")
    assert from_family(there, "debian-12", "debian-cloud").name == DEBIAN
    found = ask(there, "Images.List", common_pb2.ListRequest(project="debian-cloud"))
    assert [one.name for one in found.items if one.family == "debian-12"] == [DEBIAN]


def test_a_family_as_a_zone_sees_it(plain: Scope) -> None:
    assert view(plain, "mine", "ch-zh-1").name == "img-1" and view(plain, "mine", "-").family == "mine"
    assert view(plain, "debian-12", "ch-gv2").name == DEBIAN
    # A template is where its disk was.
    assert refused(lambda: view(plain, "mine", "ch-gv2")).code == 404
    assert refused(lambda: view(plain, "nope", "ch-gv2")).code == 404
    assert refused(lambda: view(plain, "mine", "nope")).code == 404


def test_tags_of_others_do_no_harm(scope: Scope, simulated: Cloud, operations: Finish) -> None:
    """Anybody may write them."""
    world = simulated.app.world
    mallory = next(row for row in world.all(Account) if row.name == "ian@example.org")
    row = world.add(Template, name="trap", display_text="trap", size=1 << 30, account=mallory, featured=False)
    for key, text in tags.pack(
        tags.IMAGE, {"family": "mine", "deprecated": 7, "licenses": "x", "sourceDisk": []}
    ).items():
        row.tags.append({"key": key, "value": text})
    found = get(scope, "trap")
    assert not found.family and not found.HasField("deprecated") and not found.licenses
    assert refused(lambda: from_family(scope, "mine")).code == 404


# Policies


def test_policy(plain: Scope, scope_for: OpenScope) -> None:
    other = scope_for("ian@example.org", account="ian@example.org")
    assert members(policy(plain)) == []
    found = set_policy(plain, "user:ian@example.org", etag=policy(plain).etag)
    assert members(found) == members(policy(plain)) == ["user:ian@example.org"] and found.bindings[0].role == ROLE
    assert get(other, "img-1", "ian@example.org").name == "img-1"
    assert members(set_policy(plain, "allAuthenticatedUsers")) == ["allAuthenticatedUsers"]
    # The same once more, and nothing.
    assert members(set_policy(plain, "allAuthenticatedUsers")) == ["allAuthenticatedUsers"]
    assert members(set_policy(plain)) == []
    assert members(policy(plain, DEBIAN)) == []


def test_a_policy_of_before(plain: Scope) -> None:
    sent = policy(plain).etag
    set_policy(plain, "allAuthenticatedUsers", etag=sent)
    assert refused(lambda: set_policy(plain, etag=sent)).code == 412


@pytest.mark.parametrize(
    ("member", "role"),
    [
        ("allUsers", ROLE),
        ("serviceAccount:x@demo.iam.gserviceaccount.com", ROLE),
        ("domain:example.org", ROLE),
        ("user:", ROLE),
        ("user:a,b", ROLE),
        ("allAuthenticatedUsers", "roles/owner"),
    ],
)
def test_members_that_do_not_fit(plain: Scope, member: str, role: str) -> None:
    error = refused(lambda: set_policy(plain, member, role=role))
    assert error.code == 400 and (member if role == ROLE else role) in error.message


def test_an_account_that_is_not_there(plain: Scope) -> None:
    error = refused(lambda: set_policy(plain, "user:nobody"))
    assert error.code == 400 and "nobody" in error.message


def test_what_the_account_may_not(plain: Scope, simulated: Cloud) -> None:
    simulated.app.world.settings.public_templates = False
    assert refused(lambda: set_policy(plain, "allAuthenticatedUsers")).code == 403


def test_a_second_name_is_not_shared(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, sourceImage=f"global/images/{DEBIAN}"))
    assert refused(lambda: set_policy(scope, "allAuthenticatedUsers")).code == 400
    assert members(policy(scope)) == []


def test_permissions(plain: Scope) -> None:
    body = iam_pb2.TestPermissionsRequest(permissions=["compute.images.get"])
    request = pb.TestIamPermissionsImageRequest(project="demo", resource="img-1", body=body)
    assert list(ask(plain, "Images.TestIamPermissions", request).permissions) == ["compute.images.get"]
    request.resource = "nope"
    assert refused(lambda: ask(plain, "Images.TestIamPermissions", request)).code == 404


def test_other_tags_stay(plain: Scope, operations: Finish) -> None:
    template = first(plain, "listTemplates", templatefilter="self")
    tag(plain, "Template", template["id"], "theirs", "1")
    done(plain, operations, patch(plain, family="other"))
    kept = tags.of(first(plain, "listTemplates", templatefilter="self"))
    assert kept["theirs"] == "1"
