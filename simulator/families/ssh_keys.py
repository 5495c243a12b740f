"""SSH key pairs: registered ones and those CloudStack makes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from simulator import errors
from simulator.commands import Call, Listing, command
from simulator.families.machines import owner_fields
from simulator.world import Account, SshKeyPair, World

_KINDS = ("ssh-rsa", "ssh-dss", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")


def named(world: World, owner: Account, names: list[str]) -> list[SshKeyPair]:
    """The owner's key pairs with these names; 431 when one is missing."""
    if not names:
        return []
    by_name = {row.name: row for row in world.all(SshKeyPair) if row.account is owner}
    if any(name not in by_name for name in names):
        raise errors.invalid("Not all specified keypairs exist")
    return [by_name[name] for name in dict.fromkeys(names)]


def _render(row: SshKeyPair) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        **owner_fields(row.account),
        "domainid": row.account.domain.id,
        "domain": row.account.domain.name,
        "fingerprint": row.fingerprint,
        "hasannotations": False,
    }


def _fingerprint(blob: bytes) -> str:
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[index : index + 2] for index in range(0, 32, 2))


def _key_of(public_key: str) -> tuple[str, bytes]:
    """The key without its comment, and its bytes."""
    parts = public_key.split()
    try:
        if len(parts) >= 2 and parts[0] in _KINDS:
            blob = base64.b64decode(parts[1], validate=True)
            if blob[4 : 4 + len(parts[0])] == parts[0].encode():
                return " ".join(parts[:2]), blob
    except ValueError:
        pass
    raise errors.invalid("Public key is invalid")


def _mine(call: Call, owner: Account) -> list[SshKeyPair]:
    return [row for row in call.world.all(SshKeyPair) if row.account is owner]


def _owner(call: Call) -> Account:
    call.check_named_account()
    return call.owner()


@command("registerSSHKeyPair")
def register(call: Call) -> dict[str, Any]:
    owner, name = _owner(call), call.text("name")
    if any(row.name == name for row in _mine(call, owner)):
        raise errors.invalid(f"A key pair with name '{name}' already exists for this account.")
    key, blob = _key_of(call.text("publickey"))
    if any(row.public_key.split()[:2] == key.split() for row in _mine(call, owner)):
        text = call.text("publickey")
        raise errors.invalid(f"A key pair with key '{text}' already exists for this account.")
    return _render(
        call.world.add(SshKeyPair, name=name, account=owner, fingerprint=_fingerprint(blob), public_key=key + " ")
    )


@command("createSSHKeyPair")
def create(call: Call) -> dict[str, Any]:
    owner, name = _owner(call), call.text("name")
    if any(row.name == name for row in _mine(call, owner)):
        raise errors.invalid(f"A key pair with name '{name}' already exists.")
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = pair.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = pair.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    key, blob = _key_of(public)
    row = call.world.add(SshKeyPair, name=name, account=owner, fingerprint=_fingerprint(blob), public_key=key + " \n")
    return {"privatekey": private.decode()} | _render(row)


@command("listSSHKeyPairs")
def list_pairs(call: Call) -> Listing:
    """Newest first."""
    owners = call.owners()
    rows = [row for row in call.world.all(SshKeyPair) if row.account in owners]
    if name := call.text("name"):
        rows = [row for row in rows if row.name.lower() == name.lower()]
    if fingerprint := call.text("fingerprint"):
        rows = [row for row in rows if row.fingerprint == fingerprint]
    if keyword := call.text("keyword").lower():
        rows = [row for row in rows if keyword in row.name.lower() or keyword in row.fingerprint]
    if (wanted := call.row(SshKeyPair, "id")) is not None:
        rows = [row for row in rows if row is wanted]
    return Listing([_render(row) for row in reversed(rows)])


@command("deleteSSHKeyPair")
def delete(call: Call) -> dict[str, Any]:
    owner, name = _owner(call), call.text("name")
    for row in _mine(call, owner):
        if row.name == name:
            call.world.purge(row)
            return {"success": True}
    error = errors.invalid(
        f"A key pair with name '{name}' does not exist for account {owner.name} in specified domain id"
    )
    error.uuids = [{"uuid": owner.domain.id, "description": "domainId"}]
    raise error
