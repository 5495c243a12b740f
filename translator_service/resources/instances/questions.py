"""What can be asked of an instance besides itself: permissions, referrers, guest attributes, effective firewalls."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid, not_found
from translator_service import places
from translator_service.collection import permits
from translator_service.gce.lists import page
from translator_service.networking import networks
from translator_service.networking.projection import tags_of
from translator_service.resources import firewalls
from translator_service.resources.instances.find import find, path
from translator_service.rpc import rpc
from translator_service.scope import Scope

permits("Instances", find, calls=("listVirtualMachines",))


@rpc("Instances.ListReferrers", calls=("listVirtualMachines",), differences="Always empty.")
def list_referrers(scope: Scope, request: pb.ListReferrersInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, _, _ = find(scope, zone, request.instance)
    return page(scope, request, [], pb.InstanceListReferrers, f"{path(zone, name)}/referrers")


@rpc(
    "Instances.GetGuestAttributes",
    calls=("listVirtualMachines",),
    differences="Guests have no way to tell any, so none is ever found.",
)
def get_guest_attributes(scope: Scope, request: pb.GetGuestAttributesInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    name, _, _ = find(scope, zone, request.instance)
    raise not_found(f"{scope.links.path(path(zone, name))}/guestAttributes/{request.queryPath or request.variableKey}")


@rpc("Instances.GetEffectiveFirewalls", calls=("listVirtualMachines", "listSecurityGroups", "listFirewallRules"))
def get_effective_firewalls(scope: Scope, request: pb.GetEffectiveFirewallsInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    _, row, _ = find(scope, zone, request.instance)
    nics = {f"nic{nic.get('deviceid', position)}": nic for position, nic in enumerate(row.get("nic", ()))}
    wanted = request.networkInterface or "nic0"
    if wanted not in nics:
        raise invalid("networkInterface", f"'{wanted}'. The instance has no such interface.")
    nic = nics[wanted]
    network = networks.name_of(scope, nic["networkid"], nic.get("networkname", ""))
    targets = {group["id"] for group in row.get("securitygroup", ())} | {nic.get("publicipid", "")}
    return pb.InstancesGetEffectiveFirewallsResponse(
        firewalls=firewalls.effective(scope, network, tags_of(row), targets)
    )
