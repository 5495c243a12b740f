"""The OAuth service: endpoints for programs. HTTP comes in and goes out as it is; the gateway only carries it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import grpc
import orjson
from oauthlib.oauth2 import DeviceAuthorizationEndpoint, InvalidRequestError, OAuth2Error

from auth_service import clients
from auth_service.grants import DEVICE, NAME_SCOPES, OAuthServer, base_of
from auth_service.id_tokens import IdTokens
from auth_service.limits import Limits
from auth_service.people import People
from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from auth_service.store.service_account_keys import ServiceKey
from auth_service.validator import ADDRESS, DEFAULT_SCOPES, Validator
from gstack.auth.v1 import auth_pb2 as pb
from gstack.kernel import metrics
from gstack.kernel.errors import ApiError
from gstack.kernel.logs import audit

DEVICE_SECONDS = 1800
_DEVICE_INTERVAL = 5
# No vowels, so no words; nothing that looks like something else (RFC 8628, 6.1). 20^8 codes.
_USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
# What Google's older libraries call the device grant.
_OLD_DEVICE_GRANT = "http://oauth.net/grant_type/device/1.0"
# Whoever calls: a gateway checks the same, but its word is not taken for it.
_MAX_URI = 8 * 1024
_MAX_FORM = 16 * 1024
_MAX_PARAMETERS = 50
# Of all parameters these alone may come more than once (RFC 8693, 2.1; RFC 8707, 2).
_REPEATABLE = frozenset(("audience", "resource"))
_JSON = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "Pragma": "no-cache"}

Answer = tuple[dict[str, str], Any, int]


class OAuthService:
    """The servicer; methods are those of the proto."""

    def __init__(
        self,
        server: OAuthServer,
        validator: Validator,
        store: AuthStore,
        people: People,
        id_tokens: IdTokens,
        limits: Limits,
    ):
        self._server = server
        self._validator = validator
        self._store = store
        self._people = people
        self._id_tokens = id_tokens
        self._limits = limits

    def Token(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._limited(
            "Token",
            request,
            lambda: self._server.create_token_response(
                request.uri, request.method, _with_new_device_grant(request.body), _headers(request)
            ),
        )

    def Revoke(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        def revoke() -> Answer:
            uri, body = _form_only(request)
            made: Answer = self._server.revocation.create_revocation_response(uri, "POST", body, _headers(request))
            return made

        return self._limited("Revoke", request, revoke)

    def Introspect(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._limited(
            "Introspect",
            request,
            lambda: self._server.create_introspect_response(
                request.uri, request.method, request.body, _headers(request)
            ),
        )

    def DeviceAuthorization(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._limited("DeviceAuthorization", request, lambda: self._authorize_device(request))

    def UserInfo(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        found = self._bearer(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            error = {"error": "invalid_token", "error_description": "The access token is missing or not valid."}
            challenge = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
            return _respond(({"WWW-Authenticate": challenge}, error, 401))
        _, owner, key = found
        subject, email = (key.unique_id, key.email) if key else (owner.user_id, owner.subject)
        # What CloudStack's users write down as their address is nobody's proof; a service account's is ours.
        verified = key is not None
        # The names of OpenID Connect, then those of Google's v1 and v2.
        content = {
            "sub": subject,
            "email": email,
            "email_verified": verified,
            "id": subject,
            "verified_email": verified,
        }
        return _respond(({}, content, 200))

    def TokenInfo(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return self._limited("TokenInfo", request, lambda: self._token_info(request))

    def Metadata(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return _respond(
            ({"Cache-Control": "public, max-age=300"}, self._server.metadata(base_of(request.uri), request.base), 200)
        )

    def Certificates(self, request: pb.HttpRequest, context: grpc.ServicerContext) -> pb.HttpResponse:
        return _respond(({"Cache-Control": "public, max-age=300"}, self._id_tokens.certificates().decode(), 200))

    def _limited(self, endpoint: str, request: pb.HttpRequest, answer: Callable[[], Answer]) -> pb.HttpResponse:
        """What the endpoint answers, unless the address asks too often; failures are counted."""
        try:
            self._limits.request(request.remote_address)
        except ApiError as error:
            return self._refused(endpoint, request, error)
        try:
            # Google's older library revokes with the token in both.
            check_parameters(request, either=endpoint == "Revoke")
            made = answer()
        except OAuth2Error as error:
            # What oauthlib finds wrong before a grant is chosen.
            made = error.headers, error.json, error.status_code
        except ApiError as error:
            return self._refused(endpoint, request, error)
        headers, content, status = made
        reason = _error_of(content) if status >= 400 else ""
        # Devices are told to wait by an error; that is not one.
        if status >= 400 and reason not in ("authorization_pending", "slow_down"):
            try:
                # What is good is not kept out by what others do from the same address; what is not is only told so.
                self._limits.stranger(request.remote_address)
            except ApiError as error:
                return self._refused(endpoint, request, error)
            self._limits.failure(request.remote_address)
            audit(
                "access_refused",
                path=urlsplit(request.uri).path,
                reason=reason,
                remote_address=request.remote_address,
            )
        metrics.ACCESS.labels(endpoint, reason or "ok").inc()
        if status == 401:
            headers = {"WWW-Authenticate": 'Basic realm="oauth2"', **headers}
        return _respond((headers, content, status))

    def _refused(self, endpoint: str, request: pb.HttpRequest, error: ApiError) -> pb.HttpResponse:
        """A limit, or CloudStack or a translator that is away: clients try again on these."""
        limited = error.code == 429
        metrics.ACCESS.labels(endpoint, "limited" if limited else "unavailable").inc()
        if limited:
            audit("limit_reached", path=urlsplit(request.uri).path, remote_address=request.remote_address)
        content = {"error": "temporarily_unavailable", "error_description": error.message}
        return _respond(({"Retry-After": str(error.retry_after or 5)}, content, 429 if limited else 503))

    def _authorize_device(self, request: pb.HttpRequest) -> Answer:
        self._limits.device(request.remote_address)
        endpoint = DeviceAuthorizationEndpoint(
            self._validator,
            f"{request.base}/device",
            expires_in=DEVICE_SECONDS,
            interval=_DEVICE_INTERVAL,
            verification_uri_complete=lambda code: f"{request.base}/device?user_code={code}",
            user_code_generator=_user_code,
        )
        headers, data, status = endpoint.create_device_authorization_response(
            request.uri, request.method, request.body, _headers(request)
        )
        data["device_code"] = secrets.token_urlsafe(32)
        form = dict(parse_qsl(request.body))
        self._store.devices.add(
            data["device_code"],
            normal_user_code(data["user_code"]),
            client_id=clients.kept(form.get("client_id", "")),
            scopes=data.pop("scope", " ".join(DEFAULT_SCOPES)),
            expires=time.time() + DEVICE_SECONDS,
            interval=_DEVICE_INTERVAL,
        )
        # Google's name for it.
        return headers, {**data, "verification_url": data["verification_uri"]}, status

    def _token_info(self, request: pb.HttpRequest) -> Answer:
        asked = dict(parse_qsl(urlsplit(request.uri).query)) | dict(parse_qsl(request.body))
        now = time.time()
        if text := asked.get("id_token"):
            claims = self._id_tokens.read(text)
            if claims is not None:
                return {}, claims, 200
        elif text := asked.get("access_token"):
            found = self._bearer(text)
            if found is not None:
                row, owner, key = found
                scopes = row["scopes"].split()
                client_id = row["client_id"] if clients.is_told(row["client_id"]) else ""
                seconds = int(row["expires"] - now)
                content: dict[str, Any] = {
                    "azp": client_id,
                    "aud": client_id,
                    "issued_to": client_id,
                    "audience": client_id,
                    "sub": key.unique_id if key else owner.user_id,
                    "user_id": key.unique_id if key else owner.user_id,
                    "scope": row["scopes"],
                    "exp": str(int(row["expires"])),
                    "expires_in": str(seconds) if "/v3/" in request.uri or "oauth2/" not in request.uri else seconds,
                    "access_type": "offline",
                }
                if key or NAME_SCOPES & set(scopes):
                    content |= {"email": key.email if key else owner.subject, "verified_email": key is not None}
                    content["email_verified"] = str(key is not None).lower()
                return {}, content, 200
        return {}, {"error": "invalid_token", "error_description": "Invalid Value"}, 400

    def _bearer(self, token: str) -> tuple[Any, Credential, ServiceKey | None] | None:
        """A token that works now."""
        found = self._store.tokens.bearer(token)
        if found is None or (found[2] is not None and not found[2].usable) or not self._people.trusted(found[1]):
            return None
        return found


def check_parameters(request: pb.HttpRequest, *, either: bool = False) -> None:
    """Raises InvalidRequestError for what is too much to be looked into, and for a parameter that comes twice.

    RFC 6749, 3.1 and 3.2; query and form are one. either: what the query says may be said in the form too.
    """
    if len(request.uri) > _MAX_URI or len(request.body) > _MAX_FORM:
        raise InvalidRequestError(f"The request is longer than {_MAX_FORM} bytes, or its URI than {_MAX_URI}.")
    parts = (urlsplit(request.uri).query, request.body)
    if sum(text.count("&") + bool(text) for text in parts) > _MAX_PARAMETERS:
        raise InvalidRequestError(f"The request has more than {_MAX_PARAMETERS} parameters.")
    query, form = (parse_qsl(text, keep_blank_values=True) for text in parts)
    said = [*form, *(pair for pair in query if not (either and pair in form))]
    names = [name for name, _ in said if name not in _REPEATABLE]
    if len(names) != len(set(names)):
        # Which one may be a secret that was put into the wrong place.
        raise InvalidRequestError("A parameter is included more than once.")


def normal_user_code(typed: str) -> str:
    """Case, blanks and dashes do not matter."""
    return "".join(letter for letter in typed.upper() if letter.isalnum())


def _user_code() -> str:
    letters = "".join(secrets.choice(_USER_CODE_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def _headers(request: pb.HttpRequest) -> dict[str, str]:
    return {**request.headers, ADDRESS: request.remote_address}


def _with_new_device_grant(body: str) -> str:
    if "oauth.net" not in body:
        return body
    form = dict(parse_qsl(body, keep_blank_values=True))
    if form.get("grant_type") != _OLD_DEVICE_GRANT:
        return body
    return urlencode({**form, "grant_type": DEVICE, "device_code": form.pop("code", "")})


def _form_only(request: pb.HttpRequest) -> tuple[str, str]:
    """Google's clients put the token that they revoke into the query; oauthlib wants it in the form only."""
    parts = urlsplit(request.uri)
    return urlunsplit(parts._replace(query="")), "&".join(filter(None, (request.body, parts.query)))


def _error_of(content: Any) -> str:
    try:
        return str((orjson.loads(content) if isinstance(content, str) else content)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _respond(answer: Answer) -> pb.HttpResponse:
    headers, content, status = answer
    body = content if isinstance(content, str) else orjson.dumps(content or {}).decode()
    return pb.HttpResponse(status=status, headers={**_JSON, **headers}, body=body)
