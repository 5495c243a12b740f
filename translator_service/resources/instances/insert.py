"""instances.insert: checks at once what can be refused at once, then one durable operation that deploys the machine.

The operation: security groups (SG zones) -> SSH keys -> deployVirtualMachine, beside it further disks, the address and
what may leave the network (isolated networks) -> disks attached, start -> static NAT -> firewall rules. When a step
fails, what the steps before it made is taken away again; disks that were there before stay.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.accounts import default_service_account
from gstack.kernel.errors import ApiError, invalid, not_found, required, unsupported
from translator_service import places
from translator_service.cloudstack.client import Client, all_rows
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.labels import check_labels, check_tags
from translator_service.gce.naming import number
from translator_service.gce.times import cloudstack_time
from translator_service.kept import details as kept
from translator_service.kept.ssh_keys import SshKey
from translator_service.kept.tags import EPHEMERAL, NAME
from translator_service.networking import egress, networks, projection, subnetworks
from translator_service.operations import engine
from translator_service.operations.cleanup import clear_away
from translator_service.operations.run import OperationError, Run, handler
from translator_service.places import Zone
from translator_service.resources import machine_types
from translator_service.resources.common_metadata import check_metadata
from translator_service.resources.disks import claims, intents
from translator_service.resources.disks.delete import remove
from translator_service.resources.images import references
from translator_service.resources.instances import find, guests, insert_disks, metadata, roots, sources, view
from translator_service.resources.instances.delete import destroy
from translator_service.rpc import rpc
from translator_service.scope import Scope

_DETAIL = "details[0]."
_KEY_PAIRS = 5


@rpc(
    "Instances.Insert",
    calls=(
        "listVirtualMachines", "createSecurityGroup", "registerSSHKeyPair", "deployVirtualMachine",
        "associateIpAddress", "createTags", "enableStaticNat", "createFirewallRule", "listEgressFirewallRules",
        "createEgressFirewallRule", "listVolumes", "listSnapshots", "createVolume", "attachVolume", "detachVolume",
        "deleteVolume", "startVirtualMachine", "updateVirtualMachine",
    ),
    differences="Only a boot disk is made from an image. SCRATCH needs a disk type on local storage. Read-only is "
    "refused. Service accounts, scheduling and the like are kept and returned. In a zone with security groups the "
    "internal address is the external one, whether asked for or not. Where a machine that the caller does not see has "
    "the host name already, the guest's host name gets a suffix; the instance keeps the name it was asked for. Until "
    "CloudStack shows a new instance, its id is a provisional one.",
)  # fmt: skip
def insert(scope: Scope, request: pb.InsertInstanceRequest) -> Message:
    for field in ("sourceInstanceTemplate", "sourceMachineImage"):
        if getattr(request, field):
            raise unsupported(field, "it is not supported here.")
    return prepare(scope, places.resolve_zone(scope, request.zone), request.resource)()


def prepare(scope: Scope, zone: Zone, wanted: pb.Instance, group: str = "") -> Callable[[], Message]:
    """Check an instance that is to be made; what submits its operation. group: id of the operations it is one of.

    Raises 400, 404 and 409 for whatever the operation could not do.
    """
    naming.check_new_name(wanted.name)
    if not wanted.machineType:
        raise required("resource.machineType")
    size = machine_types.resolve(scope, zone, wanted.machineType, "resource.machineType")
    parameters = {"name": wanted.name, "displayname": wanted.name, "zoneid": zone.id}
    parameters |= {"serviceofferingid": size.row["id"], **kept.parameters(size.details)}
    disks = insert_disks.plan(scope, zone, wanted, size.row)
    nics, network_parameters = _networks(scope, zone, wanted)
    tags = check_tags(list(wanted.tags.items), "resource.tags.items")
    labels = check_labels(dict(wanted.labels), "resource.labels")
    items = check_metadata(wanted.metadata, "resource.metadata")
    if wanted.hostname and wanted.hostname.partition(".")[0] != wanted.name:
        raise unsupported("resource.hostname", "the host name is the name of the instance.")
    find.check_free(scope, zone, wanted.name)
    for disk in disks.names:
        claims.check_free(scope.client, scope, zone, disk, wanted.name)
    there = {disks.boot["name"], *(one["about"]["name"] for one in disks.data)}.difference(disks.names)

    for account in wanted.serviceAccounts:
        if account.email == "default":
            account.email = default_service_account(scope.project.number)
    config = view.settings_of(wanted) | nics[0]["config"] | ({"machineType": size.kept} if size.kept else {})
    project = metadata.project_state(scope)
    data = metadata.user_data(scope, items, disks.parameters.get("templateid", ""))

    def submit() -> Message:
        with metadata.keep_metadata(scope, items) as packed:
            details = {
                **kept.pack(kept.TAGS, tags),
                **kept.pack(kept.LABELS, labels),
                **kept.pack(kept.METADATA, packed),
                **kept.pack(kept.CONFIG, config),
                **kept.pack(kept.DISK, disks.boot),
            }
            sent = parameters | disks.parameters | network_parameters | _merge_details(parameters, details)
            if data:
                sent["userdata"] = data
            payload = {
                "zone": zone.name,
                "name": wanted.name,
                "network": nics[0]["network"],
                "parameters": sent,
                "tags": tags,
                "keys": metadata.registrable_keys(scope, items)[:_KEY_PAIRS],
                "project": project,
                "image": _named_image(wanted),
                "disk": disks.boot["name"],
                "names": disks.names,
                **disks.payload,
                "external": nics[0]["external"],
                "address": nics[0]["address"],
                "protect": wanted.deletionProtection,
                # Machines of such offerings are restarted unless they are told apart.
                "stays_down": bool(size.row.get("offerha")) and not _restarts(wanted.scheduling),
                "document": metadata.document_of({"details": details}),
                "networks": [nic["network"] for nic in nics],
                "ips": [(nic["network"], nic["ip"]) for nic in nics if nic["ip"]],
                # A network that runs takes an address while the machine is made.
                "early": nics[0]["external"] and nics[0]["address"] is None and nics[0]["state"] == "Implemented",
                "closed": [nic["network"] for nic in nics if nic["closed"]],
            }
            return engine.submit(
                scope,
                type="insert",
                target=find.path(zone, wanted.name),
                handler="instances.insert",
                payload=payload,
                preview=_preview(wanted, sent, nics, size.row, disks.preview),
                group=group,
                also=[sources.path(zone, disk) for disk in there],
            )

    return submit


def _named_image(wanted: pb.Instance) -> list[str]:
    """[reference, field] of the image of the boot disk, [] for none; of a family's, one was chosen at submit."""
    found = [("resource.image", wanted.image)] if not wanted.disks else []
    for position, disk in enumerate(wanted.disks):
        found.append((f"resource.disks[{position}].initializeParams.sourceImage", disk.initializeParams.sourceImage))
    field, text = next((one for one in found if one[1]), ("", ""))
    return [text, field] if text and references.names_one(text, field) else []


