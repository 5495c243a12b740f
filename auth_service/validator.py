"""What oauthlib asks of us: clients, codes, tokens, scopes. Its own checks are never bypassed."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from base64 import b64decode
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from oauthlib.common import Request
from oauthlib.oauth2 import InvalidGrantError, InvalidRequestError, RequestValidator
from oauthlib.oauth2.rfc8628.grant_types import DeviceCodeGrant
from sqlalchemy import RowMapping

from auth_service import clients
from auth_service.assertions import Assertion, Assertions, InvalidAssertion
from auth_service.clients import Client
from auth_service.limits import Limits
from auth_service.people import People
from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from auth_service.store.service_account_keys import ServiceKey
from gstack.kernel.logs import audit
from gstack.kernel.settings import Settings

CODE_SECONDS = 60.0
# A refresh token that nobody uses ends; one in use lives on.
REFRESH_SECONDS = 180 * 24 * 3600.0
# An answer that was lost is asked for again; processes that share a login refresh at the same moment.
REFRESH_GRACE_SECONDS = 60.0
# What a device that asks too often has to wait more (RFC 8628, 3.5).
DEVICE_SLOWER_SECONDS = 5
DEFAULT_SCOPES = ["https://www.googleapis.com/auth/compute", "https://www.googleapis.com/auth/cloud-platform"]
# How the gateway's word about the client's address travels through oauthlib.
ADDRESS = "X-Remote-Address"


@dataclass
class Found:
    """What we found out about a request: not where oauthlib keeps parameters, which a form could set."""

    family: str | None = None
    # The code or refresh token that was presented, once it is good.
    row: RowMapping | None = None
    service_key: ServiceKey | None = None
    # Hash of the token that is exchanged.
    parent: bytes | None = None
    assertion: Assertion | None = None
    # Stored id of the client whose token is exchanged.
    client_id: str | None = None
    # Longest life of the token, seconds.
    seconds: float | None = None


def found(request: Request) -> Found:
    made: Found = vars(request).setdefault("found", Found())
    return made


MAX_SCOPES = 50
# The letters of RFC 6749, 3.3.
SCOPE = re.compile(r"[!#-\[\]-~]{1,199}")
# Base64url of a SHA-256 (RFC 7636, 4.2).
_CHALLENGE = re.compile(r"[\w-]{43}", re.ASCII)
_NONCE = re.compile(r"[ -~]{0,255}")

KEYS_REFUSED = "The cloud does not accept this user's keys any more. Sign in again."


class Validator(RequestValidator):  # type: ignore[misc]
    def __init__(self, store: AuthStore, people: People, assertions: Assertions, limits: Limits, settings: Settings):
        self._store = store
        self._people = people
        self._limits = limits
        self._assertions = assertions
        self._settings = settings

    # Clients

    def client_authentication_required(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        return clients.tool(_identity(request)[0]) is None

    def authenticate_client(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        client_id, secret = _identity(request)
        if not client_id or not secret:
            return False
        credential = self._people.verify(client_id, secret, _address(request))
        if credential is None:
            return False
        request.client = Client(client_id, credential.subject, credential)
        request.user = credential
        return True

    def authenticate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        request.client = clients.tool(client_id or _identity(request)[0])
        if request.client is None:
            return False
        request.client_id = request.client.client_id
        return True

    def validate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        # An API key cannot be told from a typing error before its secret comes.
        request.client = clients.tool(client_id) or Client(client_id, clients.name_of(client_id))
        return 0 < len(client_id) <= 255

    def validate_grant_type(
        self, client_id: str, grant_type: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        return grant_type != "client_credentials" or client.credential is not None

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

    # Scopes: what is asked for is granted, what the APIs do not know has no effect.

    def validate_scopes(
        self, client_id: str, scopes: list[str], client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        return len(scopes) <= MAX_SCOPES and all(SCOPE.fullmatch(scope) for scope in scopes)

    def get_default_scopes(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> list[str]:
        return list(DEFAULT_SCOPES)

    def get_original_scopes(self, refresh_token: str, request: Request, *args: Any, **kwargs: Any) -> list[str]:
        row = found(request).row
        if row is None:
            return list(request.scopes or DEFAULT_SCOPES)
        return str(row["scopes"]).split()

    # Codes and PKCE

    def is_pkce_required(self, client_id: str, request: Request) -> bool:
        """For public clients. Those with a secret prove at the token endpoint that the code is theirs."""
        if request.client is None or not request.client.is_public:
            return False
        return not (request.client.client_id == clients.SDK and self._settings.login_without_pkce)

    def check_texts(self, request: Request) -> dict[str, Any]:
        """What oauthlib leaves to us of an authorization request. Raises InvalidRequestError."""
        if request.code_challenge and not _CHALLENGE.fullmatch(request.code_challenge):
            raise InvalidRequestError("code_challenge must be the base64url of a SHA-256.", request=request)
        if request.nonce and not _NONCE.fullmatch(request.nonce):
            raise InvalidRequestError("nonce must be at most 255 ASCII characters.", request=request)
        return {}

    def save_authorization_code(
        self, client_id: str, code: dict[str, str], request: Request, *args: Any, **kwargs: Any
    ) -> None:
        row = {
            "token": code["code"],
            "kind": "code",
            "family": str(uuid.uuid4()),
            "credential_id": request.user.id,
            "client_id": clients.kept(client_id),
            "scopes": " ".join(request.scopes),
            "expires": time.time() + CODE_SECONDS,
            "redirect_uri": request.redirect_uri or "",
            "challenge": request.code_challenge or "",
            "nonce": request.nonce or "",
        }
        self._store.tokens.add([row])

    def validate_code(
        self, client_id: str, code: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        row = self._store.tokens.find(code, "code")
        if row is None or row["client_id"] != client.kept_id:
            return False
        if not self._store.tokens.use(code):
            # A code that comes twice was stolen: what the first one got ends too (RFC 6749, 4.1.2).
            self._store.tokens.revoke_family(row["family"])
            audit("code_reused", client=client.name, remote_address=_address(request))
            return False
        if request.code_verifier and not row["challenge"]:
            return False
        request.scopes, request.nonce = row["scopes"].split(), row["nonce"]
        found(request).row, found(request).family = row, row["family"]
        return self._act_for(row["credential_id"], request)

    def confirm_redirect_uri(
        self, client_id: str, code: str, redirect_uri: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        row = found(request).row
        return row is not None and hmac.compare_digest(row["redirect_uri"].encode(), (redirect_uri or "").encode())

    def invalidate_authorization_code(
        self, client_id: str, code: str, request: Request, *args: Any, **kwargs: Any
    ) -> None:
        """Used codes stay until they expire, so that their reuse is noticed."""

    def get_code_challenge(self, code: str, request: Request) -> str | None:
        row = found(request).row
        return (row["challenge"] or None) if row else None

    def get_code_challenge_method(self, code: str, request: Request) -> str:
        return "S256"

    # Refresh

    def validate_refresh_token(
        self, refresh_token: str, client: Client, request: Request, *args: Any, **kwargs: Any
    ) -> bool:
        row = self._store.tokens.find(refresh_token, "refresh")
        if client.credential is not None and row is None:
            # The keys are the proof; clients that only know this grant send any text as refresh token.
            request.user = client.credential
            return True
        if row is None or row["client_id"] != client.kept_id:
            return False
        if not client.rotates:
            self._store.tokens.prolong(refresh_token, time.time() + REFRESH_SECONDS)
        elif not self._store.tokens.use(refresh_token, REFRESH_GRACE_SECONDS):
            self._store.tokens.revoke_family(row["family"])
            audit("refresh_reused", client=client.name, remote_address=_address(request))
            return False
        found(request).row, found(request).family = row, row["family"]
        return self._act_for(row["credential_id"], request)

    def rotate_refresh_token(self, request: Request) -> bool:
        return bool(request.client.rotates)

    # Devices

    def validate_device_code(self, client_id: str, device_code: str, request: Request) -> str | None:
        row = self._store.devices.poll(device_code, DEVICE_SLOWER_SECONDS)
        if row is None or row["client_id"] != clients.kept(client_id):
            return None
        now = time.time()
        if row["expires"] <= now:
            return str(DeviceCodeGrant.DEVICE_CODE_EXPIRED)
        if row["state"] == "denied":
            return str(DeviceCodeGrant.DEVICE_CODE_DENIED)
        if row["state"] == "authorized":
            request.scopes = row["scopes"].split()
            if not self._act_for(row["credential_id"], request):
                return None
            return str(DeviceCodeGrant.DEVICE_CODE_AUTHORIZED)
        soon = now - row["polled"] < row["interval"]
        return str(DeviceCodeGrant.DEVICE_CODE_SLOW_DOWN if soon else DeviceCodeGrant.DEVICE_CODE_PENDING)

    # Service accounts

    def validate_assertion(self, text: str, request: Request, base: str, *, once: bool) -> Assertion:
        """A service account's JWT; it becomes client and user of the request. Raises InvalidGrantError."""
        try:
            assertion = self._assertions.for_token(text, base, once=once)
        except InvalidAssertion as error:
            raise InvalidGrantError(str(error), request=request) from None
        key = assertion.key
        request.client = Client(key.email, key.email)
        request.client_id = key.email
        found(request).service_key, found(request).assertion = key, assertion
        if key.expires:
            found(request).seconds = key.expires - time.time()
        if not self._people.trusted(key.owner):
            raise InvalidGrantError(KEYS_REFUSED, request=request)
        request.user = key.owner
        self._store.service_account_keys.note_use(key)
        return assertion

    def validate_subject_token(self, token: str, request: Request) -> tuple[list[str], float]:
        """An access token of ours in exchange for another; returns its scopes and its end. Raises InvalidGrantError."""
        bearer = self._store.tokens.bearer(token)
        if bearer is None:
            raise InvalidGrantError("The subject_token is not valid.", request=request)
        row, owner, key = bearer
        if (key is not None and not key.usable) or not self._people.trusted(owner):
            raise InvalidGrantError(KEYS_REFUSED, request=request)
        request.user, found(request).service_key = owner, key
        found(request).family, found(request).parent = row["family"], row["hash"]
        request.client = Client(row["client_id"], clients.name_of(row["client_id"]))
        request.client_id = found(request).client_id = row["client_id"]
        return row["scopes"].split(), row["expires"]

    # Tokens

    def save_bearer_token(self, token: dict[str, Any], request: Request, *args: Any, **kwargs: Any) -> str:
        key = found(request).service_key
        self._limits.token(request.user.owner)
        common = {
            "family": found(request).family or str(uuid.uuid4()),
            "credential_id": request.user.id,
            "client_id": found(request).client_id or request.client.kept_id,
            "scopes": " ".join(request.scopes or DEFAULT_SCOPES),
            "remote_address": _address(request),
            "service_account_key": (key.id or None) if key else None,
            "service_account": key.account if key and not key.id else None,
            "parent": found(request).parent,
        }
        now = time.time()
        rows = [{"token": token["access_token"], "kind": "access", "expires": now + token["expires_in"], **common}]
        refresh = token.get("refresh_token")
        if refresh and refresh != request.refresh_token:
            rows.append({"token": refresh, "kind": "refresh", "expires": now + REFRESH_SECONDS, **common})
        self._store.tokens.add(rows)
        if len(rows) > 1 and request.grant_type != "refresh_token":
            self._store.tokens.end_old_grants(request.user)
        audit(
            "access_granted",
            subject=key.email if key else request.user.subject,
            client=request.client.name,
            grant=request.grant_type,
            scopes=common["scopes"],
            remote_address=common["remote_address"],
        )
        return ""

    def introspect_token(
        self, token: str, token_type_hint: str | None, request: Request, *args: Any, **kwargs: Any
    ) -> dict[str, Any] | None:
        """RFC 7662. A client learns of tokens that it got itself, keys of all tokens of their user."""
        bearer = self._store.tokens.bearer(token)
        if bearer:
            row, owner, key = bearer
            if (key and not key.usable) or not self._people.trusted(owner):
                return None
            kind, subject = "Bearer", key.email if key else owner.subject
            details = (row["client_id"], row["scopes"], row["expires"], row["created"])
        else:
            refresh = self._store.tokens.find(token, "refresh")
            credential = self._store.credentials.find(refresh["credential_id"]) if refresh else None
            if refresh is None or credential is None or (refresh["used"] and self._rotates(refresh)):
                return None
            owner, kind, subject = credential, "refresh_token", credential.subject
            details = (refresh["client_id"], refresh["scopes"], refresh["expires"], refresh["created"])
        client_id, scopes, expires, created = details
        asked: Client = request.client
        allowed = asked.credential.owner == owner.owner if asked.credential else asked.kept_id == client_id
        if not allowed:
            return None
        return {
            "username": subject,
            "sub": owner.user_id,
            "client_id": client_id if clients.is_told(client_id) else "",
            "scope": scopes,
            "exp": int(expires),
            "iat": int(created),
            "token_type": kind,
        }

    def revoke_token(self, token: str, token_type_hint: str, request: Request, *args: Any, **kwargs: Any) -> None:
        if self._store.tokens.revoke(token):
            audit("access_revoked", remote_address=_address(request))

    def _rotates(self, row: Any) -> bool:
        return Client(row["client_id"], "").rotates

    def _act_for(self, credential_id: str, request: Request) -> bool:
        """The request's user is the owner of these keys, if CloudStack still accepts them."""
        credential: Credential | None = self._store.credentials.find(credential_id)
        if credential is None or not self._people.trusted(credential):
            return False
        request.user = credential
        return True


class RevocationValidator(Validator):
    """Who holds a token may end it: Google's clients revoke without saying who they are."""

    def client_authentication_required(self, request: Request, *args: Any, **kwargs: Any) -> bool:
        return False

    def authenticate_client_id(self, client_id: str, request: Request, *args: Any, **kwargs: Any) -> bool:
        return True


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


def _address(request: Request) -> str:
    return str(request.headers.get(ADDRESS, ""))[:64]
