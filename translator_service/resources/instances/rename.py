"""Another name for a machine: as a part of its change, so that what it is called by and what is kept of it agree."""

from __future__ import annotations

from typing import Any

from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.kept import details as kept
from translator_service.kept import tags
from translator_service.operations.run import Run
from translator_service.resources.disks.view import boot_name
from translator_service.resources.instances.attached import disk_of
from translator_service.resources.instances.find import ATTEMPTS, check_free, path


def rename(run: Run, row: Row, name: str, changes: dict[str, Any], parameters: dict[str, str]) -> None:
    """Write the name with what else changes. changes: other values of its details. Raises 409.

    A host name is unique in its network, where others have machines too: then it is made unique, as that of a new
    machine. CloudStack does not tell that from other refusals (recordings, Surprises 16).
    """
    zone = places.resolve_zone(run.scope, run.payload["zone"])
    run.look("name-free", lambda scope: check_free(scope, zone, name))
    _keep_disk_name(run, row)
    owner = run.scope.project.key
    hosts = [(name, ""), *((naming.host_name(owner, name, attempt), name) for attempt in range(ATTEMPTS))]
    for host, asked in hosts:
        own = kept.parameters_of_update(row.get("details") or {}, {**changes, kept.NAME: asked})
        try:
            run.call(
                f"rename/{host}", "updateVirtualMachine", **parameters, **own, id=row["id"], name=host, displayname=name
            )
            break
        except CloudStackError as error:
            if error.code not in (431, 530) or host == hosts[-1][0]:
                raise
    # What waits for its turn still takes turns with what comes by the new name; and clients read the target again.
    before, after = path(zone, run.payload["name"]), path(zone, name)
    run.step("retarget", lambda: run.scope.store.retarget(owner, before, after))


def _keep_disk_name(run: Run, row: Row) -> None:
    """A boot disk that has no name of its own is called by that of its machine, and must not change with it."""
    for volume in run.read("root", "listVolumes", virtualmachineid=row["id"], type="ROOT"):
        if tags.NAME not in tags.of(volume):
            tag = tags.parameters({tags.NAME: str(disk_of(row).get("name") or boot_name(volume))})
            run.job("name-disk", "createTags", resourceids=volume["id"], resourcetype="Volume", **tag)
