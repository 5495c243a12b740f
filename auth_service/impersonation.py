"""Short-lived credentials of service accounts, for IAM Credentials' REST API: no key of the account is needed.

Who may have them is who sees the account: its owner. A token that is made so is limited to the account's project, and
acts with the CloudStack keys that asked for it. An account of somebody else's and one that there is not are both 403.
"""

from __future__ import annotations

import datetime
import re
import secrets
import time
import uuid
from collections.abc import Sequence
from typing import Any

from auth_service import clients
from auth_service.id_tokens import IdTokens
from auth_service.limits import Limits
from auth_service.service_accounts import Caller, ServiceAccounts
from auth_service.store.auth_store import AuthStore
from auth_service.validator import MAX_SCOPES, SCOPE
from gstack.auth.iamcredentials.v1 import credentials_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, required
from gstack.kernel.logs import audit
from gstack.kernel.settings import Settings

# Google's limits.
_MAX_SECONDS = 3600.0
_MAX_DELEGATES = 4
_MAX_AUDIENCE = 255
_LIFETIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)s")
_ACCOUNT = re.compile(r"(?:projects/([^/]+)/serviceAccounts/)?([^/]+)")


class Impersonation:
    def __init__(
        self, store: AuthStore, accounts: ServiceAccounts, id_tokens: IdTokens, limits: Limits, settings: Settings
    ):
        self._store = store
        self._accounts = accounts
        self._id_tokens = id_tokens
        self._limits = limits
        self._seconds = float(min(settings.access_token_seconds, _MAX_SECONDS))

    def access_token(self, caller: Caller, request: pb.GenerateAccessTokenRequest) -> pb.GenerateAccessTokenResponse:
        body = request.generateAccessTokenRequest
        scopes = [scope for one in body.scope for scope in one.split()]
        if not scopes:
            raise required("scope")
        if len(scopes) > MAX_SCOPES or not all(SCOPE.fullmatch(scope) for scope in scopes):
            raise invalid("scope", f"There must be at most {MAX_SCOPES}, each an OAuth scope.")
        seconds = min(_seconds(body.lifetime), self._seconds)
        account = self._account(caller, request.project, request.account, body.delegates)
        self._limits.token(caller.owner)
        token, expires = secrets.token_urlsafe(32), time.time() + seconds
        self._store.tokens.add(
            [
                {
                    "token": token,
                    "kind": "access",
                    "family": str(uuid.uuid4()),
                    "credential_id": caller.credential_id,
                    "client_id": clients.kept(account["email"]),
                    "scopes": " ".join(scopes),
                    "expires": expires,
                    "service_account": account["id"],
                }
            ]
        )
        self._tell(caller, account, "generateAccessToken", " ".join(scopes))
        ends = datetime.datetime.fromtimestamp(expires, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return pb.GenerateAccessTokenResponse(accessToken=token, expireTime=ends)

    def id_token(self, caller: Caller, issuer: str, request: pb.GenerateIdTokenRequest) -> pb.GenerateIdTokenResponse:
        body = request.generateIdTokenRequest
        if not body.audience:
            raise required("audience")
        if len(body.audience) > _MAX_AUDIENCE:
            raise invalid("audience", f"It must not be longer than {_MAX_AUDIENCE} characters.")
        account = self._account(caller, request.project, request.account, body.delegates)
        self._limits.token(caller.owner)
        email = account["email"] if body.includeEmail else ""
        token = self._id_tokens.issue(issuer, body.audience, account["unique_id"], email, verified=True)
        self._tell(caller, account, "generateIdToken", "")
        return pb.GenerateIdTokenResponse(token=token)

    def _account(self, caller: Caller, project: str, account: str, delegates: Sequence[str]) -> Any:
        if len(delegates) > _MAX_DELEGATES:
            raise invalid("delegates", f"There must be at most {_MAX_DELEGATES}.")
        for delegate in delegates:
            named = _ACCOUNT.fullmatch(delegate)
            if named is None:
                raise invalid("delegates", f"'{delegate[:200]}'. It must be projects/-/serviceAccounts/ACCOUNT.")
            self._own(caller, named[1] or "-", named[2])
        found = self._own(caller, project, account)
        if found["disabled"]:
            raise ApiError(400, f"Service account {found['email']} is disabled.", "failedPrecondition")
        return found

    def _own(self, caller: Caller, project: str, account: str) -> Any:
        try:
            return self._accounts.find(caller, project, account)
        except ApiError as error:
            if error.code != 404:
                raise
        raise ApiError(403, "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).")

    def _tell(self, caller: Caller, account: Any, grant: str, scopes: str) -> None:
        audit("access_granted", subject=account["email"], client=caller.subject, grant=grant, scopes=scopes)


def _seconds(lifetime: str) -> float:
    if not lifetime:
        return _MAX_SECONDS
    found = _LIFETIME.fullmatch(lifetime)
    if found is None or not 0 < float(found[1]) <= _MAX_SECONDS:
        raise invalid("lifetime", f"'{lifetime[:40]}'. It must be seconds with an s, at most {_MAX_SECONDS:.0f}s.")
    return float(found[1])
