"""A gateway that is told to stop: balancers hear of it first, and clients never."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.clients.conftest import Stack, free_ports, run_stack
from tests.waits import LONG, until

INSTANCES = "/zones/ch-gv2/instances"


def calls(stack: Stack) -> int:
    found: int = stack.simulate("GET", "calls").get("listVirtualMachines", 0)
    return found


@contextmanager
def in_hand(stack: Stack, token: str, count: int = 1) -> Iterator[list[Future[requests.Response]]]:
    """Requests for which CloudStack has no answer until its faults are deleted; answered well in the end."""
    before = calls(stack)
    stack.simulate("POST", "faults", {"kind": "hang", "command": "listVirtualMachines", "count": count})
    with ThreadPoolExecutor(count) as pool:
        try:
            running = [pool.submit(stack.call, "GET", INSTANCES, token=token) for _ in range(count)]
            until(lambda: calls(stack) == before + count)
            yield running
        finally:
            stack.simulate("DELETE", "faults")
        assert [one.result(LONG).status_code for one in running] == [200] * count


def gone(stack: Stack) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", stack.port), LONG).close()
        return False
    except OSError:
        return True


@pytest.fixture
def drained(tmp_path: Path) -> Iterator[tuple[Stack, str]]:
    """A gstack whose gateway drains for as long as it is let, and the address of the gateway's probes."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = {"GSTACK_GATEWAY_DRAIN_SECONDS": "3600", "GSTACK_GATEWAY_METRICS_LISTEN": address}
    for stack in run_stack(tmp_path, **settings):
        yield stack, f"http://{address}"


def test_c5_it_serves_on_until_balancers_know_and_told_twice_it_goes(drained: tuple[Stack, str]) -> None:
    stack, probes = drained
    token, gateway = stack.token(), stack.processes["gateway"]
    ready = (f"{stack.url}/readyz", f"{probes}/readyz", f"{probes}/readyz/gateway")
    for path in ready:
        assert requests.get(path, timeout=LONG).status_code == 200, path
    gateway.send_signal(signal.SIGTERM)
    until(lambda: requests.get(ready[0], timeout=LONG).status_code == 503)
    for _ in range(3):
        assert stack.call("GET", INSTANCES, token=token).status_code == 200
        for path in ready:
            found = requests.get(path, timeout=LONG)
            assert (found.status_code, found.json()["services"]["gateway"]) == (503, False), path
        assert requests.get(f"{probes}/healthz", timeout=LONG).status_code == 200
        assert requests.get(f"{probes}/readyz/auth", timeout=LONG).status_code == 200
    # What is in hand when it goes is answered too.
    with in_hand(stack, token):
        gateway.send_signal(signal.SIGTERM)
        until(lambda: gone(stack))
    assert gateway.wait(LONG) == 0


def test_c5_it_goes_when_the_time_is_over(tmp_path: Path) -> None:
    for stack in run_stack(tmp_path, GSTACK_GATEWAY_DRAIN_SECONDS="1.5"):
        token, gateway = stack.token(), stack.processes["gateway"]
        with in_hand(stack, token):
            told = time.monotonic()
            gateway.send_signal(signal.SIGTERM)
            until(partial(gone, stack))
            assert time.monotonic() - told >= 1.5
        assert gateway.wait(LONG) == 0


def test_a_user_with_too_many_requests_in_hand(tmp_path: Path) -> None:
    for stack in run_stack(tmp_path, GSTACK_GATEWAY_REQUESTS_PER_USER="2"):
        token, other = stack.token(), stack.token("ian-api-key", "ian-secret-key")
        stack.call("GET", INSTANCES, token=token)
        with in_hand(stack, token, 2):
            refused = stack.call("GET", "/zones", token=token)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert refused.json()["error"]["errors"][0]["reason"] == "rateLimitExceeded"
            assert stack.call("GET", "/zones", token=other).status_code != 429
        assert stack.call("GET", "/zones", token=token).status_code == 200
