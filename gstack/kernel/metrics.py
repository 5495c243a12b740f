"""Prometheus metrics of all services, declared once, and a port of their own for them and for probes.

    /healthz   200 while the process lives; asks nobody
    /readyz    200 when it can do its work, else 503; JSON that names what is missing
    /readyz/X  the same of one of these
    /metrics   Prometheus text

Labels are names of methods, commands and outcomes: never a name, an address or anything else of a customer's.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gstack import __version__

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
# Set by a service of several processes: each writes to files there, and whoever serves /metrics adds them up.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_CONNECTIONS = 64
_IDLE_SECONDS = 30.0

# Gateway
HTTP_SECONDS = Histogram(
    "gstack_http_request_seconds", "Requests of clients by GCE method and HTTP status.", ["method", "code"],
    buckets=_BUCKETS,
)  # fmt: skip
HTTP_RUNNING = Gauge("gstack_http_requests_running", "Requests in hand.", multiprocess_mode="livesum")
HTTP_CONNECTIONS = Gauge("gstack_http_connections", "Connections of clients.", multiprocess_mode="livesum")
HTTP_REFUSED = Counter(
    "gstack_http_refused",
    "What was refused or given up at once: requests for overload of the process (overload), the limit of a user (user) "
    "or what they are (malformed), and connections that are slow (slow) or too many (connections, memory).",
    ["reason"],
)

# Every service
BUILD = Gauge("gstack_build_info", "Always 1.", ["service", "version"], multiprocess_mode="max")
CERTIFICATE = Gauge(
    "gstack_certificate_not_after_seconds",
    "When the certificate of this service for the others ends, in Unix time.",
    multiprocess_mode="max",
)
CACHE = Counter(
    "gstack_cache", "Questions to caches (tokens, encoded, replies, catalog), by hit or miss.", ["cache", "result"]
)

# Services behind it
RPC_SECONDS = Histogram(
    "gstack_rpc_seconds", "gRPC calls answered, by method and status.", ["method", "status"], buckets=_BUCKETS
)
RPC_RUNNING = Gauge("gstack_rpc_running", "gRPC calls in hand.")
RPC_REFUSED = Counter("gstack_rpc_refused", "gRPC calls refused at once, because too many are in hand.")
RPC_STRANGERS = Counter("gstack_rpc_strangers", "gRPC calls refused, because they did not show the services' secret.")
DATABASE_CONNECTIONS = Gauge("gstack_database_connections", "Connections of the pool that are in use.")
DATABASE_CONNECTIONS_MAX = Gauge("gstack_database_connections_max", "Connections that the pool may have.")
DATABASE_UP = Gauge("gstack_database_up", "1 when the database answers, else 0.")

# Translator
CLOUDSTACK_SECONDS = Histogram(
    "gstack_cloudstack_call_seconds",
    "Calls of CloudStack by command and outcome: ok, unreachable, or the status of an error.",
    ["command", "outcome"],
    buckets=_BUCKETS,
)
CLOUDSTACK_CIRCUIT = Gauge(
    "gstack_cloudstack_circuit_open", "1 while CloudStack is not asked because it did not answer, else 0."
)
JOBS_RUNNING = Gauge("gstack_cloudstack_jobs_running", "Jobs of CloudStack that this translator follows.")
OPERATIONS_UNFINISHED = Gauge("gstack_operations_unfinished", "Operations that are not done, of all translators.")
OPERATIONS_OLDEST = Gauge("gstack_operations_oldest_seconds", "Age of the oldest of them.")

# Auth
ACCESS = Counter("gstack_access", "Answers of the OAuth endpoints: ok, or the error.", ["endpoint", "result"])
KEY_AGE = Gauge("gstack_key_age_seconds", "Age of the primary key of a ring.", ["ring"])


def forget_process(process: int) -> None:
    """A process of several has ended: its gauges do not count any more."""
    if _FOLDER in os.environ:
        multiprocess.mark_process_dead(process)  # type: ignore[no-untyped-call]


@contextmanager
def running(gauge: Gauge) -> Iterator[None]:
    gauge.inc()
    try:
        yield
    finally:
        gauge.dec()


# The others are 0 there, as if something were wrong.
_OWN = {
    "gateway": ("gstack_http", "gstack_cache", "gstack_certificate", "gstack_build"),
    "translator": (
        "gstack_rpc", "gstack_cache", "gstack_database", "gstack_cloudstack", "gstack_operations",
        "gstack_certificate", "gstack_build",
    ),
    "auth": ("gstack_rpc", "gstack_database", "gstack_access", "gstack_key", "gstack_certificate", "gstack_build"),
}  # fmt: skip
_shown: tuple[str, ...] = ("gstack_",)


def about(service: str) -> None:
    """Which service, of which release, this process is."""
    global _shown  # noqa: PLW0603 - a process is one service
    _shown = _OWN[service]
    BUILD.labels(service, __version__).set(1)


class _Shown(Collector):
    """Metrics of this service, and of its process."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name.startswith(_shown) or not family.name.startswith("gstack_"):
                yield family


def text() -> bytes:
    registry = REGISTRY
    if _FOLDER in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    shown = CollectorRegistry()
    shown.register(_Shown(registry))
    return generate_latest(shown)


Checks = Mapping[str, Callable[[], bool]]


def readiness(checks: Checks, name: str = "") -> tuple[bool, bytes]:
    """Whether everything, or the one thing of this name, is there; and JSON that says so."""
    found = {one: check() for one, check in checks.items() if name in ("", one)}
    good = bool(found) and all(found.values())
    return good, json.dumps({"ready": good, "services": found}, indent=1).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    """With a bounded number of connections: a new one takes the place of the oldest, so that those who hold many
    cannot keep a probe out."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _CONNECTIONS else None
            if oldest is not None:
                self._open.pop(oldest)
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go away while it is answered."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def serve(listen: str, checks: Checks) -> ThreadingHTTPServer:
    """Serve the paths from threads of their own. checks: what the service needs, and whether it is there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "gstack", ""
        timeout = _IDLE_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._answer(200, b'{"status": "ok"}\n', "application/json")
            elif path == "/readyz" or path.startswith("/readyz/"):
                good, body = readiness(checks, path.removeprefix("/readyz").strip("/"))
                self._answer(200 if good else 503, body, "application/json")
            elif path == "/metrics":
                self._answer(200, text(), CONTENT_TYPE_LATEST)
            else:
                self._answer(404, b"not found\n", "text/plain")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds."""

    host, _, port = listen.rpartition(":")
    server = _Server((host.strip("[]"), int(port)), Handler)
    threading.Thread(target=server.serve_forever, name="management", daemon=True).start()
    return server
