"""examples/terraform/machine/main.tf itself: sent as the provider sends it, read back, changed and taken away.

Only so much of HCL is read as the file has. An argument of which it is not known here how the provider sends it is an
error, so that the example has nothing in it that was not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.test_terraform_sequences import Terraform, disk_body, disk_plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "terraform" / "machine" / "main.tf"
_TOKEN = re.compile(r'#[^\n]*|"((?:[^"\\]|\\.)*)"|([A-Za-z_][\w.-]*|\d+)|([={}\[\],])|\s+')
_NETWORK = "projects/demo/global/networks/default"
# Of Terraform: they say nothing of the resource, so nothing of them is sent.
_OWN = {"depends_on", "lifecycle", "allow_stopping_for_update"}

Tokens = Iterator[tuple[str, str]]
_END = ("", "")


class Reference(str):
    """`var.zone`, or an attribute of another resource."""


def tokens(text: str) -> Tokens:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match, text[position : position + 40]
        position = match.end()
        if match.lastindex:
            yield ("string", "word", "mark")[match.lastindex - 1], match[match.lastindex]


def parse(source: Tokens) -> dict[str, Any]:
    """A body: values by argument, bodies by block, with its labels: `resource.a.b` of `resource "a" "b"`."""
    found: dict[str, Any] = {}
    while (word := next(source, _END)) not in (_END, ("mark", "}")):
        labels, following = [word[1]], next(source)
        while following[0] == "string":
            labels.append(following[1])
            following = next(source)
        value = parse(source) if following[1] == "{" else _value(source, *next(source))
        assert ".".join(labels) not in found, labels
        found[".".join(labels)] = value
    return found


def _value(source: Tokens, kind: str, text: str) -> Any:
    if kind == "string":
        assert "${" not in text and "\\" not in text, text
        return text
    if text == "{":
        return parse(source)
    if text == "[":
        return [_value(source, *token) for token in iter(lambda: next(source), ("mark", "]")) if token[1] != ","]
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else Reference(text)


class Example:
    """The configuration with its variables filled in."""

    def __init__(self, **variables: Any) -> None:
        blocks = parse(tokens(EXAMPLE.read_text()))
        self.variables = {name.removeprefix("variable."): body["default"] for name, body in blocks.items()
                          if name.startswith("variable.")} | variables  # fmt: skip
        self.blocks = {name.removeprefix("resource."): body for name, body in blocks.items()
                       if name.startswith("resource.")}  # fmt: skip
        assert len(blocks) == len(self.blocks) + len([name for name in blocks if name.startswith("variable.")])

    def order(self) -> list[str]:
        """What is referred to goes first."""
        found: list[str] = []

        def visit(name: str) -> None:
            for text in _references(self.blocks[name]):
                if (other := ".".join(text.split(".")[:2])) in self.blocks:
                    visit(other)
            if name not in found:
                found.append(name)

        for name in self.blocks:
            visit(name)
        return found

    def resource(self, name: str) -> dict[str, Any]:
        body = {key: value for key, value in self.blocks[name].items() if key not in _OWN}
        return {key: self._filled(value) for key, value in body.items()}

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(one) for key, one in value.items()}
        if not isinstance(value, Reference):
            return value
        kind, *path = value.split(".")
        if kind == "var":
            return self.variables[path[0]]
        body = self.blocks[f"{kind}.{path[0]}"]
        assert path[1] in ("id", "self_link", "name"), value
        return body["name"] if path[1] == "name" else self.path(f"{kind}.{path[0]}")

    def path(self, name: str) -> str:
        body = self.blocks[name]
        collection = {"disk": "disks", "instance": "instances", "snapshot": "snapshots", "image": "images"}[
            name.partition(".")[0].removeprefix("google_compute_")
        ]
        scope = "global" if collection in ("snapshots", "images") else f"zones/{self._filled(body['zone'])}"
        return f"projects/demo/{scope}/{collection}/{body['name']}"


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Reference):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(one)


def only(body: dict[str, Any], *known: str) -> dict[str, Any]:
    assert body.keys() <= set(known), f"not known how the provider sends {sorted(body.keys() - set(known))}"
    return body


class Provider(Terraform):
    """google_compute_* as the provider makes, reads and deletes them. Plans are lists of what differs."""

    def do(self, method: str, path: str, body: Any = None) -> None:
        path = path.removeprefix("projects/demo")
        operation = self.ask(method, f"{path}{'&' if '?' in path else '?'}alt=json", body)
        scope = re.match(r"/(zones/[^/]+|global)", path)
        assert scope
        while operation["status"] != "DONE":
            operation = self.ask("GET", f"/{scope[1]}/operations/{operation['name']}?alt=json")
        assert "error" not in operation, operation

    def read(self, path: str) -> Any:
        return self.ask("GET", f"{path.removeprefix('projects/demo')}?alt=json")

    # google_compute_disk

    def create_disk(self, config: dict[str, Any]) -> None:
        only(config, "name", "zone", "type", "size", "labels", "image", "snapshot")
        body = disk_body(self, _disk(config)) | {"zone": f"projects/demo/global/zones/{config['zone']}"}
        self.do("POST", f"/zones/{config['zone']}/disks", body)

    def plan_disk(self, config: dict[str, Any]) -> list[str]:
        return disk_plan(self, _disk(config))

    # google_compute_snapshot

    def create_snapshot(self, config: dict[str, Any]) -> None:
        only(config, "name", "zone", "source_disk", "labels")
        disk = f"projects/demo/zones/{config['zone']}/disks/{config['source_disk']}"
        body = {"labels": config["labels"], "name": config["name"], "sourceDisk": disk}
        self.do("POST", f"{disk}/createSnapshot", body | {"zone": f"projects/demo/global/zones/{config['zone']}"})

    def plan_snapshot(self, config: dict[str, Any]) -> list[str]:
        there = self.read(f"/global/snapshots/{config['name']}")
        assert there["diskSizeGb"] and there["status"] == "READY"
        same = there["labels"] == config["labels"] and there["sourceDisk"].endswith(f"/disks/{config['source_disk']}")
        return [] if same and "snapshotType" not in there else [str(there)]

    # google_compute_image

    def create_image(self, config: dict[str, Any]) -> None:
        only(config, "name", "family", "source_snapshot")
        body = {"family": config["family"], "name": config["name"], "sourceSnapshot": config["source_snapshot"]}
        self.do("POST", "/global/images", body)

    def plan_image(self, config: dict[str, Any]) -> list[str]:
        there = self.read(f"/global/images/{config['name']}")
        same = there["family"] == config["family"] and there["sourceSnapshot"].endswith(config["source_snapshot"])
        unasked = there.keys() & {"description", "labels", "sourceDisk", "sourceImage"}
        return [] if same and not unasked else [str(there)]

    # google_compute_instance

    def create_instance(self, config: dict[str, Any]) -> None:
        only(config, "name", "zone", "machine_type", "boot_disk", "attached_disk", "network_interface")
        zone, nic = config["zone"], only(config["network_interface"], "network", "access_config")
        boot: dict[str, Any] = {"autoDelete": True, "boot": True, "mode": "READ_WRITE"}
        if "source" in only(config["boot_disk"], "source", "initialize_params"):
            boot["source"] = config["boot_disk"]["source"]
        else:
            initial = only(config["boot_disk"]["initialize_params"], "image", "size", "labels")
            image = self.resolve_image(initial["image"])
            boot["initializeParams"] = {
                "diskSizeGb": str(initial["size"]), "labels": initial["labels"], "sourceImage": image,
            }  # fmt: skip
        further = [
            {
                "deviceName": one["device_name"],
                "mode": "READ_WRITE",
                "source": only(one, "source", "device_name")["source"],
            }
            for one in [config.get("attached_disk")]
            if one
        ]
        assert nic["network"] == "default" and not nic.get("access_config")
        access = [{"type": "ONE_TO_ONE_NAT"}] if "access_config" in nic else []
        body = {
            "canIpForward": False, "deletionProtection": False, "disks": [boot, *further], "labels": {},
            "machineType": f"projects/demo/zones/{zone}/machineTypes/{config['machine_type']}", "metadata": {},
            "name": config["name"], "networkInterfaces": [{"network": _NETWORK, "accessConfigs": access}], "params": {},
            "scheduling": {"automaticRestart": True}, "tags": {},
        }  # fmt: skip
        self.do("POST", f"/zones/{zone}/instances", body)

    def plan_instance(self, config: dict[str, Any]) -> list[str]:
        there = self.read(f"/zones/{config['zone']}/instances/{config['name']}")
        boot, *further = there["disks"]
        disk = self.read(f"/zones/{config['zone']}/disks/{boot['source'].rpartition('/')[2]}")
        assert there["status"] == "RUNNING" and there["metadata"]["fingerprint"] and there["tags"]["fingerprint"]
        found = [] if there["machineType"].endswith(f"/{config['machine_type']}") else [f"machine_type: {there}"]
        found += [f"disks[]: {one}" for one in there["disks"] if one["mode"] != "READ_WRITE"]
        found += [] if boot["boot"] and boot["autoDelete"] else [f"boot_disk: {boot}"]
        if "source" in config["boot_disk"]:
            return found + ([] if boot["source"].endswith(config["boot_disk"]["source"]) else [f"source: {boot}"])
        initial, attached = config["boot_disk"]["initialize_params"], config["attached_disk"]
        if (int(disk["sizeGb"]), disk["labels"]) != (initial["size"], initial["labels"]):
            found.append(f"initialize_params: {disk}")
        shown = [(one["deviceName"], one["source"].partition("/v1/")[2]) for one in further]
        return found + ([] if shown == [(attached["device_name"], attached["source"])] else [f"attached_disk: {shown}"])

    # google_compute_attached_disk

    def create_attached_disk(self, config: dict[str, Any]) -> None:
        only(config, "disk", "instance")
        self.do("POST", f"{config['instance']}/attachDisk", {"mode": "READ_WRITE", "source": config["disk"]})

    def plan_attached_disk(self, config: dict[str, Any]) -> list[str]:
        return [] if self._device(config) else [f"{config['disk']} is not attached"]

    def delete_attached_disk(self, config: dict[str, Any]) -> None:
        self.do("POST", f"{config['instance']}/detachDisk?deviceName={self._device(config)}")

    def _device(self, config: dict[str, Any]) -> str | None:
        """Found by the last segment of the source."""
        disks = self.read(config["instance"])["disks"]
        name = config["disk"].rpartition("/")[2]
        return next((one["deviceName"] for one in disks if one["source"].rpartition("/")[2] == name), None)


def _disk(config: dict[str, Any]) -> dict[str, Any]:
    """With the name of a snapshot, as the other tests have it."""
    return config | ({"snapshot": config["snapshot"].rpartition("/")[2]} if "snapshot" in config else {})


@pytest.fixture
def provider(stack: Stack) -> Provider:
    return Provider(stack)


def test_what_the_reader_makes_of_the_file() -> None:
    example = Example(zone="z")
    assert example.variables["zone"] == "z" and example.variables["data_gb"] == 20
    web = example.resource("google_compute_instance.web")
    assert web["attached_disk"] == {"source": "projects/demo/zones/z/disks/data", "device_name": "data"}
    assert web["network_interface"] == {"network": "default", "access_config": {}}
    assert len(example.order()) == len(example.blocks) == EXAMPLE.read_text().count("\nresource ")


def test_the_example(provider: Provider) -> None:
    """Applied, planned, changed, planned and destroyed: no plan has a change."""

    def call(verb: str, example: Example, name: str) -> Any:
        kind = name.partition(".")[0].removeprefix("google_compute_")
        if verb == "delete" and not hasattr(provider, f"delete_{kind}"):
            return provider.do("DELETE", example.path(name))
        return getattr(provider, f"{verb}_{kind}")(example.resource(name))

    first = Example()
    for name in first.order():
        call("create", first, name)
    assert [change for name in first.order() for change in call("plan", first, name)] == []

    second = Example(data_gb=30, label="api", machine_type="e2-medium")
    data, web = (second.path(f"google_compute_{name}") for name in ("disk.data", "instance.web"))
    assert [name for name in second.order() if call("plan", second, name)] == [
        "google_compute_disk.data",
        "google_compute_instance.web",
    ]
    fingerprint = provider.read(data)["labelFingerprint"]
    provider.do("POST", f"{data}/setLabels", {"labelFingerprint": fingerprint, "labels": {"of": "api"}})
    provider.do("POST", f"{data}/resize", {"sizeGb": 30})
    provider.do("POST", f"{web}/stop")
    provider.do("POST", f"{web}/setMachineType", {"machineType": "projects/demo/zones/ch-gv2/machineTypes/e2-medium"})
    provider.do("POST", f"{web}/start")
    assert [change for name in second.order() for change in call("plan", second, name)] == []

    boot = second.path("google_compute_disk.boot")
    for name in reversed(second.order()):
        # A boot disk that goes with its machine is gone by now, which the provider takes for deleted.
        if name != "google_compute_disk.boot":
            call("delete", second, name)
    assert provider.send("GET", f"{boot.removeprefix('projects/demo')}?alt=json").status_code == 404
