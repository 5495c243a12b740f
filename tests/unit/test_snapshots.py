"""Snapshots: recorded rows as clients see them, how they are taken and deleted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2, iam_pb2, operations_pb2
from gstack.compute.v1 import snapshots_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.app import Fault
from simulator.families import snapshots as simulated_snapshots
from simulator.families.jobs import finish, restart
from simulator.world import Account, Snapshot, VirtualMachine, Volume
from tests.conftest import LINK_BASE, Cloud, OpenScope, recorded, recorded_rows
from tests.unit.killed import killed_once
from tests.unit.made import ask, first, job, machine, network, tag, until, volume
from translator_service import places
from translator_service.gce.naming import number
from translator_service.kept import tags
from translator_service.resources import snapshots
from translator_service.resources.disks import intents
from translator_service.resources.disks.intents import Intent
from translator_service.scope import Scope

Finish = Callable[..., Any]
PROJECT = f"{LINK_BASE}/projects/demo"
ZONE = f"{PROJECT}/zones/ch-zh-1"
E = "e-snapshots-templates"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quick_jobs: None) -> None:
    """What the simulated cloud does takes 20 ms, so asking for it more seldom would only be waiting."""
    monkeypatch.setattr(snapshots, "_PAUSES", (0.05,) * 20)


@pytest.fixture
def web(scope: Scope, operations: Finish) -> Scope:
    """A scope with the machine web-1, its boot disk, and its data disk data-1."""
    made = machine(scope, "web-1")
    job(scope, "attachVolume", id=volume(scope, "data-1")["id"], virtualmachineid=made["id"])
    return scope


def create(scope: Scope, name: str = "snap-1", disk: str = "data-1", **fields: Any) -> operations_pb2.Operation:
    request = disks_pb2.CreateSnapshotDiskRequest(
        project="demo", zone="ch-zh-1", disk=disk, resource=pb.Snapshot(name=name, **fields)
    )
    found = ask(scope, "Disks.CreateSnapshot", request)
    assert isinstance(found, operations_pb2.Operation)
    return found


def insert(scope: Scope, source: str = "zones/ch-zh-1/disks/data-1", **fields: Any) -> operations_pb2.Operation:
    wanted = pb.Snapshot(sourceDisk=source, **{"name": "snap-1", **fields})
    found = ask(scope, "Snapshots.Insert", pb.InsertSnapshotRequest(project="demo", resource=wanted))
    assert isinstance(found, operations_pb2.Operation)
    return found


def delete(scope: Scope, name: str = "snap-1") -> operations_pb2.Operation:
    found = ask(scope, "Snapshots.Delete", pb.DeleteSnapshotRequest(project="demo", snapshot=name))
    assert isinstance(found, operations_pb2.Operation)
    return found


def get(scope: Scope, name: str = "snap-1") -> pb.Snapshot:
    found = ask(scope, "Snapshots.Get", pb.GetSnapshotRequest(project="demo", snapshot=name))
    assert isinstance(found, pb.Snapshot)
    return found


def names(scope: Scope, **options: Any) -> list[str]:
    found = ask(scope, "Snapshots.List", common_pb2.ListRequest(project="demo", **options))
    return [item.name for item in found.items]


def done(scope: Scope, operations: Finish, operation: operations_pb2.Operation) -> Any:
    row = operations(scope, operation)
    assert not row["error"], row["error"]
    return row


def failed(scope: Scope, operations: Finish, operation: operations_pb2.Operation) -> tuple[int, str]:
    """(HTTP status, code) of an operation that must fail."""
    error = operations(scope, operation)["error"]
    return error["status"], error["code"]


def refused(call: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        call()
    return error.value


def taken(scope: Scope, disk_id: str, name: str) -> str:
    """A snapshot made elsewhere."""
    return str(job(scope, "createSnapshot", volumeid=disk_id, name=name)["id"])


def claims(scope: Scope) -> list[str]:
    return list(scope.store.documents(scope.project.key, "snapshot-names"))


# Recorded rows


@pytest.mark.parametrize(
    ("state", "status", "bytes_status"),
    [
        ("Allocated", "CREATING", "UPDATING"),
        ("Creating", "CREATING", "UPDATING"),
        ("BackingUp", "UPLOADING", "UPDATING"),
        ("BackedUp", "READY", "UP_TO_DATE"),
    ],
)
def test_recorded_states(scope: Scope, state: str, status: str, bytes_status: str) -> None:
    row = recorded_rows(E, f"createSnapshot: listSnapshots while state={state}")[0]
    shown = snapshots.to_snapshot(scope, row)
    assert (shown.status, shown.storageBytesStatus) == (status, bytes_status)
    assert (shown.name, shown.diskSizeGb, shown.id) == ("snap-1", 15, number(row["id"]))
    assert shown.storageBytes == shown.creationSizeBytes == row["physicalsize"]
    assert shown.creationTimestamp.startswith("2026-11-22T")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CreatedOnPrimary", "UPLOADING"),
        ("Copying", "UPLOADING"),
        ("Error", "FAILED"),
        ("Destroying", "DELETING"),
        ("SomethingNew", "CREATING"),
    ],
)
def test_other_states(scope: Scope, state: str, status: str) -> None:
    row = recorded_rows(E, "listSnapshots")[0] | {"state": state}
    assert snapshots.to_snapshot(scope, row).status == status


def test_the_disk_of_one_made_elsewhere(scope: Scope) -> None:
    """Named as the volume, which is still found by that name; also when the volume is gone."""
    zone = places.resolve_zone(scope, "ch-zh-1").id
    row = recorded_rows(E, "listSnapshots")[0] | {"zoneid": zone}
    shown = snapshots.to_snapshot(scope, row)
    assert shown.sourceDisk == f"{ZONE}/disks/ROOT-5"
    assert shown.sourceDiskId == str(number(row["volumeid"]))
    assert not shown.HasField("autoCreated") and not shown.chainName and not shown.snapshotType
    lost = recorded_rows(E, "listSnapshots whose volume is gone")[0] | {"zoneid": zone}
    assert snapshots.to_snapshot(scope, lost).sourceDisk == f"{ZONE}/disks/data-for-snap"


def test_one_of_a_schedule(scope: Scope) -> None:
    row = recorded_rows(E, "listSnapshots")[0] | {"intervaltype": "HOURLY"}
    assert snapshots.to_snapshot(scope, row).autoCreated


def test_tags_that_are_not_ours_do_no_harm(scope: Scope) -> None:
    row = recorded_rows(E, "listSnapshots")[0]
    for value in ("%%%", "W10", "eyJzb3VyY2VEaXNrIjogN30", "eyJsaWNlbnNlcyI6ICJ4In0"):
        shown = snapshots.to_snapshot(scope, row | {"tags": [{"key": tags.SNAPSHOT, "value": value}]})
        assert shown.name == "snap-1" and not shown.licenses


def test_recorded_names_are_told_apart(scope: Scope) -> None:
    """Two of one name, and one that CloudStack named itself."""
    rows = [
        recorded(E, f"createSnapshot {what} (job finished)")["body"]["queryasyncjobresultresponse"]["jobresult"][
            "snapshot"
        ]
        for what in ("duplicate name", "without name")
    ]
    rows.append(recorded_rows(E, "listSnapshots")[0])
    found = [name for name, _ in snapshots._names(rows)]
    assert found == ["snap-1", f"snap-1-{rows[0]['id'][:8]}", "vm-1-root-5-20261122232927"]


# Taking


@pytest.mark.parametrize("take", [create, insert])
def test_a_snapshot(web: Scope, operations: Finish, simulated: Cloud, take: Callable[..., Any]) -> None:
    disk = first(web, "listVolumes", name="data-1")
    sent = take(
        web,
        description="before ä",
        labels={"team": "a"},
        storageLocations=["us"],
        chainName="chain",
        snapshotType="ARCHIVE",
    )
    if take is create:
        expected = ("createSnapshot", f"{ZONE}/disks/data-1", ZONE, number(disk["id"]))
    else:
        expected = ("insert", f"{PROJECT}/global/snapshots/snap-1", "", 0)
    assert (sent.operationType, sent.targetLink, sent.zone, sent.targetId) == expected
    row = done(web, operations, sent)
    shown = get(web)
    if take is insert:
        assert row["target_id"] == str(shown.id)
    assert (shown.kind, shown.name, shown.status) == ("compute#snapshot", "snap-1", "READY")
    assert (shown.description, dict(shown.labels)) == ("before ä", {"team": "a"})
    assert (list(shown.storageLocations), shown.chainName, shown.snapshotType) == (["us"], "chain", "ARCHIVE")
    assert (shown.sourceDisk, shown.sourceDiskId) == (f"{ZONE}/disks/data-1", str(number(disk["id"])))
    assert (shown.diskSizeGb, shown.architecture) == (5, "X86_64")
    assert shown.storageBytes > 0 and shown.storageBytesStatus == "UP_TO_DATE"
    assert shown.selfLink == f"{PROJECT}/global/snapshots/snap-1"
    assert first(web, "listSnapshots")["name"] == "snap-1"
    assert simulated.calls["createSnapshot"] == 1 and "createTags" not in simulated.calls
    assert not claims(web)


def test_what_is_not_asked_for_is_not_there(web: Scope, operations: Finish) -> None:
    """Terraform would make the snapshot anew for a chain or a type that it did not ask for."""
    done(web, operations, create(web))
    shown = get(web)
    assert not shown.chainName and not shown.snapshotType and not shown.storageLocations and not shown.description


def test_the_disk_is_told_when_it_is_gone(web: Scope, operations: Finish) -> None:
    disk = first(web, "listVolumes", name="data-1")["id"]
    done(web, operations, create(web))
    job(web, "detachVolume", id=disk)
    web.client.write("deleteVolume", id=disk)
    shown = get(web)
    assert (shown.sourceDisk, shown.sourceDiskId) == (f"{ZONE}/disks/data-1", str(number(disk)))
    assert shown.status == "READY"
    done(web, operations, delete(web))
    assert names(web) == []


def test_of_a_boot_disk(web: Scope, operations: Finish) -> None:
    """By its name for GCE, which is that of its machine."""
    done(web, operations, create(web, disk="web-1"))
    assert get(web).sourceDisk == f"{ZONE}/disks/web-1"


@pytest.mark.parametrize(
    "form",
    [
        "zones/ch-zh-1/disks/data-1",
        "projects/demo/zones/ch-zh-1/disks/data-1",
        f"{ZONE}/disks/data-1",
        "https://compute.googleapis.com/compute/beta/projects/demo/zones/ch-zh-1/disks/data-1",
        "//zones/ch-zh-1/disks/data-1",
    ],
)
def test_references_to_the_disk(web: Scope, operations: Finish, form: str) -> None:
    done(web, operations, insert(web, form))
    assert get(web).sourceDisk == f"{ZONE}/disks/data-1"


def test_what_is_refused_at_once(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, create(web, "taken"))
    volume(web, "never")
    simulated.app.calls.clear()
    cases: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: create(web, ""), 400, "resource.name"),
        (lambda: create(web, "Bad_Name"), 400, "resource.name"),
        (lambda: create(web, disk="nope"), 404, ""),
        (lambda: create(web, "taken"), 409, ""),
        (lambda: create(web, labels={"Bad": "x"}), 400, "resource.labels.Bad"),
        (lambda: create(web, description="x" * 9000), 400, "resource.description"),
        (lambda: create(web, disk="never"), 400, ""),
        (lambda: create(web, sourceDisk="zones/ch-zh-1/disks/web-1"), 400, "resource.sourceDisk"),
        (lambda: insert(web, ""), 400, "resource.sourceDisk"),
        (lambda: insert(web, "data-1"), 400, "resource.sourceDisk"),
        (lambda: insert(web, "regions/ch-zh/disks/data-1"), 400, "resource.sourceDisk"),
        (lambda: insert(web, "zones/ch-zh-1/instances/web-1"), 400, "resource.sourceDisk"),
        (lambda: insert(web, "zones/nowhere/disks/data-1"), 404, ""),
        (lambda: insert(web, "zones/ch-zh-1/disks/nope"), 404, ""),
        (lambda: insert(web, "projects/other/zones/ch-zh-1/disks/data-1"), 404, ""),
        (lambda: insert(web, name="taken"), 409, ""),
        (lambda: delete(web, "nope"), 404, ""),
        (lambda: get(web, "nope"), 404, ""),
        (lambda: get(web, "x" * 300), 404, ""),
    ]
    for call, status, location in cases:
        error = refused(call)
        assert (error.code, error.location) == (status, location), error
    assert not set(simulated.calls) & {"createSnapshot", "deleteSnapshot"}


def test_a_guest_is_not_asked_to_write(web: Scope) -> None:
    request = disks_pb2.CreateSnapshotDiskRequest(
        project="demo", zone="ch-zh-1", disk="data-1", guestFlush=True, resource=pb.Snapshot(name="snap-1")
    )
    error = refused(lambda: ask(web, "Disks.CreateSnapshot", request))
    assert (error.code, error.location) == (400, "guestFlush")
    request.guestFlush = False
    ask(web, "Disks.CreateSnapshot", request)


def test_the_same_disk_in_the_body(web: Scope, operations: Finish) -> None:
    done(web, operations, create(web, sourceDisk=f"{ZONE}/disks/data-1"))
    assert names(web) == ["snap-1"]


def test_a_disk_that_was_never_attached(web: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and when its turn comes."""
    volume(web, "never")
    error = refused(lambda: create(web, disk="never"))
    assert error.code == 400
    path = "projects/demo/zones/ch-zh-1/disks/never"
    assert f"The disk '{path}' has never been attached to an instance" in error.message
    real = snapshots.disk_find.find

    def ready(scope: Scope, zone: Any, text: str) -> Any:
        name, row, answers = real(scope, zone, text)
        return name, row | {"state": "Ready"}, answers

    monkeypatch.setattr(snapshots.disk_find, "find", ready)
    row = operations(web, create(web, disk="never"))
    assert row["error"]["message"] == error.message
    assert names(web) == [] and not claims(web)


