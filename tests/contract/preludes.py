"""What the recorded installation held when a recording began: made through the simulator's own API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulator.world import Account, PublicAddress, SecurityGroup, Template, Zone
from tests.contract import recorded_cloud as cloud

if TYPE_CHECKING:
    from tests.contract.replay import Replay

Prelude = Callable[["Replay"], None]

CENTOS = "d12310bd-e6c8-11f1-9321-02fc00000001"
CENTOS_64 = "b5799d5b-bea8-40d3-9c9e-0027c6f33caa"
MICRO = "3613eca8-a7d2-4788-a14c-52fc8c89d8e8"
TINY = "e1145c03-484b-4869-bba7-e0610bbdbeda"
VM_1, VM_1_ROOT = "973d002a-6f28-457a-9ee1-c6f7f385f28c", "d2d6c170-acf1-40f7-8029-ce4ab94fb7d5"
VM_2, VM_2_ROOT = "63a68373-4498-406d-97ff-c5e53259e982", "d87b3515-030f-48f1-b252-22ab262e71b0"
VM_3 = "e10d555a-68c2-4b48-8669-08a5694a73b5"
SMALL = "f2f04261-6ec4-4147-9afa-2874b5c1fde6"


def _deploy(replay: Replay, vm_id: str, root_id: str | None, **parameters: str) -> str:
    """An instance in net-a that the recording knows as `vm_id`, its root volume as `root_id`."""
    basic = {"zoneid": cloud.ZONE, "networkids": cloud.NET_A}
    simulated: str = replay.call("deployVirtualMachine", **(basic | parameters))["id"]
    replay.ids[vm_id] = simulated
    if root_id:
        (root,) = replay.call("listVolumes", virtualmachineid=simulated, type="ROOT")["volume"]
        replay.ids[root_id] = root["id"]
    return simulated


def vm_1(replay: Replay) -> None:
    _deploy(
        replay,
        VM_1,
        VM_1_ROOT,
        name="vm-1",
        displayname="First VM",
        templateid=CENTOS,
        serviceofferingid=SMALL,
    )


def vm_2(replay: Replay) -> None:
    _deploy(
        replay,
        VM_2,
        VM_2_ROOT,
        name="vm-2-renamed",
        displayname="Zweite Maschine ü",
        templateid=CENTOS_64,
        serviceofferingid=TINY,
        keypair="ian-key",
    )


def vm_3(replay: Replay) -> None:
    _deploy(
        replay,
        VM_3,
        "78dd250f-1d5a-444c-aded-06009c245f63",
        name="vm-3",
        templateid=CENTOS,
        serviceofferingid=MICRO,
        startvm="false",
        **{"details[0].key": "gce.labels", "details[0].value": "x"},
    )


def vm_3_recovered(replay: Replay) -> None:
    vm_3(replay)
    vm_id = replay.ids[VM_3]
    replay.call("destroyVirtualMachine", id=vm_id)
    replay.call("recoverVirtualMachine", id=vm_id)


def key_pair(replay: Replay) -> None:
    replay.call("createSSHKeyPair", name="ian-key")


def project_vm(replay: Replay) -> None:
    network = replay.call(
        "createNetwork",
        name="webshop-net",
        displaytext="Webshop",
        zoneid=cloud.ZONE,
        networkofferingid="d4ff4c30-70d2-49ad-ba86-348b5aeaef0c",
        projectid=cloud.PROJECT,
    )["network"]
    _deploy(
        replay,
        "52849dd2-2723-4f68-86fb-f4b910be54df",
        None,
        name="shop-1",
        templateid=CENTOS,
        serviceofferingid=MICRO,
        networkids=network["id"],
        projectid=cloud.PROJECT,
    )


def own_things(replay: Replay) -> None:
    """The caller's own image, and the ids of what every account has."""
    world = replay.world
    (ian,) = (row for row in world.all(Account) if row.name == "ian@example.org")
    world.add(
        Template,
        id="71d6d2b9-ffcd-4d90-9b90-5ef9b28269a0",
        name="img-public",
        display_text="public",
        size=2 * 1024**3,
        account=ian,
        format="RAW",
        os_name="CentOS 6.4 (64-bit)",
        zones=world.all(Zone)[:1],
    )
    (group,) = (row for row in world.all(SecurityGroup) if row.account is ian and row.name == "default")
    replay.ids["ede50c5a-7cad-4d34-b5e5-aceceb00bd3e"] = group.id
    (source_nat,) = (row for row in world.all(PublicAddress) if row.account is ian)
    replay.ids["da90ebf2-8ebf-4640-b318-f1f9484147e7"] = source_nat.id


