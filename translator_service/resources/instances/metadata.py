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
from translator_service.resources.images import templates
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


def user_data(scope: Scope, items: dict[str, str], template: str) -> str:
    """User data of a new instance with these items in this project. template: CloudStack's id. Raises 400.

    Our script is in it also where nothing asks for it yet, so that a key that comes later reaches the guest.
    """
    now = time.time()
    common, installs = _of_project(scope, items, {"templateid": template}, now)
    return userdata.user_data(items, common, limit=_limit(scope), now=now, had_ours=installs)


def changed_user_data(scope: Scope, items: dict[str, str], row: Row, *, is_there: bool) -> str | None:
    """User data of an instance that gets these items now; None for unchanged. Raises 400.

    is_there: whether CloudStack shows the instance yet.
    """
    now = time.time()
    common, installs = _of_project(scope, items, row, now)
    had = had_ours = installs and is_ours(row)
    if not had_ours and not userdata.has_ours(items, common, now):
        if is_there:
            answer = scope.client.read("getVirtualMachineUserData", virtualmachineid=row["id"]).one()
            text = str(answer.get("userdata", ""))
            had, had_ours = bool(text), userdata.holds_ours(text)
        else:
            before = metadata_items(scope, row)
            had_ours = userdata.has_ours(before, common, now) or not before.get("user-data")
            had = had_ours or "user-data" in {**common, **before}
    data = userdata.user_data(items, common, limit=_limit(scope), now=now, field="resource", had_ours=had_ours)
    return data or (_NOTHING_TO_DO if had else None)


def is_ours(row: Row) -> bool:
    """Whether gstack made the machine: the user data of others may be what somebody wrote elsewhere."""
    return kept.DISK in (row.get("details") or {})


def project_state(scope: Scope) -> str:
    """What of the project's metadata is for guests, as a hash: while it is the same there is nothing to tell them."""
    return metadata_fingerprint(userdata.for_guests(common_items(scope))).hex()


def _limit(scope: Scope) -> int:
    return scope.environment.settings.cloudstack_user_data


def _of_project(scope: Scope, items: dict[str, str], row: Row, now: float) -> tuple[dict[str, str], bool]:
    """(the project's metadata as far as it is for this guest, whether our script is for it in any case).

    A guest that takes no script gets one only when its own metadata asks for it: the project's is for others.
    """
    common = common_items(scope)
    takes_script = _takes_script(scope, row)
    if not takes_script and not userdata.has_ours(items, {}, now):
        common = {key: text for key, text in common.items() if key.startswith("user-data")}
    return common, takes_script and not (items.get("user-data") or common.get("user-data"))


def _takes_script(scope: Scope, row: Row) -> bool:
    """Told by the names of the template and of its system."""
    names = (row.get("templatename", ""), row.get("osdisplayname", ""))
    if not any(names):
        template = scope.catalog(templates.kind(scope)).index.find(row.get("templateid", "")) or {}
        names = (template.get("name", ""), template.get("ostypename", ""))
    text = " ".join(names).lower()
    words = scope.environment.settings.guest_without_script.lower().split(",")
    return not any(word.strip() in text for word in words if word.strip())


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
