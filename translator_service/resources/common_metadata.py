"""Metadata as requests give it, and that of a project, which is in our store."""

from __future__ import annotations

import re

from gstack.compute.v1 import common_pb2
from gstack.kernel.errors import invalid
from translator_service.gce.fingerprints import fingerprint
from translator_service.kept import details as kept
from translator_service.kept.metadata_keys import refusal
from translator_service.scope import Scope

_DOCUMENT = "project-metadata"
_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_VALUE = 256 * 1024
_MAX_TOTAL = 512 * 1024


def stored(scope: Scope) -> bytes | None:
    """The project's metadata as it is in the store, None for none."""
    return scope.store.document(scope.project.key, _DOCUMENT, "")


def store(scope: Scope, items: dict[str, str], *, expected: bytes | None) -> bool:
    """Replace the project's metadata if it still is `expected`; False when another writer was first."""
    content = kept.encode(items).encode()
    return content == expected or scope.store.put_document(scope.project.key, _DOCUMENT, "", content, expected)


def items_of(raw: bytes | None) -> dict[str, str]:
    return kept.decode(raw.decode(), {}) if raw else {}


def common_items(scope: Scope) -> dict[str, str]:
    """What all instances of the project see."""
    return items_of(stored(scope))


def metadata_fingerprint(items: dict[str, str]) -> bytes:
    return fingerprint("metadata", *(part for pair in sorted(items.items()) for part in pair))


def common_metadata(scope: Scope) -> common_pb2.Metadata:
    """The same as a message."""
    items = common_items(scope)
    metadata = common_pb2.Metadata(kind="compute#metadata", fingerprint=metadata_fingerprint(items))
    for key, value in items.items():
        metadata.items.add(key=key, value=value)
    return metadata


def check_metadata(metadata: common_pb2.Metadata, field: str) -> dict[str, str]:
    """The items of a request. Raises 400 for a bad or repeated key, for too much, and for what is not supported."""
    found: dict[str, str] = {}
    for position, item in enumerate(metadata.items):
        place = f"{field}.items[{position}]"
        if not _KEY.fullmatch(item.key):
            raise invalid(f"{place}.key", f"'{item.key}'. Metadata keys must be a match of regex '{_KEY.pattern}'")
        if item.key in found:
            raise invalid(f"{place}.key", f"'{item.key}'. Metadata has duplicate key: {item.key}")
        if len(item.value.encode()) > _MAX_VALUE:
            raise invalid(f"{place}.value", f"'{item.key}'. Metadata values may have at most {_MAX_VALUE} bytes.")
        if why := refusal(item.key, item.value):
            raise invalid(f"{place}.value", f"'{item.key}'. {why}")
        found[item.key] = item.value
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > _MAX_TOTAL:
        raise invalid(f"{field}.items", f"Metadata may have at most {_MAX_TOTAL} bytes in total.")
    return found
