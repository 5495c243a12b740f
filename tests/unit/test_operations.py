"""Operations: how they look, where they are found, how they run, fail and follow one another."""

from __future__ import annotations

import base64
import pickle
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy.exc
from dbos._serialization import deserialize_args, deserialize_exception, deserialize_value

from gstack.compute.v1 import common_pb2, firewalls_pb2, instances_pb2
from gstack.compute.v1 import operations_pb2 as pb
from gstack.kernel.errors import ApiError
from gstack.kernel.waits import Waits
from simulator.app import Fault
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask
from tests.waits import LONG, Clock, until
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.gce.naming import number
from translator_service.kept.store import Store
from translator_service.kept.store import operations as operations_table
from translator_service.operations import engine, render
from translator_service.operations import run as run_module
from translator_service.operations.run import OperationError, Parked, Run, handler
from translator_service.operations.serializer import JsonSerializer, StepFailed
from translator_service.scope import Environment, Scope

ROOT = "https://www.googleapis.com/compute/v1/projects/demo"
ZONE = f"{ROOT}/zones/ch-zh-1"
Finish = Callable[..., Any]


class Stage:
    """What the handler of these tests does, and what it did."""

    def __init__(self) -> None:
        self.work: Callable[[Run], None] = lambda run: None
        self.open = threading.Event()
        self.seen: list[str] = []

    def hold(self, run: Run) -> None:
        self.seen.append(f"{run.payload['n']} begins")
        assert self.open.wait(LONG)
        self.seen.append(f"{run.payload['n']} ends")

    def fail(self, error: Exception) -> None:
        def work(run: Run) -> None:
            raise error

        self.work = work


STAGE = Stage()


@handler("tests.operations")
def _do(run: Run) -> None:
    STAGE.work(run)


@pytest.fixture(autouse=True)
def stage() -> Iterator[Stage]:
    STAGE.__init__()  # type: ignore[misc]
    yield STAGE
    STAGE.open.set()


def submit(scope: Scope, target: str = "zones/ch-zh-1/instances/web-1", **payload: Any) -> pb.Operation:
    return engine.submit(
        scope, type="insert", target=target, target_id=7, handler="tests.operations", payload={"n": 0, **payload}
    )


def get(scope: Scope, name: str, zone: str = "ch-zh-1") -> pb.Operation:
    return ask(scope, "ZoneOperations.Get", pb.GetZoneOperationRequest(project="demo", zone=zone, operation=name))


# How they look


ROW: dict[str, Any] = {
    "name": "operation-1763853867123-00aa11bb22cc3-0123abcd-4567cdef",
    "scope": "zones/ch-zh-1",
    "type": "insert",
    "target": "zones/ch-zh-1/instances/web-1",
    "target_id": "1234567890123456789",
    "status": "DONE",
    "subject": "demo@example.org",
    "progress": 100,
    "inserted": 1763853867.1239,
    "started": 1763853868.0,
    "ended": 1763853869.5,
    "request_id": "0e9f9a3e-1111-4111-8111-111111111111",
    "error": None,
    "warnings": None,
    "group_id": "",
}


def test_a_finished_operation(scope: Scope) -> None:
    assert render.operation(ROW, scope.links) == pb.Operation(
        kind="compute#operation",
        id=number(ROW["name"]),
        name=ROW["name"],
        operationType="insert",
        targetLink=f"{ZONE}/instances/web-1",
        targetId=1234567890123456789,
        status="DONE",
        user="demo@example.org",
        progress=100,
        insertTime="2025-11-22T15:24:27.123-08:00",
        creationTimestamp="2025-11-22T15:24:27.123-08:00",
        startTime="2025-11-22T15:24:28.000-08:00",
        endTime="2025-11-22T15:24:29.500-08:00",
        selfLink=f"{ZONE}/operations/{ROW['name']}",
        zone=ZONE,
        clientOperationId="0e9f9a3e-1111-4111-8111-111111111111",
    )


def test_what_is_not_known_yet_is_left_out(scope: Scope) -> None:
    row = {**ROW, "target_id": "", "request_id": None, "started": None, "ended": None, "status": "PENDING"}
    shown = render.operation({**row, "progress": 0}, scope.links)
    assert not shown.HasField("targetId")
    assert shown.HasField("progress")
    assert (shown.startTime, shown.endTime, shown.clientOperationId) == ("", "", "")
    assert not shown.HasField("error")
    assert not shown.HasField("httpErrorStatusCode")