def _check_image(run: Run, zone: Zone, scope: Scope) -> None:
    """It may have become obsolete since the submit."""
    text, field = run.payload["image"]
    references.resolve(scope, text, zone, field)


def _restarts(scheduling: pb.Scheduling) -> bool:
    return scheduling.automaticRestart if scheduling.HasField("automaticRestart") else not scheduling.preemptible


def _merge_details(parameters: dict[str, str], details: dict[str, str]) -> dict[str, str]:
    """Custom sizes and our own details travel in the same map."""
    return {name: text for name, text in kept.parameters(details).items() if name not in parameters}


def _details(parameters: dict[str, str]) -> dict[str, str]:
    """Of a machine, out of the parameters of its deploy."""
    return {key[len(_DETAIL) :]: text for key, text in parameters.items() if key.startswith(_DETAIL)}


def _preview(
    wanted: pb.Instance,
    parameters: dict[str, str],
    nics: list[dict[str, Any]],
    offering: Row,
    data_disks: dict[str, Any],
) -> Row:
    """What CloudStack's row of the new machine will be like, as far as that is known."""
    details = _details(parameters) | kept.pack(kept.DISKS, data_disks)
    found: Row = {
        "name": wanted.name,
        "zoneid": parameters["zoneid"],
        "created": cloudstack_time(time.time()),
        "serviceofferingid": parameters["serviceofferingid"],
        "cpunumber": offering.get("cpunumber"),
        "memory": offering.get("memory"),
        "templateid": parameters["templateid"],
        "deleteprotection": wanted.deletionProtection,
        "details": details,
        "nic": [
            {"id": str(position), "networkid": nic["network"], "ipaddress": nic["ip"], "deviceid": position}
            for position, nic in enumerate(nics)
        ],
    }
    return found | {key.lower(): int(details[key]) for key in ("cpuNumber", "memory") if key in details}


