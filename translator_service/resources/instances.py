"""Instances: CloudStack virtual machines. Reading them and changing them; making and deleting is in instances_insert.py
and instances_delete.py.

What CloudStack has no field for is kept in VM details (see details.py): network tags, labels, metadata, the settings
that only GCE knows, and what the boot disk was made with.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, not_found, required, unsupported
from translator_service import details as kept
from translator_service import lists, naming, projection, userdata
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import CloudStackError
from translator_service.fingerprints import check, fingerprint
from translator_service.naming import Index, Row, number
from translator_service.operations import engine
from translator_service.operations.render import from_cloudstack
from translator_service.operations.run import OperationError, Run, handler
from translator_service.projection import tags_of
from translator_service.resources import disk_types, disks, images, machine_types, networks, subnetworks, zones
from translator_service.resources.projects import check_metadata, common_metadata
from translator_service.resources.zones import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope
from translator_service.tags import label_fingerprint

# What a list needs and nothing more: statistics and affinity groups cost CloudStack extra queries.
DETAILS = "nics,tmpl,servoff,secgrp"
_LARGE_METADATA = 16_000
_DOCUMENTS, _DOCUMENT = "instance-metadata", "$document"
# CloudStack takes no user data for "unchanged".
_NOTHING_TO_DO = base64.b64encode(b"#cloud-config\n{}\n").decode()
_HIDDEN = ("Destroyed", "Expunging")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
# Details that a user may not send back; CloudStack keeps them by itself (recordings, Surprises 16).
_DENIED = (
    "rootdisksize",
    "cpuOvercommitRatio",
    "memoryOvercommitRatio",
    "Message.ReservedCapacityFreed.Flag",
    "deployvm",
)

_STATUS = {
    "Starting": "STAGING",
    "Running": "RUNNING",
    "Stopping": "STOPPING",
    "Stopped": "TERMINATED",
    "Shutdown": "TERMINATED",
    "Migrating": "RUNNING",
    "BackingUp": "RUNNING",
    "Restoring": "REPAIRING",
    "BackupError": "TERMINATED",
    "RestoreError": "REPAIRING",
    "Error": "TERMINATED",
    "Unknown": "REPAIRING",
}
# What an operation of ours that is not done says about its instance.
_UNDER_WAY = {"insert": "STAGING", "delete": "STOPPING", "stop": "STOPPING", "start": "STAGING"}


# Mapping


def status(row: Row, under_way: str | None) -> str:
    """GCE's status. Right after the submit a new machine is listed as Stopped (recordings, Surprises 13)."""
    state = row.get("state", "")
    if state == "Error":
        return "TERMINATED"
    if under_way == "insert":
        return {"Running": "RUNNING", "Starting": "STAGING"}.get(state, "PROVISIONING")
    if under_way in _UNDER_WAY:
        return _UNDER_WAY[under_way]
    if state == "Stopped" and row.get("details", {}).get("deployvm") and not row.get("lastupdated"):
        return "PROVISIONING" if row.get("jobid") else "TERMINATED"
    return _STATUS.get(state, "REPAIRING")


def index(scope: Scope, rows: Sequence[Row]) -> Index:
    """Names of machines: host names, which differ at most in case."""
    return scope.environment.index(row for row in rows if row.get("state") not in _HIDDEN)


