"""Many instances by one request: their names, what is refused, what becomes of them when some cannot be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import instances_pb2 as pb
from simulator.app import Fault
from tests.conftest import Cloud
from tests.unit.made import ask, machine
from tests.unit.test_instances import (
    IMAGE,
    NET_A,
    Finish,
    done,
    get,
    insert,
    metadata,
    names,
    refused,
    user_data,
    wanted,
)
from translator_service.kept.store import Store
from translator_service.operations.engine import replay
from translator_service.resources.instances import bulk
from translator_service.scope import Scope

ZONE = "ch-zh-1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, quick_jobs: None) -> None:
    monkeypatch.setattr(bulk, "_PAUSE", 0.05)


@pytest.fixture
def begin(request: pytest.FixtureRequest) -> Callable[[], Finish]:
    """Operations wait until this is called."""
    return lambda: request.getfixturevalue("operations")


def properties(**fields: Any) -> pb.InstanceProperties:
    body: dict[str, Any] = {
        "machineType": "micro",
        "disks": wanted().disks,
        "networkInterfaces": [pb.NetworkInterface(network=NET_A)],
    }
    return pb.InstanceProperties(**{**body, **fields})


def bulk_insert(scope: Scope, pattern: str = "", /, *own: str, **fields: Any) -> Any:
    resource = pb.BulkInsertInstanceResource(**{"namePattern": pattern, "instanceProperties": properties(), **fields})
    for name in own:
        resource.perInstanceProperties[name].SetInParent()
    return ask(scope, "Instances.BulkInsert", request(resource))


def request(resource: pb.BulkInsertInstanceResource, **options: Any) -> pb.BulkInsertInstanceRequest:
    return pb.BulkInsertInstanceRequest(project="demo", zone=ZONE, resource=resource, **options)


def group(scope: Scope, operation: Any) -> list[Any]:
    """The operations of one request, as gcloud asks for them."""
    found = common_pb2.ListInZoneRequest(
        project="demo", zone=ZONE, filter=f'operationGroupId="{operation.operationGroupId}"'
    )
    return list(ask(scope, "ZoneOperations.List", found).items)


# Names


def test_by_a_pattern(scope: Scope, operations: Finish) -> None:
    body = properties(labels={"a": "b"}, tags=pb.Tags(items=["web"]), metadata=metadata(motd="x"), description="d")
    operation = bulk_insert(scope, "web-###", count=3, instanceProperties=body)
    assert (operation.operationType, bool(operation.operationGroupId)) == ("bulkInsert", True)
    assert operation.targetLink.endswith(f"/projects/demo/zones/{ZONE}") and operation.zone == operation.targetLink
    done(scope, operations, operation)
    assert names(scope) == ["web-001", "web-002", "web-003"]
    for name in names(scope):
        found = get(scope, name)
        assert (found.status, found.machineType.rpartition("/")[2], found.description) == ("RUNNING", "micro", "d")
        assert (dict(found.labels), list(found.tags.items)) == ({"a": "b"}, ["web"])
        assert found.metadata.items[0].value == "x" and found.disks[0].source.endswith(f"/disks/{name}")
    made = [one for one in group(scope, operation) if one.operationType == "insert"]
    assert sorted(one.targetLink.rpartition("/")[2] for one in made) == names(scope)
    assert all(one.status == "DONE" and not one.HasField("error") and not one.clientOperationId for one in made)
    assert len(group(scope, operation)) == 4


def test_numbers_go_on_from_the_largest_one(scope: Scope, operations: Finish) -> None:
    machine(scope, "web-07")
    insert(scope, wanted("web-08"))
    done(scope, operations, bulk_insert(scope, "web-##", count=2))
    assert names(scope) == ["web-07", "web-08", "web-09", "web-10"]


def test_by_name_and_the_rest_by_pattern(scope: Scope, operations: Finish) -> None:
    done(scope, operations, bulk_insert(scope, "web-#", "one", "two", count=3))
    assert names(scope) == ["one", "two", "web-1"]


def test_by_name_alone(scope: Scope, operations: Finish) -> None:
    done(scope, operations, bulk_insert(scope, "", "one", "two"))
    assert names(scope) == ["one", "two"]


REFUSED: list[tuple[dict[str, Any], tuple[str, ...], int, str]] = [
    ({}, (), 400, "resource.namePattern"),
    ({"namePattern": "web-#"}, (), 400, "resource.count"),
    ({"namePattern": "web-#", "count": 0}, (), 400, "resource.count"),
    ({"namePattern": "web-#", "count": -1}, (), 400, "resource.count"),
    ({"namePattern": "web-####", "count": 1001}, (), 400, "resource.count"),
    ({"namePattern": "web", "count": 1}, (), 400, "resource.namePattern"),
    ({"namePattern": "web-#-#", "count": 1}, (), 400, "resource.namePattern"),
    ({"namePattern": "web-" + "#" * 19, "count": 1}, (), 400, "resource.namePattern"),
    ({"namePattern": "Web-#", "count": 1}, (), 400, "resource.namePattern"),
    ({"namePattern": "#-web", "count": 1}, (), 400, "resource.namePattern"),
    ({"namePattern": "web-#", "count": 10}, (), 400, "resource.namePattern"),
    ({"namePattern": "web-#", "count": 2, "minCount": 3}, (), 400, "resource.minCount"),
    ({"namePattern": "web-#", "count": 2, "minCount": 0}, (), 400, "resource.minCount"),
    ({"count": 1}, ("one", "two"), 400, "resource.perInstanceProperties"),
    ({"count": 3}, ("one", "two"), 400, "resource.namePattern"),
    ({}, ("Not Valid",), 400, "resource.perInstanceProperties.Not Valid"),
    ({}, ("taken",), 409, ""),
    ({"namePattern": "web-#", "count": 1, "instanceProperties": None}, (), 400, "resource.instanceProperties"),
    (
        {"namePattern": "web-#", "count": 1, "instanceProperties": properties(machineType="")},
        (),
        400,
        "resource.instanceProperties.machineType",
    ),
    (
        {
            "namePattern": "web-#",
            "count": 2,
            "instanceProperties": properties(networkInterfaces=[pb.NetworkInterface(networkIP="10.1.1.9")]),
        },
        (),
        400,
        "resource.instanceProperties.networkInterfaces[0].networkIP",
    ),
    (
        {
            "namePattern": "web-#",
            "count": 2,
            "instanceProperties": properties(
                networkInterfaces=[pb.NetworkInterface(accessConfigs=[pb.AccessConfig(natIP="192.0.2.1")])]
            ),
        },
        (),
        400,
        "resource.instanceProperties.networkInterfaces[0].accessConfigs[0].natIP",
    ),
    (
        {
            "namePattern": "web-#",
            "count": 2,
            "instanceProperties": properties(
                disks=[
                    pb.AttachedDisk(
                        initializeParams=pb.AttachedDiskInitializeParams(sourceImage=IMAGE, diskName="the-disk")
                    )
                ]
            ),
        },
        (),
        400,
        "resource.instanceProperties.disks[0].initializeParams.diskName",
    ),
    (
        {
            "namePattern": "web-#",
            "count": 2,
            "instanceProperties": properties(disks=[pb.AttachedDisk(source="zones/ch-gv2/disks/data-1")]),
        },
        (),
        400,
        "resource.instanceProperties.disks[0].source",
    ),
    (
        {"namePattern": "web-#", "count": 1, "instanceProperties": properties(labels={"A B": "c"})},
        (),
        400,
        "resource.instanceProperties.labels",
    ),
]


@pytest.mark.parametrize(("fields", "own", "code", "location"), REFUSED)
def test_what_is_refused(
    scope: Scope, simulated: Cloud, fields: dict[str, Any], own: tuple[str, ...], code: int, location: str
) -> None:
    machine(scope, "taken")
    error = refused(lambda: bulk_insert(scope, "", *own, **fields))
    assert (error.code, error.location.startswith(location)) == (code, True), error
    assert names(scope) == ["taken"] and "createSecurityGroup" not in simulated.calls


def test_a_host_name_of_another_name(scope: Scope) -> None:
    resource = pb.BulkInsertInstanceResource(instanceProperties=properties())
    resource.perInstanceProperties["one"].hostname = "other.example.org"
    error = refused(lambda: ask(scope, "Instances.BulkInsert", request(resource)))
    assert (error.code, error.location) == (400, "resource.instanceProperties.hostname")


def test_more_than_may_be_under_way(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope.environment.settings, "operations_unfinished", 3)
    assert refused(lambda: bulk_insert(scope, "web-#", count=3)).code == 429


# When some cannot be made


def test_enough_of_them(scope: Scope, simulated: Cloud, operations: Finish) -> None:
    """Of three one fails, and two are enough."""
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    row = done(scope, operations, bulk_insert(scope, "web-#", count=3, minCount=2))
    assert len(names(scope)) == 2
    (warning,) = row["warnings"]
    assert warning["code"] == "PARTIAL_SUCCESS" and "could not be created" in warning["message"]


def test_too_few_of_them(scope: Scope, simulated: Cloud, operations: Finish) -> None:
    """Those that came to be go again, with disks that would stay otherwise."""
    disk = wanted().disks[0]
    disk.autoDelete = False
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    operation = bulk_insert(scope, "web-#", count=3, instanceProperties=properties(disks=[disk]))
    row = operations(scope, operation)
    assert (row["error"]["code"], row["warnings"]) == ("ZONE_RESOURCE_POOL_EXHAUSTED", None)
    assert names(scope) == [] and scope.client.read("listVolumes").items == []
    kinds = sorted(one.operationType for one in group(scope, operation))
    assert kinds == ["bulkInsert", "delete", "delete", "insert", "insert", "insert"]


def test_one_that_cannot_be_taken_away_is_told(scope: Scope, simulated: Cloud, operations: Finish) -> None:
    simulated.app.faults.append(Fault("status", "deployVirtualMachine", status=533))
    simulated.app.faults.append(Fault("status", "destroyVirtualMachine", status=531, count=2))
    row = operations(scope, bulk_insert(scope, "web-#", count=2))
    assert row["error"] and row["warnings"][0]["code"] == "CLEANUP_FAILED"
    assert names(scope)[0] in row["warnings"][0]["message"]


def test_a_name_that_is_taken_meanwhile(scope: Scope, begin: Callable[[], Finish]) -> None:
    operation = bulk_insert(scope, "web-#", count=2, minCount=1)
    machine(scope, "web-1")
    row = done(scope, begin(), operation)
    assert "web-1" in row["warnings"][0]["message"] and names(scope) == ["web-1", "web-2"]


# Retries, crashes, turns


def test_the_same_request_again_is_the_same_operation(scope: Scope, operations: Finish) -> None:
    resource = pb.BulkInsertInstanceResource(namePattern="web-#", count=1, instanceProperties=properties())
    sent = request(resource, requestId="6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
    assert replay(scope, sent) is None
    operation = ask(scope, "Instances.BulkInsert", sent)
    done(scope, operations, operation)
    again = replay(scope, sent)
    assert again is not None and again.name == operation.name
    assert names(scope) == ["web-1"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_begun_again_nothing_is_made_twice(
    scope: Scope, monkeypatch: pytest.MonkeyPatch, operations: Finish, after: int
) -> None:
    """The translator dies after some of the inserts were submitted: the step is not recorded, and is repeated."""
    begun = bulk._begin
    count = 0

    def dies(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == after + 1:
            raise bulk.Parked("the translator died", 0.05)
        return begun(*arguments)

    monkeypatch.setattr(bulk, "_begin", dies)
    operation = bulk_insert(scope, "web-#", count=3)
    done(scope, operations, operation)
    assert names(scope) == ["web-1", "web-2", "web-3"]
    assert len(group(scope, operation)) == 4


def test_a_request_that_waits_for_its_own_holds_no_turn(scope: Scope) -> None:
    """Where an owner has one operation at work, those of a bulk insert are still carried out."""
    store: Store = scope.store
    bulk_insert(scope, "web-#", count=1)
    insert(scope, wanted("other"))
    (first,) = store.claim("a", 8, 1)
    (second,) = store.claim("a", 8, 1)
    types = [store.operation_by_name(name)["type"] for name in (first, second)]  # type: ignore[index]
    assert types == ["bulkInsert", "insert"]
    assert store.claim("a", 8, 1) == []


def test_two_requests_take_no_turns(scope: Scope) -> None:
    for pattern in ("web-#", "db-#"):
        bulk_insert(scope, pattern, count=1)
    assert len(scope.store.claim("a", 8, 4)) == 2


def test_large_metadata_and_user_data(scope: Scope, operations: Finish) -> None:
    body = properties(metadata=metadata(**{"startup-script": "#!/bin/sh\necho hello", "big": "x" * 20_000}))
    done(scope, operations, bulk_insert(scope, "web-#", count=2, instanceProperties=body))
    for name in ("web-1", "web-2"):
        assert get(scope, name).metadata.items[0].value and "echo hello" in user_data(scope, name)
