"""What a cloud offers, all of it read-only: zones, offerings, OS types, regions, capabilities."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from simulator import errors
from simulator.commands import Call, Listing, command
from simulator.families import tags
from simulator.world import DiskOffering, ServiceOffering, VirtualMachine, Zone, timestamp

Rendered = dict[str, Any]

HYPERVISOR = "Simulator"
_NAMESPACE = uuid.UUID("caad3ae8-e6c8-41f1-9321-02fc00000001")
_SETUP = timestamp(1763852580)


def stable_id(kind: str, name: str) -> str:
    """The same id in every world, for things that no cloud file lists."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}/{name}"))


# Filters that several lists share


def _name_filter(call: Call, items: Iterable[Rendered]) -> list[Rendered]:
    """`id`, `ids`, `name` (whole) and `keyword` (part), ignoring case, on rows that are complete already."""
    wanted = {value.lower() for value in (call.text("id"), *call.items("ids")) if value}
    name, keyword = call.text("name").lower(), call.text("keyword").lower()
    return [
        item
        for item in items
        if (not wanted or item["id"] in wanted)
        and (not name or item["name"].lower() == name)
        and (not keyword or keyword in item["name"].lower())
    ]


def selected(call: Call, kind: type[Any]) -> list[Any]:
    """The same filter on rows of the world."""
    chosen = call.world.all(kind)
    if (one := call.row(kind, "id")) is not None:
        chosen = [row for row in chosen if row is one]
    if (several := call.rows(kind, "ids")) is not None:
        chosen = [row for row in chosen if row in several]
    if name := call.text("name").lower():
        chosen = [row for row in chosen if row.name.lower() == name]
    if keyword := call.text("keyword").lower():
        chosen = [row for row in chosen if keyword in row.name.lower() or keyword in row.display_text.lower()]
    return chosen


def _known_id(call: Call, known: Iterable[str]) -> None:
    if "id" in call.parameters and call.text("id").lower() not in known:
        raise errors.no_such_entity(call.command, "id", call.text("id"))


# Zones


def render_zone(zone: Zone) -> Rendered:
    return {
        "id": zone.id,
        "name": zone.name,
        "networktype": "Advanced",
        "securitygroupsenabled": zone.security_groups,
        "gputotal": 0,
        "gpuused": 0,
        "allocationstate": "Enabled" if zone.enabled else "Disabled",
        "zonetoken": stable_id("zonetoken", zone.id),
        "dhcpprovider": "VirtualRouter",
        "localstorageenabled": False,
        "tags": zone.tags,
        "allowuserspecifyvrmtu": False,
        "routerprivateinterfacemaxmtu": 1500,
        "routerpublicinterfacemaxmtu": 1500,
        "type": "Core",
        "isnsxenabled": False,
        "ismultiarch": False,
        "asnrange": "",
        "routedmodeenabled": True,
        "hasannotations": False,
    }


@command("listZones")
def list_zones(call: Call) -> Listing:
    rows = call.world.all(Zone)
    if (one := call.row(Zone, "id")) is not None:
        rows = [one]
    if (several := call.rows(Zone, "ids")) is not None:
        rows = [row for row in rows if row in several]
    if name := call.text("name").lower():
        rows = [row for row in rows if row.name.lower() == name]
    if keyword := call.text("keyword").lower():
        rows = [row for row in rows if keyword in row.name.lower()]
    if call.text("networktype", "Advanced").lower() != "advanced":
        rows = []
    if "available" in call.parameters and not call.flag("available") and not call.is_admin:
        # Not the zones that are off: those in which the account has an instance.
        mine = {vm.zone for vm in call.world.all(VirtualMachine) if vm.account is call.account}
        rows = [row for row in rows if row in mine]
    if not call.is_admin:
        rows = [row for row in rows if row.enabled]
    return Listing([render_zone(row) for row in tags.filter_rows(call, rows)])


@command("listRegions")
def list_regions(call: Call) -> Listing:
    region = {
        "id": 1,
        "name": "Local",
        "endpoint": "http://localhost:8080/client/",
        "gslbserviceenabled": True,
        "portableipserviceenabled": False,
    }
    return Listing([region] if call.text("name", "Local").lower() == "local" else [])


@command("listHypervisors")
def list_hypervisors(call: Call) -> Listing:
    call.row(Zone, "zoneid")
    return Listing([{"name": HYPERVISOR}])


# Offerings