def to_instance(
    scope: Scope, zone: Zone, name: str, row: Row, volumes: Sequence[Row] | None, under_way: str | None
) -> pb.Instance:
    """A row of listVirtualMachines. volumes: its rows of listVolumes, None when the details tell the boot disk."""
    scope.environment.ids.remember(row["id"])
    found: dict[str, str] = row.get("details") or {}
    config = kept.unpack(found, kept.CONFIG, {})
    instance = pb.Instance(
        kind="compute#instance",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        description=config.get("description", ""),
        machineType=scope.links.of(zone.path, "machineTypes", machine_types.name_of(scope, zone, row)),
        status=status(row, under_way),
        zone=scope.links.of(zone.path),
        canIpForward=config.get("canIpForward", False),
        selfLink=scope.links.of(zone.path, "instances", name),
        cpuPlatform="Unknown CPU Platform",
        labels=labels_of(row),
        deletionProtection=bool(row.get("deleteprotection", False)),
        startRestricted=False,
    )
    if row.get("state") == "Error":
        instance.statusMessage = "The instance could not be created."
    for key in ("serviceAccounts", "scheduling", "displayDevice", "shieldedInstanceConfig", "reservationAffinity"):
        if key in config:
            ParseDict({key: config[key]}, instance, ignore_unknown_fields=True)
    for key in ("minCpuPlatform", "keyRevocationActionType", "hostname"):
        setattr(instance, key, config.get(key, ""))
    _default_scheduling(instance.scheduling)
    instance.tags.items.extend(tags_of(row))
    instance.tags.fingerprint = fingerprint("tags", *instance.tags.items)
    instance.metadata.CopyFrom(metadata_of(scope, row))
    instance.labelFingerprint = label_fingerprint(dict(instance.labels))
    for nic in row.get("nic", []):
        _add_interface(scope, zone, instance, row, nic, config)
    _add_disks(scope, zone, instance, row, volumes)
    if row.get("lastupdated") and row.get("state") == "Running":
        instance.lastStartTimestamp = from_cloudstack(row["lastupdated"])
    elif row.get("lastupdated") and row.get("state") == "Stopped":
        instance.lastStopTimestamp = from_cloudstack(row["lastupdated"])
    instance.fingerprint = fingerprint(str(instance.id), instance.status, *instance.tags.items)
    return instance


def _default_scheduling(scheduling: pb.Scheduling) -> None:
    if not scheduling.HasField("automaticRestart"):
        scheduling.automaticRestart = not scheduling.preemptible
    if not scheduling.HasField("preemptible"):
        scheduling.preemptible = False
    scheduling.onHostMaintenance = scheduling.onHostMaintenance or "MIGRATE"
    scheduling.provisioningModel = scheduling.provisioningModel or "STANDARD"


def labels_of(row: Row) -> dict[str, str]:
    found = kept.unpack(row.get("details") or {}, kept.LABELS, {})
    return {str(key): str(value) for key, value in found.items()}


def disk_of(row: Row) -> dict[str, Any]:
    """What is kept of the boot disk; {} for a machine made elsewhere."""
    found: dict[str, Any] = kept.unpack(row.get("details") or {}, kept.DISK, {})
    return found if {"name", "sizeGb"} <= found.keys() else {}


def document_of(row: Row) -> str:
    """Name of the document that holds large metadata, "" when the details hold them."""
    return str(kept.unpack(row.get("details") or {}, kept.METADATA, {}).get(_DOCUMENT, ""))


def metadata_items(scope: Scope, row: Row) -> dict[str, str]:
    """The items; large ones are in the store, and the details say under which name."""
    found = kept.unpack(row.get("details") or {}, kept.METADATA, {})
    if document := document_of(row):
        found = kept.decode((scope.store.document(scope.project.key, _DOCUMENTS, document) or b"").decode(), {})
    return {str(key): str(value) for key, value in found.items()}


def metadata_of(scope: Scope, row: Row) -> Any:
    metadata = pb.Instance().metadata
    metadata.kind = "compute#metadata"
    items = metadata_items(scope, row)
    for key, value in items.items():
        metadata.items.add(key=key, value=value)
    metadata.fingerprint = fingerprint("metadata", *(part for pair in sorted(items.items()) for part in pair))
    return metadata


def _add_interface(scope: Scope, zone: Zone, instance: pb.Instance, row: Row, nic: Row, config: dict[str, Any]) -> None:
    interface = instance.networkInterfaces.add(
        kind="compute#networkInterface",
        network=scope.links.of(
            "global/networks", networks.name_of(scope, nic["networkid"], nic.get("networkname", ""))
        ),
        subnetwork=scope.links.of("regions", zone.region, "subnetworks", subnetworks.name_of(scope, nic["networkid"])),
        networkIP=nic.get("ipaddress", ""),
        name=f"nic{nic.get('deviceid', len(instance.networkInterfaces))}",
        stackType="IPV4_ONLY",
    )
    interface.fingerprint = fingerprint("nic", nic["id"], nic.get("ipaddress", ""), nic.get("publicip", ""))
    external = nic.get("publicip", "")
    if zone.security_groups and config.get("external", True):
        # The guest address is the external one here; there is no translation.
        external = nic.get("ipaddress", "")
    if external or (zone.security_groups and config.get("external", True)):
        interface.accessConfigs.add(
            kind="compute#accessConfig",
            type="ONE_TO_ONE_NAT",
            name=config.get("accessConfig", "external-nat"),
            natIP=external,
            networkTier="PREMIUM",
        )


