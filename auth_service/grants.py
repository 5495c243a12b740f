"""The OAuth server: oauthlib's endpoints and grants, and the two grants it does not have."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from oauthlib.common import Request
from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    BearerToken,
    ClientCredentialsGrant,
    IntrospectEndpoint,
    InvalidRequestError,
    InvalidScopeError,
    MetadataEndpoint,
    OAuth2Error,
    RefreshTokenGrant,
    RevocationEndpoint,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749.grant_types.authorization_code import code_challenge_method_s256
from oauthlib.oauth2.rfc6749.grant_types.base import GrantTypeBase
from oauthlib.oauth2.rfc8628.grant_types import DeviceCodeGrant

from auth_service.id_tokens import IdTokens
from auth_service.validator import RevocationValidator, Validator, found

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_JWT = "urn:ietf:params:oauth:token-type:jwt"

# Scopes with which a person wants to be known by name.
NAME_SCOPES = frozenset(("openid", "email", "profile", "https://www.googleapis.com/auth/userinfo.email"))


def base_of(uri: str) -> str:
    """The issuer: requests come with the URI as the endpoint is configured, whatever host the client named."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


class Tokens(BearerToken):  # type: ignore[misc]
    """Opaque tokens of 256 bits, with an ID token where the scopes ask who the person is."""

    def __init__(self, validator: Validator, id_tokens: IdTokens, seconds: int):
        super().__init__(
            validator,
            token_generator=lambda request: secrets.token_urlsafe(32),
            # A token that comes from another one does not outlive it.
            expires_in=lambda request: max(min(seconds, int(found(request).seconds or seconds)), 1),
            refresh_token_generator=lambda request: secrets.token_urlsafe(32),
        )
        self._id_tokens = id_tokens

    def create_token(self, request: Request, refresh_token: bool = False, **kwargs: Any) -> dict[str, Any]:
        token: dict[str, Any] = super().create_token(request, refresh_token, **kwargs)
        if found(request).service_key is None and NAME_SCOPES & set(request.scopes or ()):
            half = hashlib.sha256(token["access_token"].encode()).digest()[:16]
            token["id_token"] = self._id_tokens.issue(
                base_of(request.uri),
                request.client.client_id,
                request.user.user_id,
                request.user.subject,
                verified=False,
                nonce=request.nonce,
                at_hash=base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            )
        return token


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]
    _code_challenge_methods = {"S256": code_challenge_method_s256}

    def create_authorization_code(self, request: Request) -> dict[str, str]:
        """With the issuer, so that a client of several servers is not mixed up (RFC 9207)."""
        grant: dict[str, str] = super().create_authorization_code(request)
        return {**grant, "code": secrets.token_urlsafe(32), "iss": base_of(request.uri)}


class _DirectGrant(GrantTypeBase):  # type: ignore[misc]
    """A grant of one request that proves itself: no client authentication, no refresh token."""

    refresh_token = False
    grant_type = ""

    def create_token_response(self, request: Request, token_handler: Tokens) -> tuple[dict[str, str], str, int]:
        headers: dict[str, str] = self._get_default_headers()
        try:
            self.validate_token_request(request)
            token = self.create_token(request, token_handler)
        except OAuth2Error as error:
            headers.update(error.headers)
            return headers, error.json, error.status_code
        return headers, json.dumps(token), 200

    def validate_token_request(self, request: Request) -> None:
        """Sets user, client and scopes of the request. Raises OAuth2Error."""
        raise NotImplementedError

    def create_token(self, request: Request, token_handler: Tokens) -> dict[str, Any]:
        token: dict[str, Any] = token_handler.create_token(request, refresh_token=False)
        self.request_validator.save_token(token, request)
        return token

    def _parameter(self, request: Request, name: str) -> str:
        if name in request.duplicate_params:
            raise InvalidRequestError(f"Duplicate {name} parameter.", request=request)
        value = getattr(request, name, None)
        if not value:
            raise InvalidRequestError(f"Missing {name} parameter.", request=request)
        return str(value)


class JwtBearerGrant(_DirectGrant):
    """RFC 7523: an assertion that a service account signed. With `target_audience` an ID token and nothing else."""

    def __init__(self, validator: Validator, id_tokens: IdTokens):
        super().__init__(validator)
        self._id_tokens = id_tokens

    def validate_token_request(self, request: Request) -> None:
        text = self._parameter(request, "assertion")
        assertion = self.request_validator.validate_assertion(text, request, base_of(request.uri), once=True)
        if assertion.claims.get("target_audience"):
            return
        request.scopes = assertion.scopes or request.scopes
        if not request.scopes:
            raise InvalidScopeError("Invalid OAuth scope or ID token audience provided.", request=request)
        self.validate_scopes(request)

    def create_token(self, request: Request, token_handler: Tokens) -> dict[str, Any]:
        assertion = found(request).assertion
        audience = assertion.claims.get("target_audience") if assertion else None
        if assertion is None or not audience:
            return super().create_token(request, token_handler)
        key = assertion.key
        issuer = base_of(request.uri)
        return {"id_token": self._id_tokens.issue(issuer, str(audience), key.unique_id, key.email, verified=True)}


