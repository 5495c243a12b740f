"""The Flask application: which path goes where. Everything below `/compute/` is the API (see api.py)."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import flask
import grpc
from flask import Flask
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as FlaskResponse

from gateway import codec
from gateway.api import JSON, Api, Request, Response, error_response
from gateway.batch import Batch
from gateway.discovery import Discovery
from gateway.oauth import OAuth
from gateway.snippets import snippets
from gateway.tokens import Tokens
from gstack import __version__
from gstack.kernel import rpc
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# Pages need no scripts and load nothing; the style sheet is in the page and allowed by its nonce.
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_CSRF_COOKIE = "gstack_csrf"


def create_app(settings: Settings) -> Flask:
    """The WSGI application of one process. gRPC channels are made here, so call it after a fork."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body * 2
    app.url_map.merge_slashes = False
    translator, auth = rpc.channel(settings.translator_target), rpc.channel(settings.auth_target)
    api = Api(settings, translator, Tokens(auth, settings.token_cache_seconds))
    batch = Batch(api)
    discovery = Discovery(api.router)
    oauth = OAuth(auth)

    def base() -> str:
        return settings.public_url.rstrip("/") or flask.request.host_url.rstrip("/")

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
        )
        return request

    def outgoing(response: Response) -> FlaskResponse:
        if len(response.body) > 1024 and "gzip" in flask.request.headers.get("Accept-Encoding", ""):
            response = api.compressed(response)
        return flask.Response(response.body, response.status, response.headers)

    def page(template: str, status: int = 200, **values: Any) -> FlaskResponse:
        nonce = secrets.token_urlsafe(16)
        body = flask.render_template(template, nonce=nonce, version=__version__, base=base(), **values)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; frame-ancestors 'none'; base-uri 'none'"
        return flask.Response(body, status, {**_PAGE_HEADERS, "Content-Security-Policy": policy}, mimetype="text/html")

    # The API

    @app.route("/compute/", defaults={"_": ""}, methods=_METHODS)
    @app.route("/compute/<path:_>", methods=_METHODS)
    def compute(_: str) -> FlaskResponse:
        return outgoing(api.handle(incoming()))

    @app.post("/batch")
    @app.post("/batch/compute/<_version>")
    def run_batch(_version: str = "v1") -> FlaskResponse:
        return outgoing(batch.handle(incoming()))

    @app.get("/discovery/v1/apis")
    def directory() -> FlaskResponse:
        return outgoing(Response(200, discovery.directory(base())))

    @app.get("/discovery/v1/apis/compute/<version>/rest")
    def document(version: str) -> FlaskResponse:
        found = discovery.document(version, base())
        if found is None:
            return outgoing(error_response(ApiError(404, "Requested entity was not found.", "notFound")))
        body, etag = found
        if flask.request.headers.get("If-None-Match") == etag:
            return flask.Response(status=304, headers={"ETag": etag})
        return outgoing(Response(200, body, {"Content-Type": JSON, "ETag": etag, "Cache-Control": "max-age=300"}))

    # OAuth: auth is the engine, these only carry (uri, method, headers, form) there and back.

    def token_endpoint(call: Callable[..., Response]) -> FlaskResponse:
        request = incoming()
        answer = call(f"{base()}{request.path}?{request.query}".rstrip("?"), request, flask.request.remote_addr or "")
        return flask.Response(answer.body, answer.status, answer.headers)

    for path in ("/oauth2/token", "/token", "/o/oauth2/token", "/oauth2/v4/token"):
        app.add_url_rule(path, f"token{path}", lambda: token_endpoint(oauth.token), methods=["POST"])
    for path in ("/oauth2/revoke", "/revoke", "/o/oauth2/revoke"):
        app.add_url_rule(path, f"revoke{path}", lambda: token_endpoint(oauth.revoke), methods=["POST"])

    def authorize() -> FlaskResponse:
        request = incoming()
        found = oauth.authorize(f"{base()}{request.path}?{request.query}", request)
        if isinstance(found, Response):
            if "Location" in found.headers:
                return flask.Response(b"", 303, {**_PAGE_HEADERS, "Location": found.headers["Location"]})
            return page("message.html", found.status, title="This request cannot be answered", text=_reason(found))
        return login_page(found.ticket, found.client_name, list(found.scopes))

    def login_page(ticket: str, client: str, scopes: list[str], failure: str = "", typed: str = "") -> FlaskResponse:
        token = flask.request.cookies.get(_CSRF_COOKIE) or secrets.token_urlsafe(24)
        answer = page(
            "login.html",
            401 if failure else 200,
            ticket=ticket,
            client=client,
            scopes=scopes,
            failure=failure,
            typed=typed,
            csrf=token,
        )
        secure = base().startswith("https://")
        answer.set_cookie(_CSRF_COOKIE, token, httponly=True, samesite="Lax", secure=secure, path="/oauth2/")
        return answer

    for path in ("/oauth2/auth", "/o/oauth2/auth", "/o/oauth2/v2/auth"):
        app.add_url_rule(path, f"authorize{path}", authorize, methods=["GET"])

    @app.post("/oauth2/login")
    def login() -> FlaskResponse:
        form = flask.request.form
        cookie = flask.request.cookies.get(_CSRF_COOKIE, "")
        if not cookie or not hmac.compare_digest(cookie.encode(), form.get("csrf", "").encode()):
            return page(
                "message.html", 403, title="This form is too old", text="Go back to your program and begin again."
            )
        answer = oauth.login(form, flask.request.remote_addr or "")
        if answer.redirect_uri:
            return flask.Response(b"", 303, {**_PAGE_HEADERS, "Location": answer.redirect_uri})
        if answer.code:
            return page("code.html", code=answer.code)
        scopes = form.getlist("scope")
        return login_page(
            form.get("ticket", ""), form.get("client", ""), scopes, answer.failure, form.get("username", "")
        )

    # For people and for probes

    def health() -> dict[str, bool]:
        return {"translator": rpc.healthy(settings.translator_target), "auth": rpc.healthy(settings.auth_target)}

    @app.get("/")
    def index() -> FlaskResponse:
        return page("index.html", health=health(), snippets=snippets(base(), flask.request.args.get("project", "")))

    @app.get("/healthz")
    def alive() -> FlaskResponse:
        return flask.Response(b'{"status": "ok"}\n', 200, {"Content-Type": JSON})

    @app.get("/readyz")
    def ready() -> FlaskResponse:
        found = health()
        status = 200 if all(found.values()) else 503
        return flask.Response(
            codec.to_json({"ready": status == 200, "services": found}, True), status, {"Content-Type": JSON}
        )

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


def _reason(response: Response) -> str:
    try:
        found = json.loads(response.body)
        return str(found.get("error_description") or found.get("error"))
    except (ValueError, AttributeError):
        return "The request is invalid."
