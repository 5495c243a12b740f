"""OAuth requests on their way to the auth service. Nothing of them is kept or logged here.

Paths are those of our own metadata and those that Google's clients have compiled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from gateway.api import Request, Response
from gstack.auth.v1 import auth_pb2, auth_pb2_grpc
from gstack.kernel.errors import from_rpc

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


class OAuth:
    def __init__(self, channel: grpc.Channel):
        self._stub: Any = auth_pb2_grpc.OAuthStub(channel)  # type: ignore[no-untyped-call]

    def call(self, rpc: str) -> Callable[[Request], Response]:
        """The function of an endpoint: it answers what auth answers."""
        method = getattr(self._stub, rpc)

        def endpoint(request: Request) -> Response:
            try:
                return response_of(method(message_of(request), timeout=_TIMEOUT))
            except grpc.RpcError as failure:
                raise from_rpc(failure) from None

        return endpoint


def message_of(request: Request) -> auth_pb2.HttpRequest:
    query = f"?{request.query}" if request.query else ""
    return auth_pb2.HttpRequest(
        uri=f"{request.base}{request.path}{query}",
        method=request.method,
        headers={name.title(): value for name, value in request.headers.items() if name in _HEADERS},
        body=request.body.decode("utf-8", "replace"),
        remote_address=request.address,
        base=request.base,
    )


def response_of(message: auth_pb2.HttpResponse) -> Response:
    return Response(message.status, message.body.encode(), dict(message.headers))
