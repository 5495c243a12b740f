"""What tests of collections do: ask a method as a client does, and make things in the simulated cloud."""

from __future__ import annotations

import uuid
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gstack.kernel.contract import services
from tests.waits import until  # noqa: F401 - tests take it from here with the rest
from translator_service import places
from translator_service.cloudstack import jobs
from translator_service.rpc import METHODS
from translator_service.scope import Scope

OUTPUTS = {
    f"{service.name}.{method.name}": GetMessageClass(method.output_type)
    for service in services()
    for method in service.methods
}


def ask(scope: Scope, name: str, request: Message) -> Any:
    """The reply of a method as a message."""
    reply = METHODS[name].function(scope, request)
    return OUTPUTS[name].FromString(reply) if isinstance(reply, bytes) else reply


def job(scope: Scope, command: str, **parameters: str) -> dict[str, Any]:
    """The object that an asynchronous command made or changed."""
    result = jobs.run(scope.client, str(uuid.uuid4()), command, parameters, maybe_submitted=False)
    return {"id": result.get("id"), **jobs.object_of(result)}


def first(scope: Scope, command: str, **parameters: str) -> dict[str, Any]:
    return scope.client.read(command, parameters).items[0]


def machine(scope: Scope, name: str, zone: str = "ch-zh-1", **parameters: str) -> dict[str, Any]:
    return job(
        scope,
        "deployVirtualMachine",
        name=name,
        zoneid=places.resolve_zone(scope, zone).id,
        serviceofferingid=first(scope, "listServiceOfferings", name="Micro")["id"],
        templateid=first(scope, "listTemplates", templatefilter="executable")["id"],
        **parameters,
    )


def network(scope: Scope, name: str, zone: str = "ch-zh-1", **parameters: str) -> dict[str, Any]:
    offering = first(scope, "listNetworkOfferings", name="DefaultIsolatedNetworkOfferingWithSourceNatService")
    where = places.resolve_zone(scope, zone).id
    made = scope.client.write(
        "createNetwork", name=name, displaytext=name, zoneid=where, networkofferingid=offering["id"], **parameters
    )
    return made.one() if made.one() else made.body


def volume(scope: Scope, name: str, zone: str = "ch-zh-1", size: int = 5) -> dict[str, Any]:
    offering = first(scope, "listDiskOfferings", name="SSD")["id"]
    where = places.resolve_zone(scope, zone).id
    return job(scope, "createVolume", name=name, zoneid=where, diskofferingid=offering, size=str(size))


def tag(scope: Scope, kind: str, resource_id: str, key: str, value: str) -> None:
    tags = {"tags[0].key": key, "tags[0].value": value}
    jobs.run(
        scope.client,
        str(uuid.uuid4()),
        "createTags",
        {"resourcetype": kind, "resourceids": resource_id, **tags},
        maybe_submitted=False,
    )
