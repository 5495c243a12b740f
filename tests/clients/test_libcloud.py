"""Apache libcloud's GCE driver, unchanged: a proxy takes its fixed hosts, a file holds its token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from libcloud.common.google import GoogleBaseError, InvalidRequestError, ResourceExistsError, ResourceNotFoundError
from libcloud.compute.drivers.gce import GCENodeDriver
from libcloud.compute.types import NodeState

from tests.clients.conftest import PROJECT, Stack
from tests.clients.sequences import KINDS_OF_ZONE, until


@pytest.fixture(scope="module")
def driver(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("libcloud") / "token.json"
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    found = connect(stack, file)
    # The driver asks for each operation at once, and then every two seconds.
    found.connection.poll_interval = 0.2
    return found


def connect(stack: Stack, file: Path, project: str = PROJECT) -> Any:
    return GCENodeDriver(
        "any.apps.googleusercontent.com",
        "unused",
        project=project,
        auth_type="IA",
        credential_file=str(file),
        secure=False,
        proxy_url=stack.url,
        datacenter="ch-gv2",
    )


def test_catalog(driver: Any) -> None:
    assert [zone.name for zone in driver.ex_list_zones()] == ["ch-gv2", "ch-zh-1"]
    assert [region.name for region in driver.ex_list_regions()] == ["ch", "ch-zh"]
    assert driver.ex_get_zone("ch-zh-1").status == "UP"
    assert [zone.name for zone in driver.ex_get_region("ch-zh").zones] == ["ch-zh-1"]
    sizes = {size.name: (size.ram, size.extra["guestCpus"]) for size in driver.list_sizes(location="ch-zh-1")}
    assert sizes["large"] == (8182, 4)
    assert len(driver.list_sizes(location="all")) == 14
    assert driver.ex_get_size("small").extra["guestCpus"] == 2
    assert {item.name for item in driver.ex_list_disktypes(zone="ch-gv2")} >= {"pd-standard", "pd-ssd"}
    assert driver.ex_list_disktypes()
    # The project's own, and what each of the public projects resolves to.
    images = driver.list_images()
    assert len({image.id for image in images}) == 13 < len(images)
    assert "linux-debian-12-64-bit" in {image.name for image in driver.list_images(ex_project="debian-cloud")}
    image = driver.ex_get_image("linux-debian-12-64-bit")
    assert image.extra["status"] == "READY"
    assert driver.ex_get_image_from_family("debian-12", ex_project_list=["debian-cloud"]).id == image.id
    assert [network.name for network in driver.ex_list_networks()] == ["default", "net-a"]
    assert driver.ex_get_network("net-a").mode in ("auto", "custom", "legacy")
    assert driver.ex_list_subnetworks(region="ch-zh")
    assert driver.ex_list_subnetworks(region="all")
    assert driver.ex_list_routes()
    assert driver.ex_get_route(driver.ex_list_routes()[0].name).dest_range
    assert driver.ex_list_addresses(region="all") == []
    project = driver.ex_get_project()
    assert project.name == PROJECT
    assert project.quotas


def test_metadata_of_the_project(driver: Any) -> None:
    def current() -> Any:
        return driver.ex_get_project().extra["commonInstanceMetadata"]

    before = current()
    assert driver.ex_set_common_instance_metadata({"items": [{"key": "a", "value": "b"}]})
    assert current()["items"] == [{"key": "a", "value": "b"}]
    assert driver.ex_set_common_instance_metadata({"items": before.get("items", [])})
    assert current()["fingerprint"] == before["fingerprint"]


def test_firewall(driver: Any) -> None:
    rule = [{"IPProtocol": "tcp", "ports": ["80", "8000-8080"]}]
    firewall = driver.ex_create_firewall("lc-web", rule, source_tags=["web"], source_ranges=["192.0.2.0/24"])
    assert (firewall.allowed, firewall.source_tags, firewall.source_ranges) == (rule, ["web"], ["192.0.2.0/24"])
    assert firewall.network.name == "default"
    assert "lc-web" in [found.name for found in driver.ex_list_firewalls()]
    with pytest.raises(ResourceExistsError):
        driver.ex_create_firewall("lc-web", rule, source_tags=["web"])
    assert driver.ex_destroy_firewall(firewall)
    with pytest.raises(ResourceNotFoundError):
        driver.ex_get_firewall("lc-web")


@pytest.mark.parametrize(("zone", "network"), KINDS_OF_ZONE)
def test_life_of_a_node(driver: Any, zone: str, network: str) -> None:
    name = f"lc-{zone}"
    node = driver.create_node(
        name,
        "micro",
        "linux-debian-12-64-bit",
        location=zone,
        ex_network=network,
        ex_tags=["web"],
        ex_labels={"env": "test"},
        ex_metadata={"k": "v"},
    )
    assert (node.state, node.extra["zone"].name, node.size) == (NodeState.RUNNING, zone, "micro")
    # In a shared network the driver shows the one address twice.
    assert node.public_ips
    assert node.private_ips
    assert node.extra["labels"] == {"env": "test"}
    assert name in [found.name for found in driver.list_nodes(ex_zone=zone)]
    assert name in [found.name for found in driver.list_nodes(ex_zone="all")]
    volumes = {volume.name: volume for volume in driver.list_volumes(ex_zone=zone)}
    assert volumes[name].size == "10"
    assert name in [volume.name for volume in driver.list_volumes(ex_zone="all")]
    assert driver.ex_get_volume(name).id == volumes[name].id
    with pytest.raises(ResourceExistsError):
        driver.create_node(name, "micro", "linux-debian-12-64-bit", location=zone, ex_network=network)
    assert driver.reboot_node(node)
    assert driver.ex_stop_node(node)
    assert driver.ex_get_node(name, zone).state in (NodeState.STOPPED, NodeState.TERMINATED)
    assert driver.ex_start_node(node)
    assert driver.ex_set_node_tags(node, ["db", "web"])
    assert driver.ex_set_node_labels(node, {"a": "b"})
    assert driver.ex_set_node_metadata(node, {"items": [{"key": "x", "value": "y"}]})
    assert driver.ex_set_volume_auto_delete(driver.ex_get_volume(name), node)
    changed = driver.ex_get_node(name, zone)
    assert (changed.state, changed.extra["tags"], changed.extra["labels"]) == (
        NodeState.RUNNING,
        ["db", "web"],
        {"a": "b"},
    )
    assert changed.extra["metadata"]["items"] == [{"key": "x", "value": "y"}]
    assert "createConsoleEndpoint" in driver.ex_get_serial_output(node)
    assert driver.destroy_node(changed)
    with pytest.raises(ResourceNotFoundError):
        driver.ex_get_node(name, zone)


def test_several_nodes_at_once(driver: Any) -> None:
    nodes = driver.ex_create_multiple_nodes("lc-many", "micro", "linux-debian-12-64-bit", 3, location="ch-gv2")
    assert sorted(node.name for node in nodes) == ["lc-many-000", "lc-many-001", "lc-many-002"]
    # `destroy_boot_disk` deletes what goes with its machine, which the driver expects to find afterwards.
    assert driver.ex_destroy_multiple_nodes(nodes, destroy_boot_disk=False) == [True] * 3
    until(lambda: not [node for node in driver.list_nodes() if node.name.startswith("lc-many")])


def test_pages_and_filters(driver: Any) -> None:
    """The driver's own pager follows the tokens of its lists."""
    pages = [[network.name for network in page] for page in driver.ex_list(driver.ex_list_networks).page(1)]
    assert pages == [["default"], ["net-a"]]
    filtered = driver.ex_list(driver.ex_list_networks).filter("name eq net-.*")
    assert [[network.name for network in page] for page in filtered] == [["net-a"]]


