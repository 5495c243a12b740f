"""google-cloud-compute, unchanged: typed messages, its pagers, its exceptions, and its two ways to wait."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import compute_v1
from google.oauth2.credentials import Credentials

from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack
from tests.clients.sequences import DEBIAN, KINDS_OF_ZONE

Operation = compute_v1.Operation


class Clients:
    """`clients.instances` is an InstancesClient for the stack: each class wants its endpoint."""

    def __init__(self, stack: Stack):
        self.options = {"api_endpoint": stack.url}
        self.credentials = Credentials(  # type: ignore[no-untyped-call]
            None, refresh_token="x", token_uri=f"{stack.url}/oauth2/token", client_id=API_KEY, client_secret=SECRET_KEY
        )

    def __getattr__(self, collection: str) -> Any:
        name = "".join(word.capitalize() for word in collection.split("_"))
        found = getattr(compute_v1, f"{name}Client")(credentials=self.credentials, client_options=self.options)
        setattr(self, collection, found)
        return found

    def done(self, operation: Any) -> Any:
        end = time.monotonic() + 60
        while operation.status != Operation.Status.DONE:
            assert time.monotonic() < end, operation
            if operation.zone:
                where = {"zone": operation.zone.rpartition("/")[2]}
                operation = self.zone_operations.wait(project=PROJECT, operation=operation.name, **where)
            else:
                operation = self.global_operations.wait(project=PROJECT, operation=operation.name)
        assert not operation.error.errors, operation
        return operation


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Clients:
    return Clients(stack)


def wanted(name: str, zone: str, network: str) -> Any:
    return compute_v1.Instance(
        name=name,
        machine_type=f"zones/{zone}/machineTypes/custom-2-4096",
        disks=[
            compute_v1.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=compute_v1.AttachedDiskInitializeParams(
                    source_image=DEBIAN, disk_size_gb=20, disk_type=f"zones/{zone}/diskTypes/pd-ssd"
                ),
            )
        ],
        network_interfaces=[
            compute_v1.NetworkInterface(
                network=f"global/networks/{network}",
                access_configs=[compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")],
            )
        ],
        tags=compute_v1.Tags(items=["web"]),
        labels={"env": "test"},
        metadata=compute_v1.Metadata(items=[compute_v1.Items(key="k", value="ü\n")]),
    )


def test_catalog(clients: Clients) -> None:
    for collection, where, key in (
        ("zones", {}, "zone"), ("regions", {}, "region"), ("images", {}, "image"), ("networks", {}, "network"),
        ("routes", {}, "route"), ("machine_types", {"zone": "ch-gv2"}, "machine_type"),
        ("disk_types", {"zone": "ch-zh-1"}, "disk_type"), ("subnetworks", {"region": "ch-zh"}, "subnetwork"),
    ):  # fmt: skip
        client = getattr(clients, collection)
        items = list(client.list(project=PROJECT, **where))
        assert items, collection
        assert all(item.id and item.name and item.self_link.startswith("https://") for item in items)
        assert client.get(project=PROJECT, **where, **{key: items[-1].name}) == items[-1]
    for collection, where in (
        ("firewalls", {}), ("accelerator_types", {"zone": "ch-gv2"}), ("addresses", {"region": "ch"}),
        ("disks", {"zone": "ch-gv2"}), ("instances", {"zone": "ch-gv2"}), ("region_operations", {"region": "ch"}),
        ("zone_operations", {"zone": "ch-gv2"}), ("global_operations", {}),
    ):  # fmt: skip
        list(getattr(clients, collection).list(project=PROJECT, **where))
    for collection in (
        "machine_types", "disk_types", "accelerator_types", "disks", "instances", "addresses", "subnetworks",
    ):  # fmt: skip
        scopes = dict(getattr(clients, collection).aggregated_list(project=PROJECT))
        kind = "regions/ch" if collection in ("addresses", "subnetworks") else "zones/ch-gv2"
        assert kind in scopes, collection
    types = dict(clients.machine_types.aggregated_list(project=PROJECT))["zones/ch-gv2"].machine_types
    assert {item.name: (item.guest_cpus, item.memory_mb) for item in types}["large"] == (4, 8182)
    assert clients.projects.get(project=PROJECT).name == PROJECT
    assert not clients.licenses.get(project=PROJECT, license_="x").charges_use_fee
    assert clients.images.get_from_family(project="debian-cloud", family="debian-12").name == "linux-debian-12-64-bit"


@pytest.mark.parametrize("size", [1, 3, 13])
def test_pages(clients: Clients, size: int) -> None:
    whole = [image.name for image in clients.images.list(project=PROJECT)]
    pager = clients.images.list(request={"project": PROJECT, "max_results": size})
    pages = [[image.name for image in page.items] for page in pager.pages]
    assert list(itertools.chain.from_iterable(pages)) == whole
    assert all(len(page) <= size for page in pages)
    assert len(whole) == 13
    request = {"project": PROJECT, "max_results": size, "filter": "guestCpus >= 4", "order_by": "name"}
    found = [
        item.name for _, scope in clients.machine_types.aggregated_list(request=request) for item in scope.machine_types
    ]
    assert sorted(found) == sorted(["extra-large", "huge", "large"] * 2)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (exceptions.NotFound, lambda some: some.zones.get(project=PROJECT, zone="nope")),
        (exceptions.NotFound, lambda some: some.zones.get(project="ian@example.org", zone="ch-gv2")),
        (exceptions.NotFound, lambda some: list(some.instances.list(project=PROJECT, zone="nope"))),
        (exceptions.NotFound, lambda some: some.zone_operations.get(project=PROJECT, zone="ch-gv2", operation="x")),
        (exceptions.BadRequest, lambda some: list(some.zones.list(request={"project": PROJECT, "filter": "a eq b"}))),
        (
            exceptions.BadRequest,
            lambda some: some.firewalls.insert_unary(
                project=PROJECT, firewall_resource=compute_v1.Firewall(name="Bad_Name")
            ),
        ),
        (exceptions.BadRequest, lambda some: list(some.health_checks.list(project=PROJECT))),
    ],
)
def test_errors_are_the_librarys_own(clients: Clients, error: type[Exception], call: Callable[[Clients], Any]) -> None:
    with pytest.raises(error) as caught:
        call(clients)
    # The library shows the message of the envelope, or the bare status where it found none.
    assert "http" in str(caught.value)
    assert caught.value.errors[0]["reason"] in ("notFound", "invalid", "notSupported")  # type: ignore[attr-defined]


def test_a_wrong_token_is_unauthenticated(stack: Stack) -> None:
    client = compute_v1.ZonesClient(
        credentials=Credentials("nonsense"),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": stack.url},
    )
    # The library tries to refresh what cannot be refreshed, which is its way to say 401.
    with pytest.raises(Exception, match=r"refresh|401|credential"):
        client.get(project=PROJECT, zone="ch-gv2")


def test_metadata_of_the_project(clients: Clients) -> None:
    before = clients.projects.get(project=PROJECT).common_instance_metadata
    changed = compute_v1.Metadata(items=[compute_v1.Items(key="a", value="b")], fingerprint=before.fingerprint)
    where = {"project": PROJECT}
    clients.done(clients.projects.set_common_instance_metadata_unary(metadata_resource=changed, **where))
    with pytest.raises(exceptions.PreconditionFailed, match="fingerprint"):
        clients.projects.set_common_instance_metadata_unary(metadata_resource=changed, **where)
    after = clients.projects.get(project=PROJECT).common_instance_metadata
    assert [(item.key, item.value) for item in after.items] == [("a", "b")]
    back = compute_v1.Metadata(items=before.items, fingerprint=after.fingerprint)
    clients.done(clients.projects.set_common_instance_metadata_unary(metadata_resource=back, **where))


def test_firewall(clients: Clients) -> None:
    rule = compute_v1.Firewall(
        name="cloud-compute",
        network="global/networks/default",
        allowed=[compute_v1.Allowed(I_p_protocol="udp", ports=["53"])],
        source_tags=["dns"],
    )
    operation = clients.done(clients.firewalls.insert_unary(project=PROJECT, firewall_resource=rule))
    got = clients.firewalls.get(project=PROJECT, firewall="cloud-compute")
    assert (got.allowed[0].I_p_protocol, list(got.allowed[0].ports), list(got.source_tags)) == ("udp", ["53"], ["dns"])
    with pytest.raises(exceptions.Conflict):
        clients.firewalls.insert_unary(project=PROJECT, firewall_resource=rule)
    clients.done(clients.firewalls.delete_unary(project=PROJECT, firewall="cloud-compute"))
    with pytest.raises(exceptions.NotFound):
        clients.firewalls.get(project=PROJECT, firewall="cloud-compute")
    assert clients.global_operations.get(project=PROJECT, operation=operation.name).target_id == operation.target_id
    clients.global_operations.delete(project=PROJECT, operation=operation.name)
    with pytest.raises(exceptions.NotFound):
        clients.global_operations.get(project=PROJECT, operation=operation.name)


@pytest.mark.parametrize(("zone", "network"), KINDS_OF_ZONE)
def test_life_of_an_instance(clients: Clients, zone: str, network: str) -> None:
    name = f"cloud-{zone}"
    where = {"project": PROJECT, "zone": zone}
    one = {**where, "instance": name}
    instances = clients.instances
    request = {
        **where,
        "instance_resource": wanted(name, zone, network),
        "request_id": f"00000000-0000-4000-8000-{len(zone):012}",
    }
    first = instances.insert_unary(request=request)
    assert instances.insert_unary(request=request).name == first.name
    operation = clients.done(first)
    got = instances.get(**one)
    assert (got.status, got.id, got.self_link) == ("RUNNING", operation.target_id, operation.target_link)
    assert got.machine_type.endswith(f"zones/{zone}/machineTypes/custom-2-4096")
    assert (dict(got.labels), list(got.tags.items)) == ({"env": "test"}, ["web"])
    assert [(item.key, item.value) for item in got.metadata.items] == [("k", "ü\n")]
    assert got.disks[0].disk_size_gb == 20
    assert got.network_interfaces[0].access_configs[0].nat_i_p
    assert got in list(instances.list(**where))
    assert name in [item.name for item in dict(instances.aggregated_list(project=PROJECT))[f"zones/{zone}"].instances]
    assert list(clients.disks.get(**where, disk=name).users) == [got.self_link]
    with pytest.raises(exceptions.Conflict, match="already exists"):
        instances.insert_unary(instance_resource=wanted(name, zone, network), **where)

    clients.done(instances.stop_unary(**one))
    assert instances.get(**one).status == "TERMINATED"
    clients.done(instances.start_unary(**one))
    clients.done(instances.reset_unary(**one))
    tags = compute_v1.Tags(items=["db"], fingerprint=got.tags.fingerprint)
    clients.done(instances.set_tags_unary(tags_resource=tags, **one))
    with pytest.raises(exceptions.PreconditionFailed):
        instances.set_tags_unary(tags_resource=tags, **one)
    labels = compute_v1.InstancesSetLabelsRequest(labels={"c": "d"}, label_fingerprint=got.label_fingerprint)
    clients.done(instances.set_labels_unary(instances_set_labels_request_resource=labels, **one))
    metadata = compute_v1.Metadata(fingerprint=got.metadata.fingerprint)
    clients.done(instances.set_metadata_unary(metadata_resource=metadata, **one))
    device = {"auto_delete": True, "device_name": got.disks[0].device_name}
    clients.done(instances.set_disk_auto_delete_unary(**device, **one))
    changed = instances.get(**one)
    assert (list(changed.tags.items), dict(changed.labels), len(changed.metadata.items)) == (["db"], {"c": "d"}, 0)
    assert "createConsoleEndpoint" in instances.get_serial_port_output(**one).contents
    clients.done(instances.delete_unary(**one))
    with pytest.raises(exceptions.NotFound):
        instances.get(**one)

    assert operation.name in [item.name for item in clients.zone_operations.list(**where)]
    assert clients.zone_operations.get(operation=operation.name, **where) == operation
    clients.zone_operations.delete(operation=operation.name, **where)
    with pytest.raises(exceptions.NotFound):
        clients.zone_operations.get(operation=operation.name, **where)


def test_extended_operations(clients: Clients) -> None:
    """The `result()` of Google's samples; the library asks Google's own host unless its second client is set too."""
    instances = compute_v1.InstancesClient(credentials=clients.credentials, client_options=clients.options)
    instances._transport._extended_operations_services["zone_operations"] = clients.zone_operations
    where = {"project": PROJECT, "zone": "ch-gv2"}
    operation = instances.insert(instance_resource=wanted("extended", "ch-gv2", "default"), **where)
    operation.result(timeout=60)
    assert (operation.error_code, operation.error_message) == (0, "")
    assert instances.get(instance="extended", **where).status == "RUNNING"
    instances.delete(instance="extended", **where).result(timeout=60)
    assert "extended" not in [item.name for item in instances.list(**where)]


def test_a_failed_operation_is_raised(stack: Stack, clients: Clients) -> None:
    instances = compute_v1.InstancesClient(credentials=clients.credentials, client_options=clients.options)
    instances._transport._extended_operations_services["zone_operations"] = clients.zone_operations
    stack.simulate("POST", "faults", {"kind": "status", "command": "deployVirtualMachine", "status": 533})
    where = {"project": PROJECT, "zone": "ch-gv2"}
    operation = instances.insert(instance_resource=wanted("failing", "ch-gv2", "default"), **where)
    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        operation.result(timeout=60)
    assert caught.value.code in (429, 503)
    with pytest.raises(exceptions.NotFound):
        instances.get(instance="failing", **where)
