"""The Pages service: what a person does in a browser. Sign-in, consent, devices, keys."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import orjson
from oauthlib.common import add_params_to_uri
from oauthlib.oauth2 import AccessDeniedError, OAuth2Error

from auth_service import clients, logins, service_accounts
from auth_service.grants import OAuthServer, base_of
from auth_service.limits import Limits
from auth_service.oauth import check_parameters, normal_user_code
from auth_service.people import People
from auth_service.service_accounts import ServiceAccounts
from auth_service.store.auth_store import AuthStore
from auth_service.store.base import digest
from auth_service.store.credentials import Credential
from auth_service.validator import ADDRESS
from gstack.auth.v1 import auth_pb2
from gstack.auth.v1 import pages_pb2 as pb
from gstack.kernel import sealing
from gstack.kernel.errors import ApiError
from gstack.kernel.logs import audit

SESSION_SECONDS = 8 * 3600
_TICKET_SECONDS = 600.0
_TICKET = "ticket"
# More is no name, password or key of CloudStack's.
_MAX_TYPED = 255
_WRONG = "The name or the password, or one of the keys, is wrong."
_TOO_OLD = "This page is too old. Go back to your program and begin again."
_UNKNOWN_CODE = "There is no such code, or it is over. Look at your device again."


class PagesService:
    """The servicer; methods are those of the proto."""

    def __init__(
        self,
        server: OAuthServer,
        store: AuthStore,
        people: People,
        accounts: ServiceAccounts,
        sealer: sealing.Keyring,
        limits: Limits,
        attempts: logins.Logins,
    ):
        self._logins = attempts
        self._server = server
        self._store = store
        self._people = people
        self._accounts = accounts
        self._sealer = sealer
        self._limits = limits

    # Sessions

    def SignIn(self, request: pb.SignInRequest, context: grpc.ServicerContext) -> pb.SignInResponse:
        self._limits.request(request.remote_address)
        typed = (request.username, request.password, request.domain, request.api_key, request.secret_key)
        name = logins.name_of(request.username, request.domain) if request.username else ""
        try:
            if any(len(text) > _MAX_TYPED for text in typed):
                raise ApiError(401, _WRONG)
            credential = self._by_password(request, name) if name else self._by_keys(request)
        except ApiError as error:
            if error.code != 401:
                raise
            audit("sign_in_refused", reason=error.reason, remote_address=request.remote_address)
            if error.reason == "noKeys":
                return pb.SignInResponse(failure=error.message, needs_keys=True)
            if error.reason == "secondFactor":
                return pb.SignInResponse(failure=error.message)
            self._limits.failure(request.remote_address)
            return pb.SignInResponse(failure=error.message if error.reason == logins.ATTEMPTS else _WRONG)
        session = secrets.token_urlsafe(32)
        self._store.sessions.add(session, credential, SESSION_SECONDS)
        audit("sign_in", subject=credential.subject, remote_address=request.remote_address)
        response = pb.SignInResponse(session=session, seconds=SESSION_SECONDS)
        # Keys prove as much as a password.
        response.device = self._logins.remember(request.device, credential)
        response.device_seconds = logins.DEVICE_SECONDS
        return response

    def SignOut(self, request: pb.SignOutRequest, context: grpc.ServicerContext) -> pb.SignedOut:
        credential = self._store.sessions.find(request.session)
        if credential is not None:
            if request.everywhere:
                self._store.sessions.end_all(credential)
            else:
                self._store.sessions.end(request.session)
            audit(
                "sign_out",
                subject=credential.subject,
                everywhere=request.everywhere,
                remote_address=request.remote_address,
            )
        return pb.SignedOut()

    def WhoAmI(self, request: pb.SessionRequest, context: grpc.ServicerContext) -> pb.Person:
        return _person_of(self._person(request.session))

    # Consent

    def Authorize(self, request: pb.AuthorizeRequest, context: grpc.ServicerContext) -> pb.AuthorizeResponse:
        asked = request.request
        try:
            check_parameters(asked)
            scopes, found = self._server.validate_authorization_request(
                asked.uri, asked.method, asked.body, dict(asked.headers)
            )
        except OAuth2Error as error:
            return pb.AuthorizeResponse(response=_refusal(error, base_of(asked.uri)))
        credential = self._session(request.session)
        if credential is None:
            return pb.AuthorizeResponse(client_name=clients.name_of(found["client_id"]))
        consent = self._consent(request.session, credential, found["client_id"], scopes, {"uri": asked.uri})
        redirect = found["redirect_uri"] or ""
        if redirect not in clients.SHOWN_CODE:
            parts = urlsplit(redirect)
            consent.redirect_origin = f"{parts.scheme}://{parts.netloc}"
        return pb.AuthorizeResponse(consent=consent)

    def FindDevice(self, request: pb.FindDeviceRequest, context: grpc.ServicerContext) -> pb.FindDeviceResponse:
        credential = self._person(request.session)
        self._limits.request(request.remote_address)
        self._limits.name(credential.owner)
        row = self._store.devices.by_user_code(normal_user_code(request.user_code))
        if row is None:
            # Guessing is stopped for the user, whose sessions may come from many addresses.
            self._limits.failure(request.remote_address)
            self._limits.name_failure(credential.owner)
            audit("user_code_refused", subject=credential.subject, remote_address=request.remote_address)
            return pb.FindDeviceResponse(failure=_UNKNOWN_CODE)
        consent = self._consent(
            request.session, credential, row["client_id"], row["scopes"].split(), {"device": row["hash"].hex()}
        )
        return pb.FindDeviceResponse(consent=consent)

    def Decide(self, request: pb.DecideRequest, context: grpc.ServicerContext) -> pb.Decision:
        credential = self._person(request.session)
        ticket = self._ticket(request.ticket, request.session)
        if ticket is None:
            return pb.Decision(failure=_TOO_OLD)
        audit(
            "consent" if request.allow else "consent_denied",
            subject=credential.subject,
            client=clients.name_of(ticket["client_id"]),
            scopes=" ".join(ticket["scopes"]),
            remote_address=request.remote_address,
        )
        if "device" in ticket:
            if not self._store.devices.decide(bytes.fromhex(ticket["device"]), credential, request.allow):
                return pb.Decision(failure=_UNKNOWN_CODE)
            return pb.Decision(
                done="Your device is signed in. You can close this page."
                if request.allow
                else "The device was refused."
            )
        return self._answer_program(ticket, credential, request.allow, request.remote_address)

    def _answer_program(
        self, ticket: dict[str, Any], credential: Credential, allow: bool, remote_address: str
    ) -> pb.Decision:
        """The redirect of RFC 6749, 4.1.2, or its content where nobody waits for it."""
        try:
            if allow:
                headers, _, _ = self._server.create_authorization_response(
                    ticket["uri"],
                    "GET",
                    None,
                    {ADDRESS: remote_address},
                    scopes=ticket["scopes"],
                    credentials={"user": credential},
                )
                location = headers["Location"]
            else:
                query = dict(parse_qs(urlsplit(ticket["uri"]).query))
                denied = AccessDeniedError(state=query["state"][0] if "state" in query else None)
                redirect = query.get("redirect_uri", [clients.SHOWN_CODE[0]])[0]
                location = add_params_to_uri(denied.in_uri(redirect), {"iss": base_of(ticket["uri"])})
        except OAuth2Error as error:
            return pb.Decision(failure=str(error.description or error.error))
        if location.partition("?")[0] not in clients.SHOWN_CODE:
            return pb.Decision(redirect_uri=_with_percents(location))
        found = parse_qs(urlsplit(location).query)
        if "code" in found:
            return pb.Decision(code=found["code"][0])
        if not allow:
            return pb.Decision(done="The program was refused. You can close this page.")
        return pb.Decision(failure=found.get("error_description", found.get("error", ["refused"]))[0])

    # Keys

    def Overview(self, request: pb.SessionRequest, context: grpc.ServicerContext) -> pb.OverviewResponse:
        credential = self._person(request.session)
        response = pb.OverviewResponse(
            person=_person_of(credential),
            projects=self._people.projects(credential.owner, self._people.sealed(credential, credential.subject, {})),
        )
        for account in self._store.service_accounts.of(credential.owner):
            for row in self._store.service_account_keys.of(account["id"]):
                response.keys.add(
                    id=row["id"],
                    service_account=account["email"],
                    projects=list(orjson.loads(row["projects"]).values()),
                    read_only=row["read_only"],
                    created=int(row["created"]),
                    last_used=int(row["last_used"]),
                    expires=int(row["expires"]),
                    disabled=row["disabled"] or account["disabled"],
                )
        for grant in self._store.tokens.grants(credential):
            response.grants.add(
                id=grant["family"],
                client_name=clients.name_of(grant["client_id"]),
                scopes=grant["scopes"].split(),
                created=int(grant["created"]),
                last_used=int(grant["last_used"]),
                remote_address=grant["remote_address"],
            )
        return response

    def CreateKey(self, request: pb.CreateKeyRequest, context: grpc.ServicerContext) -> pb.CreateKeyResponse:
        credential = self._person(request.session)
        caller = service_accounts.Caller.of(self._people, credential)
        try:
            made = self._accounts.make_key_file(
                caller, request.account_id, list(request.projects), request.read_only, request.days, request.base
            )
        except ApiError as error:
            if error.code in (400, 404, 409):
                return pb.CreateKeyResponse(failure=error.message)
            raise
        audit(
            "key_created",
            subject=credential.subject,
            service_account=made.email,
            key_id=made.key_id,
            remote_address=request.remote_address,
        )
        return pb.CreateKeyResponse(file=made.file, id=made.key_id, service_account=made.email)

    def DeleteKey(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.Deleted:
        credential = self._person(request.session)
        for key in self._store.service_account_keys.find(key=request.id):
            if key.owner.owner == credential.owner:
                self._store.service_account_keys.delete(key.id)
                audit(
                    "key_deleted",
                    subject=credential.subject,
                    service_account=key.email,
                    key_id=key.id,
                    remote_address=request.remote_address,
                )
        return pb.Deleted()

    def DeleteGrant(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.Deleted:
        credential = self._person(request.session)
        if self._store.tokens.owns_family(credential, request.id):
            self._store.tokens.revoke_family(request.id)
            audit("access_ended", subject=credential.subject, remote_address=request.remote_address)
        return pb.Deleted()

    # Helpers

    def _by_password(self, request: pb.SignInRequest, name: str) -> Credential:
        """Raises ApiError 401 when CloudStack refuses, or is not asked any more."""
        known = self._logins.is_known(request.device, name)
        if not known:
            self._limits.stranger(request.remote_address)
        domain = "/".join(logins.path_of(request.domain))
        return self._logins.attempt(
            name,
            known,
            lambda: self._people.sign_in(
                request.username, request.password, domain, request.register_keys, request.remote_address
            ),
        )

    def _by_keys(self, request: pb.SignInRequest) -> Credential:
        """Raises ApiError 401 when CloudStack refuses."""
        found = None
        if request.api_key:
            found = self._people.verify(request.api_key, request.secret_key, request.remote_address)
        if found is None:
            raise ApiError(401, _WRONG)
        return found

    def _session(self, session: str) -> Credential | None:
        """Who is signed in, if CloudStack still accepts the keys."""
        credential = self._store.sessions.find(session) if session else None
        return credential if credential is not None and self._people.trusted(credential) else None

    def _person(self, session: str) -> Credential:
        credential = self._session(session)
        if credential is None:
            raise ApiError(401, "Sign in again.")
        return credential

    def _consent(
        self, session: str, credential: Credential, client_id: str, scopes: list[str], what: dict[str, str]
    ) -> pb.Consent:
        ticket = {
            "client_id": client_id,
            "scopes": scopes,
            # Another session cannot use it, whatever it was shown.
            "session": digest(session).hex(),
            **what,
        }
        return pb.Consent(
            ticket=self._sealer.seal_message(ticket, _TICKET, _TICKET_SECONDS).hex(),
            client_name=clients.name_of(client_id),
            client_id=client_id,
            scopes=scopes,
            person=_person_of(credential),
        )

    def _ticket(self, text: str, session: str) -> dict[str, Any] | None:
        try:
            ticket = self._sealer.open_message(bytes.fromhex(text), _TICKET)
        except (sealing.SealError, ValueError):
            return None
        return ticket if ticket["session"] == digest(session).hex() else None


def _person_of(credential: Credential) -> pb.Person:
    return pb.Person(subject=credential.subject, account=credential.account_name, domain=credential.domain_path)


def _with_percents(uri: str) -> str:
    """Blanks in the query as %20: libcloud compares the state as it is written."""
    path, mark, query = uri.partition("?")
    return path + mark + query.replace("+", "%20")


def _refusal(error: OAuth2Error, issuer: str) -> auth_pb2.HttpResponse:
    """Fatal errors are told to the person, others to the client by a redirect (RFC 6749, 4.1.2.1)."""
    uri = getattr(error, "redirect_uri", None)
    if uri and clients.may_redirect(uri) and uri not in clients.SHOWN_CODE:
        location = add_params_to_uri(error.in_uri(uri), {"iss": issuer})
        return auth_pb2.HttpResponse(status=303, headers={"Location": _with_percents(location)})
    return auth_pb2.HttpResponse(status=400, headers={"Content-Type": "application/json"}, body=error.json)
