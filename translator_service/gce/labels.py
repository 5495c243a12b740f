"""Labels and network tags: GCE's rules for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gstack.kernel.errors import invalid
from translator_service.gce import naming
from translator_service.gce.fingerprints import fingerprint

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


def label_fingerprint(labels: Mapping[str, str]) -> bytes:
    return fingerprint("labels", *(part for pair in sorted(labels.items()) for part in pair))


def check_labels(labels: dict[str, str], field: str) -> dict[str, str]:
    """Raises 400 for a key or value outside GCE's rules, or for more than 64."""
    if len(labels) > 64:
        raise invalid(field, f"{len(labels)} labels. At most 64 are allowed.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise invalid(f"{field}.{key}", f"'{key}'. Label keys must be a match of regex '{_LABEL_KEY.pattern}'")
        if not _LABEL_VALUE.fullmatch(value):
            raise invalid(
                f"{field}.{key}", f"'{value}'. Label values must be a match of regex '{_LABEL_VALUE.pattern}'"
            )
    return labels


def check_tags(tags: list[str], field: str) -> list[str]:
    """Raises 400 for a tag that is no name, or for more than 64."""
    if len(tags) > 64:
        raise invalid(field, f"{len(tags)} tags. At most 64 are allowed.")
    for position, tag in enumerate(tags):
        naming.check_new_name(tag, f"{field}[{position}]")
    return sorted(set(tags))