def _render_service_offering(offering: ServiceOffering) -> Rendered:
    item: Rendered = {
        "id": offering.id,
        "name": offering.name,
        "state": "Active",
        "displaytext": offering.display_text,
        "cpunumber": offering.cpu_number,
        "cpuspeed": offering.cpu_speed,
        "memory": offering.memory,
        "created": timestamp(offering.created),
        "storagetype": "shared",
        "provisioningtype": "thin",
        "offerha": offering.offer_ha,
        "limitcpuuse": False,
        "isvolatile": False,
        "issystem": False,
        "defaultuse": False,
        "serviceofferingdetails": offering.details or None,
        "iscustomized": offering.customized,
        "rootdisksize": 0,
        "dynamicscalingenabled": True,
        "diskofferingstrictness": False,
        "diskofferingid": stable_id("diskoffering", offering.id),
        "diskofferingname": offering.name,
        "diskofferingdisplaytext": offering.display_text,
        "encryptroot": False,
        "gpudisplay": offering.gpu_display,
        "zoneid": offering.zone.id if offering.zone else None,
        "zone": offering.zone.name if offering.zone else None,
        "hasannotations": False,
    }
    return {key: value for key, value in item.items() if value is not None}


def _render_disk_offering(offering: DiskOffering) -> Rendered:
    item: Rendered = {
        "id": offering.id,
        "name": offering.name,
        "state": "Active",
        "displaytext": offering.display_text,
        "disksize": offering.size,
        "created": timestamp(offering.created),
        "iscustomized": offering.customized,
        "storagetype": "local" if offering.local else "shared",
        "provisioningtype": "thin",
        "displayoffering": True,
        "disksizestrictness": False,
        "encrypt": False,
        "zoneid": offering.zone.id if offering.zone else None,
        "zone": offering.zone.name if offering.zone else None,
        "hasannotations": False,
    }
    return {key: value for key, value in item.items() if value is not None}


def _offerings(call: Call, kind: type[Any], render: Callable[[Any], Rendered]) -> list[Any]:
    """The offerings asked for, rendered once and kept on the row."""
    zone = call.row(Zone, "zoneid")
    rows = [row for row in selected(call, kind) if zone is None or row.zone in (None, zone)]
    for row in rows:
        if row.rendered is None:
            row.rendered = render(row)
    return rows


def _at_least(offering: ServiceOffering, fixed: int | None, limit: str, wanted: int) -> bool:
    """Whether a size is at least `wanted`, for a customized offering its largest size."""
    size = fixed if fixed is not None else int(offering.details.get(limit, wanted))
    return size >= wanted


@command("listServiceOfferings")
def list_service_offerings(call: Call) -> Listing:
    rows: list[ServiceOffering] = _offerings(call, ServiceOffering, _render_service_offering)
    if (cpus := call.integer("cpunumber")) is not None:
        rows = [row for row in rows if _at_least(row, row.cpu_number, "maxcpunumber", cpus)]
    if (memory := call.integer("memory")) is not None:
        rows = [row for row in rows if _at_least(row, row.memory, "maxmemory", memory)]
    if (speed := call.integer("cpuspeed")) is not None:
        rows = [row for row in rows if _at_least(row, row.cpu_speed, "", speed)]
    if call.flag("issystem"):
        rows = []
    return Listing([row.rendered for row in rows])


@command("listDiskOfferings")
def list_disk_offerings(call: Call) -> Listing:
    return Listing([row.rendered for row in _offerings(call, DiskOffering, _render_disk_offering)])


# ISO images


@command("listIsos")
def list_isos(call: Call) -> Listing:
    call.row(Zone, "zoneid")
    return Listing([])


# Operating systems

_SYSTEMS = {
    "Ubuntu": (
        "Ubuntu 12.04 (32-bit)", "Ubuntu 12.04 (64-bit)", "Ubuntu 13.04 (64-bit)", "Ubuntu 14.04 (64-bit)",
        "Ubuntu 16.04 (64-bit)", "Ubuntu 18.04 LTS", "Ubuntu 20.04 LTS", "Ubuntu 22.04 LTS", "Ubuntu 24.04 LTS",
    ),
    "Debian": (
        "Debian GNU/Linux 7(64-bit)", "Debian GNU/Linux 8 (64-bit)", "Debian GNU/Linux 9 (64-bit)",
        "Debian GNU/Linux 10 (64-bit)", "Debian GNU/Linux 11 (64-bit)", "Debian GNU/Linux 12 (64-bit)",
    ),
    "Fedora": ("Fedora 13", "Fedora Linux (64 bit)"),
    "CentOS": (
        "CentOS 5.5 (64-bit)", "CentOS 5.6 (64-bit)", "CentOS 6.4 (64-bit)", "CentOS 7.2", "CentOS 8",
        "CentOS Stream 9",
    ),
    "Rocky Linux": ("Rocky Linux 8", "Rocky Linux 9"),
    "AlmaLinux": ("AlmaLinux 8", "AlmaLinux 9"),
    "Oracle": ("Oracle Linux 8", "Oracle Linux 9"),
    "RedHat": ("Red Hat Enterprise Linux 8", "Red Hat Enterprise Linux 9"),
    "SUSE": ("SUSE Linux Enterprise Server 12 (64-bit)", "SUSE Linux Enterprise Server 15 (64-bit)"),
    "Windows": (
        "Windows Server 2008 R2 (64-bit)", "Windows Server 2012 (64-bit)", "Windows Server 2012 R2 (64-bit)",
        "Windows Server 2016 (64-bit)", "Windows Server 2019 (64-bit)", "Windows Server 2022 (64-bit)",
    ),
    "Other": ("Other (32-bit)", "Other (64-bit)", "Other Linux (32-bit)", "Other Linux (64-bit)"),
}  # fmt: skip
_CATEGORIES = [{"id": stable_id("oscategory", name), "name": name, "isfeatured": True} for name in _SYSTEMS]


