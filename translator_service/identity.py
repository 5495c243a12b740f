"""The Identity service: tells auth whom CloudStack keys, or a name and password, belong to, and which projects.

What a person typed, and what CloudStack says about it, reaches neither a log nor an error: a name or a password that is
wrong is `Invalid Credentials`, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from gstack.auth.v1 import identity_pb2 as pb
from gstack.kernel.errors import NOT_TRIED, ApiError
from gstack.kernel.rpc import Server, deadline, guarded
from gstack.kernel.sealing import IDENTITY, SealError
from translator_service.cloudstack.catalog import Index, Kind
from translator_service.cloudstack.client import Client, Keys
from translator_service.cloudstack.errors import CloudStackError, MaybeDone, Unreachable, to_api_error
from translator_service.cloudstack.rows import Row
from translator_service.gce.naming import number, slug
from translator_service.gce.times import from_cloudstack
from translator_service.scope import Caller, Environment, caller_of, is_account, projects_kind, resolve_project

# Unknown keys are 401, a wrong name or password 531, one that nobody can have (empty, too long) 431; keys whose account
# may not even list itself are refused in the same words.
_REFUSED = (401, 431, 432, 531)
_SECOND_FACTOR = 511
# For how long it is remembered when an account was made.
_ACCOUNT_SECONDS = 600.0
# For clocks that differ: auth opens it at once.
_ANSWER_SECONDS = 600.0


def verify(environment: Environment, request: pb.VerifyRequest) -> pb.Account:
    keys = _open(environment, request.credential)
    with _refusals():
        return _account(environment, Keys(keys["api_key"], keys["secret_key"]))


def login(environment: Environment, request: pb.PasswordLogin) -> pb.LoggedIn:
    typed = _open(environment, request.login)
    with _refusals(), _not_seen():
        person = environment.endpoint.login(
            typed["username"],
            typed["password"],
            typed.get("domain", ""),
            _deadline(environment),
            register_keys=request.register_keys,
        )
        if not person.get("apikey") or not person.get("secretkey"):
            text = "This user has no API keys. Make a pair in the cloud's own console first."
            raise ApiError(401, text, "noKeys")
        keys = Keys(str(person["apikey"]), str(person["secretkey"]))
        account = _account(environment, keys)
    told = {"api_key": keys.api_key, "secret_key": keys.secret_key}
    sealed = environment.sealer.seal_message(told, IDENTITY, _ANSWER_SECONDS)
    return pb.LoggedIn(account=account, credential=sealed)


def projects(environment: Environment, request: pb.ProjectsRequest) -> pb.ProjectsResponse:
    caller = caller_of(environment, request.credential)
    client = _client(environment, caller.keys)
    index = _index(environment, caller, client)
    found = [_of_account(environment, caller), *(_of_cloudstack(caller, row, index) for _, row in index)]
    told = [one for one in found if caller.projects is None or one.key in caller.projects]
    if request.with_created and told and told[0].key == caller.account_id:
        told[0].created = _made(environment, caller, client)
    return pb.ProjectsResponse(projects=told)


def find_project(environment: Environment, request: pb.ProjectRequest) -> pb.Project:
    caller = caller_of(environment, request.credential)
    client = _client(environment, caller.keys)
    found = resolve_project(environment, caller, request.name, client)
    if found.id is None:
        project = _of_account(environment, caller)
        if request.with_created:
            project.created = _made(environment, caller, client)
        return project
    return _of_cloudstack(caller, found.row, _index(environment, caller, client))


def _index(environment: Environment, caller: Caller, client: Client) -> Index:
    return environment.catalog.get(caller.key, projects_kind(environment, caller.account_name), client).index


def _made(environment: Environment, caller: Caller, client: Client) -> str:
    """When the caller's account was made."""
    kind = Kind(
        "account",
        _ACCOUNT_SECONDS,
        lambda client: [client.read("listAccounts", name=caller.account_name)],
        environment.index,
    )
    rows = [row for _, row in environment.catalog.get(caller.key, kind, client).index]
    row = next((row for row in rows if row["id"] == caller.account_id), {})
    return _created(row)