def test_errors_are_the_drivers_own(stack: Stack, driver: Any, tmp_path: Path) -> None:
    for call in (
        lambda: driver.ex_get_node("nope", "ch-gv2"),
        lambda: driver.ex_get_size("nope", "ch-gv2"),
        lambda: driver.ex_get_network("nope"),
        lambda: driver.ex_get_image("nope", ex_project_list=[PROJECT], ex_standard_projects=False),
        lambda: driver.ex_get_firewall("nope"),
    ):
        with pytest.raises((ResourceNotFoundError, ValueError)):
            call()
    with pytest.raises(InvalidRequestError) as bad:
        driver.create_node("Bad_Name", "micro", "linux-debian-12-64-bit")
    assert "Bad_Name" in str(bad.value)
    with pytest.raises(GoogleBaseError) as missing:
        driver.ex_list_instancegroups("ch-gv2")
    assert "compute.instanceGroups.list" in str(missing.value)
    file = tmp_path / "token.json"
    file.write_text(json.dumps({"access_token": "nonsense", "expire_time": "2099-01-01T00:00:00Z"}))
    with pytest.raises(GoogleBaseError) as unknown:
        connect(stack, file)
    assert unknown.value.http_code == 401  # type: ignore[attr-defined]
    file.write_text(json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"}))
    with pytest.raises(ResourceNotFoundError):
        connect(stack, file, "ian@example.org")
