"""Snapshots of disks: create, list, delete."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, command
from simulator.errors import ApiError
from simulator.families import tags
from simulator.families.machines import WORK_DONE, check_limit, describe_disk, owner_fields, snapshots, volume
from simulator.world import Job, Snapshot, Volume, World, Zone, timestamp

# Shares of the job's time after which lists show the state.
STEPS = ((0.3, "Creating"), (0.6, "BackingUp"), (WORK_DONE, "BackedUp"))
ONE_AT_A_TIME = ("kvm", "vmware")
_BUSY = ("Creating", "CreatedOnPrimary", "BackingUp")
Test = Callable[[Snapshot], bool]


def render(row: Snapshot) -> dict[str, Any]:
    disk = row.volume
    body: dict[str, Any] = {
        "id": row.id,
        **owner_fields(row.account),
        "domainid": row.account.domain.id,
        "domain": row.account.domain.name,
        "domainpath": row.account.domain.path,
        "volumeid": disk.id,
        "volumename": disk.name,
        "volumetype": disk.type,
        "volumestate": "Snapshotting" if row.state == "Creating" else disk.state,
        "created": timestamp(row.created),
        "name": row.name,
        "intervaltype": row.type,
        "state": row.state,
        "physicalsize": row.size if row.state in ("Creating", "BackedUp") else 0,
    }
    if row.state != "Allocated":
        body |= {"zoneid": row.zone.id, "zonename": row.zone.name}
    body["revertable"] = False
    if disk.type == "ROOT" and disk.template:
        body["ostypeid"] = disk.template.os_id
    body |= {"virtualsize": row.size, "tags": row.tags, "hasannotations": False}
    if row.jobs:
        body |= {"jobid": row.jobs[0].id, "jobstatus": 0}
    return body


def _result(row: Snapshot, attached: bool) -> dict[str, Any]:
    """What the job answers: without its own id, and with the state of before when no VM has the disk (recorded)."""
    shown = render(row) | {"snapshottype": row.type}
    if row.volume.type == "ROOT" and row.volume.template:
        shown["osdisplayname"] = row.volume.template.os_name
    if not attached:
        shown |= {"state": "Allocated", "physicalsize": row.size}
    return shown | {"tags": [{"key": tag["key"], "value": tag["value"]} for tag in row.tags]}


@command("createSnapshot")
def create_snapshot(call: Call) -> dict[str, Any]:
    disk, world = volume(call, "volumeid"), call.world
    call.check_named_account()
    call.check_access(disk.account)
    if disk.state != "Ready":
        text = f"Volume: {describe_disk(disk)} is not in Ready state but {disk.state}. Cannot take snapshot."
        raise errors.invalid(text)
    if disk.vm is not None and disk.vm.template.hypervisor.lower() in ONE_AT_A_TIME:
        _check_idle(world, disk)
    check_limit(call, disk.account, "snapshot", 1)
    vm, attached = disk.vm, disk.vm is not None
    moment = re.sub(r"\D", "", timestamp(world.now)[:19])
    row = world.add(
        Snapshot,
        name=call.text("name") or f"{vm.name if vm else 'detached'}_{disk.name}_{moment}",
        account=disk.account,
        volume=disk,
        zone=disk.zone,
        size=disk.size,
        state="Allocated",
    )
    snapshots(world).put(row)
    new = {entry.get("key", ""): entry.get("value", "") for entry in call.entries("tags")}
    wait = max(vm.busy_until - world.now, 0.0) if vm else 0.0
    duration = call.duration()
    begun: list[Job] = []

    def becomes(state: str) -> Callable[[], None]:
        def change() -> None:
            # A submit that was refused after all leaves its row behind, of which nothing becomes.
            if begun and begun[0].status == 0:
                row.state = state

        return change

    def finish() -> dict[str, Any]:
        row.jobs.remove(begun[0])
        tags.add(row, "Snapshot", new)
        return {"snapshot": _result(row, attached)}

    for share, state in STEPS:
        world.at(wait + share * duration, becomes(state))
    answer = call.job(finish, instance=("Snapshot", row.id), create_id=row.id, seconds=wait + duration)
    job = world.find(Job, answer["jobid"])
    assert job is not None
    begun.append(job)
    row.jobs.append(job)
    if vm:
        vm.busy_until = world.now + wait + duration
    return answer


def _check_idle(world: World, disk: Volume) -> None:
    """These hypervisors take one snapshot of a machine at a time."""
    disks = disk.vm.volumes if disk.vm else []
    if any(row.state in _BUSY for one in disks for row in snapshots(world).of(one)):
        raise errors.invalid(
            "There is other active snapshot tasks on the instance to which the volume is attached, please try again "
            "later"
        )


@command("listSnapshots")
def list_snapshots(call: Call) -> Listing:
    rows = _candidates(call)
    for test in _tests(call):
        rows = list(filter(test, rows))
    return Listing(Lazy(tags.filter_rows(call, rows), render))


def _candidates(call: Call) -> list[Snapshot]:
    wanted = call.rows(Snapshot, "ids")
    if (one := call.row(Snapshot, "id")) is not None:
        wanted = [one]
    disk = call.row(Volume, "volumeid")
    owners, found = call.owners(), snapshots(call.world)
    if wanted is None and disk is not None:
        wanted = found.of(disk)
    if wanted is None and (name := call.text("name")):
        wanted = found.of(name.lower())
    if wanted is None:
        return found.of(*owners)
    return [row for row in wanted if not row.removed and (call.is_admin or row.account in owners)]


def _tests(call: Call) -> Iterator[Test]:
    if name := call.text("name").lower():
        yield lambda row: row.name.lower() == name
    if keyword := call.text("keyword").lower():
        yield lambda row: keyword in row.name.lower()
    for parameter in ("snapshottype", "intervaltype"):
        if kind := call.text(parameter).upper():
            yield lambda row, kind=kind: row.type == kind  # type: ignore[misc]
    if zone := call.row(Zone, "zoneid"):
        yield lambda row: row.zone is zone
    if disk := call.row(Volume, "volumeid"):
        yield lambda row: row.volume is disk


@command("deleteSnapshot")
def delete_snapshot(call: Call) -> dict[str, Any]:
    row, world = call.require(Snapshot, "id"), call.world
    call.check_access(row.account)
    begun: list[Job] = []
    outcome: list[ApiError] = []

    def delete() -> None:
        if not begun or begun[0].status != 0:
            return
        if row.removed:
            text = (
                f'Snapshot [Snapshot {{"id":{row.number},"name":"{row.name}","state":"Destroyed","uuid":"{row.id}",'
                f'"version":"2.2","volumeId":{row.volume.number}}}] is already destroyed'
            )
            outcome.append(errors.invalid(text))
        elif row.state not in ("Allocated", "BackedUp", "Error"):
            text = f"Failed to delete snapshotshot {row.id} due to it is not in BackedUp Status"
            outcome.append(errors.invalid(text))
        else:
            row.removed = True
            snapshots(world).put(row)

    def finish() -> dict[str, Any]:
        row.jobs.remove(begun[0])
        if outcome:
            raise outcome[0]
        return {"success": True}

    world.at(WORK_DONE * call.duration(), delete)
    answer = call.job(finish, instance=("Snapshot", row.id))
    job = world.find(Job, answer["jobid"])
    assert job is not None
    begun.append(job)
    row.jobs.append(job)
    return answer
