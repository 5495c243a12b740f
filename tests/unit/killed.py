"""Operations whose translator is killed at their steps, while another execution goes on at once where it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import pytest

from translator_service.operations.run import Parked, Run

# Where in a step the translator ends: before it begins, when it is done and not recorded yet, when it is recorded.
When = Literal["", "before", "done", "recorded"]


class Killer:
    """when: says for each beginning of a step, by the names of operation and step, where in it the translator ends.

    died: names of the steps at which it has; steps: names of those that came to their end; both in the order of that.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: Callable[[str, str], When]):
        self.died: list[str] = []
        self.steps: list[str] = []
        original = Run.step

        def step(run: Run, name: str, function: Callable[[], Any]) -> Any:
            where = when(run.name, name)

            def die() -> None:
                self.died.append(name)
                raise Parked("killed", 0.0)

            def work() -> Any:
                if where == "before":
                    die()
                found = function()
                if where == "done":
                    die()
                self.steps.append(name)
                return found

            found = original(run, name, work)
            if where == "recorded":
                die()
            return found

        monkeypatch.setattr(Run, "step", step)


def killed_once(monkeypatch: pytest.MonkeyPatch, step: int | str, *, kept: bool = False) -> Killer:
    """Killed at one step, by its number or name, once it is done. kept: after it was recorded."""
    number, found = itertools.count(), list[str]()

    def when(_: str, name: str) -> When:
        if found or step not in (next(number), name):
            return ""
        found.append(name)
        return "recorded" if kept else "done"

    return Killer(monkeypatch, when)


def killed_in_each(monkeypatch: pytest.MonkeyPatch, *where: When) -> Killer:
    """Killed once at each step of each operation, at one after another of these places in them."""
    seen, places = set[tuple[str, str]](), itertools.cycle(where)

    def when(operation: str, name: str) -> When:
        if (operation, name) in seen:
            return ""
        seen.add((operation, name))
        return next(places)

    return Killer(monkeypatch, when)
