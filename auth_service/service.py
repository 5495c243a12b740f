"""The gRPC face of the OAuth server: oauthlib's endpoints behind the Auth service."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import orjson
import structlog
from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    BearerToken,
    ClientCredentialsGrant,
    OAuth2Error,
    RefreshTokenGrant,
    RevocationEndpoint,
    TokenEndpoint,
)

from auth_service import clients
from auth_service.store import AuthStore, Credential
from auth_service.validator import TRUST_SECONDS, Validator
from gstack.auth.v1 import auth_pb2 as pb
from gstack.auth.v1 import auth_pb2_grpc, identity_pb2, identity_pb2_grpc
from gstack.kernel import rpc, sealing
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.settings import Settings

log = structlog.get_logger()

TICKET_SECONDS = 600.0
_TIMEOUT = 30.0
_TICKET = "ticket"


class OAuthServer(AuthorizationEndpoint, TokenEndpoint, RevocationEndpoint):  # type: ignore[misc]
    """oauthlib's endpoints with the grants we offer: authorization code, refresh, client credentials."""

    def __init__(self, validator: Validator, access_seconds: int):
        code = AuthorizationCodeGrant(validator)
        bearer = BearerToken(
            validator,
            token_generator=lambda request: secrets.token_urlsafe(32),
            expires_in=access_seconds,
            refresh_token_generator=lambda request: secrets.token_urlsafe(32),
        )
        grants = {
            "authorization_code": code,
            "refresh_token": RefreshTokenGrant(validator),
            "client_credentials": ClientCredentialsGrant(validator),
        }
        AuthorizationEndpoint.__init__(self, "code", response_types={"code": code}, default_token_type=bearer)
        TokenEndpoint.__init__(self, "authorization_code", grant_types=grants, default_token_type=bearer)
        RevocationEndpoint.__init__(self, validator)


