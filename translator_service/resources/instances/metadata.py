"""The metadata of an instance, in its details or, when it is large, in the store; and the user data made of it."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gstack.compute.v1 import instances_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.kept import details as kept
from translator_service.kept import userdata
from translator_service.kept.ssh_keys import all_ssh_keys
from translator_service.resources.common_metadata import common_items, metadata_fingerprint
from translator_service.scope import Scope

_LARGE_METADATA = 16_000
# CloudStack takes no user data for "unchanged".
_NOTHING_TO_DO = base64.b64encode(b"#cloud-config\n{}\n").decode()
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
    metadata.fingerprint = metadata_fingerprint(items)
    return metadata


def user_data(scope: Scope, items: dict[str, str]) -> str:
    """User data of a new instance with these items in this project. Raises 400."""
    common = common_items(scope)
    return userdata.user_data(items, common, limit=scope.environment.settings.cloudstack_user_data, now=time.time())


def changed_user_data(scope: Scope, items: dict[str, str], row: Row, *, is_there: bool) -> str | None:
    """User data of an instance that gets these items now; None for unchanged. Raises 400.

    is_there: whether CloudStack shows the instance yet.
    """
    common, now = common_items(scope), time.time()
    had = had_ours = False
    if not userdata.has_ours(items, common, now):
        if is_there:
            answer = scope.client.read("getVirtualMachineUserData", virtualmachineid=row["id"]).one()
            text = str(answer.get("userdata", ""))
            had, had_ours = bool(text), userdata.holds_ours(text)
        else:
            before = metadata_items(scope, row)
            had_ours = userdata.has_ours(before, common, now)
            had = had_ours or "user-data" in {**common, **before}
    limit = scope.environment.settings.cloudstack_user_data
    data = userdata.user_data(items, common, limit=limit, now=now, field="resource", had_ours=had_ours)
    return data or (_NOTHING_TO_DO if had else None)


def registrable_keys(scope: Scope, items: dict[str, str]) -> list[str]:
    """The public keys that may be key pairs in CloudStack, which stay for good."""
    keys = all_ssh_keys(items, common_items(scope), time.time())
    return [key.public_key for key in keys if key.is_registrable]


@contextmanager
def keep_metadata(scope: Scope, items: dict[str, str]) -> Iterator[dict[str, str]]:
    """What to put into the details: the items, or where in the store they are when they are large.

    A machine whose details exceed 64 kB has job results that can never be read (recordings, Surprises 4). Within it the
    operation is submitted: when that is refused nothing is kept.
    """
    if len(kept.encode(items)) <= _LARGE_METADATA:
        yield items
        return
    document = str(uuid.uuid4())
    scope.store.put_document(scope.project.key, _DOCUMENTS, document, kept.encode(items).encode(), expected=None)
    try:
        yield {DOCUMENT: document}
    except Exception:
        forget_metadata(scope, document)
        raise


def forget_metadata(scope: Scope, document: str) -> None:
    """Large metadata that no machine has any more. document: its name, "" for none."""
    if document:
        scope.store.delete_document(scope.project.key, _DOCUMENTS, document)
