"""Fingerprints: hashes of content, for optimistic locking. The same content has the same fingerprint everywhere."""

from __future__ import annotations

import hashlib

import orjson

from gstack.kernel.errors import ApiError


def fingerprint(*parts: str) -> bytes:
    return hashlib.sha256(orjson.dumps(parts)).digest()[:8]


def check(sent: bytes, current: bytes, what: str = "metadata") -> None:
    """Raise 412 for a fingerprint of older content; none at all passes. Terraform knows exactly this text."""
    if sent and sent != current:
        text = f"Supplied fingerprint does not match current {what} fingerprint."
        raise ApiError(412, text, "conditionNotMet")
