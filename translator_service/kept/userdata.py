"""GCE metadata to the user data of a machine.

`user-data` alone is passed on to the byte. Keys and scripts become `guest.sh`, which cloud-init runs at every boot.
Both together are a MIME message of two parts, if `user-data` is of a format that cloud-init takes as a part.
What is longer than CloudStack takes is compressed, which cloud-init undoes.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import re
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gstack.kernel.errors import ApiError, invalid
from translator_service.kept.ssh_keys import SshKey, all_ssh_keys

_BEFORE_KEYS, _AFTER_KEYS = (Path(__file__).parent / "guest.sh").read_text().split("@keys@\n")
_BEFORE_SCRIPTS, _AFTER_SCRIPTS = _AFTER_KEYS.split("@scripts@\n")
# In the user data of whoever has it: the guest reads the keys from there.
MARK = b"#:gstack keys"
# What a project's metadata leaves of the room to each instance.
_SHARE = 6
_INFLATED = 4 << 20
_SCRIPTS = ("startup-script", "startup-script-url", "shutdown-script", "shutdown-script-url")
# Those whose value fills the user data.
_FILLING = ("user-data", *_SCRIPTS, "ssh-keys", "sshKeys")
# How cloud-init tells what a text is; the longer of two that fit is the right one.
_KINDS = {
    b"#!": "x-shellscript",
    b"#include": "x-include-url",
    b"#include-once": "x-include-once-url",
    b"#cloud-config": "cloud-config",
    b"#cloud-config-archive": "cloud-config-archive",
    b"#cloud-config-jsonp": "cloud-config-jsonp",
    b"#cloud-boothook": "cloud-boothook",
    b"#part-handler": "part-handler",
    b"## template: jinja": "jinja2",
}
_MIME_HEAD = re.compile(rb"[A-Za-z][A-Za-z-]*:")
_TEXT = re.compile(rb"[\t\n -~]*")


def room(limit: int) -> int:
    """Bytes of user data. limit: characters of base64 that CloudStack takes."""
    return limit // 4 * 3


def user_data(
    metadata: dict[str, str],
    common: dict[str, str],
    *,
    limit: int,
    now: float,
    field: str = "resource.metadata",
    had_ours: bool = False,
) -> str:
    """The parameter of deployVirtualMachine; "" when there is nothing to say.

    common: the project's metadata. limit: CloudStack's, in characters of base64. now: Unix time. had_ours: our
    script is to be in it though nothing asks for it: to take away what it brought before, or to bring what comes later.
    Raises 400, naming the item, for user data that is no base64, that cannot be joined with a script, or that is longer
    than a machine may have.
    """
    content = _content(metadata, common, now, field, had_ours)
    fitting = content.fitting(room(limit))
    if fitting is None:

        def length(items: dict[str, str], with_ours: bool) -> int:
            return _content(items, common, now, field, had_ours or with_ours).shortest

        raise _too_long(metadata, room(limit), field, length)
    return parameter(fitting)


def has_ours(metadata: dict[str, str], common: dict[str, str], now: float) -> bool:
    """Whether there are keys or scripts for the guest."""
    return bool(all_ssh_keys(metadata, common, now) or _scripts(metadata, common))


def for_guests(metadata: dict[str, str]) -> dict[str, str]:
    """What of it makes user data."""
    keys = (*_FILLING, "user-data-encoding")
    return {key: metadata[key] for key in keys if metadata.get(key)}


def has_effect(metadata: dict[str, str], now: float) -> bool:
    """Whether anything of it is for the guest."""
    return bool(metadata.get("user-data")) or has_ours(metadata, {}, now)


def refusal(metadata: dict[str, str], common: dict[str, str], *, limit: int, now: float) -> str:
    """Why an instance cannot have this user data, "" if it can."""
    try:
        user_data(metadata, common, limit=limit, now=now)
    except ApiError as error:
        return error.message
    return ""


def holds_ours(encoded: str) -> bool:
    """Whether user data as CloudStack tells it is, or has a part, of ours."""
    return MARK in _inflated(base64.b64decode(encoded))


def parameter(content: bytes) -> str:
    """Base64 as CloudStack takes it: what has a `%` is decoded as a part of a URL first, which makes blanks of `+`."""
    return base64.b64encode(content).decode().replace("+", "%2B")


def check_common(common: dict[str, str], *, limit: int, now: float, field: str) -> None:
    """Raises 400, naming the item, for metadata of a project that leaves no room to its instances."""
    most = room(limit) - room(limit) // _SHARE

    def length(items: dict[str, str], with_ours: bool = True) -> int:
        return _content(items, {}, now, field, with_ours).shortest

    if length(common) > most:
        raise _too_long(common, most, field, length)


def _too_long(items: dict[str, str], most: int, field: str, length: Callable[[dict[str, str], bool], int]) -> ApiError:
    """length: of the user data with these items, and with our script in it though none asks for it."""
    filling = [key for key in items if key in _FILLING and items[key]]
    found = length(items, False)
    if not filling:
        return invalid(field, f"The metadata of the project makes {found} bytes of user data; {most} are available.")
    key = max(filling, key=lambda name: len(items[name]))
    left = max(0, most - length({name: value for name, value in items.items() if name != key}, key != "user-data"))
    return invalid(
        f"{field}.items[{list(items).index(key)}].value",
        f"'{key}'. With it the guest would get {found} bytes of user data after compression, and {most} are the most. "
        f"{left} compressed bytes are available to '{key}'.",
    )


@dataclass(frozen=True)
class _Content:
    """What the guest gets. is_ours_to_pack: cloud-init reads it, and undoes a compression."""

    plain: bytes
    is_ours_to_pack: bool

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.plain, mtime=0) if self.is_ours_to_pack else self.plain

    @property
    def shortest(self) -> int:
        return min(len(self.plain), len(self.packed))

    def fitting(self, most: int) -> bytes | None:
        """Compressed only if it would not fit, so that CloudStack's own pages show what it is; None for too long."""
        return self.plain if len(self.plain) <= most else self.packed if len(self.packed) <= most else None


