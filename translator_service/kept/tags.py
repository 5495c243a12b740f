"""GCE data in CloudStack's resource tags: names and labels of disks and addresses.

Values are written as those of VM details are (see details.py), in chunks of at most 255 characters, the limit of a tag.
"""

from __future__ import annotations

from translator_service.cloudstack.rows import Row
from translator_service.kept import details

NAME = "gce-name"
LABELS = "gce-labels"
EPHEMERAL = "gce-ephemeral"


def of(row: Row) -> dict[str, str]:
    """The tags of a row of any list."""
    return {tag["key"]: tag.get("value", "") for tag in row.get("tags") or ()}


def labels(row: Row) -> dict[str, str]:
    found = details.unpack(of(row), LABELS, {})
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def question(key: str, value: str) -> dict[str, str]:
    """The parameters that filter a list by a tag. CloudStack ignores case (recordings, Surprises 39)."""
    return {"tags[0].key": key, "tags[0].value": value}
