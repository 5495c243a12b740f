"""The installation of the recordings as a simulator world: same zones, offerings, templates, accounts and ids.

Everything is taken from the recorded answers; only what no answer shows (passwords, secret keys of other accounts) is
made up.
"""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from simulator import cloud
from simulator.world import PublicAddress, Settings, VirtualMachine, World

RECORDINGS = Path(__file__).parent.parent / "recordings"
START = datetime(2026, 11, 22, 23, 49, 49, tzinfo=UTC).timestamp()  # the time of b-errors, whose requests carry dates

ZONE = "a4fe2e11-8416-4893-91e3-56fee3ef9cfa"
SG_ZONE = "1e841edf-3cdf-440c-9133-6ebfdb8373da"
PROJECT = "24ca5cc2-1557-4a4c-ad7f-09813c58d858"
DOMAIN = "6e83d43d-7fa6-4ae0-bab8-9ff7e5566437"
NET_A = "b5441097-5695-472f-992f-9c3d5d7ad05f"
FIRST_VM_NUMBER = 5  # the system VMs came first

PUBLIC_ADDRESSES = {"public_range": "192.168.2.0/24", "public_addresses": "192.168.2.4-192.168.2.200"}

# account -> (api key, secret key)
KEYS = {
    "user": ("USER-APIKEY", "USER-SECRETKEY"),
    "mallory": ("MALLORY-APIKEY", "MALLORY-SECRETKEY"),
    "admin": ("ADMIN-APIKEY", "ADMIN-SECRETKEY"),
}
# listResourceLimits' resourcetypename -> the simulator's name of the limit
_LIMITS = {
    "user_vm": "vm",
    "public_ip": "ip",
    "primary_storage": "primarystorage",
    "secondary_storage": "secondarystorage",
    "backup_storage": "backupstorage",
    "object_storage": "objectstorage",
}

# Of another installation, set up alike: what it calls what this one has.
OTHER_NAMES = {
    "u": (
        ('"username": "rec-u3"', '"username": "ian"'),
        ("rec-u3", "ian@example.org"),
        ("rec-u4", "mallory"),
        ('"as": "other"', '"as": "mallory"'),
    )
}


@cache
def recording(name: str) -> list[dict[str, Any]]:
    """The exchanges of the file whose name starts with `name-`."""
    (path,) = RECORDINGS.glob(f"{name}-*.json")
    text = path.read_text()
    for theirs, ours in OTHER_NAMES.get(name, ()):
        text = text.replace(theirs, ours)
    exchanges: list[dict[str, Any]] = json.loads(text)["exchanges"]
    return exchanges


def _rows(exchange: str, item: str) -> list[dict[str, Any]]:
    """The rows of one list answer of a-catalog."""
    for entry in recording("a"):
        if entry["name"] == exchange:
            (body,) = entry["body"].values()
            rows: list[dict[str, Any]] = body[item]
            return rows
    raise KeyError(exchange)


class Clock:
    """A clock that only moves when told."""

    def __init__(self, now: float = START):
        self.now = now

    def __call__(self) -> float:
        return self.now


