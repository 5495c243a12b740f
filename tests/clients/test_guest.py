"""What clients do about guests and limits: passwords of Windows, serial ports, a project that is full."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.sequences import Session, cloud, machine
from tests.windows import Asking

SMALL, ZONE = "/compute/v1/projects/mallory", "/zones/ch-gv2"


class Small:
    """The demo cloud's small account: two instances."""

    def __init__(self, stack: Stack):
        self.stack, self.token = stack, stack.token("mallory-api-key", "mallory-secret-key")

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        reply = self.stack.call(method, f"{self.stack.url}{SMALL}{path}", body, token=self.token)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def end(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The operation, done."""
        operation = self.ask(method, path, body)
        while operation["status"] != "DONE":
            operation = self.ask("POST", f"{ZONE}/operations/{operation['name']}/wait")
        return operation


@pytest.fixture
def small(stack: Stack) -> Small:
    return Small(stack)


def test_a_project_that_is_full(small: Small) -> None:
    """Each refusal names GCE's metric and the limit, where Terraform and where Google's libraries look."""
    made = [f"{ZONE}/instances/full-{number}" for number in (1, 2)]
    try:
        for number in (1, 2):
            assert "error" not in small.end("POST", f"{ZONE}/instances", machine(f"full-{number}"))
        refusal = small.end("POST", f"{ZONE}/instances", machine("full-3"))
        message = "Quota 'INSTANCES' exceeded.  Limit: 2.0 globally."
        assert refusal["error"]["errors"] == [{"code": "QUOTA_EXCEEDED", "message": message}]
        assert (refusal["httpErrorStatusCode"], refusal["httpErrorMessage"]) == (403, "FORBIDDEN")
        quotas = {quota["metric"]: quota for quota in small.ask("GET", "")["quotas"]}
        assert quotas["INSTANCES"]["limit"] == 2
    finally:
        for path in made:
            small.end("DELETE", path)
    assert small.ask("GET", f"{ZONE}/instances").get("items") is None


class Gcloud(Session):
    """What gcloud sends for `compute reset-windows-password`, one call after the other."""

    def __init__(self, stack: Stack, name: str):
        super().__init__(stack, "google-cloud-sdk gcloud/512.0.0 command/gcloud.compute.reset-windows-password")
        self.one = f"{ZONE}/instances/{name}"

    def wait(self, operation: dict[str, Any]) -> dict[str, Any]:
        while operation["status"] != "DONE":
            operation = self.ask("POST", f"{ZONE}/operations/{operation['name']}/wait?alt=json")
        assert "error" not in operation, operation
        return operation

    def reset(self, asking: Asking) -> tuple[list[str], str]:
        """(warnings that it shows, what it then reads from the port)."""
        shown = self.ask("GET", f"{self.one}?alt=json")
        items = {item["key"]: item["value"] for item in shown["metadata"].get("items", [])}
        keys = [*items.get("windows-keys", "").splitlines(), asking.line]
        changed = items | {"windows-keys": "\n".join(keys)}
        body = {
            "fingerprint": shown["metadata"]["fingerprint"],
            "items": [{"key": key, "value": value} for key, value in changed.items()],
        }
        operation = self.wait(self.ask("POST", f"{self.one}/setMetadata?alt=json", body))
        self.ask("GET", f"{self.one}?alt=json")
        contents = self.ask("GET", f"{self.one}/serialPort?alt=json&port=4")["contents"]
        return [one["message"] for one in operation.get("warnings", [])], contents


def test_gcloud_resets_the_password_of_a_windows_machine(stack: Stack) -> None:
    gcloud = Gcloud(stack, "win-1")
    body = machine("win-1")
    body["disks"][0]["initializeParams"]["sourceImage"] = "global/images/windows-server-2012"
    gcloud.wait(gcloud.ask("POST", f"{ZONE}/instances", body))
    try:
        first, second, other, third = Asking(), Asking(), Asking("ian"), Asking()
        warnings, contents = gcloud.reset(first)
        assert (warnings, len(password := first.password(contents))) == ([], 10)
        warnings, contents = gcloud.reset(second)
        (answer,) = [second.answer(contents)]
        assert answer is not None and not answer["passwordFound"]
        assert [answer["errorMessage"]] == warnings and "stop the instance" in warnings[0]
        warnings, contents = gcloud.reset(other)
        assert "'Administrator' only" in warnings[0]
        gcloud.wait(gcloud.ask("POST", f"{gcloud.one}/stop?alt=json"))
        warnings, contents = gcloud.reset(third)
        assert warnings == [] and third.password(contents) not in ("", password)
        gcloud.wait(gcloud.ask("POST", f"{gcloud.one}/start?alt=json"))
        assert first.password(gcloud.ask("GET", f"{gcloud.one}/serialPort?alt=json&port=4")["contents"]) == password
        # Nobody else sees the port, and it is gone with the machine.
        small = stack.token("mallory-api-key", "mallory-secret-key")
        url = f"{stack.url}{SMALL}{gcloud.one}/serialPort?port=4"
        assert stack.call("GET", url, token=small).status_code == 404
        assert password not in "".join(path.read_text(errors="replace") for path in stack.folder.glob("*.log"))
    finally:
        gcloud.wait(gcloud.ask("DELETE", f"{gcloud.one}?alt=json"))
    assert gcloud.send("GET", f"{gcloud.one}/serialPort?port=4").status_code == 404


def test_gcloud_follows_a_serial_port(stack: Stack) -> None:
    """`tail-serial-port-output` asks from `next` on and shows what it gets; without anything it sleeps."""
    gcloud = Gcloud(stack, "tail-1")
    gcloud.wait(gcloud.ask("POST", f"{ZONE}/instances", machine("tail-1")))
    try:
        shown, start = [], ""
        for _ in range(3):
            found = gcloud.ask("GET", f"{gcloud.one}/serialPort?alt=json&port=1{start}")
            shown.append(found["contents"])
            start = f"&start={found['next']}"
        assert "createConsoleEndpoint" in shown[0] and shown[1:] == ["", ""]
    finally:
        gcloud.wait(gcloud.ask("DELETE", f"{gcloud.one}?alt=json"))


def test_gcloud_ssh_to_a_machine_that_was_made_before_its_key(stack: Stack) -> None:
    """gcloud puts a new key into the project; the guest finds it in its user data, which it asks for once a minute."""
    gcloud = Gcloud(stack, "ssh-1")
    gcloud.wait(gcloud.ask("POST", f"{ZONE}/instances", machine("ssh-1")))

    def keys() -> str:
        uuid = cloud(stack, "listVirtualMachines", name="ssh-1")["virtualmachine"][0]["id"]
        row = cloud(stack, "getVirtualMachineUserData", virtualmachineid=uuid)["virtualmachineuserdata"]
        return base64.b64decode(row["userdata"]).decode().partition("#:gstack keys\n")[2].partition("#:gstack end")[0]

    def put(items: list[dict[str, str]]) -> None:
        fingerprint = gcloud.ask("GET", "?alt=json")["commonInstanceMetadata"]["fingerprint"]
        body = {"fingerprint": fingerprint, "items": items}
        operation = gcloud.ask("POST", "/setCommonInstanceMetadata?alt=json", body)
        while operation["status"] != "DONE":
            operation = gcloud.ask("POST", f"/global/operations/{operation['name']}/wait?alt=json")
        assert "error" not in operation and "warnings" not in operation

    try:
        assert keys() == ""
        put([{"key": "ssh-keys", "value": "ian:ssh-rsa AAAAB3NzaC1yc2E= ian@laptop"}])
        assert keys() == "ian 0 ssh-rsa AAAAB3NzaC1yc2E= ian@laptop\n"
        put([])
        assert keys() == ""
    finally:
        gcloud.wait(gcloud.ask("DELETE", f"{gcloud.one}?alt=json"))
