"""Who may run, and when: turns on a target, shares of owners, what the dead leave. On SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import postgresql
from translator_service.kept.store import Store, open_store

database = postgresql.database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    if request.param == "postgresql":
        url = postgresql.empty_database(request.getfixturevalue("database"))
    made = open_store(url)
    yield made
    made.engine.dispose()


def add(store: Store, name: str, owner: str = "a", target: str = "", also: tuple[str, ...] = ()) -> str:
    store.add_operation(
        also=also, name=name, owner=owner, project="p", scope="global", type="t", target=target or name, subject="s",
        handler="h", status="PENDING", inserted=time.time(),
    )  # fmt: skip
    return name


def done(store: Store, *names: str) -> None:
    for name in names:
        store.end_operation(name, ended=time.time())


def test_operations_on_one_target_take_turns(store: Store) -> None:
    for name in ("1", "2", "3"):
        add(store, name, target="vm")
    add(store, "other", target="vm2")
    add(store, "stranger", owner="b", target="vm")
    assert set(store.claim("x", 64, 16)) == {"1", "other", "stranger"}
    assert store.claim("x", 64, 16) == []
    done(store, "1")
    assert store.claim("x", 64, 16) == ["2"]
    assert store.claim("y", 64, 16) == []


def test_one_that_was_written_late_does_not_run_beside_its_successor(store: Store) -> None:
    """Sequences are given before rows are seen: an earlier one may appear when a later one runs."""
    add(store, "first", target="vm")
    add(store, "second", target="vm")
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE operations SET status = 'RUNNING' WHERE name = 'second'"))
    assert store.claim("x", 64, 16) == []
    done(store, "second")
    assert store.claim("x", 64, 16) == ["first"]


def test_an_operation_on_two_things_takes_turns_on_both(store: Store) -> None:
    add(store, "stop", target="vm")
    add(store, "resize", target="disk", also=("vm",))
    add(store, "labels", target="disk")
    add(store, "attach", target="vm2", also=("disk", "disk2"))
    add(store, "start", target="vm")
    add(store, "attach2", target="vm3", also=("disk2",))
    add(store, "stranger", owner="b", target="disk")
    # What begins when the one before is done.
    turns = [{"stop", "stranger"}, {"resize"}, {"labels", "start"}, {"attach"}, {"attach2"}]
    for name, begun in zip(("stop", "resize", "labels", "attach", "attach2"), turns, strict=True):
        assert set(store.claim("x", 64, 16)) == begun
        done(store, name)
    assert store.claim("x", 64, 16) == []
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM turns")).scalar() == 0


def test_one_that_finds_out_what_else_it_changes_queues_again_at_its_place(store: Store) -> None:
    add(store, "resize", target="disk")
    add(store, "stop", target="vm")
    add(store, "start", target="vm")
    assert store.claim("x", 64, 16) == ["resize", "stop"]
    store.begin_execution("resize", "x")
    store.queue_again("resize", "somebody else", ["vm"])
    assert store.turns_of("resize") == {"disk"}
    store.queue_again("resize", "x", ["vm"])
    assert store.turns_of("resize") == {"disk", "vm"}
    add(store, "labels", target="disk")
    # Of its two things one is not free, so it has none of them; and nobody overtakes it.
    assert store.claim("x", 64, 16) == store.claim_due(8) == []
    done(store, "stop")
    # It was begun before: it is gone on with, by anybody.
    assert store.claim("x", 64, 16) == []
    assert store.claim_due(8) == ["resize"]
    assert store.begin_execution("resize", "y") == 2
    done(store, "resize")
    assert set(store.claim("x", 64, 16)) == {"start", "labels"}


def test_what_gets_another_name_takes_turns_by_that(store: Store) -> None:
    add(store, "rename", target="vm")
    add(store, "resize", target="disk", also=("vm",))
    store.retarget("a", "vm", "vm2")
    add(store, "stop", target="vm2")
    assert store.claim("x", 64, 16) == ["rename"]
    done(store, "rename")
    assert store.claim("x", 64, 16) == ["resize"]


def test_an_owner_has_a_bounded_number_at_work(store: Store) -> None:
    for number in range(300):
        add(store, f"a{number}")
    assert len(store.claim("x", 64, 16)) == 16
    assert store.claim("y", 64, 16) == []
    add(store, "b", owner="b")
    assert store.claim("x", 48, 16) == ["b"]
    done(store, "a0")
    assert store.claim("x", 64, 16) == ["a16"]


def test_who_has_least_comes_first_and_the_last_places_are_for_those_who_have_none(store: Store) -> None:
    for number in range(20):
        add(store, f"a{number:02}")
        add(store, f"b{number:02}", owner="b")
    first = store.claim("x", 8, 16)
    assert sorted(first) == ["a00", "a01", "a02", "b00", "b01", "b02"]
    assert store.claim("x", 1, 16) == []
    add(store, "c", owner="c")
    assert store.claim("x", 1, 16) == ["c"]


def test_claims_of_several_translators_meet_in_no_operation(store: Store) -> None:
    for number in range(120):
        add(store, f"{number}", owner=f"o{number % 8}", target=f"vm-{number % 40}")

    def work(executor: str) -> list[str]:
        taken = []
        for _ in range(20):
            taken += (mine := store.claim(executor, 8, 4))
            targets = [int(name) % 40 for name in mine]
            assert len(targets) == len(set(targets))
            done(store, *mine)
        return taken

    with ThreadPoolExecutor(4) as pool:
        found = [name for taken in pool.map(work, "wxyz") for name in taken]
    assert len(found) == len(set(found)) == 120


def test_what_the_dead_had_in_hand_is_due_at_once(store: Store) -> None:
    add(store, "1")
    add(store, "2")
    store.beat("living")
    assert store.claim("dead", 1, 16) and store.claim("living", 8, 16)
    assert store.park_of_dead(time.time() - 10) == ["1"]
    assert store.park_of_dead(time.time() - 10) == []
    assert store.claim_due(8) == ["1"]
    # Given out once; again only when nobody has begun it for a while.
    assert store.claim_due(8) == []
    assert store.begin_execution("1", "living") == 1
    assert store.claimed("living") == {"1", "2"}


def test_what_is_parked_waits_for_its_time_and_keeps_its_place_in_the_order(store: Store) -> None:
    add(store, "1", target="vm")
    add(store, "2", target="vm")
    store.claim("x", 8, 16)
    store.park(["1"], "x", time.time() + 60)
    assert store.claim_due(8) == store.claim("x", 8, 16) == []
    store.begin_execution("1", "x")
    store.park(["1"], "somebody else", time.time())
    assert store.claim_due(8) == []
    store.park(["1"], "x", time.time() - 1)
    assert store.claim_due(8) == ["1"]
    assert store.claim("x", 8, 16) == []


def test_unfinished_ones_are_counted_for_each_owner(store: Store) -> None:
    for name in ("1", "2", "3"):
        add(store, name)
    store.claim("x", 1, 16)
    done(store, "2")
    assert (store.unfinished_of("a"), store.unfinished_of("b")) == (2, 0)


def test_steps_are_forgotten_a_while_after_the_end(store: Store) -> None:
    for name in ("running", "just done", "done"):
        add(store, name)
    done(store, "just done", "done")
    store.update_operation("done", ended=time.time() - 100)
    names = ["running", "just done", "done", "gone"]
    assert store.over(names, time.time() - 60) == ["done", "gone"]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from([0, 1, 2])), max_size=14),
    free=st.integers(1, 8),
    per_owner=st.integers(1, 4),
)
def test_any_state_is_gone_on_with_by_the_rules(
    rows: list[tuple[str, str, int]], free: int, per_owner: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = open_store(f"sqlite:///{tmp_path_factory.mktemp('turns') / 'x.sqlite'}")
    try:
        running: dict[tuple[str, str], int] = {}
        waiting: dict[tuple[str, str], list[str]] = {}
        for number, (owner, target, state) in enumerate(rows):
            name = add(made, str(number), owner, target)
            if state == 0:
                waiting.setdefault((owner, target), []).append(name)
            else:
                made.update_operation(name, status="DONE" if state == 1 else "RUNNING")
                running[owner, target] = running.get((owner, target), 0) + (state == 2)
        at_work = {who: sum(n for (owner, _), n in running.items() if owner == who) for who in "abc"}
        taken = made.claim("t", free, per_owner)
        heads = {names[0] for key, names in waiting.items() if not running.get(key)}
        assert set(taken) <= heads and len(taken) <= free
        for name in taken:
            at_work[rows[int(name)][0]] += 1
        assert all(at_work[rows[int(name)][0]] <= max(per_owner, 1) for name in taken)
        # Nobody who has nothing at work is left waiting while there is a place.
        idle = {rows[int(name)][0] for name in heads if at_work[rows[int(name)][0]] == 0}
        assert not idle or len(taken) == free
    finally:
        made.engine.dispose()
