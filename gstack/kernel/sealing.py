"""AES-256-GCM with keys from files: sealed credentials between auth and translators, and keys at rest.

A sealed value is `nonce (12 bytes) || ciphertext || tag`. The purpose is bound as associated data, so a value sealed
for one use or row does not open for another.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12

# What auth and translators seal for each other: a principal's credential, and what auth asks the Identity service.
CREDENTIAL = "credential"
IDENTITY = "identity"


class SealError(Exception):
    """A value that this key does not open: another key, another purpose, or changed bytes."""


class KeyFileError(Exception):
    """A key file that is missing, readable by others, or not 32 base64 bytes; the text says what to do."""


class Sealer:
    def __init__(self, key: bytes):
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, plaintext, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Raises SealError."""
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], purpose.encode())
        except (InvalidTag, ValueError):
            raise SealError("sealed value does not open with this key") from None


def create_key(path: Path) -> None:
    """Write a new random key, mode 0600, unless the file exists."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(os.urandom(32)) + b"\n")


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file. Raises KeyFileError."""
    try:
        mode = path.stat().st_mode & 0o077
        text = path.read_bytes().strip()
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; `gstack up` makes one for this machine") from None
    if mode & 0o007:
        raise KeyFileError(f"key file {path} is open to everybody; set mode 0600 or 0640")
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise KeyFileError(f"key file {path} must hold 32 bytes in base64")
    return key
