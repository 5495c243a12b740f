"""Metrics and probes of running services, on ports of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from gstack import __version__
from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, free_ports, make_stack
from tests.clients.sequences import machine
from tests.waits import LONG, until


class Measured:
    """A gstack with the three ports."""

    def __init__(self, stack: Stack, ports: dict[str, int]):
        self.stack = stack
        self.ports = ports

    def get(self, service: str, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.ports[service]}{path}", timeout=LONG)

    def value(self, service: str, name: str, /, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get(service, "/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    stack = make_stack(tmp_path_factory.mktemp("measured"))
    ports = dict(zip(("gateway", "translator", "auth"), free_ports(3), strict=True))
    stack.environment |= {f"GSTACK_{name.upper()}_METRICS_LISTEN": f"127.0.0.1:{port}" for name, port in ports.items()}
    for name in ("simulator", "auth", "translator", "gateway"):
        stack.start(name)
    try:
        stack.wait_ready()
        stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
        yield Measured(stack, ports)
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


def test_requests_by_method_and_status(measured: Measured) -> None:
    stack, token = measured.stack, measured.stack.token()
    name = "gstack_http_request_seconds_count"
    before = measured.value("gateway", name, method="compute.zones.list", code="200")
    for _ in range(3):
        assert stack.call("GET", "/zones", token=token).status_code == 200
    # A request is counted when its answer has been sent, which the client may see a little sooner.
    until(lambda: measured.value("gateway", name, method="compute.zones.list", code="200") == before + 3)
    stack.call("GET", "/zones/nowhere", token=token)
    until(lambda: measured.value("gateway", name, method="compute.zones.get", code="404") >= 1)
    requests.get(f"{stack.url}/compute/v1/nothing", timeout=LONG)
    until(lambda: measured.value("gateway", name, method="unknown", code="404") >= 1)
    assert measured.value("gateway", name, method="/oauth2/token", code="200") >= 1
    assert measured.value("gateway", "gstack_cache_total", cache="tokens", result="hit") >= 3
    assert measured.value("gateway", "gstack_cache_total", cache="tokens", result="miss") >= 1
    until(lambda: measured.value("gateway", "gstack_http_requests_running") == 0)


def test_calls_of_the_services_and_of_cloudstack(measured: Measured) -> None:
    stack = measured.stack
    assert "error" not in stack.finish(stack.call("POST", "/zones/ch-gv2/instances", machine("measured")).json())
    rpc, cloud = "gstack_rpc_seconds_count", "gstack_cloudstack_call_seconds_count"
    assert measured.value("translator", rpc, method="Instances.Insert", status="OK") == 1
    assert measured.value("translator", cloud, command="deployVirtualMachine", outcome="ok") == 1
    assert measured.value("translator", "gstack_operations_unfinished") == 0
    assert measured.value("auth", rpc, method="Auth.Authenticate", status="OK") >= 1
    for service in ("translator", "auth"):
        assert 0 <= measured.value(service, "gstack_database_connections") < 20


def test_an_operation_that_is_not_done_is_seen(measured: Measured) -> None:
    stack = measured.stack
    deployed = stack.simulate("GET", "calls").get("deployVirtualMachine", 0)
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "deployVirtualMachine": 3600}})
    operation = stack.call("POST", "/zones/ch-gv2/instances", machine("slow")).json()
    assert measured.value("translator", "gstack_operations_unfinished") == 1
    assert 0 < measured.value("translator", "gstack_operations_oldest_seconds") < LONG
    until(lambda: stack.simulate("GET", "calls").get("deployVirtualMachine", 0) > deployed)
    stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
    stack.simulate("POST", "finish")
    assert "error" not in stack.finish(operation)
    assert measured.value("translator", "gstack_operations_oldest_seconds") == 0


def test_tokens_by_result_and_the_age_of_keys(measured: Measured) -> None:
    name = "gstack_access_total"
    before = measured.value("auth", name, endpoint="Token", result="invalid_client")
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": "wrong"}
    requests.post(f"{measured.stack.url}/oauth2/token", form, timeout=LONG)
    assert measured.value("auth", name, endpoint="Token", result="invalid_client") == before + 1
    measured.stack.token()
    assert measured.value("auth", name, endpoint="Token", result="ok") >= 1
    for ring in ("master", "sealing"):
        assert 0 <= measured.value("auth", "gstack_key_age_seconds", ring=ring) < 3600


def test_every_service_says_what_it_is_and_how_its_database_is(measured: Measured) -> None:
    for service in measured.ports:
        assert measured.value(service, "gstack_build_info", service=service, version=__version__) == 1
    for service in ("translator", "auth"):
        assert measured.value(service, "gstack_database_up") == 1
        assert measured.value(service, "gstack_database_connections_max") == 20
    token = measured.stack.token()
    for _ in range(2):
        measured.stack.call("GET", "/zones", token=token)
    for service, cache in (("gateway", "encoded"), ("translator", "replies"), ("translator", "catalog")):
        assert measured.value(service, "gstack_cache_total", cache=cache, result="hit") >= 1


@pytest.mark.parametrize("service", ["gateway", "translator", "auth"])
def test_one_part_of_readiness_alone(measured: Measured, service: str) -> None:
    parts = measured.get(service, "/readyz").json()["services"]
    for part in parts:
        found = measured.get(service, f"/readyz/{part}")
        assert (found.status_code, found.json()) == (200, {"ready": True, "services": {part: True}})
    assert measured.get(service, "/readyz/nothing").status_code == 503


def test_b2_no_metric_holds_a_secret_or_a_name(measured: Measured) -> None:
    stack, token = measured.stack, measured.stack.token()
    stack.call("GET", f"/zones/{token}", token=token)
    stack.call("GET", "/zones/ch-gv2/instances/name-of-a-machine", token=token)
    for service in measured.ports:
        text = measured.get(service, "/metrics").text
        assert "gstack_" in text
        for secret in (API_KEY, SECRET_KEY, token, "name-of-a-machine", "demo@example.org", "127.0.0.1"):
            assert secret not in text


def make_up(measured: Measured, name: str) -> None:
    """Put a name wherever a client can."""
    stack, token = measured.stack, measured.stack.token()
    for path in (f"/compute/v1/projects/{name}/zones", f"/{name}", f"/readyz/{name}", f"/v1/{name}"):
        stack.call("GET", stack.url + path, token=token)
    stack.call("POST", "/zones/ch-gv2/instances", {"name": name, name: name}, token=token)
    stack.call(name.upper(), "/zones", token=token)
    stack.call("GET", f"/zones?fields={name}&filter={name}", token=token)
    for form in ({"grant_type": name}, {"grant_type": "refresh_token", "client_id": name}, {name: "x"}):
        requests.post(f"{stack.url}/oauth2/token", form, timeout=LONG)
    for service in ("translator", "auth"):
        with grpc.insecure_channel(stack.environment[f"GSTACK_{service.upper()}_LISTEN"]) as channel:
            for method in (f"/gstack.compute.v1.Zones/{name}", f"/{name}.{name}/{name}"):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(b"", timeout=LONG)
        measured.get(service, f"/{name}")


def test_a5_what_clients_make_up_is_in_no_metric_and_no_probe(measured: Measured) -> None:
    """Names, methods, errors: nothing of a tenant, and no series that a client can add."""
    make_up(measured, "mallory")
    known = {service: series(measured, service) for service in measured.ports}
    make_up(measured, "trudy")
    assert {service: series(measured, service) for service in measured.ports} == known
    for service in measured.ports:
        for path in ("/metrics", "/readyz", "/readyz/mallory", "/healthz", "/mallory"):
            found = measured.get(service, path)
            shown = found.text + str(found.headers)
            assert "mallory" not in shown.lower() and "demo" not in shown, (service, path)
            assert "Python" not in str(found.headers)


def series(measured: Measured, service: str) -> set[str]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for family in text_string_to_metric_families(measured.get(service, "/metrics").text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_who_holds_connections_keeps_no_probe_out(measured: Measured) -> None:
    for service, port in measured.ports.items():
        held = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(200)]
        for one in held[::2]:
            one.sendall(b"GET /he")
        for _ in range(3):
            assert measured.get(service, "/healthz").status_code == 200
        for one in held:
            one.close()


def test_probes(measured: Measured) -> None:
    for service in measured.ports:
        assert measured.get(service, "/healthz").status_code == 200
        assert measured.get(service, "/readyz").json()["ready"] is True
        assert measured.get(service, "/").status_code == 404


def test_a_service_is_alive_but_not_ready_without_what_it_needs(measured: Measured) -> None:
    """Last in this file: it leaves the stack broken."""
    stack = measured.stack
    stack.kill("translator")
    found = measured.get("gateway", "/readyz")
    assert (found.status_code, found.json()["services"]["translator"]) == (503, False)
    assert measured.get("gateway", "/healthz").status_code == 200
    # CloudStack's absence is no reason to restart anything.
    stack.kill("simulator")
    assert measured.get("auth", "/healthz").status_code == measured.get("auth", "/readyz").status_code == 200
    stack.kill("gateway")
    with pytest.raises(requests.ConnectionError):
        measured.get("gateway", "/healthz")
