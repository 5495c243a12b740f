"""Operations whose translator is killed at each of their steps: at every other one before it begins, at the rest when
it is done and not recorded yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from translator_service.operations.run import Parked, Run


class Killer:
    """Ends the translator's work once at each step of each operation; another execution goes on where it was.

    steps: the names of the steps that came to their end, in the order of that.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.steps: list[str] = []
        self._seen: set[tuple[str, str]] = set()
        original, seen = Run.step, self._seen

        def step(run: Run, name: str, function: Callable[[], Any]) -> Any:
            def work() -> Any:
                if (run.name, name) in seen:
                    found = function()
                    self.steps.append(name)
                    return found
                seen.add((run.name, name))
                if len(seen) % 2:
                    function()
                raise Parked("killed", 0.0)

            return original(run, name, work)

        monkeypatch.setattr(Run, "step", step)
