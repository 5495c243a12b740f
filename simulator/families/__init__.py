"""The commands, one module a family of CloudStack objects."""

from importlib import import_module

FAMILIES = ("jobs", "accounts", "catalog", "instances", "volumes", "networks", "addresses", "security_groups", "tags")


def load() -> None:
    """Register every family's commands."""
    for family in FAMILIES:
        import_module(f"simulator.families.{family}")