def vm_2_before(replay: Replay) -> None:
    """What the instance recordings before had done to it: a tag, another group, a new root volume."""
    vm_id = replay.ids[VM_2]
    tag = {"resourceids": vm_id, "resourcetype": "UserVm", "tags[0].key": "both", "tags[0].value": "1"}
    replay.call("createTags", **tag)
    replay.call("updateVirtualMachine", id=vm_id, group="web")
    replay.call("restoreVirtualMachine", virtualmachineid=vm_id)
    (root,) = replay.call("listVolumes", virtualmachineid=vm_id)["volume"]
    replay.ids[VM_2_ROOT] = root["id"]


def vm_1_tagged_root(replay: Replay) -> None:
    root = replay.ids[VM_1_ROOT]
    tag = {"resourceids": root, "resourcetype": "Volume", "tags[0].key": "gce-name", "tags[0].value": "vm-1"}
    replay.call("createTags", **tag)


def vm_1_in_group(replay: Replay) -> None:
    replay.call("updateVirtualMachine", id=replay.ids[VM_1], group="ig-auto")


def addresses_before(replay: Replay) -> None:
    """A tag of the source NAT address, and an orphan of a duplicate customjobid."""
    world = replay.world
    source_nat = next(row for row in world.all(PublicAddress) if row.source_nat)
    tag = {"resourceids": source_nat.id, "resourcetype": "PublicIpAddress"}
    replay.call("createTags", **tag, **{"tags[0].key": "gce-name", "tags[0].value": "nat-1"})
    job_id = replay.call("rebootVirtualMachine", id=replay.ids[VM_1])["jobid"]
    twice = {"command": "associateIpAddress", "response": "json", "networkid": cloud.NET_A, "customjobid": job_id}
    assert replay.request("user", "POST", twice).status == 530
    (orphan,) = (row for row in world.all(PublicAddress) if row.state == "Allocating")
    replay.ids["84751a8c-e31f-417b-9296-a0f191717a2c"] = orphan.id


def root_attached_again(replay: Replay) -> None:
    vm_id, root = replay.ids[VM_2], replay.ids[VM_2_ROOT]
    replay.call("detachVolume", id=root)
    replay.call("attachVolume", id=root, virtualmachineid=vm_id, deviceid="0")


def measured(replay: Replay) -> None:
    """The instances have run long enough for statistics."""
    replay.advance(61)


def stop_vm_2(replay: Replay) -> None:
    replay.call("stopVirtualMachine", id=replay.ids[VM_2])


def roots_resized(replay: Replay) -> None:
    for root, size in ((VM_1_ROOT, "15"), (VM_2_ROOT, "60")):
        replay.call("resizeVolume", id=replay.ids[root], size=size)


def vm_1_restarted(replay: Replay) -> None:
    for command in ("stopVirtualMachine", "startVirtualMachine"):
        replay.call(command, id=replay.ids[VM_1])


def vm_1_data_disk(replay: Replay) -> None:
    (offering,) = replay.call("listDiskOfferings", name="20GB")["diskoffering"]
    disk = replay.call("createVolume", name="data-20", diskofferingid=offering["id"], zoneid=cloud.ZONE)["id"]
    replay.call("attachVolume", id=disk, virtualmachineid=replay.ids[VM_1])