@pytest.mark.parametrize(
    ("scope_path", "zone", "region"),
    [("zones/z-1", f"{ROOT}/zones/z-1", ""), ("regions/r", "", f"{ROOT}/regions/r"), ("global", "", "")],
)
def test_the_scope_tells_which_collection_to_poll(scope: Scope, scope_path: str, zone: str, region: str) -> None:
    shown = render.operation({**ROW, "scope": scope_path}, scope.links)
    assert (shown.zone, shown.region) == (zone, region)
    assert shown.selfLink == f"{ROOT}/{scope_path}/operations/{ROW['name']}"


def test_an_operation_on_the_project_itself(scope: Scope) -> None:
    assert render.operation({**ROW, "target": ""}, scope.links).targetLink == ROOT


def test_errors_are_told_in_both_ways_and_warnings_too(scope: Scope) -> None:
    error = {"code": "QUOTA_EXCEEDED", "message": "Too many.", "status": 403, "http_message": "FORBIDDEN"}
    row = {**ROW, "error": error, "warnings": [{"code": "CLEANUP_FAILED", "message": "Left."}]}
    shown = render.operation(row, scope.links)
    assert [(one.code, one.message) for one in shown.error.errors] == [("QUOTA_EXCEEDED", "Too many.")]
    assert (shown.httpErrorStatusCode, shown.httpErrorMessage) == (403, "FORBIDDEN")
    assert [(one.code, one.message) for one in shown.warnings] == [("CLEANUP_FAILED", "Left.")]


# How they run


def test_from_submit_to_done(scope: Scope, operations: Finish, stage: Stage) -> None:
    def work(run: Run) -> None:
        run.progress(40)
        run.set_target_id(12)
        assert stage.open.wait(LONG)

    stage.work = work
    sent = submit(scope)
    assert sent.name.startswith("operation-")
    assert sent.status in ("PENDING", "RUNNING")
    assert (sent.targetId, sent.progress, sent.endTime) == (7, 0, "")
    until(lambda: get(scope, sent.name).targetId == 12)
    running = get(scope, sent.name)
    assert (running.status, running.progress) == ("RUNNING", 40)
    assert running.startTime >= running.insertTime
    stage.open.set()
    operations(scope, sent)
    done = get(scope, sent.name)
    assert (done.status, done.progress, done.id) == ("DONE", 100, sent.id)
    assert done.endTime >= done.startTime
    assert not done.HasField("error")


def test_a_finished_one_is_done_at_once_and_readable(scope: Scope) -> None:
    sent = engine.finished(scope, type="setMetadata", target="", target_id=5)
    assert (sent.status, sent.progress, sent.targetLink) == ("DONE", 100, ROOT)
    assert sent.insertTime == sent.startTime == sent.endTime
    request = pb.GetGlobalOperationRequest(project="demo", operation=sent.name)
    assert ask(scope, "GlobalOperations.Get", request) == sent


