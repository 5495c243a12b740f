"""Bearer tokens to principals: authenticated by auth, remembered for a short while.

Tokens are remembered by their hash. While auth is away, remembered ones go on working until their time is up.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from cachetools import TLRUCache

from gstack.auth.v1 import auth_pb2
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.metrics import CACHE

# Bytes of all that are remembered, and of one besides its texts.
_SIZE = 32 * 1024 * 1024
_ENTRY_BYTES = 800
_TIMEOUT = 10.0
_AUTHENTICATE = "/gstack.auth.v1.Auth/Authenticate"
MISSING = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential."
)
INVALID = "Request had invalid authentication credentials. Expected OAuth 2 access token."

_GOOGLE = "https://www.googleapis.com/auth/"


@dataclass(frozen=True)
class Scopes:
    """Which scopes let a token use an API, and which of them only let it read."""

    write: frozenset[str]
    read: frozenset[str]


COMPUTE = Scopes(
    frozenset((_GOOGLE + "cloud-platform", _GOOGLE + "compute")),
    frozenset((_GOOGLE + "compute.readonly", _GOOGLE + "cloud-platform.read-only")),
)
IAM = Scopes(
    frozenset((_GOOGLE + "cloud-platform", _GOOGLE + "iam")),
    frozenset((_GOOGLE + "cloud-platform.read-only",)),
)
RESOURCE_MANAGER = Scopes(
    frozenset((_GOOGLE + "cloud-platform",)),
    frozenset((_GOOGLE + "cloud-platform.read-only",)),
)
SERVICE_USAGE = Scopes(
    frozenset((_GOOGLE + "cloud-platform", _GOOGLE + "service.management")),
    frozenset((_GOOGLE + "cloud-platform.read-only",)),
)
# Google's Python library asks with `iam`, though the discovery document does not name it.
CREDENTIALS = Scopes(frozenset((_GOOGLE + "cloud-platform", _GOOGLE + "iam")), frozenset())
BILLING = Scopes(
    frozenset((_GOOGLE + "cloud-platform", _GOOGLE + "cloud-billing")),
    frozenset((_GOOGLE + "cloud-billing.readonly", _GOOGLE + "cloud-platform.read-only")),
)


@dataclass(frozen=True)
class Principal:
    """Who asks. credential: sealed, for translators and auth only. known_until: seconds since the epoch.

    key: of the user, the same for all of its credentials.
    """

    subject: str
    key: str
    credential: bytes
    scopes: frozenset[str]
    known_until: float

    @property
    def size(self) -> int:
        """In memory, about."""
        texts = (self.subject, self.key, self.credential, *self.scopes)
        return _ENTRY_BYTES + sum(len(text) for text in texts)

    def check_scope(self, needed: Scopes, mutates: bool) -> None:
        """Raises 403 unless the token's scopes allow it."""
        allowed = needed.write if mutates else needed.write | needed.read
        if not self.scopes & allowed:
            raise ApiError(403, "Request had insufficient authentication scopes.", "insufficientPermissions")


class Tokens:
    def __init__(self, channel: grpc.Channel, seconds: float, issuer: Callable[[str], str]):
        """seconds: for how long at most. issuer: what the endpoint is called for the base of a request."""
        self._authenticate = channel.unary_unary(
            _AUTHENTICATE,
            request_serializer=auth_pb2.AuthenticateRequest.SerializeToString,
            response_deserializer=auth_pb2.Principal.FromString,
        )
        self._seconds = seconds
        self.issuer = issuer
        self._cache: TLRUCache[bytes, Principal] = TLRUCache(
            _SIZE,
            ttu=lambda _key, principal, _now: principal.known_until,
            timer=time.time,
            getsizeof=lambda principal: principal.size,
        )
        self._lock = threading.Lock()

    def principal(self, authorization: str, base: str, address: str) -> Principal:
        """The owner of `Bearer <token>`. Raises 401, or 503 when it cannot be found out."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if not token or scheme.lower() not in ("bearer", "oauth"):
            raise ApiError(401, INVALID if authorization else MISSING, "authError" if authorization else "required")
        issuer = self.issuer(base)
        key = hashlib.sha256(f"{issuer} {token}".encode()).digest()
        with self._lock:
            known = self._cache.get(key)
        CACHE.labels("tokens", "miss" if known is None else "hit").inc()
        if known is not None:
            return known
        try:
            request = auth_pb2.AuthenticateRequest(token=token, base=issuer, remote_address=address)
            found = self._authenticate(request, timeout=_TIMEOUT)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None
        if not found.active:
            raise ApiError(401, INVALID)
        until = min(time.time() + min(self._seconds, found.cache_seconds), float(found.expires_at))
        principal = Principal(found.subject, found.key, found.credential, frozenset(found.scopes), until)
        if principal.size <= _SIZE:
            with self._lock:
                self._cache[key] = principal
        return principal
