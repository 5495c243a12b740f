"""disks.delete, resize, update, setLabels, and what IAM asks: of volumes, and of disks that are none yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gstack.compute.v1 import disks_pb2 as pb
from gstack.compute.v1 import iam_pb2, instances_pb2, operations_pb2
from gstack.kernel.errors import ApiError
from simulator.app import Fault
from simulator.families.jobs import restart
from tests.conftest import LINK_BASE, Cloud, Hold, OpenScope
from tests.unit import test_instances as instances
from tests.unit.killed import killed_in_each
from tests.unit.made import ask, first, job, machine, until, volume
from tests.unit.test_disks import Calls, get
from tests.unit.test_disks import names as listed
from tests.unit.test_disks_insert import IMAGE, insert, left_behind, row_of
from tests.unit.test_instances import Finish, done, refused
from translator_service import places
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.naming import number
from translator_service.kept import tags
from translator_service.operations import engine
from translator_service.resources.disks import intents, view
from translator_service.scope import Scope

ZONE_LINK = f"{LINK_BASE}/projects/demo/zones/ch-zh-1"
KINDS = ("data-1", "boot-1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quick_jobs: None) -> None:
    monkeypatch.setattr(engine, "_LOOK", 0.02)


@pytest.fixture
def disks(scope: Scope, operations: Finish) -> Scope:
    """A scope with the disks data-1, of 5 GB, and boot-1, of an image and no instance, of 10 GB."""
    labels = {"a": "b"}
    for sent in (insert(scope, "data-1", sizeGb=5, labels=labels), insert(scope, "boot-1", sourceImage=IMAGE)):
        done(scope, operations, sent)
    return scope


def delete(scope: Scope, name: str = "data-1") -> Any:
    return ask(scope, "Disks.Delete", pb.DeleteDiskRequest(project="demo", zone="ch-zh-1", disk=name))


def resize(scope: Scope, name: str, size: int) -> Any:
    body = pb.DisksResizeRequest(sizeGb=size)
    return ask(scope, "Disks.Resize", pb.ResizeDiskRequest(project="demo", zone="ch-zh-1", disk=name, resource=body))


def update(scope: Scope, disk: str, /, *paths: str, mask: str = "", **fields: Any) -> Any:
    request = pb.UpdateDiskRequest(project="demo", zone="ch-zh-1", disk=disk, paths=paths, updateMask=mask)
    request.resource.CopyFrom(pb.Disk(**fields))
    return ask(scope, "Disks.Update", request)


def set_labels(scope: Scope, name: str, fingerprint: bytes = b"", **labels: str) -> Any:
    body = pb.ZoneSetLabelsRequest(labels=labels, labelFingerprint=fingerprint)
    request = pb.SetLabelsDiskRequest(project="demo", zone="ch-zh-1", resource=name, body=body)
    return ask(scope, "Disks.SetLabels", request)


# Deleting


@pytest.mark.parametrize("name", KINDS)
def test_delete(disks: Scope, operations: Finish, name: str) -> None:
    identity = get(disks, name).id
    sent = delete(disks, name)
    assert isinstance(sent, operations_pb2.Operation)
    assert (sent.operationType, sent.targetLink) == ("delete", f"{ZONE_LINK}/disks/{name}")
    assert sent.targetId == identity
    done(disks, operations, sent)
    assert listed(disks) == [one for one in KINDS[::-1] if one != name]
    assert refused(lambda: get(disks, name)).code == refused(lambda: delete(disks, name)).code == 404
    # The name is free at once.
    done(disks, operations, insert(disks, name))


def test_delete_by_number(disks: Scope, operations: Finish) -> None:
    for name in KINDS:
        done(disks, operations, delete(disks, str(get(disks, name).id)))
    assert listed(disks) == []


@pytest.mark.parametrize("name", ["web-1", "data-1"])
def test_a_disk_in_use(disks: Scope, simulated: Cloud, name: str) -> None:
    made = machine(disks, "web-1")
    job(disks, "attachVolume", id=row_of(disks, "data-1")["id"], virtualmachineid=made["id"])
    error = refused(lambda: delete(disks, name))
    assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
    assert error.message == (
        f"The disk resource 'projects/demo/zones/ch-zh-1/disks/{name}' is already being used by "
        "'projects/demo/zones/ch-zh-1/instances/web-1'"
    )
    assert "deleteVolume" not in simulated.calls


def test_a_disk_that_is_in_use_when_its_turn_comes(disks: Scope, operations: Finish) -> None:
    made = machine(disks, "web-1")
    target, identity = "zones/ch-zh-1/disks/data-1", row_of(disks, "data-1")["id"]
    job(disks, "attachVolume", id=identity, virtualmachineid=made["id"])
    payload = {"zone": "ch-zh-1", "name": "data-1", "id": identity}
    sent = engine.submit(disks, type="delete", target=target, handler="disks.delete", payload=payload)
    row = operations(disks, sent)
    assert (row["error"]["code"], row["error"]["status"]) == ("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", 400)
    assert "data-1" in listed(disks)


def test_a_disk_that_a_machine_is_made_of(disks: Scope, operations: Finish) -> None:
    (intent,) = intents.of(disks, None)
    zone = places.resolve_zone(disks, "ch-zh-1")
    # As an operation that holds it.
    holder = engine.submit(disks, type="x", target="zones/ch-zh-1/instances/web-1", handler="tests.none", payload={})
    disks.store.update_operation(holder.name, status="RUNNING", executor="tests", due=None)
    disks.store.beat("tests")
    intents.change(disks, zone, intent.id, used_by=holder.name)
    for work in (
        lambda: delete(disks, "boot-1"),
        lambda: resize(disks, "boot-1", 20),
        lambda: set_labels(disks, "boot-1", a="c"),
    ):
        error = refused(work)
        assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
        assert error.message.endswith("'projects/demo/zones/ch-zh-1/instances/web-1'")
    disks.store.update_operation(holder.name, status="DONE")
    done(disks, operations, delete(disks, "boot-1"))


def test_a_boot_disk_that_was_kept(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    resource = instances.wanted()
    resource.disks[0].autoDelete = False
    done(scope, operations, instances.insert(scope, resource))
    done(scope, operations, instances.delete(scope))
    assert listed(scope) == ["web-1"]
    assert refused(lambda: instances.insert(scope, instances.wanted())).code == 409
    done(scope, operations, delete(scope, "web-1"))
    assert left_behind(simulated)[0] == []
    done(scope, operations, instances.insert(scope, instances.wanted()))


def test_deleted_twice(disks: Scope, operations: Finish) -> None:
    for name in KINDS:
        for sent in [delete(disks, name), delete(disks, name)]:
            done(disks, operations, sent)


def test_a_delete_that_fails(disks: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "deleteVolume", status=531))
    row = operations(disks, delete(disks))
    assert (row["error"]["code"], row["error"]["status"]) == ("PERMISSION_DENIED", 403)
    assert "data-1" in listed(disks)


def test_a_delete_whose_answer_is_lost(disks: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("drop", "deleteVolume"))
    done(disks, operations, delete(disks))
    assert listed(disks) == ["boot-1"]


# Sizes


@pytest.mark.parametrize("name", KINDS)
def test_resize(disks: Scope, operations: Finish, name: str) -> None:
    sent = resize(disks, name, 20)
    assert (sent.operationType, sent.targetLink) == ("resizeDisk", f"{ZONE_LINK}/disks/{name}")
    done(disks, operations, sent)
    assert get(disks, name).sizeGb == 20
    for size in (19, 20):
        error = refused(lambda size=size: resize(disks, name, size))
        assert (error.code, error.location) == (400, "resource.sizeGb")
        assert f"'{size}' GiB must be larger than existing size '20' GiB." in error.message
    assert "cannot be larger than 1024 GB" in refused(lambda: resize(disks, name, 2000)).message
    assert refused(lambda: resize(disks, name, 0)).reason == "required"
    assert refused(lambda: resize(disks, "nope", 20)).code == 404


@pytest.mark.parametrize("made_here", [True, False])
def test_the_boot_disk_of_a_running_machine(scope: Scope, operations: Finish, made_here: bool) -> None:
    if made_here:
        done(scope, operations, instances.insert(scope, instances.wanted(labels={"a": "b"})))
    else:
        machine(scope, "web-1")
    before = instances.get(scope)
    done(scope, operations, resize(scope, "web-1", 33))
    found = instances.get(scope)
    assert get(scope, "web-1").sizeGb == found.disks[0].diskSizeGb == 33
    # Nothing else of it has changed.
    found.disks[0].diskSizeGb = before.disks[0].diskSizeGb
    assert found == before


def test_the_boot_disk_of_a_machine_that_is_changed_meanwhile(
    scope: Scope, operations: Finish, simulated: Cloud, hold: Hold
) -> None:
    """Its resize takes turns with what else is done to the machine, and neither undoes what the other writes."""
    done(scope, operations, instances.insert(scope, instances.wanted()))
    sent = [hold.on(scope, "instances/web-1"), resize(scope, "web-1", 33), instances.set_labels(scope, env="x")]
    hold.until_turns_were_given(scope)
    assert "resizeVolume" not in simulated.calls
    hold.let_go()
    for one in sent:
        done(scope, operations, one)
    found = instances.get(scope)
    assert (dict(found.labels), found.disks[0].diskSizeGb) == ({"env": "x"}, 33)


def test_a_disk_that_is_attached_before_its_resize_has_its_turn(
    disks: Scope, operations: Finish, simulated: Cloud, hold: Hold
) -> None:
    """At its turn it is a disk of a machine, on which something else runs by then."""
    done(disks, operations, instances.insert(disks, instances.wanted()))
    source = f"{ZONE_LINK}/disks/data-1"
    first_on_disk = hold.on(disks, "disks/data-1")
    attach = instances_pb2.AttachDiskInstanceRequest(
        project="demo", zone="ch-zh-1", instance="web-1", resource=instances_pb2.AttachedDisk(source=source)
    )
    attached = ask(disks, "Instances.AttachDisk", attach)
    grow = resize(disks, "data-1", 20)
    hold.until_turns_were_given(disks)
    assert "attachVolume" not in simulated.calls
    # Behind the attach: the machine is busy again when the resize, which knew of none, has its turn on the disk.
    later = instances.act(disks, "Reset")
    simulated.app.faults.append(Fault("hang", "rebootVirtualMachine"))
    hold.let_go()
    for one in (first_on_disk, attached):
        done(disks, operations, one)
    until(lambda: "zones/ch-zh-1/instances/web-1" in disks.store.turns_of(grow.name))
    assert "resizeVolume" not in simulated.calls
    simulated.let_go()
    for one in (grow, later):
        done(disks, operations, one)
    assert get(disks, "data-1").sizeGb == 20
    assert disks.store.turns_of(grow.name) == {"zones/ch-zh-1/disks/data-1"}


def test_a_data_disk_of_a_running_machine(disks: Scope, operations: Finish) -> None:
    made = machine(disks, "web-1")
    job(disks, "attachVolume", id=row_of(disks, "data-1")["id"], virtualmachineid=made["id"])
    done(disks, operations, resize(disks, "data-1", 6))
    assert get(disks, "data-1").sizeGb == 6


@pytest.mark.parametrize("name", KINDS)
def test_of_two_that_resize_the_smaller_is_refused_at_its_turn(
    scope: Scope, request: pytest.FixtureRequest, name: str
) -> None:
    """None of them has run yet when the second is accepted."""
    volume(scope, "data-1")
    if name == "boot-1":
        scope.store.put_document(scope.project.key, "disk-intents", *_document(scope), expected=None)
    sent = [resize(scope, name, 30), resize(scope, name, 20)]
    operations = request.getfixturevalue("operations")
    ended = [operations(scope, one)["error"] for one in sent]
    assert ended[0] is None and (ended[1]["code"], ended[1]["status"]) == ("INVALID_USAGE", 400)
    assert get(scope, name).sizeGb == 30


def _document(scope: Scope) -> tuple[str, bytes]:
    zone = places.resolve_zone(scope, "ch-zh-1")
    template = first(scope, "listTemplates", templatefilter="executable")["id"]
    made = intents.Intent("boot-1", "11111111-1111-4111-8111-111111111111", zone.id, "", 10, template)
    return f"{zone.id}/boot-1", intents._dump(made)


@pytest.mark.parametrize("told", [True, False])
def test_a_restart_of_cloudstack(disks: Scope, operations: Finish, simulated: Cloud, told: bool) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "resizeVolume": 3600.0}
    sent = resize(disks, "data-1", 20)
    until(lambda: simulated.calls.get("resizeVolume", 0) > 0)
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=told)
    done(disks, operations, sent)
    assert get(disks, "data-1").sizeGb == 20


@pytest.mark.parametrize("command", ["deleteTags", "createTags"])
def test_a_restart_of_cloudstack_while_labels_change(
    disks: Scope, operations: Finish, simulated: Cloud, command: str
) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, command: 3600.0}
    count = simulated.calls.get(command, 0)
    sent = set_labels(disks, "data-1", c="d")
    until(lambda: simulated.calls.get(command, 0) > count)
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=False)
    done(disks, operations, sent)
    assert dict(get(disks, "data-1").labels) == {"c": "d"}


# Labels, and the rest


@pytest.mark.parametrize("name", KINDS)
def test_set_labels(disks: Scope, operations: Finish, name: str) -> None:
    before = get(disks, name)
    sent = set_labels(disks, name, before.labelFingerprint, env="x", team="y")
    assert (sent.operationType, sent.targetId) == ("setLabels", before.id)
    done(disks, operations, sent)
    found = get(disks, name)
    assert dict(found.labels) == {"env": "x", "team": "y"}
    assert found.labelFingerprint == label_fingerprint(found.labels) != before.labelFingerprint
    found.labels.clear()
    found.labels.update(before.labels)
    found.labelFingerprint = before.labelFingerprint
    assert found == before
    stale = refused(lambda: set_labels(disks, name, before.labelFingerprint, a="b"))
    assert (stale.code, stale.reason) == (412, "conditionNotMet")
    done(disks, operations, set_labels(disks, name))
    assert not get(disks, name).labels
    assert refused(lambda: set_labels(disks, name, A="b")).location == "body.labels.A"


@pytest.mark.parametrize("name", KINDS)
def test_of_two_from_the_same_labels_one_is_refused(disks: Scope, operations: Finish, name: str) -> None:
    """Both were accepted before one had its turn."""
    before = get(disks, name)
    done(disks, operations, set_labels(disks, name, before.labelFingerprint, env="x"))
    payload = {"zone": "ch-zh-1", "name": name, "id": view.identity_of(_row(disks, name)), "labels": {"env": "y"}}
    payload["expected"] = before.labelFingerprint.hex()
    target = f"zones/ch-zh-1/disks/{name}"
    sent = engine.submit(disks, type="setLabels", target=target, handler="disks.change", payload=payload)
    assert operations(disks, sent)["error"]["code"] == "CONDITION_NOT_MET"
    assert dict(get(disks, name).labels) == {"env": "x"}


@pytest.mark.parametrize("name", KINDS)
def test_null_takes_labels_and_lists_away(disks: Scope, operations: Finish, name: str) -> None:
    done(disks, operations, update(disks, name, licenses=["l-1"]))
    cleared = replace(disks, cleared=("labels", "licenses"))
    done(disks, operations, update(cleared, name))
    found = get(disks, name)
    assert not found.labels and not found.licenses
    for field, reason in (("sizeGb", "required"), ("type", "unsupportedOperation")):
        error = refused(lambda field=field: update(replace(disks, cleared=(field,)), name))
        assert (error.code, error.reason, error.location) == (400, reason, f"resource.{field}")
    # Nothing is taken away of what there is not.
    assert update(replace(disks, cleared=("description", "sourceSnapshot")), name).operationType == "update"


def _row(scope: Scope, name: str) -> dict[str, Any]:
    return intents.of(scope, None)[0].row if name == "boot-1" else row_of(scope, name)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["paths", "mask", "body"])
def test_update(disks: Scope, operations: Finish, name: str, how: str) -> None:
    before = get(disks, name)
    names = ("labels", "sizeGb", "licenses") if how == "paths" else ()
    fields = {"labels": {"x": "y"}, "sizeGb": 20, "licenses": ["l-1"]}
    if how == "body":
        # A client that sends back what it read.
        fields |= {"name": name, "selfLink": before.selfLink, "type": before.type, "description": ""}
    mask = "labels,sizeGb, licenses" if how == "mask" else ""
    sent = update(disks, name, *names, mask=mask, labelFingerprint=before.labelFingerprint, **fields)
    assert sent.operationType == "update"
    done(disks, operations, sent)
    found = get(disks, name)
    assert (dict(found.labels), found.sizeGb, list(found.licenses)) == ({"x": "y"}, 20, ["l-1"])
    assert (found.type, found.sourceImage, found.id) == (before.type, before.sourceImage, before.id)
    # What a mask names and the body lacks is taken away.
    done(disks, operations, update(disks, name, "licenses", "labels"))
    found = get(disks, name)
    assert (dict(found.labels), list(found.licenses), found.sizeGb) == ({}, [], 20)


@pytest.mark.parametrize(
    ("paths", "fields", "location", "words"),
    [
        (["description"], {"description": "x"}, "paths", "'description' cannot be changed here."),
        (["provisionedIops"], {}, "paths", "'provisionedIops' cannot be changed here."),
        (["no such"], {}, "paths", "'no such'. It is no field of a disk."),
        ([], {"description": "x"}, "resource.description", "it cannot be changed here."),
        ([], {"name": "other"}, "resource.name", "it cannot be changed here."),
        (["sizeGb"], {"sizeGb": 4}, "resource.sizeGb", "must be larger than existing size"),
        (["labels"], {"labels": {"A": "b"}}, "resource.labels.A", "Label keys"),
    ],
)
def test_updates_that_are_refused(
    disks: Scope, paths: list[str], fields: dict[str, Any], location: str, words: str
) -> None:
    error = refused(lambda: update(disks, "data-1", *paths, **fields))
    assert (error.code, error.location) == (400, location)
    assert words in error.message


def test_an_architecture(disks: Scope, operations: Finish) -> None:
    done(disks, operations, update(disks, "data-1", "architecture", architecture="ARM64"))
    assert get(disks, "data-1").architecture == "ARM64"
    error = refused(lambda: update(disks, "boot-1", "architecture", architecture="ARM64"))
    assert error.message.endswith("'ARM64'. It is not the image's.")


def test_the_labels_of_a_boot_disk_made_elsewhere(scope: Scope, operations: Finish) -> None:
    machine(scope, "web-1")
    done(scope, operations, set_labels(scope, "web-1", a="b"))
    assert dict(get(scope, "web-1").labels) == {"a": "b"}


@pytest.mark.parametrize("name", ["data-1", "boot-1", "web-1"])
def test_a_translator_dies_in_any_step(
    disks: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    done(disks, operations, instances.insert(disks, instances.wanted()))
    killer = killed_in_each(monkeypatch, "done")
    labels = {f"key-{index}": "x" * 60 for index in range(5)}
    done(disks, operations, update(disks, name, "labels", "sizeGb", "licenses", labels=labels, sizeGb=21))
    assert (dict(get(disks, name).labels), get(disks, name).sizeGb) == (labels, 21)
    assert len(killer.died) > 1
    if name == "web-1":
        assert instances.get(disks).disks[0].diskSizeGb == 21
    else:
        done(disks, operations, delete(disks, name))
        assert name not in listed(disks)


def test_what_was_an_intent_when_it_was_asked_for(disks: Scope, operations: Finish) -> None:
    """A machine was made of it before the turn of a change came."""
    (intent,) = intents.of(disks, None)
    root = first(disks, "listVolumes", virtualmachineid=machine(disks, "web-1")["id"], type="ROOT")
    job(disks, "createTags", resourcetype="Volume", resourceids=root["id"], **tags.parameters(intent.volume_tags))
    disks.store.delete_document(disks.project.key, "disk-intents", f"{intent.zone}/boot-1")
    payload = {"zone": "ch-zh-1", "name": "boot-1", "id": intent.id, "labels": {"x": "y"}, "size": 40}
    target = "zones/ch-zh-1/disks/boot-1"
    done(disks, operations, engine.submit(disks, type="x", target=target, handler="disks.change", payload=payload))
    found = get(disks, "boot-1")
    assert (dict(found.labels), found.sizeGb, found.id) == ({"x": "y"}, 40, number(intent.id))


# Times, IAM, others


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ("2026-11-20T10:00:00+0000", "2026-11-20T02:00:00.000-08:00"),
        ("2026-11-20T02:00:00.125-08:00", "2026-11-20T02:00:00.125-08:00"),
        ("2026-11-20T02:00:00", ""),
        ("0001-01-01T00:00:00+00:00", ""),
        ("yesterday", ""),
    ],
)
def test_when_it_was_attached_and_detached(scope: Scope, kept: str, shown: str) -> None:
    row = volume(scope, "data-1")
    packed = tags.parameters(tags.pack(tags.DISK, {"lastAttach": kept, "lastDetach": kept}))
    job(scope, "createTags", resourcetype="Volume", resourceids=row["id"], **packed)
    found = get(scope, "data-1")
    assert (found.lastAttachTimestamp, found.lastDetachTimestamp) == (shown, shown)


def test_permissions(disks: Scope, scope_for: OpenScope) -> None:
    for name in KINDS:
        body = iam_pb2.TestPermissionsRequest(permissions=["compute.disks.use"])
        request = pb.TestIamPermissionsDiskRequest(project="demo", zone="ch-zh-1", resource=name, body=body)
        assert list(ask(disks, "Disks.TestIamPermissions", request).permissions) == ["compute.disks.use"]
        policy = pb.GetIamPolicyDiskRequest(project="demo", zone="ch-zh-1", resource=name)
        assert not ask(disks, "Disks.GetIamPolicy", policy).bindings
    other = scope_for("ian@example.org", account="ian@example.org")
    works: list[Callable[[], Any]] = [
        lambda: delete(other),
        lambda: resize(other, "data-1", 20),
        lambda: set_labels(other, "data-1", a="b"),
        lambda: update(other, "data-1", "labels"),
        lambda: delete(other, "boot-1"),
        lambda: ask(other, "Disks.GetIamPolicy", policy),
    ]
    for work in works:
        assert refused(work).code == 404


def test_calls(disks: Scope, operations: Finish, simulated: Cloud) -> None:
    calls = Calls(simulated)
    calls()
    listed(disks)
    assert calls() == {"listVolumes": 1}
    get(disks, "data-1")
    assert calls() == {"listVolumes": 2}
    get(disks, "boot-1")
    assert calls() == {"listVolumes": 2}
    done(disks, operations, delete(disks, "data-1"))
    assert calls() == {"listVolumes": 3, "deleteVolume": 1}


# Any order of inserts and deletes

NAMES = ("a", "b")
STEP = st.tuples(st.sampled_from(["blank", "image", "copy", "delete"]), st.sampled_from(NAMES), st.sampled_from(NAMES))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=6))
def test_a_name_is_one_disks(scope: Scope, operations: Finish, steps: list[tuple[str, str, str]]) -> None:
    there: dict[str, int] = {}
    ways: dict[str, Callable[[str], dict[str, Any]]] = {
        "blank": lambda other: {"sizeGb": 1},
        "image": lambda other: {"sourceImage": IMAGE},
        "copy": lambda other: {"sourceDisk": other},
    }
    for way, name, other in steps:
        try:
            sent = delete(scope, name) if way == "delete" else insert(scope, name, **ways[way](other))
        except ApiError as error:
            missing = name not in there if way == "delete" else way == "copy" and other not in there
            assert error.code == (404 if missing else 409)
            assert missing or name in there
            continue
        done(scope, operations, sent)
        if way == "delete":
            del there[name]
        else:
            assert name not in there
            there[name] = get(scope, name).id
        assert listed(scope) == sorted(there)
        assert {one: get(scope, one).id for one in there} == there
        assert len(set(there.values())) == len(there)
    for name in there:
        done(scope, operations, delete(scope, name))