def _add_disks(scope: Scope, zone: Zone, instance: pb.Instance, row: Row, volumes: Sequence[Row] | None) -> None:
    boot = disk_of(row)
    rows: list[Row] = sorted(
        volumes or [], key=lambda volume: (volume.get("type") != "ROOT", int(volume.get("deviceid", 0)))
    )
    if volumes is None:
        rows = [{"type": "ROOT", "vmname": boot["name"], "size": int(boot["sizeGb"]) << 30, "name": boot["name"]}]
    for position, volume in enumerate(rows):
        is_boot = volume.get("type") == "ROOT"
        name = (boot.get("name") if is_boot else "") or disks.boot_name(volume) if is_boot else disks.name_of(volume)
        instance.disks.add(
            kind="compute#attachedDisk",
            type="PERSISTENT",
            mode="READ_WRITE",
            source=scope.links.of(zone.path, "disks", name),
            deviceName=(boot.get("deviceName") if is_boot else "") or name,
            index=position,
            boot=is_boot,
            autoDelete=boot.get("autoDelete", True) if is_boot else False,
            interface=boot.get("interface", "SCSI") if is_boot else "SCSI",
            diskSizeGb=disks.size_gb(int(volume.get("size", 0))),
            architecture="X86_64",
        )


# Reading


def under_way(scope: Scope) -> dict[str, str]:
    """Instance path -> type of the operation that runs on it."""
    return {target: type for target, type in scope.store.running(scope.project.key) if "/instances/" in target}


def path(zone: Zone, name: str) -> str:
    return f"{zone.path}/instances/{name}"


def find(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, Answer]:
    """(GCE name, row, answer) of one instance, by one question. Raises 404.

    Questions after the first: a name with the suffix of a duplicate. CloudStack knows no numbers, so a numeric id that
    no answer has shown yet is looked for in the whole zone.
    """
    for question, is_match in _questions(scope, name):
        try:
            answers = scope.client.read_all("listVirtualMachines", zoneid=zone.id, details=DETAILS, **question)
        except CloudStackError as error:
            if error.code not in disks.NO_SUCH_ROW:
                raise
            continue
        for answer in answers:
            for shown, row in index(scope, answer.items):
                if is_match(shown, row):
                    scope.environment.ids.remember(row["id"])
                    return shown, row, answer
    raise not_found(scope.links.path(path(zone, name)))


def _questions(scope: Scope, name: str) -> list[tuple[dict[str, str], Callable[[str, Row], bool]]]:
    """(parameters, whether a row of the answer is the one), in the order of asking."""
    if naming.UUID.fullmatch(name):
        return [({"id": name}, lambda shown, row: True)]
    if naming.is_number(name):
        known = scope.environment.ids.find(int(name))
        return [({"id": known} if known else {}, lambda shown, row: number(row["id"]) == int(name))]
    if not naming.is_askable(name):
        return []
    questions: list[tuple[dict[str, str], Callable[[str, Row], bool]]] = [
        ({"name": name}, lambda shown, row: name in (shown, row["name"]))
    ]
    if parts := naming.split_suffix(name):
        questions.append(({"name": parts[0]}, lambda shown, row: shown == name))
    return questions


