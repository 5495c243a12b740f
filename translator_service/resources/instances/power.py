"""instances.start, stop, reset."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import places
from translator_service.gce.naming import number
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run, handler
from translator_service.resources.instances.find import find, path, under_way
from translator_service.resources.instances.view import HIDDEN, status
from translator_service.rpc import rpc
from translator_service.scope import Scope


def _act(scope: Scope, request: Any, type: str, work: str) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    if type == "reset" and status(row, under_way(scope).get(path(zone, name))) not in (
        "RUNNING",
        "STAGING",
        "REPAIRING",
    ):
        raise ApiError(400, f"The resource '{scope.links.path(path(zone, name))}' is not ready", "resourceNotReady")
    payload = {"id": row["id"], "zone": zone.name}
    return engine.submit(
        scope, type=type, target=path(zone, name), target_id=number(row["id"]), handler=work, payload=payload
    )


@rpc("Instances.Start", calls=("listVirtualMachines", "startVirtualMachine"))
def start(scope: Scope, request: pb.StartInstanceRequest) -> Message:
    return _act(scope, request, "start", "instances.start")


@rpc("Instances.Stop", calls=("listVirtualMachines", "stopVirtualMachine"))
def stop(scope: Scope, request: pb.StopInstanceRequest) -> Message:
    return _act(scope, request, "stop", "instances.stop")


@rpc("Instances.Reset", calls=("listVirtualMachines", "rebootVirtualMachine"))
def reset(scope: Scope, request: pb.ResetInstanceRequest) -> Message:
    return _act(scope, request, "reset", "instances.reset")


def _state(run: Run, step: str) -> str:
    rows = run.read(step, "listVirtualMachines", id=run.payload["id"], details="min")
    if not rows or rows[0].get("state") in HIDDEN:
        raise OperationError("RESOURCE_NOT_FOUND", "The resource was not found.", 404)
    return str(rows[0]["state"])


@handler("instances.start")
def do_start(run: Run) -> None:
    """Starting a running machine is an error in CloudStack and nothing in GCE (recordings, Surprises 20)."""
    if _state(run, "state") not in ("Running", "Starting"):
        run.job("start", "startVirtualMachine", id=run.payload["id"])


@handler("instances.stop")
def do_stop(run: Run) -> None:
    if _state(run, "state") != "Stopped":
        run.job("stop", "stopVirtualMachine", id=run.payload["id"])


@handler("instances.reset")
def do_reset(run: Run) -> None:
    run.job("reset", "rebootVirtualMachine", id=run.payload["id"], forced="true")


# Changing what is kept in details
