"""images.insert: of disks, snapshots, files and other images; what is refused, what is taken away when a step fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2, instances_pb2, operations_pb2, snapshots_pb2
from gstack.compute.v1 import images_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.app import Fault
from simulator.families.jobs import restart
from simulator.world import Account, Snapshot, Template, VirtualMachine
from tests.conftest import LINK_BASE, Cloud, OpenScope
from tests.unit.killed import killed_once
from tests.unit.made import ask, first, job, machine, until, volume
from translator_service import places
from translator_service.gce.naming import number
from translator_service.operations.run import Parked, Run
from translator_service.resources import image_insert
from translator_service.resources.disks import intents
from translator_service.resources.images import references
from translator_service.scope import Scope

Finish = Callable[..., Any]
PROJECT = f"{LINK_BASE}/projects/demo"
DISK = "zones/ch-zh-1/disks/web-1"
FILE = "https://files.example.org/debian-12.qcow2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quick_jobs: None) -> None:
    """What the simulated cloud does takes 20 ms, so asking for it more seldom would only be waiting."""
    monkeypatch.setattr(image_insert, "_LOOK", 0.02)


@pytest.fixture
def web(scope: Scope, operations: Finish) -> Scope:
    """A scope with the stopped machine web-1."""
    job(scope, "stopVirtualMachine", id=machine(scope, "web-1")["id"])
    return scope


def insert(scope: Scope, name: str = "img-1", force: bool = False, **fields: Any) -> operations_pb2.Operation:
    if not fields.keys() & {"sourceDisk", "sourceSnapshot", "sourceImage", "rawDisk"}:
        fields["sourceDisk"] = DISK
    request = pb.InsertImageRequest(project="demo", resource=pb.Image(name=name, **fields))
    if force:
        request.forceCreate = True
    found = ask(scope, "Images.Insert", request)
    assert isinstance(found, operations_pb2.Operation)
    return found


def of_file(scope: Scope, url: str = FILE, **fields: Any) -> operations_pb2.Operation:
    return insert(scope, rawDisk=pb.Image.RawDisk(source=url), **fields)


def get(scope: Scope, name: str = "img-1", project: str = "demo") -> pb.Image:
    found = ask(scope, "Images.Get", pb.GetImageRequest(project=project, image=name))
    assert isinstance(found, pb.Image)
    return found


def own(scope: Scope) -> list[str]:
    """Names of the images of the project itself."""
    found = ask(scope, "Images.List", common_pb2.ListRequest(project="demo"))
    mine = {row["id"] for row in scope.client.read("listTemplates", templatefilter="self").items}
    numbers = {number(identity) for identity in mine}
    return [one.name for one in found.items if one.id in numbers or one.sourceImage or one.sourceDisk]


def done(scope: Scope, finish: Finish, operation: Any) -> Any:
    row = finish(scope, operation)
    assert not row["error"], row["error"]
    return row


def failed(scope: Scope, finish: Finish, operation: Any) -> dict[str, Any]:
    row = finish(scope, operation)
    assert row["error"]
    error: dict[str, Any] = row["error"]
    return error


def refused(work: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        work()
    return error.value


def templates_of(simulated: Cloud) -> list[str]:
    world = simulated.app.world
    return [row.name for row in world.all(Template) if row.account.name == "demo"]


def machine_row(simulated: Cloud, name: str = "web-1") -> VirtualMachine:
    return next(row for row in simulated.app.world.all(VirtualMachine) if row.name == name)


# Of disks


def test_of_a_stopped_machine(web: Scope, operations: Finish, simulated: Cloud) -> None:
    sent = insert(
        web,
        family="my-family",
        description="mine ü",
        labels={"env": "test"},
        licenses=["https://www.googleapis.com/compute/v1/projects/debian-cloud/global/licenses/debian-12"],
        guestOsFeatures=[common_pb2.GuestOsFeature(type="UEFI_COMPATIBLE")],
        storageLocations=["eu"],
        licenseCodes=[7],
        diskSizeGb=10,
    )
    assert (sent.operationType, sent.targetLink) == ("insert", f"{PROJECT}/global/images/img-1")
    row = done(web, operations, sent)
    image = get(web)
    assert row["target_id"] == str(image.id)
    assert (image.status, image.family, image.description) == ("READY", "my-family", "mine ü")
    assert dict(image.labels) == {"env": "test"} and image.labelFingerprint
    assert (image.sourceDisk, image.sourceType, image.diskSizeGb) == (f"{PROJECT}/{DISK}", "RAW", 10)
    assert image.sourceDiskId == str(number(first(web, "listVolumes")["id"]))
    assert list(image.storageLocations) == ["eu"] and list(image.licenseCodes) == [7]
    assert image.licenses[0].endswith("/debian-12") and image.guestOsFeatures[0].type == "UEFI_COMPATIBLE"
    assert image.rawDisk.containerType == "TAR" and not image.HasField("deprecated")
    (template,) = (row for row in simulated.app.world.all(Template) if row.name == "img-1")
    assert (template.display_text, template.os_name, template.public) == ("mine ü", "CentOS 6.4 (64-bit)", False)
    assert "createSnapshot" not in simulated.calls


def test_what_is_not_given_is_not_there(web: Scope, operations: Finish) -> None:
    done(web, operations, insert(web, name="debian-12-mine"))
    image = get(web, "debian-12-mine")
    # Words of a name make no family of an image that was made here.
    assert not image.HasField("family") and not image.HasField("description") and not image.labels


def test_of_a_detached_disk(web: Scope, operations: Finish) -> None:
    vm = first(web, "listVirtualMachines")
    disk = first(web, "listVolumes", type="ROOT")
    job(web, "detachVolume", id=disk["id"])
    done(web, operations, insert(web, sourceDisk=f"{PROJECT}/zones/ch-zh-1/disks/{disk['name'].lower()}"))
    assert get(web).status == "READY" and vm


def test_machines_and_disks_begin_from_it(web: Scope, operations: Finish) -> None:
    done(web, operations, insert(web))
    zone = places.resolve_zone(web, "ch-zh-1")
    assert references.resolve(web, "global/images/img-1", zone, "f").row["name"] == "img-1"
    assert (
        "not available"
        in refused(
            lambda: references.resolve(web, "global/images/img-1", places.resolve_zone(web, "ch-gv2"), "f")
        ).message
    )


def test_what_the_machine_had_is_taken_out(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """CloudStack copies details of the machine into the template, and from there into every machine made of it."""
    details = {
        "details[0].gce.labels": "eyJhIjoiYiJ9",
        "details[0].SSH.PublicKey": "ssh-rsa x",
        "details[0].nicAdapter": "v",
    }
    job(scope, "stopVirtualMachine", id=machine(scope, "web-1", **details)["id"])
    done(scope, operations, insert(scope))
    (template,) = (row for row in simulated.app.world.all(Template) if row.name == "img-1")
    assert template.details == {"nicAdapter": "v"}


def test_of_a_running_machine(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    machine(scope, "web-1")
    error = refused(lambda: insert(scope))
    assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
    assert error.message == (
        f"The disk resource 'projects/demo/{DISK}' is already being used by "
        "'projects/demo/zones/ch-zh-1/instances/web-1'"
    )
    done(scope, operations, insert(scope, force=True))
    assert get(scope).diskSizeGb == 10 and get(scope).sourceDisk.endswith("/disks/web-1")
    assert simulated.app.world.all(Snapshot) == [] and simulated.calls["deleteSnapshot"] == 1
    assert machine_row(simulated).state == "Running"


def test_a_machine_that_starts_meanwhile(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked at submit is checked again when the turn comes."""
    real = image_insert._look_at_disk

    def late(run: Run) -> Any:
        machine_row(simulated).state = "Running"
        return real(run)

    monkeypatch.setattr(image_insert, "_look_at_disk", late)
    assert failed(web, operations, insert(web))["code"] == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
    assert templates_of(simulated) == []