def vm_1_snapshot(replay: Replay) -> None:
    """The second of two snapshots of one name."""
    root = replay.ids[VM_1_ROOT]
    snapshot: str = replay.call("createSnapshot", volumeid=root, name="snap-1")["id"]
    replay.ids["e715e83a-01e6-4570-8ded-07bee7e35616"] = snapshot


def other_installation(replay: Replay) -> None:
    """Zones, offerings and an image by the ids that another installation has for them."""
    named = {
        "listZones": {"Sandbox-simulator": "36cdeba3-2632-403f-bd0c-48db1ccdc28e"}
        | {"CH-GV2": "b187cb2d-8604-4a64-ae97-2716b53cda63"},
        "listServiceOfferings": {
            "Micro": "acdde65e-fa96-4a29-a007-9fb4b6a66ead",
            "Tiny": "b4720210-7618-44c0-8c03-625d7ba8c905",
            "Small": "b7f16a8c-219f-40fc-bf08-49d9e78de38d",
            "Custom": "65e97aa6-d93d-43b8-b59a-9b34f2c27266",
            "Huge": "b2f72578-f502-4a73-b055-bee365e3a046",
        },
        "listDiskOfferings": {
            "SSD": "57561107-0d2e-4d07-82a5-173384dffd80",
            "20GB": "02654db6-c628-499e-8ee6-ac14a5e14af3",
        },
        "listNetworkOfferings": {
            "DefaultIsolatedNetworkOfferingWithSourceNatService": "6e0e9b8a-c1ea-4aed-81c7-faa08b83a2c3"
        },
    }
    for command, ids in named.items():
        (rows,) = (value for value in replay.call(command).values() if isinstance(value, list))
        replay.ids |= {ids[row["name"]]: row["id"] for row in rows if row["name"] in ids}
    world = replay.world
    (ian,) = (row for row in world.all(Account) if row.name == "ian@example.org")
    (centos,) = (row for row in world.all(Template) if row.id == CENTOS)
    replay.ids["ef9b2cc3-e8e3-11f1-b2e3-02fc00000001"] = centos.os_id
    world.add(
        Template,
        id="6426d90c-4973-4d5d-b6e9-3182b18b54d1",
        name="Linux Debian 12 64-bit",
        display_text="Linux Debian 12 64-bit",
        size=10 * 1024**3,
        account=ian,
        os_name=centos.os_name,
        os_id=centos.os_id,
        dynamically_scalable=False,
    )


def egress_rules(replay: Replay) -> None:
    """What an earlier run of the recording had left in the network."""
    replay.call("createEgressFirewallRule", networkid=cloud.NET_A, protocol="all", cidrlist="10.1.1.0/24")
    replay.call("createEgressFirewallRule", networkid=cloud.NET_A, protocol="udp", startport="53", endport="53")


def tagged_group(replay: Replay) -> None:
    (group,) = replay.call("listSecurityGroups")["securitygroup"]
    tag = {"resourceids": group["id"], "resourcetype": "SecurityGroup", "tags[0].key": "gce-x", "tags[0].value": "1"}
    replay.call("createTags", **tag)


PRELUDES: dict[str, list[Prelude]] = {
    "a": [vm_1],
    "b": [vm_1, vm_1_in_group, key_pair, vm_2, vm_2_before, measured, vm_3_recovered, project_vm],
    "c2": [vm_1, key_pair, vm_2, vm_2_before],
    "d": [
        vm_1,
        key_pair,
        vm_2,
        measured,
        stop_vm_2,
        vm_2_before,
        root_attached_again,
        vm_3,
        vm_1_tagged_root,
    ],
    "e": [vm_1, vm_1_restarted, key_pair, vm_2, roots_resized, measured, stop_vm_2],
    "f": [vm_1, vm_1_data_disk, key_pair, vm_2, egress_rules],
    "h": [vm_1, tagged_group],
    "i": [vm_1, vm_1_data_disk, vm_1_snapshot, key_pair, vm_2, measured, own_things],
    "u": [other_installation],
    "l": [vm_1, vm_1_in_group, measured, addresses_before],
}
