"""The auth service in this process, on SQLite, with the translator's Identity functions on the simulated cloud."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import grpc
import jwt
import orjson

from auth_service.assertions import Assertions
from auth_service.grants import OAuthServer
from auth_service.id_tokens import IdTokens
from auth_service.impersonation import Impersonation
from auth_service.limits import Limits
from auth_service.logins import Logins
from auth_service.oauth import OAuthService
from auth_service.pages import PagesService
from auth_service.people import People
from auth_service.principals import Principals
from auth_service.projects import Projects
from auth_service.service_accounts import Caller, ServiceAccounts
from auth_service.service_usage import ServiceUsage
from auth_service.store.auth_store import AuthStore
from auth_service.validator import RevocationValidator, Validator
from gstack.auth.v1 import auth_pb2, iam_pb2, pages_pb2
from gstack.kernel.errors import ApiError
from gstack.kernel.sealing import Keyring, create_key
from gstack.kernel.settings import Settings
from translator_service import identity
from translator_service.cloudstack.errors import CloudStackError, Unreachable, to_api_error
from translator_service.scope import Environment

os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

BASE = "http://gw:5000"
ADDRESS = "192.0.2.1"
SDK = "32555940559.apps.googleusercontent.com"
FILES = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
LOOPBACK = "http://localhost:8085/"
OOB = "urn:ietf:wg:oauth:2.0:oob"
COMPUTE = "https://www.googleapis.com/auth/compute"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class Refused(grpc.RpcError):
    """How an ApiError of another service arrives."""

    def __init__(self, error: ApiError):
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.grpc_status()

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (self._error.to_metadata(),)


def identity_stub(environment: Environment) -> Any:
    """The translator's Identity service without the wire."""

    def method(function: Callable[[Environment, Any], Any]) -> Callable[..., Any]:
        def call(request: Any, timeout: float) -> Any:
            try:
                return function(environment, request)
            except ApiError as error:
                raise Refused(error) from None
            except (CloudStackError, Unreachable) as error:
                raise Refused(to_api_error(error)) from None

        return call

    return SimpleNamespace(
        Verify=method(identity.verify),
        Login=method(identity.login),
        Projects=method(identity.projects),
        FindProject=method(identity.find_project),
    )


