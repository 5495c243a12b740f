"""Labels and network tags: GCE's rules for them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from gstack.kernel.errors import invalid
from translator_service.gce import naming
from translator_service.gce.fingerprints import fingerprint

# As GCE tells its rules: letters of any language that are not upper case. Compiled, they would take 16 MB.
_LABEL_KEY = r"[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}"
_LABEL_VALUE = r"[\p{Ll}\p{Lo}\p{N}_-]{0,63}"
_LETTERS = {"Ll", "Lo"}
_CHARACTERS = _LETTERS | {"Nd", "Nl", "No"}
_LONGEST = 63
_MOST = 64
_MOST_BYTES = 128


def label_fingerprint(labels: Mapping[str, str]) -> bytes:
    return fingerprint("labels", *(part for pair in sorted(labels.items()) for part in pair))


def check_labels(labels: dict[str, str], field: str) -> dict[str, str]:
    """Raises 400 for a key or value outside GCE's rules, or for more than 64."""
    if len(labels) > _MOST:
        raise invalid(field, f"{len(labels)} labels. At most {_MOST} are allowed.")
    for key, value in labels.items():
        for what, text, pattern in (("keys", key, _LABEL_KEY), ("values", value, _LABEL_VALUE)):
            if not (_is_value(text) and (what == "values" or _is_key(text))):
                raise invalid(f"{field}.{key}", f"'{text}'. Label {what} must be a match of regex '{pattern}'")
            if len(text.encode()) > _MOST_BYTES:
                raise invalid(f"{field}.{key}", f"'{text}'. Label {what} are at most {_MOST_BYTES} bytes in UTF-8.")
    return labels


def _is_value(text: str) -> bool:
    return len(text) <= _LONGEST and all(one in "_-" or unicodedata.category(one) in _CHARACTERS for one in text)


def _is_key(text: str) -> bool:
    return text != "" and unicodedata.category(text[0]) in _LETTERS


def check_tags(tags: list[str], field: str) -> list[str]:
    """Raises 400 for a tag that is no name, or for more than 64."""
    if len(tags) > _MOST:
        raise invalid(field, f"{len(tags)} tags. At most {_MOST} are allowed.")
    for position, tag in enumerate(tags):
        naming.check_new_name(tag, f"{field}[{position}]")
    return sorted(set(tags))
