from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import disks_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask, first, job, machine, tag, volume
from translator_service.gce.naming import number
from translator_service.kept import details
from translator_service.places import Zone
from translator_service.resources.disks import view
from translator_service.scope import Scope

ZONE_LINK = "https://www.googleapis.com/compute/v1/projects/demo/zones/ch-zh-1"
ZONE = Zone("ch-zh-1", "a4fe2e11-8416-4893-91e3-56fee3ef9cfa", "ch-zh", False)
TAGGED, REPLACED, STOPPED, RENAMED = recorded_rows("d-volumes", "listVolumes")
OLDER, NEWER = recorded_rows("d-volumes", "listVolumes by name (duplicate)")
(ATTACHED,) = recorded_rows("d-volumes", "listVolumes attached")
(DETACHED_ROOT,) = recorded_rows("d-volumes", "listVolumes detached root")


# Mapping


@pytest.mark.parametrize(("size", "gb"), [(0, 0), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (16106127360, 15)])
def test_size(size: int, gb: int) -> None:
    assert view.size_gb(size) == gb


def test_boot_name() -> None:
    assert view.boot_name(TAGGED) == "vm-1"
    assert view.boot_name({**TAGGED, "tags": [{"key": "gce-name", "value": "boot"}]}) == "boot"
    assert view.boot_name(RENAMED) == "vm-2-renamed"
    assert view.boot_name({"name": "ROOT-7"}) == "root-7"


def test_name_of() -> None:
    assert view.name_of(OLDER) == "disk-1"
    assert view.name_of(STOPPED) == "vm-3"
    assert view.name_of(DETACHED_ROOT) == "root-7"
    assert view.name_of({**DETACHED_ROOT, "tags": [{"key": "gce-name", "value": "boot"}]}) == "boot"
    assert view.name_of({**OLDER, "name": "My Disk 1"}) == "my-disk-1"


def test_deleted_disks_are_hidden() -> None:
    assert not view.is_shown(REPLACED)
    for state in ("Destroy", "Expunging", "Expunged"):
        assert not view.is_shown({**OLDER, "state": state})
    assert view.is_shown(OLDER)
    assert not view.is_shown({**TAGGED, "vmstate": "Destroyed"})
    assert view.is_shown({**ATTACHED, "vmstate": "Destroyed"})


def test_names_tell_duplicates_apart() -> None:
    index = view.names([NEWER, REPLACED, OLDER, TAGGED])
    assert [name for name, _ in index] == ["disk-1", f"disk-1-{NEWER['id'][:8]}", "vm-1"]
    assert index.name(OLDER["id"]) == "disk-1"


def test_a_disks_own_name_goes_before_a_machines() -> None:
    index = view.names([STOPPED, {**NEWER, "name": "vm-3"}])
    assert index.name(NEWER["id"]) == "vm-3"
    assert index.name(STOPPED["id"]) == f"vm-3-{STOPPED['id'][:8]}"


def test_boot_disk(scope: Scope) -> None:
    found = view.to_disk(scope, ZONE, TAGGED)
    assert (found.kind, found.id, found.name) == ("compute#disk", number(TAGGED["id"]), "vm-1")
    assert (found.sizeGb, found.status, found.zone) == (15, "READY", ZONE_LINK)
    assert found.selfLink == f"{ZONE_LINK}/disks/vm-1"
    assert list(found.users) == [f"{ZONE_LINK}/instances/vm-1"]
    assert found.creationTimestamp == found.lastAttachTimestamp == "2026-11-22T15:24:26.000-08:00"
    assert found.sourceImage.startswith("https://www.googleapis.com/compute/v1/projects/")
    assert found.sourceImageId == str(number(TAGGED["templateid"]))
    assert found.type.startswith(f"{ZONE_LINK}/diskTypes/")
    assert (found.physicalBlockSizeBytes, found.architecture) == (4096, "X86_64")
    assert len(found.labelFingerprint) == 8


