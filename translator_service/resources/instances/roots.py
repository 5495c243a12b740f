"""Machines that boot from a volume which exists.

Where CloudStack can deploy from a volume (KVM, 4.21 on, storage of the whole zone) it does. Elsewhere a machine is
deployed stopped from any template, its fresh root volume gives way to the one that was asked for, and is deleted.
The machine starts only then: one whose start fails stays stopped and gives its root volume back, while one that fails
as it is deployed would take it along.
"""

from __future__ import annotations

from typing import Any

from gstack.kernel.errors import invalid
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.operations.run import Run
from translator_service.places import Zone
from translator_service.resources.disks import find as disks
from translator_service.resources.disks.delete import remove
from translator_service.resources.images import templates
from translator_service.resources.instances import sources
from translator_service.resources.instances.disks import refused_attach
from translator_service.scope import Scope

# What only a deploy from a template takes.
_OF_TEMPLATES = ("templateid", "overridediskofferingid", "rootdisksize")


def template_for(scope: Scope, zone: Zone, template_id: str | None, field: str) -> Row:
    """What a machine is deployed from whose root volume is replaced: its own template, which says what system the
    guest has, or else the smallest one. Raises 400 where there is none."""
    index = scope.catalog(templates.kind(scope)).index
    own = index.find(template_id) if template_id else None
    if own is not None and own.get("isready") and templates.in_zone(scope, own, zone):
        return own
    rows = [row for _, row in index if row.get("isready") and (row.get("crossZones") or row.get("zoneid") == zone.id)]
    if not rows:
        raise invalid(field, "There is no image in this zone that an instance could be begun with.")
    return min(rows, key=lambda row: (int(row.get("size") or 0), row["id"]))


def may_deploy_from(template: Row) -> bool:
    return str(template.get("hypervisor", "")).upper() == "KVM"


def deploy(run: Run, key: str, parameters: dict[str, str]) -> dict[str, Any]:
    """Deploy from the volume if CloudStack does that, else from the template, as a part of a step."""
    root = run.payload["root"]
    if root["direct"]:
        own = {name: text for name, text in parameters.items() if name not in _OF_TEMPLATES}
        try:
            return run.follow(f"{key}/direct", "deployVirtualMachine", **own, volumeid=root["id"])
        except CloudStackError as error:
            # Refused for what it cannot do; a name that is taken, or what was begun, is refused the other way too.
            if error.entity or error.code not in (431, 530) or "already exists" in error.text:
                raise
            where = {"name": parameters["name"], "zoneid": parameters["zoneid"], "state": "Error"}
            if error.code == 530 and run.client().read("listVirtualMachines", **where).items:
                raise
    return run.follow(key, "deployVirtualMachine", **parameters)


def usable(scope: Scope, zone: Zone, name: str, identity: str, machine: str) -> Row:
    """The volume when it is to be put into a machine, which may have it already. Raises 404, and 400 in use."""
    row = disks.volume(scope, identity)
    return row if row and row.get("virtualmachineid") == machine else sources.unused(scope, zone, name, identity)


def put_in(run: Run, zone: Zone, machine: str, root: str, name: str, made: dict[str, str]) -> None:
    """Make a volume the root volume of a stopped machine, in the place of the one that it was deployed with, which is
    made["fresh"] while nobody has it."""
    rows = run.read("fresh-root", "listVolumes", virtualmachineid=machine, type="ROOT")
    fresh = next((row["id"] for row in rows if row["id"] != root), None)
    if fresh is not None:
        run.job("detach-fresh", "detachVolume", id=fresh)
        made["fresh"] = fresh
    if fresh is not None or not rows:
        try:
            run.job("attach-root", "attachVolume", id=root, virtualmachineid=machine, deviceid="0")
        except CloudStackError as error:
            raise refused_attach(run, zone, error, name) from None
    if fresh is not None:
        remove(run, "delete-fresh", fresh)
        del made["fresh"]


def start(run: Run, machine: str) -> None:
    try:
        run.job("start", "startVirtualMachine", id=machine)
    except CloudStackError as error:
        if error.code == 530 and "Unable to create a deployment" in error.text:
            # What a deploy calls 533 (recordings, Surprises 21).
            raise CloudStackError(533, error.text, error.class_code) from None
        raise


def give_back(run: Run, machine: str, root: str) -> None:
    """Take a volume out of a machine that is to go, with which it would be deleted. Whatever fails here, the machine
    must stay."""

    def look(scope: Scope) -> str | None:
        row = disks.volume(scope, root)
        return str(row.get("vmstate")) if row and row.get("virtualmachineid") == machine else None

    state = run.look("undo-root", look)
    if state is None:
        return
    if state != "Stopped":
        run.job("undo-stop", "stopVirtualMachine", id=machine)
    run.job("undo-detach-root", "detachVolume", id=root)