def test_a_disk_with_nothing_on_it(scope: Scope) -> None:
    volume(scope, "data-1")
    error = refused(lambda: insert(scope, sourceDisk="zones/ch-zh-1/disks/data-1"))
    assert (error.code, error.reason) == (400, "invalidUsage") and "never been attached" in error.message


# Refusals


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"name": "Bad"}, 400, "resource.name"),
        ({"name": ""}, 400, "resource.name"),
        ({"family": "Bad"}, 400, "resource.family"),
        ({"labels": {"Bad": "x"}}, 400, "resource.labels.Bad"),
        ({"sourceDisk": "zones/ch-zh-1/disks/nope"}, 404, ""),
        ({"sourceDisk": "projects/other/zones/ch-zh-1/disks/web-1"}, 404, ""),
        ({"sourceDisk": "zones/nope/disks/web-1"}, 404, ""),
        ({"sourceDisk": "web-1"}, 400, "resource.sourceDisk"),
        ({"sourceDisk": "regions/ch/disks/web-1"}, 400, "resource.sourceDisk"),
        ({"sourceSnapshot": "global/snapshots/nope"}, 404, ""),
        ({"sourceSnapshot": "global/images/nope"}, 400, "resource.sourceSnapshot"),
        ({"sourceImage": "global/images/nope"}, 404, ""),
        ({"sourceImage": "global/snapshots/nope"}, 400, "resource.sourceImage"),
        ({"sourceDisk": DISK, "sourceImage": "global/images/x"}, 400, "resource"),
        ({"rawDisk": pb.Image.RawDisk(containerType="TAR")}, 400, "resource"),
        ({"rawDisk": pb.Image.RawDisk(source="gs://bucket/x.qcow2")}, 400, "resource.rawDisk.source"),
        ({"rawDisk": pb.Image.RawDisk(source="https://h/x.tar.gz")}, 400, "resource.rawDisk.source"),
        ({"rawDisk": pb.Image.RawDisk(source="https://h/x")}, 400, "resource.rawDisk.source"),
        ({"rawDisk": pb.Image.RawDisk(source="ftp://h/x.raw")}, 400, "resource.rawDisk.source"),
        ({"rawDisk": pb.Image.RawDisk(source=FILE, sha1Checksum="x")}, 400, "resource.rawDisk.sha1Checksum"),
        ({"rawDisk": pb.Image.RawDisk(source=FILE), "diskSizeGb": 20}, 400, "resource.diskSizeGb"),
        ({"diskSizeGb": 9}, 400, "resource.diskSizeGb"),
        ({"diskSizeGb": 11}, 400, "resource.diskSizeGb"),
        ({"architecture": "ARM64"}, 400, "resource.architecture"),
        ({"description": "x" * 9000}, 400, "resource.description"),
    ],
)
def test_refused_at_once(web: Scope, simulated: Cloud, fields: dict[str, Any], code: int, field: str) -> None:
    error = refused(lambda: insert(web, **fields))
    assert (error.code, error.location) == (code, field), error
    assert web.store.unfinished()[0] == 0
    assert templates_of(simulated) == []