def _networks(scope: Scope, zone: Zone, wanted: pb.Instance) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(what the operation needs of each interface, parameters of deployVirtualMachine)."""
    if not wanted.networkInterfaces:
        raise invalid("resource.networkInterfaces", "''. At least one network interface is required.")
    found: list[dict[str, Any]] = []
    for position, interface in enumerate(wanted.networkInterfaces):
        field = f"resource.networkInterfaces[{position}]"
        network = subnetworks.for_instance(scope, zone, interface.network, interface.subnetwork, field)
        if len(interface.accessConfigs) > 1:
            raise invalid(f"{field}.accessConfigs", "At most one access config is allowed.")
        if position and (interface.accessConfigs or zone.security_groups):
            raise unsupported(field, "only the first interface can have an external address here.")
        if any(nic["network"] == network["id"] for nic in found):
            raise invalid(field, f"'{interface.network or interface.subnetwork}'. Networks must be distinct.")
        if interface.accessConfigs and not zone.security_groups and not subnetworks.has_addresses(network):
            raise unsupported(f"{field}.accessConfigs", "instances of this network cannot have external addresses.")
        access = interface.accessConfigs[0] if interface.accessConfigs else None
        config: dict[str, Any] = {"external": access is not None}
        if access is not None and access.name:
            config["accessConfig"] = access.name
        address = None
        if access is not None and access.natIP:
            address = _free_address(scope, zone, network, access.natIP, f"{field}.accessConfigs[0].natIP")
        if interface.networkIP:
            _check_address(network, interface.networkIP, f"{field}.networkIP")
        found.append(
            {
                "network": network["id"],
                "external": access is not None and not zone.security_groups,
                "address": address,
                "config": config,
                "ip": interface.networkIP,
                "state": network.get("state", ""),
                "closed": egress.is_closed(network),
            }
        )
    if len(found) == 1:
        parameters = {"networkids": found[0]["network"]}
        if found[0]["ip"]:
            parameters["ipaddress"] = found[0]["ip"]
        return found, parameters
    parameters = {}
    for position, nic in enumerate(found):
        parameters[f"iptonetworklist[{position}].networkid"] = nic["network"]
        if nic["ip"]:
            parameters[f"iptonetworklist[{position}].ip"] = nic["ip"]
    return found, parameters


def _check_address(network: Row, text: str, field: str) -> None:
    """An address that cannot be had would leave a broken machine behind (recordings, Surprises 15)."""
    try:
        address = ipaddress.ip_address(text)
        inside = True
        if "cidr" in network:
            around = ipaddress.ip_network(network["cidr"], strict=False)
            inside = address in around and address not in (around.network_address, around.broadcast_address)
    except ValueError:
        raise invalid(field, f"'{text}'. Must be a valid IP address.") from None
    if not inside or text == network.get("gateway"):
        raise invalid(field, f"'{text}'. IP address is outside the network's range or reserved.")


def _free_address(scope: Scope, zone: Zone, network: Row, text: str, field: str) -> str:
    """Id of the caller's public address; it must be in this network and unused."""
    if zone.security_groups:
        raise unsupported(field, "external addresses cannot be chosen in this zone.")
    rows = scope.client.read("listPublicIpAddresses", ipaddress=text, zoneid=zone.id).items
    row = next((row for row in rows if row.get("ipaddress") == text), None)
    if row is None or row.get("associatednetworkid") != network["id"]:
        raise not_found(scope.links.path("regions", zone.region, "addresses", text))
    if row.get("isstaticnat") or row.get("issourcenat") or row.get("hasrules"):
        raise invalid(field, f"'{text}'. The address is in use.")
    return str(row["id"])


# The operation