def test_data_disk(scope: Scope) -> None:
    found = view.to_disk(scope, ZONE, ATTACHED)
    assert (found.name, found.sizeGb, found.sourceImage) == ("disk-1", 12, "")
    assert found.lastAttachTimestamp == "2026-11-22T16:03:57.000-08:00"
    alone = view.to_disk(scope, ZONE, OLDER)
    assert (list(alone.users), alone.lastAttachTimestamp) == ([], "")
    assert list(view.to_disk(scope, ZONE, {**ATTACHED, "vmstate": "Destroyed"}).users) == []


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("Allocated", "READY"),
        ("Ready", "READY"),
        ("Resizing", "READY"),
        ("Creating", "CREATING"),
        ("RevertSnapshotting", "RESTORING"),
        ("UploadError", "FAILED"),
    ],
)
def test_status(scope: Scope, state: str, status: str) -> None:
    assert view.to_disk(scope, ZONE, {**OLDER, "state": state}).status == status


def test_labels(scope: Scope) -> None:
    text = details.encode({"env": "test", "note": "x" * 63})
    chunks = [{"key": "gce-labels", "value": text[:60]}, {"key": "gce-labels.1", "value": text[60:]}]
    found = view.to_disk(scope, ZONE, {**OLDER, "tags": chunks})
    assert dict(found.labels) == {"env": "test", "note": "x" * 63}
    assert found.labelFingerprint != view.to_disk(scope, ZONE, OLDER).labelFingerprint
    assert not view.to_disk(scope, ZONE, {**OLDER, "tags": [{"key": "gce-labels", "value": "?"}]}).labels


# Methods


def get(scope: Scope, name: str, zone: str = "ch-zh-1") -> Any:
    return ask(scope, "Disks.Get", pb.GetDiskRequest(project="demo", zone=zone, disk=name))


def names(scope: Scope, zone: str = "ch-zh-1", **more: Any) -> list[str]:
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(project="demo", zone=zone, **more))
    return [item.name for item in found.items]


def missing(scope: Scope, name: str, zone: str = "ch-zh-1") -> None:
    with pytest.raises(ApiError) as error:
        get(scope, name, zone)
    assert error.value.message == f"The resource 'projects/demo/zones/{zone}/disks/{name}' was not found"


class Calls:
    """CloudStack commands since the last look, without the cached lists."""

    CACHED = ("listZones", "listDiskOfferings", "listTemplates")

    def __init__(self, simulated: Cloud):
        self.simulated = simulated
        self.before: dict[str, int] = {}

    def __call__(self) -> dict[str, int]:
        now = {name: count for name, count in self.simulated.calls.items() if name not in self.CACHED}
        new = {name: count - self.before.get(name, 0) for name, count in now.items()}
        self.before = now
        return {name: count for name, count in new.items() if count}


@pytest.fixture
def calls(simulated: Cloud) -> Calls:
    return Calls(simulated)


def test_list(scope: Scope, calls: Calls) -> None:
    web = machine(scope, "web-1")
    data = volume(scope, "data-1")
    job(scope, "attachVolume", id=data["id"], virtualmachineid=web["id"])
    gone = volume(scope, "gone")
    job(scope, "destroyVolume", id=gone["id"])
    calls()
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(project="demo", zone="ch-zh-1"))
    assert calls() == {"listVolumes": 1}
    assert [item.name for item in found.items] == ["data-1", "web-1"]
    assert [list(item.users) for item in found.items] == [[f"{ZONE_LINK}/instances/web-1"]] * 2
    assert found.items[0].sizeGb == 5
    assert names(scope, "ch-gv2") == []
    assert names(scope, filter="users:web-1 AND name=data-*") == ["data-1"]


def test_list_follows_changes(scope: Scope) -> None:
    assert names(scope) == []
    made = volume(scope, "data-1")
    assert names(scope) == ["data-1"]
    tag(scope, "Volume", made["id"], "gce-name", "renamed")
    assert names(scope) == ["renamed"]


