"""GCE data in CloudStack's VM details and resource tags.

Values are base64url(JSON) without padding: CloudStack un-escapes `\\uXXXX`, truncates and compares as it likes, and
leaves only plain ASCII alone. A detail holds at most 5120 characters, so longer values are cut into `key`, `key.1`, ...
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

_CHUNK = 5000
# Details that a user may not send back; CloudStack keeps them by itself (recordings, Surprises 16).
_DENIED = (
    "rootdisksize",
    "cpuOvercommitRatio",
    "memoryOvercommitRatio",
    "Message.ReservedCapacityFreed.Flag",
    "deployvm",
)

# What the keys of ours begin with.
PREFIX = "gce."
TAGS = "gce.tags"
LABELS = "gce.labels"
METADATA = "gce.metadata"
CONFIG = "gce.config"
DISK = "gce.disk"
DISKS = "gce.disks"
NAME = "gce.name"


def encode(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def decode(text: str, default: Any) -> Any:
    """The value, or the default for what is not ours."""
    try:
        return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        return default


def pack(key: str, value: Any, size: int = _CHUNK) -> dict[str, str]:
    """The details that hold a value; {} for an empty one. size: characters that one of them holds."""
    if not value:
        return {}
    text = encode(value)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    return {key if index == 0 else f"{key}.{index}": chunk for index, chunk in enumerate(chunks)}


def unpack(details: dict[str, str], key: str, default: Any) -> Any:
    """The value, or the default for what is missing, not ours, or of another kind: anybody may write details."""
    text = details.get(key, "")
    index = 1
    while chunk := details.get(f"{key}.{index}"):
        text += chunk
        index += 1
    value = decode(text, default) if text else default
    return value if default is None or isinstance(value, type(default)) else default


def replaced(details: dict[str, str], key: str, value: Any) -> dict[str, str]:
    """All details with one value changed, chunks of the old one gone."""
    rest = {name: text for name, text in details.items() if name != key and not is_chunk(name, key)}
    return rest | pack(key, value)


def parameters_of_update(details: dict[str, str], changes: dict[str, Any]) -> dict[str, str]:
    """The parameters of updateVirtualMachine that change some values and leave the rest of a machine's details.

    Details are replaced as a whole, so the current ones are sent back with what changes.
    """
    found = {key: text for key, text in details.items() if key not in _DENIED}
    for key, value in changes.items():
        found = replaced(found, key, value)
    return parameters(found) if found else {"cleanupdetails": "true"}


def is_chunk(name: str, key: str) -> bool:
    return name.startswith(key + ".") and name[len(key) + 1 :].isdigit()


def parameters(details: dict[str, str]) -> dict[str, str]:
    """Details as request parameters: the field name is the key (never `.key`/`.value`, which would be two details)."""
    return {f"details[0].{name}": text for name, text in details.items()}
