"""A gateway that is told to stop: balancers hear of it first, and clients never."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.clients.conftest import Stack, free_ports, run_stack

SECONDS = 3.0


@pytest.fixture
def drained(tmp_path: Path) -> Iterator[tuple[Stack, str]]:
    """A gstack, and the address of the gateway's probes."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = {"GSTACK_GATEWAY_DRAIN_SECONDS": str(SECONDS), "GSTACK_GATEWAY_METRICS_LISTEN": address}
    for stack in run_stack(tmp_path, **settings):
        yield stack, f"http://{address}"


def test_c5_it_serves_on_until_balancers_know(drained: tuple[Stack, str]) -> None:
    stack, probes = drained
    token, gateway = stack.token(), stack.processes["gateway"]
    for path in (f"{stack.url}/readyz", f"{probes}/readyz", f"{probes}/readyz/gateway"):
        assert requests.get(path, timeout=5).status_code == 200, path
    stack.simulate("PATCH", "settings", {"delays": {"": 0.1}})
    gateway.send_signal(signal.SIGTERM)
    told = time.monotonic()
    statuses: list[int] = []
    # One request is in hand when the time is over: it is answered too.
    while time.monotonic() < told + SECONDS - 1:
        statuses.append(stack.call("GET", "/zones/ch-gv2/instances", token=token).status_code)
        for path in (f"{stack.url}/readyz", f"{probes}/readyz", f"{probes}/readyz/gateway"):
            found = requests.get(path, timeout=5)
            assert (found.status_code, found.json()["services"]["gateway"]) == (503, False), path
        assert requests.get(f"{probes}/healthz", timeout=5).status_code == 200
        assert requests.get(f"{probes}/readyz/auth", timeout=5).status_code == 200
    stack.simulate("PATCH", "settings", {"delays": {"": 2.0}})
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(stack.call, "GET", "/zones/ch-gv2/instances", token=token)
        assert gateway.wait(20) == 0
        assert SECONDS <= time.monotonic() - told < SECONDS + 8
        assert {*statuses, last.result(5).status_code} == {200}


def test_told_twice_it_goes_at_once(drained: tuple[Stack, str]) -> None:
    gateway = drained[0].processes["gateway"]
    started = time.monotonic()
    gateway.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    gateway.send_signal(signal.SIGTERM)
    gateway.wait(20)
    assert time.monotonic() - started < SECONDS


def test_a_user_with_too_many_requests_in_hand(tmp_path: Path) -> None:
    for stack in run_stack(tmp_path, GSTACK_GATEWAY_REQUESTS_PER_USER="2"):
        token, other = stack.token(), stack.token("ian-api-key", "ian-secret-key")
        stack.call("GET", "/zones/ch-gv2/instances", token=token)
        stack.simulate("PATCH", "settings", {"delays": {"": 1.5}})
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(stack.call, "GET", "/zones/ch-gv2/instances", token=token) for _ in range(2)]
            time.sleep(0.5)
            refused = stack.call("GET", "/zones", token=token)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert refused.json()["error"]["errors"][0]["reason"] == "rateLimitExceeded"
            assert stack.call("GET", "/zones", token=other).status_code != 429
            assert [one.result().status_code for one in running] == [200, 200]
        assert stack.call("GET", "/zones", token=token).status_code == 200
