"""GCE data in CloudStack's resource tags: names and labels of disks, snapshots, images and addresses, and what else is
kept of them.

Values are written as those of VM details are (see details.py), in chunks of at most 255 characters, the limit of a tag.
"""

from __future__ import annotations

from typing import Any

from translator_service.cloudstack.rows import Row
from translator_service.kept import details

_CHUNK = 255

NAME = "gce-name"
# What is kept of a disk, a snapshot or an image that CloudStack has no field for: a JSON object of a tag each.
DISK = "gce-disk"
SNAPSHOT = "gce-snapshot"
IMAGE = "gce-image"
LABELS = "gce-labels"
EPHEMERAL = "gce-ephemeral"


def of(row: Row) -> dict[str, str]:
    """The tags of a row of any list."""
    return {tag["key"]: tag.get("value", "") for tag in row.get("tags") or ()}


def labels(row: Row) -> dict[str, str]:
    found = details.unpack(of(row), LABELS, {})
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def pack(key: str, value: Any) -> dict[str, str]:
    """The tags that hold a value; {} for an empty one."""
    return details.pack(key, value, _CHUNK)


def is_part(name: str, key: str) -> bool:
    """Whether a tag holds a value of this key, or a chunk of it."""
    return name == key or details.is_chunk(name, key)


def parameters(tags: dict[str, str]) -> dict[str, str]:
    """Tags as request parameters of createTags."""
    found: dict[str, str] = {}
    for index, (key, value) in enumerate(tags.items()):
        found |= {f"tags[{index}].key": key, f"tags[{index}].value": value}
    return found


def question(key: str, value: str) -> dict[str, str]:
    """The parameters that filter a list by a tag. CloudStack ignores case (recordings, Surprises 39)."""
    return {"tags[0].key": key, "tags[0].value": value}
