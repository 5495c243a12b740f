"""Prometheus metrics of all services, declared once, and a port of their own for them and for probes.

    /healthz   200 while the process lives; asks nobody
    /readyz    200 when it can do its work, else 503; JSON that names what is missing
    /metrics   Prometheus text

Labels are names of methods, commands and outcomes: never a name, an address or anything else of a customer's.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
# Set by a service of several processes: each writes to files there, and whoever serves /metrics adds them up.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Gateway
HTTP_SECONDS = Histogram(
    "gstack_http_request_seconds", "Requests of clients by GCE method and HTTP status.", ["method", "code"],
    buckets=_BUCKETS,
)  # fmt: skip
HTTP_RUNNING = Gauge("gstack_http_requests_running", "Requests in hand.", multiprocess_mode="livesum")
TOKEN_CACHE = Counter("gstack_token_cache", "Bearer tokens by whether the cache knew them.", ["result"])

# Services behind it
RPC_SECONDS = Histogram(
    "gstack_rpc_seconds", "gRPC calls answered, by method and status.", ["method", "status"], buckets=_BUCKETS
)
RPC_RUNNING = Gauge("gstack_rpc_running", "gRPC calls in hand.")
DATABASE_CONNECTIONS = Gauge("gstack_database_connections", "Connections of the pool that are in use.")

# Translator
CLOUDSTACK_SECONDS = Histogram(
    "gstack_cloudstack_call_seconds",
    "Calls of CloudStack by command and outcome: ok, unreachable, or the status of an error.",
    ["command", "outcome"],
    buckets=_BUCKETS,
)
OPERATIONS_UNFINISHED = Gauge("gstack_operations_unfinished", "Operations that are not done, of all translators.")
OPERATIONS_OLDEST = Gauge("gstack_operations_oldest_seconds", "Age of the oldest of them.")

# Auth
ACCESS = Counter("gstack_access", "Answers of the OAuth endpoints: ok, or the error.", ["endpoint", "result"])
KEY_AGE = Gauge("gstack_key_age_seconds", "Time since a key file was changed.", ["ring"])


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


def age_of(path: Path) -> Callable[[], float]:
    """For KEY_AGE: the file is looked at whenever somebody asks."""

    def age() -> float:
        try:
            return time.time() - path.stat().st_mtime
        except OSError:
            return float("nan")

    return age


def text() -> bytes:
    if _FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def serve(listen: str, ready: Callable[[], dict[str, bool]]) -> ThreadingHTTPServer:
    """Serve the three paths from threads of their own. ready: what the service needs, and whether it is there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._answer(200, b'{"status": "ok"}\n', "application/json")
            elif path == "/readyz":
                found = ready()
                good = all(found.values())
                body = json.dumps({"ready": good, "services": found}).encode() + b"\n"
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
    server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="management", daemon=True).start()
    return server
