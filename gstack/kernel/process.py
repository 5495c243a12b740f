"""This process among others: how it is told to stop, that it ends with the one that started it, how it keeps small."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import threading
import time

# Names a descriptor that the process which started this one holds the other end of, as long as it lives.
LIFELINE = "GSTACK_LIFELINE"
# Of glibc's malloc.h. What is free in one arena is of no use to the threads of another, and by default there are eight
# for each core; with the interpreter's lock threads seldom want memory at the same time.
_M_ARENA_MAX = -8
_ARENAS = 2


class StopSignals:
    """SIGTERM and SIGINT, from now on.

    Python calls a handler in between any two steps of the main thread, also in the middle of another handler: one that
    takes a lock may wait for itself. These do nothing; before them the interpreter writes the number to a pipe.
    """

    def __init__(self) -> None:
        """Only in the main thread."""
        self._reading, writing = os.pipe()
        for descriptor in (self._reading, writing):
            os.set_blocking(descriptor, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reading, selectors.EVENT_READ)
        self._numbers = (signal.SIGTERM, signal.SIGINT)
        self.told = False
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda *_: None)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether one has come; waits for it so long, or for ever."""
        until = time.monotonic() + seconds if seconds is not None else None
        while not self.told:
            left = max(until - time.monotonic(), 0.0) if until is not None else None
            if not self._selector.select(left):
                return False
            self.told = any(number in self._numbers for number in os.read(self._reading, 4096))
        return True


def end_with_parent(grace: float) -> None:
    """Stop when the process that started this one is gone, however it went. grace: seconds until it is killed."""
    descriptor = os.environ.pop(LIFELINE, "")
    if not descriptor:
        return

    def watch() -> None:
        # Nothing is ever written: this ends when the last holder of the other end does.
        os.read(int(descriptor), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def share_arenas() -> None:
    """Let all threads take memory from the same few arenas. Before there are any; does nothing without glibc, or when
    the operator decides by `MALLOC_ARENA_MAX`."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
