"""The simulator answers as a recorded CloudStack does."""

from __future__ import annotations

import pytest

from simulator.commands import HANDLERS
from tests.contract.differences import SKIPPED_COMMANDS
from tests.contract.replay import Replay


@pytest.mark.parametrize("name", ["a", "b", "c", "c2", "d", "e", "f", "h", "i", "l", "u"])
def test_the_simulator_answers_as_recorded(name: str) -> None:
    report = Replay(name).run()
    assert not report.mismatches and not report.allowed_unused, f"\n{report}"


def test_skipped_commands_are_not_implemented() -> None:
    assert not SKIPPED_COMMANDS & HANDLERS.keys()