class AuthService(auth_pb2_grpc.AuthServicer):
    """The five calls of the gateway."""

    def __init__(
        self, store: AuthStore, sealer: sealing.Sealer, identity: identity_pb2_grpc.IdentityStub, settings: Settings
    ):
        self._store = store
        self._sealer = sealer
        self._identity = identity
        self._server = OAuthServer(
            Validator(store, self._verify, settings.access_token_seconds), settings.access_token_seconds
        )

    # OAuth endpoints

    def Token(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._respond(
            self._server.create_token_response(request.uri, request.method, request.body, dict(request.headers))
        )

    def Revoke(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._respond(
            self._server.create_revocation_response(request.uri, request.method, request.body, dict(request.headers))
        )

    def Authorize(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.AuthorizeResponse:
        try:
            scopes, found = self._server.validate_authorization_request(
                request.uri, request.method, request.body, dict(request.headers)
            )
        except OAuth2Error as error:
            return pb.AuthorizeResponse(response=_refusal(error))
        if found.get("code_challenge") and found.get("code_challenge_method") != "S256":
            refusal = {"error": "invalid_request", "error_description": "code_challenge_method must be S256"}
            return pb.AuthorizeResponse(response=pb.HttpResponse(status=400, body=json.dumps(refusal)))
        client = clients.tool(found["client_id"]) or clients.Client(found["client_id"], "a program")
        ticket = orjson.dumps({"uri": request.uri, "scopes": scopes, "expires": time.time() + TICKET_SECONDS})
        return pb.AuthorizeResponse(
            ticket=self._sealer.seal(ticket, _TICKET).hex(), client_name=client.name, scopes=scopes
        )

    def Login(self, request: pb.LoginRequest, context: grpc.ServicerContext) -> pb.LoginResponse:
        try:
            ticket = orjson.loads(self._sealer.open(bytes.fromhex(request.ticket), _TICKET))
        except (sealing.SealError, ValueError):
            ticket = {"expires": 0.0}
        if ticket["expires"] < time.time():
            return pb.LoginResponse(failure="This page is too old. Go back to your program and begin again.")
        try:
            credential = self._sign_in(request)
        except ApiError as error:
            if error.code != 401:
                raise
            log.info("login_refused", remote_address=request.remote_address)
            told = error.message if error.reason in ("secondFactor", "noKeys") else ""
            return pb.LoginResponse(failure=told or "The name or the password, or one of the keys, is wrong.")
        log.info("login", subject=credential.subject, remote_address=request.remote_address)
        try:
            headers, _, _ = self._server.create_authorization_response(
                ticket["uri"], "GET", None, {}, scopes=ticket["scopes"], credentials={"user": credential}
            )
        except OAuth2Error as error:
            return pb.LoginResponse(failure=str(error.description or error.error))
        location = headers["Location"]
        if location.partition("?")[0] in clients.SHOWN_CODE:
            query = parse_qs(urlsplit(location).query)
            if "code" in query:
                return pb.LoginResponse(code=query["code"][0])
            return pb.LoginResponse(failure=query.get("error_description", query.get("error", ["refused"]))[0])
        return pb.LoginResponse(redirect_uri=location)

    def Introspect(self, request: pb.IntrospectRequest, context: grpc.ServicerContext) -> pb.Principal:
        row = self._store.token(request.token, "access")
        credential = self._store.credential(row["credential_id"]) if row else None
        if row is None or credential is None:
            return pb.Principal(active=False)
        key = f"{credential.account_id}/{credential.user_id}"
        sealed = {
            "api_key": credential.api_key,
            "secret_key": credential.secret_key,
            "account_id": credential.account_id,
            "account_name": credential.account_name,
            "subject": credential.subject,
            "key": key,
        }
        return pb.Principal(
            active=True,
            subject=credential.subject,
            key=key,
            scopes=row["scopes"].split(),
            expires_at=int(row["expires"]),
            credential=self._sealer.seal(orjson.dumps(sealed), sealing.CREDENTIAL),
        )

    # CloudStack users

    def _sign_in(self, request: pb.LoginRequest) -> Credential:
        """Raises ApiError 401 when CloudStack refuses."""
        if request.api_key:
            found = self._verify(request.api_key, request.secret_key)
            if found is None:
                raise ApiError(401, "Invalid Credentials")
            return found
        typed = {"username": request.username, "password": request.password, "domain": request.domain}
        sealed = self._sealer.seal(orjson.dumps(typed), sealing.IDENTITY)
        try:
            reply = self._identity.Login(identity_pb2.PasswordLogin(login=sealed), timeout=_TIMEOUT)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None
        keys = orjson.loads(self._sealer.open(reply.credential, sealing.IDENTITY))
        return self._store.save_credential(keys["api_key"], keys["secret_key"], reply.account)

    def _verify(self, api_key: str, secret_key: str) -> Credential | None:
        """Whom the keys belong to, asked of CloudStack at most once a minute for the same pair."""
        known = self._store.verified_credential(api_key, secret_key, time.time() - TRUST_SECONDS)
        if known is not None:
            return known
        sealed = self._sealer.seal(orjson.dumps({"api_key": api_key, "secret_key": secret_key}), sealing.IDENTITY)
        try:
            account = self._identity.Verify(identity_pb2.VerifyRequest(credential=sealed), timeout=_TIMEOUT)
        except grpc.RpcError as failure:
            error = from_rpc(failure)
            if error.code == 401:
                return None
            raise error from None
        return self._store.save_credential(api_key, secret_key, account)

    @staticmethod
    def _respond(answer: tuple[dict[str, str], str | None, int]) -> pb.HttpResponse:
        headers, body, status = answer
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json", **headers}
        if status == 401:
            headers.setdefault("WWW-Authenticate", 'Basic realm="oauth2"')
        return pb.HttpResponse(status=status, headers=headers, body=body or "")


def _refusal(error: OAuth2Error) -> pb.HttpResponse:
    """Fatal errors are told to the person, others to the client by a redirect (RFC 6749, 4.1.2.1)."""
    uri = getattr(error, "redirect_uri", None)
    if uri and clients.may_redirect(uri) and uri not in clients.SHOWN_CODE:
        return pb.HttpResponse(status=303, headers={"Location": error.in_uri(uri)})
    return pb.HttpResponse(status=400, headers={"Content-Type": "application/json"}, body=error.json)


def _handlers(service: AuthService) -> dict[str, Any]:
    """Every method of the proto, with errors as everywhere."""
    descriptor = pb.DESCRIPTOR.services_by_name["Auth"]
    made: dict[str, Any] = {}
    for method in descriptor.methods:
        request: Any = getattr(pb, method.input_type.name)
        made[method.name] = grpc.unary_unary_rpc_method_handler(
            rpc.guarded(getattr(service, method.name), f"Auth.{method.name}"),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )
    return made


def main(settings: Settings) -> None:
    """Serve until SIGTERM. Raises KeyFileError when a key is missing."""
    # TLS ends at the gateway or before it; oauthlib sees the URI that the client used.
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    master = sealing.Sealer(sealing.read_key(settings.master_key_path()))
    shared = sealing.Sealer(sealing.read_key(settings.sealing_key_path()))
    store = AuthStore(settings.auth_database(), master)
    stub = identity_pb2_grpc.IdentityStub(  # type: ignore[no-untyped-call]
        rpc.channel(settings.translator_target)
    )
    server = rpc.Server(settings.auth_threads)
    server.add_generic("gstack.auth.v1.Auth", _handlers(AuthService(store, shared, stub, settings)))
    stop = threading.Event()

    def purge() -> None:
        while not stop.wait(3600):
            store.purge()

    threading.Thread(target=purge, name="purge", daemon=True).start()
    server.run(settings.auth_listen, stops=[stop.set])
