"""The commands, one module a family of CloudStack objects."""

from importlib import import_module
from importlib.util import find_spec

FAMILIES = ("jobs", "accounts", "catalog", "ssh_keys", "instances", "instance_updates", "nics", "volumes", "networks", "addresses", "security_groups", "tags")


def load() -> None:
    """Register every family's commands."""
    for family in FAMILIES:
        if find_spec(f"simulator.families.{family}") is None:  # XXX until all families are written
            continue
        import_module(f"simulator.families.{family}")
