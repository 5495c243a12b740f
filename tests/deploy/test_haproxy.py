"""deploy/compose/haproxy.cfg under a real HAProxy: what it lets through to a gateway, and when."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import free_ports
from tests.packages import install
from tests.waits import LONG, until

pytestmark = pytest.mark.real

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "compose" / "haproxy.cfg"
HEAD = b"POST /oauth2/token HTTP/1.1\r\nHost: gce.example.org\r\nContent-Length: 10\r\n\r\n"


class Gateway:
    """Takes one connection after the other, and answers when it is let to."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.got: list[bytes] = []
        self.arrived, self.answer = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                text = connection.recv(65536)
                while not text.endswith(b"0123456789"):
                    text += connection.recv(65536)
                self.got.append(text)
                self.arrived.set()
                self.answer.wait(LONG)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.answer.set()
    made.socket.close()


@pytest.fixture
def edge(gateway: Gateway, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a HAProxy in front of it: as configured, but for the network, and with less patience."""
    if not shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"):
        install("haproxy")
    (port,) = free_ports(1)
    text = CONFIGURATION.read_text()
    for pattern, value in (
        (r"bind :5000", f"bind 127.0.0.1:{port}"),
        (r"server-template .*", f"server gateway 127.0.0.1:{gateway.port}"),
        (r".*default-server.*\n", ""),
        (r"timeout http-request 10s", "timeout http-request 1s"),
        (r"timeout client 30s", "timeout client 1s"),
    ):
        text, count = re.subn(pattern, value, text)
        assert count, pattern
    (tmp_path / "haproxy.cfg").write_text(text)
    process = subprocess.Popen(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], stdout=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), LONG).close()
                return True
            except OSError:
                return False

        until(listens)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait()


def test_b1_a_gateway_gets_a_request_whole(gateway: Gateway, edge: tuple[str, int]) -> None:
    gateway.answer.set()
    with socket.create_connection(edge, LONG) as client, socket.create_connection(edge, LONG) as other:
        client.sendall(HEAD + b"01234")
        # One that came later is there, and answered.
        other.sendall(HEAD + b"0123456789")
        assert other.recv(65536).startswith(b"HTTP/1.1 200")
        assert len(gateway.got) == 1
        client.sendall(b"56789")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [HEAD[:20], HEAD + b"01234"])
def test_b1_a_client_that_does_not_end_its_request_meets_no_gateway(
    gateway: Gateway, edge: tuple[str, int], sent: bytes
) -> None:
    with socket.create_connection(edge, LONG) as client:
        client.sendall(sent)
        # In time, and not when it likes to.
        assert client.recv(65536).startswith(b"HTTP/1.1 408")
    assert not gateway.got


def test_a_client_may_wait_for_a_slow_answer(gateway: Gateway, edge: tuple[str, int]) -> None:
    """Longer than it may take to send: here, several seconds to one."""
    with socket.create_connection(edge, LONG) as client:
        client.sendall(HEAD + b"0123456789")
        assert gateway.arrived.wait(LONG)
        time.sleep(3)
        gateway.answer.set()
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
