"""Any order of attaching, detaching, resizing and deleting keeps names, users and links right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gstack.compute.v1 import common_pb2, disks_pb2
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, job, volume
from tests.unit.test_attached_disks import COMMON, attach, auto_delete, detach, disk_names, listed
from tests.unit.test_instances import ZONE_LINK, Finish, delete, get, insert, row_of, wanted
from translator_service.cloudstack import jobs
from translator_service.scope import Scope

INSTANCES, DATA = ("web-1", "web-2"), ("data-1", "data-2")
ANY = st.sampled_from(INSTANCES + DATA)
ACTIONS = st.one_of(
    st.tuples(
        st.sampled_from(["attach", "attach-boot"]), st.sampled_from(INSTANCES), st.sampled_from(INSTANCES + DATA)
    ),
    st.tuples(st.just("detach"), st.sampled_from(INSTANCES), ANY),
    st.tuples(st.just("auto-delete"), st.sampled_from(INSTANCES), ANY),
    st.tuples(st.sampled_from(["stop", "start", "delete", "insert"]), st.sampled_from(INSTANCES), st.just("")),
    st.tuples(st.sampled_from(["resize", "delete-disk", "make-disk"]), st.just(""), ANY),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_PAUSES", (0.01,) * 100)


class Model:
    """What there should be. disks: name -> (size, user or ""). boot: instance -> its boot disk. goes: disks with
    autoDelete."""

    def __init__(self) -> None:
        self.disks: dict[str, tuple[int, str]] = {}
        self.boot: dict[str, str] = {}
        self.running: dict[str, bool] = {}
        self.goes: set[str] = set()

    def of(self, instance: str) -> set[str]:
        return {name for name, (_, user) in self.disks.items() if user == instance}


def _device(scope: Scope, instance: str, disk: str) -> str:
    found = [one.deviceName for one in get(scope, instance).disks if one.source.endswith(f"/{disk}")]
    return found[0] if found else disk


def _resize(scope: Scope, name: str, size: int) -> Any:
    resource = disks_pb2.DisksResizeRequest(sizeGb=size)
    return ask(scope, "Disks.Resize", disks_pb2.ResizeDiskRequest(disk=name, resource=resource, **COMMON))


def _try(scope: Scope, operations: Finish, call: Callable[[], Any]) -> bool:
    """Whether it was done."""
    try:
        return not operations(scope, call())["error"]
    except ApiError as error:
        assert error.code in (400, 404, 409), error
        return False


def act(model: Model, scope: Scope, operations: Finish, action: str, instance: str, disk: str) -> None:
    if action in ("stop", "start"):
        if model.running.get(instance) == (action == "stop") and (instance in model.boot):
            job(scope, f"{action}VirtualMachine", id=row_of(scope, instance)["id"])
            model.running[instance] = action == "start"
        return
    free = disk in model.disks and not model.disks[disk][1]
    there, boot = instance in model.running, model.boot.get(instance)
    if action == "insert":
        expected = not there and instance not in model.disks
        assert _try(scope, operations, lambda: insert(scope, wanted(instance))) == expected
        if expected:
            size = next(one.diskSizeGb for one in get(scope, instance).disks)
            model.disks[instance], model.boot[instance], model.running[instance] = (size, instance), instance, True
            model.goes.add(instance)
    elif action in ("attach", "attach-boot"):
        is_boot = action == "attach-boot"
        expected = free and there and not (is_boot and (boot is not None or model.running[instance]))
        call = lambda: attach(scope, instance, source=f"zones/ch-zh-1/disks/{disk}", boot=is_boot)  # noqa: E731
        assert _try(scope, operations, call) == expected
        if expected:
            model.disks[disk] = (model.disks[disk][0], instance)
            model.goes.discard(disk)
            model.boot |= {instance: disk} if is_boot else {}
    elif action == "detach":
        expected = there and disk in model.of(instance) and not (disk == boot and model.running[instance])
        call = lambda: detach(scope, _device(scope, instance, disk), instance)  # noqa: E731
        assert _try(scope, operations, call) == expected
        if expected:
            model.disks[disk] = (model.disks[disk][0], "")
            if disk == boot:
                del model.boot[instance]
    elif action == "auto-delete":
        expected, value = there and disk in model.of(instance), disk not in model.goes
        call = lambda: auto_delete(scope, _device(scope, instance, disk), value, instance)  # noqa: E731
        assert _try(scope, operations, call) == expected
        if expected:
            (model.goes.add if value else model.goes.discard)(disk)
    elif action == "delete":
        assert _try(scope, operations, lambda: delete(scope, instance)) == there
        for name in model.of(instance):
            if name in model.goes:
                del model.disks[name]
                model.goes.discard(name)
            else:
                model.disks[name] = (model.disks[name][0], "")
        model.running.pop(instance, None)
        model.boot.pop(instance, None)
    elif action == "resize":
        size = model.disks[disk][0] + 1 if disk in model.disks else 99
        assert _try(scope, operations, lambda: _resize(scope, disk, size)) == (disk in model.disks)
        if disk in model.disks:
            model.disks[disk] = (size, model.disks[disk][1])
    elif action == "delete-disk":
        request = disks_pb2.DeleteDiskRequest(disk=disk, **COMMON)
        assert _try(scope, operations, lambda: ask(scope, "Disks.Delete", request)) == free
        if free:
            del model.disks[disk]
    elif disk not in model.disks:
        volume(scope, disk, size=5)
        model.disks[disk] = (5, "")


def check(model: Model, scope: Scope) -> None:
    found = ask(scope, "Disks.List", common_pb2.ListInZoneRequest(**COMMON)).items
    users = {name: [f"{ZONE_LINK}/instances/{user}"] if user else [] for name, (_, user) in model.disks.items()}
    assert {one.name: list(one.users) for one in found} == users
    assert {one.name: one.sizeGb for one in found} == {name: size for name, (size, _) in model.disks.items()}
    machines = listed(scope)
    assert machines.keys() == model.running.keys()
    for name, shown in machines.items():
        for instance in (shown, get(scope, name)):
            links = {one.source: (one.boot, one.autoDelete, one.diskSizeGb) for one in instance.disks}
            assert links == {
                f"{ZONE_LINK}/disks/{disk}": (disk == model.boot.get(name), disk in model.goes, model.disks[disk][0])
                for disk in model.of(name)
            }
            devices = [one.deviceName for one in instance.disks]
            assert len(set(devices)) == len(devices) and "" not in devices
            assert [one.index for one in instance.disks] == list(range(len(devices)))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(ACTIONS, min_size=4, max_size=14))
def test_any_order(
    simulated: Cloud, scope_for: OpenScope, operations: Finish, actions: list[tuple[str, str, str]]
) -> None:
    simulated.reset()
    scope, model = scope_for(), Model()
    # What was known of the cloud before.
    scope.environment.catalog._entries.clear()
    for action in [("insert", "web-1", ""), ("make-disk", "", "data-1"), *actions]:
        act(model, scope, operations, *action)
        check(model, scope)
    assert disk_names(scope) == sorted(model.disks)