def test_a_name_in_use(web: Scope, operations: Finish) -> None:
    first_, twice = insert(web), None
    try:
        twice = insert(web)
    except ApiError as error:
        assert error.code == 409
    done(web, operations, first_)
    if twice is not None:
        assert failed(web, operations, twice)["code"] == "RESOURCE_ALREADY_EXISTS"
    error = refused(lambda: insert(web))
    assert (error.code, error.message) == (409, "The resource 'projects/demo/global/images/img-1' already exists")


def test_of_two_at_once_one_wins(
    web: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are accepted: only their turns tell."""
    with monkeypatch.context() as patch:
        patch.setattr(type(web.store), "is_busy", lambda *_: False)
        sent = [insert(web, description=text) for text in ("a", "b")]
    ended = [operations(web, one)["error"] for one in sent]
    assert [bool(error) for error in ended] == [False, True]
    assert ended[1]["code"] == "RESOURCE_ALREADY_EXISTS" and get(web).description == "a"
    assert templates_of(simulated) == ["img-1"]


def test_an_account_at_its_limit(web: Scope, operations: Finish, simulated: Cloud) -> None:
    world = simulated.app.world
    next(row for row in world.all(Account) if row.name == "demo").limits = {"template": 0}
    error = failed(web, operations, insert(web))
    assert (error["code"], error["status"]) == ("QUOTA_EXCEEDED", 403)


# Of snapshots


def test_of_a_snapshot(web: Scope, operations: Finish, simulated: Cloud) -> None:
    request = snapshots_pb2.InsertSnapshotRequest(
        project="demo", resource=snapshots_pb2.Snapshot(name="snap-1", sourceDisk=DISK)
    )
    done(web, operations, ask(web, "Snapshots.Insert", request))
    done(web, operations, insert(web, sourceSnapshot=f"{PROJECT}/global/snapshots/snap-1"))
    image = get(web)
    assert image.sourceSnapshot == f"{PROJECT}/global/snapshots/snap-1" and image.sourceSnapshotId
    # CloudStack tells no size of it.
    assert image.diskSizeGb == 10 and not image.sourceDisk
    (template,) = (row for row in simulated.app.world.all(Template) if row.name == "img-1")
    assert template.os_name == "CentOS 6.4 (64-bit)" and "gce.labels" not in template.details


# Of files


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://h.example.org/a.qcow2", "QCOW2"),
        ("http://h.example.org/a.vhd.bz2", "VHD"),
        ("https://h.example.org/a.OVA", "OVA"),
        ("https://h.example.org/a.img?x=1", "RAW"),
        ("https://h.example.org/a.raw.gz", "RAW"),
        ("https://storage.googleapis.com/storage/v1/b/bucket/o/folder%2Fa.qcow2", "QCOW2"),
    ],
)
def test_of_a_file(scope: Scope, operations: Finish, simulated: Cloud, url: str, form: str) -> None:
    done(scope, operations, of_file(scope, url, description="from a file"))
    image = get(scope)
    assert (image.status, image.description, image.rawDisk.source) == ("READY", "from a file", url)
    (template,) = (row for row in simulated.app.world.all(Template) if row.name == "img-1")
    assert (template.format, template.os_name, template.hypervisor) == (form, "Other Linux (64-bit)", "Simulator")
    assert [zone.name for zone in template.zones] == ["CH-GV2", "CH-ZH-1"]
    if "storage.googleapis" in url:
        assert template.url == "https://storage.googleapis.com/bucket/folder/a.qcow2"


def test_it_runs_until_the_file_is_there(
    scope: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that is: its thread is given back."""
    parked: list[str] = []
    real = Parked.__init__

    def told(self: Parked, reason: str, seconds: float | None = None) -> None:
        parked.append(reason)
        real(self, reason, seconds)

    monkeypatch.setattr(Parked, "__init__", told)
    monkeypatch.setattr(image_insert, "_LOOKS", 0.0)
    monkeypatch.setattr(image_insert, "_LATER", 0.05)
    world = simulated.app.world
    world.settings.job_seconds = {"": 0.02, "registerTemplate": 3600.0}
    sent = of_file(scope)
    until(lambda: "the file is being fetched" in parked, pause=0.01)
    assert get(scope).status == "PENDING"
    world.finish()
    done(scope, operations, sent)
    assert get(scope).status == "READY" and simulated.calls["registerTemplate"] == 1


def test_a_file_that_is_not_there(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    error = failed(scope, operations, of_file(scope, "https://h.example.org/missing.qcow2"))
    assert error["message"] == (
        "The image could not be made of 'https://h.example.org/missing.qcow2': "
        "HTTP Server returned 404 (expected 200 OK)"
    )
    assert templates_of(simulated) == [] and refused(lambda: get(scope)).code == 404


def test_a_host_that_is_not_there(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    error = failed(scope, operations, of_file(scope, "https://nowhere.example.org/a.qcow2"))
    assert error["message"] == "Unable to resolve nowhere.example.org." and templates_of(simulated) == []


def test_an_os_type_that_is_not_there(scope: Scope, operations: Finish) -> None:
    scope.environment.settings.image_os_type = "TempleOS"
    assert "TempleOS" in failed(scope, operations, of_file(scope))["message"]


# Of images


def test_of_an_image(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    source = "projects/debian-cloud/global/images/family/debian-12"
    before = len(simulated.app.world.all(Template))
    done(scope, operations, insert(scope, sourceImage=source, family="mine", labels={"a": "b"}))
    image = get(scope)
    assert (image.name, image.family, dict(image.labels), image.status) == ("img-1", "mine", {"a": "b"}, "READY")
    assert image.sourceImage == f"{LINK_BASE}/projects/debian-cloud/global/images/linux-debian-12-64-bit"
    assert image.sourceImageId and image.sourceImageId != str(image.id)
    assert get(scope, str(image.id)).name == "img-1"
    assert len(simulated.app.world.all(Template)) == before
    zone = places.resolve_zone(scope, "ch-gv2")
    for text in ("global/images/img-1", "global/images/family/mine"):
        asked = references.resolve(scope, text, zone, "f")
        assert (asked.row["name"], asked.path) == ("Linux Debian 12 64-bit", "projects/demo/global/images/img-1")
    # Two of one name are as two templates would be.
    assert refused(lambda: insert(scope, sourceImage=source)).code == 409


def test_what_is_made_of_a_second_name_shows_it(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, sourceImage="global/images/linux-debian-12-64-bit"))
    disk = instances_pb2.AttachedDisk(
        boot=True, initializeParams=instances_pb2.AttachedDiskInitializeParams(sourceImage="global/images/img-1")
    )
    wanted = instances_pb2.Instance(
        name="vm-1",
        machineType="zones/ch-gv2/machineTypes/micro",
        disks=[disk],
        networkInterfaces=[instances_pb2.NetworkInterface(network="global/networks/default")],
    )
    request = instances_pb2.InsertInstanceRequest(project="demo", zone="ch-gv2", resource=wanted)
    done(scope, operations, ask(scope, "Instances.Insert", request))
    found = ask(scope, "Disks.Get", disks_pb2.GetDiskRequest(project="demo", zone="ch-gv2", disk="vm-1"))
    assert found.sourceImage == f"{PROJECT}/global/images/img-1"


def test_of_a_disk_that_no_machine_was_made_of_yet(scope: Scope, operations: Finish) -> None:
    """It has no volume: the image is a second name of the template."""
    zone = places.resolve_zone(scope, "ch-zh-1")
    template = first(scope, "listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")
    intent = intents.Intent(
        "boot-1", "9a8a8f0e-0000-4000-8000-000000000001", zone.id, "2026-11-26T00:00:00+0000", 10, template["id"]
    )
    intents.add(scope, zone, intent)
    done(scope, operations, insert(scope, sourceDisk="zones/ch-zh-1/disks/boot-1"))
    image = get(scope)
    assert image.sourceDisk == f"{PROJECT}/zones/ch-zh-1/disks/boot-1" and not image.sourceImage
    assert image.sourceDiskId == str(number(intent.id)) and image.status == "READY"


def test_a_second_name_is_gone_with_its_template(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, sourceImage="global/images/linux-debian-12-64-bit"))
    for row in simulated.app.world.all(Template):
        row.removed = row.removed or row.name == "Linux Debian 12 64-bit"
    scope.forget(image_insert.kind(scope))
    assert refused(lambda: get(scope)).code == 404


# What fails half-way, and crashes


@pytest.mark.parametrize("command", ["createTags", "updateTemplate", "createTemplate"])
def test_what_is_half_made_is_taken_away(scope: Scope, operations: Finish, simulated: Cloud, command: str) -> None:
    machine(scope, "web-1")
    simulated.app.faults.append(Fault("status", command))
    failed(scope, operations, insert(scope, force=True))
    assert templates_of(simulated) == [] and simulated.app.world.all(Snapshot) == []
    assert own(scope) == []


def test_what_cannot_be_taken_away_is_told(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    machine(scope, "web-1")
    simulated.app.faults.append(Fault("status", "deleteSnapshot", count=99))
    row = done(scope, operations, insert(scope, force=True))
    (warning,) = row["warnings"]
    assert "The snapshot that the image 'img-1' was made through" in warning["message"]
    assert get(scope).status == "READY"


@pytest.mark.parametrize("ready", [False, True])
def test_a_restart_of_cloudstack_in_the_middle(web: Scope, operations: Finish, simulated: Cloud, ready: bool) -> None:
    world = simulated.app.world
    world.settings.job_seconds = {"": 0.02, "createTemplate": 3600.0}
    sent = insert(web)
    until(lambda: "img-1" in templates_of(simulated), pause=0.01)
    restart(world, told=False)
    (template,) = (row for row in world.all(Template) if row.name == "img-1")
    template.ready = ready
    world.settings.job_seconds = {"": 0.02}
    row = operations(web, sent)
    assert bool(row["error"]) is not ready
    assert templates_of(simulated) == (["img-1"] if ready else [])


STEPS = [
    "name-free", "disk", "snapshot", "snapshot/usable", "template", "tags", "details", "clean", "snapshot/delete",
]  # fmt: skip


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("position", "step"), list(enumerate(STEPS)))
def test_killed_between_two_steps_of_a_running_machines(
    scope: Scope,
    operations: Finish,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    position: int,
    step: str,
    kept: bool,
) -> None:
    machine(scope, "web-1")
    killer = killed_once(monkeypatch, position, kept=kept)
    done(scope, operations, insert(scope, force=True, labels={"a": "b"}))
    assert killer.died == [step]
    assert dict(get(scope).labels) == {"a": "b"} and templates_of(simulated) == ["img-1"]
    assert simulated.app.world.all(Snapshot) == []
    assert simulated.calls["createTemplate"] == simulated.calls["createSnapshot"] == 1


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("position", "step"), list(enumerate(["name-free", "os-type", "template", "tags"])))
def test_killed_between_two_steps_of_a_file(
    scope: Scope,
    operations: Finish,
    simulated: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    position: int,
    step: str,
    kept: bool,
) -> None:
    killer = killed_once(monkeypatch, position, kept=kept)
    done(scope, operations, of_file(scope))
    assert killer.died == [step]
    assert templates_of(simulated) == ["img-1"] and simulated.calls["registerTemplate"] == 1


@pytest.mark.parametrize("kept", [False, True], ids=["not-kept", "kept"])
@pytest.mark.parametrize(("position", "step"), list(enumerate(["name-free", "created", "second"])))
def test_killed_between_two_steps_of_a_second_name(
    scope: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch, position: int, step: str, kept: bool
) -> None:
    killer = killed_once(monkeypatch, position, kept=kept)
    row = done(scope, operations, insert(scope, sourceImage="global/images/linux-debian-12-64-bit"))
    assert killer.died == [step]
    assert own(scope) == ["img-1"] and row["target_id"] == str(get(scope).id)


@pytest.mark.parametrize("command", ["createTemplate", "createTags", "createSnapshot", "registerTemplate"])
@pytest.mark.parametrize("kind", ["drop", "truncated"])
def test_a_lost_answer_does_nothing_twice(
    scope: Scope, operations: Finish, simulated: Cloud, command: str, kind: str
) -> None:
    machine(scope, "web-1")
    simulated.app.faults.append(Fault(kind, command))
    done(scope, operations, of_file(scope) if command == "registerTemplate" else insert(scope, force=True))
    assert templates_of(simulated) == ["img-1"] and simulated.app.world.all(Snapshot) == []


def test_a_disk_of_another_account(web: Scope, scope_for: OpenScope) -> None:
    other = scope_for("ian@example.org", account="ian@example.org")
    error = refused(
        lambda: ask(
            other,
            "Images.Insert",
            pb.InsertImageRequest(
                project="ian@example.org", resource=pb.Image(name="x", sourceDisk=f"{PROJECT}/{DISK}")
            ),
        )
    )
    assert error.code == 404