@handler("instances.insert")
def do_insert(run: Run) -> None:
    zone = places.resolve_zone(run.scope, run.payload["zone"])
    try:
        with ExitStack() as names:
            # Payloads from before there were several have the one name only.
            for position, name in enumerate(run.payload.get("names", [run.payload["disk"]])):
                step = f"disk-name-free/{position}" if position else "disk-name-free"
                names.enter_context(claims.name_held(run, zone, name, run.payload["name"], step))
            guest = run.look("guest", partial(_guest, run))
            machine = _insert(run, zone, guest)
    except Exception:
        metadata.forget_metadata(run.scope, run.payload.get("document", ""))
        raise
    guests.catch_up(run, machine, guest["project"])


def _guest(run: Run, scope: Scope) -> dict[str, Any]:
    """{"project", "keys", "userdata"}: what the project's metadata make of the machine's own when its turn has come."""
    payload, project = run.payload, metadata.project_state(scope)
    parameters = payload["parameters"]
    found = {"project": project, "keys": payload["keys"], "userdata": parameters.get("userdata", "")}
    if payload.get("project", project) == project:
        return found
    items = metadata.metadata_items(scope, {"details": _details(parameters)})
    try:
        data = metadata.user_data(scope, items, parameters["templateid"])
    except ApiError:
        # There is no room for it any more. It is told when the machine is there, as of any other.
        return {**found, "project": ""}
    return {"project": project, "keys": metadata.registrable_keys(scope, items)[:_KEY_PAIRS], "userdata": data}


def _insert(run: Run, zone: Zone, guest: dict[str, Any]) -> str:
    """Make the machine and what belongs to it; its id."""
    payload = run.payload
    parameters = dict(payload["parameters"])
    if guest["userdata"]:
        parameters["userdata"] = guest["userdata"]
    else:
        parameters.pop("userdata", None)
    made: dict[str, str] = {}
    try:
        if payload.get("image"):
            run.look("image", partial(_check_image, run, zone))
        if payload.get("ips"):
            run.look("addresses", partial(_check_unused, run))
        if zone.security_groups:
            groups = projection.groups_for_deploy(
                run, zone, networks.by_id(run.scope, payload["network"]), payload["name"], payload["tags"]
            )
            parameters["securitygroupids"] = ",".join(groups)
        if names := [name for key in guest["keys"] if (name := _key_pair(run, key))]:
            parameters["keypairs"] = ",".join(names)
        run.progress(10)
        parameters = insert_disks.claimed(run, zone, parameters)
        closed = _deploy(run, zone, parameters, made)
        machine = made["machine"]
        run.set_target_id(number(machine), progress=60, preview=None)
        if parameters.get("startvm") == "false":
            insert_disks.attach(run, zone, machine, made)
        if payload["external"]:
            _attach_address(run, machine, made)
        if payload["external"] and not payload.get("early"):
            # It runs now, which the next insert is to know.
            run.scope.forget(networks.kind(run.scope))
        if payload["external"] or payload["tags"]:
            # With security groups its own rules are in place already, but others may name its tags as their sources.
            row = {"id": machine, "nic": [{"networkid": network} for network in payload["networks"]]}
            projection.refresh_instance(run, "firewall", zone, row, payload["tags"])
        settings = {"deleteprotection": "true"} if payload["protect"] else {}
        settings |= {"haenable": "false"} if payload.get("stays_down") else {}
        if settings:
            run.call("settings", "updateVirtualMachine", id=machine, **settings)
        egress.tell(run, closed)
        if "intent" in payload:
            intents.forget(run, zone, payload["intent"])
        return machine
    except Exception:
        # Whatever it was: what is made and not told of would run on at the customer's expense.
        _undo(run, zone, made)
        raise


