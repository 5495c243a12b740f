"""Disks made from images that no machine has been made of: their documents, and who may use one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gstack.kernel.errors import ApiError
from tests.conftest import OpenScope
from tests.waits import LONG, until
from translator_service import places
from translator_service.gce.naming import number
from translator_service.operations import engine
from translator_service.operations.run import Run, handler
from translator_service.places import Zone
from translator_service.resources.disks import intents
from translator_service.resources.disks.intents import Intent
from translator_service.scope import Scope

Finish = Callable[..., Any]
WORK: dict[str, Callable[[Run], Any]] = {}
SEEN: list[Any] = []


@handler("tests.intents")
def _do(run: Run) -> None:
    SEEN.append(WORK[run.payload["work"]](run))


@pytest.fixture
def zone(scope: Scope) -> Zone:
    return places.resolve_zone(scope, "ch-zh-1")


def intent(zone: Zone, name: str = "boot-1", **changes: Any) -> Intent:
    made = Intent(
        name=name,
        id=f"11111111-1111-4111-8111-{name.encode().hex()[:12]:0>12}",
        zone=zone.id,
        created="2026-11-22T23:24:26+0000",
        size_gb=20,
        template="c6359ae6-0000-4000-8000-000000000001",
        tags={"gce-name": name},
    )
    return replace(made, **changes)


def submit(scope: Scope, work: Callable[[Run], Any], instance: str = "web-1") -> Any:
    """An operation that does this work."""
    key = str(len(WORK))
    WORK[key] = work
    target = f"zones/ch-zh-1/instances/{instance}"
    return engine.submit(scope, type="insert", target=target, handler="tests.intents", payload={"work": key})


def run(scope: Scope, operations: Finish, work: Callable[[Run], Any]) -> Any:
    """The finished operation that does this work."""
    return operations(scope, submit(scope, work))


def refused(work: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        work()
    return error.value


def test_found_by_name_number_and_uuid(scope: Scope, zone: Zone, scope_for: OpenScope) -> None:
    one, other = intent(zone), intent(zone, "boot-2")
    for each in (one, other):
        intents.add(scope, zone, each)
    assert sorted(intents.of(scope, zone), key=lambda each: each.name) == [one, other]
    assert len(intents.of(scope, None)) == 2
    for text in ("boot-1", one.id, one.id.upper(), str(number(one.id))):
        assert intents.find(scope, zone, text) == one
    for text in ("boot", "boot-3", "1", "x" * 5000, "22222222-2222-4222-8222-222222222222"):
        assert intents.find(scope, zone, text) is None
    elsewhere = places.resolve_zone(scope, "ch-gv2")
    assert intents.of(scope, elsewhere) == []
    assert intents.find(scope, elsewhere, "boot-1") is None
    assert intents.of(scope_for("ian@example.org", account="ian@example.org"), zone) == []


def test_a_name_is_one_disks(scope: Scope, zone: Zone) -> None:
    intents.add(scope, zone, intent(zone))
    # A step that is repeated after a crash finds its own work done.
    intents.add(scope, zone, intent(zone))
    error = refused(lambda: intents.add(scope, zone, intent(zone, id="22222222-2222-4222-8222-222222222222")))
    assert (error.code, error.message) == (
        409,
        "The resource 'projects/demo/zones/ch-zh-1/disks/boot-1' already exists",
    )


def test_there_are_not_too_many(scope: Scope, zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intents, "_MOST", 2)
    for name in ("a", "b"):
        intents.check_room(scope)
        intents.add(scope, zone, intent(zone, name))
    error = refused(lambda: intents.check_room(scope))
    assert (error.code, error.reason) == (403, "quotaExceeded")


def test_as_a_row_of_cloudstack(zone: Zone) -> None:
    row = intent(zone, offering="o-1").row
    assert (row["size"], row["diskofferingid"], row["zoneid"]) == (20 << 30, "o-1", zone.id)
    assert row["tags"] == [{"key": "gce-name", "value": "boot-1"}]
    assert "diskofferingid" not in intent(zone).row


def test_change(scope: Scope, zone: Zone) -> None:
    one = intent(zone)
    intents.add(scope, zone, one)
    intents.change(scope, zone, one.id, size_gb=30)
    assert intents.find(scope, zone, "boot-1") == replace(one, size_gb=30)
    assert refused(lambda: intents.change(scope, zone, "22222222-2222-4222-8222-222222222222", size_gb=3)).code == 404


def test_one_operation_has_it(scope: Scope, zone: Zone, operations: Finish) -> None:
    one = intent(zone)
    intents.add(scope, zone, one)
    others: list[Any] = []

    def work(run: Run) -> Any:
        claimed = intents.claim(run, zone, "boot-1")
        others.append(refused(lambda: intents.change(scope, zone, one.id, size_gb=30)))
        other = Run("operation-other", run.scope, {}, True)
        # What another operation finds, and cannot give back or take away.
        others.append(refused(lambda: intents._check_unused(run.scope, zone, claimed, other.name)))
        intents.release(other, zone, "boot-1")
        intents.forget(other, zone, "boot-1")
        assert intents.find(scope, zone, "boot-1") == claimed
        intents.release(run, zone, "boot-1")
        return claimed

    done = run(scope, operations, work)
    assert done["error"] is None
    assert SEEN[-1] == replace(one, used_by=done["name"])
    for error in others:
        assert (error.code, error.reason) == (400, "resourceInUseByAnotherResource")
        assert error.message == (
            "The disk resource 'projects/demo/zones/ch-zh-1/disks/boot-1' is already being used by "
            "'projects/demo/zones/ch-zh-1/instances/web-1'"
        )
    assert intents.find(scope, zone, "boot-1") == one


def test_forgotten_when_it_is_a_volume(scope: Scope, zone: Zone, operations: Finish) -> None:
    intents.add(scope, zone, intent(zone))

    def work(run: Run) -> Any:
        intents.claim(run, zone, "boot-1")
        intents.forget(run, zone, "boot-1")
        # A name may be another disk's by the time that a repeated operation comes here again.
        intents.add(run.scope, zone, intent(zone, id="22222222-2222-4222-8222-222222222222"))
        intents.forget(run, zone, "boot-1")

    assert run(scope, operations, work)["error"] is None
    assert [one.id for one in intents.of(scope, zone)] == ["22222222-2222-4222-8222-222222222222"]


def test_the_second_of_two_operations_is_refused(scope: Scope, zone: Zone, operations: Finish) -> None:
    intents.add(scope, zone, intent(zone))
    goes_on = threading.Event()

    def hold(run: Run) -> None:
        intents.claim(run, zone, "boot-1")
        assert goes_on.wait(LONG)

    holder = submit(scope, hold, "web-1")
    until(lambda: intents.of(scope, zone)[0].used_by == holder.name)
    done = operations(scope, submit(scope, lambda run: intents.claim(run, zone, "boot-1"), "web-2"))
    assert (done["error"]["code"], done["error"]["status"]) == ("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", 400)
    done = operations(scope, submit(scope, lambda run: intents.claim(run, zone, "boot-2"), "web-2"))
    assert (done["error"]["code"], done["error"]["status"]) == ("RESOURCE_NOT_FOUND", 404)
    goes_on.set()
    assert operations(scope, holder)["error"] is None


def test_what_an_operation_that_is_over_had_is_free(scope: Scope, zone: Zone, operations: Finish) -> None:
    over = run(scope, operations, lambda run: None)
    intents.add(scope, zone, intent(zone, used_by=over["name"]))
    done = run(scope, operations, lambda run: intents.claim(run, zone, "boot-1"))
    assert done["error"] is None
    assert SEEN[-1].used_by == done["name"]