@pytest.mark.parametrize(
    ("error", "code", "status", "message"),
    [
        (OperationError("RESOURCE_IN_USE", "Used.", 400), "RESOURCE_IN_USE", 400, "Used."),
        (CloudStackError(531, "Acct[5] may not"), "PERMISSION_DENIED", 403, "Permission to the resource is denied."),
        (CloudStackError(535, "x"), "QUOTA_EXCEEDED", 403, "A quota of the project is exceeded."),
        (CloudStackError(431, "CIDR is not valid"), "INVALID_USAGE", 400, "CIDR is not valid"),
        (CloudStackError(431, "no account [3]"), "INVALID_USAGE", 400, "The request has an invalid value."),
        (CloudStackError(999, "x"), "INTERNAL_ERROR", 500, "Internal error."),
        (ApiError(404, "gone"), "RESOURCE_NOT_FOUND", 404, "gone"),
        (ApiError(418, "tea"), "INTERNAL_ERROR", 418, "tea"),
        (ZeroDivisionError("x"), "INTERNAL_ERROR", 500, "Internal error."),
    ],
)
def test_what_goes_wrong_ends_the_operation(
    scope: Scope, operations: Finish, stage: Stage, error: Exception, code: str, status: int, message: str
) -> None:
    stage.fail(error)
    sent = submit(scope)
    operations(scope, sent)
    shown = get(scope, sent.name)
    assert (shown.status, shown.progress) == ("DONE", 100)
    assert [(one.code, one.message) for one in shown.error.errors] == [(code, message)]
    assert shown.httpErrorStatusCode == status
    assert shown.httpErrorMessage


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("x"),
        CloudStackError(429, "x"),
        CloudStackError(503, "x"),
        sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("no such host")),
    ],
    ids=["unreachable", "limited", "maintenance", "database"],
)
def test_what_cannot_be_known_now_is_found_out_later(
    scope: Scope, operations: Finish, stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What a step has found out is not asked again, and nothing that was done is undone."""
    monkeypatch.setattr(run_module, "_LATER", 0.1)
    monkeypatch.setattr(run_module, "_PATIENCE", 0.0)

    def once(place: str) -> str:
        stage.seen.append(place)
        if stage.seen.count(place) == 1:
            raise error
        return place

    def work(run: Run) -> None:
        try:
            assert run.step("first", lambda: stage.seen.append("first")) is None
            assert run.step("one", lambda: once("step")) == "step"
            assert run.look("two", lambda scope: once("look")) == "look"
        except Exception:
            stage.seen.append("undone")
            raise

    stage.work = work
    assert operations(scope, submit(scope))["error"] is None
    assert stage.seen == ["first", "step", "step", "look", "look"]


def test_credentials_do_not_outlive_the_operation(scope: Scope, operations: Finish, stage: Stage) -> None:
    stage.work = stage.hold
    sent = submit(scope, secret="swordfish")
    row = scope.store.operation_by_name(sent.name)
    assert row and row["payload"]
    assert b"swordfish" not in row["payload"] and b"demo-secret-key" not in row["payload"]
    stage.open.set()
    assert operations(scope, sent)["payload"] == b""


def test_operations_on_one_target_run_one_after_another(scope: Scope, operations: Finish, stage: Stage) -> None:
    stage.work = stage.hold
    first, second = submit(scope, n=1), submit(scope, n=2)
    other = submit(scope, "zones/ch-zh-1/instances/web-2", n=3)
    until(lambda: {"1 begins", "3 begins"} <= set(stage.seen))
    # Turns have been given twice, and the second one had its chance.
    last = submit(scope, "zones/ch-zh-1/instances/web-3", n=4)
    until(lambda: "4 begins" in stage.seen)
    assert "2 begins" not in stage.seen
    stage.open.set()
    for sent in (first, second, other, last):
        operations(scope, sent)
    assert stage.seen.index("1 ends") < stage.seen.index("2 begins")


def test_a_failed_one_does_not_hold_up_the_next(scope: Scope, operations: Finish, stage: Stage) -> None:
    stage.fail(OperationError("X", "x"))
    first, second = submit(scope, n=1), submit(scope, n=2)
    assert operations(scope, first)["error"] and operations(scope, second)["error"]


def test_a_job_whose_answer_was_lost_is_not_done_twice(
    scope: Scope, operations: Finish, stage: Stage, simulated: Cloud
) -> None:
    def work(run: Run) -> None:
        network = run.read("networks", "listNetworks", keyword="net-a")[0]["id"]
        run.job("address", "associateIpAddress", networkid=network)

    stage.work = work
    simulated.app.faults.append(Fault("drop", "associateIpAddress"))
    assert not operations(scope, submit(scope))["error"]
    assert simulated.calls["associateIpAddress"] == 1
    assert len(scope.client.read("listPublicIpAddresses").items) == 1


def test_the_same_step_has_the_same_job_id(scope: Scope) -> None:
    run = Run("operation-1", scope, {}, True)
    assert run.job_id("a") == Run("operation-1", scope, {}, False).job_id("a")
    assert len({run.job_id("a"), run.job_id("b"), Run("operation-2", scope, {}, True).job_id("a")}) == 3


def test_steps_keep_no_passwords() -> None:
    assert run_module._without_secrets({"virtualmachine": {"id": "1", "password": "x"}, "privatekey": "y"}) == {
        "virtualmachine": {"id": "1"}
    }


def test_warnings_add_up(scope: Scope, operations: Finish, stage: Stage) -> None:
    def work(run: Run) -> None:
        run.warn("A", "a")
        run.warn("B", "b")

    stage.work = work
    sent = submit(scope)
    operations(scope, sent)
    assert [(one.code, one.message) for one in get(scope, sent.name).warnings] == [("A", "a"), ("B", "b")]


def test_one_that_was_claimed_and_never_began_is_begun_later(
    scope: Scope, operations: Finish, environment: Environment
) -> None:
    """The translator died between its claim and the workflow."""
    name = engine._insert(scope, "insert", "zones/ch-zh-1/instances/web-1", 7, "tests.operations", {"n": 0})
    environment.store.update_operation(name, status="RUNNING", executor="dead")
    assert environment.store.park_of_dead(time.time() - 10) in ([name], [])
    assert operations(scope, get(scope, name))["error"] is None


# requestId


REQUEST_ID = "0e9f9a3e-2222-4222-8222-222222222222"


def again(scope: Scope, **changes: Any) -> pb.Operation | None:
    """What a request with this requestId gets before its method is asked."""
    resource = firewalls_pb2.Firewall(name=changes.get("name", "web"))
    request = firewalls_pb2.InsertFirewallRequest(project="demo", resource=resource, requestId=REQUEST_ID)
    return engine.replay(scope, request)


def test_the_same_request_again_is_the_same_operation(scope_for: OpenScope, operations: Finish) -> None:
    scope = scope_for()
    assert again(scope) is None
    sent = submit(scope)
    assert sent.clientOperationId == REQUEST_ID
    operations(scope, sent)
    replayed = again(scope_for())
    assert replayed and (replayed.name, replayed.status) == (sent.name, "DONE")


def test_the_id_stands_for_the_request_whatever_its_body(scope_for: OpenScope, operations: Finish) -> None:
    scope = scope_for()
    again(scope)
    sent = submit(scope)
    operations(scope, sent)
    replayed = again(scope_for(), name="other")
    assert replayed and replayed.name == sent.name


def test_the_same_id_for_something_else_is_refused(scope_for: OpenScope, operations: Finish) -> None:
    scope = scope_for()
    again(scope)
    operations(scope, submit(scope))
    with pytest.raises(ApiError) as error:
        engine.replay(scope_for(), instances_pb2.StopInstanceRequest(project="demo", requestId=REQUEST_ID))
    assert (error.value.code, error.value.location) == (400, "requestId")


def test_the_same_request_at_the_same_time(scope_for: OpenScope, operations: Finish, stage: Stage) -> None:
    """Both look before either has written."""
    stage.work = lambda run: stage.seen.append("done")
    one, other = scope_for(), scope_for()
    assert again(one) is None and again(other) is None
    first, second = submit(one), submit(other)
    assert first.name == second.name
    operations(one, first)
    assert stage.seen == ["done"]


def test_another_project_may_use_the_same_id(scope_for: OpenScope, operations: Finish) -> None:
    one = scope_for()
    again(one)
    sent = submit(one)
    operations(one, sent)
    assert again(scope_for("ian@example.org", account="ian@example.org")) is None


def test_a_bad_request_id(scope: Scope) -> None:
    request = instances_pb2.StopInstanceRequest(project="demo", requestId="one")
    with pytest.raises(ApiError) as error:
        engine.replay(scope, request)
    assert (error.value.code, error.value.location) == (400, "requestId")


def test_reads_have_no_request_id(scope: Scope) -> None:
    assert engine.replay(scope, instances_pb2.GetInstanceRequest(project="demo")) is None


# Methods


def test_found_under_any_scope(scope: Scope) -> None:
    sent = engine.finished(scope, type="setTags", target="zones/ch-zh-1/instances/web-1")
    common = {"project": "demo", "operation": sent.name}
    assert get(scope, sent.name, "ch-gv2") == sent
    assert ask(scope, "RegionOperations.Get", pb.GetRegionOperationRequest(region="ch-zh", **common)) == sent
    assert ask(scope, "GlobalOperations.Get", pb.GetGlobalOperationRequest(**common)) == sent
    assert ask(scope, "GlobalOperations.Wait", pb.WaitGlobalOperationRequest(**common)) == sent


@pytest.mark.parametrize(
    ("method", "request_type", "where", "path"),
    [
        ("ZoneOperations.Get", pb.GetZoneOperationRequest, {"zone": "z-1"}, "zones/z-1"),
        ("ZoneOperations.Wait", pb.WaitZoneOperationRequest, {"zone": "z-1"}, "zones/z-1"),
        ("ZoneOperations.Delete", pb.DeleteZoneOperationRequest, {"zone": "z-1"}, "zones/z-1"),
        ("RegionOperations.Get", pb.GetRegionOperationRequest, {"region": "r"}, "regions/r"),
        ("GlobalOperations.Delete", pb.DeleteGlobalOperationRequest, {}, "global"),
    ],
)
def test_unknown(scope: Scope, method: str, request_type: Any, where: dict[str, str], path: str) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, method, request_type(project="demo", operation="operation-1", **where))
    assert error.value.code == 404
    assert error.value.message == f"The resource 'projects/demo/{path}/operations/operation-1' was not found"


def test_other_accounts_find_none(scope: Scope, scope_for: OpenScope) -> None:
    sent = engine.finished(scope, type="setTags", target="global/firewalls/web")
    other = scope_for("ian@example.org", account="ian@example.org")
    with pytest.raises(ApiError) as error:
        get(other, sent.name)
    assert error.value.code == 404
    assert not ask(other, "GlobalOperations.List", common_pb2.ListRequest(project="ian@example.org")).items


def test_lists_show_their_own_scope(scope: Scope) -> None:
    here = engine.finished(scope, type="setTags", target="zones/ch-zh-1/instances/a")
    there = engine.finished(scope, type="setTags", target="zones/ch-gv2/instances/b")
    region = engine.finished(scope, type="insert", target="regions/ch-zh/addresses/c")
    everywhere = engine.finished(scope, type="insert", target="global/firewalls/d")

    def names(method: str, request: Any) -> list[str]:
        return [item.name for item in ask(scope, method, request).items]

    zone = common_pb2.ListInZoneRequest(project="demo", zone="CH-ZH-1")
    found = ask(scope, "ZoneOperations.List", zone)
    assert [item.name for item in found.items] == [here.name]
    assert (found.kind, found.selfLink) == ("compute#operationList", f"{ZONE}/operations")
    assert names("RegionOperations.List", common_pb2.ListInRegionRequest(project="demo", region="ch-zh")) == [
        region.name
    ]
    assert names("GlobalOperations.List", common_pb2.ListRequest(project="demo")) == [everywhere.name]
    zone.filter = "operationType=insert"
    assert names("ZoneOperations.List", zone) == []
    every = ask(scope, "GlobalOperations.AggregatedList", common_pb2.AggregatedListRequest(project="demo"))
    assert {key: [one.name for one in value.operations] for key, value in every.items.items() if value.operations} == {
        "zones/ch-zh-1": [here.name],
        "zones/ch-gv2": [there.name],
        "regions/ch-zh": [region.name],
        "global": [everywhere.name],
    }


def test_every_scope_is_named_when_asked_for(scope: Scope) -> None:
    request = common_pb2.AggregatedListRequest(project="demo", includeAllScopes=True)
    found = ask(scope, "GlobalOperations.AggregatedList", request).items
    assert {"global", "regions/ch-zh", "zones/ch-zh-1", "zones/ch-gv2"} <= set(found)
    assert {value.warning.code for value in found.values()} == {"NO_RESULTS_ON_PAGE"}


def test_c1_a_list_holds_a_page_of_however_many_there_are(
    scope: Scope, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.finished(scope, type="setTags", target="global/x")
    template = dict(next(environment.store.list_operations(scope.project.key, None, 0))) | {"payload": b""}
    rows = [{**template, "name": f"operation-{n:04}", "request_id": None, "sequence": n + 100} for n in range(2000)]
    with environment.store.engine.begin() as connection:
        connection.execute(operations_table.insert(), rows)
    built: list[str] = []
    real = render.operation

    def count(row: Any, links: Any) -> pb.Operation:
        built.append(row["name"])
        return real(row, links)

    monkeypatch.setattr(render, "operation", count)
    request = common_pb2.ListRequest(project="demo", maxResults=10)
    ask(scope, "GlobalOperations.List", request)
    tracemalloc.start()
    try:
        built.clear()
        found = ask(scope, "GlobalOperations.List", request)
        everywhere = common_pb2.AggregatedListRequest(project="demo", maxResults=10)
        every = ask(scope, "GlobalOperations.AggregatedList", everywhere)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [item.name for item in found.items] == [f"operation-{n:04}" for n in range(10)]
    assert len(every.items["global"].operations) == 10
    assert len(built) == 20
    # All of them would be several times as much.
    assert most < 1_500_000
    request.filter = "name=operation-1999"
    assert [item.name for item in ask(scope, "GlobalOperations.List", request).items] == ["operation-1999"]


def test_lists_of_unknown_places(scope: Scope) -> None:
    with pytest.raises(ApiError) as error:
        ask(scope, "ZoneOperations.List", common_pb2.ListInZoneRequest(project="demo", zone="nope"))
    assert error.value.code == 404
    with pytest.raises(ApiError) as error:
        ask(scope, "RegionOperations.List", common_pb2.ListInRegionRequest(project="demo", region="nope"))
    assert error.value.code == 404


def test_old_ones_are_not_listed_and_purged(scope: Scope, environment: Environment) -> None:
    old = engine.finished(scope, type="setTags", target="global/x")
    new = engine.finished(scope, type="setTags", target="global/x")
    before = time.time() - engine.RETENTION - 1
    environment.store.update_operation(old.name, inserted=before, ended=before)
    found = ask(scope, "GlobalOperations.List", common_pb2.ListRequest(project="demo"))
    assert [item.name for item in found.items] == [new.name]
    assert environment.store.purge_operations(time.time() - engine.RETENTION) == 1


def test_all_workflows_that_are_over_are_purged(
    scope: Scope, environment: Environment, operations: Finish, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind more of those that are not than are looked at at a time."""
    monkeypatch.setattr(engine, "_PURGED", 2)
    running, stage.work = engine._engine, stage.hold
    assert running is not None
    held = [submit(scope, f"zones/ch-zh-1/instances/held-{n}").name for n in range(3)]
    until(lambda: len(stage.seen) == 3)
    stage.work = lambda run: None
    over = [submit(scope, f"zones/ch-zh-1/instances/over-{n}").name for n in range(5)]
    for name in over:
        until(lambda name=name: get(scope, name).status == "DONE")
        environment.store.update_operation(name, ended=time.time() - 120)
    running._purge()
    left = {one.workflow_id for one in engine.DBOS.list_workflows(load_input=False, load_output=False)}
    assert left & {*held, *over} == set(held)


def test_c1_what_is_running_is_bounded_by_rows(
    scope: Scope, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("translator_service.kept.store._RUNNING_ROWS", 10)
    store = Store(environment.store.engine)
    submit(scope)
    template = dict(next(environment.store.list_operations(scope.project.key, None, 0)))
    for owner in range(20):
        for count in range(owner):
            name = f"operation-{owner}-{count}"
            row = {**template, "name": name, "owner": f"owner-{owner}", "sequence": None}
            environment.store.add_operation(**row)
        assert len(store.running(f"owner-{owner}")) == owner
        assert store._running.currsize <= 10


class Passing(Clock):
    """Of the engine: only those who wait for operations make it pass."""

    def __init__(self) -> None:
        self.now = self.began = time.monotonic()

    time = staticmethod(time.time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Passing:
    made = Passing()
    monkeypatch.setattr(engine, "time", made)
    return made


def test_wait_until_it_is_done(scope: Scope, operations: Finish, stage: Stage) -> None:
    stage.work = stage.hold
    sent = submit(scope)

    def wanted() -> bool:
        # It is asked between two looks at the operation.
        stage.open.set()
        return True

    scope.is_wanted = wanted
    request = pb.WaitZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    assert ask(scope, "ZoneOperations.Wait", request).status == "DONE"


def test_wait_answers_before_the_callers_deadline(
    scope: Scope, operations: Finish, stage: Stage, clock: Passing
) -> None:
    stage.work = stage.hold
    sent = submit(scope)
    scope.client.deadline = clock.began + 61
    request = pb.WaitZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    assert ask(scope, "ZoneOperations.Wait", request).status != "DONE"
    assert 60 <= clock.now - clock.began < 61


def test_an_operation_whose_key_is_lost_ends(scope: Scope, operations: Finish, stage: Stage) -> None:
    name = engine._insert(scope, "insert", "zones/ch-zh-1/instances/web-1", 7, "tests.operations", {"n": 0})
    scope.store.update_operation(name, payload=b"sealed with a key that is gone")
    until(lambda: get(scope, name).status == "DONE")
    assert get(scope, name).error.errors[0].code == "INTERNAL_ERROR"


def test_nobody_is_waited_for_who_has_gone(scope: Scope, operations: Finish, stage: Stage, clock: Passing) -> None:
    stage.work = stage.hold
    sent = submit(scope)
    scope.is_wanted = lambda: False
    request = pb.WaitZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    assert ask(scope, "ZoneOperations.Wait", request).status != "DONE"
    assert clock.now == clock.began


def test_wait_does_not_take_all_threads(
    scope: Scope, operations: Finish, stage: Stage, clock: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_waiters", Waits(0, 0))
    stage.work = stage.hold
    sent = submit(scope)
    request = pb.WaitZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    assert ask(scope, "ZoneOperations.Wait", request).status != "DONE"
    assert clock.now == clock.began


def test_delete(scope: Scope, operations: Finish, stage: Stage) -> None:
    stage.work = stage.hold
    sent = submit(scope)
    request = pb.DeleteZoneOperationRequest(project="demo", zone="ch-zh-1", operation=sent.name)
    with pytest.raises(ApiError) as error:
        ask(scope, "ZoneOperations.Delete", request)
    assert (error.value.code, error.value.reason) == (400, "resourceNotReady")
    stage.open.set()
    operations(scope, sent)
    assert ask(scope, "ZoneOperations.Delete", request) == pb.DeleteZoneOperationResponse()
    with pytest.raises(ApiError) as error:
        get(scope, sent.name)
    assert error.value.code == 404


# What is stored of them


def test_steps_are_stored_as_json() -> None:
    """And come back as they were, errors too."""
    made = JsonSerializer()
    for value in (None, "x", 1, {"a": [1, {"b": None}]}, {"args": ["name"], "kwargs": {}}):
        assert made.deserialize(made.serialize(value)) == value
    failed = CloudStackError(535, "Too many", 4370)
    failed.entity = "id-1"
    for error in (failed, OperationError("X", "x", 409), ApiError(412, "m", "conditionNotMet", "f")):
        back = made.deserialize(made.serialize(error))
        assert type(back) is type(error) and back.args == error.args
        assert getattr(back, "entity", None) == getattr(error, "entity", None)
    assert isinstance(made.deserialize(made.serialize(KeyError("secret"))), StepFailed)
    assert "secret" not in made.serialize(KeyError("secret"))


class Program:
    """A pickle is one."""

    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Program, "ran", True))


@pytest.mark.parametrize("read", [deserialize_args, deserialize_value, deserialize_exception])
@pytest.mark.usefixtures("operations")
def test_a4_whoever_writes_the_database_runs_no_code(read: Any) -> None:
    """DBOS reads a pickle wherever a row says that it is one, whatever serializer it was given."""
    pickled = base64.b64encode(pickle.dumps(Program())).decode()
    with pytest.raises(ValueError, match="not read"):
        read(pickled, "py_pickle", JsonSerializer())
    assert not Program.ran


def test_a_translator_that_stops_leaves_its_operations_to_others_at_once(scope: Scope) -> None:
    run = Run("operation-1", scope, {}, True)
    run.pause(0.0)
    run.stopping.set()
    with pytest.raises(Parked) as parked:
        run.pause(3600.0)
    assert parked.value.seconds == 0


def test_too_many_that_are_not_done(scope: Scope, operations: Finish, stage: Stage) -> None:
    scope.environment.settings = scope.environment.settings.model_copy(update={"operations_unfinished": 2})
    stage.work = stage.hold
    sent = [submit(scope, n=1), submit(scope, "zones/ch-zh-1/instances/web-2", n=2)]
    with pytest.raises(ApiError) as error:
        submit(scope, "zones/ch-zh-1/instances/web-3")
    assert (error.value.code, error.value.reason) == (429, "rateLimitExceeded")
    assert error.value.retry_after
    assert "CONCURRENT_OPERATIONS_PER_PROJECT" in error.value.message and "2" in error.value.message
    stage.open.set()
    for one in sent:
        operations(scope, one)
    operations(scope, submit(scope, "zones/ch-zh-1/instances/web-3"))


def test_b2_waiting_for_a_turn_holds_no_place(scope_for: OpenScope, operations: Finish, stage: Stage) -> None:
    """Three hundred operations on one machine, and another tenant's goes through."""
    mine, other = scope_for(), scope_for("ian@example.org", account="ian@example.org")
    stage.work = stage.hold
    waiting = [submit(mine, n=number) for number in range(300)]
    until(lambda: "0 begins" in stage.seen)
    stage.work = lambda run: stage.seen.append("other")
    operations(other, submit(other, "zones/ch-zh-1/instances/web-9"))
    assert stage.seen == ["0 begins", "other"]
    for one in waiting[1:]:
        mine.store.update_operation(one.name, status="DONE")
    stage.open.set()
    operations(mine, waiting[0])
