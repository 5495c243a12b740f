"""The short form of `make chaos`: every event once, and what operations say is compared with what the cloud has."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.rolling import deployed

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(600)]


def test_nothing_is_lost_doubled_or_stuck(tmp_path: Path) -> None:
    with deployed(tmp_path) as deployment:
        rows, events, wrong = chaos.run(deployment, operations=32, seed=7, pause=0.5, everything=True)
        logs = {name: deployment.stack.log(name)[-1500:] for name in deployment.listens} if wrong else {}
    assert not wrong, (wrong, logs)
    assert all(events[name] >= 1 for name in chaos.EVENTS)
    assert {row["tenant"] for row in rows if row["what"] == "insert" and row["done"]} == {"demo", "ian"}


def test_the_judge_sees_what_is_wrong() -> None:
    """Of a machine's operations: whether it must be there."""

    def begun(verb: str, error: bool = False) -> chaos.Begun:
        operation = {"status": "DONE"} | ({"error": {}} if error else {})
        return chaos.Begun(chaos.TENANTS[0], verb, "/zones/z/instances/i", "r", operation)

    assert chaos.stands([begun("insert")]) is True
    assert chaos.stands([begun("insert", error=True)]) is False
    assert chaos.stands([begun("insert"), begun("setTags"), begun("delete")]) is False
    assert chaos.stands([begun("insert"), begun("delete", error=True)]) is None
