"""gRPC servers and channels as all services use them.

Server: a bounded thread pool with a bounded queue, health, errors as `ApiError` in trailing metadata, drain on SIGTERM.
Channel: round robin over what the target resolves to, keepalive, retries of UNAVAILABLE only, health checked. Both with
TLS if the services have certificates, else with a secret (see trust).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextvars import ContextVar
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gstack import __version__
from gstack.kernel import metrics, tracing
from gstack.kernel.errors import ApiError
from gstack.kernel.process import StopSignals
from gstack.kernel.tls import Tls, role_name, roles_of
from gstack.kernel.trust import SECRET, Secret, Trust

log = structlog.get_logger()

_DRAIN_SECONDS = 1.0
# What the gateway sends with a call, by the names of gRPC metadata: the principal's sealed credential, the base of
# links. The ids of the request go with every call (see tracing).
CREDENTIAL = "x-credential-bin"
LINK_BASE = "x-link-base"
# With any value: a method that waits for something to end answers with what it is now.
AT_ONCE = "x-at-once"
# Paths of the fields that a PATCH clears, with commas between them: no message holds a null.
CLEARED = "x-cleared"

# Whoever is asked on behalf of a caller gets a little less time than the caller has left, so that the answer still
# arrives.
_MARGIN = 0.25
_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
_may_wait: ContextVar[bool] = ContextVar("may_wait", default=True)

# Of health checks, and of telling callers that there are too many of them: neither waits for a call's thread.
_aside = futures.ThreadPoolExecutor(2, thread_name_prefix="rpc-aside")
# The name under which the health of the process is asked for, whether it takes calls or not.
LIVENESS = "liveness"
_HEALTH = f"/{health.SERVICE_NAME}/"
# Before the release in the name whose health only replicas of it know.
_RELEASE = "release/"
# Whoever knocks without the secret is told of once in this time, however often it knocks.
_STRANGER_SECONDS = 60.0

MAX_MESSAGE = 64 * 1024 * 1024
_SERVER_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
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
                # A password that CloudStack may have seen is not tried again: few wrong ones disable its user.
                "name": [{"service": "gstack.auth.v1.Identity", "method": "Login"}],
            },
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
            },
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
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
]
# Any replica will do that does not say that it is going.
_PROBE_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_http_proxy", 0),
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
    ),
]
# A channel of old certificates is closed when the calls that it may carry are over.
_OLD_CHANNEL_SECONDS = 180.0
# A name is looked up so often, and so long after the last time at least. Longer than answers are cached, addresses are
# kept that are not named any more.
_LOOK_SECONDS = 10.0
_LOOK_LEAST_SECONDS = 2.0
_NAMED_SECONDS = 60.0


def deadline(seconds: float) -> float:
    """When an answer is of no use any more: after these seconds, or sooner if the caller in hand will have gone.

    In seconds of `time.monotonic()`.
    """
    return min(time.monotonic() + seconds, _deadline.get())


def may_wait() -> bool:
    """Whether the caller in hand lets a method wait for something to end."""
    return _may_wait.get()


def channel(target: str, service: str, trust: Trust | None) -> grpc.Channel:
    """To the replicas of a service. Every call takes the ids of the request in hand with it."""
    return _Channel(target, service, trust)


def _dns_name(target: str) -> tuple[str, int] | None:
    """Host and port of a target that is looked up, as in `dns:///translator:5001`."""
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    return (host, int(port)) if target.startswith("dns:///") and port.isdecimal() else None


def _resolve(host: str, port: int) -> list[str]:
    """Addresses of one family: a replica may have one of each."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    family = min((one[0] for one in found), default=socket.AF_INET)
    return sorted({str(one[4][0]) for one in found if one[0] == family})


def _as_target(addresses: Sequence[str], port: int) -> str:
    if ":" in addresses[0]:
        return "ipv6:" + ",".join(f"[{address}]:{port}" for address in addresses)
    return "ipv4:" + ",".join(f"{address}:{port}" for address in addresses)


