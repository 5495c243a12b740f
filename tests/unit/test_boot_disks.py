"""Boot disks: what an insert says of them comes back, and an instance's link names its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, disks_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from simulator.families.jobs import restart
from simulator.world import DiskOffering, Volume
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, first, job, machine, tag, until, volume
from tests.unit.test_disks import Calls
from tests.unit.test_instances import (
    IMAGE,
    ZONE_LINK,
    Finish,
    delete,
    documents,
    done,
    get,
    insert,
    metadata,
    refused,
    row_of,
    wanted,
)
from tests.unit.test_instances_insert import boot, root_volume
from translator_service.gce.naming import number
from translator_service.resources import machine_types
from translator_service.scope import Scope

WWW = "https://www.googleapis.com/compute/v1"
PUBLIC = "projects/debian-cloud/global/images/linux-debian-12-64-bit"


pytestmark = pytest.mark.usefixtures("quick_jobs")


@pytest.fixture
def calls(simulated: Cloud) -> Calls:
    return Calls(simulated)


def disk(scope: Scope, name: str = "web-1", zone: str = "ch-zh-1") -> disks_pb2.Disk:
    found: disks_pb2.Disk = ask(scope, "Disks.Get", disks_pb2.GetDiskRequest(project="demo", zone=zone, disk=name))
    return found


def listed(scope: Scope, zone: str = "ch-zh-1") -> dict[str, pb.Instance]:
    found = ask(scope, "Instances.List", common_pb2.ListInZoneRequest(project="demo", zone=zone))
    return {item.name: item for item in found.items}


def disk_names(scope: Scope, zone: str = "ch-zh-1") -> list[str]:
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(project="demo", zone=zone))
    return [item.name for item in found.items]


def is_taken(scope: Scope, resource: pb.Instance, name: str) -> bool:
    error = refused(lambda: insert(scope, resource))
    assert (error.code, error.reason) == (409, "alreadyExists"), error
    return error.message == f"The resource 'projects/demo/zones/ch-zh-1/disks/{name}' already exists"


# What comes back


def features(*types: str) -> list[common_pb2.GuestOsFeature]:
    return [common_pb2.GuestOsFeature(type=type) for type in types]


def test_what_is_said_of_a_boot_disk_comes_back(scope: Scope, operations: Finish, calls: Calls) -> None:
    said = boot(
        labels={"team": "a", "équipe": "zürich"},
        description="the disk",
        licenses=["projects/debian-cloud/global/licenses/debian-12"],
        guestOsFeatures=features("VIRTIO_SCSI_MULTIQUEUE", "UEFI_COMPATIBLE"),
        architecture="X86_64",
        diskType="zones/ch-zh-1/diskTypes/pd-balanced",
        sourceImage="projects/debian-cloud/global/images/family/debian-12",
        diskSizeGb=20,
        autoDelete=False,
    )
    done(scope, operations, insert(scope, wanted(**said)))
    assert calls()["createTags"] == 2  # of the disk, and of the address
    found = disk(scope)
    assert dict(found.labels) == {"team": "a", "équipe": "zürich"}
    assert (found.description, found.architecture, found.sizeGb) == ("the disk", "X86_64", 20)
    assert list(found.licenses) == ["projects/debian-cloud/global/licenses/debian-12"]
    assert [one.type for one in found.guestOsFeatures] == ["VIRTIO_SCSI_MULTIQUEUE", "UEFI_COMPATIBLE"]
    assert found.type == f"{ZONE_LINK}/diskTypes/pd-balanced"
    assert found.sourceImage == f"{WWW}/{PUBLIC}"
    assert len(found.labelFingerprint) == 8
    done(scope, operations, delete(scope))
    kept = disk(scope)
    for field in ("labels", "description", "licenses", "guestOsFeatures", "type", "sourceImage", "name"):
        assert getattr(kept, field) == getattr(found, field), field


def test_as_much_as_there_may_be(scope: Scope, operations: Finish) -> None:
    labels = {f"k{number:02}" + "é" * 60: "ü" * 63 for number in range(64)}
    done(scope, operations, insert(scope, wanted(**boot(labels=labels, description="d" * 2048))))
    assert (dict(disk(scope).labels), disk(scope).description) == (labels, "d" * 2048)


def test_without_anything_said(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted()))
    found = disk(scope)
    assert not found.labels and not found.licenses and not found.description
    assert found.type == f"{ZONE_LINK}/diskTypes/pd-standard"
    assert found.sourceImage == f"{WWW}/projects/demo/global/images/{IMAGE}"


def test_what_an_instance_says_of_its_disk_and_interface_comes_back(scope: Scope, operations: Finish) -> None:
    access = pb.AccessConfig(name="nat", networkTier="STANDARD")
    nic = pb.NetworkInterface(network="global/networks/net-a", nicType="GVNIC", queueCount=4, accessConfigs=[access])
    said = boot(deviceName="sda", interface="NVME", guestOsFeatures=features("UEFI_COMPATIBLE"))
    said["disks"][0].guestOsFeatures.add(type="GVNIC")
    done(scope, operations, insert(scope, wanted(networkInterfaces=[nic], **said)))
    for found in (get(scope), listed(scope)["web-1"]):
        (interface,) = found.networkInterfaces
        assert (interface.nicType, interface.queueCount) == ("GVNIC", 4)
        assert (interface.accessConfigs[0].name, interface.accessConfigs[0].networkTier) == ("nat", "STANDARD")
        assert (found.disks[0].deviceName, found.disks[0].interface) == ("sda", "NVME")
        assert [one.type for one in found.disks[0].guestOsFeatures] == ["GVNIC"]
    assert [one.type for one in disk(scope).guestOsFeatures] == ["UEFI_COMPATIBLE", "GVNIC"]


def test_the_tier_of_an_external_address_in_a_zone_with_security_groups(scope: Scope, operations: Finish) -> None:
    nic = pb.NetworkInterface(accessConfigs=[pb.AccessConfig(networkTier="STANDARD")])
    done(scope, operations, insert(scope, wanted(networkInterfaces=[nic]), "ch-gv2"))
    access = get(scope, zone="ch-gv2").networkInterfaces[0].accessConfigs[0]
    assert (access.networkTier, access.name) == ("STANDARD", "external-nat")


def test_settings_come_back_whole(scope: Scope, operations: Finish) -> None:
    scheduling = pb.Scheduling(
        onHostMaintenance="TERMINATE",
        automaticRestart=False,
        provisioningModel="SPOT",
        preemptible=True,
        instanceTerminationAction="STOP",
        availabilityDomain=3,
        hostErrorTimeoutSeconds=120,
        locationHint="here",
        localSsdRecoveryTimeout=common_pb2.Duration(seconds=3600, nanos=5),
        onInstanceStopAction=pb.SchedulingOnInstanceStopAction(discardLocalSsd=False),
    )
    resource = wanted(
        scheduling=scheduling,
        displayDevice=pb.DisplayDevice(enableDisplay=True),
        shieldedInstanceConfig=pb.ShieldedInstanceConfig(enableSecureBoot=True, enableVtpm=False),
        shieldedInstanceIntegrityPolicy=pb.ShieldedInstanceIntegrityPolicy(updateAutoLearnPolicy=True),
        reservationAffinity=pb.ReservationAffinity(consumeReservationType="ANY_RESERVATION", values=["a", "b"]),
        keyRevocationActionType="STOP",
        minCpuPlatform="Intel Skylake",
        canIpForward=True,
        description="d",
        serviceAccounts=[pb.ServiceAccount(email="b@example.org", scopes=["a", "b"]), pb.ServiceAccount(email="c")],
    )
    done(scope, operations, insert(scope, resource))
    found = get(scope)
    for field in ("scheduling", "displayDevice", "shieldedInstanceConfig", "shieldedInstanceIntegrityPolicy",
                  "reservationAffinity", "keyRevocationActionType", "minCpuPlatform", "canIpForward", "description",
                  "serviceAccounts"):  # fmt: skip
        assert getattr(found, field) == getattr(resource, field), field


@pytest.mark.parametrize(
    "image",
    [
        "projects/debian-cloud/global/images/family/debian-12",
        "projects/debian-cloud/global/images/debian-12",
        f"{WWW}/projects/debian-cloud/global/images/family/debian-12",
        f"https://compute.googleapis.com/compute/v1/{PUBLIC}",
        "projects/debian-cloud/zones/-/imageFamilyViews/debian-12",
    ],
)
def test_the_project_of_an_image_is_kept(scope: Scope, operations: Finish, image: str) -> None:
    done(scope, operations, insert(scope, wanted(**boot(sourceImage=image)), "ch-gv2"))
    assert disk(scope, zone="ch-gv2").sourceImage == f"{WWW}/{PUBLIC}"


def test_another_image_is_not_shown_as_the_one_that_was_asked_for(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    done(scope, operations, insert(scope, wanted(**boot(sourceImage=PUBLIC))))
    other = first(scope, "listTemplates", templatefilter="executable", name="Windows Server 2012")
    job(scope, "restoreVirtualMachine", virtualmachineid=row_of(scope)["id"], templateid=other["id"])
    tag(scope, "Volume", root_volume(scope)["id"], "gce-name", "web-1")
    assert disk(scope).sourceImage.endswith("projects/demo/global/images/windows-server-2012")


# Machine types, disk types, sizes


@pytest.mark.parametrize(
    "name", ["e2-custom-2-4096", "e2-medium", "n1-standard-1", "custom-2-4096", "n2-custom-4-10240-ext"]
)
def test_a_machine_type_reads_back_as_it_was_asked_for(scope: Scope, operations: Finish, name: str) -> None:
    done(scope, operations, insert(scope, wanted(machineType=f"zones/ch-gv2/machineTypes/{name}"), "ch-gv2"))
    for found in (get(scope, zone="ch-gv2"), listed(scope, "ch-gv2")["web-1"]):
        assert found.machineType.endswith(f"/zones/ch-gv2/machineTypes/{name}")


def test_a_boot_disk_where_no_offering_has_a_free_size(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    world = simulated.app.world
    for row in world.all(DiskOffering):
        world.purge(row)
    for name in ("pd-standard", "pd-balanced", "pd-ssd"):
        resource = wanted(
            f"a-{name}", **boot(diskType=f"zones/ch-gv2/diskTypes/{name}", diskSizeGb=15, autoDelete=True)
        )
        done(scope, operations, insert(scope, resource, "ch-gv2"))
        found = disk(scope, f"a-{name}", "ch-gv2")
        assert (found.type.rpartition("/")[2], found.sizeGb) == (name, 15)
    assert refused(lambda: insert(scope, wanted(**boot(diskType="pd-extreme")))).code == 404


def test_sizes_are_those_of_the_volume(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, wanted(**boot(diskType="Small"))))
    assert get(scope).disks[0].diskSizeGb == listed(scope)["web-1"].disks[0].diskSizeGb == disk(scope).sizeGb == 20
    assert disk(scope).type == f"{ZONE_LINK}/diskTypes/small"
    job(scope, "resizeVolume", id=root_volume(scope)["id"], size="33")
    assert listed(scope)["web-1"].disks[0].diskSizeGb == disk(scope).sizeGb == 33


def test_an_offering_with_a_root_disk_of_its_own(scope: Scope, operations: Finish) -> None:
    """CloudStack refuses another size with it."""
    entry = scope.catalog(machine_types.kind(scope))
    row = entry.index.find("micro")
    assert row
    row["rootdisksize"] = 30
    error = refused(lambda: insert(scope, wanted(**boot(diskSizeGb=40))))
    assert (error.code, error.location) == (400, "resource.disks[0].initializeParams.diskSizeGb")
    done(scope, operations, insert(scope, wanted(**boot(diskSizeGb=30))))
    assert get(scope).disks[0].diskSizeGb == 30


def test_the_architecture_is_the_images(scope: Scope) -> None:
    error = refused(lambda: insert(scope, wanted(**boot(architecture="ARM64"))))
    assert (error.code, error.location) == (400, "resource.disks[0].initializeParams.architecture")


@pytest.mark.parametrize("labels", [{"A": "a"}, {"a": "A"}, {f"k{number}": "" for number in range(65)}])
def test_labels_of_a_disk_are_checked(scope: Scope, labels: dict[str, str]) -> None:
    error = refused(lambda: insert(scope, wanted(**boot(labels=labels))))
    assert error.code == 400 and str(error.location).startswith("resource.disks[0].initializeParams.labels")


# Names


def test_the_name_of_another_disk(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted()))
    assert is_taken(scope, wanted("web-2", **boot(diskName="web-1")), "web-1")
    volume(scope, "data-1")
    assert is_taken(scope, wanted("data-1"), "data-1")
    assert is_taken(scope, wanted("web-2", **boot(diskName="data-1")), "data-1")
    # In another zone it is free.
    done(scope, operations, insert(scope, wanted("data-1"), "ch-gv2"))


def test_names_that_differ_in_case(scope: Scope, operations: Finish) -> None:
    volume(scope, "DATA-1")
    machine(scope, "Old-1")
    assert is_taken(scope, wanted("data-1"), "data-1")
    assert is_taken(scope, wanted("web-1", **boot(diskName="old-1")), "old-1")


def test_the_name_of_a_machine_whose_disk_has_another(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(**boot(diskName="boot-1"))))
    done(scope, operations, insert(scope, wanted("web-2", **boot(diskName="web-1"))))
    assert get(scope, "web-1").disks[0].source == f"{ZONE_LINK}/disks/boot-1"
    assert get(scope, "web-2").disks[0].source == f"{ZONE_LINK}/disks/web-1"
    assert disk_names(scope) == ["boot-1", "web-1"]


def test_of_two_with_one_disk_name_one_is_made(scope_for: OpenScope, operations: Finish, simulated: Cloud) -> None:
    """They are checked when they are sent, and again when their turn comes."""
    simulated.app.world.settings.job_seconds = {"": 0.02, "deployVirtualMachine": 0.3}
    scope = scope_for()
    sent = [insert(scope_for(), wanted(f"web-{index}", **boot(diskName="shared"))) for index in range(3)]
    rows = [operations(scope, one) for one in sent]
    errors = [row["error"] for row in rows if row["error"]]
    assert [(one["code"], one["status"]) for one in errors] == [("RESOURCE_ALREADY_EXISTS", 409)] * 2
    assert all(
        one["message"] == "The resource 'projects/demo/zones/ch-zh-1/disks/shared' already exists" for one in errors
    )
    assert len(listed(scope)) == 1 and disk_names(scope) == ["shared"]
    assert scope.store.documents(scope.project.key, "disk-names") == {}


def test_a_name_taken_before_its_turn_comes(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    taken = threading.Event()
    read = type(scope.client).read_many

    def first_take(client: Any, questions: Any) -> Any:
        if not taken.is_set() and any("tags[0].key" in parameters for _, parameters in questions):
            answers = read(client, questions)
            volume(scope, "web-1")
            taken.set()
            return answers
        return read(client, questions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(scope.client), "read_many", first_take)
        large = metadata(**{f"key-{index}": "x" * 2000 for index in range(10)})
        sent = insert(scope, wanted(metadata=large))
        row = operations(scope, sent)
    assert (row["error"]["code"], row["error"]["status"]) == ("RESOURCE_ALREADY_EXISTS", 409)
    assert listed(scope) == {} and disk_names(scope) == ["web-1"]
    assert documents(scope.store) == 0


def test_a_name_that_an_operation_left_claimed(scope: Scope, operations: Finish) -> None:
    row = done(scope, operations, insert(scope, wanted()))
    zone = row_of(scope)["zoneid"]
    scope.store.put_document(scope.project.key, "disk-names", f"{zone}/web-2", row["name"].encode(), None)
    done(scope, operations, insert(scope, wanted("web-2")))


def test_a_disk_made_later_elsewhere_does_not_take_the_name(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, wanted()))
    other, root = volume(scope, "web-1"), root_volume(scope)["id"]
    # CloudStack tells ages in seconds.
    next(row for row in simulated.app.world.all(Volume) if row.id == other["id"]).created += 10
    assert disk(scope).id == number(root)
    assert get(scope).disks[0].source == listed(scope)["web-1"].disks[0].source == f"{ZONE_LINK}/disks/web-1"


def test_a_machine_made_elsewhere_whose_disk_has_to_give_way(scope: Scope, calls: Calls) -> None:
    """A data disk has the machine's name for its own."""
    web = machine(scope, "web-1")
    root = first(scope, "listVolumes", virtualmachineid=web["id"])["id"]
    volume(scope, "web-1")
    name = f"web-1-{root[:8]}"
    get(scope)
    calls()
    get(scope)
    assert calls() == {"listVirtualMachines": 1, "listVolumes": 3}
    for found in (get(scope), listed(scope)["web-1"]):
        assert found.disks[0].source == f"{ZONE_LINK}/disks/{name}"
    assert disk(scope, name).id == number(root)