class TokenExchangeGrant(_DirectGrant):
    """RFC 8693 for `external_account` credentials: a service account's JWT, or an access token, for an access token."""

    def validate_token_request(self, request: Request) -> None:
        text = self._parameter(request, "subject_token")
        kind = self._parameter(request, "subject_token_type")
        if getattr(request, "requested_token_type", None) not in (None, "", _ACCESS_TOKEN):
            raise InvalidRequestError("requested_token_type must be an access token.", request=request)
        asked = list(request.scopes or ())
        if kind == _JWT:
            # The same file is read by many processes until the JWT in it ends.
            assertion = self.request_validator.validate_assertion(text, request, base_of(request.uri), once=False)
            allowed, expires = assertion.scopes, float(assertion.claims["exp"])
        elif kind == _ACCESS_TOKEN:
            allowed, expires = self.request_validator.validate_subject_token(text, request)
        else:
            raise InvalidRequestError(f"subject_token_type must be {_JWT} or {_ACCESS_TOKEN}.", request=request)
        if allowed and not set(asked) <= set(allowed):
            raise InvalidScopeError("More was asked for than the subject_token allows.", request=request)
        request.scopes = asked or allowed
        found(request).seconds = min(expires - time.time(), found(request).seconds or expires)
        self.validate_scopes(request)

    def create_token(self, request: Request, token_handler: Tokens) -> dict[str, Any]:
        return {**super().create_token(request, token_handler), "issued_token_type": _ACCESS_TOKEN}


class OAuthServer(AuthorizationEndpoint, TokenEndpoint, IntrospectEndpoint):  # type: ignore[misc]
    """Authorization, token and introspection endpoints; `revocation` and `metadata` beside them."""

    def __init__(self, validator: Validator, revocation: RevocationValidator, id_tokens: IdTokens, seconds: int):
        code = CodeGrant(validator)
        code.custom_validators.post_auth.append(validator.check_texts)
        bearer = Tokens(validator, id_tokens, seconds)
        grants = {
            "authorization_code": code,
            "refresh_token": RefreshTokenGrant(validator),
            "client_credentials": ClientCredentialsGrant(validator),
            DEVICE: DeviceCodeGrant(validator),
            JWT_BEARER: JwtBearerGrant(validator, id_tokens),
            TOKEN_EXCHANGE: TokenExchangeGrant(validator),
        }
        AuthorizationEndpoint.__init__(self, "code", response_types={"code": code}, default_token_type=bearer)
        TokenEndpoint.__init__(self, "authorization_code", grant_types=grants, default_token_type=bearer)
        IntrospectEndpoint.__init__(self, validator)
        self.revocation = RevocationEndpoint(revocation)

    def metadata(self, issuer: str, base: str) -> dict[str, Any]:
        """RFC 8414: what oauthlib finds in its endpoints, and our paths below `base`."""
        methods = ["client_secret_post", "client_secret_basic"]
        claims = {
            "issuer": issuer,
            "authorization_endpoint": f"{base}/oauth2/auth",
            "token_endpoint": f"{base}/oauth2/token",
            "revocation_endpoint": f"{base}/oauth2/revoke",
            "introspection_endpoint": f"{base}/oauth2/introspect",
            "device_authorization_endpoint": f"{base}/oauth2/device/code",
            "userinfo_endpoint": f"{base}/oauth2/v3/userinfo",
            "jwks_uri": f"{base}/oauth2/v3/certs",
            "response_modes_supported": ["query"],
            # "none": the programs whose secrets are printed in their sources.
            "token_endpoint_auth_methods_supported": [*methods, "none"],
            "revocation_endpoint_auth_methods_supported": [*methods, "none"],
            "introspection_endpoint_auth_methods_supported": [*methods, "none"],
            "authorization_response_iss_parameter_supported": True,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": [
                "openid",
                "email",
                "https://www.googleapis.com/auth/userinfo.email",
                "https://www.googleapis.com/auth/cloud-platform",
                "https://www.googleapis.com/auth/cloud-platform.read-only",
                "https://www.googleapis.com/auth/compute",
                "https://www.googleapis.com/auth/compute.readonly",
                "https://www.googleapis.com/auth/iam",
            ],
            "claims_supported": ["iss", "aud", "sub", "email", "email_verified", "iat", "exp", "nonce"],
        }
        made: dict[str, Any] = MetadataEndpoint([self, self.revocation], claims).claims
        return made
