"""JWTs that service accounts sign: assertions for the token endpoint (RFC 7523) and bearers signed by themselves.

RS256 only. Whatever is wrong with the key or the signature is told in the same words.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from auth_service.store.auth_store import AuthStore
from auth_service.store.service_account_keys import ServiceKey

_ALGORITHMS = ["RS256"]
_LIFE_SECONDS = 3600
_SKEW_SECONDS = 60
# Libraries send an assertion again when the answer was lost; processes that start in the same second make the same.
_RETRY_SECONDS = 60.0
_MAX_LENGTH = 8 * 1024
# Seconds since the epoch with eleven digits; larger numbers cannot be reckoned with.
_LAST_SECOND = 1e11

# What libraries put in whatever endpoint they talk to (Google's own addresses are compiled in).
TOKEN_AUDIENCES = frozenset(
    (
        "https://oauth2.googleapis.com/token",
        "https://accounts.google.com/o/oauth2/token",
        "https://www.googleapis.com/oauth2/v3/token",
        "https://www.googleapis.com/oauth2/v4/token",
    )
)
_OWN_TOKEN_PATHS = ("/oauth2/token", "/token", "/o/oauth2/token", "/oauth2/v4/token")
_SERVICES = (
    "compute",
    "www",
    "iam",
    "cloudbilling",
    "cloudresourcemanager",
    "iamcredentials",
    "oslogin",
    "serviceusage",
)

BAD_SIGNATURE = "Invalid JWT Signature."


class InvalidAssertion(Exception):
    """A JWT that is not accepted; the text is for the client."""


@dataclass(frozen=True)
class Assertion:
    key: ServiceKey
    claims: dict[str, Any]

    @property
    def scopes(self) -> list[str]:
        return str(self.claims.get("scope", "")).split()


class Assertions:
    def __init__(self, store: AuthStore, universe_domain: str):
        self._store = store
        self._universe = universe_domain
        self._nobody = _unknown_key()

    def for_token(self, text: str, base: str, *, once: bool = True) -> Assertion:
        """An assertion for the token endpoint. Raises InvalidAssertion.

        once: refuse it when it was used before; with a `jti` at once, without one after a minute.
        """
        own = {base + path for path in _OWN_TOKEN_PATHS}
        found = self._verify(text)
        audiences = _audiences(found.claims)
        if not audiences & (TOKEN_AUDIENCES | own | {base, base + "/"}):
            raise InvalidAssertion("Invalid JWT: the audience must be this token endpoint.")
        subject = found.claims.get("sub")
        if subject not in (None, found.claims["iss"]):
            raise InvalidAssertion("Invalid JWT: a service account cannot act for somebody else (claim 'sub').")
        if once:
            jti = found.claims.get("jti")
            name, again = (f"jti {found.key.id} {jti}", 0.0) if jti else (text, _RETRY_SECONDS)
            if not self._store.service_account_keys.first_use(name, float(found.claims["exp"]) + _SKEW_SECONDS, again):
                raise InvalidAssertion("Invalid JWT: it was used before.")
        return found

    def for_api(self, text: str, base: str) -> Assertion:
        """A JWT that is a bearer token by itself: with an API as audience, or with scopes. Raises InvalidAssertion."""
        found = self._verify(text)
        if found.claims.get("sub") != found.claims["iss"]:
            raise InvalidAssertion("Invalid JWT: iss and sub must be the service account.")
        audiences = {one.rstrip("/") for one in _audiences(found.claims)}
        domains = {self._universe, "googleapis.com"}
        apis = {f"https://{service}.{domain}" for service in _SERVICES for domain in domains} | {base}
        if audiences and not audiences & apis:
            raise InvalidAssertion("Invalid JWT: the audience must be this API.")
        if not audiences and not found.scopes:
            raise InvalidAssertion("Invalid JWT: it needs an audience or scopes.")
        return found

    def _verify(self, text: str) -> Assertion:
        if len(text) > _MAX_LENGTH:
            raise InvalidAssertion("Invalid JWT: it is too long.")
        try:
            header = jwt.get_unverified_header(text)
            if header.get("alg") not in _ALGORITHMS:
                raise InvalidAssertion("Invalid JWT: it must be signed with RS256.")
            if key_id := header.get("kid"):
                candidates = self._store.service_account_keys.find(key=str(key_id))
            else:
                # libcloud names no key: whichever of the issuer's signed it.
                untrusted = jwt.decode(text, options={"verify_signature": False})
                candidates = self._store.service_account_keys.find(email=str(untrusted.get("iss", "")))
        except (jwt.InvalidTokenError, RecursionError):
            raise InvalidAssertion("Invalid JWT: it must have three parts of base64url.") from None
        for key in candidates:
            claims = _decode(text, key.public_key)
            if claims is not None and claims["iss"] == key.email and key.usable:
                _check_times(claims)
                return Assertion(key, claims)
        if not candidates:
            # As much work as for a key that exists.
            _decode(text, self._nobody)
        raise InvalidAssertion(BAD_SIGNATURE)


def _decode(text: str, public_key: str) -> dict[str, Any] | None:
    """The claims if the key signed them; what they say is checked apart."""
    options: Any = {"require": ["iss", "iat", "exp"], "verify_exp": False, "verify_iat": False, "verify_aud": False}
    options |= {"verify_nbf": False, "verify_sub": False, "verify_jti": False, "verify_iss": False}
    try:
        claims: dict[str, Any] = jwt.decode(text, _parsed(public_key), algorithms=_ALGORITHMS, options=options)
    except jwt.MissingRequiredClaimError as error:
        raise InvalidAssertion(f"Invalid JWT: claim '{error.claim}' is missing.") from None
    except (jwt.InvalidTokenError, RecursionError):
        return None
    return claims


def _check_times(claims: dict[str, Any]) -> None:
    now = time.time()
    times = [claims[name] for name in ("iat", "exp", "nbf") if name in claims]
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 <= one < _LAST_SECOND for one in times):
        raise InvalidAssertion("Invalid JWT: iat and exp must be seconds since the epoch.")
    if claims["exp"] <= now:
        raise InvalidAssertion("Invalid JWT: it is expired (claim 'exp'). Check the clock.")
    if claims["iat"] > now + _SKEW_SECONDS or claims.get("nbf", 0) > now + _SKEW_SECONDS:
        raise InvalidAssertion("Invalid JWT: it is not valid yet (claim 'iat'). Check the clock.")
    if not 0 < claims["exp"] - claims["iat"] <= _LIFE_SECONDS + _SKEW_SECONDS:
        raise InvalidAssertion("Invalid JWT: it must be short-lived, at most 60 minutes from iat to exp.")


def _audiences(claims: dict[str, Any]) -> set[str]:
    found = claims.get("aud") or []
    listed: Iterable[Any] = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return {one for one in listed if isinstance(one, str)}


@lru_cache(maxsize=2000)
def _parsed(public_key: str) -> Any:
    return load_pem_public_key(public_key.encode())


def _unknown_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
