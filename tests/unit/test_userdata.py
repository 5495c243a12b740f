"""GCE metadata to user data."""

from __future__ import annotations

import base64
import email
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstack.kernel.errors import ApiError
from translator_service.kept.userdata import LIMIT, SshKey, ssh_keys, user_data

RSA = "ssh-rsa AAAAB3Nza"
OTHER = "ssh-ed25519 AAAAC3Nza"
GOOGLE = ' google-ssh {"userName":"ian@example.org","expireOn":"2026-11-23T12:00:00+0000"}'


def config(metadata: dict[str, str], common: dict[str, str] | None = None) -> dict:
    text = base64.b64decode(user_data(metadata, common or {})).decode()
    head, _, rest = text.partition("\n")
    assert head == "#cloud-config"
    return json.loads(rest)


def users(metadata: dict[str, str], common: dict[str, str] | None = None) -> dict[str, list[str]]:
    first, *others = config(metadata, common)["users"]
    assert first == "default"
    return {user["name"]: user["ssh_authorized_keys"] for user in others}


@pytest.mark.parametrize("name", ["ssh-keys", "sshKeys"])
def test_keys_become_users(name: str) -> None:
    value = f"ian:{RSA} ian@home\nann:{OTHER}\nian:{OTHER}\n"
    assert users({name: value}) == {"ian": [f"{RSA} ian@home", OTHER], "ann": [OTHER]}
    assert config({name: value})["users"][1]["sudo"] == "ALL=(ALL) NOPASSWD:ALL"


def test_both_spellings_and_no_repetition() -> None:
    assert users({"ssh-keys": f"ian:{RSA}", "sshKeys": f"ian:{RSA}\nann:{OTHER}"}) == {"ian": [RSA], "ann": [OTHER]}


def test_what_google_appends_is_cut_off() -> None:
    assert ssh_keys({"ssh-keys": f"ian:{RSA}{GOOGLE}"}) == [SshKey("ian", RSA)]


@pytest.mark.parametrize(
    "line",
    ["", "   ", RSA, f":{RSA}", "ian:", "ian:nokey AAAA", f"Bad User:{RSA}", f"{'x' * 40}:{RSA}", f"a;b:{RSA}", "ian"],
)
def test_lines_that_are_no_keys(line: str) -> None:
    assert ssh_keys({"ssh-keys": line}) == []
    assert ssh_keys({"ssh-keys": f"{line}\r\nann:{OTHER}\r\n"}) == [SshKey("ann", OTHER)]


def test_keys_have_the_same_name_whatever_their_comment() -> None:
    assert SshKey("ian", f"{RSA} home").name == SshKey("ann", RSA).name != SshKey("ian", OTHER).name
    assert SshKey("ian", RSA).name.startswith("gce-")


def test_the_projects_keys_are_added() -> None:
    own, common = {"ssh-keys": f"ian:{RSA}"}, {"ssh-keys": f"ann:{OTHER}", "sshKeys": f"bob:{OTHER}"}
    assert users(own, common) == {"ian": [RSA], "ann": [OTHER], "bob": [OTHER]}
    assert users({}, common) == {"ann": [OTHER], "bob": [OTHER]}


@pytest.mark.parametrize("value", ["true", "TRUE", "True"])
@pytest.mark.parametrize("name", ["ssh-keys", "sshKeys"])
@pytest.mark.parametrize("own", [{}, {"ssh-keys": f"ian:{RSA}"}, {"sshKeys": f"ian:{RSA}"}])
def test_the_projects_keys_are_blocked(value: str, name: str, own: dict[str, str]) -> None:
    encoded = user_data({**own, "block-project-ssh-keys": value}, {name: f"ann:{OTHER}"})
    text = base64.b64decode(encoded).decode()
    assert "ann" not in text
    assert ("ian" in text) == bool(own)


@pytest.mark.parametrize("value", ["false", "", "no"])
def test_the_projects_keys_are_not_blocked(value: str) -> None:
    assert "ann" in users({"block-project-ssh-keys": value}, {"ssh-keys": f"ann:{OTHER}"})


def test_a_startup_script_runs_at_each_boot() -> None:
    script = "#!/bin/sh\necho 'zürich' \\u0041\n"
    file = config({"startup-script": script})["write_files"][0]
    assert file["path"].startswith("/var/lib/cloud/scripts/per-boot/")
    assert file["permissions"] == "0755"
    assert base64.b64decode(file["content"]).decode() == script
    assert "users" not in config({"startup-script": script})


def test_the_instances_script_wins() -> None:
    files = config({"startup-script": "own"}, {"startup-script": "common"})["write_files"]
    assert base64.b64decode(files[0]["content"]) == b"own"


@pytest.mark.parametrize("text", ["#cloud-config\n{}", "#!/bin/sh\nünïcode", "\0\x01"])
def test_user_data_is_passed_on(text: str) -> None:
    metadata = {"user-data": text, "ssh-keys": f"ian:{RSA}", "startup-script": "x"}
    assert base64.b64decode(user_data(metadata, {})).decode() == text
    assert base64.b64decode(user_data({}, {"user-data": text})).decode() == text


def test_nothing_to_say() -> None:
    assert user_data({}, {}) == ""
    assert user_data({"foo": "bar", "ssh-keys": "", "user-data": ""}, {"serial-port-enable": "true"}) == ""


def test_the_longest_that_fits() -> None:
    assert len(user_data({"user-data": "x" * (LIMIT // 4 * 3)}, {})) == LIMIT


@pytest.mark.parametrize("name", ["user-data", "startup-script"])
def test_too_long(name: str) -> None:
    with pytest.raises(ApiError) as raised:
        user_data({name: "x" * (LIMIT // 4 * 3 + 1)}, {})
    assert (raised.value.code, raised.value.location) == (400, "resource.metadata")


@given(st.dictionaries(st.sampled_from(["ssh-keys", "sshKeys", "startup-script", "block-project-ssh-keys"]), st.text()))
def test_any_metadata_is_ascii_for_the_cloud(metadata: dict[str, str]) -> None:
    assert user_data(metadata, metadata).isascii()


@given(st.text(max_size=200))
def test_base64_has_no_plus_and_the_guest_sees_the_same(text: str) -> None:
    """CloudStack would make a blank of a plus."""
    encoded = user_data({"user-data": f"#!/bin/sh\n{text}>>~"}, {})
    assert "+" not in encoded
    content = base64.b64decode(encoded)
    if content.startswith(b"#!"):
        assert content.decode() == f"#!/bin/sh\n{text}>>~"
    else:
        message = email.message_from_bytes(content)
        assert message.is_multipart()
        payload = message.get_payload(0).get_payload(decode=True)
        assert payload == f"#!/bin/sh\n{text}>>~".encode()
