"""GCE metadata to user data: what the guest is to do with keys and scripts, as a cloud-init configuration.

`user-data` is passed on as it is. Otherwise `ssh-keys` and `sshKeys` (lines `user:ssh-rsa AAAA... comment`) become
users, and `startup-script` runs at every boot.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart

from gstack.kernel.errors import invalid

# vm.userdata.max.length of CloudStack, in base64 characters.
LIMIT = 32768
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.IGNORECASE)
_KEYS = ("ssh-keys", "sshKeys")


@dataclass(frozen=True)
class SshKey:
    user: str
    public_key: str

    @property
    def name(self) -> str:
        """Name of the key pair in CloudStack, the same for the same key."""
        return f"gce-{hashlib.sha256(' '.join(self.public_key.split()[:2]).encode()).hexdigest()[:16]}"


def ssh_keys(metadata: dict[str, str]) -> list[SshKey]:
    """The keys of all users, in order, without repetition; lines that are no keys are left out."""
    found: list[SshKey] = []
    for line in "\n".join(metadata.get(key, "") for key in _KEYS).splitlines():
        user, separator, key = line.strip().partition(":")
        if not separator or not _USER.fullmatch(user) or not key.startswith(("ssh-", "ecdsa-", "sk-")):
            continue
        key = re.sub(r"\s+google-ssh \{.*\}$", "", key.strip())
        if SshKey(user, key) not in found:
            found.append(SshKey(user, key))
    return found


def all_ssh_keys(metadata: dict[str, str], common: dict[str, str]) -> list[SshKey]:
    """The keys of a machine and, unless it blocks them, of its project."""
    blocked = metadata.get("block-project-ssh-keys", "").lower() == "true"
    sources = (metadata,) if blocked else (metadata, common)
    return ssh_keys({key: "\n".join(source.get(key, "") for source in sources) for key in _KEYS})


def user_data(metadata: dict[str, str], common: dict[str, str]) -> str:
    """Base64 for deployVirtualMachine; "" when there is nothing to say. `common` is the project's metadata.

    Raises 400 when it is longer than a machine may have.
    """
    merged = {**common, **metadata}
    if text := merged.get("user-data"):
        content = text.encode()
    else:
        content = _cloud_config(all_ssh_keys(metadata, common), merged.get("startup-script", ""))
    encoded = base64.b64encode(_without_plus(content)).decode()
    if len(encoded) > LIMIT:
        raise invalid("resource.metadata", f"keys and scripts are longer than {LIMIT * 3 // 4} bytes.")
    return encoded


def _without_plus(content: bytes) -> bytes:
    """The same user data such that its base64 has no `+`: CloudStack URL-decodes it again (recordings, Surprises 27).

    cloud-init opens a MIME message like any other user data, and what base64 makes of its ASCII has no `+`.
    """
    if b"+" not in base64.b64encode(content):
        return content
    part = MIMENonMultipart("text", "plain", charset="utf-8")
    part.set_payload(base64.encodebytes(content).decode())
    part["Content-Transfer-Encoding"] = "base64"
    return MIMEMultipart(boundary="=gstack=", _subparts=[part]).as_bytes()


def _cloud_config(keys: list[SshKey], script: str) -> bytes:
    config: dict[str, object] = {}
    if keys:
        users: dict[str, list[str]] = {}
        for key in keys:
            users.setdefault(key.user, []).append(key.public_key)
        config["users"] = ["default"] + [
            {
                "name": user,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/bash",
                "ssh_authorized_keys": public_keys,
            }
            for user, public_keys in users.items()
        ]
    if script:
        config["write_files"] = [
            {
                # cloud-init runs these in its last stage at every boot, the first included.
                "path": "/var/lib/cloud/scripts/per-boot/startup-script",
                "permissions": "0755",
                "encoding": "b64",
                "content": base64.b64encode(script.encode()).decode(),
            }
        ]
    # JSON is YAML, and needs no quoting rules of our own.
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n".encode() if config else b""
