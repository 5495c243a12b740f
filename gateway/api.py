"""The life of a request, as one ordered list of steps. Batch parts go through the same steps.

    normalize     method override, version and path
    find_route    404, 405
    authenticate  bearer token to principal: 401, 403, 503
    admit         429 for a user with too many requests in hand
    decode        path + query + JSON to a request message, `fields` to a mask: 400, 413
    call          one gRPC call to a translator
    encode        reply message, `fields` mask, JSON

One pass; a step that raises ApiError ends it, and `handle` makes Google's envelope of it. A method of Google's that is
not ours makes no call, and its answer is what there is to say about it (see others.py).
"""

from __future__ import annotations

import gzip
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import grpc
import structlog
from cachetools import LRUCache
from google.protobuf.message import Message

from gateway import codec, fields
from gateway.fields import Mask
from gateway.limits import Users
from gateway.others import Other
from gateway.routes import COMPUTE, CREDENTIALS, Route, Router
from gateway.tokens import Principal, Tokens
from gstack.kernel import metrics, rpc, tracing
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.logs import audit
from gstack.kernel.settings import Settings
from gstack.kernel.waits import Waits

log = structlog.get_logger()

JSON = "application/json; charset=UTF-8"
_CALL_SECONDS = 150.0
# Of a URL, or of a form that stands for one.
_MAX_QUERY = 64 * 1024
_MAX_PARAMETERS = 200
# Control characters in what is still escaped, but those that a person may type.
CONTROL = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f]|%(?:0[0-8bcefBCEF]|1[0-9a-fA-F]|7[fF])")
# Of one entry of a cache, besides its bytes: key, links, objects.
_ENTRY_BYTES = 400
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass
class Request:
    """A request, or a part of a batch. path: still escaped; base: scheme and host the client used.

    may_wait: for something to end, if it is a request for that.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    base: str
    address: str = ""  # of the client
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    traceparent: str = ""
    may_wait: bool = True

    # What the steps find out, in their order.
    parameters: list[tuple[str, str]] = field(default_factory=list)
    version: str = "v1"
    route: Route | Other | None = None
    path_parameters: dict[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    admitted: bool = False
    message: Message | None = None
    cleared: list[str] = field(default_factory=list)
    mask: Mask | None = None
    reply: bytes = b""

    def parameter(self, name: str, default: str = "") -> str:
        """A system parameter, with or without `$`; the last one counts."""
        return next((value for key, value in reversed(self.parameters) if key.lstrip("$") == name), default)


@dataclass
class Response:
    """keep: whether it may be remembered; not what was made for this request alone, which may be a secret."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})
    keep: bool = True


