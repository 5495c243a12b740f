"""ID tokens (OpenID Connect Core 2): who signed in, for `gcloud auth login` and `gcutil whoami`; signed by our own key.

The key is made by the first replica that needs one, a new one after 90 days; the public halves of the last two are
published, so that tokens of the old one can still be checked.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt.algorithms import RSAAlgorithm

from auth_service.store.auth_store import AuthStore

SECONDS = 3600
_MAX_LENGTH = 8 * 1024
_ROTATE_SECONDS = 90 * 24 * 3600.0
_REREAD_SECONDS = 60.0
_ALGORITHM = "RS256"


class IdTokens:
    def __init__(self, store: AuthStore):
        self._store = store
        self._lock = threading.Lock()
        self._read = 0.0
        self._id = ""
        self._private: Any = None
        self._public: dict[str, Any] = {}

    def issue(self, issuer: str, audience: str, subject: str, email: str, *, verified: bool, **claims: Any) -> str:
        """email: "" is none. verified: whether it is known to be the subject's. claims: more, unless they are empty."""
        identity, private, _ = self._keys()
        now = int(time.time())
        content = {
            "iss": issuer,
            "aud": audience,
            "azp": audience,
            "sub": subject,
            **({"email": email, "email_verified": verified} if email else {}),
            "iat": now,
            "exp": now + SECONDS,
            **{name: value for name, value in claims.items() if value},
        }
        return jwt.encode(content, private, _ALGORITHM, headers={"kid": identity})

    def read(self, text: str) -> dict[str, Any] | None:
        """The claims of a token of ours that is not expired."""
        if len(text) > _MAX_LENGTH:
            return None
        _, _, public = self._keys()
        try:
            key = public[jwt.get_unverified_header(text).get("kid", "")]
            found: dict[str, Any] = jwt.decode(text, key, algorithms=[_ALGORITHM], options={"verify_aud": False})
        except (jwt.InvalidTokenError, KeyError, RecursionError):
            return None
        return found

    def certificates(self) -> bytes:
        """The JWK set (RFC 7517)."""
        _, _, public = self._keys()
        keys = []
        for identity, key in public.items():
            jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
            keys.append({"kid": identity, "alg": _ALGORITHM, "use": "sig", **_without_operations(jwk)})
        return orjson.dumps({"keys": keys})

    def _keys(self) -> tuple[str, Any, dict[str, Any]]:
        with self._lock:
            now = time.time()
            if now - self._read > _REREAD_SECONDS:
                rows = self._store.signing_keys.since(now - 2 * _ROTATE_SECONDS)
                if not rows or rows[0]["created"] < now - _ROTATE_SECONDS:
                    self._store.signing_keys.add(*_new_key())
                    rows = self._store.signing_keys.since(now - 2 * _ROTATE_SECONDS)
                self._id = rows[0]["id"]
                self._private = load_pem_private_key(self._store.signing_keys.open(rows[0]), None)
                self._public = {row["id"]: load_pem_public_key(row["public_key"].encode()) for row in rows}
                self._read = now
            return self._id, self._private, self._public


def _without_operations(jwk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name != "key_ops"}


def _new_key() -> tuple[bytes, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private, public.decode()
