"""disks.delete: a disk that no instance has."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import disks_pb2 as pb
from translator_service import places
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce.naming import number
from translator_service.operations import engine
from translator_service.operations.run import Run, handler
from translator_service.places import Zone
from translator_service.resources.disks import intents, view
from translator_service.resources.disks.find import find, look, volume
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc("Disks.Delete", calls=("listVolumes", "listVirtualMachines", "deleteVolume"))
def delete(scope: Scope, request: pb.DeleteDiskRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find(scope, zone, request.disk)
    _check_unused(scope, zone, name, row)
    return engine.submit(
        scope,
        type="delete",
        target=f"{zone.path}/disks/{name}",
        target_id=number(view.identity_of(row)),
        handler="disks.delete",
        payload={"zone": zone.name, "name": name, "id": view.identity_of(row)},
    )


def _check_unused(scope: Scope, zone: Zone, name: str, row: Row) -> None:
    """Raises 400 while an instance has the disk, or is made of it."""
    if intents.MARK in row:
        intents.check_unused(scope, zone, intents.of_row(scope, zone, row))
    elif (user := view.user_of(scope, zone, row)) is not None:
        raise intents.in_use(scope, zone, name, user)


@handler("disks.delete")
def do_delete(run: Run) -> None:
    zone, name = places.resolve_zone(run.scope, run.payload["zone"]), run.payload["name"]

    def work(scope: Scope) -> Row | None:
        row = look(scope, zone, run.payload["id"])
        if row is not None:
            _check_unused(scope, zone, name, row)
        return row

    row = run.look("disk", work)
    # It may be gone already: that is no failure.
    if row is not None and intents.MARK in row:
        intents.claim(run, zone, row["name"])
        intents.forget(run, zone, row["name"])
    elif row is not None:
        remove(run, "volume", row["id"])


def remove(run: Run, step: str, identity: str) -> None:
    """Delete a volume, also one that a repeated step has deleted."""

    def work(scope: Scope) -> None:
        try:
            scope.client.write("deleteVolume", id=identity)
        except CloudStackError as error:
            if error.code not in NO_SUCH_ROW or volume(scope, identity) is not None:
                raise

    run.look(step, work)
