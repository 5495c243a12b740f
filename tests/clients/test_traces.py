"""One request id and one trace id through all services, in logs and in spans sent to an OpenTelemetry collector."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, run_stack
from tests.clients.sequences import machine
from tests.waits import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes what exporters send, as OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[tuple[str, Any]]:
        """(service, span)"""
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                found += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
        return found

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    yield from run_stack(
        tmp_path_factory.mktemp("traced"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        GSTACK_LOG_LEVEL="debug",
    )


def lines(stack: Stack, service: str, **wanted: str) -> list[dict[str, Any]]:
    text = (Path(stack.folder) / f"{service}.log").read_text()
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in found if wanted.items() <= line.items()]


def test_one_id_in_the_logs_of_all_services(traced: Stack) -> None:
    token = traced.token()
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    path = "/zones/ch-gv2/instances"
    answer = traced.call("POST", path, machine("traced"), token=token, headers=sent)
    request_id = answer.headers["X-Request-Id"]
    operation = traced.finish(answer.json())
    assert "error" not in operation
    ids = {"trace_id": TRACE, "request_id": request_id}
    assert [line["event"] for line in lines(traced, "gateway", **ids)] == ["compute.instances.insert", "request"]
    events = [line["event"] for line in lines(traced, "translator", **ids)]
    # The operation goes on after the answer, and still belongs to the request.
    assert "operation" in events and "operation_done" in events
    calls = [line["command"] for line in lines(traced, "translator", event="cloudstack_call", **ids)]
    assert "deployVirtualMachine" in calls and "listVirtualMachines" in calls


def test_every_answer_has_its_id(traced: Stack) -> None:
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    answers = [
        requests.post(f"{traced.url}/oauth2/token", form, timeout=30),
        requests.get(f"{traced.url}/login", timeout=30),
        requests.get(f"{traced.url}/nowhere", timeout=30),
    ]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3
    (line,) = lines(traced, "auth", log="audit", request_id=answers[0].headers["X-Request-Id"])
    assert len(line["trace_id"]) == 32
    # What is no traceparent is not believed.
    for wrong in ("nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more"):
        answer = traced.call("GET", "/zones", headers={"traceparent": wrong})
        (line,) = lines(traced, "gateway", event="request", request_id=answer.headers["X-Request-Id"])
        assert line["trace_id"] not in (TRACE, "0" * 32)


def test_spans_of_all_services_hang_together(traced: Stack, collector: Collector) -> None:
    token = traced.token()
    traced.call("GET", "/zones/ch-gv2/instances", token=token, headers={"traceparent": f"00-{'1' * 32}-{PARENT}-01"})

    def mine() -> list[tuple[str, Any]]:
        return [(service, span) for service, span in collector.spans() if span.trace_id.hex() == "1" * 32]

    pairs = (
        ("/gstack.compute.v1.Instances/List", "compute.instances.list"),
        ("Instances.List", "/gstack.compute.v1.Instances/List"),
        ("cloudstack listVirtualMachines", "Instances.List"),
        ("Auth.Authenticate", "/gstack.auth.v1.Auth/Authenticate"),
    )
    # Each process sends what it has when its time comes, and that is not the same for all of a request.
    until(lambda: {span.name for _, span in mine()} >= {name for pair in pairs for name in pair})
    assert {service for service, _ in mine()} == {"gstack-gateway", "gstack-translator", "gstack-auth"}
    spans = {span.span_id: (service, span) for service, span in mine()}
    by_name = {span.name: span for _, span in spans.values()}
    assert by_name["compute.instances.list"].parent_span_id.hex() == PARENT
    for name, parent in pairs:
        assert spans[by_name[name].parent_span_id][1].name == parent
    attributes = {one.key: one.value for one in by_name["compute.instances.list"].attributes}
    assert attributes["status"].int_value == 200


def test_no_secret_in_a_span(traced: Stack, collector: Collector) -> None:
    token = traced.token()
    assert traced.call("GET", "/zones", token=token).status_code == 200
    until(lambda: any(service == "gstack-auth" for service, _ in collector.spans()))
    everything = b"".join(collector.bodies)
    for secret in (token, SECRET_KEY, API_KEY):
        assert secret.encode() not in everything