def os_type_id(name: str) -> str:
    return stable_id("ostype", name)


def os_type_name(identity: str) -> str | None:
    """The name of an OS type, None for an id that is none's."""
    return next((str(item["name"]) for item in _OS_TYPES if item["id"] == identity.lower()), None)


_OS_TYPES = [
    {
        "id": os_type_id(name),
        "oscategoryid": stable_id("oscategory", category),
        "oscategoryname": category,
        "name": name,
        "description": name,
        "isuserdefined": False,
        "fordisplay": True,
    }
    for category, names in sorted(_SYSTEMS.items())
    for name in names
]
_OS_TYPE_IDS = {str(item["id"]) for item in _OS_TYPES}


@command("listOsCategories")
def list_os_categories(call: Call) -> Listing:
    return Listing(_name_filter(call, _CATEGORIES))


@command("listOsTypes")
def list_os_types(call: Call) -> Listing:
    _known_id(call, _OS_TYPE_IDS)
    items = _name_filter(call, _OS_TYPES)
    if category := call.text("oscategoryid").lower():
        items = [item for item in items if item["oscategoryid"] == category]
    if description := call.text("description").lower():
        items = [item for item in items if item["description"].lower() == description]
    return Listing(items)


# Network and VPC offerings

ISOLATED = "DefaultIsolatedNetworkOfferingWithSourceNatService"
SHARED_WITH_GROUPS = "DefaultSharedNetworkOfferingWithSGService"

_CAPABILITIES: dict[str, dict[str, str]] = {
    "StaticNat": {"ElasticIp": "false", "AssociatePublicIP": "true"},
    "Lb": {"SupportedLBIsolation": "dedicated", "ElasticLb": "false", "InlineMode": "false", "VmAutoScaling": "true"},
    "SourceNat": {"SupportedSourceNatTypes": "peraccount", "RedundantRouter": "false"},
}


def _service(name: str, provider: str, with_capabilities: bool = True) -> Rendered:
    service: Rendered = {
        "name": name,
        "provider": [{"name": "SecurityGroupProvider" if name == "SecurityGroup" else provider}],
    }
    if with_capabilities and name in _CAPABILITIES:
        service["capability"] = [
            {"name": key, "value": value, "canchooseservicecapability": False}
            for key, value in _CAPABILITIES[name].items()
        ]
    return service


def _network_offering(
    identity: str, name: str, text: str, kind: str, services: str, *, vpc: bool = False, vlan: bool = False
) -> Rendered:
    return {
        "id": identity,
        "name": name,
        "displaytext": text,
        "created": _SETUP,
        "traffictype": "Guest",
        "isdefault": True,
        "specifyvlan": vlan,
        "conservemode": True,
        "specifyipranges": vlan,
        "availability": "Required" if name == ISOLATED else "Optional",
        "networkrate": 200,
        "state": "Enabled",
        "guestiptype": kind,
        "serviceofferingid": stable_id("systemoffering", "router"),
        "service": [_service(service, "VpcVirtualRouter" if vpc else "VirtualRouter") for service in services.split()],
        "forvpc": vpc,
        "fornsx": False,
        "fortungsten": False,
        "ispersistent": False,
        "egressdefaultpolicy": False,
        "supportsstrechedl2subnet": False,
        "supportspublicaccess": False,
        "supportsinternallb": False,
        "internetprotocol": "IPv4",
        "specifyasnumber": False,
        "hasannotations": False,
    }


