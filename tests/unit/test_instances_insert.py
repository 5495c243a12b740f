"""instances.insert: what is refused at once, what is deployed, and what stays when it fails."""

from __future__ import annotations

import base64
import hashlib
import threading
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2, projects_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator import cloud
from simulator.app import Fault
from simulator.families.jobs import restart
from simulator.world import Network, ServiceOffering, VirtualMachine
from tests.conftest import Cloud, Hold, OpenScope
from tests.unit.made import ask, first, job, machine, network, until, volume
from tests.unit.test_firewalls import insert as insert_firewall
from tests.unit.test_firewalls import rule
from tests.unit.test_instances import (
    IMAGE,
    NET_A,
    ROOT,
    ZONE_LINK,
    Finish,
    documents,
    done,
    get,
    insert,
    metadata,
    names,
    refused,
    row_of,
    set_metadata,
    user_data,
    wanted,
)
from translator_service.gce.naming import number
from translator_service.kept import details
from translator_service.kept.ssh_keys import SshKey
from translator_service.networking import networks
from translator_service.operations import engine
from translator_service.operations.run import Run
from translator_service.resources.instances import insert as instances_insert
from translator_service.scope import Scope

# Cannot be compressed below what CloudStack takes.
RANDOM = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(800))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmE0E0r7FhJ8CzTzGm0uZJ5sm9Mjg6K4WQnCX1pLRUw"


pytestmark = pytest.mark.usefixtures("quick_jobs")


def boot(**fields: Any) -> dict[str, Any]:
    """The disks of an instance: fields of AttachedDisk, and of its initializeParams."""
    names_of = pb.AttachedDiskInitializeParams.DESCRIPTOR.fields_by_name
    initial = {"sourceImage": IMAGE, **{key: value for key, value in fields.items() if key in names_of}}
    rest = {key: value for key, value in fields.items() if key not in names_of}
    return {"disks": [pb.AttachedDisk(boot=True, initializeParams=initial, **rest)]}


def nic(**fields: Any) -> dict[str, Any]:
    return {"networkInterfaces": [pb.NetworkInterface(**{"network": NET_A, **fields})]}


def second(**fields: Any) -> dict[str, Any]:
    return {"networkInterfaces": [pb.NetworkInterface(network=NET_A), pb.NetworkInterface(**fields)]}


def root_volume(scope: Scope, name: str = "web-1") -> dict[str, Any]:
    return first(scope, "listVolumes", virtualmachineid=row_of(scope, name)["id"], type="ROOT")


# What is made


def test_in_an_isolated_network(scope: Scope, operations: Finish) -> None:
    sent = insert(scope, wanted())
    assert (sent.operationType, sent.targetLink) == ("insert", f"{ZONE_LINK}/instances/web-1")
    assert (sent.zone, sent.user) == (ZONE_LINK, "demo@example.org")
    row = done(scope, operations, sent)
    found = get(scope)
    assert row["target_id"] == str(found.id)
    assert (found.name, found.status) == ("web-1", "RUNNING")
    assert found.machineType == f"{ZONE_LINK}/machineTypes/micro"
    (interface,) = found.networkInterfaces
    assert interface.network == f"{ROOT}/global/networks/net-a"
    (address,) = scope.client.read("listPublicIpAddresses", isstaticnat="true").items
    assert interface.accessConfigs[0].natIP == address["ipaddress"]
    assert address["virtualmachineid"] == row_of(scope)["id"]
    assert {tag["key"]: tag["value"] for tag in address["tags"]} == {"gce-ephemeral": "web-1"}
    (disk,) = found.disks
    assert (disk.source, disk.diskSizeGb, disk.autoDelete) == (f"{ZONE_LINK}/disks/web-1", 10, True)


def test_in_a_zone_with_security_groups(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert_firewall(scope, rule("ssh", "tcp:22")))
    done(scope, operations, insert_firewall(scope, rule("web", "tcp:80", targetTags=["http-server"])))
    done(scope, operations, insert(scope, wanted(tags=pb.Tags(items=["http-server"])), "ch-gv2"))
    found = get(scope, zone="ch-gv2")
    (interface,) = found.networkInterfaces
    assert interface.network == f"{ROOT}/global/networks/default"
    assert interface.accessConfigs[0].natIP == interface.networkIP
    groups = sorted(group["name"] for group in row_of(scope)["securitygroup"])
    assert [name.partition(".")[0] for name in groups] == ["gce-default", "gce-vm-web-1"]
    ports = [first(scope, "listSecurityGroups", securitygroupname=name)["ingressrule"] for name in groups]
    assert [[one["startport"] for one in rules] for rules in ports] == [[22], [80]]
    assert scope.client.read("listPublicIpAddresses").items == []


def test_rules_of_the_network_are_on_the_new_address(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert_firewall(scope, rule("ssh", "tcp:22", network="net-a")))
    done(scope, operations, insert_firewall(scope, rule("web", "tcp:80", network="net-a", targetTags=["web"])))
    done(scope, operations, insert_firewall(scope, rule("db", "tcp:5432", network="net-a", targetTags=["db"])))
    done(scope, operations, insert(scope, wanted(tags=pb.Tags(items=["web"]))))
    address = first(scope, "listPublicIpAddresses", isstaticnat="true")["id"]
    rules = scope.client.read("listFirewallRules", ipaddressid=address).items
    assert sorted(one["startport"] for one in rules) == [22, 80]


