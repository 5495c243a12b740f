"""Builds a world from a cloud file (TOML): zones, offerings, templates, accounts, keys, networks, delays."""

from __future__ import annotations

import tomllib
from importlib import resources
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from simulator import world as w
from simulator.families import catalog
from simulator.world import Settings, World

GIB = 1024**3


def read(path: str | Path | None) -> dict[str, Any]:
    """The parsed file, or the built-in demo cloud without a path."""
    if path is None:
        return tomllib.loads(resources.files("simulator").joinpath("clouds/demo.toml").read_text())
    return tomllib.loads(Path(path).read_text())


def build(cloud: dict[str, Any], world: World | None = None) -> World:
    """A world with everything the file lists. Ids are optional everywhere and made up when absent.

    Raises ValueError naming the entry when the file refers to something it does not define.
    """
    world = world or World(Settings(**cloud.get("settings", {})), seed=cloud.get("seed"))
    root = world.add(w.Domain, id=cloud.get("root_domain_id"), name="ROOT", path="ROOT")
    domains = {"ROOT": root}
    system = world.add(w.Account, name="system", domain=root, role="Root Admin")
    accounts: dict[str, w.Account] = {"system": system}
    zones: dict[str, w.Zone] = {}
    public_addresses: list[tuple[w.Zone, IPv4Address]] = []

    for entry in cloud.get("zone", []):
        public = IPv4Network(entry["public_range"]) if "public_range" in entry else None
        zone = zones[entry["name"]] = world.add(
            w.Zone,
            id=entry.get("id"),
            name=entry["name"],
            security_groups=entry.get("security_groups", False),
            guest_cidr=IPv4Network(entry.get("guest_cidr", "10.1.1.0/24")),
            public_range=public,
            domain_suffix=entry.get("domain_suffix", "cs.simulator"),
            dns=entry.get("dns", "10.147.28.6"),
        )
        public_addresses += [(zone, address) for address in _public_addresses(entry, public)]

    for entry in cloud.get("service_offering", []):
        world.add(
            w.ServiceOffering,
            id=entry.get("id"),
            name=entry["name"],
            display_text=entry.get("display_text", entry["name"]),
            cpu_number=entry.get("cpu_number"),
            cpu_speed=entry.get("cpu_speed", 1000),
            memory=entry.get("memory"),
            customized=entry.get("customized", False),
            details={key: str(value) for key, value in entry.get("details", {}).items()},
            fits_nowhere=entry.get("fits_nowhere", False),
            zone=_named(zones, entry, "zone") if "zone" in entry else None,
            offer_ha=entry.get("offer_ha", False),
            gpu_display=entry.get("gpu_display", False),
        )

    for entry in cloud.get("disk_offering", []):
        world.add(
            w.DiskOffering,
            id=entry.get("id"),
            name=entry["name"],
            display_text=entry.get("display_text", entry["name"]),
            size=entry.get("size", 0),
            customized=entry.get("customized", "size" not in entry),
            local=entry.get("local", False),
        )

    for entry in cloud.get("account", []):
        domain = domains.setdefault(entry.get("domain", "ROOT"), root)
        if domain is root and entry.get("domain", "ROOT") != "ROOT":
            name = entry["domain"]
            domain = domains[name] = world.add(
                w.Domain, id=entry.get("domain_id"), name=name.rpartition("/")[2], path=name
            )
        account = accounts[entry["name"]] = world.add(
            w.Account,
            id=entry.get("id"),
            name=entry["name"],
            domain=domain,
            role=entry.get("role", "User"),
            limits=entry.get("limits", {}),
            may_expunge=entry.get("may_expunge", True),
            denied_commands=frozenset(entry.get("denied_commands", [])),
        )
        for person in entry.get("user", []):
            world.add(
                w.User,
                id=person.get("id"),
                name=person["name"],
                password=person.get("password", ""),
                account=account,
                first_name=person.get("first_name", person["name"].title()),
                last_name=person.get("last_name", "Example"),
                email=person.get("email", f"{person['name']}@example.org"),
                api_key=person["api_key"],
                secret_key=person.get("secret_key", ""),
                two_factor=person.get("two_factor", False),
            )
        if not account.role.endswith("Admin"):
            world.add(w.SecurityGroup, name="default", description="Default Security Group", account=account)

    for entry in cloud.get("project", []):
        owner = _named(accounts, entry, "owner")
        hidden = world.add(
            w.Account,
            name=f"PrjAcct-{entry['name']}-{owner.domain.number}",
            domain=owner.domain,
            limits=entry.get("limits", {}),
        )
        project = world.add(
            w.Project,
            id=entry.get("id"),
            name=entry["name"],
            display_text=entry.get("display_text", entry["name"]),
            account=hidden,
            owner=owner,
            members=[accounts[name] for name in entry.get("members", [])],
        )
        hidden.project = project
        world.add(w.SecurityGroup, name="default", description="Default Security Group", account=hidden)

    for entry in cloud.get("template", []):
        os_name = entry.get("os", "Other Linux (64-bit)")
        world.add(
            w.Template,
            id=entry.get("id"),
            name=entry["name"],
            display_text=entry.get("display_text", entry["name"]),
            size=int(entry.get("size_gb", 10) * GIB),
            account=accounts[entry.get("account", "system")],
            public=entry.get("public", True),
            featured=entry.get("featured", True),
            ready=entry.get("ready", True),
            format=entry.get("format", "QCOW2"),
            type=entry.get("type", "USER"),
            os_name=os_name,
            os_id=entry.get("os_id") or catalog.os_type_id(os_name),
            password_enabled=entry.get("password_enabled", False),
            dynamically_scalable=entry.get("dynamically_scalable", True),
            zones=[zones[name] for name in entry.get("zones", [])],
        )

    for entry in cloud.get("network", []):
        zone = _named(zones, entry, "zone")
        owner_name = entry.get("account")
        offering = catalog.NETWORK_OFFERINGS_BY_NAME[catalog.ISOLATED if owner_name else catalog.SHARED_WITH_GROUPS]
        cidr = IPv4Network(entry.get("cidr", str(zone.guest_cidr)))
        world.add(
            w.Network,
            id=entry.get("id"),
            name=entry["name"],
            display_text=entry.get("display_text", entry["name"]),
            zone=zone,
            type="Isolated" if owner_name else "Shared",
            cidr=cidr,
            gateway=entry.get("gateway", str(cidr.network_address + 1)),
            account=_named(accounts, entry, "account") if owner_name else None,
            state="Allocated" if owner_name else "Setup",
            offering_name=offering["name"],
            offering_id=offering["id"],
            egress_default_allow=entry.get("egress_default_allow", False),
            vlan=entry.get("vlan", 100),
        )

    for zone, address in public_addresses:
        world.add(w.PublicAddress, address=str(address), zone=zone, state="Free")
    return world


def _public_addresses(zone: dict[str, Any], network: IPv4Network | None) -> list[IPv4Address]:
    """The addresses that accounts can get: `public_addresses = "first-last"`, or all of the range but its gateway."""
    if network is None:
        return []
    if "public_addresses" not in zone:
        return list(network.hosts())[1:]
    first, last = (int(IPv4Address(address.strip())) for address in zone["public_addresses"].split("-"))
    return [IPv4Address(number) for number in range(first, last + 1)]


def _named(known: dict[str, Any], entry: dict[str, Any], key: str) -> Any:
    try:
        return known[entry[key]]
    except KeyError:
        raise ValueError(f"{entry.get('name')}: {key} {entry.get(key)!r} is not defined in the cloud file") from None
