"""The auth process: store, people, OAuth server, and the gRPC services in front of them, in this order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import grpc
import structlog
from sqlalchemy.exc import SQLAlchemyError

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
from gstack.auth.cloudbilling.v1 import billing_pb2
from gstack.auth.iamcredentials.v1 import credentials_pb2
from gstack.auth.resourcemanager.v1 import projects_pb2
from gstack.auth.serviceusage.v1 import services_pb2
from gstack.auth.v1 import auth_pb2, iam_pb2, identity_pb2_grpc, pages_pb2
from gstack.kernel import database, metrics, rpc, sealing, tracing, trust
from gstack.kernel.errors import ApiError
from gstack.kernel.logs import audit
from gstack.kernel.settings import Settings

log = structlog.get_logger()

_PURGE_SECONDS = 600.0
# The largest are forms and public keys.
_MAX_REQUEST = 256 * 1024

Method = Callable[[Any, grpc.ServicerContext], Any]


def main(settings: Settings) -> None:
    """Serve until SIGTERM. Raises KeyFileError when a key is missing or the wrong one."""
    # TLS ends at the gateway or before it; oauthlib sees the URI that the client used.
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    tracing.configure("auth")
    metrics.about("auth")
    shared, master = sealing.Keyring(settings.sealing_key_path()), sealing.Keyring(settings.master_key_path())
    store = AuthStore(settings.auth_database(), master, connections=settings.database_connections)
    store.sealed.check(settings.master_key_path())
    known = trust.of(settings)
    identity = identity_pb2_grpc.IdentityStub(  # type: ignore[no-untyped-call]
        rpc.channel(settings.translator_target, "translator", known)
    )
    server = rpc.Server(settings.auth_threads, known, settings.connection_age, settings.grpc_reflection, _MAX_REQUEST)
    limits = Limits(store, settings)
    add_services(server, store, People(store, shared, identity, limits, settings), shared, limits, settings)
    stop = threading.Event()

    def purge() -> None:
        while not stop.wait(_PURGE_SECONDS):
            try:
                store.purge()
            except SQLAlchemyError as error:
                # The database is away: the next time will do.
                log.warning("purge_failed", reason=type(error).__name__)

    threading.Thread(target=purge, name="purge", daemon=True).start()
    if settings.auth_metrics_listen:
        metrics.KEY_AGE.labels("master").set_function(master.age)
        metrics.KEY_AGE.labels("sealing").set_function(shared.age)
        database.measure(store.engine)
        metrics.serve(
            settings.auth_metrics_listen,
            {"grpc": lambda: server.is_serving, "database": lambda: database.answers(store.engine)},
        )
    server.run(settings.auth_listen, stops=[stop.set])


def add_services(
    server: rpc.Server,
    store: AuthStore,
    people: People,
    shared: sealing.Keyring,
    limits: Limits,
    settings: Settings,
) -> None:
    assertions = Assertions(store, settings.universe_domain)
    id_tokens = IdTokens(store)
    validator = Validator(store, people, assertions, limits, settings)
    revocation = RevocationValidator(store, people, assertions, limits, settings)
    oauth = OAuthServer(validator, revocation, id_tokens, settings.access_token_seconds)
    accounts = ServiceAccounts(store, people, limits, settings)
    principals = Principals(store, people, assertions)

    def authenticate(request: auth_pb2.AuthenticateRequest, context: grpc.ServicerContext) -> auth_pb2.Principal:
        found = principals.authenticate(request.token, request.base)
        if not found.active:
            audit("bearer_refused", remote_address=request.remote_address)
        return found

    # Bearers of known tokens do not wait for programs that want one, nor these for people at their pages.
    _add(server, auth_pb2, "Auth", {"Authenticate": authenticate}, settings.auth_threads)
    programs = OAuthService(oauth, validator, store, people, id_tokens, limits)
    _add_all(server, auth_pb2, "OAuth", programs, settings.auth_threads)
    pages = PagesService(oauth, store, people, accounts, shared, limits, Logins(store, shared, settings))
    _add_all(server, pages_pb2, "Pages", pages)
    impersonation = Impersonation(store, accounts, id_tokens, limits, settings)
    for module, served in _apis(accounts, impersonation, Projects(people), shared):
        for service, methods in served.items():
            _add(server, module, service, methods)


def _apis(
    accounts: ServiceAccounts, impersonation: Impersonation, projects: Projects, shared: sealing.Keyring
) -> list[tuple[ModuleType, dict[str, dict[str, Method]]]]:
    """The methods of Google's REST APIs. The gateway sends the principal's credential, as it does to translators."""

    def of_caller(function: Callable[[Caller, Any], Any]) -> Method:
        return lambda request, context: function(_caller(context, shared), request)

    def with_base(function: Callable[[Caller, str, Any], Any]) -> Method:
        return lambda request, context: function(_caller(context, shared), _metadata(context, rpc.LINK_BASE), request)

    usage = ServiceUsage(projects.find)
    iam = {
        "ServiceAccounts": {
            "Create": of_caller(accounts.create),
            "List": of_caller(accounts.list),
            "Get": of_caller(accounts.get),
            "Patch": of_caller(accounts.patch),
            "Update": of_caller(accounts.update),
            "Delete": of_caller(accounts.delete),
            "Enable": of_caller(accounts.enable),
            "Disable": of_caller(accounts.disable),
        },
        "ServiceAccountKeys": {
            "Create": with_base(accounts.create_key),
            "Upload": of_caller(accounts.upload_key),
            "List": of_caller(accounts.list_keys),
            "Get": of_caller(accounts.get_key),
            "Delete": of_caller(accounts.delete_key),
            "Enable": of_caller(accounts.enable_key),
            "Disable": of_caller(accounts.disable_key),
        },
    }
    credentials = {
        "ServiceAccounts": {
            "GenerateAccessToken": of_caller(impersonation.access_token),
            "GenerateIdToken": with_base(impersonation.id_token),
        }
    }
    managed = {
        "Projects": {
            "Get": of_caller(projects.get),
            "List": of_caller(projects.list),
            "GetAncestry": of_caller(projects.get_ancestry),
            "GetIamPolicy": of_caller(projects.get_iam_policy),
            "TestIamPermissions": of_caller(projects.test_iam_permissions),
        }
    }
    services = {
        "Services": {
            "Get": of_caller(usage.get),
            "List": of_caller(usage.list),
            "BatchGet": of_caller(usage.batch_get),
            "Enable": of_caller(usage.enable),
            "BatchEnable": of_caller(usage.batch_enable),
        },
        "Operations": {"Get": of_caller(usage.operation)},
    }
    return [
        (iam_pb2, iam),
        (credentials_pb2, credentials),
        (projects_pb2, managed),
        (services_pb2, services),
        (billing_pb2, {"Projects": {"GetBillingInfo": of_caller(projects.billing)}}),
    ]


def _metadata(context: grpc.ServicerContext, name: str) -> Any:
    pairs: Any = context.invocation_metadata()
    return dict(pairs).get(name, "")


def _caller(context: grpc.ServicerContext, shared: sealing.Keyring) -> Caller:
    sealed: bytes = _metadata(context, rpc.CREDENTIAL) or b""
    try:
        found = shared.open_message(sealed, sealing.CREDENTIAL)
    except sealing.SealError:
        raise ApiError(401, "Request had invalid authentication credentials.") from None
    return Caller(found["key"], found["credential_id"], found["subject"], sealed)


def _with_database(method: Method) -> Method:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(request, context)
        except database.AWAY as error:
            log.warning("database_away", reason=type(error).__name__)
            raise database.unavailable() from error

    return call


def _add_all(server: rpc.Server, module: ModuleType, service: str, servicer: Any, threads: int = 0) -> None:
    names = [method.name for method in module.DESCRIPTOR.services_by_name[service].methods]
    _add(server, module, service, {name: getattr(servicer, name) for name in names}, threads)


def _add(server: rpc.Server, module: ModuleType, service: str, methods: dict[str, Method], threads: int = 0) -> None:
    """Every method of the proto, with errors as everywhere. threads: for these alone."""
    descriptor = module.DESCRIPTOR.services_by_name[service]
    handlers: dict[str, Any] = {}
    for method in descriptor.methods:
        request: Any = getattr(module, method.input_type.name)
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            rpc.guarded(_with_database(methods[method.name]), f"{service}.{method.name}"),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )
    server.add_generic(descriptor.full_name, handlers, callers=["gateway"], threads=threads)
