"""The life of an instance and a firewall through the real client libraries, unchanged, as their users write it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import google_auth_httplib2
import httplib2
import pytest
from google.api_core import exceptions
from google.cloud import compute_v1
from google.oauth2.credentials import Credentials
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from libcloud.common.google import ResourceNotFoundError
from libcloud.compute.drivers.gce import GCENodeDriver

from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack

ZONES = ("ch-gv2", "ch-zh-1")


def credentials(stack: Stack) -> Credentials:
    """Keys as client id and secret; the library asks the token endpoint by itself."""
    return Credentials(  # type: ignore[no-untyped-call]
        None, refresh_token="any", token_uri=f"{stack.url}/oauth2/token", client_id=API_KEY, client_secret=SECRET_KEY
    )


# google-api-python-client


def service(stack: Stack, version: str = "v1") -> Any:
    http = google_auth_httplib2.AuthorizedHttp(credentials(stack), http=httplib2.Http())
    url = stack.url + "/discovery/v1/apis/{api}/{apiVersion}/rest"
    return discovery.build("compute", version, discoveryServiceUrl=url, http=http, cache_discovery=False)


def done(stack: Stack, compute: Any, operation: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 60
    while operation["status"] != "DONE":
        assert time.monotonic() < until, operation
        name = operation["name"]
        if "zone" in operation:
            zone = operation["zone"].rpartition("/")[2]
            operation = compute.zoneOperations().wait(project=PROJECT, zone=zone, operation=name).execute()
        else:
            operation = compute.globalOperations().wait(project=PROJECT, operation=name).execute()
    assert "error" not in operation, operation
    return operation


@pytest.mark.parametrize("version", ["v1", "v1beta16"])
def test_api_client_reads_everything(stack: Stack, version: str) -> None:
    compute = service(stack, version)
    for collection, where in (
        ("zones", {}), ("regions", {}), ("images", {}), ("networks", {}), ("routes", {}), ("firewalls", {}),
        ("globalOperations", {}), ("machineTypes", {"zone": "ch-gv2"}), ("diskTypes", {"zone": "ch-gv2"}),
        ("acceleratorTypes", {"zone": "ch-gv2"}), ("disks", {"zone": "ch-gv2"}), ("instances", {"zone": "ch-gv2"}),
        ("zoneOperations", {"zone": "ch-gv2"}), ("subnetworks", {"region": "ch"}), ("addresses", {"region": "ch"}),
        ("regionOperations", {"region": "ch"}),
    ):  # fmt: skip
        found = getattr(compute, collection)().list(project=PROJECT, **where).execute()
        assert found["kind"].endswith("List")
        for item in found.get("items", [])[:2]:
            if "Operations" in collection:
                continue
            singular = collection[:-1] if collection != "addresses" else "address"
            got = getattr(compute, collection)().get(project=PROJECT, **where, **{singular: item["name"]}).execute()
            assert got["id"] == item["id"]
            by_id = getattr(compute, collection)().get(project=PROJECT, **where, **{singular: item["id"]}).execute()
            assert by_id["name"] == item["name"]
    for collection in (
        "machineTypes",
        "diskTypes",
        "acceleratorTypes",
        "disks",
        "instances",
        "subnetworks",
        "addresses",
    ):
        found = getattr(compute, collection)().aggregatedList(project=PROJECT).execute()
        assert found["items"], collection
    assert compute.globalOperations().aggregatedList(project=PROJECT).execute()["kind"].endswith("AggregatedList")
    assert compute.projects().get(project=PROJECT).execute()["name"] == PROJECT
    family = compute.images().getFromFamily(project="debian-cloud", family="debian-12").execute()
    assert family["name"] == "linux-debian-12-64-bit"
    assert compute.licenses().get(project=PROJECT, license="any").execute()["chargesUseFee"] is False


@pytest.mark.parametrize("zone", ZONES)
def test_api_client_life_of_an_instance(stack: Stack, zone: str) -> None:
    compute = service(stack)
    network = "default" if zone == "ch-gv2" else "net-a"
    name = f"api-{zone}"
    where = {"project": PROJECT, "zone": zone}
    body = {
        "name": name,
        "machineType": f"zones/{zone}/machineTypes/small",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": "projects/debian-cloud/global/images/family/debian-12",
                    "diskSizeGb": "20",
                    "diskType": f"zones/{zone}/diskTypes/pd-ssd",
                },
            }
        ],
        "networkInterfaces": [
            {"network": f"global/networks/{network}", "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "nat"}]}
        ],
        "tags": {"items": ["web"]},
        "labels": {"env": "test"},
        "metadata": {"items": [{"key": "startup-script", "value": "#!/bin/sh\necho ü"}]},
        "description": "made by a test",
        "canIpForward": True,
        "serviceAccounts": [{"email": "default", "scopes": ["https://www.googleapis.com/auth/compute"]}],
        "scheduling": {"automaticRestart": False, "onHostMaintenance": "TERMINATE"},
    }
    rule = {
        "name": f"web-{zone}",
        "network": f"global/networks/{network}",
        "allowed": [{"IPProtocol": "tcp", "ports": ["80", "8000-8080"]}, {"IPProtocol": "icmp"}],
        "sourceRanges": ["192.0.2.0/24", "198.51.100.0/24"],
        "targetTags": ["web"],
    }
    done(stack, compute, compute.firewalls().insert(project=PROJECT, body=rule).execute())
    operation = done(stack, compute, compute.instances().insert(**where, body=body).execute())
    assert operation["targetLink"].endswith(f"/zones/{zone}/instances/{name}")

    got = compute.instances().get(**where, instance=name).execute()
    assert got["status"] == "RUNNING"
    for key in ("description", "canIpForward", "labels", "serviceAccounts"):
        assert got[key] == body[key]
    assert got["tags"]["items"] == ["web"]
    assert got["metadata"]["items"] == body["metadata"]["items"]
    assert got["scheduling"]["automaticRestart"] is False
    assert got["disks"][0]["diskSizeGb"] == "20"
    assert got["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    assert operation["targetId"] == got["id"]
    listed = compute.instances().list(**where, filter=f"name eq {name}").execute()["items"]
    assert [item["id"] for item in listed] == [got["id"]]
    disk = compute.disks().get(**where, disk=name).execute()
    assert disk["users"] == [got["selfLink"]]

    one = {**where, "instance": name}
    done(stack, compute, compute.instances().stop(**one).execute())
    assert compute.instances().get(**one).execute()["status"] == "TERMINATED"
    done(stack, compute, compute.instances().start(**one).execute())
    done(stack, compute, compute.instances().reset(**one).execute())
    tags = {"items": ["db", "web"], "fingerprint": got["tags"]["fingerprint"]}
    done(stack, compute, compute.instances().setTags(**one, body=tags).execute())
    with pytest.raises(HttpError) as stale:
        compute.instances().setTags(**one, body=tags).execute()
    assert stale.value.resp.status == 412
    labels = {"labels": {"a": "b"}, "labelFingerprint": got["labelFingerprint"]}
    done(stack, compute, compute.instances().setLabels(**one, body=labels).execute())
    metadata = {"items": [{"key": "k", "value": "v"}], "fingerprint": got["metadata"]["fingerprint"]}
    done(stack, compute, compute.instances().setMetadata(**one, body=metadata).execute())
    auto = {"autoDelete": True, "deviceName": got["disks"][0]["deviceName"]}
    done(stack, compute, compute.instances().setDiskAutoDelete(**one, **auto).execute())
    changed = compute.instances().get(**one).execute()
    assert changed["tags"]["items"] == ["db", "web"]
    assert changed["labels"] == {"a": "b"}
    assert changed["metadata"]["items"] == metadata["items"]
    assert compute.instances().getSerialPortOutput(**one).execute()["contents"] == ""

    done(stack, compute, compute.instances().delete(**one).execute())
    with pytest.raises(HttpError) as gone:
        compute.instances().get(**one).execute()
    assert gone.value.resp.status == 404
    assert gone.value.error_details[0]["reason"] == "notFound"
    done(stack, compute, compute.firewalls().delete(project=PROJECT, firewall=rule["name"]).execute())
    deleted = compute.zoneOperations().delete(**where, operation=operation["name"]).execute()
    assert json.loads(deleted) == {}


def test_api_client_metadata_of_the_project(stack: Stack) -> None:
    compute = service(stack)
    before = compute.projects().get(project=PROJECT).execute()["commonInstanceMetadata"]
    body = {"items": [{"key": "sshKeys", "value": "joe:ssh-rsa AAAA joe"}], "fingerprint": before["fingerprint"]}
    operation = compute.projects().setCommonInstanceMetadata(project=PROJECT, body=body).execute()
    assert operation["status"] == "DONE"
    after = compute.projects().get(project=PROJECT).execute()["commonInstanceMetadata"]
    assert after["items"] == body["items"]
    body = {"items": [], "fingerprint": after["fingerprint"]}
    compute.projects().setCommonInstanceMetadata(project=PROJECT, body=body).execute()
    again = compute.projects().get(project=PROJECT).execute()["commonInstanceMetadata"]
    assert again["fingerprint"] == before["fingerprint"]


def test_api_client_batch_and_pages(stack: Stack) -> None:
    compute = service(stack)
    answers: dict[str, Any] = {}
    batch = compute.new_batch_http_request(callback=lambda key, answer, error: answers.update({key: error or answer}))
    batch.add(compute.zones().list(project=PROJECT), request_id="zones")
    batch.add(compute.images().get(project=PROJECT, image="nope"), request_id="nope")
    batch.execute()
    assert [zone["name"] for zone in answers["zones"]["items"]] == list(ZONES)
    assert answers["nope"].resp.status == 404

    names: list[str] = []
    request = compute.images().list(project=PROJECT, maxResults=4)
    while request is not None:
        page = request.execute()
        names += [item["name"] for item in page["items"]]
        request = compute.images().list_next(request, page)
    whole = [item["name"] for item in compute.images().list(project=PROJECT).execute()["items"]]
    assert names == whole
    assert len(whole) == len(set(whole)) == 13


# google-cloud-compute


def client(stack: Stack, kind: Any) -> Any:
    return kind(credentials=credentials(stack), client_options={"api_endpoint": stack.url})


def test_cloud_compute_reads(stack: Stack) -> None:
    assert [zone.name for zone in client(stack, compute_v1.ZonesClient).list(project=PROJECT)] == list(ZONES)
    types = client(stack, compute_v1.MachineTypesClient).list(project=PROJECT, zone="ch-gv2")
    assert {item.name: (item.guest_cpus, item.memory_mb) for item in types}["large"] == (4, 8182)
    aggregated = dict(client(stack, compute_v1.MachineTypesClient).aggregated_list(project=PROJECT))
    assert len(aggregated["zones/ch-gv2"].machine_types) == 7
    images = list(client(stack, compute_v1.ImagesClient).list(request={"project": PROJECT, "max_results": 3}))
    assert len(images) == 13
    with pytest.raises(exceptions.NotFound):
        client(stack, compute_v1.ImagesClient).get(project=PROJECT, image="nope")
    for kind, where in (
        (compute_v1.NetworksClient, {}),
        (compute_v1.RoutesClient, {}),
        (compute_v1.FirewallsClient, {}),
        (compute_v1.RegionsClient, {}),
        (compute_v1.DisksClient, {"zone": "ch-gv2"}),
        (compute_v1.DiskTypesClient, {"zone": "ch-gv2"}),
        (compute_v1.AcceleratorTypesClient, {"zone": "ch-gv2"}),
        (compute_v1.SubnetworksClient, {"region": "ch"}),
        (compute_v1.AddressesClient, {"region": "ch"}),
    ):
        list(client(stack, kind).list(project=PROJECT, **where))


def test_cloud_compute_life_of_an_instance(stack: Stack) -> None:
    instances, operations = client(stack, compute_v1.InstancesClient), client(stack, compute_v1.ZoneOperationsClient)
    where = {"project": PROJECT, "zone": "ch-zh-1"}

    def finish(operation: Any) -> None:
        while operation.status != compute_v1.Operation.Status.DONE:
            operation = operations.wait(operation=operation.name, **where)
        assert not operation.error.errors, operation

    wanted = compute_v1.Instance(
        name="cloud-compute",
        machine_type="zones/ch-zh-1/machineTypes/custom-2-4096",
        disks=[
            compute_v1.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=compute_v1.AttachedDiskInitializeParams(
                    source_image="global/images/linux-debian-12-64-bit"
                ),
            )
        ],
        network_interfaces=[compute_v1.NetworkInterface(network="global/networks/net-a")],
    )
    finish(instances.insert_unary(instance_resource=wanted, **where))
    got = instances.get(instance="cloud-compute", **where)
    assert got.status == "RUNNING"
    assert got.machine_type.endswith("custom-2-4096")
    assert not got.network_interfaces[0].access_configs
    with pytest.raises(exceptions.Conflict):
        instances.insert_unary(instance_resource=wanted, **where)
    finish(instances.delete_unary(instance="cloud-compute", **where))
    assert "cloud-compute" not in [item.name for item in instances.list(**where)]


# libcloud


@pytest.fixture
def driver(stack: Stack, tmp_path: Path) -> Any:
    file = tmp_path / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    return GCENodeDriver(
        "any.apps.googleusercontent.com",
        "unused",
        project=PROJECT,
        auth_type="IA",
        credential_file=str(file),
        secure=False,
        proxy_url=stack.url,
        datacenter="ch-gv2",
    )


def test_libcloud_life_of_a_node(driver: Any) -> None:
    assert [zone.name for zone in driver.ex_list_zones()] == list(ZONES)
    assert {size.name for size in driver.list_sizes()} >= {"micro", "huge"}
    assert "linux-debian-12-64-bit" in [image.name for image in driver.list_images()]
    assert [network.name for network in driver.ex_list_networks()] == ["default", "net-a"]
    firewall = driver.ex_create_firewall("lc-web", [{"IPProtocol": "tcp", "ports": ["80"]}], source_tags=["web"])
    assert firewall.name == "lc-web"
    assert firewall.destroy()
    node = driver.create_node("lc-node", "micro", "linux-debian-12-64-bit", ex_tags=["web"])
    assert node.state == "running"
    assert "lc-node" in [found.name for found in driver.list_nodes()]
    assert "lc-node" in [volume.name for volume in driver.list_volumes()]
    assert driver.reboot_node(node)
    assert driver.ex_stop_node(node)
    assert driver.ex_start_node(driver.ex_get_node("lc-node"))
    assert driver.destroy_node(driver.ex_get_node("lc-node"))
    with pytest.raises(ResourceNotFoundError):
        driver.ex_get_node("lc-node")