@rpc(
    "Instances.Get",
    calls=("listVirtualMachines", "listVolumes"),
    differences="One call: the boot disk is told by the machine's details. A machine made elsewhere costs a second "
    "call for its disks. Disks attached elsewhere to a machine made here are shown by list, not by get.",
)
def get(scope: Scope, request: pb.GetInstanceRequest) -> Any:
    zone = zones.resolve(scope, request.zone)
    name, row, answer = find(scope, zone, request.instance)
    busy = under_way(scope).get(path(zone, name))
    sources: list[Any] = [answer, *catalogs(scope)]
    volumes: list[Row] | None = None
    if not disk_of(row):
        disks_answer = scope.client.read("listVolumes", virtualmachineid=row["id"])
        sources.append(disks_answer)
        volumes = [volume for volume in disks_answer.items if disks.is_shown(volume)]
    return scope.reply(sources, request, lambda: to_instance(scope, zone, name, row, volumes, busy), busy)


def catalogs(scope: Scope) -> list[Any]:
    """The cached lists that an instance's links come from."""
    return [
        scope.catalog(kind(scope))
        for kind in (zones.kind, networks.kind, machine_types.kind, disk_types.kind, images.kind)
    ]


def _read_all(scope: Scope, zone: Zone | None) -> tuple[list[Answer], list[Answer]]:
    """All machines and all their volumes, side by side."""
    where = {"zoneid": zone.id} if zone else {}
    machines, volumes = scope.client.read_all_many(
        [("listVirtualMachines", {"details": DETAILS, **where}), ("listVolumes", where)]
    )
    return machines, volumes


def _instances(
    scope: Scope,
    in_zones: Sequence[Zone],
    answers: Sequence[Answer],
    volume_answers: Sequence[Answer],
    busy: dict[str, str],
) -> list[tuple[str, lists.Later]]:
    by_machine: dict[str, list[Row]] = {}
    for answer in volume_answers:
        for volume in answer.items:
            if volume.get("virtualmachineid") and disks.is_shown(volume):
                by_machine.setdefault(volume["virtualmachineid"], []).append(volume)
    by_zone: dict[str, list[Row]] = {}
    for answer in answers:
        for row in answer.items:
            by_zone.setdefault(row["zoneid"], []).append(row)

    def later(zone: Zone, name: str, row: Row) -> lists.Later:
        volumes, work = by_machine.get(row["id"], ()), busy.get(path(zone, name))
        return lists.Later(
            name,
            from_cloudstack(row.get("created", "")),
            number(row["id"]),
            lambda: to_instance(scope, zone, name, row, volumes, work),
        )

    return [
        (zone.path, later(zone, name, row)) for zone in in_zones for name, row in index(scope, by_zone.get(zone.id, ()))
    ]


@rpc("Instances.List", calls=("listVirtualMachines", "listVolumes"))
def list_(scope: Scope, request: pb.ListInstancesRequest) -> Any:
    zone = zones.resolve(scope, request.zone)
    answers, volumes = _read_all(scope, zone)
    busy = under_way(scope)

    def build() -> Message:
        pairs = _instances(scope, [zone], answers, volumes, busy)
        return lists.page(scope, request, [item for _, item in pairs], pb.InstanceList, f"{zone.path}/instances")

    return scope.reply([*answers, *volumes, *catalogs(scope)], request, build, tuple(sorted(busy.items())))


@rpc("Instances.AggregatedList", calls=("listVirtualMachines", "listVolumes"))
def aggregated_list(scope: Scope, request: pb.AggregatedListInstancesRequest) -> Any:
    every = zones.all_zones(scope)
    answers, volumes = _read_all(scope, None)
    busy = under_way(scope)

    def build() -> Message:
        pairs = _instances(scope, every, answers, volumes, busy)
        return lists.aggregated(
            scope, request, pairs, zones.scopes(scope, request.includeAllScopes), pb.InstanceAggregatedList, "instances"
        )

    return scope.reply([*answers, *volumes, *catalogs(scope)], request, build, tuple(sorted(busy.items())))


@rpc("Instances.GetSerialPortOutput", calls=("listVirtualMachines",), differences="Always empty.")
def get_serial_port_output(scope: Scope, request: pb.GetSerialPortOutputInstanceRequest) -> Message:
    zone = zones.resolve(scope, request.zone)
    if request.HasField("port") and not 1 <= request.port <= 4:
        raise invalid("port", f"'{request.port}'. Values must be within the range: [1, 4]")
    name, _, _ = find(scope, zone, request.instance)
    return pb.SerialPortOutput(
        kind="compute#serialPortOutput",
        selfLink=scope.links.of(path(zone, name), "serialPort"),
        contents="",
        start=request.start,
        next=request.start,
    )


