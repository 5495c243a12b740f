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
        "973d002a-6f28-457a-9ee1-c6f7f385f28c",
        "d2d6c170-acf1-40f7-8029-ce4ab94fb7d5",
        name="vm-1",
        displayname="First VM",
        templateid=CENTOS,
        serviceofferingid=SMALL,
    )


def vm_2(replay: Replay) -> None:
    _deploy(
        replay,
        "63a68373-4498-406d-97ff-c5e53259e982",
        "d87b3515-030f-48f1-b252-22ab262e71b0",
        name="vm-2-renamed",
        displayname="Zweite Maschine ü",
        templateid=CENTOS_64,
        serviceofferingid=TINY,
        keypair="ian-key",
    )


def vm_2_stopped(replay: Replay) -> None:
    vm_2(replay)
    replay.call("stopVirtualMachine", id=replay.ids["63a68373-4498-406d-97ff-c5e53259e982"])


def vm_3(replay: Replay) -> None:
    _deploy(
        replay,
        "e10d555a-68c2-4b48-8669-08a5694a73b5",
        "78dd250f-1d5a-444c-aded-06009c245f63",
        name="vm-3",
        templateid=CENTOS,
        serviceofferingid=MICRO,
        startvm="false",
    )


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


PRELUDES: dict[str, list[Prelude]] = {
    "a": [vm_1],
    "b": [vm_1, key_pair, vm_2, project_vm],
    "c2": [vm_1, key_pair, vm_2],
    "d": [vm_1, key_pair, vm_2_stopped, vm_3],
    "f": [vm_1, key_pair, vm_2],
    "h": [vm_1],
    "i": [vm_1, key_pair, vm_2, own_things],
    "l": [vm_1],
}