class Auth:
    """All servicers, and what a test asks of them in short words."""

    def __init__(self, environment: Environment, folder: Path, **settings: Any):
        self.settings = Settings(state_dir=folder, **settings)
        create_key(folder / "master.key")
        self.store = AuthStore(self.settings.auth_database(), Keyring(folder / "master.key"))
        self.sealer = environment.sealer
        self.limits = limits = Limits(self.store, self.settings)
        self.people = People(self.store, environment.sealer, identity_stub(environment), limits, self.settings)
        assertions = Assertions(self.store, self.settings.universe_domain)
        id_tokens = IdTokens(self.store)
        validator = Validator(self.store, self.people, assertions, limits, self.settings)
        revocation = RevocationValidator(self.store, self.people, assertions, limits, self.settings)
        server = OAuthServer(validator, revocation, id_tokens, self.settings.access_token_seconds)
        self.accounts = ServiceAccounts(self.store, self.people, limits, self.settings)
        self.impersonation = Impersonation(self.store, self.accounts, id_tokens, limits, self.settings)
        self.projects = Projects(self.people)
        self.usage = ServiceUsage(self.projects.find)
        self.principals = Principals(self.store, self.people, assertions)
        self.oauth = OAuthService(server, validator, self.store, self.people, id_tokens, limits)
        attempts = Logins(self.store, environment.sealer, self.settings)
        self.pages = PagesService(server, self.store, self.people, self.accounts, environment.sealer, limits, attempts)

    def close(self) -> None:
        self.store.engine.dispose()

    # Requests

    def post(
        self, endpoint: str, form: dict[str, str] | str, *, basic: tuple[str, str] | None = None, query: str = "",
        address: str = ADDRESS, path: str = "/oauth2/token",
    ) -> auth_pb2.HttpResponse:  # fmt: skip
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if basic:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
        request = auth_pb2.HttpRequest(
            uri=BASE + path + query,
            method="POST",
            headers=headers,
            body=form if isinstance(form, str) else urlencode(form),
            remote_address=address,
            base=BASE,
        )
        reply: auth_pb2.HttpResponse = getattr(self.oauth, endpoint)(request, None)
        return reply

    def token(self, grant_type: str, *, basic: tuple[str, str] | None = None, **form: str) -> dict[str, Any]:
        """The JSON of the answer with its status as `status`."""
        reply = self.post("Token", {"grant_type": grant_type, **form}, basic=basic)
        return {**orjson.loads(reply.body), "status": reply.status}

    def principal(self, token: str) -> auth_pb2.Principal:
        return self.principals.authenticate(token, BASE)

    # People

    def sign_in(self, name: str = "demo", **more: Any) -> str:
        """A browser session."""
        typed = {"username": name, "password": name, "remote_address": ADDRESS, **more}
        reply = self.pages.SignIn(pages_pb2.SignInRequest(**typed), None)
        assert reply.session, reply.failure
        return str(reply.session)

    def authorize(self, session: str = "", **query: str) -> pages_pb2.AuthorizeResponse:
        """Ask for a code; by default as gcutil does, with `redirect_uri` and others on top. None leaves one out."""
        asked: dict[str, Any] = {
            "response_type": "code",
            "client_id": SDK,
            "redirect_uri": OOB,
            "scope": f"{COMPUTE} {CLOUD}",
            **query,
        }
        uri = f"{BASE}/oauth2/auth?{urlencode({name: value for name, value in asked.items() if value is not None})}"
        request = auth_pb2.HttpRequest(uri=uri, method="GET", remote_address=ADDRESS, base=BASE)
        return self.pages.Authorize(pages_pb2.AuthorizeRequest(request=request, session=session), None)

    def decide(self, session: str, ticket: str, allow: bool = True) -> pages_pb2.Decision:
        request = pages_pb2.DecideRequest(session=session, ticket=ticket, allow=allow, remote_address=ADDRESS)
        return self.pages.Decide(request, None)

    def code(self, session: str = "", **query: str) -> str:
        """A code that a person agreed to."""
        session = session or self.sign_in()
        decision = self.decide(session, self.authorize(session, **query).consent.ticket)
        if decision.code:
            return str(decision.code)
        return parse_qs(urlsplit(decision.redirect_uri).query)["code"][0]

    def login(self, client_id: str = SDK, **query: str) -> dict[str, Any]:
        """The tokens of a whole login."""
        more = {} if client_id == SDK else {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        code = self.code(client_id=client_id, **more, **query)
        verifier = {"code_verifier": VERIFIER} if more else {}
        redirect = query.get("redirect_uri", OOB)
        return self.token("authorization_code", code=code, client_id=client_id, redirect_uri=redirect, **verifier)

    # Service accounts

    def caller(self, name: str = "demo") -> Caller:
        credential = self.people.verify(f"{name}-api-key", f"{name}-secret-key", ADDRESS)
        assert credential is not None
        return Caller.of(self.people, credential)

    def key_file(self, name: str = "demo", **limits: Any) -> dict[str, Any]:
        """A key file of the service account `robot-1`; limits: projects, read_only, days."""
        asked = {"projects": [name], "read_only": False, "days": 0, **limits}
        made = self.accounts.make_key_file(
            self.caller(name), "robot-1", asked["projects"], asked["read_only"], asked["days"], BASE
        )
        found: dict[str, Any] = orjson.loads(made.file)
        return found

    def service_account(self, name: str = "demo") -> iam_pb2.ServiceAccount:
        request = iam_pb2.CreateServiceAccountRequest(project=name)
        request.createServiceAccountRequest.accountId = "robot-1"
        return self.accounts.create(self.caller(name), request)


def assertion(key: dict[str, Any], *, kid: bool = True, algorithm: str = "RS256", **claims: Any) -> str:
    """A JWT as libraries sign it with a key file; a claim of None is left out."""
    now = int(time.time())
    content = {
        "iss": key["client_email"],
        "aud": "https://oauth2.googleapis.com/token",
        "scope": COMPUTE,
        "iat": now,
        "exp": now + 3600,
        **claims,
    }
    content = {name: value for name, value in content.items() if value is not None}
    headers = {"kid": key["private_key_id"]} if kid else None
    return jwt.encode(content, key["private_key"], algorithm, headers=headers)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
