"""OAuth requests on their way to the auth service. Nothing of them is kept or logged here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from gateway.api import Request, Response
from gstack.auth.v1 import auth_pb2, auth_pb2_grpc
from gstack.kernel.errors import from_rpc

_TIMEOUT = 30.0
# What the protocol engine may see; cookies stay here.
_HEADERS = ("authorization", "content-type")


class OAuth:
    def __init__(self, channel: grpc.Channel):
        self._auth: Any = auth_pb2_grpc.AuthStub(channel)  # type: ignore[no-untyped-call]

    def token(self, uri: str, request: Request, address: str) -> Response:
        try:
            return _response(self._auth.Token(_message(uri, request, address), timeout=_TIMEOUT))
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None

    def revoke(self, uri: str, request: Request, address: str) -> Response:
        try:
            return _response(self._auth.Revoke(_message(uri, request, address), timeout=_TIMEOUT))
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None

    def authorize(self, uri: str, request: Request) -> auth_pb2.AuthorizeResponse | Response:
        """What the login page needs, or the answer to an invalid request."""
        try:
            found: auth_pb2.AuthorizeResponse = self._auth.Authorize(_message(uri, request, ""), timeout=_TIMEOUT)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None
        return _response(found.response) if found.HasField("response") else found

    def login(self, form: Mapping[str, str], address: str) -> auth_pb2.LoginResponse:
        message = auth_pb2.LoginRequest(
            ticket=form.get("ticket", ""),
            username=form.get("username", ""),
            password=form.get("password", ""),
            domain=form.get("domain", ""),
            api_key=form.get("api_key", ""),
            secret_key=form.get("secret_key", ""),
            remote_address=address,
        )
        try:
            answer: auth_pb2.LoginResponse = self._auth.Login(message, timeout=_TIMEOUT)
            return answer
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None


def _message(uri: str, request: Request, address: str) -> auth_pb2.HttpRequest:
    return auth_pb2.HttpRequest(
        uri=uri,
        method=request.method,
        headers={name.title(): value for name, value in request.headers.items() if name in _HEADERS},
        body=request.body.decode("utf-8", "replace"),
        remote_address=address,
    )


def _response(message: auth_pb2.HttpResponse) -> Response:
    return Response(message.status, message.body.encode(), dict(message.headers))