def test_aggregated(scope: Scope, calls: Calls) -> None:
    volume(scope, "here")
    volume(scope, "here", zone="ch-gv2")
    calls()
    found = ask(scope, "Disks.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    assert calls() == {"listVolumes": 1}
    assert {key: [disk.name for disk in value.disks] for key, value in found.items.items()} == {
        "zones/ch-gv2": ["here"],
        "zones/ch-zh-1": ["here"],
    }


def test_get_data_disk(scope: Scope, calls: Calls) -> None:
    made = volume(scope, "data-1")
    calls()
    assert get(scope, "data-1").id == number(made["id"])
    assert calls() == {"listVolumes": 2}
    missing(scope, "data-1", "ch-gv2")


def test_names_have_a_case(scope: Scope) -> None:
    """CloudStack's filter has none."""
    lower, upper = volume(scope, "data-1"), volume(scope, "DATA-1")
    assert names(scope) == ["data-1", f"data-1-{upper['id'][:8]}"]
    assert get(scope, "data-1").id == number(lower["id"])
    assert get(scope, f"data-1-{upper['id'][:8]}").id == number(upper["id"])


def test_get_by_tag(scope: Scope, calls: Calls) -> None:
    web = machine(scope, "web-1")
    root = first(scope, "listVolumes", virtualmachineid=web["id"])
    tag(scope, "Volume", root["id"], "gce-name", "web-boot")
    calls()
    assert get(scope, "web-boot").id == number(root["id"])
    assert calls() == {"listVolumes": 2}
    missing(scope, "web-1")
    missing(scope, "WEB-BOOT")


def test_get_boot_disk_of_a_machine_made_elsewhere(scope: Scope, calls: Calls) -> None:
    web = machine(scope, "Web-1")
    root = first(scope, "listVolumes", virtualmachineid=web["id"])
    calls()
    found = get(scope, "web-1")
    assert calls() == {"listVolumes": 4, "listVirtualMachines": 1}
    assert (found.id, found.name) == (number(root["id"]), "web-1")
    assert list(found.users) == [f"{ZONE_LINK}/instances/web-1"]
    for name in ("Web-1", root["name"]):
        assert get(scope, name) == found


def test_get_of_a_name_that_is_none(scope: Scope, calls: Calls) -> None:
    made = volume(scope, "My Disk (old)")
    volume(scope, "other")
    assert names(scope) == ["my-disk-old", "other"]
    calls()
    assert get(scope, "my-disk-old").id == number(made["id"])
    assert calls() == {"listVolumes": 3, "listVirtualMachines": 1}
    assert get(scope, "My Disk (old)").name == "my-disk-old"


def test_get_by_id(scope: Scope, calls: Calls) -> None:
    made = volume(scope, "data-1")
    calls()
    for name in (made["id"], made["id"].upper(), str(number(made["id"]))):
        assert get(scope, name).name == "data-1"
        assert calls() == {"listVolumes": 1}
    missing(scope, made["id"], "ch-gv2")


def test_get_by_a_number_not_seen_before(scope: Scope) -> None:
    made = volume(scope, "data-1")
    assert get(scope, str(number(made["id"]))).name == "data-1"
    missing(scope, "12345")


def test_get_unknown(scope: Scope) -> None:
    for name in ("nope", "disk-1a2b3c4d", "33333333-1111-4111-8111-111111111111"):
        missing(scope, name)


def test_get_of_what_cannot_be_a_name(scope: Scope) -> None:
    for name in ("\U0001f600", "²", "9" * 5000):
        with pytest.raises(ApiError) as error:
            get(scope, name)
        assert error.value.code == 404


def test_get_deleted(scope: Scope) -> None:
    made = volume(scope, "gone")
    job(scope, "destroyVolume", id=made["id"])
    missing(scope, "gone")
    missing(scope, made["id"])


def test_other_accounts_see_nothing(scope: Scope, scope_for: OpenScope) -> None:
    made = volume(scope, "data-1")
    other = scope_for("ian@example.org", account="ian@example.org")
    assert names(other) == []
    for name in ("data-1", made["id"]):
        with pytest.raises(ApiError) as error:
            get(other, name)
        assert error.value.code == 404