def description(with_net_a: bool = True) -> dict[str, Any]:
    """The installation in the form of a cloud file."""
    account = _rows("listAccounts", "account")[0]
    person = account["user"][0]
    project = _rows("listProjects", "project")[0]
    networks = {row["name"]: row for row in _rows("listNetworks", "network")}
    shared = networks["Shared SG enabled network"]
    limits = {
        _LIMITS.get(row["resourcetypename"], row["resourcetypename"]): row["max"]
        for row in _rows("listResourceLimits", "resourcelimit")
    }
    project_limits = {key.removesuffix("limit"): int(value) for key, value in project.items() if key.endswith("limit")}
    templates = _rows("listTemplates executable showunique", "template")
    return {
        "seed": 1,
        "root_domain_id": templates[0]["domainid"],
        "settings": {
            "job_seconds": {"": 1.0, "registerTemplate": 0.0},
            "version": "4.22.0.0-SNAPSHOT",
            "max_body": 200_000,
        },
        "zone": [
            {
                "id": row["id"],
                "name": row["name"],
                "security_groups": row["securitygroupsenabled"],
                "guest_cidr": "10.1.1.0/24",
                "domain_suffix": "sandbox.simulator",
                **({} if row["securitygroupsenabled"] else PUBLIC_ADDRESSES),
            }
            for row in _rows("listZones", "zone")
        ],
        "service_offering": [
            {
                "id": row["id"],
                "name": row["name"],
                "display_text": row["displaytext"],
                "cpu_number": row.get("cpunumber"),
                "cpu_speed": row.get("cpuspeed"),
                "memory": row.get("memory"),
                "customized": row["iscustomized"],
                "details": row.get("serviceofferingdetails", {}),
                "offer_ha": row["offerha"],
                "fits_nowhere": row["name"] == "Huge",
                "gpu_display": row.get("gpudisplay"),
            }
            for row in _rows("listServiceOfferings", "serviceoffering")
        ],
        "disk_offering": [
            {
                "id": row["id"],
                "name": row["name"],
                "display_text": row["displaytext"],
                "size": row["disksize"],
                "customized": row["iscustomized"],
            }
            for row in _rows("listDiskOfferings", "diskoffering")
        ],
        "template": [
            {
                "id": row["id"],
                "name": row["name"],
                "display_text": row["displaytext"],
                "size_gb": row["size"] / cloud.GIB,
                "account": row["account"],
                "public": row["ispublic"],
                "featured": row["isfeatured"],
                "format": row["format"],
                "type": row["templatetype"],
                "os": row["ostypename"],
                "os_id": row["ostypeid"],
                "password_enabled": row["passwordenabled"],
                "dynamically_scalable": row["isdynamicallyscalable"],
            }
            for row in templates
        ],
        "account": [
            {
                "name": "admin",
                "role": "Root Admin",
                "user": [_person("admin", "admin", "password")],
            },
            {
                "id": account["id"],
                "name": account["name"],
                "domain": account["domainpath"],
                "domain_id": account["domainid"],
                "limits": limits,
                "user": [
                    _person("user", "ian", "ians-password")
                    | {"id": person["id"], "first_name": person["firstname"], "last_name": person["lastname"]}
                ],
            },
            {
                "id": "bd508f12-ace0-43a2-8a0f-f515a00a1634",
                "name": "mallory",
                "domain": account["domainpath"],
                "limits": limits | {"vm": 2, "volume": 3, "ip": 2, "cpu": 20},
                "user": [
                    _person("mallory", "mallory", "mallorys-password") | {"id": "16a60869-ad75-4247-bafd-53df18602bb4"}
                ],
            },
        ],
        "project": [
            {
                "id": project["id"],
                "name": project["name"],
                "display_text": project["displaytext"],
                "owner": account["name"],
                "limits": project_limits,
            }
        ],
        "network": [
            *([_network(networks["net-a"]) | {"account": account["name"]}] if with_net_a else []),
            _network(shared),
        ],
    }


def _person(key: str, name: str, password: str) -> dict[str, Any]:
    return {"name": name, "password": password, "api_key": KEYS[key][0], "secret_key": KEYS[key][1]}


def _network(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "display_text": row["displaytext"],
        "zone": row["zonename"],
        "cidr": row["cidr"],
        "gateway": row["gateway"],
    }


def build(with_net_a: bool = True) -> tuple[World, Clock]:
    """A fresh world with a clock that stands still."""
    clock = Clock()
    description_ = description(with_net_a)
    world = World(Settings(**description_["settings"]), clock=clock, seed=description_["seed"])
    cloud.build(description_, world)
    world._counters[VirtualMachine] = itertools.count(FIRST_VM_NUMBER)
    return world, clock


def public_address_ids() -> dict[str, str]:
    """Recorded uuids of public addresses by address."""
    found: dict[str, str] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "forvirtualnetwork" in value and "ipaddress" in value:
                found[value["ipaddress"]] = value["id"]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    for name in ("f", "l"):
        for entry in recording(name):
            walk(entry["body"])
    return found


def known_ids(world: World) -> dict[str, str]:
    """Recorded -> simulated ids of things that an answer did not name before a request does."""
    addresses = public_address_ids()
    return {addresses[row.address]: row.id for row in world.all(PublicAddress) if row.address in addresses}