_BASIC = "Dhcp UserData Dns"
_NAT = f"StaticNat {_BASIC} Lb Vpn SourceNat PortForwarding"
NETWORK_OFFERINGS: list[Rendered] = [
    _network_offering(
        "64cf186d-cd4f-4b43-9c61-c6990a8487c5",
        SHARED_WITH_GROUPS,
        "Offering for Shared Security group enabled networks",
        "Shared",
        f"{_BASIC} SecurityGroup",
        vlan=True,
    ),
    _network_offering(
        "4f890f38-5311-4943-aaac-a9eb21caa0ad",
        "DefaultSharedNetworkOffering",
        "Offering for Shared networks",
        "Shared",
        _BASIC,
        vlan=True,
    ),
    _network_offering(
        "d4ff4c30-70d2-49ad-ba86-348b5aeaef0c",
        ISOLATED,
        "Offering for Isolated networks with Source Nat service enabled",
        "Isolated",
        f"{_NAT} Firewall",
    ),
    _network_offering(
        "79fe0679-680e-4a9c-9e21-9ddd97ae9ab8",
        "DefaultIsolatedNetworkOffering",
        "Offering for Isolated networks with no Source Nat service",
        "Isolated",
        _BASIC,
        vlan=True,
    ),
    _network_offering(
        "7fe4458b-0173-4682-b3fe-764dc1b2727d",
        "DefaultIsolatedNetworkOfferingForVpcNetworks",
        "Offering for Isolated Vpc networks with Source Nat service enabled",
        "Isolated",
        f"{_NAT} NetworkACL",
        vpc=True,
    ),
]
NETWORK_OFFERINGS_BY_NAME: dict[str, Rendered] = {item["name"]: item for item in NETWORK_OFFERINGS}
NETWORK_OFFERINGS_BY_ID: dict[str, Rendered] = {item["id"]: item for item in NETWORK_OFFERINGS}


@command("listNetworkOfferings")
def list_network_offerings(call: Call) -> Listing:
    call.row(Zone, "zoneid")
    _known_id(call, NETWORK_OFFERINGS_BY_ID)
    items = _name_filter(call, NETWORK_OFFERINGS)
    for key in ("state", "guestiptype", "traffictype", "availability"):
        if wanted := call.text(key).lower():
            items = [item for item in items if item[key].lower() == wanted]
    for key in ("forvpc", "isdefault", "specifyvlan"):
        if key in call.parameters:
            items = [item for item in items if item[key] == call.flag(key)]
    if services := {service.lower() for service in call.items("supportedservices")}:
        items = [item for item in items if services <= {service["name"].lower() for service in item["service"]}]
    return Listing(items)


_VPC_OFFERINGS: list[Rendered] = [
    {
        "id": "c54c31f3-0fc8-4fc8-a7bf-7df9438e8f94",
        "name": "Default VPC offering",
        "displaytext": "Default VPC offering",
        "created": _SETUP,
        "isdefault": True,
        "state": "Enabled",
        "service": [_service(name, "VpcVirtualRouter", False) for name in (*_NAT.split(), "NetworkACL")],
        "distributedvpcrouter": False,
        "supportsregionLevelvpc": False,
        "fornsx": False,
        "internetprotocol": "IPv4",
        "specifyasnumber": False,
    }
]


@command("listVPCOfferings")
def list_vpc_offerings(call: Call) -> Listing:
    _known_id(call, (item["id"] for item in _VPC_OFFERINGS))
    return Listing(_name_filter(call, _VPC_OFFERINGS))


@command("listCapabilities")
def list_capabilities(call: Call) -> Rendered:
    settings = call.world.settings
    return {
        "capability": {
            "securitygroupsenabled": any(zone.security_groups for zone in call.world.all(Zone)),
            "dynamicrolesenabled": True,
            "cloudstackversion": settings.version,
            "userpublictemplateenabled": settings.public_templates,
            "supportELB": "false",
            "projectinviterequired": False,
            "allowusercreateprojects": True,
            "customdiskofferingminsize": 1,
            "customdiskofferingmaxsize": 1024,
            "regionsecondaryenabled": False,
            "kvmsnapshotenabled": True,
            "allowuserviewdestroyedvm": call.is_admin or settings.view_destroyed,
            "allowuserexpungerecovervm": call.is_admin or settings.user_may_expunge,
            "allowuserexpungerecovervolume": True,
            "allowuserviewalldomainaccounts": False,
            "allowuserforcestopvm": True,
            "kubernetesserviceenabled": False,
            "kubernetesclusterexperimentalfeaturesenabled": False,
            "customhypervisordisplayname": "Custom",
            "defaultuipagesize": 20,
            "instancesstatsretentiontime": 720,
            "instancesstatsuseronly": False,
            "instancesdisksstatsretentionenabled": False,
            "instancesdisksstatsretentiontime": 720,
            "sharedfsvmmincpucount": 2,
            "sharedfsvmminramsize": 1024,
            "instanceleaseenabled": False,
            "dynamicscalingenabled": True,
            "additionalconfigenabled": False,
        }
    }
