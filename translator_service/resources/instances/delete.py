"""instances.delete: one durable operation that destroys the machine and gives back what came with it.

Expunges where the account may; elsewhere the machine is renamed once it is destroyed, because its name stays taken
until CloudStack expunges it by itself (`expunge.delay` and `expunge.interval`, a day each by default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.kept.tags import EPHEMERAL, NAME
from translator_service.networking import projection
from translator_service.operations.cleanup import clear_away
from translator_service.operations.run import OperationError, Run, handler
from translator_service.resources.disks import view as disk_view
from translator_service.resources.disks.delete import remove
from translator_service.resources.instances import attached, disks, find, metadata
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc(
    "Instances.Delete",
    calls=(
        "listVirtualMachines", "listPublicIpAddresses", "listVolumes", "destroyVirtualMachine", "disassociateIpAddress",
        "deleteSecurityGroup",
    ),
    differences="Disks without autoDelete are detached and stay; so do data disks attached elsewhere. How long a guest "
    "may take to shut down is the operator's setting, also with noGracefulShutdown.",
)  # fmt: skip
def delete(scope: Scope, request: pb.DeleteInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, row, _ = find.find(scope, zone, request.instance)
    _check_protection(find.path(zone, name), row)
    return find.submit(scope, zone, name, row, "delete", "instances.delete")


def _check_protection(path: str, row: Row) -> None:
    if row.get("deleteprotection"):
        text = f"Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. {path}'."
        raise ApiError(400, text, "invalidUsage")


@handler("instances.delete")
def do_delete(run: Run) -> None:
    payload = run.payload
    zone = places.resolve_zone(run.scope, payload["zone"])
    path = find.path(zone, payload["name"])
    try:
        row = find.machine(run, "machine", lambda scope, row: _check_protection(path, row))
    except OperationError:
        # It is gone already, or its insert came to nothing.
        return
    addresses: list[Row] = []
    if not zone.security_groups:
        found = run.read("addresses", "listPublicIpAddresses", zoneid=zone.id, isstaticnat="true")
        addresses = [
            address
            for address in found
            if address.get("virtualmachineid") == row["id"]
            and any(tag.get("key") == EPHEMERAL for tag in address.get("tags", []))
        ]
    disk = attached.disk_of(row)
    # What a bulkInsert that came to nothing has made goes as a whole.
    whole = bool(payload.get("whole"))
    stays = disk.get("autoDelete") is False and not whole
    staying = _detach_boot_disk(run, row, disk.get("name", payload["name"])) if stays else []
    going: list[Row] = []
    if data := attached.data_disks_of(row):
        for one in run.read("data-disks", "listVolumes", virtualmachineid=row["id"], type="DATADISK"):
            (going if whole or data.get(one["id"], {}).get("autoDelete") is True else staying).append(one)
    run.progress(20)
    destroy(run, row["id"], volumes=[one["id"] for one in going])
    run.progress(70)
    # The machine is gone, so nobody can delete it once more: what cannot go with it is told, and is no failure.
    parts = [_release_of(run, address) for address in addresses]
    if zone.security_groups:
        groups = partial(projection.release_instance, run, zone, payload["name"], row)
        parts.append((f"A firewall of '{payload['name']}'", groups))
    for one in going:
        # A destroy that was cut short by a restart of CloudStack may have left them.
        rest = partial(remove, run, f"delete-disk/{one['id']}", one["id"])
        parts.append((f"The disk '{disk_view.name_of(one)}'", rest))
    clear_away(run, parts)
    for one in staying:
        disks.note_detached(run, f"last-detach/{one['id']}", one)
    metadata.forget_metadata(run.scope, metadata.document_of(row))


def _release_of(run: Run, address: Row) -> tuple[str, Callable[[], object]]:
    release = partial(run.job, f"release/{address['id']}", "disassociateIpAddress", id=address["id"])
    return f"The external address {address['ipaddress']} of '{run.payload['name']}'", release


def destroy(run: Run, machine: str, prefix: str = "", volumes: Sequence[str] = ()) -> None:
    """Destroy a machine in any state, by an id, and free its name. prefix: of the steps' names. volumes: ids of data
    disks that go with it; others are detached.

    Its name is given up only when it is destroyed: whatever fails before, the machine is found under it.
    """
    allowed = run.look(
        f"{prefix}may-expunge",
        lambda scope: bool(scope.client.read("listCapabilities").one().get("allowuserexpungerecovervm", False)),
    )
    going = {"volumeids": ",".join(volumes)} if volumes else {}
    if allowed:
        try:
            run.job(f"{prefix}expunge", "destroyVirtualMachine", id=machine, expunge="true", **going)
            return
        except CloudStackError as error:
            # The role may still forbid it: the job fails and the machine stays as it was (recordings, Surprises 17).
            if error.code not in (530, 531):
                raise
    run.job(f"{prefix}destroy", "destroyVirtualMachine", id=machine, **going)
    try:
        # A destroyed machine takes another name though its owner does not see it any more (recordings, Surprises 18).
        run.call(f"{prefix}free-name", "updateVirtualMachine", id=machine, name=f"x-{machine[:8]}")
    except CloudStackError as error:
        # Of one in state Error the destroy is an expunge: it takes no name, and soon is gone with the one it has.
        if error.code not in (431, 530, 531):
            raise


def _detach_boot_disk(run: Run, row: Row, name: str) -> list[Row]:
    """The disk. Only a stopped machine gives its root volume away; the volume gets its GCE name as a tag."""
    volumes = run.read("volumes", "listVolumes", virtualmachineid=row["id"], type="ROOT")
    if not volumes:
        return []
    if row.get("state") != "Stopped":
        run.job("stop", "stopVirtualMachine", id=row["id"])
    volume = volumes[0]
    if not any(tag.get("key") == NAME for tag in volume.get("tags", [])):
        tag = {"tags[0].key": NAME, "tags[0].value": name}
        run.job("name-disk", "createTags", resourceids=volume["id"], resourcetype="Volume", **tag)
    run.job("detach", "detachVolume", id=volume["id"])
    return [volume]