def test_without_an_external_address(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    done(scope, operations, insert(scope, wanted(**nic())))
    assert not get(scope).networkInterfaces[0].accessConfigs
    assert "associateIpAddress" not in simulated.calls
    resource = wanted("web-2", **nic())
    done(scope, operations, insert(scope, resource, "ch-gv2"))
    assert not get(scope, "web-2", "ch-gv2").networkInterfaces[0].accessConfigs


def test_what_was_sent_is_shown(scope: Scope, operations: Finish) -> None:
    resource = wanted(
        description="a",
        hostname="web-1.example.org",
        canIpForward=True,
        labels={"env": "test"},
        tags=pb.Tags(items=["b", "a"]),
        metadata=metadata(motd='Grüezi \U0001f600 "\\u0041"'),
        minCpuPlatform="Intel Skylake",
        scheduling=pb.Scheduling(onHostMaintenance="TERMINATE", automaticRestart=False),
        serviceAccounts=[pb.ServiceAccount(email="b@example.org", scopes=["compute"])],
        displayDevice=pb.DisplayDevice(enableDisplay=False),
        **boot(deviceName="sda", autoDelete=True),
        **nic(accessConfigs=[pb.AccessConfig(name="nat")]),
    )
    done(scope, operations, insert(scope, resource))
    found = get(scope)
    for field in ("description", "hostname", "canIpForward", "labels", "minCpuPlatform", "serviceAccounts"):
        assert getattr(found, field) == getattr(resource, field), field
    assert list(found.tags.items) == ["a", "b"]
    assert found.metadata.items == resource.metadata.items
    assert (found.scheduling.onHostMaintenance, found.scheduling.automaticRestart) == ("TERMINATE", False)
    assert found.displayDevice.HasField("enableDisplay") and not found.displayDevice.enableDisplay
    assert (found.disks[0].deviceName, found.disks[0].autoDelete) == ("sda", True)
    assert found.networkInterfaces[0].accessConfigs[0].name == "nat"


def test_large_metadata_is_in_the_store(scope: Scope, operations: Finish) -> None:
    large = {f"key-{index}": "ü" * 1000 for index in range(10)}
    done(scope, operations, insert(scope, wanted(metadata=metadata(**large))))
    assert {item.key: item.value for item in get(scope).metadata.items} == large
    assert sum(map(len, row_of(scope)["details"].values())) < 2000


@pytest.mark.parametrize(
    "machine_type",
    [
        "small",
        "Small",
        "zones/ch-zh-1/machineTypes/small",
        "/zones/ch-zh-1/machineTypes/small",
        "projects/demo/zones/CH-ZH-1/machineTypes/small",
        "http://127.0.0.1:5000/compute/v1/projects/demo/zones/ch-zh-1/machineTypes/small",
        f"{ZONE_LINK}/machineTypes/small",
    ],
)
def test_machine_types(scope: Scope, machine_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        deployed(scope, monkeypatch, wanted(machineType=machine_type))["serviceofferingid"]
        == (first(scope, "listServiceOfferings", name="Small")["id"])
    )


def deployed(scope: Scope, monkeypatch: pytest.MonkeyPatch, resource: pb.Instance, **options: Any) -> dict[str, str]:
    """The parameters of deployVirtualMachine that an insert decides on."""
    sent: list[dict[str, Any]] = []

    def submit(scope: Scope, **values: Any) -> Any:
        sent.append(values["payload"])
        return engine.operation(
            {
                **dict.fromkeys(("name", "target_id", "group_id", "request_id", "subject"), ""),
                **dict.fromkeys(("started", "ended", "error", "warnings")),
                **{"scope": "global", "type": "insert", "target": "x", "status": "PENDING", "progress": 0},
                "inserted": 0.0,
            },
            scope.links,
        )

    monkeypatch.setattr(engine, "submit", submit)
    insert(scope, resource, **options)
    parameters: dict[str, str] = sent[0]["parameters"]
    return parameters


def test_a_free_size(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(machineType="zones/ch-zh-1/machineTypes/custom-2-4096")))
    row = row_of(scope)
    assert (row["cpunumber"], row["memory"]) == (2, 4096)
    assert get(scope).machineType == f"{ZONE_LINK}/machineTypes/custom-2-4096"


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        "Linux Debian 12 64-bit",
        f"global/images/{IMAGE}",
        f"projects/demo/global/images/{IMAGE}",
        f"{ROOT}/global/images/{IMAGE}",
        f"https://compute.googleapis.com/compute/v1/projects/demo/global/images/{IMAGE}",
        f"http://127.0.0.1:5000/compute/v1/projects/demo/global/images/{IMAGE}",
        "projects/debian-cloud/global/images/family/debian-12",
        "https://www.googleapis.com/compute/v1/projects/debian-cloud/global/images/family/debian-12",
        "projects/debian-cloud/zones/-/imageFamilyViews/debian-12",
    ],
)
def test_images(scope: Scope, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = first(scope, "listTemplates", templatefilter="executable", name="Linux Debian 12 64-bit")["id"]
    assert deployed(scope, monkeypatch, wanted(**boot(sourceImage=image)))["templateid"] == template


def test_the_image_of_v1beta16(scope: Scope, operations: Finish) -> None:
    resource = wanted(image=f"projects/demo/global/images/{IMAGE}", disks=[])
    done(scope, operations, insert(scope, resource))
    (disk,) = get(scope).disks
    assert (disk.boot, disk.autoDelete, disk.diskSizeGb) == (True, True, 10)


def test_the_size_and_type_of_the_disk(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(**boot(diskSizeGb=25, diskType=f"{ZONE_LINK}/diskTypes/pd-ssd"))))
    volume = root_volume(scope)
    assert (volume["size"] >> 30, volume["diskofferingname"]) == (25, "SSD")
    assert get(scope).disks[0].diskSizeGb == 25


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {}),
        ({"diskSizeGb": 10}, {}),
        ({"diskSizeGb": 11}, {"rootdisksize": "11"}),
        ({"diskType": "pd-standard"}, {}),
        ({"diskType": "pd-standard", "diskSizeGb": 12}, {"rootdisksize": "12"}),
        ({"diskType": "pd-ssd"}, {"rootdisksize": "10", "overridediskofferingid": "SSD"}),
        ({"diskType": "small"}, {"overridediskofferingid": "Small"}),
        ({"diskType": "small", "diskSizeGb": 20}, {"overridediskofferingid": "Small"}),
    ],
)
def test_sizes_and_types(
    scope: Scope, fields: dict[str, Any], sent: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = deployed(scope, monkeypatch, wanted(**boot(**fields)))
    found = {key: parameters[key] for key in ("rootdisksize", "overridediskofferingid") if key in parameters}
    if "overridediskofferingid" in sent:
        offering = first(scope, "listDiskOfferings", name=sent["overridediskofferingid"])["id"]
        sent = {**sent, "overridediskofferingid": offering}
    assert found == sent


def test_a_disk_name_of_its_own(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(**boot(diskName="web-boot"))))
    assert get(scope).disks[0].source == f"{ZONE_LINK}/disks/web-boot"
    assert root_volume(scope)["tags"][0]["value"] == "web-boot"


