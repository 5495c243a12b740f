"""AES-256-GCM under rings of keys in files: sealed values between auth and translators, and records at rest.

A sealed value is `key id (4 bytes) || nonce (12) || ciphertext || tag (16)`. A sealed record is enveloped: `key id ||
nonce || wrapped data key (48) || nonce || ciphertext || tag`, so that another key of the ring takes it over without
touching what is inside. The purpose is bound as associated data: a value sealed for one use or row does not open for
another.

A ring file has one key a line, `<state> <base64 of 32 bytes> <day it was made, YYYY-MM-DD>`. `primary` (exactly one)
seals; `staged` keys are known to all replicas before they become primary; `secondary` ones still open what they sealed.
A file that is only one base64 key is a ring of that primary key.

Sealed messages are JSON objects that have an end, so that a stolen one is worth little.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import orjson
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = structlog.get_logger()

State = Literal["primary", "staged", "secondary"]

_ID = 4
_NONCE = 12
_KEY = 32
_WRAPPED = _NONCE + _KEY + 16
_LOOK_SECONDS = 5.0
_LOOK_SECONDS_UNKNOWN = 1.0

# What auth and translators seal for each other: a principal's credential, and what auth asks the Identity service.
CREDENTIAL = "credential"
IDENTITY = "identity"


class SealError(Exception):
    """A value that no key of the ring opens: another key, another purpose, or changed bytes."""


class KeyFileError(Exception):
    """A ring file that is missing, open to others, or not a ring; the text says what to do."""


@dataclass(frozen=True)
class Key:
    state: State
    secret: bytes = field(repr=False)
    made: datetime.date | None = None

    @property
    def id(self) -> str:
        """8 hex digits, which say nothing about the key."""
        return hashlib.sha256(b"gstack key id" + self.secret).hexdigest()[: 2 * _ID]


def key_id_of(sealed: bytes) -> str:
    """Id of the key that a sealed value or record was sealed with."""
    return sealed[:_ID].hex()


class _Ring:
    """What one reading of the file gave; never changed, so threads share it without a lock."""

    def __init__(self, keys: Sequence[Key]):
        self.keys = sorted(keys, key=lambda key: key.state != "primary")
        self.by_id = {bytes.fromhex(key.id): AESGCM(key.secret) for key in self.keys}
        self.primary_id, self.primary = next(iter(self.by_id.items()))


class Keyring:
    """The keys of a file, read again when it changes, so that replicas follow a rotation without a restart.

    A file that becomes unreadable leaves the known keys in use.
    """

    def __init__(self, path: Path):
        """Raises KeyFileError."""
        self._path: Path | None = path
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        # Before it is read: what changes in between is seen at the next look.
        self._seen = _fingerprint(path)
        self._ring = _Ring(read_ring(path))

    @classmethod
    def of(cls, *keys: bytes) -> Keyring:
        """A ring without a file: the first key is primary, the others are secondary."""
        made = cls.__new__(cls)
        made._path = None
        made._ring = _Ring([Key("secondary" if number else "primary", key) for number, key in enumerate(keys)])
        return made

    @property
    def primary_id(self) -> str:
        return self._current().primary_id.hex()

    def keys(self) -> list[tuple[str, State]]:
        """(id, state), the primary first."""
        return [(key.id, key.state) for key in self._current().keys]

    def age(self) -> float:
        """Seconds since the primary key was made; of a file that does not say it, since the file was changed."""
        primary = self._current().keys[0]
        if primary.made is not None:
            return (datetime.datetime.now(datetime.UTC).date() - primary.made).total_seconds()
        try:
            return time.time() - self._path.stat().st_mtime if self._path else 0.0
        except OSError:
            return float("nan")

    def derive(self, info: bytes) -> list[bytes]:
        """A key made of each key of the ring, for one other use; that of the primary first."""
        return [hmac.digest(key.secret, info, "sha256") for key in self._current().keys]

    def seal(self, plaintext: bytes, purpose: str) -> bytes:
        ring = self._current()
        return ring.primary_id + _encrypt(ring.primary, plaintext, ring.primary_id + purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Raises SealError."""
        key_id = sealed[:_ID]
        return _decrypt(self._find(key_id), sealed[_ID:], key_id + purpose.encode())

    def seal_message(self, content: dict[str, Any], purpose: str, seconds: float) -> bytes:
        """A JSON object that opens for so many seconds; `expires` in it says until when, in seconds of the epoch."""
        return self.seal(orjson.dumps({**content, "expires": int(time.time() + seconds)}), purpose)

    def open_message(self, sealed: bytes, purpose: str) -> dict[str, Any]:
        """Raises SealError, also for one that is over or has no end."""
        content: dict[str, Any] = orjson.loads(self.open(sealed, purpose))
        expires = content.get("expires")
        if not isinstance(expires, int) or expires <= time.time():
            raise SealError("sealed message is over")
        return content

    def seal_record(self, plaintext: bytes, purpose: str) -> bytes:
        data_key = os.urandom(_KEY)
        return self._wrap(data_key, purpose) + _encrypt(AESGCM(data_key), plaintext, purpose.encode())

    def open_record(self, sealed: bytes, purpose: str) -> bytes:
        """Raises SealError."""
        data_key = self._unwrap(sealed, purpose)
        return _decrypt(AESGCM(data_key), sealed[_ID + _WRAPPED :], purpose.encode())

    def rewrap(self, sealed: bytes, purpose: str) -> bytes:
        """The record with its data key sealed by the primary key; `sealed` itself if it is. Raises SealError."""
        if key_id_of(sealed) == self.primary_id:
            return sealed
        return self._wrap(self._unwrap(sealed, purpose), purpose) + sealed[_ID + _WRAPPED :]

    def open_unnamed(self, sealed: bytes, purpose: str) -> bytes:
        """A value of the time before keys had ids, `nonce || ciphertext || tag`, by any key. Raises SealError."""
        for aead in self._current().by_id.values():
            try:
                return _decrypt(aead, sealed, purpose.encode())
            except SealError:
                continue
        raise SealError("sealed value does not open with any key of the ring")

    def _wrap(self, data_key: bytes, purpose: str) -> bytes:
        ring = self._current()
        return ring.primary_id + _encrypt(ring.primary, data_key, _wrapping(ring.primary_id, purpose))

    def _unwrap(self, sealed: bytes, purpose: str) -> bytes:
        key_id = sealed[:_ID]
        return _decrypt(self._find(key_id), sealed[_ID : _ID + _WRAPPED], _wrapping(key_id, purpose))

    def _find(self, key_id: bytes) -> AESGCM:
        for seconds in (_LOOK_SECONDS, _LOOK_SECONDS_UNKNOWN):
            found = self._current(seconds).by_id.get(key_id)
            if found is not None:
                return found
        raise SealError(f"sealed with key {key_id.hex()}, which is not in the ring")

    def _current(self, seconds: float = _LOOK_SECONDS) -> _Ring:
        """The ring, read again if the file changed, unless somebody looked less than `seconds` ago."""
        if self._path is None or time.monotonic() - self._looked < seconds:
            return self._ring
        with self._lock:
            if time.monotonic() - self._looked < seconds:
                return self._ring
            self._looked = time.monotonic()
            found = _fingerprint(self._path)
            if found != self._seen:
                self._seen = found
                try:
                    self._ring = _Ring(read_ring(self._path))
                except KeyFileError as error:
                    log.warning("keyring_unreadable", reason=str(error), kept=[key.id for key in self._ring.keys])
        return self._ring


