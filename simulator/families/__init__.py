"""The commands, one module a family of CloudStack objects."""

from importlib import import_module

FAMILIES = (
    "jobs", "accounts", "catalog", "templates", "ssh_keys", "instances", "instance_updates", "nics", "volumes",
    "snapshots", "networks", "addresses", "firewall", "security_groups", "tags",
)  # fmt: skip


def load() -> None:
    """Register every family's commands."""
    for family in FAMILIES:
        import_module(f"simulator.families.{family}")