class _Replicas:
    """What a name resolves to, looked up every few seconds, and at once when replicas say that they have too much to
    do: gRPC itself asks only when a connection is lost. Addresses stay for a while after they were last named, because
    answers of a cluster's DNS are cached and may be older than what was known before; gRPC uses those that are well.
    """

    def __init__(self, host: str, port: int, changed: Callable[[str], None]):
        self._name, self._changed = (host, port), changed
        self._named: dict[str, float] = {}
        self._again, self._closed = threading.Event(), False
        threading.Thread(target=self._watch, name=f"replicas of {host}", daemon=True).start()

    def look_again(self) -> None:
        self._again.set()

    def close(self) -> None:
        self._closed = True
        self._again.set()

    def _watch(self) -> None:
        known: list[str] = []
        while not self._closed:
            # A name that does not resolve says nothing: what was known last may still be there.
            if found := _resolve(*self._name):
                self._note(found)
                if sorted(self._named) != known:
                    known = sorted(self._named)
                    log.info("replicas", host=self._name[0], addresses=len(known))
                    self._changed(_as_target(known, self._name[1]))
            # Not more often, however many are refused.
            time.sleep(_LOOK_LEAST_SECONDS)
            self._again.wait(_LOOK_SECONDS)
            self._again.clear()

    def _note(self, found: list[str]) -> None:
        now, family = time.monotonic(), ":" in found[0]
        kept = {
            one: when for one, when in self._named.items() if now - when < _NAMED_SECONDS and (":" in one) == family
        }
        self._named = kept | dict.fromkeys(found, now)


