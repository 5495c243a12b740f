"""The metadata of an instance, in its details or, when it is large, in the store; and the user data made of it."""

from __future__ import annotations

import uuid
from typing import Any

from gstack.compute.v1 import instances_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.gce.fingerprints import fingerprint
from translator_service.kept import details as kept
from translator_service.kept import userdata
from translator_service.resources.projects import common_metadata
from translator_service.scope import Scope

_LARGE_METADATA = 16_000
_DOCUMENTS = "instance-metadata"
DOCUMENT = "$document"


def document_of(row: Row) -> str:
    """Name of the document that holds large metadata, "" when the details hold them."""
    return str(kept.unpack(row.get("details") or {}, kept.METADATA, {}).get(DOCUMENT, ""))


def metadata_items(scope: Scope, row: Row) -> dict[str, str]:
    """The items; large ones are in the store, and the details say under which name."""
    found = kept.unpack(row.get("details") or {}, kept.METADATA, {})
    if document := document_of(row):
        found = kept.decode((scope.store.document(scope.project.key, _DOCUMENTS, document) or b"").decode(), {})
    return {str(key): str(value) for key, value in found.items()}


def metadata_of(scope: Scope, row: Row) -> Any:
    metadata = pb.Instance().metadata
    metadata.kind = "compute#metadata"
    items = metadata_items(scope, row)
    for key, value in items.items():
        metadata.items.add(key=key, value=value)
    metadata.fingerprint = fingerprint("metadata", *(part for pair in sorted(items.items()) for part in pair))
    return metadata


def user_data(scope: Scope, items: dict[str, str]) -> str:
    """User data of an instance with these items in this project."""
    common = {item.key: item.value for item in common_metadata(scope).items}
    return userdata.user_data(items, common)


def keep_metadata(scope: Scope, items: dict[str, str]) -> dict[str, str]:
    """What to put into the details: the items, or where in the store they are when they are large.

    A machine whose details exceed 64 kB has job results that can never be read (recordings, Surprises 4).
    """
    if len(kept.encode(items)) <= _LARGE_METADATA:
        return items
    document = str(uuid.uuid4())
    scope.store.put_document(scope.project.key, _DOCUMENTS, document, kept.encode(items).encode(), expected=None)
    return {DOCUMENT: document}


def forget_metadata(scope: Scope, document: str) -> None:
    """Large metadata that no machine has any more. document: its name, "" for none."""
    if document:
        scope.store.delete_document(scope.project.key, _DOCUMENTS, document)