def _created(row: Row) -> str:
    return from_cloudstack(row["created"]) if row.get("created") else ""


def _of_account(environment: Environment, caller: Caller) -> pb.Project:
    return pb.Project(
        key=caller.account_id,
        name=environment.name(caller.account_name),
        display_name=caller.account_name,
        number=number(caller.account_id),
        id=slug(caller.account_name),
    )


def _of_cloudstack(caller: Caller, row: Row, index: Index) -> pb.Project:
    """Named by its uuid when the account has its name: that name would mean the account."""
    key: str = row["id"]
    name = index.name(key)
    if name is None or is_account(caller, name):
        name = key
    return pb.Project(
        key=key,
        name=name,
        display_name=row["name"],
        number=number(key),
        # Only names that are shown are found again.
        id=name if slug(name) == name else key,
        created=_created(row),
    )


def _client(environment: Environment, keys: Keys) -> Client:
    return Client(environment.endpoint, keys, None, _deadline(environment))


def _deadline(environment: Environment) -> float:
    return deadline(environment.settings.cloudstack_timeout)


@contextmanager
def _refusals() -> Iterator[None]:
    """What CloudStack says to credentials that it does not take, as auth is told: 401, without the words."""
    try:
        yield
    except CloudStackError as error:
        if error.code == _SECOND_FACTOR:
            text = "This user needs a second factor. Sign in with an API key and secret key."
            raise ApiError(401, text, "secondFactor") from None
        if error.code in _REFUSED:
            raise ApiError(401, "Invalid Credentials") from None
        raise


@contextmanager
def _not_seen() -> Iterator[None]:
    """Tells auth when CloudStack has not seen a password: each that it may have seen counts."""
    try:
        yield
    except MaybeDone:
        raise
    except Unreachable as error:
        failure = to_api_error(error)
        raise ApiError(failure.code, failure.message, NOT_TRIED, retry_after=failure.retry_after) from None


def _open(environment: Environment, sealed: bytes) -> dict[str, str]:
    try:
        return environment.sealer.open_message(sealed, IDENTITY)
    except SealError:
        raise ApiError(401, "The credential was not sealed by the auth service, or is over.") from None


def _account(environment: Environment, keys: Keys) -> pb.Account:
    """The user that owns the keys. An ordinary user's listUsers shows only that user, an admin's all."""
    client = _client(environment, keys)
    rows = client.read("listUsers").items
    row = next((row for row in rows if row.get("apikey") == keys.api_key), rows[0] if len(rows) == 1 else None)
    if row is None:
        row = client.read("getUser", userapikey=keys.api_key).one()
    return pb.Account(
        user_id=row["id"],
        user_name=row["username"],
        email=row.get("email", ""),
        account_id=row["accountid"],
        account_name=row["account"],
        domain_id=row["domainid"],
        domain_path=row.get("domain", ""),
    )


def add_service(server: Server, environment: Environment) -> None:
    def handler(function: Callable[[Environment, Any], Any], request: type[Any], name: str) -> Any:
        def call(message: Any, context: grpc.ServicerContext) -> Any:
            try:
                return function(environment, message)
            except (CloudStackError, Unreachable) as error:
                raise to_api_error(error) from error

        return grpc.unary_unary_rpc_method_handler(
            guarded(call, name),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    server.add_generic(
        "gstack.auth.v1.Identity",
        {
            "Verify": handler(verify, pb.VerifyRequest, "Identity.Verify"),
            "Login": handler(login, pb.PasswordLogin, "Identity.Login"),
            "Projects": handler(projects, pb.ProjectsRequest, "Identity.Projects"),
            "FindProject": handler(find_project, pb.ProjectRequest, "Identity.FindProject"),
        },
        callers=["auth"],
    )