def read_ring(path: Path) -> list[Key]:
    """The keys of a ring file in its order. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        raise KeyFileError(
            f"key file {path} is missing: run `gstack keys init`; `gstack up` makes one by itself for this machine"
        ) from None
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}; let the service's user read it") from None
    if mode & 0o007:
        raise KeyFileError(f"key file {path} is open to everybody; set mode 0600 or 0640")
    return _parse(text, path)


def _parse(text: bytes, path: Path) -> list[Key]:
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    if len(lines) == 1 and len(lines[0]) == 1:
        lines = [[b"primary", *lines[0]]]
    keys: list[Key] = []
    for line in lines:
        state = line[0].decode(errors="replace")
        if not 2 <= len(line) <= 3 or state not in get_args(State):
            raise KeyFileError(
                f"key file {path} must hold `primary`, `staged` or `secondary` and a key of 32 bytes in base64 on "
                "each line, or one such key alone; bring it back from a backup"
            )
        try:
            made = datetime.date.fromisoformat(line[2].decode()) if len(line) == 3 else None
        except ValueError:
            raise KeyFileError(f"key file {path}: after a key stands the day it was made, YYYY-MM-DD") from None
        try:
            secret = base64.b64decode(line[1], validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) != _KEY:
            raise KeyFileError(
                f"key file {path} holds a key that is not 32 bytes in base64; bring it back from a backup, or make "
                "a new one with `openssl rand -base64 32`"
            )
        keys.append(Key(cast(State, state), secret, made))
    if [key.state for key in keys].count("primary") != 1:
        raise KeyFileError(f"key file {path} must hold exactly one primary key of 32 bytes in base64")
    if len({key.id for key in keys}) != len(keys):
        raise KeyFileError(f"key file {path} holds the same key twice; keep one of the lines")
    return keys


def create_key(path: Path) -> None:
    """Write a ring file with one new random key, mode 0600, unless the file exists."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_format([new_key("primary")]))
        # Whole or not at all: others may make it, or read it, at this moment.
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()


def new_key(state: State) -> Key:
    return Key(state, os.urandom(_KEY), datetime.datetime.now(datetime.UTC).date())


def replace_ring(path: Path, keys: Sequence[Key]) -> None:
    """Put these keys into an existing ring file, in one step and with its owner and mode."""
    path = path.resolve()
    old = path.stat()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_format(keys))
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            os.fchmod(descriptor, old.st_mode & 0o777)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _format(keys: Sequence[Key]) -> bytes:
    lines = ["# Keys of gstack; change them with `gstack keys`."]
    lines += [
        " ".join((key.state, base64.b64encode(key.secret).decode(), str(key.made or ""))).rstrip() for key in keys
    ]
    return "\n".join([*lines, ""]).encode()


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    """None when there is no such file. The time of the last change of the inode tells of a mended mode or owner."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _wrapping(key_id: bytes, purpose: str) -> bytes:
    """Associated data of a wrapped data key, unlike that of any value sealed with the same key."""
    return key_id + b"\0data key\0" + purpose.encode()


def _encrypt(aead: AESGCM, plaintext: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + aead.encrypt(nonce, plaintext, bound)


def _decrypt(aead: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    try:
        return aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except (InvalidTag, ValueError):
        raise SealError("sealed value does not open: it was changed, or sealed for another use") from None
