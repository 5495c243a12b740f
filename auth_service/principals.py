"""What a bearer token lets its holder do: whose keys, which scopes, which projects, for how long."""

from __future__ import annotations

import time

from auth_service.assertions import Assertions, InvalidAssertion
from auth_service.people import People
from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from auth_service.store.service_account_keys import ServiceKey
from auth_service.validator import DEFAULT_SCOPES
from gstack.auth.v1 import auth_pb2 as pb

_GOOGLE = "https://www.googleapis.com/auth/"
_READ_ONLY = {
    _GOOGLE + "cloud-platform": (_GOOGLE + "cloud-platform.read-only",),
    _GOOGLE + "compute": (_GOOGLE + "compute.readonly",),
    _GOOGLE + "iam": (),
    _GOOGLE + "service.management": (),
    _GOOGLE + "cloud-billing": (_GOOGLE + "cloud-billing.readonly",),
}
_INACTIVE = pb.Principal(active=False)
# Longer than any JWT that is accepted.
_MAX_TOKEN = 16 * 1024


class Principals:
    def __init__(self, store: AuthStore, people: People, assertions: Assertions):
        self._store = store
        self._people = people
        self._assertions = assertions

    def authenticate(self, token: str, base: str) -> pb.Principal:
        """The owner of an access token or of a self-signed JWT; not active when it is neither."""
        if len(token) > _MAX_TOKEN:
            return _INACTIVE
        if token.count(".") == 2:
            return self._self_signed(token, base)
        found = self._store.tokens.bearer(token)
        if found is None:
            return _INACTIVE
        row, owner, key = found
        return self._principal(owner, key, row["scopes"].split(), row["expires"])

    def _self_signed(self, token: str, base: str) -> pb.Principal:
        try:
            found = self._assertions.for_api(token, base)
        except InvalidAssertion:
            return _INACTIVE
        self._store.service_account_keys.note_use(found.key)
        return self._principal(found.key.owner, found.key, found.scopes or DEFAULT_SCOPES, float(found.claims["exp"]))

    def _principal(self, owner: Credential, key: ServiceKey | None, scopes: list[str], expires: float) -> pb.Principal:
        if key is not None and key.expires:
            expires = min(expires, key.expires)
        trusted = self._people.trusted(owner)
        if not trusted or (key is not None and not key.usable) or expires <= time.time():
            return _INACTIVE
        if key is not None and key.read_only:
            scopes = [narrow for scope in scopes for narrow in _READ_ONLY.get(scope, (scope,))]
        subject = key.email if key else owner.subject
        return pb.Principal(
            active=True,
            subject=subject,
            key=owner.owner,
            scopes=scopes,
            expires_at=int(expires),
            credential=self._people.sealed(owner, subject, key.projects if key else {}),
            cache_seconds=trusted,
        )