# Life cycle


def _act(scope: Scope, request: Any, type: str, work: str) -> Message:
    zone = zones.resolve(scope, request.zone)
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
    if not rows or rows[0].get("state") in _HIDDEN:
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


@rpc("Instances.SetTags", calls=("listVirtualMachines", "updateVirtualMachine", "authorizeSecurityGroupIngress"))
def set_tags(scope: Scope, request: pb.SetTagsInstanceRequest) -> Message:
    tags = check_tags(list(request.resource.items), "resource.items")
    zone = zones.resolve(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    check(request.resource.fingerprint, fingerprint("tags", *tags_of(row)), "tags")
    return _update(scope, zone, name, row, "setTags", {kept.TAGS: tags}, tags=tags)


@rpc("Instances.SetLabels", calls=("listVirtualMachines", "updateVirtualMachine"))
def set_labels(scope: Scope, request: pb.SetLabelsInstanceRequest) -> Message:
    labels = check_labels(dict(request.resource.labels), "resource.labels")
    zone = zones.resolve(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    check(request.resource.labelFingerprint, label_fingerprint(labels_of(row)), "label")
    return _update(scope, zone, name, row, "setLabels", {kept.LABELS: labels})


@rpc(
    "Instances.SetMetadata",
    calls=("listVirtualMachines", "updateVirtualMachine"),
    differences="The guest sees new keys and scripts when it asks for its user data again, at its next boot.",
)
def set_metadata(scope: Scope, request: pb.SetMetadataInstanceRequest) -> Message:
    items = check_metadata(request.resource, "resource")
    zone = zones.resolve(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    check(request.resource.fingerprint, metadata_of(scope, row).fingerprint)
    data = user_data(scope, items)
    if not data and (row.get("details") or {}).keys() & {kept.CONFIG, kept.METADATA}:
        data = _NOTHING_TO_DO
    packed = keep_metadata(scope, items)
    return _update(scope, zone, name, row, "setMetadata", {kept.METADATA: packed}, user_data=data or None)


@rpc(
    "Instances.SetDiskAutoDelete",
    calls=("listVirtualMachines", "updateVirtualMachine"),
    differences="Of boot disks only; data disks always stay when their instance is deleted.",
)
def set_disk_auto_delete(scope: Scope, request: pb.SetDiskAutoDeleteInstanceRequest) -> Message:
    for field in ("autoDelete", "deviceName"):
        if not (request.HasField(field) if field == "autoDelete" else request.deviceName):
            raise required(field)
    zone = zones.resolve(scope, request.zone)
    name, row, _ = find(scope, zone, request.instance)
    disk = disk_of(row)
    shown = to_instance(scope, zone, name, row, _volumes(scope, row) if not disk else None, None)
    boot = next((one for one in shown.disks if one.deviceName == request.deviceName), None)
    if boot is None:
        raise invalid("deviceName", f"'{request.deviceName}'. No attached disk found with this device name.")
    if not boot.boot:
        raise unsupported("deviceName", "data disks always stay when their instance is deleted.")
    disk = disk or {"name": boot.source.rpartition("/")[2], "deviceName": boot.deviceName, "sizeGb": boot.diskSizeGb}
    disk["autoDelete"] = request.autoDelete
    return _update(scope, zone, name, row, "setDiskAutoDelete", {kept.DISK: disk})


def _volumes(scope: Scope, row: Row) -> list[Row]:
    rows = scope.client.read("listVolumes", virtualmachineid=row["id"]).items
    return [volume for volume in rows if disks.is_shown(volume)]


def check_tags(tags: list[str], field: str) -> list[str]:
    """Raises 400 for a tag that is no name, or for more than 64."""
    if len(tags) > 64:
        raise invalid(field, f"{len(tags)} tags. At most 64 are allowed.")
    for position, tag in enumerate(tags):
        naming.check_new_name(tag, f"{field}[{position}]")
    return sorted(set(tags))


def check_labels(labels: dict[str, str], field: str) -> dict[str, str]:
    """Raises 400 for a key or value outside GCE's rules, or for more than 64."""
    if len(labels) > 64:
        raise invalid(field, f"{len(labels)} labels. At most 64 are allowed.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise invalid(f"{field}.{key}", f"'{key}'. Label keys must be a match of regex '{_LABEL_KEY.pattern}'")
        if not _LABEL_VALUE.fullmatch(value):
            raise invalid(
                f"{field}.{key}", f"'{value}'. Label values must be a match of regex '{_LABEL_VALUE.pattern}'"
            )
    return labels


def _update(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    type: str,
    changes: dict[str, Any],
    *,
    user_data: str | None = None,
    tags: list[str] | None = None,
) -> Message:
    payload = {"id": row["id"], "zone": zone.name, "changes": changes, "user_data": user_data, "tags": tags}
    return engine.submit(
        scope,
        type=type,
        target=path(zone, name),
        target_id=number(row["id"]),
        handler="instances.update",
        payload=payload,
    )


@handler("instances.update")
def do_update(run: Run) -> None:
    """Details are replaced as a whole, so the current ones are read, merged and sent back."""
    rows = run.read("machine", "listVirtualMachines", id=run.payload["id"], details=DETAILS)
    if not rows:
        raise OperationError("RESOURCE_NOT_FOUND", "The resource was not found.", 404)
    details: dict[str, str] = {key: text for key, text in (rows[0].get("details") or {}).items() if key not in _DENIED}
    for key, value in run.payload["changes"].items():
        details = kept.replaced(details, key, value)
    parameters = kept.parameters(details) if details else {"cleanupdetails": "true"}
    if run.payload["user_data"] is not None:
        parameters["userdata"] = run.payload["user_data"]
    written = run.payload["changes"].get(kept.METADATA) or {}
    try:
        run.call("update", "updateVirtualMachine", id=run.payload["id"], **parameters)
    except CloudStackError:
        forget_metadata(run.scope, written.get(_DOCUMENT, ""))
        raise
    if kept.METADATA in run.payload["changes"]:
        forget_metadata(run.scope, document_of(rows[0]))
    if run.payload["tags"] is not None:
        zone = zones.resolve(run.scope, run.payload["zone"])
        rows[0]["details"] = details
        projection.refresh_instance(run, "firewall", zone, rows[0], run.payload["tags"])


def user_data(scope: Scope, items: dict[str, str]) -> str:
    """User data of an instance with these items in this project."""
    common = {item.key: item.value for item in common_metadata(scope).items}
    return userdata.user_data(items, common)


def keep_metadata(scope: Scope, items: dict[str, str]) -> dict[str, str]:
    """What to put into the details: the items, or where in the store they are when they are large.

    A machine whose details exceed 64 kB has job results that can never be read (recordings, Surprises 4).
    """
    if len(kept.encode(items)) <= _LARGE_METADATA:
        return items
    document = str(uuid.uuid4())
    scope.store.put_document(scope.project.key, _DOCUMENTS, document, kept.encode(items).encode(), expected=None)
    return {_DOCUMENT: document}


def forget_metadata(scope: Scope, document: str) -> None:
    """Large metadata that no machine has any more. document: its name, "" for none."""
    if document:
        scope.store.delete_document(scope.project.key, _DOCUMENTS, document)


def settings_of(instance: pb.Instance) -> dict[str, Any]:
    """The settings of a new instance that only GCE knows, as kept in its details."""
    config: dict[str, Any] = {}
    for key in ("description", "hostname", "minCpuPlatform", "keyRevocationActionType", "canIpForward"):
        if value := getattr(instance, key):
            config[key] = value
    for key in ("scheduling", "displayDevice", "shieldedInstanceConfig", "reservationAffinity"):
        if instance.HasField(key):
            config[key] = MessageToDict(getattr(instance, key))
    if instance.serviceAccounts:
        config["serviceAccounts"] = [MessageToDict(account) for account in instance.serviceAccounts]
    return config