def test_a_chosen_internal_address(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(**nic(networkIP="10.1.1.77"))))
    assert get(scope).networkInterfaces[0].networkIP == "10.1.1.77"


def test_a_chosen_external_address(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    net = first(scope, "listNetworks", keyword="net-a")["id"]
    machine(scope, "other")
    address = job(scope, "associateIpAddress", networkid=net)
    before = simulated.calls["associateIpAddress"]
    access = pb.AccessConfig(natIP=address["ipaddress"])
    done(scope, operations, insert(scope, wanted(**nic(accessConfigs=[access]))))
    assert get(scope).networkInterfaces[0].accessConfigs[0].natIP == address["ipaddress"]
    assert simulated.calls["associateIpAddress"] == before
    assert first(scope, "listPublicIpAddresses", id=address["id"])["tags"] == []
    error = refused(lambda: insert(scope, wanted("web-2", **nic(accessConfigs=[access]))))
    assert (error.code, error.location) == (400, "resource.networkInterfaces[0].accessConfigs[0].natIP")


def test_several_networks(scope: Scope, operations: Finish) -> None:
    network(scope, "net-b", gateway="10.5.5.1", netmask="255.255.255.0")
    scope.forget(networks.kind(scope))
    interfaces = [
        pb.NetworkInterface(network="global/networks/net-a", accessConfigs=[pb.AccessConfig()]),
        pb.NetworkInterface(network="global/networks/net-b", networkIP="10.5.5.9"),
    ]
    done(scope, operations, insert(scope, wanted(networkInterfaces=interfaces)))
    main, other = get(scope).networkInterfaces
    assert (main.network, other.network) == (f"{ROOT}/global/networks/net-a", f"{ROOT}/global/networks/net-b")
    assert main.accessConfigs[0].natIP and not other.accessConfigs
    assert other.networkIP == "10.5.5.9"


# Keys and scripts


def test_keys_and_scripts(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    items = metadata(**{"ssh-keys": f"joe:{KEY} joe@example.org", "startup-script": "echo hí"})
    done(scope, operations, insert(scope, wanted(metadata=items)))
    assert f"\njoe 0 {KEY} joe@example.org\n" in user_data(scope)
    assert base64.b64encode("echo hí".encode()).decode() in user_data(scope)
    (pair,) = scope.client.read("listSSHKeyPairs").items
    assert pair["name"].startswith("gce-")
    assert row_of(scope)["details"]["SSH.PublicKey"].split()[:2] == KEY.split()
    done(scope, operations, insert(scope, wanted("web-2", metadata=items)))
    assert simulated.calls["registerSSHKeyPair"] == 1


def test_a_guest_looks_for_keys_though_there_are_none_yet(scope: Scope, operations: Finish) -> None:
    """`gcloud compute ssh` to a machine that was made before its key."""
    done(scope, operations, insert(scope, wanted()))
    assert user_data(scope).startswith("#cloud-boothook\n") and "\n#:gstack keys\n#:gstack end\n" in user_data(scope)


WINDOWS = "global/images/windows-server-2012"


@pytest.mark.parametrize(
    ("image", "words", "items", "has_script"),
    [
        (WINDOWS, "windows,coreos", {}, False),
        (WINDOWS, "windows,coreos", {"ssh-keys": f"joe:{KEY}"}, True),
        (WINDOWS, "", {}, True),
        (IMAGE, "coreos, DEBIAN ", {}, False),
        (IMAGE, "windows", {"user-data": "#!/bin/sh\n"}, True),
    ],
)
def test_a_guest_that_takes_no_script_is_given_none(
    scope: Scope,
    operations: Finish,
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    words: str,
    items: dict[str, str],
    has_script: bool,
) -> None:
    """Ignition refuses to boot with one. The project's keys are for the others."""
    # In place: operations have an environment of their own, with the same settings.
    monkeypatch.setitem(vars(scope.environment.settings), "guest_without_script", words)
    common = common_pb2.Metadata(items=[common_pb2.Metadata.Items(key="ssh-keys", value=f"ann:{KEY}")])
    request = projects_pb2.SetCommonInstanceMetadataRequest(project="demo", resource=common)
    ask(scope, "Projects.SetCommonInstanceMetadata", request)
    boot = pb.AttachedDiskInitializeParams(sourceImage=image)
    disks = [pb.AttachedDisk(boot=True, autoDelete=True, initializeParams=boot)]
    done(scope, operations, insert(scope, wanted(disks=disks, metadata=metadata(**items))))
    assert ("#:gstack keys" in user_data(scope)) is has_script
    # Nor later.
    done(scope, operations, set_metadata(scope, **items, a="1"))
    assert ("#:gstack keys" in user_data(scope)) is has_script


def test_user_data_alone_is_alone(scope: Scope, operations: Finish) -> None:
    items = metadata(**{"user-data": "#cloud-config\npackages: [nginx]\n"})
    done(scope, operations, insert(scope, wanted(metadata=items)))
    assert user_data(scope) == "#cloud-config\npackages: [nginx]\n"


def test_keys_that_end_are_no_key_pairs(scope: Scope, operations: Finish) -> None:
    """CloudStack would keep them for good."""
    ends = 'google-ssh {"userName":"joe","expireOn":"%d-06-05T14:36:39+0000"}'
    keys = f"old:{KEY} {ends % 2017}\njoe:{KEY} {ends % 2137}\nann:no-pty {KEY}"
    done(scope, operations, insert(scope, wanted(metadata=metadata(**{"ssh-keys": keys}))))
    assert not scope.client.read("listSSHKeyPairs").items
    assert "SSH.PublicKey" not in row_of(scope)["details"]
    assert "\nold " not in user_data(scope)
    assert f"\njoe 5283498999 {KEY} {ends % 2137}\nann 0 no-pty {KEY}\n" in user_data(scope)


def test_user_data_of_any_format_reaches_the_guest(scope: Scope, operations: Finish) -> None:
    """CloudStack decodes what it gets as a part of a URL first."""
    content = b"\x1f\x8b\xfb\xef\xbe" * 100
    encoded = {"user-data": base64.b64encode(content).decode(), "user-data-encoding": "base64"}
    assert "+" in encoded["user-data"]
    done(scope, operations, insert(scope, wanted(metadata=metadata(**encoded))))
    row = scope.client.read("getVirtualMachineUserData", virtualmachineid=row_of(scope)["id"]).one()
    assert base64.b64decode(row["userdata"]) == content


def test_a_key_that_was_registered_by_hand(scope: Scope, operations: Finish) -> None:
    scope.client.write("registerSSHKeyPair", name="mine", publickey=f"{KEY} other@example.org")
    done(scope, operations, insert(scope, wanted(metadata=metadata(**{"ssh-keys": f"joe:{KEY}"}))))
    assert [pair["name"] for pair in scope.client.read("listSSHKeyPairs").items] == ["mine"]
    assert row_of(scope)["details"]["SSH.KeyPairNames"] == "mine"


def test_a_name_of_ours_with_the_key_of_another_is_not_taken(scope: Scope, operations: Finish) -> None:
    name = SshKey("", KEY).name
    other = "ssh-rsa " + base64.b64encode(b"\0\0\0\7ssh-rsa" + bytes(300)).decode()
    scope.client.write("registerSSHKeyPair", name=name, publickey=other)
    done(scope, operations, insert(scope, wanted(metadata=metadata(**{"ssh-keys": f"joe:{KEY}"}))))
    pairs = {pair["name"] for pair in scope.client.read("listSSHKeyPairs").items}
    (ours,) = pairs - {name}
    assert row_of(scope)["details"]["SSH.KeyPairNames"] == ours


def set_project_key(scope: Scope, operations: Finish, user: str) -> None:
    common = common_pb2.Metadata(items=[common_pb2.Metadata.Items(key="ssh-keys", value=f"{user}:{KEY}")])
    request = projects_pb2.SetCommonInstanceMetadataRequest(project="demo", resource=common)
    done(scope, operations, ask(scope, "Projects.SetCommonInstanceMetadata", request))


def test_a_project_key_that_is_set_while_the_machine_is_made(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    """The change found no such machine yet: the insert gives it what holds by then."""
    simulated.app.faults.append(Fault("hang", "deployVirtualMachine"))
    sent = insert(scope, wanted(metadata=metadata(**{"ssh-keys": f"joe:{KEY}"})))
    until(lambda: not simulated.app.faults)
    set_project_key(scope, operations, "ann")
    assert "updateVirtualMachine" not in simulated.calls
    simulated.let_go()
    done(scope, operations, sent)
    assert f"ann 0 {KEY}\n" in user_data(scope) and f"joe 0 {KEY}\n" in user_data(scope)


def test_a_project_key_that_is_set_while_an_insert_waits_for_its_turn(
    scope: Scope, operations: Finish, simulated: Cloud, hold: Hold
) -> None:
    volume(scope, "data-1")
    hold.on(scope, "disks/data-1")
    source = pb.AttachedDisk(source="zones/ch-zh-1/disks/data-1")
    sent = insert(scope, wanted(disks=[*wanted().disks, source]))
    set_project_key(scope, operations, "ann")
    hold.let_go()
    done(scope, operations, sent)
    assert f"ann 0 {KEY}\n" in user_data(scope)
    # It was deployed with it, and CloudStack has the key too.
    assert row_of(scope)["details"]["SSH.PublicKey"].split()[:2] == KEY.split()


def test_while_the_projects_metadata_stay_nothing_more_is_asked(
    scope: Scope, operations: Finish, simulated: Cloud
) -> None:
    set_project_key(scope, operations, "ann")
    before = dict(simulated.calls)
    done(scope, operations, insert(scope, wanted()))
    assert "updateVirtualMachine" not in simulated.calls
    assert simulated.calls["listVirtualMachines"] - before.get("listVirtualMachines", 0) == LISTS_OF_AN_INSERT


# Of machines: two for the name at submit.
LISTS_OF_AN_INSERT = 2


@pytest.mark.parametrize("key", ["ssh-rsa", "ssh-rsa not-base64!", "ssh-rsa AAAA", "ssh-foo AAAAB3NzaC1mb28="])
def test_a_key_that_is_none_does_no_harm(scope: Scope, operations: Finish, key: str) -> None:
    """GCE takes any text as a key; the guest makes of it what it can."""
    done(scope, operations, insert(scope, wanted(metadata=metadata(**{"ssh-keys": f"joe:{key}\njoe:{KEY}"}))))
    assert row_of(scope)["details"]["SSH.PublicKey"].split()[:2] == KEY.split()


def test_keys_of_the_project(scope: Scope, operations: Finish) -> None:
    common = common_pb2.Metadata(items=[common_pb2.Metadata.Items(key="sshKeys", value=f"ann:{KEY}")])
    request = projects_pb2.SetCommonInstanceMetadataRequest(project="demo", resource=common)
    ask(scope, "Projects.SetCommonInstanceMetadata", request)
    done(scope, operations, insert(scope, wanted()))
    assert f"\nann 0 {KEY}\n" in user_data(scope)
    assert len(scope.client.read("listSSHKeyPairs").items) == 1
    blocked = metadata(**{"block-project-ssh-keys": "true"})
    done(scope, operations, insert(scope, wanted("web-2", metadata=blocked)))
    assert "ann" not in user_data(scope, "web-2")
    assert "SSH.PublicKey" not in row_of(scope, "web-2")["details"]


# What is refused at once


@pytest.mark.parametrize(
    ("fields", "code", "location"),
    [
        ({"name": ""}, 400, "resource.name"),
        ({"name": "Web_1"}, 400, "resource.name"),
        ({"machineType": ""}, 400, "resource.machineType"),
        ({"machineType": "nope"}, 404, ""),
        ({"machineType": "zones/ch-gv2/machineTypes/micro"}, 400, "resource.machineType"),
        ({"machineType": "custom-99-4096"}, 400, "resource.machineType"),
        ({"hostname": "other.example.org"}, 400, "resource.hostname"),
        ({"disks": []}, 400, "resource.disks"),
        ({"disks": [pb.AttachedDisk(boot=True)]}, 400, "resource.disks[0].initializeParams.sourceImage"),
        ({"disks": [pb.AttachedDisk(boot=True, source="x")]}, 404, ""),
        ({"disks": [pb.AttachedDisk(boot=True), pb.AttachedDisk(boot=True)]}, 400, "resource.disks"),
        (boot(type="SCRATCH"), 400, "resource.disks[0].type"),
        (boot(mode="READ_ONLY"), 400, "resource.disks[0].mode"),
        (boot(sourceSnapshot="x"), 400, "resource.disks[0].initializeParams.sourceSnapshot"),
        (boot(sourceImage="nope"), 404, ""),
        (boot(diskName="A B"), 400, "resource.disks[0].initializeParams.diskName"),
        (boot(diskSizeGb=9), 400, "resource.disks[0].initializeParams.diskSizeGb"),
        (boot(diskType="small", diskSizeGb=21), 400, "resource.disks[0].initializeParams.diskSizeGb"),
        (boot(diskType="nope"), 404, ""),
        (nic(network="nope"), 404, ""),
        (nic(networkIP="10.9.9.9"), 400, "resource.networkInterfaces[0].networkIP"),
        (nic(networkIP="10.1.1.1"), 400, "resource.networkInterfaces[0].networkIP"),
        (nic(networkIP="ten"), 400, "resource.networkInterfaces[0].networkIP"),
        (nic(accessConfigs=[pb.AccessConfig(), pb.AccessConfig()]), 400, "resource.networkInterfaces[0].accessConfigs"),
        (nic(accessConfigs=[pb.AccessConfig(natIP="192.0.2.99")]), 404, ""),
        (second(network=NET_A, accessConfigs=[pb.AccessConfig()]), 400, "resource.networkInterfaces[1]"),
        (second(network=NET_A), 400, "resource.networkInterfaces[1]"),
        ({"networkInterfaces": []}, 400, "resource.networkInterfaces"),
        (nic(network=""), 400, "resource.networkInterfaces[0].network"),
        (nic(network="global/networks/default"), 400, "resource.networkInterfaces[0].network"),
        (nic(networkIP="10.1.1.255"), 400, "resource.networkInterfaces[0].networkIP"),
        (second(network="a/b/c/d"), 400, "resource.networkInterfaces[1].network"),
        ({"tags": pb.Tags(items=["A"])}, 400, "resource.tags.items[0]"),
        ({"labels": {"A": "a"}}, 400, "resource.labels.A"),
        ({"metadata": metadata(**{"a b": "c"})}, 400, "resource.metadata.items[0].key"),
        ({"metadata": metadata(**{"startup-script": RANDOM})}, 400, "resource.metadata.items[0].value"),
        ({"metadata": metadata(**{"enable-oslogin": "TRUE"})}, 400, "resource.metadata.items[0].value"),
        ({"metadata": metadata(**{"user-data": "{}", "startup-script": "x"})}, 400, "resource.metadata.items[1].value"),
    ],
)  # fmt: skip
def test_refused(scope: Scope, simulated: Cloud, fields: dict[str, Any], code: int, location: str) -> None:
    error = refused(lambda: insert(scope, wanted(**fields)))
    assert (error.code, error.location) == (code, location), error
    assert "CloudStack" not in error.message
    assert "deployVirtualMachine" not in simulated.calls
    assert not list(scope.store.list_operations(scope.project.key, None, 0))


def test_refused_in_a_zone_with_security_groups(scope: Scope) -> None:
    several = wanted(networkInterfaces=[pb.NetworkInterface(), pb.NetworkInterface()])
    assert refused(lambda: insert(scope, several, "ch-gv2")).location == "resource.networkInterfaces[1]"
    chosen = wanted(**nic(accessConfigs=[pb.AccessConfig(natIP="192.0.2.9")]))
    error = refused(lambda: insert(scope, chosen, "ch-gv2"))
    assert error.location == "resource.networkInterfaces[0].accessConfigs[0].natIP"
    assert refused(lambda: insert(scope, wanted(**nic(network="net-a")), "ch-gv2")).code == 400


def test_templates_of_instances_are_not_offered(scope: Scope) -> None:
    for field in ("sourceInstanceTemplate", "sourceMachineImage"):
        error = refused(lambda field=field: insert(scope, wanted(), **{field: "x"}))
        assert (error.code, error.location) == (400, field)


def test_an_unknown_zone(scope: Scope) -> None:
    assert refused(lambda: insert(scope, wanted(), "nope")).code == 404


# Names


def test_a_name_in_use(scope: Scope, operations: Finish) -> None:
    sent = insert(scope, wanted())
    message = "The resource 'projects/demo/zones/ch-zh-1/instances/web-1' already exists"
    while_it_runs = refused(lambda: insert(scope, wanted()))
    done(scope, operations, sent)
    for error in (while_it_runs, refused(lambda: insert(scope, wanted()))):
        assert (error.code, error.reason, error.message) == (409, "alreadyExists", message)
    assert len(scope.client.read("listVirtualMachines").items) == 1


def test_a_name_that_differs_in_case(scope: Scope) -> None:
    machine(scope, "WEB-1")
    assert refused(lambda: insert(scope, wanted())).code == 409


def test_the_same_name_in_another_zone(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted()))
    done(scope, operations, insert(scope, wanted(), "ch-gv2"))
    assert names(scope) == names(scope, "ch-gv2") == ["web-1"]


def test_the_name_of_a_machine_that_is_not_expunged_yet(scope: Scope, operations: Finish) -> None:
    """It cannot be seen, and still has its host name: the new one gets another, and is shown as it was asked for."""
    gone = machine(scope, "web-1")
    job(scope, "destroyVirtualMachine", id=gone["id"])
    done(scope, operations, insert(scope, wanted()))
    assert names(scope) == ["web-1"]
    (row,) = scope.client.read("listVirtualMachines").items
    assert row["name"].startswith("web-1-") and row["displayname"] == "web-1"


def test_the_same_request_twice(scope_for: OpenScope, operations: Finish, simulated: Cloud) -> None:
    request = pb.InsertInstanceRequest(
        project="demo", zone="ch-zh-1", resource=wanted(), requestId="0e9f9a3e-3333-4333-8333-333333333333"
    )
    sent = []
    for _ in range(2):
        scope = scope_for()
        sent.append(engine.replay(scope, request) or ask(scope, "Instances.Insert", request))
        done(scope, operations, sent[-1])
    assert sent[0].name == sent[1].name
    assert simulated.calls["deployVirtualMachine"] == 1


def test_several_at_once(scope_for: OpenScope, operations: Finish) -> None:
    sent: list[Any] = []

    def one(name: str) -> None:
        scope = scope_for()
        sent.append((scope, insert(scope, wanted(name), "ch-gv2")))

    threads = [threading.Thread(target=one, args=(f"web-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for scope, operation in sent:
        done(scope, operations, operation)
    assert names(scope_for(), "ch-gv2") == ["web-0", "web-1", "web-2", "web-3"]


# When it fails


def left_behind(scope: Scope) -> dict[str, list[str]]:
    groups = scope.client.read("listSecurityGroups").items
    addresses = scope.client.read("listPublicIpAddresses").items
    return {
        "machines": [row["name"] for row in scope.client.read("listVirtualMachines").items],
        "addresses": [row["ipaddress"] for row in addresses if not row.get("issourcenat")],
        "groups": [row["name"] for row in groups if row["name"].startswith("gce-vm-")],
    }


NOTHING: dict[str, list[str]] = {"machines": [], "addresses": [], "groups": []}


@pytest.fixture
def crowded(simulated: Cloud) -> None:
    """A cloud with a machine type that no host has room for."""
    description = cloud.read(None)
    description["settings"] = {"job_seconds": {"": 0.02}}
    offering = {"name": "Titanic", "cpu_number": 64, "memory": 1 << 20, "fits_nowhere": True}
    description["service_offering"].append(offering)
    simulated.app.world = cloud.build(description)


@pytest.mark.parametrize("zone", ["ch-zh-1", "ch-gv2"])
@pytest.mark.usefixtures("crowded")
def test_no_capacity(scope: Scope, operations: Finish, zone: str) -> None:
    large = metadata(**{f"key-{index}": "x" * 2000 for index in range(10)})
    row = operations(scope, insert(scope, wanted(machineType="titanic", metadata=large), zone))
    assert (row["error"]["code"], row["error"]["status"]) == ("ZONE_RESOURCE_POOL_EXHAUSTED", 503)
    assert "does not have enough resources" in row["error"]["message"]
    assert not row["warnings"]
    assert left_behind(scope) == NOTHING
    assert documents(scope.store) == 0
    done(scope, operations, insert(scope, wanted(), zone))


@pytest.mark.usefixtures("crowded")
def test_no_capacity_where_expunge_is_not_permitted(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """Its name is free with CloudStack's next expunge run, as one in state Error takes no other."""
    simulated.app.world.settings.user_may_expunge = False
    simulated.app.world.settings.expunge_seconds = 0.1
    row = operations(scope, insert(scope, wanted(machineType="titanic")))
    assert row["error"]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert not row["warnings"]
    assert left_behind(scope) == NOTHING
    until(lambda: bool(scope.client.read("listZones").items) and not simulated.app.world.all(VirtualMachine))
    done(scope, operations, insert(scope, wanted()))


def test_no_address_left(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "associateIpAddress", status=533, text="no address in [7]"))
    row = operations(scope, insert(scope, wanted()))
    assert row["error"]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert left_behind(scope) == NOTHING


@pytest.mark.parametrize("command", ["createTags", "enableStaticNat", "createFirewallRule", "updateVirtualMachine"])
def test_any_later_step_fails(scope: Scope, operations: Finish, simulated: Cloud, command: str) -> None:
    done(scope, operations, insert_firewall(scope, rule("ssh", "tcp:22", network="net-a")))
    # Twice, as what fails beside another step is tried once more.
    simulated.app.faults.append(Fault("status", command, status=531, count=2))
    row = operations(scope, insert(scope, wanted(deletionProtection=True)))
    assert (row["error"]["code"], row["error"]["status"]) == ("PERMISSION_DENIED", 403)
    assert left_behind(scope) == NOTHING


@pytest.mark.parametrize("zone", ["ch-zh-1", "ch-gv2"])
def test_a_fault_of_our_own_leaves_no_machine(
    scope: Scope, operations: Finish, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """Any exception in the handler undoes what the steps before it made."""

    def fail(run: Run, machine: str) -> None:
        raise KeyError("id")

    monkeypatch.setattr(instances_insert, "_tag_disk", fail)
    row = operations(scope, insert(scope, wanted(), zone))
    assert (row["error"]["code"], row["error"]["status"]) == ("INTERNAL_ERROR", 500)
    assert left_behind(scope) == NOTHING


def test_an_address_on_its_way_at_a_restart_is_given_back(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "associateIpAddress": 3600.0}
    sent = insert(scope, wanted())
    until(lambda: simulated.calls.get("associateIpAddress", 0) > 0)
    restart(simulated.app.world, told=True)
    assert operations(scope, sent)["error"]
    assert left_behind(scope) == NOTHING
    assert scope.client.read("listPublicIpAddresses", state="Allocating").items == []


@pytest.mark.parametrize("zone", ["ch-zh-1", "ch-gv2"])
def test_a_restart_of_cloudstack_in_any_job(scope: Scope, operations: Finish, simulated: Cloud, zone: str) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "deployVirtualMachine": 3600.0}
    sent = insert(scope, wanted(), zone)
    until(lambda: simulated.calls.get("deployVirtualMachine", 0) > 0)
    simulated.app.world.settings.job_seconds = {"": 0.02}
    restart(simulated.app.world, told=False)
    done(scope, operations, sent)
    assert get(scope, zone=zone).status == "RUNNING"
    assert left_behind(scope)["machines"] == ["web-1"]


def test_a_result_that_cannot_be_read_does_not_end_an_insert(scope: Scope, operations: Finish) -> None:
    """A long description: the answer about the job is beyond 64 kB, and CloudStack never tells it."""
    done(scope, operations, insert(scope, wanted(description="x" * 60_000)))
    assert len(get(scope).description) == 60_000
    assert left_behind(scope)["machines"] == ["web-1"]


def test_errors_of_questions_do_not_end_an_insert(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """One of each kind while the machine is made, its address and its static NAT."""
    simulated.app.world.settings.job_seconds = {"": 0.2}
    for status in (530, 401, 503, 431):
        simulated.app.faults.append(Fault("status", "queryAsyncJobResult", status=status))
    simulated.app.faults += [Fault("html", command, status=502) for command in ("createTags", "enableStaticNat")]
    done(scope, operations, insert(scope, wanted(description="x" * 2000)))
    assert get(scope).status == "RUNNING"
    assert simulated.calls["deployVirtualMachine"] == 1


def test_a_quota(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=535, text="Maximum number 2 of [vm]"))
    row = operations(scope, insert(scope, wanted(), "ch-gv2"))
    assert (row["error"]["code"], row["error"]["status"]) == ("QUOTA_EXCEEDED", 403)
    assert left_behind(scope) == NOTHING


def test_an_address_taken_meanwhile_leaves_no_broken_machine(
    scope: Scope, simulated: Cloud, request: pytest.FixtureRequest
) -> None:
    """The submit is refused, and the machine is there in state Error (recordings, Surprises 15)."""
    operation = insert(scope, wanted(**nic(networkIP="10.1.1.77")))
    machine(scope, "other", ipaddress="10.1.1.77", networkids=first(scope, "listNetworks", keyword="net-a")["id"])
    row = request.getfixturevalue("operations")(scope, operation)
    assert (row["error"]["code"], row["error"]["status"]) == ("IP_IN_USE_BY_ANOTHER_RESOURCE", 400)
    assert row["error"]["message"] == "IP '10.1.1.77' is already being used by another resource."
    assert simulated.calls["deployVirtualMachine"] == 1
    assert left_behind(scope)["machines"] == ["other"]


def test_an_address_of_somebody_who_cannot_be_seen(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    """CloudStack says only that something went wrong, and leaves a broken machine."""
    row = first(scope, "listNetworks", keyword="net-a")
    next(one for one in simulated.app.world.all(Network) if one.id == row["id"]).used_addresses.add("10.1.1.77")
    ended = operations(scope, insert(scope, wanted(**nic(networkIP="10.1.1.77"))))
    assert (ended["error"]["code"], ended["error"]["status"]) == ("IP_IN_USE_BY_ANOTHER_RESOURCE", 400)
    assert left_behind(scope)["machines"] == []


def test_what_cannot_be_taken_away_is_told(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.faults += [
        Fault("status", "enableStaticNat", status=530),
        Fault("status", "destroyVirtualMachine", status=531, count=2),
    ]
    row = operations(scope, insert(scope, wanted()))
    assert row["error"]["code"] == "INTERNAL_ERROR"
    (warning,) = row["warnings"]
    assert warning["code"] == "CLEANUP_FAILED"
    assert "'web-1'" in warning["message"] and row_of(scope)["id"] in warning["message"]
    assert left_behind(scope)["addresses"] == []


def test_an_answer_that_is_lost(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    for command in ("deployVirtualMachine", "associateIpAddress", "enableStaticNat"):
        simulated.app.faults.append(Fault("drop", command))
    done(scope, operations, insert(scope, wanted()))
    assert left_behind(scope)["machines"] == ["web-1"]
    assert len(left_behind(scope)["addresses"]) == 1
    assert get(scope).networkInterfaces[0].accessConfigs[0].natIP


def test_protected(scope: Scope, operations: Finish) -> None:
    done(scope, operations, insert(scope, wanted(deletionProtection=True)))
    assert get(scope).deletionProtection


@pytest.mark.parametrize(
    ("scheduling", "restarts"),
    [
        ({}, True),
        ({"automaticRestart": False}, False),
        ({"preemptible": True}, False),
        ({"automaticRestart": True}, True),
    ],
)
def test_a_machine_of_an_offering_that_restarts(
    scope: Scope, operations: Finish, simulated: Cloud, scheduling: dict[str, bool], restarts: bool
) -> None:
    for offering in simulated.app.world.all(ServiceOffering):
        offering.offer_ha = True
    done(scope, operations, insert(scope, wanted(scheduling=pb.Scheduling(**scheduling))))
    assert row_of(scope)["haenable"] is restarts


def test_while_it_runs(scope: Scope, operations: Finish, simulated: Cloud) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.02, "deployVirtualMachine": 1.0}
    sent = insert(scope, wanted())
    seen = []
    while (row := scope.store.operation_by_name(sent.name)) and row["status"] != "DONE":
        found = scope.client.read("listVirtualMachines", name="web-1").items
        if found:
            seen.append((found[0]["state"], get(scope).status))
    assert ("Stopped", "PROVISIONING") in seen or ("Starting", "STAGING") in seen
    assert {status for _, status in seen} <= {"PROVISIONING", "STAGING", "RUNNING"}
    assert done(scope, operations, sent)["target_id"] == str(number(row_of(scope)["id"]))


def test_details_stay_far_below_what_a_job_may_say(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job result over 64 kB can never be read (recordings, Surprises 4)."""
    resource = wanted(
        metadata=metadata(**{f"k{index}": "x" * 11_000 for index in range(40)}),
        labels={f"l{index}": "x" * 63 for index in range(64)},
        tags=pb.Tags(items=[f"t{index}{'x' * 50}" for index in range(64)]),
    )
    parameters = deployed(scope, monkeypatch, resource)
    kept = {key: value for key, value in parameters.items() if key.startswith("details[0].")}
    assert sum(map(len, kept.values())) < 40_000
    assert max(map(len, kept.values())) <= 5120
    assert details.METADATA in {key.removeprefix("details[0].") for key in kept}


def test_the_default_service_account_is_shown_by_its_address(scope: Scope, operations: Finish) -> None:
    account = pb.ServiceAccount(email="default", scopes=["https://www.googleapis.com/auth/cloud-platform"])
    done(scope, operations, insert(scope, wanted(serviceAccounts=[account])))
    (shown,) = get(scope).serviceAccounts
    assert shown.email == f"{scope.project.number}-compute@developer.gserviceaccount.com"
    assert shown.scopes == account.scopes


def test_an_insert_that_is_refused_for_their_number_keeps_nothing(scope: Scope, simulated: Cloud) -> None:
    settings = scope.environment.settings.model_copy(update={"operations_unfinished": 0})
    scope.environment.settings = settings
    large = metadata(**{f"key-{index}": "x" * 2000 for index in range(10)})
    assert refused(lambda: insert(scope, wanted(metadata=large))).code == 429
    assert documents(scope.store) == 0
