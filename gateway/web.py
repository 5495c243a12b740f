"""The Flask application: which path goes where. Everything below `/compute/` is the API (see api.py)."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlsplit

import flask
import grpc
from flask import Flask
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response as FlaskResponse

from gateway.api import CONTROL, JSON, Api, Request, Response, error_response
from gateway.batch import Batch
from gateway.compression import inflate
from gateway.discovery import Discovery
from gateway.limits import Room
from gateway.oauth import ENDPOINTS, MAX_FORM, PATHS, Issuer, OAuth, bad_form, check_form, too_large
from gateway.pages import MAX_PAGE_FORM, add_pages
from gateway.routes import BESIDES, COMPUTE, IAM, Router, Surface
from gateway.tokens import Tokens
from gstack.kernel import metrics, rpc, tracing, trust
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


# What the API measures and traces itself, each of its methods by name.
_API = ("/compute/", "/v1/<", *(f"/{surface.mount}" for surface in BESIDES))
# Service accounts and public keys are small, and auth takes no large requests.
_MAX_IAM_BODY = 64 * 1024
# Of the memory for encoded answers, besides, for those of each API that auth answers, which are small and few.
_IAM_PART = 16
# What the readiness of a gateway is made of.
CHECKS = ("gateway", "translator", "auth")
# Probes are answered whatever else there is to do.
_PROBES = ("/healthz", "/readyz", "/readyz/<name>")

# Paths below which there are requests with JSON; all others take forms, and not large ones.
_LARGE = ("/compute/", "/batch", "/v1/projects/", *(f"/{surface.mount}" for surface in BESIDES))
_HOST = re.compile(r"((?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def is_probe(path: str) -> bool:
    return path in ("/healthz", "/readyz") or path.startswith("/readyz/")


def body_limit(settings: Settings, path: str) -> int:
    """Bytes that a request to this path may have."""
    return settings.max_body if path.startswith(_LARGE) else MAX_PAGE_FORM


def is_host(text: str) -> bool:
    """Whether it can be the host of a link: a name, also an international one in its ASCII form, or an address."""
    found = _HOST.fullmatch(text)
    if len(text) > 255 or found is None:
        return False
    if "xn--" in text.lower():
        try:
            found[1].encode().decode("idna")
        except UnicodeError:
            return False
    return True


def create_app(settings: Settings, draining: Callable[[], bool] = lambda: False) -> Flask:
    """The WSGI application of one process. gRPC channels are made here, so call it after a fork.

    draining: whether this gateway was told to stop, and only serves on until balancers know it.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.url_map.merge_slashes = False
    app.wsgi_app = _with_host(app.wsgi_app)  # type: ignore[method-assign]
    if settings.proxies:
        # Addresses for limits and the audit log, scheme and host for links: from the proxies that are ours only.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.proxies, x_proto=settings.proxies, x_host=settings.proxies
        )
    known = trust.of(settings)
    translator = rpc.channel(settings.translator_target, "translator", known)
    auth = rpc.channel(settings.auth_target, "auth", known)
    room = Room(settings.gateway_threads)
    issuer = Issuer(settings)
    tokens = Tokens(auth, settings.token_cache_seconds, issuer.of)
    api = Api(settings, Router(COMPUTE), translator, tokens)
    small = {"max_body": _MAX_IAM_BODY, "reply_cache_bytes": settings.reply_cache_bytes // _IAM_PART}
    of_auth = settings.model_copy(update=small)
    iam = Api(of_auth, Router(IAM), auth, tokens)
    batch = Batch(api)
    discovery = Discovery(api.router)
    oauth = OAuth(auth, issuer)

    def base() -> str:
        # Flask would spell an international name out.
        environ = flask.request.environ
        scheme, host = environ["wsgi.url_scheme"], environ.get("HTTP_HOST") or flask.request.host
        return settings.public_url.rstrip("/") or f"{scheme}://{host.removesuffix(_DEFAULT_PORTS[scheme])}"

    def incoming() -> Request:
        environ = flask.request.environ
        raw: str = environ.get("RAW_URI") or quote(environ["PATH_INFO"].encode("latin-1"))
        path = urlsplit(raw).path if "://" in raw[:10] else raw.partition("?")[0]
        request = Request(
            method=flask.request.method,
            path=path,
            query=environ.get("QUERY_STRING", ""),
            headers={name.lower(): value for name, value in flask.request.headers.items()},
            body=flask.request.get_data(),
            base=base(),
            address=flask.request.remote_addr or "",
            id=flask.g.id,
            traceparent=flask.request.headers.get("Traceparent", ""),
        )
        return request

    def outgoing(response: Response) -> FlaskResponse:
        if len(response.body) > 1024 and "gzip" in flask.request.headers.get("Accept-Encoding", ""):
            response = api.compressed(response)
        return flask.Response(response.body, response.status, response.headers)

    def check_text() -> None:
        """What is no API takes forms, which are text."""
        try:
            body = check_form(flask.request, MAX_PAGE_FORM)
        except RequestEntityTooLarge:
            raise ApiError(413, f"Request payload size exceeds the limit: {MAX_PAGE_FORM} bytes.") from None
        for name, text in (("form", body.decode("latin-1")), ("query", flask.request.environ["QUERY_STRING"])):
            if CONTROL.search(text):
                raise ApiError(400, f"The {name} has control characters.", "invalid")

    def rule() -> str:
        return flask.request.url_rule.rule if flask.request.url_rule else "unknown"

    @app.before_request
    def begin() -> FlaskResponse | None:
        flask.g.started, flask.g.id, flask.g.held = time.monotonic(), uuid.uuid4().hex, ExitStack()
        flask.g.has_place = False
        if rule() not in _PROBES:
            flask.g.held.enter_context(room.place())
        flask.g.has_place = True
        environ, path = flask.request.environ, flask.request.path
        try:
            inflate(environ, body_limit(settings, path))
        except ApiError as error:
            if path not in PATHS:
                raise
            answer = too_large() if error.code == 413 else bad_form(error)
            return flask.Response(answer.body, answer.status, answer.headers)
        if not path.startswith(_LARGE):
            check_text()
        if not rule().startswith(_API):
            traceparent = flask.request.headers.get("Traceparent", "")
            flask.g.held.enter_context(tracing.request(rule(), flask.g.id, traceparent))
        return None

    @app.after_request
    def measure(answer: FlaskResponse) -> FlaskResponse:
        if not rule().startswith(_API) or not flask.g.has_place:
            seconds = time.monotonic() - flask.g.started
            metrics.HTTP_SECONDS.labels(rule(), str(answer.status_code)).observe(seconds)
            tracing.note(status=answer.status_code)
        answer.headers.setdefault("X-Request-Id", flask.g.id)
        return answer

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        flask.g.held.close()

    # The API

    @app.route("/compute/", defaults={"_": ""}, methods=_METHODS)
    @app.route("/compute/<path:_>", methods=_METHODS)
    def compute(_: str) -> FlaskResponse:
        return outgoing(api.handle(incoming()))

    @app.route("/v1/<path:_>", methods=_METHODS)
    def service_accounts(_: str) -> FlaskResponse:
        return outgoing(iam.handle(incoming()))

    def add_api(surface: Surface) -> None:
        beside = Api(of_auth, Router(surface), auth, tokens)

        def call(_: str) -> FlaskResponse:
            return outgoing(beside.handle(incoming()))

        app.add_url_rule(f"/{surface.mount}<path:_>", surface.mount, call, methods=_METHODS)

    for surface in BESIDES:
        add_api(surface)

    @app.post("/batch")
    @app.post("/batch/compute/<_version>")
    def run_batch(_version: str = "v1") -> FlaskResponse:
        return outgoing(batch.handle(incoming()))

    @app.get("/discovery/v1/apis")
    def directory() -> FlaskResponse:
        return outgoing(Response(200, discovery.directory(base())))

    @app.get("/discovery/v1/apis/compute/<version>/rest")
    @app.get("/$discovery/rest")
    def document(version: str = "") -> FlaskResponse:
        version = version or flask.request.args.get("version", "v1")
        found = discovery.document(version, base())
        if found is None:
            return outgoing(error_response(ApiError(404, "Requested entity was not found.", "notFound")))
        body, etag = found
        if flask.request.headers.get("If-None-Match") == etag:
            return flask.Response(status=304, headers={"ETag": etag})
        return outgoing(Response(200, body, {"Content-Type": JSON, "ETag": etag, "Cache-Control": "max-age=300"}))

    # OAuth: auth is the engine, these only carry (uri, method, headers, form) there and back.

    def add_endpoint(rpc_name: str, verbs: tuple[str, ...], paths: tuple[str, ...]) -> None:
        call = oauth.call(rpc_name)

        def endpoint() -> FlaskResponse:
            try:
                check_form(flask.request, MAX_FORM)
                answer = call(incoming())
            except RequestEntityTooLarge:
                answer = too_large()
            return flask.Response(answer.body, answer.status, answer.headers)

        for path in paths:
            app.add_url_rule(path, f"{rpc_name}{path}", endpoint, methods=verbs)

    for name, (verbs, paths) in ENDPOINTS.items():
        add_endpoint(name, verbs, paths)

    # For people and for probes

    found: tuple[Callable[[], bool], ...] = (
        lambda: not draining(),
        lambda: rpc.healthy(settings.translator_target, "translator", known),
        lambda: rpc.healthy(settings.auth_target, "auth", known),
    )
    checks = dict(zip(CHECKS, found, strict=True))

    def health() -> dict[str, bool]:
        return {name: check() for name, check in checks.items()}

    add_pages(app, auth, base=base, issuer=issuer, health=health, incoming=incoming)

    @app.get("/healthz")
    def alive() -> FlaskResponse:
        return flask.Response(b'{"status": "ok"}\n', 200, {"Content-Type": JSON})

    @app.get("/readyz")
    @app.get("/readyz/<name>")
    def ready(name: str = "") -> FlaskResponse:
        good, body = metrics.readiness(checks, name)
        return flask.Response(body, 200 if good else 503, {"Content-Type": JSON})

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> FlaskResponse:
        """Flask's own refusals in Google's envelope."""
        code = error.code or 500
        message = str(error.description or error.name)
        if isinstance(error, NotFound):
            message = f"The requested URL {flask.request.path} was not found on this server."
        return outgoing(error_response(ApiError(code, message)))

    @app.errorhandler(grpc.RpcError)
    def unavailable(_: Exception) -> FlaskResponse:
        return outgoing(error_response(ApiError(503, "The service is unavailable. Try again later.", retry_after=5)))

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> FlaskResponse:
        return outgoing(error_response(error))

    return app


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def _with_host(app: Any) -> Any:
    """The WSGI application, for hosts that can be: Flask's own code fails for others, and links lead to them."""

    def call(environ: dict[str, Any], start: Any) -> Any:
        host = environ.get("HTTP_HOST", "")
        if (host and not is_host(host)) or environ["wsgi.url_scheme"] not in _DEFAULT_PORTS:
            refusal = error_response(ApiError(400, "The host of the request is malformed.", "invalid"))
            return flask.Response(refusal.body, refusal.status, refusal.headers)(environ, start)
        return app(environ, start)

    return call
