"""What oauthlib asks of us: clients, codes, tokens, scopes. Its own checks are never bypassed."""

from __future__ import annotations

import hmac
import time
import uuid
from base64 import b64decode
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

from oauthlib.common import Request
from oauthlib.oauth2 import RequestValidator

from auth_service import clients
from auth_service.clients import Client
from auth_service.store import AuthStore, Credential

CODE_SECONDS = 60.0
REFRESH_SECONDS = 180 * 24 * 3600.0
DEFAULT_SCOPES = ["https://www.googleapis.com/auth/compute", "https://www.googleapis.com/auth/cloud-platform"]
# Keys of a program that asks for tokens all the time are not checked with CloudStack each time.
TRUST_SECONDS = 60.0

# (api key, secret key) -> the credential, or None when CloudStack refuses them.
Verify = Callable[[str, str], Credential | None]


class Validator(RequestValidator):  # type: ignore[misc]
    def __init__(self, store: AuthStore, verify: Verify, access_seconds: int):
        self._store = store
        self._verify = verify
        self._access_seconds = access_seconds

    # Clients

    def client_authentication_required(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        return clients.tool(_identity(request)[0]) is None

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        client_id, secret = _identity(request)
        if not client_id or not secret:
            return False
        credential = self._verify(client_id, secret)
        if credential is None:
            return False
        request.client = Client(client_id, credential.subject, credential)
        request.user = credential
        return True

    def authenticate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        request.client = clients.tool(client_id or _identity(request)[0])
        return request.client is not None

    def validate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        # An API key cannot be told from a typing error before its secret comes; it is shown as what it is.
        request.client = clients.tool(client_id) or Client(client_id, "a program")
        return 0 < len(client_id) <= 255

    def validate_grant_type(
        self, client_id: str, grant_type: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        if client.credential is None:
            return grant_type in ("authorization_code", "refresh_token")
        return grant_type in ("authorization_code", "refresh_token", "client_credentials")

    def validate_response_type(
        self, client_id: str, response_type: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        return response_type == "code"

    def validate_redirect_uri(
        self, client_id: str, redirect_uri: str, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        return clients.may_redirect(redirect_uri)

    def get_default_redirect_uri(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> str:
        return clients.SHOWN_CODE[0]

    # Scopes: what is asked for is granted, what the API does not know has no effect.

    def validate_scopes(
        self, client_id: str, scopes: list[str], client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        return all(len(scope) < 200 for scope in scopes) and len(scopes) <= 50

    def get_default_scopes(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> list[str]:
        return list(DEFAULT_SCOPES)

    def get_original_scopes(self, refresh_token: str, request: Request, *args: Any, **kwargs: Any) -> list[str]:
        row = self._store.token(refresh_token, "refresh")
        if row is None:
            return list(request.scopes or DEFAULT_SCOPES)
        return str(row["scopes"]).split()

    # Codes and PKCE

    def is_pkce_required(self, client_id: str, request: Request) -> bool:
        return bool(request.client.needs_pkce)

    def save_authorization_code(
        self, client_id: str, code: dict[str, str], request: Request, *args: Any, **kwargs: Any
    ) -> None:
        self._store.add_token(
            code["code"],
            kind="code",
            family=str(uuid.uuid4()),
            credential_id=request.user.id,
            client_id=client_id,
            scopes=" ".join(request.scopes),
            expires=time.time() + CODE_SECONDS,
            redirect_uri=request.redirect_uri or "",
            challenge=request.code_challenge or "",
        )

    def validate_code(
        self, client_id: str, code: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        row = self._store.token(code, "code")
        if row is None or row["client_id"] != client.client_id:
            return False
        if not self._store.use_code(code):
            # A code that comes twice was stolen: what the first one got ends too (RFC 6749, 4.1.2).
            self._store.revoke_family(row["family"])
            return False
        credential = self._store.credential(row["credential_id"])
        if credential is None:
            return False
        if request.code_verifier and not row["challenge"]:
            return False
        request.user, request.scopes, request.family = credential, row["scopes"].split(), row["family"]
        return True

    def confirm_redirect_uri(
        self, client_id: str, code: str, redirect_uri: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        row = self._store.token(code, "code")
        return row is not None and hmac.compare_digest(row["redirect_uri"].encode(), (redirect_uri or "").encode())

    def invalidate_authorization_code(
        self, client_id: str, code: str, request: Request, *args: Any, **kwargs: Any
    ) -> None:
        """Used codes stay until they expire, so that their reuse is noticed."""

    def get_code_challenge(self, code: str, request: Request) -> str | None:
        row = self._store.token(code, "code")
        return (row["challenge"] or None) if row else None

    def get_code_challenge_method(self, code: str, request: Request) -> str:
        return "S256"

    # Tokens

    def save_bearer_token(self, token: dict[str, Any], request: Request, *args: Any, **kwargs: Any) -> str:
        family = getattr(request, "family", None) or str(uuid.uuid4())
        common = {
            "family": family,
            "credential_id": request.user.id,
            "client_id": request.client.client_id,
            "scopes": " ".join(request.scopes or DEFAULT_SCOPES),
        }
        self._store.add_token(
            token["access_token"], kind="access", expires=time.time() + self._access_seconds, **common
        )
        refresh = token.get("refresh_token")
        if refresh and request.client.credential is None and refresh != request.refresh_token:
            self._store.add_token(refresh, kind="refresh", expires=time.time() + REFRESH_SECONDS, **common)
        return ""

    def validate_refresh_token(
        self, refresh_token: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        if client.credential is not None:
            # The keys are the proof; clients that only know this grant send any text as refresh token.
            request.user = client.credential
            return True
        row = self._store.token(refresh_token, "refresh")
        if row is None or row["client_id"] != client.client_id:
            return False
        request.user, request.family = self._store.credential(row["credential_id"]), row["family"]
        return request.user is not None

    def rotate_refresh_token(self, request: Request) -> bool:
        return False

    def revoke_token(self, token: str, token_type_hint: str, request: Request, *args: Any, **kwargs: Any) -> None:
        self._store.revoke(token)


def _identity(request: Request) -> tuple[str, str]:
    """client_id and client_secret of the form or of HTTP Basic."""
    header: str = request.headers.get("Authorization", "") if request.headers else ""
    if header.lower().startswith("basic "):
        try:
            name, _, secret = b64decode(header[6:], validate=True).decode().partition(":")
            return unquote_plus(name), unquote_plus(secret)
        except ValueError:
            return "", ""
    return request.client_id or "", request.client_secret or ""
