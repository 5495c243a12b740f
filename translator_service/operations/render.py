"""Operation rows to messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gstack.compute.v1 import operations_pb2 as pb
from translator_service.gce.links import Links
from translator_service.gce.naming import number
from translator_service.gce.times import rfc3339

# Begins the ids of requests whose client gave none; they are not shown.
TRANSPORT = "transport-"


def operation(row: Mapping[Any, Any], links: Links) -> pb.Operation:
    """A row of the operations table as a client sees it."""
    scope: str = row["scope"]
    target: str = row["target"].partition("#")[0]
    message = pb.Operation(
        kind="compute#operation",
        id=number(row["name"]),
        name=row["name"],
        operationType=row["type"],
        targetLink=links.of(target) if target else links.of(),
        status=row["status"],
        user=row["subject"],
        progress=row["progress"],
        insertTime=rfc3339(row["inserted"]),
        creationTimestamp=rfc3339(row["inserted"]),
        selfLink=links.of(scope, "operations", row["name"]),
    )
    if row["group_id"]:
        message.operationGroupId = row["group_id"]
    if row["target_id"]:
        message.targetId = int(row["target_id"])
    if row["request_id"] and not row["request_id"].startswith(TRANSPORT):
        message.clientOperationId = row["request_id"]
    if scope.startswith("zones/"):
        message.zone = links.of(scope)
    elif scope.startswith("regions/"):
        message.region = links.of(scope)
    if row["started"] is not None:
        message.startTime = rfc3339(row["started"])
    if row["ended"] is not None:
        message.endTime = rfc3339(row["ended"])
    if error := row["error"]:
        message.error.errors.add(code=error["code"], message=error["message"], location=error.get("location", ""))
        # Some clients look only at the one, some only at the other.
        message.httpErrorStatusCode = error["status"]
        message.httpErrorMessage = error["http_message"]
    for warning in row["warnings"] or ():
        data = [{"key": key, "value": value} for key, value in warning.get("data", {}).items()]
        message.warnings.add(code=warning["code"], message=warning["message"], data=data)
    return message
