"""Waiting for what other threads and processes do, and time that does not pass by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds. Only ends a hang: a test that waits for something is not to depend on how busy the machine is.
LONG = 100.0


def until(condition: Callable[[], T], *, pause: float = 0.02, told: Callable[[], object] = lambda: "") -> T:
    """The first true value of a condition. told: what to say when it never came."""
    end = time.monotonic() + LONG
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {told()}"
        time.sleep(pause)
    return found


class Clock:
    """In the place of a module's `time`: passes only when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
