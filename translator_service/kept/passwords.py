"""Passwords that CloudStack made for machines, kept sealed until they are asked for; and the answers to who asked.

Google's agent in a Windows guest answers a request in the metadata, `windows-keys`, by a line of JSON on serial port 4:
a new password, encrypted to the key of the request. Here the password is CloudStack's, which shows it once: in the
result of the job that deployed a machine, started it first, or reset it. It is in the store, sealed for this one
machine, until the first request, for two weeks at most. Its answer is for whoever has the key of the request.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gstack.kernel.sealing import Keyring, SealError
from translator_service.kept.store import Store

KEY = "windows-keys"
_KIND = "passwords"
# What serial port 4 tells first: somebody answers here.
_READY = '{"ready":true,"version":"gstack"}\n'
_AGE = 14 * 24 * 3600.0
# Of one owner, the newest.
_MACHINES = 2000
# The last requests of the metadata are looked at, and more answers than that are shown.
_REQUESTS, _ANSWERS = 20, 50
_LONGEST_LINE = 4096
_BITS = (1024, 4096)
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha512": hashes.SHA512,
}
_TRIES = 10


@dataclass(frozen=True)
class Request:
    """modulus and exponent as they were sent, in base64."""

    user: str
    modulus: str
    exponent: str
    method: str
    hash: hashes.HashAlgorithm
    key: rsa.RSAPublicKey

    @property
    def room(self) -> int:
        """Bytes that can be encrypted to the key."""
        return self.key.key_size // 8 - 2 * self.hash.digest_size - 2


def requests(text: str, now: float) -> list[Request]:
    """The requests of `windows-keys`, a line each, that have not ended. Others are left out, as Google's agent does."""
    found = (_request(line, now) for line in text.strip().split("\n")[-_REQUESTS:])
    return [request for request in found if request]


def _request(line: str, now: float) -> Request | None:
    if len(line) > _LONGEST_LINE:
        return None
    try:
        asked = orjson.loads(line)
        user, modulus, exponent = asked["userName"], asked["modulus"], asked["exponent"]
        method, ends = asked.get("hashFunction") or "sha1", datetime.fromisoformat(asked["expireOn"])
        numbers = rsa.RSAPublicNumbers(_integer(exponent), _integer(modulus))
        is_over = ends.tzinfo is None or ends.timestamp() <= now
        if is_over or not user or not _BITS[0] <= numbers.n.bit_length() <= _BITS[1]:
            return None
        return Request(str(user), modulus, exponent, method, _HASHES[method](), numbers.public_key())
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _integer(text: str) -> int:
    return int.from_bytes(base64.b64decode(text, validate=True), "big")


@dataclass
class Passwords:
    """Those of a project's machines. owner: key of the project; machine: id in CloudStack."""

    store: Store
    sealer: Keyring
    owner: str

    def keep(self, machine: str, password: str) -> None:
        """In the place of an earlier one."""
        sealed = self.sealer.seal_message({"password": password}, self._purpose(machine), _AGE)

        def change(document: dict[str, Any]) -> None:
            document["password"] = base64.b64encode(sealed).decode()

        self._change(machine, change)
        self.store.trim_documents(self.owner, _KIND, _MACHINES)

    def forget(self, machine: str) -> None:
        """Of a machine that is gone."""
        self.store.delete_document(self.owner, _KIND, machine)

    def is_kept(self, machine: str) -> bool:
        return self._open(machine, self._read(machine)[1]) is not None

    def unanswered(self, machine: str, asked: Sequence[Request]) -> list[Request]:
        return _unanswered(self._read(machine)[1], asked)

    def answer(self, machine: str, asked: Sequence[Request], user: str, why_not: str) -> list[str]:
        """Answer these requests, as far as they are not answered; returns why some could not be had their way.

        user: the name whose password is CloudStack's. why_not: what to say where none is kept. The password goes with
        the answer.
        """
        told: list[str] = []

        def change(document: dict[str, Any]) -> None:
            told.clear()
            password = self._open(machine, document)
            for request in _unanswered(document, asked):
                if request.user.lower() != user.lower():
                    reason = f"CloudStack makes passwords of the user '{user}' only, not of '{request.user}'."
                elif password is None:
                    reason = why_not
                elif len(password.encode()) > request.room:
                    reason = "The key of the request is too short for the password."
                else:
                    reason = ""
                    document.pop("password", None)
                told.extend([reason] if reason else [])
                document["answers"].append(_line(request, "" if reason else password or "", reason))
            for line in document["answers"][:-_ANSWERS]:
                document["dropped"] += len(line)
            del document["answers"][:-_ANSWERS]

        if self.unanswered(machine, asked):
            self._change(machine, change)
        return told

    def told(self, machine: str, is_ready: bool) -> tuple[int, str]:
        """What the port tells: (position of its first byte that is still there, text in ASCII)."""
        document = self._read(machine)[1]
        ready = _READY if is_ready else ""
        if not document["dropped"]:
            return 0, ready + "".join(document["answers"])
        return len(ready) + document["dropped"], "".join(document["answers"])

    def _purpose(self, machine: str) -> str:
        return f"password/{self.owner}/{machine}"

    def _read(self, machine: str) -> tuple[bytes | None, dict[str, Any]]:
        raw = self.store.document(self.owner, _KIND, machine)
        return raw, orjson.loads(raw) if raw else {"answers": [], "dropped": 0}

    def _change(self, machine: str, change: Callable[[dict[str, Any]], None]) -> None:
        for _ in range(_TRIES):
            raw, document = self._read(machine)
            change(document)
            content = orjson.dumps(document)
            if content == raw or self.store.put_document(self.owner, _KIND, machine, content, raw):
                return
        raise RuntimeError(f"the passwords of {machine} are changed by others all the time")

    def _open(self, machine: str, document: dict[str, Any]) -> str | None:
        if "password" not in document:
            return None
        try:
            sealed = base64.b64decode(document["password"])
            return str(self.sealer.open_message(sealed, self._purpose(machine))["password"])
        except SealError:
            # Its time is over, or the key is lost.
            return None


def purge(store: Store) -> None:
    """What nobody asked for in its time, of all owners."""
    store.purge_documents(_KIND, time.time() - _AGE)


def _unanswered(document: dict[str, Any], asked: Sequence[Request]) -> list[Request]:
    answered = {orjson.loads(line)["modulus"] for line in document["answers"]}
    return list({request.modulus: request for request in asked if request.modulus not in answered}.values())


def _line(request: Request, password: str, reason: str) -> str:
    """As Google's agent writes it."""
    said: dict[str, Any] = {
        "userName": request.user,
        "modulus": request.modulus,
        "exponent": request.exponent,
        "passwordFound": not reason,
    }
    if reason:
        said["errorMessage"] = reason
    else:
        encrypted = request.key.encrypt(password.encode(), padding.OAEP(padding.MGF1(request.hash), request.hash, None))
        said |= {"encryptedPassword": base64.b64encode(encrypted).decode(), "hashFunction": request.method}
    return json.dumps(said) + "\n"
