"""A name is one disk's in its zone, also while several operations are about to make one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gstack.kernel.errors import already_exists
from translator_service.cloudstack.client import Client
from translator_service.gce.naming import slug
from translator_service.kept import tags
from translator_service.operations.held import held
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.resources.disks import intents
from translator_service.resources.disks.find import unique_rows
from translator_service.resources.disks.view import DESTROYED_MACHINE, is_shown, name_of
from translator_service.scope import Scope

# Documents in the store: disks that operations are about to make, by zone and name.
_CLAIMS = "disk-names"


def check_free(client: Client, scope: Scope, zone: Zone, name: str, instance: str) -> None:
    """Raise 409 when a disk of the zone has this name. instance: the one that is to be made, of which there is none;
    "" without one."""
    if intents.find(scope, zone, name) is not None:
        raise already_exists(scope.links.path(zone.path, "disks", name))
    where = {"zoneid": zone.id}
    questions = [("listVolumes", {"name": name, **where}), ("listVolumes", {**tags.question(tags.NAME, name), **where})]
    if name != instance:
        # A boot disk made elsewhere has the name of its machine.
        questions.append(("listVirtualMachines", {"name": name, "details": "min", **where}))
    named, tagged, *machines = client.read_many(questions)
    rows = unique_rows([named, tagged])
    for machine in unique_rows(machines):
        if slug(machine["name"]) == name and machine.get("state") not in DESTROYED_MACHINE:
            rows += client.read("listVolumes", virtualmachineid=machine["id"], type="ROOT").items
    if any(is_shown(row) and name_of(row) == name for row in rows):
        raise already_exists(scope.links.path(zone.path, "disks", name))


@contextmanager
def name_held(run: Run, zone: Zone, name: str, instance: str, step: str = "disk-name-free") -> Iterator[None]:
    """Make a disk of this name, if nobody else has one, or makes one in another operation. Raises 409. step: another
    one for each name of an operation."""
    with held(run, _CLAIMS, f"{zone.id}/{name}", run.scope.links.path(zone.path, "disks", name)):
        run.look(step, lambda scope: check_free(scope.client, scope, zone, name, instance))
        yield
