"""The table of methods, and what happens around each: scope, deadline, errors.

A method is a function `(scope, request) -> message`, registered with `@rpc("Instances.SetTags")`. A method of the
protos without a function answers 400 with its name, so that adding an rpc never breaks a build.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gstack.kernel.contract import method_id, services
from gstack.kernel.database import AWAY, unavailable
from gstack.kernel.errors import ApiError, not_offered
from gstack.kernel.rpc import CLEARED, CREDENTIAL, LINK_BASE, Server, deadline, guarded
from gstack.kernel.tracing import REQUEST_ID
from translator_service.cloudstack.errors import CloudStackError, Unreachable, to_api_error
from translator_service.operations.engine import replay
from translator_service.scope import Environment, Scope, open_scope

log = structlog.get_logger()

Function = Callable[[Scope, Any], Message | bytes]

# Nobody waits longer, whatever deadline a caller sets or forgets.
_LONGEST = 300.0


@dataclass(frozen=True)
class Method:
    function: Function
    public_projects: bool
    calls: tuple[str, ...]
    differences: str


METHODS: dict[str, Method] = {}


def rpc(
    name: str, *, calls: tuple[str, ...] = (), differences: str = "", public_projects: bool = False
) -> Callable[[Function], Function]:
    """Register a method. `calls` (CloudStack commands) and `differences` (from GCE) become docs/mapping.md."""

    def register(function: Function) -> Function:
        METHODS[name] = Method(function, public_projects, calls, differences)
        return function

    return register


def add_services(server: Server, environment: Environment) -> None:
    """Every service of the compute protos, with the functions of METHODS behind their methods."""
    for service in services():
        handlers = {}
        for descriptor in service.methods:
            name = f"{service.name}.{descriptor.name}"
            handlers[descriptor.name] = grpc.unary_unary_rpc_method_handler(
                guarded(_method(environment, name, descriptor), name),
                request_deserializer=GetMessageClass(descriptor.input_type).FromString,
                response_serializer=_serialize,
            )
        server.add_generic(service.full_name, handlers, callers=["gateway"])


def _serialize(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _method(
    environment: Environment, name: str, descriptor: MethodDescriptor
) -> Callable[[Any, grpc.ServicerContext], Any]:
    method = METHODS.get(name)
    if method is None:

        def missing(request: Any, context: grpc.ServicerContext) -> Any:
            raise not_offered(method_id(descriptor))

        return missing

    def call(request: Any, context: grpc.ServicerContext) -> Any:
        pairs: Any = context.invocation_metadata()
        metadata: dict[str, Any] = dict(pairs)
        try:
            scope = open_scope(
                environment,
                metadata.get(CREDENTIAL, b""),
                request.project,
                metadata.get(LINK_BASE, f"{environment.settings.link_base}/compute/v1"),
                deadline=deadline(_LONGEST),
                public_projects=method.public_projects,
            )
            scope.is_wanted = context.is_active
            scope.cleared = tuple(filter(None, metadata.get(CLEARED, "").split(",")))
            transport_id = metadata.get(REQUEST_ID, "")
            if earlier := replay(scope, request, transport_id):
                return earlier
            try:
                return method.function(scope, request)
            except ApiError:
                # Its twin may have come between the two: what is refused now is what the twin has done.
                if earlier := replay(scope, request, transport_id):
                    return earlier
                raise
        except (CloudStackError, Unreachable) as error:
            raise to_api_error(error) from error
        except AWAY as error:
            log.warning("database_away", reason=type(error).__name__)
            raise unavailable() from error

    return call
