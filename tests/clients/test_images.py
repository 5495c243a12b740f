"""What gcutil, gcloud, Terraform, Packer and libcloud send for images, on a gstack of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import Stack, run_stack
from tests.clients.sequences import Session, check_schema, machine, refused, until
from tests.clients.test_gcloud_sequences import AGENT as GCLOUD
from tests.clients.test_gcloud_sequences import Gcloud
from tests.clients.test_gcutil_sequences import Gcutil
from tests.clients.test_libcloud import connect
from tests.clients.test_terraform_sequences import AGENT as TERRAFORM

ZONE = "ch-zh-1"
PACKER = "Packer/1.2.8 (+https://www.packer.io/; go1.26.8; linux/amd64)"
ASKED = "alt=json&prettyPrint=false"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPNa0m7lWq4cZtNUrpxZ7kbqfQMZFPxUzvdCWAkYIEFH"
SCOPES = [
    f"https://www.googleapis.com/auth/{name}" for name in ("userinfo.email", "compute", "devstorage.full_control")
]


class Polling(Session):
    def wait(self, operation: dict[str, Any]) -> None:
        scope = f"/zones/{ZONE}" if "zone" in operation else "/global"
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"{scope}/operations/{operation['name']}?alt=json")
        assert "error" not in operation, operation


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from run_stack(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def disk(stack: Stack) -> str:
    """Packer's: a machine that is deleted when it is ready, whose disk stays, and with it a blank one that does not."""
    packer = Polling(stack, PACKER)
    zone = f"/zones/{ZONE}"
    refused(packer.send("GET", f"/global/images/packer-image?{ASKED}"), 404)
    blank = {"description": "created by Packer", "diskEncryptionKey": {}, "name": "packer-extra", "sizeGb": "10"}
    packer.wait(packer.ask("POST", f"{zone}/disks?{ASKED}", blank | {"type": f"zones/{ZONE}/diskTypes/pd-standard"}))
    assert packer.ask("GET", f"{zone}/disks/packer-extra?{ASKED}")["sizeGb"] == "10"
    packer.ask("GET", f"?{ASKED}")
    image = packer.ask("GET", f"/global/images/family/debian-12?{ASKED}")
    packer.ask("GET", f"{zone}?{ASKED}")
    size = packer.ask("GET", f"{zone}/machineTypes/e2-small?{ASKED}")
    wanted = {
        "advancedMachineFeatures": {},
        "description": "New instance created by Packer",
        "disks": [
            {
                "boot": True,
                "initializeParams": {
                    "diskName": "packer-disk", "diskSizeGb": "12", "diskType": f"zones/{ZONE}/diskTypes/pd-standard",
                    "sourceImage": image["selfLink"],
                },
                "kind": "compute#attachedDisk", "mode": "READ_WRITE", "type": "PERSISTENT",
            },
            {
                "autoDelete": True, "diskEncryptionKey": {}, "interface": "SCSI", "mode": "READ_WRITE",
                "source": f"projects/demo/zones/{ZONE}/disks/packer-extra", "type": "PERSISTENT",
            },
        ],
        "labels": {"l": "m"},
        "machineType": size["selfLink"],
        "metadata": {"items": [{"key": "startup-script", "value": ""}, {"key": "ssh-keys", "value": f":{KEY} "}]},
        "name": "packer-1",
        "networkInterfaces": [
            {"accessConfigs": [{"name": "AccessConfig created by Packer", "type": "ONE_TO_ONE_NAT"}],
             "network": "global/networks/net-a"}
        ],
        "scheduling": {"onHostMaintenance": "MIGRATE"},
        "serviceAccounts": [{"email": "default", "scopes": SCOPES}],
        "tags": {"items": ["web"]},
    }  # fmt: skip
    packer.wait(packer.ask("POST", f"{zone}/instances?{ASKED}", wanted))
    machine = packer.ask("GET", f"{zone}/instances/packer-1?{ASKED}")
    assert machine["status"] == "RUNNING" and machine["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
    assert "contents" in packer.ask("GET", f"{zone}/instances/packer-1/serialPort?{ASKED}")
    packer.wait(packer.ask("DELETE", f"{zone}/instances/packer-1?{ASKED}"))
    assert packer.ask("GET", f"{zone}/disks/packer-disk?{ASKED}")["status"] == "READY"
    refused(packer.send("GET", f"{zone}/disks/packer-extra?{ASKED}"), 404)
    return f"projects/demo/zones/{ZONE}/disks/packer-disk"


def test_packers_last_steps(stack: Stack, disk: str) -> None:
    packer = Polling(stack, PACKER)
    body = {
        "description": "by Packer", "family": "packed", "guestOsFeatures": [{"type": "UEFI_COMPATIBLE"}],
        "labels": {"by": "packer"}, "name": "packer-image", "sourceDisk": f"/compute/v1/{disk}", "sourceType": "RAW",
        "storageLocations": ["eu"],
    }  # fmt: skip
    packer.wait(packer.ask("POST", f"/global/images?{ASKED}", body))
    image = packer.ask("GET", f"/global/images/packer-image?{ASKED}")
    assert image["status"] == "READY"
    assert image["sourceDisk"].endswith(disk)
    assert {key: image[key] for key in body} == {**body, "sourceDisk": image["sourceDisk"]}
    # Times of the deprecation, none of which was asked for.
    packer.wait(packer.ask("POST", f"/global/images/packer-image/deprecate?{ASKED}", {}))
    assert "deprecated" not in packer.ask("GET", f"/global/images/packer-image?{ASKED}")
    packer.wait(packer.ask("DELETE", f"/global/images/packer-image?{ASKED}"))


def test_features_asked_for_go_before_those_of_the_disk(stack: Stack) -> None:
    terraform = Polling(stack, TERRAFORM)
    wanted = machine("featured", ZONE, "net-a")
    wanted["disks"][0]["guestOsFeatures"] = [{"type": "GVNIC"}]
    terraform.wait(terraform.ask("POST", f"/zones/{ZONE}/instances?alt=json", wanted))
    for name, asked in (("its-own", {}), ("asked-for", {"guestOsFeatures": [{"type": "UEFI_COMPATIBLE"}]})):
        body = {"name": name, "sourceDisk": f"projects/demo/zones/{ZONE}/disks/featured"} | asked
        terraform.wait(terraform.ask("POST", "/global/images?alt=json&forceCreate=true", body))
        image = terraform.ask("GET", f"/global/images/{name}?alt=json")
        assert image["guestOsFeatures"] == asked.get("guestOsFeatures", [{"type": "GVNIC"}])
        terraform.wait(terraform.ask("DELETE", f"/global/images/{name}?alt=json"))
    terraform.wait(terraform.ask("DELETE", f"/zones/{ZONE}/instances/featured?alt=json"))


def test_terraform_reads_back_what_it_put_in(stack: Stack, disk: str) -> None:
    """google_compute_image: no second plan has a change (facts 5.3)."""
    terraform = Polling(stack, TERRAFORM)
    config = {
        "name": "tf-image", "description": "by Terraform", "family": "tf", "labels": {"env": "test"},
        "sourceDisk": disk, "guestOsFeatures": [{"type": "UEFI_COMPATIBLE"}],
        "licenses": ["projects/debian-cloud/global/licenses/debian-12"], "storageLocations": ["eu"],
    }  # fmt: skip
    terraform.wait(terraform.ask("POST", "/global/images?alt=json", config))
    image = terraform.ask("GET", "/global/images/tf-image?alt=json")
    check_schema(image, "Image")
    for field in ("name", "description", "family", "labels", "guestOsFeatures", "storageLocations"):
        assert image[field] == config[field]
    # Links are compared from `projects/` on.
    assert image["sourceDisk"].endswith(disk)
    assert "sourceImage" not in image and "sourceSnapshot" not in image and "deprecated" not in image
    assert image["diskSizeGb"] == "12" and isinstance(image["archiveSizeBytes"], str)
    labels = {"labels": {"env": "prod"}, "labelFingerprint": image["labelFingerprint"]}
    terraform.wait(terraform.ask("POST", "/global/images/tf-image/setLabels?alt=json", labels))
    assert terraform.ask("GET", "/global/images/tf-image?alt=json")["labels"] == {"env": "prod"}
    of_image = {"name": "tf-copy", "sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    terraform.wait(terraform.ask("POST", "/global/images?alt=json", of_image))
    copy = terraform.ask("GET", "/global/images/tf-copy?alt=json")
    assert "family" not in copy and "description" not in copy and "labels" not in copy
    for name in ("tf-copy", "tf-image"):
        terraform.wait(terraform.ask("DELETE", f"/global/images/{name}?alt=json"))
        refused(terraform.send("GET", f"/global/images/{name}?alt=json"), 404)


def test_gcloud_images(stack: Stack, disk: str) -> None:
    gcloud = Gcloud(stack)
    assert gcloud.http.headers["User-Agent"] == GCLOUD
    base = {"sourceType": "RAW", "family": "gc", "labels": {"a": "b"}}
    made = gcloud.wait(
        gcloud.ask(
            "POST", "/global/images?alt=json", base | {"name": "gc-1", "sourceDisk": f"{stack.url}/compute/v1/{disk}"}
        )
    )
    assert made["name"] == "gc-1"
    raw = {"rawDisk": {"source": "https://storage.googleapis.com/storage/v1/b/bucket/o/disk.qcow2"}}
    gcloud.wait(gcloud.ask("POST", "/global/images?alt=json", base | raw | {"name": "gc-2"}))
    tar = {"rawDisk": {"source": "https://storage.googleapis.com/storage/v1/b/bucket/o/disk.tar.gz"}}
    refused(gcloud.send("POST", "/global/images?alt=json", base | tar | {"name": "gc-3"}), 400, "tar archive")
    of_image = {"sourceImage": f"{stack.api}/global/images/gc-2"}
    gcloud.wait(gcloud.ask("POST", "/global/images?alt=json", base | of_image | {"name": "gc-3", "family": "gc3"}))
    assert gcloud.ask("GET", "/global/images/family/gc?alt=json")["name"] in ("gc-1", "gc-2")
    view = gcloud.ask("GET", f"/zones/{ZONE}/imageFamilyViews/gc?alt=json")
    check_schema(view, "ImageFamilyView")
    assert view["image"]["family"] == "gc"

    # deprecate --state --replacement, with the times that gcloud makes of --deprecate-in and the like.
    status = {
        "state": "DEPRECATED",
        "replacement": f"{stack.api}/global/images/gc-2",
        "deleted": "2027-01-01T00:00:00",
    }
    refused(gcloud.send("POST", "/global/images/gc-1/deprecate?alt=json", status), 400, "resource.deleted")
    status["deleted"] = "2027-01-01T00:00:00.000000+00:00"
    gcloud.wait(gcloud.ask("POST", "/global/images/gc-1/deprecate?alt=json", status))
    items = gcloud.ask("GET", "/global/images?alt=json&maxResults=500")["items"]
    # Without --show-deprecated the client leaves out what has a state that is not ACTIVE.
    assert {one["name"]: one["deprecated"] for one in items if "deprecated" in one} == {"gc-1": status}
    assert gcloud.ask("GET", "/global/images/family/gc?alt=json")["name"] == "gc-2"
    gcloud.wait(gcloud.ask("POST", "/global/images/gc-1/deprecate?alt=json", {"state": "ACTIVE"}))
    assert "deprecated" not in gcloud.ask("GET", "/global/images/gc-1?alt=json")

    # update --family --description; add-labels.
    gcloud.wait(gcloud.ask("PATCH", "/global/images/gc-1?alt=json", {"family": "gcx", "description": "new"}))
    image = gcloud.ask("GET", "/global/images/gc-1?alt=json")
    assert (image["family"], image["description"], image["labels"]) == ("gcx", "new", {"a": "b"})
    gcloud.wait(gcloud.ask("PATCH", "/global/images/gc-1?alt=json", {"family": ""}))
    assert "family" not in gcloud.ask("GET", "/global/images/gc-1?alt=json")
    labels = {"labels": {"a": "b", "c": "d"}, "labelFingerprint": image["labelFingerprint"]}
    gcloud.wait(gcloud.ask("POST", "/global/images/gc-1/setLabels?alt=json", labels))

    # add-iam-policy-binding reads the policy and sends the whole of it back.
    policy = gcloud.ask("GET", "/global/images/gc-1/getIamPolicy?alt=json&optionsRequestedPolicyVersion=3")
    policy["bindings"] = [{"role": "roles/compute.imageUser", "members": ["allAuthenticatedUsers"]}]
    found = gcloud.ask("POST", "/global/images/gc-1/setIamPolicy?alt=json", {"policy": policy})
    check_schema(found, "Policy")
    assert found["bindings"] == policy["bindings"] and found["etag"] != policy["etag"]
    refused(gcloud.send("POST", "/global/images/gc-1/setIamPolicy?alt=json", {"policy": policy}), 412)

    refused(gcloud.send("DELETE", "/global/images/gc-2?alt=json"), 400, "gc-3")
    for name in ("gc-3", "gc-2", "gc-1"):
        gcloud.wait(gcloud.ask("DELETE", f"/global/images/{name}?alt=json"))


def test_gcutil_images(stack: Stack) -> None:
    gcutil = Gcutil(stack)
    body = {
        "kind": "compute#image", "name": "gu-1", "description": "", "sourceType": "RAW",
        "rawDisk": {"containerType": "TAR", "source": "http://storage.googleapis.com/bucket/disk.raw"},
    }  # fmt: skip
    made = gcutil.poll(gcutil.ask("POST", "/global/images?alt=json", body))
    assert made["status"] == "READY" and made["rawDisk"] == body["rawDisk"]
    status = {"state": "DEPRECATED", "replacement": f"{gcutil.project}/global/images/linux-debian-12-64-bit"}
    gcutil.poll(gcutil.ask("POST", "/global/images/gu-1/deprecate?alt=json", status))
    names = {one["name"]: one for one in gcutil.ask("GET", "/global/images?alt=json")["items"]}
    assert names["gu-1"]["deprecated"]["state"] == "DEPRECATED"
    gcutil.poll(gcutil.ask("DELETE", "/global/images/gu-1?alt=json"))
    refused(gcutil.send("GET", "/global/images/gu-1?alt=json"), 404)


def test_libcloud_images(stack: Stack, disk: str, tmp_path: Any) -> None:
    file = tmp_path / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    driver = connect(stack, file)
    driver.connection.poll_interval = 0.2
    volume = driver.ex_get_volume("packer-disk", ZONE)
    image = driver.ex_create_image("lc-1", volume, description="by libcloud", family="lc", ex_labels={"a": "b"})
    assert (image.name, image.extra["family"], image.extra["labels"]) == ("lc-1", "lc", {"a": "b"})
    # The same name once more is the same image.
    assert driver.ex_create_image("lc-1", volume).id == image.id
    copied = driver.ex_copy_image("lc-2", "gs://bucket/disk.qcow2", family="lc")
    assert copied.extra["status"] == "READY"
    times = dict.fromkeys(("deprecated", "obsolete", "deleted"), "2027-01-01T00:00:00.000-08:00")
    assert driver.ex_deprecate_image("lc-1", "lc-2", state="DEPRECATED", **times)
    # The driver does not wait for it.
    until(lambda: driver.ex_get_image("lc-1").extra.get("deprecated", {}).get("state") == "DEPRECATED")
    assert driver.ex_get_image_from_family("lc", ex_project_list=["demo"]).name == "lc-2"
    assert driver.ex_set_image_labels(driver.ex_get_image("lc-1"), {"c": "d"})
    assert driver.ex_get_image("lc-1").extra["labels"] == {"c": "d"}
    for name in ("lc-1", "lc-2"):
        assert driver.ex_delete_image(name)
    assert not [one for one in driver.list_images() if one.name.startswith("lc-")]
