"""gRPC servers and channels as all services use them.

Server: a bounded thread pool, health, reflection, errors as `ApiError` in trailing metadata, drain on SIGTERM.
Channel: round robin over what the target resolves to, keepalive, retries of UNAVAILABLE only, health checked.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gstack.kernel import metrics
from gstack.kernel.errors import ApiError

log = structlog.get_logger()

_DRAIN_SECONDS = 1.0
# What the gateway sends with every call, by the names of gRPC metadata: the principal's sealed credential, the base of
# links, the id of the request.
CREDENTIAL = "x-credential-bin"
LINK_BASE = "x-link-base"
REQUEST_ID = "x-request-id"

MAX_MESSAGE = 64 * 1024 * 1024
_SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # New replicas get traffic: clients reconnect, and resolve, now and then.
    ("grpc.max_connection_age_ms", 120_000),
    ("grpc.max_connection_age_grace_ms", 150_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
]
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Clients watch the health of every replica and leave one that says it is going, before it goes.
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                # UNAVAILABLE before an answer: the request never ran, or its requestId makes a second run harmless.
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.service_config", _SERVICE_CONFIG),
    # A service that was started anew is found within a second. (The first of these is the time a connection may take.)
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


def channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)


def fail(context: grpc.ServicerContext, error: ApiError) -> Any:
    """End a call with an ApiError; does not return."""
    context.set_trailing_metadata((error.to_metadata(),))
    context.abort(error.grpc_status(), error.message)


def aborted(context: Any) -> bool:
    """Whether the call was ended on purpose: `abort` raises through the method like any other exception."""
    return context.code() is not None


def guarded(
    method: Callable[[Any, grpc.ServicerContext], Any], name: str
) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Wrap a method so that ApiErrors cross the wire and anything else is logged once and answered with 500."""

    def call(request: Any, context: grpc.ServicerContext) -> Any:
        metadata: Any = context.invocation_metadata()
        request_id = str(dict(metadata).get(REQUEST_ID, ""))
        started, status = time.monotonic(), "OK"
        with structlog.contextvars.bound_contextvars(request_id=request_id), metrics.running(metrics.RPC_RUNNING):
            try:
                return method(request, context)
            except ApiError as error:
                status = error.grpc_status().name
                return fail(context, error)
            except Exception:
                status = "INTERNAL"
                if not aborted(context):
                    log.exception("unexpected_error", method=name)
                    return fail(context, ApiError(500, f"Internal error. Request id: {request_id}"))
                raise
            finally:
                metrics.RPC_SECONDS.labels(name, status).observe(time.monotonic() - started)

    return call


class Server:
    """A gRPC server with health and reflection; `run` blocks until SIGTERM or SIGINT and drains."""

    def __init__(self, threads: int):
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc")
        self.grpc = grpc.server(self._pool, options=_SERVER_OPTIONS, maximum_concurrent_rpcs=threads * 2)
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        self._names: list[str] = []
        self.is_serving = False

    def add_generic(self, service: str, handlers: dict[str, Any]) -> None:
        self.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._names.append(service)

    def start(self, listen: str) -> int:
        """Bind and serve; returns the port. Raises OSError when the address is taken."""
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc)
        try:
            port = self.grpc.add_insecure_port(listen)
        except RuntimeError:
            raise OSError(f"{listen}: address already in use") from None
        self.grpc.start()
        self.serving(True)
        return port

    def serving(self, ready: bool) -> None:
        self.is_serving = ready
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            self.health.set(name, status)

    def stop(self, grace: float = 20.0) -> None:
        """Say that we go, wait until clients have heard it, finish what is in hand."""
        self.is_serving = False
        self.health.enter_graceful_shutdown()
        # gRPC cancels calls that come in while it stops, and a cancelled call is not tried elsewhere.
        time.sleep(_DRAIN_SECONDS)
        self.grpc.stop(grace).wait()

    def run(self, listen: str, stops: Sequence[Callable[[], None]] = ()) -> None:
        # Many short calls take turns: the default of 5 ms would be longer than most of them.
        sys.setswitchinterval(0.0005)
        self.start(listen)
        wake = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: wake.set())
        log.info("serving", listen=listen)
        wake.wait()
        self.stop()
        for stop in stops:
            stop()


def healthy(target: str, timeout: float = 1.0) -> bool:
    """Whether the service at `target` says SERVING."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as probe:
        try:
            reply = health_pb2_grpc.HealthStub(probe).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
