"""instances.start, stop, reset."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import places
from translator_service.operations.run import Run, handler
from translator_service.resources.instances.find import find, machine, path, submit, under_way
from translator_service.resources.instances.view import status
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
    return submit(scope, zone, name, row, type, work)


@rpc("Instances.Start", calls=("listVirtualMachines", "startVirtualMachine"))
def start(scope: Scope, request: pb.StartInstanceRequest) -> Message:
    return _act(scope, request, "start", "instances.start")


@rpc("Instances.Stop", calls=("listVirtualMachines", "stopVirtualMachine"))
def stop(scope: Scope, request: pb.StopInstanceRequest) -> Message:
    return _act(scope, request, "stop", "instances.stop")


@rpc("Instances.Reset", calls=("listVirtualMachines", "rebootVirtualMachine"))
def reset(scope: Scope, request: pb.ResetInstanceRequest) -> Message:
    return _act(scope, request, "reset", "instances.reset")


@handler("instances.start")
def do_start(run: Run) -> None:
    """Starting a running machine is an error in CloudStack and nothing in GCE (recordings, Surprises 20)."""
    row = machine(run, "machine")
    if row.get("state") not in ("Running", "Starting"):
        run.job("start", "startVirtualMachine", id=row["id"])


@handler("instances.stop")
def do_stop(run: Run) -> None:
    row = machine(run, "machine")
    if row.get("state") != "Stopped":
        run.job("stop", "stopVirtualMachine", id=row["id"])


@handler("instances.reset")
def do_reset(run: Run) -> None:
    run.job("reset", "rebootVirtualMachine", id=machine(run, "machine")["id"], forced="true")