class Api:
    """Everything a request needs, made once a process."""

    def __init__(self, settings: Settings, router: Router, channel: grpc.Channel, tokens: Tokens):
        """channel: to the service behind the methods of `router`."""
        self.settings = settings
        self.router = router
        self.tokens = tokens
        self._calls: dict[str, Any] = {route.rpc: channel.unary_unary(route.rpc) for route in router.routes}
        self._encoded: LRUCache[Any, bytes] = LRUCache(
            settings.reply_cache_bytes, getsizeof=lambda body: len(body) + _ENTRY_BYTES
        )
        self._lock = threading.Lock()
        self.users = Users(settings.gateway_requests_per_user)
        # Half of the threads are for what is quick, and half of the others for somebody else.
        self.waits = Waits(max(settings.gateway_threads // 2, 1), max(settings.gateway_threads // 4, 1))
        self.steps = (self.normalize, self.find_route, self.authenticate, self.admit, self.decode, self.call)

    def handle(self, request: Request) -> Response:
        """Any request below the API's prefix. Never raises."""
        started = time.monotonic()
        with tracing.request("request", request.id, request.traceparent), metrics.running(metrics.HTTP_RUNNING):
            try:
                for step in self.steps:
                    step(request)
                response = self.encode(request) if isinstance(request.route, Route) else self.say(request)
            except ApiError as error:
                response = self.refuse(error)
            except Exception:
                log.exception("unexpected_error", path=request.path)
                response = self.refuse(ApiError(500, f"Internal error. Request id: {request.id}"))
            finally:
                if request.admitted and request.principal is not None:
                    self.users.leave(request.principal.key)
            if request.route is not None and request.route.mutates:
                self.audit(request, response)
            seconds = time.monotonic() - started
            # Google has a thousand methods, and each would be a series of its own.
            method = request.route.id if isinstance(request.route, Route) else "unknown"
            metrics.HTTP_SECONDS.labels(method, str(response.status)).observe(seconds)
            tracing.note(method, status=response.status)
            log.info(
                "request",
                method=request.route.id if request.route else "",
                verb=request.method,
                path=request.path,
                status=response.status,
                subject=request.principal.subject if request.principal else "",
                seconds=round(seconds, 4),
            )
        response.headers.setdefault("X-Request-Id", request.id)
        return response

    # The steps

    def normalize(self, request: Request) -> None:
        """`X-HTTP-Method-Override` on POST, path below `/compute/{version}/`, query parameters."""
        override = request.headers.get("x-http-method-override", "").upper()
        if override and request.method == "POST":
            if override not in _METHODS:
                raise ApiError(400, f"Invalid X-HTTP-Method-Override: {override[:20]}", "invalid")
            request.method = override
            # Clients put a query that is too long for a URL into the form body.
            if override == "GET" and request.headers.get("content-type", "").startswith(
                "application/x-www-form-urlencoded"
            ):
                request.query, request.body = request.body.decode("latin-1"), b""
        if len(request.query) > _MAX_QUERY:
            raise ApiError(400, f"The query has more than {_MAX_QUERY} bytes.", "invalid")
        if CONTROL.search(request.query):
            raise ApiError(400, "The query has control characters.", "invalid")
        try:
            request.parameters = parse_qsl(
                request.query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
            )
            unquote_to_bytes(request.path).decode("utf-8")
        except UnicodeDecodeError:
            raise ApiError(400, "The request URL is not valid UTF-8.", "invalid") from None
        except ValueError:
            raise ApiError(400, f"The query has more than {_MAX_PARAMETERS} parameters.", "invalid") from None

    def find_route(self, request: Request) -> None:
        surface = self.router.surface
        path = request.path.lstrip("/").removeprefix(surface.mount + surface.prefix).lstrip("/")
        version, _, rest = path.partition("/")
        # A single name may be a project's (see Router.find), but of somebody without a token it is no path of GCE's.
        is_bare = surface is COMPUTE and "/" not in rest.strip("/") and "authorization" not in request.headers
        if version not in surface.versions or is_bare:
            raise ApiError(404, f"The requested URL {request.path} was not found on this server.", "notFound")
        request.version = version
        request.route, request.path_parameters = self.router.find(request.method, rest)

    def authenticate(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "")
        request.principal = self.tokens.principal(authorization, request.base, request.address)
        assert request.route is not None
        request.principal.check_scope(self.router.surface.scopes, request.route.mutates)

    def admit(self, request: Request) -> None:
        assert request.principal is not None
        self.users.enter(request.principal.key)
        request.admitted = True

    def decode(self, request: Request) -> None:
        if len(request.body) > self.settings.max_body:
            raise ApiError(413, f"Request payload size exceeds the limit: {self.settings.max_body} bytes.")
        alt = request.parameter("alt", "json")
        if alt not in ("json", "json;enum-encoding=int"):
            raise ApiError(400, f"Invalid value for field 'alt': '{alt[:20]}'.", "invalidParameter", "alt")
        request.mask = fields.parse(request.parameter("fields"))
        if isinstance(request.route, Route):
            request.message, request.cleared = request.route.decode(
                request.path_parameters, request.parameters, request.body
            )

    def call(self, request: Request) -> None:
        assert request.principal is not None
        if isinstance(request.route, Other):
            return
        if not _route(request).waits:
            self.ask(request)
            return
        with self.waits.place(request.principal.key) as granted:
            request.may_wait &= granted
            self.ask(request)

    def ask(self, request: Request) -> None:
        assert request.principal is not None and request.message is not None
        metadata: list[tuple[str, str | bytes]] = [
            (rpc.CREDENTIAL, request.principal.credential),
            (rpc.LINK_BASE, self.link_base(request)),
        ]
        if not request.may_wait:
            metadata.append((rpc.AT_ONCE, "1"))
        if request.cleared:
            metadata.append((rpc.CLEARED, ",".join(request.cleared)))
        try:
            request.reply = self._calls[_route(request).rpc](
                request.message.SerializeToString(), timeout=_CALL_SECONDS, metadata=metadata
            )
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None

    def say(self, request: Request) -> Response:
        """What there is of a method that is not ours. Raises 400 and 404."""
        assert isinstance(request.route, Other)
        value = request.route.answer(
            request.path_parameters["path"], self.link_base(request), self.router.surface.advice
        )
        return Response(200, codec.to_json(_masked(request, value), _is_pretty(request)))

    def encode(self, request: Request) -> Response:
        """The same reply is encoded once: the cache knows encoded answers by what they were made from."""
        route = _route(request)
        pretty = _is_pretty(request)
        # All keys are of one size, whatever clients make up.
        selected = hash(request.parameter("fields"))
        key = (route.id, hash(request.reply), len(request.reply), selected, pretty)
        with self._lock:
            body = self._encoded.get(key)
        metrics.CACHE.labels("encoded", "miss" if body is None else "hit").inc()
        if body is None:
            value = route.encode(route.reply.FromString(request.reply))
            body = codec.to_json(_masked(request, value), pretty)
            if not route.mutates and len(body) <= self.settings.reply_cache_bytes // 8:
                with self._lock:
                    self._encoded[key] = body
        return Response(200, body, keep=not route.mutates)

    def compressed(self, response: Response) -> Response:
        """The same response in gzip; large answers that are asked for again are compressed once."""
        key = ("gzip", hash(response.body), len(response.body))
        with self._lock:
            body = self._encoded.get(key)
        if body is None:
            body = gzip.compress(response.body, compresslevel=1, mtime=0)
            if response.keep and len(body) <= self.settings.reply_cache_bytes // 8:
                with self._lock:
                    self._encoded[key] = body
        return Response(
            response.status, body, {**response.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        )

    def refuse(self, error: ApiError) -> Response:
        return error_response(error, self.router.surface.canonical_status)

    def audit(self, request: Request, response: Response) -> None:
        """Who changed what, from where, with which result; `operation` leads to the rest of the story."""
        operation = ""
        assert request.route is not None
        if request.reply and _route(request).reply.DESCRIPTOR.name == "Operation":
            operation = _route(request).reply.FromString(request.reply).name  # type: ignore[attr-defined]
        audit(
            request.route.id,
            subject=request.principal.subject if request.principal else "",
            resource=request.path,
            remote_address=request.address,
            status=response.status,
            operation=operation,
        )

    def link_base(self, request: Request) -> str:
        """Scheme, host and version of links: those of the settings, in the version that was asked.

        gcutil compares links with its `--api_host` and version, so it always gets its own. Other APIs have no links but
        in key files, which always lead here; ID tokens name the endpoint as it is configured.
        """
        if self.router.surface is CREDENTIALS:
            return self.tokens.issuer(request.base)
        if self.router.surface is not COMPUTE:
            return request.base
        if self.settings.link_base == "request" or is_gcutil(request.headers.get("user-agent", "")):
            return f"{request.base}/compute/{request.version}"
        return f"{self.settings.link_base}/compute/{request.version}"


def _route(request: Request) -> Route:
    assert isinstance(request.route, Route)
    return request.route


def _is_pretty(request: Request) -> bool:
    return request.parameter("prettyPrint", "true").lower() not in ("false", "0")


def _masked(request: Request, value: dict[str, Any]) -> Any:
    return fields.apply(request.mask, value) if request.mask else value


def is_gcutil(user_agent: str) -> bool:
    return "Cloud SDK Command Line Tool" in user_agent or "gcutil" in user_agent


def error_response(error: ApiError, canonical_status: bool = False) -> Response:
    """Google's envelope, with the headers that a status asks for."""
    response = Response(error.code, codec.to_json(error.envelope(canonical_status), True))
    if error.code == 401:
        challenge = 'Bearer realm="https://accounts.google.com/"'
        response.headers["WWW-Authenticate"] = (
            challenge if error.reason == "required" else challenge + ', error="invalid_token"'
        )
    if error.code == 415:
        response.headers["Accept-Encoding"] = "gzip, deflate"
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    return response
