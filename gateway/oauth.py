"""OAuth requests on their way to the auth service. Nothing of them is kept or logged here.

Paths are those of our own metadata and those that Google's clients have compiled in. Bodies are a few kB, and that is
checked before they are read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import flask
import grpc
import orjson
import structlog
from werkzeug.exceptions import RequestEntityTooLarge

from gateway.api import Request, Response, error_response
from gstack.auth.v1 import auth_pb2, auth_pb2_grpc
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.settings import Settings, local_address

log = structlog.get_logger()

MAX_FORM = 16 * 1024
_TIMEOUT = 30.0
# What the protocol engine may see; cookies stay here.
_HEADERS = ("authorization", "content-type")

# rpc of the OAuth service -> HTTP methods and paths.
ENDPOINTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Token": (("POST",), ("/oauth2/token", "/token", "/o/oauth2/token", "/oauth2/v4/token", "/v1/token")),
    "Revoke": (("POST",), ("/oauth2/revoke", "/revoke", "/o/oauth2/revoke")),
    "Introspect": (("POST",), ("/oauth2/introspect", "/v1/introspect")),
    "DeviceAuthorization": (("POST",), ("/oauth2/device/code", "/device/code", "/o/oauth2/device/code")),
    "UserInfo": (
        ("GET", "POST"),
        (
            "/oauth2/userinfo",
            "/oauth2/v1/userinfo",
            "/oauth2/v2/userinfo",
            "/oauth2/v3/userinfo",
            "/userinfo/v2/me",
            "/v1/userinfo",
        ),
    ),
    "TokenInfo": (
        ("GET", "POST"),
        ("/oauth2/tokeninfo", "/oauth2/v1/tokeninfo", "/oauth2/v2/tokeninfo", "/oauth2/v3/tokeninfo", "/tokeninfo"),
    ),
    "Metadata": (("GET",), ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")),
    "Certificates": (("GET",), ("/oauth2/certs", "/oauth2/v3/certs")),
}
PATHS = frozenset(path for _, paths in ENDPOINTS.values() for path in paths)


class Issuer:
    """What the endpoint is called where it matters that nobody else says so: issuer of ID tokens, audience of JWTs.

    The host that a request names would make a JWT for another server, which that server passes on, good here. So it is
    the public URL, or, while there is none, an address of this machine.
    """

    def __init__(self, settings: Settings):
        self._configured = settings.public_url.rstrip("/")
        scheme = "https" if settings.gateway_tls_cert else "http"
        self._local = f"{scheme}://{local_address(settings.gateway_listen)}"
        # Clients elsewhere know it by a name that we were not told.
        self.is_missing = not self._configured and not _is_loopback(f"//{settings.gateway_listen}")
        if self.is_missing:
            log.warning("public_url_missing", listen=settings.gateway_listen, set="GSTACK_PUBLIC_URL")

    def of(self, base: str) -> str:
        """base: scheme and host of the request."""
        return self._configured or (base if _is_loopback(base) else self._local)


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class OAuth:
    def __init__(self, channel: grpc.Channel, issuer: Issuer):
        self._stub: Any = auth_pb2_grpc.OAuthStub(channel)  # type: ignore[no-untyped-call]
        self._issuer = issuer

    def call(self, rpc: str) -> Callable[[Request], Response]:
        """The function of an endpoint: it answers what auth answers."""
        method = getattr(self._stub, rpc)

        def endpoint(request: Request) -> Response:
            try:
                return response_of(method(message_of(request, self._issuer), timeout=_TIMEOUT))
            except grpc.RpcError as failure:
                raise from_rpc(failure) from None

        return endpoint


def check_form(request: flask.Request, most: int) -> bytes:
    """Reads the body, of which there may be so many bytes. Raises RequestEntityTooLarge.

    A body that does not say its length is cut off at the limit, not refused: so one byte more is asked for.
    """
    request.max_content_length = most + 1
    body = request.get_data()
    if len(body) > most:
        raise RequestEntityTooLarge
    return body


def too_large() -> Response:
    """The answer to a body beyond MAX_FORM."""
    return bad_form(ApiError(413, f"The form is larger than {MAX_FORM} bytes."))


def bad_form(error: ApiError) -> Response:
    """The answer to a body that cannot be read: RFC 6749, 5.2."""
    said = {"error": "invalid_request", "error_description": error.message}
    return Response(error.code, orjson.dumps(said), error_response(error).headers | {"Cache-Control": "no-store"})


def message_of(request: Request, issuer: Issuer) -> auth_pb2.HttpRequest:
    query = f"?{request.query}" if request.query else ""
    return auth_pb2.HttpRequest(
        uri=f"{issuer.of(request.base)}{request.path}{query}",
        method=request.method,
        headers={name.title(): value for name, value in request.headers.items() if name in _HEADERS},
        body=request.body.decode("utf-8", "replace"),
        remote_address=request.address,
        base=request.base,
    )


def response_of(message: auth_pb2.HttpResponse) -> Response:
    return Response(message.status, message.body.encode(), dict(message.headers))
