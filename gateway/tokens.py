"""Bearer tokens to principals: introspected by auth, remembered for a short while.

Tokens are remembered by their hash. While auth is away, remembered ones go on working until their time is up.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass

import grpc
from cachetools import TTLCache

from gstack.auth.v1 import auth_pb2
from gstack.kernel.errors import ApiError, from_rpc

_SIZE = 50_000
_TIMEOUT = 10.0
_INTROSPECT = "/gstack.auth.v1.Auth/Introspect"
MISSING = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential."
)
INVALID = "Request had invalid authentication credentials. Expected OAuth 2 access token."
# Scopes that let a token use the API, and those that only let it read.
_WRITE = frozenset(("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/compute"))
_READ = _WRITE | {
    "https://www.googleapis.com/auth/compute.readonly",
    "https://www.googleapis.com/auth/cloud-platform.read-only",
}


@dataclass(frozen=True)
class Principal:
    """Who asks. credential: sealed, for the translator only."""

    subject: str
    credential: bytes
    scopes: frozenset[str]
    expires_at: float

    def check_scope(self, mutates: bool) -> None:
        """Raises 403 unless the token's scopes allow it; a token without scopes may do what its owner may."""
        allowed = _WRITE if mutates else _READ
        if self.scopes and not self.scopes & allowed:
            raise ApiError(403, "Request had insufficient authentication scopes.", "insufficientPermissions")


class Tokens:
    def __init__(self, channel: grpc.Channel, seconds: float):
        self._introspect = channel.unary_unary(
            _INTROSPECT,
            request_serializer=auth_pb2.IntrospectRequest.SerializeToString,
            response_deserializer=auth_pb2.Principal.FromString,
        )
        self._cache: TTLCache[bytes, Principal] = TTLCache(_SIZE, seconds)
        self._lock = threading.Lock()

    def principal(self, authorization: str) -> Principal:
        """The owner of `Bearer <token>`. Raises 401, or 503 when it cannot be found out."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if not token or scheme.lower() not in ("bearer", "oauth"):
            raise ApiError(401, INVALID if authorization else MISSING, "authError" if authorization else "required")
        key = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._cache.get(key)
        if known is not None and known.expires_at > time.time():
            return known
        try:
            found = self._introspect(auth_pb2.IntrospectRequest(token=token), timeout=_TIMEOUT)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None
        if not found.active:
            raise ApiError(401, INVALID)
        principal = Principal(found.subject, found.credential, frozenset(found.scopes), float(found.expires_at))
        with self._lock:
            self._cache[key] = principal
        return principal