def test_a_disk_that_no_machine_was_made_of_yet(web: Scope) -> None:
    zone = places.resolve_zone(web, "ch-zh-1")
    intents.add(web, zone, Intent("boot-1", "1f9ffd3c-7df2-4c79-8c0a-1f7b8dc3b3a9", zone.id, "", 10, "template"))
    error = refused(lambda: create(web, disk="boot-1"))
    assert error.code == 400 and "has never been attached" in error.message


@contextmanager
def slow(simulated: Cloud, command: str) -> Iterator[None]:
    """Jobs of this command end when this does."""
    world = simulated.app.world
    world.settings.job_seconds = {"": 0.02, command: 3600.0}
    yield
    world.settings.job_seconds = {"": 0.02}
    finish(world)


def test_a_name_is_taken_by_who_was_first(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when all were accepted: of one disk one after the other, of two disks side by side."""
    with slow(simulated, "createSnapshot"):
        first_one = create(web)
        until(lambda: simulated.calls.get("createSnapshot"), pause=0.01)
        with monkeypatch.context() as patched:
            patched.setattr(snapshots, "_check_free", lambda scope, name: None)
            again, other = create(web), create(web, disk="web-1")
    done(web, operations, first_one)
    assert failed(web, operations, again)[0] == failed(web, operations, other)[0] == 409
    assert names(web) == ["snap-1"]
    assert get(web).sourceDisk == f"{ZONE}/disks/data-1"


def test_an_account_at_its_limit(web: Scope, operations: Finish, simulated: Cloud) -> None:
    for account in simulated.app.world.all(Account):
        account.limits["snapshot"] = 0
    status, code = failed(web, operations, create(web))
    assert (status, code) == (403, "QUOTA_EXCEEDED")
    assert names(web) == [] and not claims(web)


# What CloudStack makes of it


def test_another_one_of_the_machine_is_waited_for(web: Scope, operations: Finish, simulated: Cloud) -> None:
    """KVM takes one snapshot of a machine's disks at a time."""
    world = simulated.app.world
    for vm in world.all(VirtualMachine):
        vm.template.hypervisor = "KVM"
    with slow(simulated, "createSnapshot"):
        one, two = create(web, "snap-1", "data-1"), create(web, "snap-2", "web-1")
        # The second is refused while the first is taken.
        until(lambda: simulated.calls.get("createSnapshot", 0) > 1, pause=0.01)
    done(web, operations, one)
    done(web, operations, two)
    assert names(web) == ["snap-1", "snap-2"]


def test_waiting_long_holds_no_thread(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_PAUSES", ())
    monkeypatch.setattr(snapshots, "_LATER", 0.05)
    text = "There is other active snapshot tasks on the instance to which the volume is attached, please try again"
    simulated.app.faults.append(Fault("status", "createSnapshot", status=431, text=text, count=5))
    done(web, operations, create(web))
    assert names(web) == ["snap-1"]
    assert simulated.calls["createSnapshot"] == 6


def test_a_disk_that_is_moved_is_waited_for(web: Scope, operations: Finish, simulated: Cloud) -> None:
    (disk,) = (row for row in simulated.app.world.all(Volume) if row.name == "data-1")
    disk.state = "Migrating"
    sent = create(web)
    until(lambda: simulated.calls.get("createSnapshot", 0) >= 2, pause=0.01)
    disk.state = "Ready"
    done(web, operations, sent)
    assert names(web) == ["snap-1"]


def test_a_disk_that_becomes_ready_meanwhile(web: Scope, operations: Finish, simulated: Cloud) -> None:
    text = 'Volume: Volume {"id":1} is not in Ready state but Snapshotting. Cannot take snapshot.'
    simulated.app.faults.append(Fault("status", "createSnapshot", status=431, text=text))
    done(web, operations, create(web))
    assert names(web) == ["snap-1"]


def test_another_refusal_is_told(web: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "createSnapshot", status=431, text="Snapshots are switched off."))
    error = operations(web, create(web))["error"]
    assert (error["status"], error["message"]) == (400, "Snapshots are switched off.")
    assert names(web) == [] and not claims(web)


@pytest.mark.parametrize("state", ["UploadError", "Destroy"])
def test_a_disk_of_which_none_will_ever_be(web: Scope, operations: Finish, simulated: Cloud, state: str) -> None:
    (disk,) = (row for row in simulated.app.world.all(Volume) if row.name == "data-1")
    with slow(simulated, "createSnapshot"):
        one, two = create(web), create(web, "snap-2")
        until(lambda: simulated.calls.get("createSnapshot"), pause=0.01)
        disk.state = state
    done(web, operations, one)
    assert failed(web, operations, two)[0] == (404 if state == "Destroy" else 400)
    if state != "Destroy":
        assert refused(lambda: create(web, "snap-3")).code == 400
    disk.state = "Ready"
    assert names(web) == ["snap-1"]


def _ends(monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
    monkeypatch.setattr(simulated_snapshots, "STEPS", tuple((0.2 * i, state) for i, state in enumerate(states, 1)))


def test_it_runs_until_the_snapshot_is_usable(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job may be over before (recordings, u: the snapshot of a detached root)."""
    _ends(monkeypatch, "Creating", "BackingUp")
    sent = create(web)
    until(lambda: simulated.calls.get("listSnapshots", 0) > 6, pause=0.01)
    assert get(web).status == "UPLOADING"
    row = web.store.operation_by_name(sent.name)
    assert row is not None and row["status"] == "RUNNING"
    simulated.app.world.all(Snapshot)[0].state = "BackedUp"
    done(web, operations, sent)
    assert get(web).status == "READY"


def test_one_that_fails_is_taken_away(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, "Creating", "Error")
    row = operations(web, create(web))
    assert row["error"] and "could not be taken" in row["error"]["message"] and not row["warnings"]
    assert simulated.app.world.all(Snapshot) == [] and not claims(web)


def test_what_cannot_be_taken_away_is_told(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ends(monkeypatch, "Creating", "Error")
    simulated.app.faults.append(Fault("status", "deleteSnapshot", status=530, count=1))
    row = operations(web, create(web))
    assert row["error"] and "snap-1" in row["warnings"][0]["message"]
    assert get(web).status == "FAILED"
    done(web, operations, delete(web))
    assert names(web) == []


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("becomes", ["BackedUp", "Error", "Allocated", "gone"])
def test_a_restart_of_cloudstack_in_the_middle(
    web: Scope, operations: Finish, simulated: Cloud, told: bool, becomes: str
) -> None:
    """Its jobs end without a result; what became of the snapshot says the snapshot."""
    world = simulated.app.world
    world.settings.job_seconds = {"": 0.02, "createSnapshot": 3600.0}
    sent = create(web)
    until(lambda: world.all(Snapshot), pause=0.01)
    world.settings.job_seconds = {"": 0.02}
    restart(world, told=told)
    (row,) = world.all(Snapshot)
    row.state, row.removed = becomes, becomes == "gone"
    simulated_snapshots.snapshots(world).put(row)
    if becomes in ("BackedUp", "gone"):
        done(web, operations, sent)
        assert names(web) == ["snap-1"]
    else:
        assert operations(web, sent)["error"]
        assert names(web) == []
    assert simulated.calls["createSnapshot"] == (2 if becomes == "gone" else 1)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_restart_of_cloudstack_while_one_is_deleted(
    web: Scope, operations: Finish, simulated: Cloud, deleted: bool
) -> None:
    done(web, operations, create(web))
    world = simulated.app.world
    world.settings.job_seconds = {"": 0.02, "deleteSnapshot": 3600.0}
    sent = delete(web)
    until(lambda: simulated.calls.get("deleteSnapshot"), pause=0.01)
    world.settings.job_seconds = {"": 0.02}
    (row,) = world.all(Snapshot)
    restart(world, told=False)
    row.removed = deleted
    simulated_snapshots.snapshots(world).put(row)
    done(web, operations, sent)
    assert names(web) == []


# Crashes


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("number_", "step"), list(enumerate(["name-free", "take", "take/usable"])))
def test_killed_between_two_steps_of_taking(
    web: Scope,
    operations: Finish,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    number_: int,
    step: str,
    kept: bool,
) -> None:
    killer = killed_once(monkeypatch, number_, kept=kept)
    done(web, operations, create(web, labels={"a": "b"}))
    assert killer.died == [step]
    assert names(web) == ["snap-1"] and dict(get(web).labels) == {"a": "b"}
    assert simulated.calls["createSnapshot"] == 1 and len(simulated.app.world.all(Snapshot)) == 1
    assert not claims(web)


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("number_", "step"), list(enumerate(["deletable", "delete"])))
def test_killed_between_two_steps_of_deleting(
    web: Scope,
    operations: Finish,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    number_: int,
    step: str,
    kept: bool,
) -> None:
    done(web, operations, create(web))
    killer = killed_once(monkeypatch, number_, kept=kept)
    done(web, operations, delete(web))
    assert killer.died == [step]
    assert names(web) == [] and simulated.calls["deleteSnapshot"] == 1


@pytest.mark.parametrize("command", ["createSnapshot", "deleteSnapshot"])
@pytest.mark.parametrize("kind", ["drop", "truncated"])
def test_a_lost_answer_does_nothing_twice(
    web: Scope, operations: Finish, simulated: Cloud, command: str, kind: str
) -> None:
    simulated.app.faults.append(Fault(kind, command))
    done(web, operations, create(web))
    assert [row.name for row in simulated.app.world.all(Snapshot)] == ["snap-1"]
    done(web, operations, delete(web))
    assert simulated.app.world.all(Snapshot) == []


# Reading


def test_names_of_others(web: Scope, simulated: Cloud) -> None:
    """Found by the name that is shown, CloudStack's own, the number and the uuid."""
    disk = first(web, "listVolumes", name="data-1")["id"]
    odd, plain, twice = (taken(web, disk, name) for name in ("My Snapshot_1", "plain", "plain"))
    suffixed = f"plain-{twice[:8]}"
    assert names(web) == ["my-snapshot-1", "plain", suffixed]
    for identity, known in ((odd, ["my-snapshot-1", "My Snapshot_1"]), (plain, ["plain"]), (twice, [suffixed])):
        for text in (*known, identity, identity.upper(), str(number(identity))):
            assert get(web, text).id == number(identity), text
    assert refused(lambda: create(web, "my-snapshot-1")).code == 409


def test_one_question_for_a_get_and_for_a_list(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, create(web))
    get(web)
    for read in (lambda: get(web), lambda: names(web)):
        simulated.app.calls.clear()
        read()
        assert simulated.calls == {"listSnapshots": 1}


def test_filters_and_pages(web: Scope) -> None:
    disk = first(web, "listVolumes", name="data-1")["id"]
    for name in ("a-1", "a-2", "b-1"):
        taken(web, disk, name)
    assert names(web, filter="name eq a-.*") == ["a-1", "a-2"]
    assert names(web, filter="status = READY AND diskSizeGb = 5") == ["a-1", "a-2", "b-1"]
    assert names(web, maxResults=1) == ["a-1"]


def test_what_only_serves_something_else_is_not_shown(web: Scope) -> None:
    identity = taken(web, first(web, "listVolumes", name="data-1")["id"], "between")
    tag(web, "Snapshot", identity, tags.EPHEMERAL, "1")
    assert names(web) == []
    assert refused(lambda: get(web, "between")).code == 404


def test_snapshots_of_others(web: Scope, scope_for: OpenScope, operations: Finish) -> None:
    done(web, operations, create(web))
    shop = scope_for("webshop")
    assert names(shop) == []
    assert refused(lambda: get(shop)).code == 404
    assert refused(lambda: get(shop, str(get(web).id))).code == 404


def test_in_a_project_of_cloudstack(scope_for: OpenScope, operations: Finish) -> None:
    shop = scope_for("webshop")
    net = network(shop, "shop-net")["id"]
    machine(shop, "shop-1", networkids=net)
    request = disks_pb2.CreateSnapshotDiskRequest(
        project="webshop", zone="ch-zh-1", disk="shop-1", resource=pb.Snapshot(name="shop", labels={"a": "b"})
    )
    done(shop, operations, ask(shop, "Disks.CreateSnapshot", request))
    assert names(shop) == ["shop"] and dict(get(shop, "shop").labels) == {"a": "b"}
    assert names(scope_for("demo")) == []
    done(shop, operations, delete(shop, "shop"))
    assert names(shop) == []


# Deleting, labels, permissions


def test_delete(web: Scope, operations: Finish) -> None:
    done(web, operations, create(web))
    identity = get(web).id
    sent = delete(web)
    assert (sent.operationType, sent.targetId) == ("delete", identity)
    assert sent.targetLink == f"{PROJECT}/global/snapshots/snap-1"
    again = delete(web)
    done(web, operations, sent)
    done(web, operations, again)
    assert names(web) == []
    done(web, operations, create(web))


def test_delete_while_it_is_made(web: Scope, operations: Finish, simulated: Cloud) -> None:
    with slow(simulated, "createSnapshot"):
        sent = create(web)
        until(lambda: names(web) == ["snap-1"], pause=0.01)
        error = refused(lambda: delete(web))
        assert (error.code, error.reason) == (400, "resourceNotReady")
    done(web, operations, sent)
    done(web, operations, delete(web))


def test_delete_while_something_is_made_of_it(web: Scope, operations: Finish, simulated: Cloud) -> None:
    done(web, operations, create(web))
    simulated.app.faults.append(Fault("status", "deleteSnapshot", status=530, text="Failed to delete snapshot:1"))
    row = operations(web, delete(web))
    assert row["error"]["code"] == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
    assert "global/snapshots/snap-1" in row["error"]["message"]
    assert names(web) == ["snap-1"]
    done(web, operations, delete(web))


def set_labels(scope: Scope, labels: dict[str, str], fingerprint: bytes) -> operations_pb2.Operation:
    body = common_pb2.GlobalSetLabelsRequest(labels=labels, labelFingerprint=fingerprint)
    request = pb.SetLabelsSnapshotRequest(project="demo", resource="snap-1", body=body)
    found = ask(scope, "Snapshots.SetLabels", request)
    assert isinstance(found, operations_pb2.Operation)
    return found


def test_labels(web: Scope, operations: Finish) -> None:
    done(web, operations, create(web, labels={"a": "1"}, description="kept"))
    old = get(web).labelFingerprint
    sent = set_labels(web, {"b": "2"}, old)
    assert sent.targetLink == f"{PROJECT}/global/snapshots/snap-1"
    done(web, operations, sent)
    shown = get(web)
    assert dict(shown.labels) == {"b": "2"} and shown.labelFingerprint != old and shown.description == "kept"
    assert refused(lambda: set_labels(web, {}, old)).code == 412
    done(web, operations, set_labels(web, {}, shown.labelFingerprint))
    assert not get(web).labels and get(web).sourceDisk == f"{ZONE}/disks/data-1"
    # From nothing, too.
    done(web, operations, set_labels(web, {"c": "3"}, get(web).labelFingerprint))
    assert dict(get(web).labels) == {"c": "3"}


def test_permissions(web: Scope, operations: Finish) -> None:
    done(web, operations, create(web))
    body = iam_pb2.TestPermissionsRequest(permissions=["compute.snapshots.get"])
    request = pb.TestIamPermissionsSnapshotRequest(project="demo", resource="snap-1", body=body)
    assert list(ask(web, "Snapshots.TestIamPermissions", request).permissions) == ["compute.snapshots.get"]
    policy = pb.GetIamPolicySnapshotRequest(project="demo", resource="snap-1")
    assert not ask(web, "Snapshots.GetIamPolicy", policy).bindings
    policy.resource = "nope"
    assert refused(lambda: ask(web, "Snapshots.GetIamPolicy", policy)).code == 404
