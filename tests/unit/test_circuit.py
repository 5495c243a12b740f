"""A CloudStack that does not answer is left alone, and found again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gstack.kernel.metrics import CLOUDSTACK_CIRCUIT
from tests.waits import LONG, Clock
from translator_service.cloudstack import circuit as circuit_module
from translator_service.cloudstack.circuit import Circuit
from translator_service.cloudstack.client import Client, Endpoint, Keys
from translator_service.cloudstack.errors import CloudStackError, Unreachable

KEYS = Keys("key", "secret")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of circuits only."""
    made = Clock()
    monkeypatch.setattr(circuit_module, "time", made)
    return made


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        circuit.failed(0.0, timed_out=False)


def is_open(circuit: Circuit) -> bool:
    try:
        circuit.check()
    except Unreachable:
        return True
    return False


def test_it_opens_after_five_failures_in_a_row() -> None:
    circuit = Circuit()
    fail(circuit, 4)
    circuit.answered()
    fail(circuit, 4)
    assert not is_open(circuit)
    fail(circuit, 1)
    assert is_open(circuit)
    assert CLOUDSTACK_CIRCUIT._value.get() == 1
    circuit.answered()
    assert not is_open(circuit)
    assert CLOUDSTACK_CIRCUIT._value.get() == 0


def test_one_of_many_tries_every_five_seconds(clock: Clock) -> None:
    circuit = Circuit()
    fail(circuit, 5)
    for _ in range(3):
        assert [is_open(circuit) for _ in range(10)] == [True] * 10
        clock.now += 5.1
        assert [is_open(circuit) for _ in range(10)] == [False] + [True] * 9
        fail(circuit, 1)


def test_a_call_that_had_no_time_says_nothing() -> None:
    circuit = Circuit()
    for _ in range(20):
        circuit.failed(0.2, timed_out=True)
    assert not is_open(circuit)
    for _ in range(5):
        circuit.failed(6.0, timed_out=True)
    assert is_open(circuit)


class Silent:
    """Accepts, reads, and never answers; or answers with what it is told."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.answer: bytes | None = None
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                wire, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            wire.recv(65536)
            if self.answer is not None:
                wire.sendall(self.answer)
            wire.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.close()


def read(endpoint: Endpoint) -> None:
    Client(endpoint, KEYS, None, time.monotonic() + LONG).read("listZones")


def test_calls_fail_at_once_and_reads_go_on_when_it_answers(silent: Silent, clock: Clock) -> None:
    endpoint = Endpoint(f"http://127.0.0.1:{silent.port}/client/api")
    for _ in range(5):
        with pytest.raises(Unreachable):
            read(endpoint)
    asked = silent.asked
    for _ in range(50):
        with pytest.raises(Unreachable):
            read(endpoint)
    assert silent.asked == asked
    silent.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n" + b'{"listzonesresponse":{}}'
    clock.now += 5.1
    for _ in range(3):
        read(endpoint)
    endpoint.close()


@pytest.mark.parametrize(("status", "opens"), [(431, False), (401, False), (503, True)])
def test_an_error_is_an_answer_but_a_page_of_a_proxy_is_none(silent: Silent, status: int, opens: bool) -> None:
    page = b"<html>no</html>" if opens else b'{"errorresponse":{"errorcode":%d,"errortext":"no"}}' % status
    silent.answer = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(page), page)
    endpoint = Endpoint(f"http://127.0.0.1:{silent.port}/client/api")
    for _ in range(8):
        with pytest.raises((CloudStackError, Unreachable)):
            read(endpoint)
    assert silent.asked == (5 if opens else 8)
    endpoint.close()