class _Channel(grpc.Channel):
    """What gRPC's own channel cannot: it is made anew when certificates are renewed, or replicas come and go."""

    def __init__(self, target: str, service: str, trust: Trust | None):
        self._target, self._service, self._trust = target, service, trust
        self._tls = trust if isinstance(trust, Tls) else None
        self._lock = threading.Lock()
        self._version = self._tls.version if self._tls else 0
        self._channel = self._connect()
        name = _dns_name(target)
        self._replicas = _Replicas(*name, self._move) if name else None

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Gives a function; its `future` and `with_call` are not there, because nobody needs them."""
        known: list[tuple[grpc.Channel, Callable[..., Any]]] = []

        def call(request: Any, *, timeout: float, metadata: Sequence[tuple[str, Any]] = ()) -> Any:
            current = self._current()
            if not known or known[0][0] is not current:
                known[:] = [(current, current.unary_unary(method, *arguments, **options))]
            left = max(deadline(timeout) - time.monotonic(), 0.001)
            with tracing.call(method):
                everything = (*metadata, *tracing.headers().items(), *_shown(self._trust))
                try:
                    return known[0][1](request, timeout=left, metadata=everything)
                except grpc.RpcError as error:
                    if self._replicas and error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                        self._replicas.look_again()
                    raise

        return call

    def _current(self) -> grpc.Channel:
        if self._tls is not None and self._tls.version != self._version:
            with self._lock:
                if self._tls.version != self._version:
                    log.info("certificate_renewed", service=self._service)
                    self._version = self._tls.version
                    self._replace()
        return self._channel

    def _move(self, target: str) -> None:
        with self._lock:
            self._target = target
            self._replace()

    def _replace(self) -> None:
        old, self._channel = self._channel, self._connect()
        closing = threading.Timer(_OLD_CHANNEL_SECONDS, old.close)
        closing.daemon = True
        closing.start()

    def _connect(self) -> grpc.Channel:
        return _connect(self._target, self._service, self._trust, _CHANNEL_OPTIONS)

    def close(self) -> None:
        if self._replicas:
            self._replicas.close()
        self._channel.close()

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _not_used(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    unary_stream = stream_unary = stream_stream = subscribe = unsubscribe = _not_used


def _connect(target: str, service: str, trust: Trust | None, options: list[tuple[str, Any]]) -> grpc.Channel:
    if not isinstance(trust, Tls):
        return grpc.insecure_channel(target, options=options)
    named = [*options, ("grpc.ssl_target_name_override", role_name(service))]
    return grpc.secure_channel(target, trust.channel_credentials(), options=named)


def _shown(trust: Trust | None) -> tuple[tuple[str, bytes], ...]:
    return (trust.shown(),) if isinstance(trust, Secret) else ()


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
        pairs: Any = context.invocation_metadata()
        metadata = dict(pairs)
        request_id = str(metadata.get(tracing.REQUEST_ID, ""))
        started, status = time.monotonic(), "OK"
        left = context.time_remaining()
        until = _deadline.set(started + left - _MARGIN if left else float("inf"))
        waits = _may_wait.set(AT_ONCE not in metadata)
        with (
            tracing.request(name, request_id, str(metadata.get(tracing.TRACEPARENT, ""))),
            metrics.running(metrics.RPC_RUNNING),
        ):
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
                _deadline.reset(until)
                _may_wait.reset(waits)
                tracing.note(status=status)
                metrics.RPC_SECONDS.labels(name, status).observe(time.monotonic() - started)

    return call


class _Pool(futures.ThreadPoolExecutor):
    """Knows how many calls it has, running and waiting."""

    def __init__(self, threads: int):
        super().__init__(threads, thread_name_prefix="rpc")
        self._counting = threading.Lock()
        self.pending = 0

    def submit(self, *work: Any, **options: Any) -> futures.Future[Any]:
        with self._counting:
            self.pending += 1
        try:
            future = super().submit(*work, **options)
        except RuntimeError:
            self._done()
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, *_: object) -> None:
        with self._counting:
            self.pending -= 1


class _Admission(grpc.ServerInterceptor):
    """Refuses calls at once when as many wait as are worked on: the caller learns it now, not when its time is up.

    gRPC's own limit would refuse health checks too, and make an overload look like a death.
    """

    def __init__(self, pool: _Pool, limit: int):
        self._room = (pool, limit)
        # Of services that have threads of their own.
        self.rooms: dict[str, tuple[_Pool, int]] = {}

        self._refusal = _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls in hand", metrics.RPC_REFUSED)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        pool, limit = self.rooms.get(details.method[1:].partition("/")[0], self._room)
        if pool.pending >= limit and not details.method.startswith("/grpc."):
            return self._refusal
        return continuation(details)


class _Door(grpc.ServerInterceptor):
    """Lets in who shows the secret. Health may be asked without one, by probes, but not with a wrong one: so a service
    with another secret sees at its readiness that it cannot work."""

    def __init__(self, secret: Secret):
        self._secret = secret
        self._told = -_STRANGER_SECONDS
        self._refusal = _refusal(
            grpc.StatusCode.UNAUTHENTICATED, "only for services of this gstack", metrics.RPC_STRANGERS
        )

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        shown = dict(details.invocation_metadata).get(SECRET)
        if self._secret.knows(shown) if isinstance(shown, bytes) else details.method.startswith(_HEALTH):
            return continuation(details)
        if time.monotonic() - self._told > _STRANGER_SECONDS:
            self._told = time.monotonic()
            log.warning("caller_without_secret", reason="another GSTACK_SERVICES_KEY_FILE, or no service of ours")
        return self._refusal


def _refusal(code: grpc.StatusCode, message: str, counter: Any) -> Any:
    """A handler that ends any call, before the request is read: to the server it is a stream that nobody takes from."""

    def refuse(_: Any, context: grpc.ServicerContext) -> None:
        counter.inc()
        context.abort(code, message)

    refuse.experimental_thread_pool = _aside  # type: ignore[attr-defined]
    return grpc.stream_unary_rpc_method_handler(refuse)


class _Health(health.HealthServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(experimental_thread_pool=_aside)
        for name in (LIVENESS, _RELEASE + __version__):
            self.set(name, health_pb2.HealthCheckResponse.SERVING)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        return super().Check(request, context)

    Check.experimental_thread_pool = _aside  # type: ignore[attr-defined]

    def _on_close_callback(self, send_response_callback: Any, service: str) -> Callable[[], None]:
        """The server's only thread for events calls it. That must not wait for the servicer's lock: a Watch that begins
        holds the lock until its first message is sent, which is an event."""
        close = super()._on_close_callback(send_response_callback, service)

        def closed() -> None:
            _aside.submit(close)

        return closed


class Server:
    """A gRPC server with health; `run` blocks until SIGTERM or SIGINT and drains."""

    def __init__(
        self,
        threads: int,
        trust: Trust | None = None,
        connection_age: float = 60.0,
        reflection: bool = False,
        max_request: int = MAX_MESSAGE,
    ):
        """trust: how callers are known; None lets anybody in. connection_age: after these seconds clients connect, and
        resolve, anew: so new replicas get traffic. reflection: serve descriptions of the services too. max_request:
        bytes of a request."""
        pool = _Pool(threads)
        options = [
            *_SERVER_OPTIONS,
            ("grpc.max_receive_message_length", max_request),
            ("grpc.max_connection_age_ms", int(connection_age * 1000)),
        ]
        self._admission = _Admission(pool, threads * 2)
        interceptors: list[grpc.ServerInterceptor] = [self._admission]
        if isinstance(trust, Secret):
            interceptors.insert(0, _Door(trust))
        self._tls = trust if isinstance(trust, Tls) else None
        self._reflection = reflection
        self.grpc = grpc.server(pool, options=options, interceptors=interceptors)
        self.health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        self._names: list[str] = []
        self.is_serving = False

    def add_generic(self, service: str, handlers: dict[str, Any], callers: Sequence[str], threads: int = 0) -> None:
        """callers: services that may call it, if there is TLS to know them by. threads: of its own, which calls of
        other services never take; 0 is none."""
        if self._tls is not None:
            handlers = {name: _only_for(set(callers), handler) for name, handler in handlers.items()}
        if threads:
            pool = _Pool(threads)
            self._admission.rooms[service] = (pool, threads * 2)
            for handler in handlers.values():
                handler.unary_unary.experimental_thread_pool = pool
        self.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._names.append(service)

    def start(self, listen: str) -> int:
        """Bind and serve; returns the port. Raises OSError when the address is taken."""
        if self._reflection:
            names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self.grpc)
        try:
            if self._tls is None:
                port = self.grpc.add_insecure_port(listen)
            else:
                port = self.grpc.add_secure_port(listen, self._tls.server_credentials())
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
        self.serving(False)
        # gRPC cancels calls that come in while it stops, and a cancelled call is not tried elsewhere.
        time.sleep(_DRAIN_SECONDS)
        self.grpc.stop(grace).wait()

    def run(self, listen: str, stops: Sequence[Callable[[], None]] = ()) -> None:
        # Many short calls take turns: the default of 5 ms would be longer than most of them.
        sys.setswitchinterval(0.0005)
        signals = StopSignals()
        self.start(listen)
        log.info("serving", listen=listen)
        signals.wait()
        self.stop()
        for stop in stops:
            stop()


def _only_for(callers: set[str], handler: Any) -> Any:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        if not callers & roles_of(context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"only for {' and '.join(sorted(callers))}")
        return handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


def healthy(target: str, service: str = "", trust: Trust | None = None, timeout: float = 1.0) -> bool:
    """Whether a replica of the service at `target` says SERVING. service: its name, which TLS needs."""
    with _connect(target, service, trust, _PROBE_OPTIONS) as probe:
        try:
            asked = health_pb2.HealthCheckRequest()
            reply = health_pb2_grpc.HealthStub(probe).Check(asked, timeout=timeout, metadata=_shown(trust))
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def releases(target: str, service: str, trust: Trust | None, timeout: float = 2.0) -> tuple[int, int]:
    """How many replicas of the service at `target` are of this release, and of another; of those that answer."""
    asked, same, other = health_pb2.HealthCheckRequest(service=_RELEASE + __version__), 0, 0
    for address in _addresses_of(target):
        with _connect(address, service, trust, _PROBE_OPTIONS) as probe:
            try:
                health_pb2_grpc.HealthStub(probe).Check(asked, timeout=timeout, metadata=_shown(trust))
                same += 1
            except grpc.RpcError as error:
                other += error.code() == grpc.StatusCode.NOT_FOUND
    return same, other


def _addresses_of(target: str) -> list[str]:
    """A gRPC target for each of the replicas."""
    scheme, _, rest = target.partition(":")
    if scheme in ("ipv4", "ipv6"):
        return [f"{scheme}:{address}" for address in rest.split(",")]
    name = _dns_name(target)
    return [_as_target([address], name[1]) for address in _resolve(*name)] if name else [target]
