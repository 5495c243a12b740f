"""Virtual machines of CloudStack as instances of GCE.

What CloudStack has no field for is kept in VM details (see kept/details.py): network tags, labels, metadata, the
settings that only GCE knows, and what is said of its disks (attached.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gstack.compute.v1 import instances_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.fingerprints import fingerprint
from translator_service.gce.labels import label_fingerprint
from translator_service.gce.naming import Index, number
from translator_service.gce.times import from_cloudstack
from translator_service.kept import details as kept
from translator_service.kept import fields
from translator_service.networking import networks, subnetworks
from translator_service.networking.projection import tags_of
from translator_service.places import Zone
from translator_service.resources import machine_types
from translator_service.resources.instances import attached
from translator_service.resources.instances.metadata import metadata_of
from translator_service.scope import Scope

# What a list needs and nothing more: statistics and affinity groups cost CloudStack extra queries.
DETAILS = "nics,tmpl,servoff,secgrp"
HIDDEN = ("Destroyed", "Expunging")
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
# What is kept of an instance's settings and of an interface's; the rest is kept in its own place.
_SETTINGS = fields.names(pb.Instance.DESCRIPTOR) - {"labels", "tags", "metadata", "disks", "networkInterfaces"} | {
    "hostname"
}
_NIC_SETTINGS = fields.names(pb.NetworkInterface.DESCRIPTOR) - {"accessConfigs"}
_ACCESS_SETTINGS = fields.names(pb.AccessConfig.DESCRIPTOR)


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
    """Names of machines: host names, which differ at most in case, or what they were asked to be named.

    Nothing that has another host name takes the name of one whose host name it is.
    """
    shown = [row for row in rows if row.get("state") not in HIDDEN]
    names = {row["id"]: name_of(scope, row) for row in shown}
    return scope.environment.index(
        shown, label=lambda row: names[row["id"]], rank=lambda row: names[row["id"]] != row["name"]
    )


def name_of(scope: Scope, row: Row) -> str:
    """The name that was asked for, before duplicates are told apart: the host name, unless that was taken."""
    kept_name = str(kept.unpack(row.get("details") or {}, kept.NAME, ""))
    return naming.asked_name(scope.project.key, row["name"], kept_name)


def to_instance(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    volumes: Sequence[Row] | None,
    under_way: str | None,
    disk_name: Callable[[str], str | None] = lambda identity: None,
) -> pb.Instance:
    """A row of listVirtualMachines. volumes: its rows of listVolumes, None when the details tell of its disks.

    disk_name: the name of a volume by its uuid, where it is known among those of its zone.
    """
    scope.environment.ids.remember(row["id"])
    found: dict[str, str] = row.get("details") or {}
    config = kept.unpack(found, kept.CONFIG, {})
    instance = pb.Instance(
        kind="compute#instance",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
        machineType=scope.links.of(
            zone.path, "machineTypes", machine_types.name_of(scope, zone, row, str(config.get("machineType", "")))
        ),
        status=status(row, under_way),
        zone=scope.links.of(zone.path),
        canIpForward=False,
        selfLink=scope.links.of(zone.path, "instances", name),
        cpuPlatform="Unknown CPU Platform",
        labels=labels_of(row),
        deletionProtection=bool(row.get("deleteprotection", False)),
        startRestricted=False,
    )
    if row.get("state") == "Error":
        instance.statusMessage = "The instance could not be created."
    fields.put(instance, config, _SETTINGS)
    default_scheduling(instance.scheduling)
    instance.tags.items.extend(tags_of(row))
    instance.tags.fingerprint = fingerprint("tags", *instance.tags.items)
    instance.metadata.CopyFrom(metadata_of(scope, row))
    instance.labelFingerprint = label_fingerprint(dict(instance.labels))
    for nic in row.get("nic", []):
        _add_interface(scope, zone, instance, row, nic, config)
    attached.add_to(scope, zone, instance, attached.attached(row, volumes, disk_name))
    if row.get("lastupdated") and row.get("state") == "Running":
        instance.lastStartTimestamp = from_cloudstack(row["lastupdated"])
    elif row.get("lastupdated") and row.get("state") == "Stopped":
        instance.lastStopTimestamp = from_cloudstack(row["lastupdated"])
    instance.fingerprint = instance_fingerprint(row)
    return instance


def instance_fingerprint(row: Row) -> bytes:
    """Of all that an update can change of an instance, whatever its state and whether CloudStack shows it yet: not of
    its disks, which have methods of their own."""
    found = (row.get("details") or {}).items()
    ours = sorted(
        f"{key}={text}" for key, text in found if key.startswith(kept.PREFIX) and not key.startswith(kept.DISK)
    )
    size = (row.get("serviceofferingid", ""), str(row.get("cpunumber")), str(row.get("memory")))
    return fingerprint("instance", row["name"], *size, str(bool(row.get("deleteprotection"))), *ours)


def default_scheduling(scheduling: pb.Scheduling) -> None:
    if not scheduling.HasField("automaticRestart"):
        scheduling.automaticRestart = not scheduling.preemptible
    if not scheduling.HasField("preemptible"):
        scheduling.preemptible = False
    scheduling.onHostMaintenance = scheduling.onHostMaintenance or "MIGRATE"
    scheduling.provisioningModel = scheduling.provisioningModel or "STANDARD"


def labels_of(row: Row) -> dict[str, str]:
    found = kept.unpack(row.get("details") or {}, kept.LABELS, {})
    return {str(key): str(value) for key, value in found.items()}


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
    settings = _nic_settings(config, nic, len(instance.networkInterfaces) - 1)
    fields.put(interface, settings, _NIC_SETTINGS)
    interface.fingerprint = fingerprint("nic", nic["id"], nic.get("ipaddress", ""), nic.get("publicip", ""))
    external = nic.get("publicip", "")
    if zone.security_groups and config.get("external", True):
        # The guest address is the external one here; there is no translation.
        external = nic.get("ipaddress", "")
    if external or (zone.security_groups and config.get("external", True)):
        access = interface.accessConfigs.add(
            kind="compute#accessConfig",
            type="ONE_TO_ONE_NAT",
            name=config.get("accessConfig", "external-nat"),
            natIP=external,
            networkTier="PREMIUM",
        )
        if isinstance(asked := settings.get("accessConfigs"), list) and asked and isinstance(asked[0], dict):
            fields.put(access, asked[0], _ACCESS_SETTINGS)


def _nic_settings(config: dict[str, Any], nic: Row, position: int) -> dict[str, Any]:
    """What is kept of an interface: those that were asked for are the devices in their order."""
    found, device = config.get("nics"), str(nic.get("deviceid", position))
    index = int(device) if device.isdecimal() else position
    settings = found[index] if isinstance(found, list) and index < len(found) else None
    return settings if isinstance(settings, dict) else {}


# Reading


def settings_of(instance: pb.Instance) -> dict[str, Any]:
    """The settings of a new instance that only GCE knows, as kept in its details."""
    found = fields.kept(instance)
    config = {name: value for name, value in found.items() if name in _SETTINGS}
    if instance.hostname:
        config["hostname"] = instance.hostname
    if "networkInterfaces" in found:
        config["nics"] = found["networkInterfaces"]
    return config
