"""The Identity service: tells auth whom CloudStack keys, or a name and password, belong to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import orjson

from gstack.auth.v1 import identity_pb2 as pb
from gstack.kernel.errors import ApiError
from gstack.kernel.rpc import Server, guarded
from gstack.kernel.sealing import IDENTITY, SealError
from translator_service.cloudstack.client import Client, Keys
from translator_service.cloudstack.errors import CloudStackError, Unreachable, to_api_error
from translator_service.scope import Environment

# Unknown keys are 401; keys whose account may not even list itself are refused in the same words.
_REFUSED = (401, 432, 531)


def verify(environment: Environment, request: pb.VerifyRequest) -> pb.Account:
    keys = _open(environment, request.credential)
    return _account(environment, Keys(keys["api_key"], keys["secret_key"]))


def login(environment: Environment, request: pb.PasswordLogin) -> pb.LoggedIn:
    typed = _open(environment, request.login)
    deadline = time.monotonic() + environment.settings.cloudstack_timeout
    person = environment.endpoint.login(typed["username"], typed["password"], typed.get("domain", ""), deadline)
    if str(person.get("is2faenabled", "")).lower() == "true" and str(person.get("is2faverified", "")).lower() != "true":
        raise ApiError(401, "This user needs a second factor. Sign in with an API key and secret key.", "secondFactor")
    if not person.get("apikey") or not person.get("secretkey"):
        raise ApiError(401, "This user has no API keys. Make a pair in the cloud's own console first.", "noKeys")
    keys = Keys(str(person["apikey"]), str(person["secretkey"]))
    sealed = environment.sealer.seal(orjson.dumps({"api_key": keys.api_key, "secret_key": keys.secret_key}), IDENTITY)
    return pb.LoggedIn(account=_account(environment, keys), credential=sealed)


def _open(environment: Environment, sealed: bytes) -> dict[str, str]:
    try:
        found: dict[str, str] = orjson.loads(environment.sealer.open(sealed, IDENTITY))
    except SealError:
        raise ApiError(401, "The credential was not sealed by the auth service.") from None
    return found


def _account(environment: Environment, keys: Keys) -> pb.Account:
    """The user that owns the keys. An ordinary user's listUsers shows only that user, an admin's all."""
    client = Client(environment.endpoint, keys, None, time.monotonic() + environment.settings.cloudstack_timeout)
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
            except CloudStackError as error:
                if error.code in _REFUSED:
                    raise ApiError(401, "Invalid Credentials") from None
                raise to_api_error(error) from error
            except Unreachable as error:
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
        },
    )
