"""CloudStack users: who signs in, and whether CloudStack still accepts their keys.

The translator is asked (Identity service); auth itself never speaks to a CloudStack. What it is asked for strangers has
room of its own, beside that for people who are known: they go on whatever strangers ask for, and however long a
CloudStack takes.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
from cachetools import LRUCache

from auth_service.limits import Limits, Room, network_of
from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from gstack.auth.v1 import identity_pb2, identity_pb2_grpc
from gstack.kernel import sealing
from gstack.kernel.errors import NOT_TRIED, ApiError, from_rpc
from gstack.kernel.settings import Settings

# Keys are asked about again after this time, whoever uses them: what CloudStack refuses ends within it.
TRUST_SECONDS = 60.0
# While CloudStack cannot be asked, known keys go on working; each call finds out for itself.
_UNSURE_SECONDS = 5.0
# Refused keys are not asked about again for each request that comes with them.
_REFUSED_SECONDS = 10.0
# Gateways keep a sealed credential as long as its keys are trusted. It lives minutes longer, for the call that it goes
# with last and for clocks that differ, and is then of no use to whoever got hold of it.
CREDENTIAL_SECONDS = TRUST_SECONDS + 600.0
_MESSAGE_SECONDS = 600.0
_TIMEOUT = 30.0
# Somebody who is known waits for no slow CloudStack.
_AGAIN_TIMEOUT = 3.0
# Who is signed in waits a moment for others of his own.
_PATIENCE = 1.0
_LOCKS = 10_000
# Calls that no translator took.
_NOT_TAKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class People:
    def __init__(
        self,
        store: AuthStore,
        sealer: sealing.Keyring,
        identity: identity_pb2_grpc.IdentityStub,
        limits: Limits,
        settings: Settings,
    ):
        self._store = store
        self._sealer = sealer
        self._identity = identity
        self._limits = limits
        threads = settings.auth_threads
        self._strangers = Room(max(threads // 2, 1), max(threads // 4, 1))
        self._again = Room(max(threads // 4, 1), max(threads // 4, 1))
        self._projects = Room(threads, max(threads // 2, 1))
        self._locks: LRUCache[str, threading.Lock] = LRUCache(_LOCKS)
        self._guard = threading.Lock()

    def sign_in(self, username: str, password: str, domain: str, register_keys: bool, address: str) -> Credential:
        """Raises ApiError 401: reason `secondFactor`, `noKeys`, or anything else for a wrong name or password.

        With reason NOT_TRIED CloudStack has not seen the password.
        """
        typed = {"username": username, "password": password, "domain": domain}
        sealed = self._sealer.seal_message(typed, sealing.IDENTITY, _MESSAGE_SECONDS)
        request = identity_pb2.PasswordLogin(login=sealed, register_keys=register_keys)
        with self._strangers.place(network_of(address)):
            reply = _ask(self._identity.Login, request)
        keys = self._sealer.open_message(reply.credential, sealing.IDENTITY)
        credential = self._store.credentials.save(keys["api_key"], keys["secret_key"], reply.account)
        self._store.credentials.adopt(credential)
        return credential

    def verify(self, api_key: str, secret_key: str, address: str) -> Credential | None:
        """Whom the keys belong to; None when CloudStack refuses them. Raises 429, or 503 when there is no room.

        Keys that were good before are known, whoever asks at the same time or failed from the same address. Unknown and
        wrong keys take the same way through CloudStack, so that time tells nothing about them.
        """
        known = self._store.credentials.verified(api_key, secret_key, 0.0)
        if known is not None:
            return known if self.trusted(known) else None
        self._limits.stranger(address)
        try:
            with self._strangers.place(network_of(address)):
                account = self._account(api_key, secret_key)
        except ApiError as error:
            if error.code == 401:
                return None
            raise
        credential = self._store.credentials.save(api_key, secret_key, account)
        self._store.credentials.adopt(credential)
        return credential

    def trusted(self, credential: Credential) -> float:
        """For how many more seconds the keys may be taken as good; 0 when CloudStack refuses them."""
        left = credential.verified + TRUST_SECONDS - time.time()
        if left > 0:
            return left
        if time.time() - credential.refused < _REFUSED_SECONDS:
            return 0.0
        # Of many requests that come together one asks, and the last word stands for the others: a CloudStack that hangs
        # must not hold all threads.
        unsure = 0.0 if credential.refused else _UNSURE_SECONDS
        lock = self._lock(credential.id)
        if not lock.acquire(blocking=False):
            return unsure
        try:
            current = self._store.credentials.find(credential.id)
            if current is None:
                return 0.0
            left = current.verified + TRUST_SECONDS - time.time()
            if left > 0:
                return left
            if time.time() - current.refused < _REFUSED_SECONDS:
                return 0.0
            with self._again.place(credential.id):
                return self._ask_again(credential)
        except ApiError:
            return unsure
        finally:
            lock.release()

    def _ask_again(self, credential: Credential) -> float:
        try:
            self._account(credential.api_key, credential.secret_key, _AGAIN_TIMEOUT)
        except ApiError as error:
            if error.code != 401:
                raise
            self._store.credentials.mark_verified(credential.id, False)
            return 0.0
        self._store.credentials.mark_verified(credential.id, True)
        return TRUST_SECONDS

    def sealed(self, credential: Credential, subject: str, projects: dict[str, str]) -> bytes:
        """What translators get: the keys, whose they are, the projects they may be used for (empty is all)."""
        content: dict[str, Any] = {
            "api_key": credential.api_key,
            "secret_key": credential.secret_key,
            "account_id": credential.account_id,
            "account_name": credential.account_name,
            "user_id": credential.user_id,
            "credential_id": credential.id,
            "subject": subject,
            "key": credential.owner,
        }
        if projects:
            content["projects"] = list(projects)
        return self._sealer.seal_message(content, sealing.CREDENTIAL, CREDENTIAL_SECONDS)

    def projects(self, owner: str, sealed: bytes, *, with_created: bool = False) -> list[identity_pb2.Project]:
        with self._projects.place(owner, _PATIENCE):
            request = identity_pb2.ProjectsRequest(credential=sealed, with_created=with_created)
            return list(_ask(self._identity.Projects, request).projects)

    def project(self, owner: str, sealed: bytes, name: str, *, with_created: bool = False) -> identity_pb2.Project:
        """Raises 404 for a project that is not the principal's."""
        with self._projects.place(owner, _PATIENCE):
            request = identity_pb2.ProjectRequest(credential=sealed, name=name, with_created=with_created)
            found: identity_pb2.Project = _ask(self._identity.FindProject, request)
        return found

    def _account(self, api_key: str, secret_key: str, timeout: float = _TIMEOUT) -> identity_pb2.Account:
        keys = {"api_key": api_key, "secret_key": secret_key}
        sealed = self._sealer.seal_message(keys, sealing.IDENTITY, _MESSAGE_SECONDS)
        found: identity_pb2.Account = _ask(
            self._identity.Verify, identity_pb2.VerifyRequest(credential=sealed), timeout
        )
        return found

    def _lock(self, identity: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(identity, threading.Lock())


def _ask(method: Any, request: Any, timeout: float = _TIMEOUT) -> Any:
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as failure:
        error = from_rpc(failure)
        if failure.code() in _NOT_TAKEN:
            error.reason = NOT_TRIED
        raise error from None