def _key_pair(run: Run, public_key: str) -> str:
    """Name of the key pair in CloudStack that holds this key; CloudStack holds a key once. "" for what is no key."""
    name = SshKey("", public_key).name
    try:
        blob = base64.b64decode(public_key.split()[1] + "==")
    except (IndexError, ValueError):
        return ""
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    fingerprint = ":".join(digest[index : index + 2] for index in range(0, 32, 2))

    def known(client: Client) -> tuple[str, bool]:
        """(name of the pair with this key, or "", whether our name is taken by another key)."""
        named = client.read("listSSHKeyPairs", name=name).items
        if any(row["fingerprint"] == fingerprint for row in named):
            return name, False
        same = client.read("listSSHKeyPairs", fingerprint=fingerprint).items
        return (str(same[0]["name"]) if same else ""), bool(named)

    def work(scope: Scope) -> str:
        found, taken = known(scope.client)
        if found:
            return found
        # A member of the same project may have given our name to a key of another's.
        chosen = f"{name}-{run.job_id(f'key/{name}')[:8]}" if taken else name
        try:
            scope.client.write("registerSSHKeyPair", name=chosen, publickey=" ".join(public_key.split()[:2]))
        except CloudStackError as error:
            # Somebody else was first, or it is no key: GCE takes any text as one, and so must an insert.
            if error.code != 431:
                raise
            return known(scope.client)[0]
        return chosen

    return run.look(f"key/{name}", work)


def _deploy(run: Run, zone: Zone, parameters: dict[str, str], made: dict[str, str]) -> Any:
    """Make the machine, made["machine"], and by its side what can be. Returns what is known of egress.

    A host name is unique in its network, where others have machines too, and where one that was destroyed keeps its
    name until it is expunged: then it is made unique.
    """
    name, owner = parameters["name"], run.scope.project.key
    branches: dict[str, Callable[[], Any]] = {"deploy": partial(_machine, run, "deploy", parameters)}
    for position, _ in enumerate(run.payload.get("make", ())):
        branches[insert_disks.key(position)] = partial(insert_disks.make, run, position)
    if run.payload.get("early"):
        branches["address"] = partial(_take_address, run)
    if run.payload.get("closed"):
        branches["egress"] = partial(egress.open_if_wanted, run, run.payload["closed"])
    found = run.together("deploy", branches)
    closed, refused = found.pop("egress", None), found["deploy"]
    failures: list[CloudStackError] = []
    for key, result in found.items():
        what = "machine" if key == "deploy" else key
        if not isinstance(result, CloudStackError):
            made[what] = result["id"]
            continue
        failures.append(result)
        if result.entity:
            made[what] = result.entity
    if not isinstance(refused, CloudStackError) or not _is_taken(refused):
        if isinstance(refused, CloudStackError):
            _find_leftover(run, parameters, refused, made)
        if failures:
            raise failures[0]
        _tag_disk_after(run, refused)
        return closed
    if len(failures) > 1:
        # Another machine has the name, and something else went wrong too.
        raise failures[1]
    if run.look("name", lambda scope: find.look(scope, zone, name) is not None):
        raise _exists(run, name)
    for attempt in range(find.ATTEMPTS):
        host = naming.host_name(owner, name, attempt)
        own = {**parameters, "name": host, **kept.parameters(kept.pack(kept.NAME, name))}
        try:
            machine = run.step(f"deploy/{attempt}", partial(_machine, run, f"deploy/{attempt}", own))
        except CloudStackError as error:
            if not _is_taken(error):
                _find_leftover(run, own, error, made)
                raise
            continue
        made["machine"] = machine["id"]
        _tag_disk_after(run, machine)
        return closed
    raise _exists(run, name)


def _machine(run: Run, key: str, parameters: dict[str, str]) -> dict[str, Any]:
    """Deploy it, as a part of a step; beside that its boot disk is tagged, where it is made with it."""
    if "root" in run.payload:
        return {**roots.deploy(run, key, parameters), "beside": True}
    return run.follow_with(key, "deployVirtualMachine", partial(_tag_disk, run), **parameters)


def _is_taken(refusal: CloudStackError) -> bool:
    return refusal.code == 431 and "already exists" in refusal.text


def _exists(run: Run, name: str) -> OperationError:
    path = run.scope.links.path("zones", run.payload["zone"], "instances", name)
    return OperationError("RESOURCE_ALREADY_EXISTS", f"The resource '{path}' already exists", 409)


def _find_leftover(run: Run, parameters: dict[str, str], error: CloudStackError, made: dict[str, str]) -> None:
    """A refused or failed deploy may leave a machine in state Error behind. Raises OperationError for its reason."""
    if error.entity:
        made["machine"] = error.entity
        return
    if error.code != 530:
        return
    where = {"name": parameters["name"], "zoneid": parameters["zoneid"], "state": "Error"}
    rows = run.read("leftover", "listVirtualMachines", **where)
    if not rows:
        return
    made["machine"] = rows[0]["id"]
    if ips := run.payload.get("ips"):
        # Only an address that cannot be had is refused like this; it is in the network's range, and somebody's whom
        # the caller does not see, or who came at this moment.
        raise _in_use(*(ip for _, ip in ips))