def test_machines_made_elsewhere_whose_names_differ_in_case(scope: Scope, simulated: Cloud) -> None:
    for name in ("web-1", "Web-1"):
        machine(scope, name)
    shown = next(name for name in listed(scope) if name != "web-1")
    for name in ("web-1", shown):
        link = get(scope, name).disks[0].source
        assert link == listed(scope)[name].disks[0].source
        found = disk(scope, link.rpartition("/")[2])
        row = first(scope, "listVolumes", virtualmachineid=row_id(scope, name))
        assert found.id == number(row["id"])


def row_id(scope: Scope, name: str) -> str:
    identity = get(scope, name).id
    return next(row["id"] for row in scope.client.read("listVirtualMachines").items if number(row["id"]) == identity)


# What it costs


def test_questions(scope: Scope, operations: Finish, calls: Calls) -> None:
    done(scope, operations, insert(scope, wanted()))
    get(scope)
    calls()
    assert disk(scope).name == "web-1"
    assert calls() == {"listVolumes": 2}
    get(scope)
    assert calls() == {"listVirtualMachines": 1}


def test_the_disk_is_named_while_its_machine_starts(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """It costs an insert no time."""
    simulated.app.world.settings.job_seconds = {"": 0.02, "deployVirtualMachine": 3600.0}
    sent = insert(scope, wanted(**boot(diskName="boot-1", labels={"a": "b"})))
    until(lambda: any(row.tags for row in simulated.app.world.all(Volume)))
    assert dict(disk(scope, "boot-1").labels) == {"a": "b"}
    assert listed(scope)["web-1"].status in ("PROVISIONING", "STAGING")
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=False)
    done(scope, operations, sent)
    assert disk(scope, "boot-1").users


def test_a_disk_that_could_not_be_named_beside_is_named_after(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    simulated.app.faults.append(Fault("status", "createTags", status=530))
    done(scope, operations, insert(scope, wanted(**boot(diskName="boot-1"))))
    assert disk(scope, "boot-1").users