def _content(metadata: dict[str, str], common: dict[str, str], now: float, field: str, had_ours: bool) -> _Content:
    keys, scripts = all_ssh_keys(metadata, common, now), _scripts(metadata, common)
    ours = _ours(keys, scripts) if keys or scripts or had_ours else b""
    source = metadata if metadata.get("user-data") else common
    theirs = _given(source, field if source is metadata else "")
    if not theirs:
        return _Content(b"#cloud-boothook\n" + ours if ours else b"", True)
    inflated = _inflated(theirs)
    kind = _kind(inflated)
    if ours and kind is not None:
        return _Content(_joined(ours, kind, inflated), True)
    own = [name for name in _SCRIPTS if metadata.get(name)]
    if own:
        raise invalid(
            f"{field}.items[{list(metadata).index(own[0])}].value",
            f"'{own[0]}' cannot be joined with user-data that cloud-init does not take as a part.",
        )
    return _Content(theirs, kind is not None and inflated is theirs)


def _given(items: dict[str, str], field: str) -> bytes:
    """The user data of the customer, decoded. field: of its metadata, "" for what was checked before."""
    text = items.get("user-data", "")
    if items.get("user-data-encoding") != "base64":
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        place = f"{field}.items[{list(items).index('user-data')}].value" if field else "resource.metadata"
        raise invalid(place, "'user-data' is no base64, as its user-data-encoding says.") from None


def _scripts(metadata: dict[str, str], common: dict[str, str]) -> dict[str, str]:
    """The scripts to run. An instance with one of a kind has none of its project's of that kind."""
    found: dict[str, str] = {}
    for kind in (_SCRIPTS[:2], _SCRIPTS[2:]):
        source = metadata if any(metadata.get(name) for name in kind) else common
        found |= {name: source[name] for name in kind if source.get(name)}
    return found


def _ours(keys: list[SshKey], scripts: dict[str, str]) -> bytes:
    """`guest.sh` for these keys and scripts, in ASCII."""
    lines = "".join(f"{key.user} {key.ends} {key.public_key}\n" for key in keys)
    files = "".join(_file(name, value) for name, value in scripts.items())
    return (_BEFORE_KEYS + lines + _BEFORE_SCRIPTS + files + _AFTER_SCRIPTS).encode()


def _file(name: str, value: str) -> str:
    """Shell that writes a script to where it runs from, to the byte."""
    place = f'"$boot/{name}"' if name.startswith("startup") else f'"$state/shutdown/{name}"'
    content = (_fetcher(name, value) if name.endswith("-url") else value).encode()
    end = f"gstack-{hashlib.sha256(content).hexdigest()[:16]}"
    if _TEXT.fullmatch(content):
        return f"head -c {len(content)} > {place} <<'{end}'\n{content.decode()}\n{end}\n"
    return f"base64 -d > {place} <<'{end}'\n{base64.b64encode(content).decode()}\n{end}\n"


def _fetcher(name: str, url: str) -> str:
    if url.startswith("gs://"):
        url = "https://storage.googleapis.com/" + url.removeprefix("gs://")
    return (
        f"#!/bin/sh\nfile=/var/lib/gstack/{name}.fetched url={shlex.quote(url)}\n"
        'if command -v curl >/dev/null; then curl -fsSL --retry 5 -o "$file" "$url"; '
        'else wget -q -O "$file" "$url"; fi &&\n'
        'chmod 700 "$file" && "$file"\n'
    )


def _inflated(content: bytes) -> bytes:
    """The content without its compression; the same if it has none, or is no sound or bounded one."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        inflater = zlib.decompressobj(wbits=31)
        inflated = inflater.decompress(content, _INFLATED)
    except zlib.error:
        return content
    return inflated if inflater.eof and not inflater.unused_data else content


def _kind(content: bytes) -> str | None:
    """The type of a part that cloud-init makes of it, "" for what is a MIME message; None for what is no part."""
    if _MIME_HEAD.match(content) and b"mime-version:" in content[:4096].lower():
        # cloud-init reads the whole message as UTF-8.
        return "" if _is_utf8(content) else None
    start = content.lstrip().lower()
    fitting = [prefix for prefix in _KINDS if start.startswith(prefix)]
    return _KINDS[max(fitting, key=len)] if fitting else None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _joined(ours: bytes, kind: str, theirs: bytes) -> bytes:
    """A MIME message of our part and theirs. A MIME message is itself a part, its head and all."""
    parts = [_part("cloud-boothook", ours), _part(kind, theirs) if kind else theirs]
    boundary = hashlib.sha256(b"".join(parts)).hexdigest()[:32].encode()
    head = b'Content-Type: multipart/mixed; boundary="%s"\nMIME-Version: 1.0\n\n' % boundary
    return head + b"".join(b"--%s\n%s\n" % (boundary, part) for part in parts) + b"--%s--\n" % boundary


def _part(kind: str, content: bytes) -> bytes:
    # Only ASCII passes through cloud-init's reading of a message as it is.
    plain = _TEXT.fullmatch(content) is not None
    encoding = "7bit" if plain else "base64"
    head = f'Content-Type: text/{kind}; charset="utf-8"\nMIME-Version: 1.0\nContent-Transfer-Encoding: {encoding}\n\n'
    return head.encode() + (content if plain else base64.encodebytes(content))