def _check_unused(run: Run, scope: Scope) -> None:
    """A deploy with an address in use would leave a broken machine behind, as GCE's operation ends with an error."""
    for network, ip in run.payload.get("ips", ()):
        rows = all_rows(scope.client.read_all("listVirtualMachines", networkid=network, details="nics"))
        if any((nic["networkid"], nic.get("ipaddress")) == (network, ip) for row in rows for nic in row.get("nic", ())):
            raise _in_use(ip)


def _in_use(*ips: str) -> OperationError:
    shown = " or ".join(f"'{ip}'" for ip in ips)
    return OperationError("IP_IN_USE_BY_ANOTHER_RESOURCE", f"IP {shown} is already being used by another resource.")


def _tag_disk_after(run: Run, made: Any) -> None:
    """What could not be done while the machine was made."""
    if not made["beside"]:
        run.step("tag-disk", lambda: _tag_disk(run, made["id"]))


def _tag_disk(run: Run, machine: str) -> None:
    """CloudStack names root volumes by itself, and holds nothing else of what was said of them."""
    volume = run.client().read("listVolumes", virtualmachineid=machine, type="ROOT").items[0]["id"]
    # Payloads from before there were such tags have none.
    run.tag(f"tag-disk/{machine}", "Volume", volume, run.payload.get("disk_tags") or {NAME: run.payload["disk"]})


def _attach_address(run: Run, machine: str, made: dict[str, str]) -> None:
    address = run.payload["address"] or made.get("address")
    if address is None:
        taken = run.together("address", {"address": partial(_take_address, run)})["address"]
        if isinstance(taken, CloudStackError):
            made |= {"address": taken.entity} if taken.entity else {}
            raise taken
        address = made["address"] = taken["id"]

    def enable(scope: Scope) -> None:
        client = scope.client
        try:
            client.write(
                "enableStaticNat", ipaddressid=address, virtualmachineid=machine, networkid=run.payload["network"]
            )
        except CloudStackError as error:
            # Enabling twice is an error (recordings, Surprises 52); a repeated step finds its own work done.
            rows = client.read("listPublicIpAddresses", id=address).items if error.code == 431 else []
            if not rows or rows[0].get("virtualmachineid") != machine:
                raise

    run.look("static-nat", enable)


def _take_address(run: Run) -> dict[str, Any]:
    """A new public address of the network, marked as the instance's: it goes when the instance goes."""

    def tag(address: str) -> None:
        run.tag("tag-address", "PublicIpAddress", address, {EPHEMERAL: run.payload["name"]})

    found = run.follow_with("address", "associateIpAddress", tag, networkid=run.payload["network"])
    if not found["beside"]:
        try:
            tag(found["id"])
        except CloudStackError as error:
            error.entity = found["id"]
            raise
    return {"id": found["id"]}


def _undo(run: Run, zone: Zone, made: dict[str, str]) -> None:
    """Take away what was made."""
    run.forget_preview()
    name = run.payload["name"]
    parts: list[tuple[str, Callable[[], object]]] = []
    root = insert_disks.root_of(run, made)

    def take_away() -> None:
        if root is not None:
            roots.give_back(run, made["machine"], root)
        destroy(run, made["machine"], "undo-")

    if "machine" in made:
        parts.append((f"The instance '{name}' ({made['machine']})", take_away))
    for key, identity in made.items():
        if key == "fresh" or key.startswith("disk/"):
            volume = partial(remove, run, f"undo-{key}", identity)
            parts.append((f"A disk of '{name}' ({identity})", volume))
    if "address" in made:
        address = partial(run.job, "undo-address", "disassociateIpAddress", id=made["address"])
        parts.append((f"The external address of '{name}' ({made['address']})", address))
    if zone.security_groups:
        parts.append((f"A firewall of '{name}'", partial(projection.release_instance, run, zone, name)))
    clear_away(run, parts)
    if "intent" in run.payload:
        intents.release(run, zone, run.payload["intent"])
