"""How clients change an instance: gcloud's commands, Terraform's in-place changes, libcloud's driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.conftest import Stack, run_stack
from tests.clients.sequences import Session, check_schema, machine, refused
from tests.clients.test_gcloud_sequences import Gcloud
from tests.clients.test_libcloud import connect
from tests.clients.test_terraform_sequences import AGENT as TERRAFORM

ZONE = "ch-gv2"
INSTANCES = f"/zones/{ZONE}/instances"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield from run_stack(tmp_path_factory.mktemp("settings"))


@pytest.fixture
def gcloud(stack: Stack) -> Gcloud:
    return Gcloud(stack)


def made(session: Session, name: str) -> str:
    """Path of a new instance."""
    finish(session, session.ask("POST", INSTANCES, machine(name)))
    return f"{INSTANCES}/{name}"


def finish(session: Session, operation: dict[str, Any]) -> dict[str, Any]:
    check_schema(operation, "Operation")
    while operation["status"] != "DONE":
        operation = session.ask("POST", f"/zones/{ZONE}/operations/{operation['name']}/wait", None)
    assert "error" not in operation, operation
    return operation


def removed(session: Session, path: str) -> None:
    finish(session, session.ask("DELETE", path))


# gcloud


def test_gcloud_changes_a_stopped_instance(gcloud: Gcloud) -> None:
    path = made(gcloud, "gc-settings")
    url = f"{gcloud.project}/zones/{ZONE}/machineTypes/e2-medium"
    body = {"machineType": url}
    refused(gcloud.send("POST", f"{path}/setMachineType?alt=json", body), 400, "must be stopped")
    gcloud.wait(gcloud.ask("POST", f"{path}/stop?alt=json&discardLocalSsd=False&noGracefulShutdown=True", {}))
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setMachineType?alt=json", body))
    assert found["machineType"].endswith("/machineTypes/e2-medium")
    account = {"email": "one@example.org", "scopes": [SCOPE]}
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setServiceAccount?alt=json", account))
    assert found["serviceAccounts"] == [account]
    # --no-service-account --no-scopes
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setServiceAccount?alt=json", {"scopes": []}))
    assert "serviceAccounts" not in found
    # instances update
    for method, action, value, shown in (
        ("POST", "setMinCpuPlatform", {"minCpuPlatform": "Intel Skylake"}, {"minCpuPlatform": "Intel Skylake"}),
        ("PATCH", "updateShieldedInstanceConfig", {"enableVtpm": True},
         {"shieldedInstanceConfig": {"enableVtpm": True}}),
        ("PATCH", "setShieldedInstanceIntegrityPolicy", {"updateAutoLearnPolicy": True},
         {"shieldedInstanceIntegrityPolicy": {"updateAutoLearnPolicy": True}}),
        ("PATCH", "updateDisplayDevice", {"enableDisplay": True}, {"displayDevice": {"enableDisplay": True}}),
        ("PATCH", "updateDisplayDevice", {"enableDisplay": False}, {"displayDevice": {"enableDisplay": False}}),
        ("POST", "setDeletionProtection?deletionProtection=True", None, {"deletionProtection": True}),
        ("POST", "setDeletionProtection?deletionProtection=False", None, {"deletionProtection": False}),
    ):  # fmt: skip
        mark = "&" if "?" in action else "?"
        found = gcloud.wait(gcloud.ask(method, f"{path}/{action}{mark}alt=json", value))
        assert {key: found[key] for key in shown} == shown, action
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setScheduling?alt=json", {"automaticRestart": False}))
    assert (found["scheduling"]["automaticRestart"], found["scheduling"]["onHostMaintenance"]) == (False, "MIGRATE")
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setScheduling?alt=json", {"automaticRestart": True}))
    assert found["scheduling"]["automaticRestart"] is True
    names = {"currentName": "gc-settings", "name": "gc-renamed"}
    found = gcloud.wait(gcloud.ask("POST", f"{path}/setName?alt=json", names))
    assert found["name"] == "gc-renamed"
    removed(gcloud, f"{INSTANCES}/gc-renamed")


def test_gcloud_export_and_update_from_file(gcloud: Gcloud) -> None:
    path = made(gcloud, "gc-file")
    exported = gcloud.ask("GET", f"{path}?alt=json")
    edited = {**exported, "canIpForward": True, "description": "from a file"}
    query = "alt=json&mostDisruptiveAllowedAction=REFRESH&minimalAction=NO_EFFECT"
    found = gcloud.wait(gcloud.ask("PUT", f"{path}?{query}", edited))
    assert (found["canIpForward"], found["description"], found["status"]) == (True, "from a file", "RUNNING")
    assert {**found, "fingerprint": "", "canIpForward": False, "description": ""} == {
        **exported, "fingerprint": "", "description": "",
    }  # fmt: skip
    refused(gcloud.send("PUT", f"{path}?{query}", edited), 412, "fingerprint")
    edited = {**found, "zone": exported["zone"], "minCpuPlatform": "Intel Skylake"}
    refused(gcloud.send("PUT", f"{path}?{query}", edited), 400, "RESTART")
    found = gcloud.wait(gcloud.ask("PUT", f"{path}?alt=json&mostDisruptiveAllowedAction=RESTART", edited))
    assert (found["minCpuPlatform"], found["status"]) == ("Intel Skylake", "RUNNING")
    refused(gcloud.send("PUT", f"{path}?alt=json", {**found, "name": "other"}), 400, "resource.name")
    removed(gcloud, path)


def test_gcloud_makes_many_at_once(gcloud: Gcloud) -> None:
    one = machine("any")
    body = {
        "count": "3",
        "minCount": "2",
        "namePattern": "gc-many-##",
        "instanceProperties": {
            "disks": one["disks"], "networkInterfaces": one["networkInterfaces"], "machineType": "micro",
            "metadata": {}, "canIpForward": False, "scheduling": {"automaticRestart": True}, "labels": {"a": "b"},
        },
    }  # fmt: skip
    operation = gcloud.ask("POST", f"{INSTANCES}/bulkInsert?alt=json", body)
    group = operation["operationGroupId"]
    finish(gcloud, operation)
    query = f"alt=json&filter=operationGroupId%3D%22{group}%22&maxResults=500"
    found = gcloud.ask("GET", f"/zones/{ZONE}/operations?{query}")["items"]
    inserts = [one for one in found if one["operationType"] == "insert"]
    assert len(inserts) == 3 and all("error" not in one and one["status"] == "DONE" for one in inserts)
    for position in (1, 2, 3):
        path = f"{INSTANCES}/gc-many-0{position}"
        assert gcloud.ask("GET", f"{path}?alt=json")["labels"] == {"a": "b"}
        removed(gcloud, path)
    by_name = {
        "perInstanceProperties": {"gc-one": {}, "gc-two": {"hostname": ""}},
        "instanceProperties": body["instanceProperties"],
    }
    finish(gcloud, gcloud.ask("POST", f"{INSTANCES}/bulkInsert?alt=json", by_name))
    for name in ("gc-one", "gc-two"):
        removed(gcloud, f"{INSTANCES}/{name}")
    body["sourceInstanceTemplate"] = "global/instanceTemplates/any"
    refused(gcloud.send("POST", f"{INSTANCES}/bulkInsert?alt=json", body), 400, "resource.sourceInstanceTemplate")


def test_gcloud_asks_what_else_there_is(gcloud: Gcloud) -> None:
    path = made(gcloud, "gc-asks")
    found = gcloud.ask("GET", f"{path}/getEffectiveFirewalls?alt=json&networkInterface=nic0")
    check_schema(found, "InstancesGetEffectiveFirewallsResponse")
    assert gcloud.ask("GET", f"{path}/referrers?alt=json")["kind"] == "compute#instanceListReferrers"
    refused(gcloud.send("GET", f"{path}/getGuestAttributes?alt=json&queryPath=hostkeys%2F"), 404, "hostkeys")
    assert "bindings" not in gcloud.ask("GET", f"{path}/getIamPolicy?alt=json")
    wished = {"permissions": ["compute.instances.get"]}
    assert gcloud.ask("POST", f"{path}/testIamPermissions?alt=json", wished) == wished
    removed(gcloud, path)


@pytest.mark.parametrize(
    ("verb", "path", "method", "why"),
    [
        ("POST", "any/suspend?discardLocalSsd=True", "suspend", "stop it instead"),
        ("POST", "any/resume", "resume", "ever suspended"),
        ("POST", "any/simulateMaintenanceEvent", "simulateMaintenanceEvent", "nothing simulates"),
        ("POST", "any/performMaintenance", "performMaintenance", "operator"),
        ("POST", "any/reportHostAsFaulty", "reportHostAsFaulty", "host"),
        ("POST", "any/sendDiagnosticInterrupt", "sendDiagnosticInterrupt", "interrupts"),
        ("POST", "any/startWithEncryptionKey", "startWithEncryptionKey", "encryption keys"),
        ("POST", "any/addResourcePolicies", "addResourcePolicies", "resource policies"),
        ("POST", "any/removeResourcePolicies", "removeResourcePolicies", "resource policies"),
        ("POST", "any/setSecurityPolicy", "setSecurityPolicy", "security policies"),
        ("POST", "any/setIamPolicy", "setIamPolicy", "share the whole project"),
        ("GET", "any/screenshot", "getScreenshot", "display"),
        ("GET", "any/getShieldedInstanceIdentity", "getShieldedInstanceIdentity", "TPM"),
    ],
)
def test_what_cannot_be_had_says_why_at_once(gcloud: Gcloud, verb: str, path: str, method: str, why: str) -> None:
    reply = gcloud.send(verb, f"{INSTANCES}/{path}", {} if verb == "POST" else None)
    error = refused(reply, 400, f"compute.instances.{method} is not offered here", why)
    assert error["errors"][0]["reason"] == "notSupported"


def test_accelerators_are_refused_by_name(gcloud: Gcloud) -> None:
    path = made(gcloud, "gc-gpu")
    finish(gcloud, gcloud.ask("POST", f"{path}/setMachineResources?alt=json", {"guestAccelerators": []}))
    body = {"guestAccelerators": [{"acceleratorCount": 1, "acceleratorType": "x"}]}
    refused(gcloud.send("POST", f"{path}/setMachineResources?alt=json", body), 400, "guestAccelerators")
    removed(gcloud, path)


# Terraform: what it changes in place is what its next plan reads


class Terraform(Session):
    """google_compute_instance's update, in its order: what needs no stop, stop, what needs one, start."""

    def __init__(self, stack: Stack):
        super().__init__(stack, TERRAFORM)

    def get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"{path}?alt=json&prettyPrint=false")
        return found

    def change(self, verb: str, path: str, body: Any) -> None:
        operation = self.ask(verb, f"{path}{'&' if '?' in path else '?'}alt=json&prettyPrint=false", body)
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"/zones/{ZONE}/operations/{operation['name']}?alt=json&prettyPrint=false")
        assert "error" not in operation, operation

    def apply(self, path: str, config: dict[str, Any]) -> None:
        now = self.get(path)
        items = [{"key": key, "value": value} for key, value in config["metadata"].items()]
        self.change("POST", f"{path}/setMetadata", {"items": items, "fingerprint": now["metadata"]["fingerprint"]})
        self.change("POST", f"{path}/setTags", {"items": config["tags"], "fingerprint": now["tags"]["fingerprint"]})
        labels = {"labels": config["labels"], "labelFingerprint": now["labelFingerprint"]}
        self.change("POST", f"{path}/setLabels", labels)
        self.change("POST", f"{path}/setScheduling", config["scheduling"])
        protected = str(config["deletion_protection"]).lower()
        self.change("POST", f"{path}/setDeletionProtection?deletionProtection={protected}", None)
        if self.get(path).get("description", "") != config["description"]:
            body = self.get(path) | {"description": config["description"]}
            self.change("PUT", f"{path}?mostDisruptiveAllowedAction=REFRESH", body)
        # allow_stopping_for_update
        self.change("POST", f"{path}/stop", None)
        machine_type = {"machineType": f"zones/{ZONE}/machineTypes/{config['machine_type']}"}
        self.change("POST", f"{path}/setMachineType", machine_type)
        self.change("POST", f"{path}/setMinCpuPlatform", {"minCpuPlatform": config["min_cpu_platform"]})
        self.change("POST", f"{path}/setServiceAccount", config["service_account"])
        self.change("PATCH", f"{path}/updateDisplayDevice", {"enableDisplay": config["enable_display"]})
        self.change("PATCH", f"{path}/updateShieldedInstanceConfig", config["shielded"])
        self.change("POST", f"{path}/start", None)

    def plan(self, path: str, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What is read that is not what is configured."""
        found = self.get(path)
        check_schema(found, "Instance")
        accounts = found.get("serviceAccounts", [])
        read = {
            "metadata": {one["key"]: one["value"] for one in found["metadata"].get("items", [])},
            "tags": sorted(found["tags"].get("items", [])),
            "labels": found.get("labels", {}),
            "scheduling": {key: found["scheduling"].get(key) for key in config["scheduling"]},
            "deletion_protection": found.get("deletionProtection", False),
            "description": found.get("description", ""),
            "machine_type": found["machineType"].rpartition("/")[2],
            "min_cpu_platform": found.get("minCpuPlatform", ""),
            "service_account": accounts[0] if accounts else {"email": "", "scopes": []},
            "enable_display": found.get("displayDevice", {}).get("enableDisplay", False),
            "shielded": found.get("shieldedInstanceConfig", {}),
            "status": found["status"],
        }
        wanted = {**config, "tags": sorted(config["tags"]), "status": "RUNNING"}
        return {key: (value, wanted[key]) for key, value in read.items() if value != wanted[key]}


FULL = {
    "metadata": {"motd": "x"},
    "tags": ["web", "db"],
    "labels": {"goog-terraform-provisioned": "true"},
    "scheduling": {
        "automaticRestart": False, "onHostMaintenance": "TERMINATE", "preemptible": True, "provisioningModel": "SPOT",
        "instanceTerminationAction": "STOP",
    },
    "deletion_protection": True,
    "description": "text",
    "machine_type": "e2-medium",
    "min_cpu_platform": "Intel Skylake",
    "service_account": {"email": "one@example.org", "scopes": [SCOPE]},
    "enable_display": True,
    "shielded": {"enableSecureBoot": True, "enableVtpm": True, "enableIntegrityMonitoring": True},
}  # fmt: skip
BARE = {
    "metadata": {},
    "tags": [],
    "labels": {},
    "scheduling": {
        "automaticRestart": True, "onHostMaintenance": "MIGRATE", "preemptible": False,
        "provisioningModel": "STANDARD", "instanceTerminationAction": None,
    },
    "deletion_protection": False,
    "description": "",
    "machine_type": "e2-custom-2-4096",
    "min_cpu_platform": "",
    "service_account": {"email": "", "scopes": []},
    "enable_display": False,
    "shielded": {"enableSecureBoot": False, "enableVtpm": False, "enableIntegrityMonitoring": False},
}  # fmt: skip


def test_terraform_changes_all_in_place_and_back(stack: Stack) -> None:
    terraform = Terraform(stack)
    path = made(terraform, "tf-in-place")
    for config in (FULL, BARE, FULL, BARE):
        terraform.apply(path, config)
        assert terraform.plan(path, config) == {}
    removed(terraform, path)


# libcloud


def test_libcloud_changes_a_node(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    driver = connect(stack, file)
    driver.connection.poll_interval = 0.2
    nodes = driver.ex_create_multiple_nodes("lc-settings", "micro", "linux-debian-12-64-bit", 2, location=ZONE)
    for node in nodes:
        assert driver.ex_stop_node(node)
        assert driver.ex_set_machine_type(node, "custom-2-4096")
        assert driver.ex_set_node_scheduling(node, on_host_maintenance="TERMINATE", automatic_restart=False)
        assert driver.ex_set_node_scheduling(node, on_host_maintenance="MIGRATE", automatic_restart=True)
        assert driver.ex_start_node(node)
        assert driver.ex_get_node(node.name, ZONE).size == "custom-2-4096"
        assert driver.destroy_node(node)


def test_a_repeated_change_is_one_operation(stack: Stack) -> None:
    session = Session(stack, "any")
    path = made(session, "any-repeat")
    again = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"

    def send(body: Any) -> requests.Response:
        return session.send("POST", f"{path}/setScheduling?requestId={again}", body)

    first, second = (send({"automaticRestart": False}).json() for _ in range(2))
    assert first["name"] == second["name"] and first["clientOperationId"] == again
    # The id stands for the request, whatever the body says.
    assert send({"automaticRestart": True}).json()["name"] == first["name"]
    refused(session.send("POST", f"{path}/stop?requestId={again}"), 400, again)
    finish(session, first)
    removed(session, path)


def test_null_in_a_patch_takes_away(gcloud: Gcloud) -> None:
    """In other methods it says nothing."""
    path = made(gcloud, "gc-null")
    gcloud.wait(gcloud.ask("POST", f"{path}/stop?alt=json", {}))

    def patched(action: str, body: dict[str, Any], verb: str = "PATCH") -> dict[str, Any]:
        found: dict[str, Any] = gcloud.wait(gcloud.ask(verb, f"{path}/{action}?alt=json", body))
        return found

    patched("updateShieldedInstanceConfig", {"enableVtpm": True, "enableSecureBoot": False})
    found = patched("updateShieldedInstanceConfig", {"enableVtpm": None})
    assert found["shieldedInstanceConfig"] == {"enableSecureBoot": False}
    patched("updateDisplayDevice", {"enableDisplay": True})
    assert "displayDevice" not in patched("updateDisplayDevice", {"enableDisplay": None})
    patched("setShieldedInstanceIntegrityPolicy", {"updateAutoLearnPolicy": True})
    found = patched("setShieldedInstanceIntegrityPolicy", {"updateAutoLearnPolicy": None})
    assert "shieldedInstanceIntegrityPolicy" not in found
    patched("setScheduling", {"locationHint": "rack-1"}, "POST")
    assert patched("setScheduling", {"locationHint": None}, "POST")["scheduling"]["locationHint"] == "rack-1"
    removed(gcloud, path)
