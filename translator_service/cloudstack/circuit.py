"""A circuit breaker: a CloudStack that does not answer is left alone for a while, and holds no thread a request.

Closed: calls go through. After some failures in a row, without one answer between them, it opens: calls fail at once,
but one every few seconds tries. The first answer closes it. An answer that is an error is an answer.
"""

from __future__ import annotations

import threading
import time

import structlog

from gstack.kernel.metrics import CLOUDSTACK_CIRCUIT
from translator_service.cloudstack.errors import Unreachable

log = structlog.get_logger()

_FAILURES = 5
_PAUSE = 5.0
# A call that gave up sooner than this, for its own deadline, says nothing about CloudStack.
_PATIENCE = 5.0


class Circuit:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._next_try = 0.0

    def check(self) -> None:
        """Raises Unreachable while the circuit is open, but for the one that is to try."""
        if self._failures < _FAILURES:
            return
        with self._lock:
            now = time.monotonic()
            if self._failures >= _FAILURES and now < self._next_try:
                raise Unreachable("did not answer a moment ago")
            self._next_try = now + _PAUSE

    def answered(self) -> None:
        if not self._failures:
            return
        with self._lock:
            if self._failures >= _FAILURES:
                log.warning("cloudstack_circuit_closed")
                CLOUDSTACK_CIRCUIT.set(0)
            self._failures = 0

    def failed(self, seconds: float, *, timed_out: bool) -> None:
        """seconds: how long it was waited for."""
        if timed_out and seconds < _PATIENCE:
            return
        with self._lock:
            self._failures += 1
            if self._failures == _FAILURES:
                log.warning("cloudstack_circuit_open", failures=_FAILURES, pause=_PAUSE)
                CLOUDSTACK_CIRCUIT.set(1)
                self._next_try = time.monotonic() + _PAUSE
