"""The SSH keys of GCE metadata, by the rules of GCE's guest agent.

A line is `user:[options] type base64 [comment]`. A comment `google-ssh {"userName": ..., "expireOn": ...}` ends the key
at that time. Lines that are no keys, or whose end cannot be read, are left out, as GCE's agent does.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

import orjson

# Like GCE's `user` of a line, but only what can be made a user of a Linux.
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_PLAIN = re.compile(r"(?:ssh|ecdsa|sk)-\S+ +\S")
# Options before the type may quote anything.
_WITH_OPTIONS = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+ +(?:ssh|ecdsa|sk)-\S+ +\S')
_GOOGLE = re.compile(r"\sgoogle-ssh(?:\s+(.*))?$")
_TRUE = ("true", "1", "y", "yes", "t")
LEGACY = "sshKeys"
BLOCK = "block-project-ssh-keys"


@dataclass(frozen=True)
class SshKey:
    """public_key: the whole line behind the user, in ASCII. ends: Unix time, 0 for never."""

    user: str
    public_key: str
    ends: int = 0

    @property
    def name(self) -> str:
        """Name of the key pair in CloudStack, the same for the same key."""
        return f"gce-{hashlib.sha256(' '.join(self.public_key.split()[:2]).encode()).hexdigest()[:16]}"

    @property
    def is_registrable(self) -> bool:
        """Whether it may be a key pair in CloudStack, which knows neither options nor an end."""
        return not self.ends and bool(_PLAIN.match(self.public_key))


def is_true(text: str) -> bool:
    """A boolean of metadata."""
    return text.strip().lower() in _TRUE


def ssh_keys(metadata: dict[str, str], now: float) -> list[SshKey]:
    """The keys of all users that have not ended, in order, without repetition. now: Unix time."""
    lines = "\n".join(metadata.get(key, "") for key in (LEGACY, "ssh-keys")).split("\n")
    found = (_key(line.strip(), now) for line in lines)
    return list(dict.fromkeys(key for key in found if key))


def all_ssh_keys(metadata: dict[str, str], common: dict[str, str], now: float) -> list[SshKey]:
    """The keys of a machine and, unless it blocks them, of its project. Its own `sshKeys` block them too."""
    own = ssh_keys(metadata, now)
    if is_true(metadata.get(BLOCK, "")) or metadata.get(LEGACY):
        return own
    return list(dict.fromkeys(own + ssh_keys(common, now)))


def _key(line: str, now: float) -> SshKey | None:
    user, _, key = line.partition(":")
    key = key.strip()
    if not _USER.fullmatch(user) or any(character < " " or character == "\x7f" for character in key):
        return None
    if not _PLAIN.match(key) and not _WITH_OPTIONS.match(key):
        return None
    ends = 0
    if google := _GOOGLE.search(key):
        ends = _end(google[1] or "")
        if ends <= now:
            return None
    # Only comments may have other letters; the guest gets ASCII, which passes all ways of packing unharmed.
    return SshKey(user, key.encode("ascii", "replace").decode(), ends)


def _end(text: str) -> int:
    """Unix time, 0 for what cannot be read."""
    try:
        return int(datetime.strptime(orjson.loads(text)["expireOn"], "%Y-%m-%dT%H:%M:%S%z").timestamp())
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0
