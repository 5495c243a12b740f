"""Clients that are slow, silent, many, or speak HTTP badly: raw sockets on a real gateway with nothing behind it."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gstack.cli.certs import Authority
from tests.clients.conftest import Stack, free_ports, make_stack
from tests.waits import LONG, until

API = "/compute/v1/projects/demo/zones"
# Answered by the API without anything behind it: there is no token.
QUESTION = f"GET {API} HTTP/1.1\r\nHost: gw\r\n\r\n".encode()
LARGE = b"GET /discovery/v1/apis/compute/v1/rest HTTP/1.1\r\nHost: gw\r\n\r\n"
SOON = {"GSTACK_GATEWAY_HEAD_SECONDS": "1", "GSTACK_GATEWAY_IDLE_SECONDS": "2"}


class Gateway:
    """A gateway alone."""

    def __init__(self, folder: Path, **extra: str):
        self.stack = make_stack(folder)
        self.metrics = f"127.0.0.1:{free_ports(1)[0]}"
        self.stack.start("gateway", GSTACK_GATEWAY_METRICS_LISTEN=self.metrics, **extra)
        self.process = self.stack.processes["gateway"]
        self.sockets: list[socket.socket] = []
        until(lambda: self.probe() == 200)

    def connect(self, data: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.stack.port), timeout=LONG)
        self.sockets.append(made)
        made.sendall(data)
        return made

    def say(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to these bytes; 0 when the connection is closed without one."""
        return answer(self.connect(data))

    def probe(self, path: str = "/healthz") -> int:
        try:
            return requests.get(f"{self.stack.url}{path}", timeout=LONG).status_code
        except requests.ConnectionError:
            return 0

    def refused(self, reason: str) -> float:
        found = requests.get(f"http://{self.metrics}/metrics", timeout=LONG).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(found)
            for sample in family.samples
            if sample.name == "gstack_http_refused_total" and sample.labels["reason"] == reason
        )

    def serves(self) -> None:
        """Others get their answers, and so do probes."""
        assert self.probe() == 200
        assert self.probe("/readyz/gateway") == 200
        for _ in range(5):
            assert self.say(QUESTION)[0] == 401

    def memory(self) -> int:
        """Resident bytes of the worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        pages = [int(Path(f"/proc/{child}/statm").read_text().split()[1]) for child in children]
        return max(pages) * 4096

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        self.process.kill()
        self.process.wait()


def answer(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    reader = wire.makefile("rb")
    line = reader.readline()
    if not line:
        return 0, {}, b""
    headers = {}
    while (field := reader.readline().strip()) != b"":
        name, _, value = field.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers, reader.read(int(headers.get("content-length", "0")))


def ending(wire: socket.socket) -> bytes:
    """What comes until the other side ends."""
    found = b""
    try:
        while data := wire.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("slow"), **SOON)
    yield made
    made.close()


# Slow and silent ones


@pytest.mark.parametrize(
    ("begin", "told"),
    [
        (b"G", b"HTTP/1.1 408 "),
        (b"", b""),
        (b"POST /compute/v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"POST /oauth2/token HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"HTTP/1.1 408 "),
    ],
    ids=["one byte", "silent", "slow body", "slow chunks"],
)
def test_b1_two_hundred_connections_that_stay(gateway: Gateway, begin: bytes, told: bytes) -> None:
    """They hold nobody up, and each of them is told and closed when its time is over."""
    waiting = [gateway.connect(begin) for _ in range(200)]
    gateway.serves()
    for one in waiting:
        assert ending(one).startswith(told)
    gateway.serves()


def test_b1_a_byte_now_and_then_does_not_prolong_it(gateway: Gateway) -> None:
    began = time.monotonic()
    wire = gateway.connect()
    try:
        for letter in b"GET / HTTP/1.1\r\nHost: gw\r\nX-Slow: " + b"x" * 200:
            wire.send(bytes((letter,)))
            if select.select([wire], [], [], 0.2)[0]:
                break
        else:
            raise AssertionError("it may go on for ever")
    except ConnectionError:
        pass
    assert time.monotonic() - began >= 1


def test_b1_answers_that_nobody_takes(tmp_path: Path) -> None:
    # What the buffers of both sides take counts as taken, and at this speed it is no long time.
    made = Gateway(tmp_path, **SOON, GSTACK_GATEWAY_BYTES_PER_SECOND="100000")
    try:
        slow = [made.connect(LARGE * 10) for _ in range(20)]
        made.serves()
        until(lambda: made.refused("slow") >= len(slow))
        made.serves()
    finally:
        made.close()


def test_a_kept_connection_has_its_time_between_requests(gateway: Gateway, tmp_path: Path) -> None:
    patient = Gateway(tmp_path, **{**SOON, "GSTACK_GATEWAY_IDLE_SECONDS": "3600"})
    try:
        wire = patient.connect(QUESTION)
        assert answer(wire)[0] == 401
        # Longer than a head may take.
        time.sleep(1.3)
        wire.sendall(QUESTION)
        assert answer(wire)[0] == 401
    finally:
        patient.close()
    wire = gateway.connect(QUESTION)
    assert answer(wire)[0] == 401
    assert ending(wire) == b""


def test_b1_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    """The one that has been silent longest makes room; a slow body or answer goes where memory ends."""
    made = Gateway(
        tmp_path, GSTACK_GATEWAY_CONNECTIONS="50", GSTACK_GATEWAY_HELD_BYTES=str(4 << 20), GSTACK_GATEWAY_WORKERS="1"
    )
    try:
        silent = [made.connect(b"G") for _ in range(200)]
        made.serves()
        assert ending(silent[0]) == b""
        for one in silent:
            one.close()
        head = b"POST /compute/v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 8000000\r\n\r\n"
        slow = made.connect(head + b"x" * 1_000_000)
        others = [made.connect(head + b"x" * 900_000) for _ in range(5)]
        told = select.select([slow, *others], [], [], LONG)[0]
        assert told and all(ending(one).startswith(b"HTTP/1.1 408 ") for one in told)
        made.serves()
        assert made.refused("memory") >= 1 and made.refused("connections") >= 100
    finally:
        made.close()


# Stopping


@pytest.mark.parametrize("signals", [1, 20])
def test_d8_it_stops_whatever_clients_do(tmp_path: Path, signals: int) -> None:
    """With two workers, signals that come at once, and every kind of slow client."""
    made = Gateway(tmp_path, GSTACK_GATEWAY_WORKERS="2", GSTACK_GATEWAY_HEAD_SECONDS="3600")
    try:
        body = b"POST /compute/v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 1000\r\n\r\n{"
        for begin in (b"", b"G", body, QUESTION):
            for _ in range(30):
                made.connect(begin)
        made.serves()
        for _ in range(signals):
            made.process.send_signal(signal.SIGTERM)
        # Workers are killed after 30 seconds: they went by themselves.
        assert made.process.wait(20) == 0
    finally:
        made.close()


# Bad HTTP


def head(*lines: str, body: bytes = b"", request: str = f"POST {API} HTTP/1.1") -> bytes:
    return "\r\n".join([request, "Host: gw", *lines, "", ""]).encode("latin-1") + body


def chunked(body: bytes) -> bytes:
    return head("Transfer-Encoding: chunked", body=body)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (chunked(b"-1\r\n\r\n0\r\n\r\n"), 400),
        (chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
        (chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
        (chunked(b"zz\r\nabc\r\n0\r\n\r\n"), 400),
        (chunked(b"fffffffffffffffff\r\nabc"), 400),
        (chunked(b"3\r\nabcd\r\n0\r\n\r\n"), 400),
        (chunked(b"3\nabc\n0\n\n"), 400),
        (head("Content-Length: 3", "Content-Length: 4", body=b"abcd"), 400),
        (head("Content-Length: 3, 4", body=b"abcd"), 400),
        (head("Content-Length: -1"), 400),
        (head("Content-Length: +3", body=b"abc"), 400),
        (head("Content-Length: 0x3", body=b"abc"), 400),
        (head("Content-Length: 99999999999999999999999"), 400),
        (head("Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
        (head("Transfer-Encoding: gzip"), 400),
        (head("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
        (head("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
        (head("Host: other"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: gw\n\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: gw\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 405),
        (head("No colon"), 400),
        (head("Bad name: x"), 400),
        (head("X: a\x00b"), 400),
        (head("X: a\rb"), 400),
        (head(" folded: x"), 400),
        (head(request="GET /a b HTTP/1.1"), 400),
        (head(request="GET /a#b HTTP/1.1"), 400),
        (head(request="GET a HTTP/1.1"), 400),
        (head(request="CONNECT gw:443 HTTP/1.1"), 400),
        (head(request="BREW / HTTP/1.1"), 405),
        (head(request="OPTIONS * HTTP/1.1"), 400),
        (head(request=f"GET /{'x' * 20000} HTTP/1.1"), 414),
        (head(*[f"X-{number}: x" for number in range(200)]), 431),
        (head(f"X: {'x' * 70000}"), 431),
        (head(f"{'x' * 70000}"), 400),
        (head("Content-Length: 9000000"), 413),
        (head("Content-Length: 70000", request="POST /oauth2/token HTTP/1.1"), 413),
        (head("Content-Length: 70000", request="POST /login HTTP/1.1"), 413),
    ],
    ids=lambda value: repr(value[-60:]) if isinstance(value, bytes) else "",
)
def test_e_what_is_no_http_is_told_so(gateway: Gateway, data: bytes, status: int) -> None:
    found, headers, body = gateway.say(data)
    assert (found, headers["connection"]) == (status, "close"), body
    error = json.loads(body)["error"]
    # OAuth has an envelope of its own.
    assert error == "invalid_request" if b"/oauth2/" in data else error["code"] == status


@pytest.mark.parametrize(
    "host",
    ["xn--zzzz", "xn--", "a..b", ".a", "a" * 64, "a b", "a/b", "a@b", "[::1", "[x]", "gw:99999999", "gw:x", "\xfc",
     "é" * 9, "a," * 9, "%41", "a" * 300, "<b>"],
)  # fmt: skip
def test_e_hosts_that_cannot_be(gateway: Gateway, host: str) -> None:
    for path in (API, "/", "/discovery/v1/apis", "/oauth2/token", "/batch/compute/v1"):
        status, _, body = gateway.say(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1", "replace"))
        assert status == 400, body
        assert json.loads(body)["error"]["code"] == 400
    assert gateway.say(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1", "replace"))[0] == 200


@pytest.mark.parametrize(
    "host", ["xn--bcher-kva.example", "GW:80", "[::1]:5000", "127.0.0.1", "gw.", "my_host-1.local"]
)
def test_hosts_that_can_be_lead_back(gateway: Gateway, host: str) -> None:
    body = gateway.say(f"GET /discovery/v1/apis HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[2]
    link = json.loads(body)["items"][0]["discoveryRestUrl"]
    assert link.startswith(f"http://{host.removesuffix(':80')}/discovery/")


# Good HTTP


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (QUESTION * 2, [401, 401]),
        (QUESTION + LARGE + QUESTION, [401, 200, 401]),
        (head("Content-Length: 2", body=b"{}" + QUESTION), [405, 401]),
        (chunked(b"1;a=b\r\n{\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n" + QUESTION), [405, 401]),
        (head(request=f"GET http://gw{API} HTTP/1.1") + QUESTION, [401, 401]),
        (head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x", request=f"GET {API} HTTP/1.1")
         + QUESTION, [401, 401]),
        (b"\r\n" + QUESTION, [401]),
        (f"GET {API} HTTP/1.0\r\n\r\n".encode(), [401]),
        (f"GET {API} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode() * 2, [401, 401]),
        (head("Connection: close", request=f"GET {API} HTTP/1.1"), [401]),
    ],
)  # fmt: skip
def test_what_is_http_is_answered_in_its_order(gateway: Gateway, data: bytes, statuses: list[int]) -> None:
    wire = gateway.connect(data)
    found = ending_answers(wire)
    assert [int(one) for one in re.findall(rb"HTTP/1.1 (\d+) .*\r\n", found)] == statuses


def ending_answers(wire: socket.socket) -> bytes:
    # A client that has said all it has to say, and still listens.
    wire.shutdown(socket.SHUT_WR)
    return ending(wire)


def test_heads_without_bodies_and_bodies_that_wait(gateway: Gateway) -> None:
    wire = gateway.connect(b"HEAD /discovery/v1/apis HTTP/1.1\r\nHost: gw\r\n\r\n" + QUESTION)
    found = ending_answers(wire)
    assert re.findall(rb"HTTP/1.1 (\d+) ", found) == [b"200", b"401"]
    assert b"discoveryRestUrl" not in found
    wire = gateway.connect(head("Content-Length: 2", "Expect: 100-continue"))
    assert wire.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.sendall(b"{}")
    assert answer(wire)[0] == 405
    assert gateway.say(head("Content-Length: 9000000", "Expect: 100-continue"))[0] == 413


def test_a_name_with_a_line_is_not_one_of_a_proxys(tmp_path: Path) -> None:
    """`X_Forwarded_Host` would be the same as `X-Forwarded-Host`, which only proxies of ours may say."""
    made = Gateway(tmp_path, GSTACK_PROXIES="1")
    try:
        request = "GET /discovery/v1/apis HTTP/1.1"
        for line, host in (("X_Forwarded_Host: evil", "gw"), ("X-Forwarded-Host: front", "front")):
            assert f"http://{host}/" in made.say(head(line, request=request))[2].decode()
        assert made.say(head("X-Forwarded-Host: xn--zzzz", request=request))[0] == 400
    finally:
        made.close()


@given(
    st.lists(
        st.sampled_from([b"GET", b"POST", b" ", b"/", b"/compute/v1/", b"HTTP/1.1", b"\r\n", b"\n", b"Host: gw", b":",
                         b"Content-Length: ", b"Transfer-Encoding: chunked", b"3", b"-1", b"\0", b"%00", b"?a=b",
                         b"\xff", b"Connection: Upgrade", b"Upgrade: websocket", b"Expect: 100-continue", QUESTION])
        | st.binary(max_size=6),
        max_size=25,
    )
)  # fmt: skip
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_e_any_bytes_are_answered_or_refused(gateway: Gateway, pieces: list[bytes]) -> None:
    with gateway.connect(b"".join(pieces)) as wire:
        gateway.sockets.remove(wire)
        for status in re.findall(rb"HTTP/1.1 (\d+) ", ending_answers(wire)):
            assert int(status) < 500 or status == b"501"


# Bodies


def test_c1_forms_are_bounded_before_they_are_read(gateway: Gateway) -> None:
    before = gateway.memory()
    for path in ("/oauth2/token", "/login", "/keys", "/device"):
        url = gateway.stack.url + path
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert requests.post(url, b"a&" * (8 << 20), headers=form, timeout=60).status_code == 413
        many = 413 if "token" in path else 400
        assert requests.post(url, b"a&" * 15_000, headers=form, timeout=60).status_code == many
        assert requests.post(url, b"a=%00", headers=form, timeout=60).status_code == 400
    assert gateway.memory() - before < 30 << 20


def test_c1_a_url_of_many_parameters(gateway: Gateway) -> None:
    assert gateway.probe(f"{API}?{'a&' * 7000}") == 400
    assert gateway.probe(f"{API}?maxResults=%1d5") == 400
    assert gateway.probe(f"/?{'a&' * 7000}") == 200


# TLS


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca.crt", tmp_path / "ca.key", "tests")
    cert, key = tmp_path / "gw.crt", tmp_path / "gw.key"
    authority.issue(cert, key, [x509.DNSName("gw")])
    stack = make_stack(tmp_path)
    stack.start("gateway", GSTACK_GATEWAY_TLS_CERT=str(cert), GSTACK_GATEWAY_TLS_KEY=str(key), **SOON)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))

    def shown(stack: Stack) -> int | None:
        try:
            with (
                socket.create_connection(("127.0.0.1", stack.port), timeout=LONG) as raw,
                context.wrap_socket(raw, server_hostname="gw") as wire,
            ):
                wire.sendall(QUESTION)
                assert answer(wire)[0] == 401
                found = wire.getpeercert(binary_form=True)
                assert found is not None
                return x509.load_der_x509_certificate(found).serial_number
        except ConnectionError:
            return None

    try:
        until(lambda: shown(stack) is not None)
        first = shown(stack)
        # Handshakes that never begin or end hold nobody up, and end.
        silent = [socket.create_connection(("127.0.0.1", stack.port), timeout=LONG) for _ in range(100)]
        for one in silent[50:]:
            one.sendall(b"\x16\x03\x01")
        assert shown(stack) == first
        for path in (cert, key):
            path.unlink()
        authority.issue(cert, key, [x509.DNSName("gw")])
        until(lambda: shown(stack) not in (first, None))
        for one in silent:
            assert ending(one) == b""
            one.close()
    finally:
        stack.processes["gateway"].kill()
        stack.processes["gateway"].wait()
