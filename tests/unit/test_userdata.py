"""GCE metadata to user data."""

from __future__ import annotations

import base64
import email
import gzip
import os
import re
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstack.cli.docs import ROOT
from gstack.kernel.errors import ApiError
from translator_service.kept import metadata_keys, userdata
from translator_service.kept.metadata_keys import Effect
from translator_service.kept.ssh_keys import SshKey, all_ssh_keys, ssh_keys

RSA = "ssh-rsa AAAAB3Nza"
OTHER = "ssh-ed25519 AAAAC3Nza"
NOW = 1_800_000_000.0
LIMIT = 32768
ROOM = 24576
IGNITION = '{"ignition":{"version":"3.3.0"},"x":"a>b>c>d~"}'


def google(year: int) -> str:
    return f' google-ssh {{"userName":"ian@example.org","expireOn":"{year}-06-05T14:36:39+0000"}}'


def compressed(size: int) -> str:
    """Text of about as many bytes when compressed."""
    return base64.b64encode(os.urandom(size)).decode()


def make(metadata: dict[str, str], common: dict[str, str] | None = None, **options: Any) -> str:
    return userdata.user_data(metadata, common or {}, **{"limit": LIMIT, "now": NOW, **options})


def stored(parameter: str) -> bytes:
    """What CloudStack keeps of the parameter."""
    text = unquote_plus(parameter) if "%" in parameter else parameter
    assert len(text) <= LIMIT
    return base64.b64decode(text, validate=True)


def guest(metadata: dict[str, str], common: dict[str, str] | None = None, **options: Any) -> bytes:
    """What the guest gets."""
    return stored(make(metadata, common, **options))


def parts(content: bytes) -> list[tuple[str, bytes]]:
    """(type, content) as cloud-init reads a message, all but the message itself."""
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    message = email.message_from_string(content.decode())
    return [
        (part.get_content_type(), part.get_payload(decode=True))  # type: ignore[misc, union-attr]
        for part in message.walk()
        if not part.is_multipart()  # type: ignore[union-attr]
    ]


def ours(metadata: dict[str, str], common: dict[str, str] | None = None) -> str:
    """Our script, alone."""
    content = guest(metadata, common)
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    assert content.startswith(b"#cloud-boothook\n#!/bin/sh\n")
    return content.decode("ascii")


def users(metadata: dict[str, str], common: dict[str, str] | None = None) -> list[str]:
    """The lines of the keys that the guest gets."""
    text = ours(metadata, common)
    return text.partition("#:gstack keys\n")[2].partition("#:gstack end\n")[0].splitlines()


def refused(metadata: dict[str, str], common: dict[str, str] | None = None, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        make(metadata, common, **options)
    assert raised.value.code == 400
    return raised.value


# Keys


@pytest.mark.parametrize("name", ["ssh-keys", "sshKeys"])
def test_keys_become_users(name: str) -> None:
    value = f"ian:{RSA} ian@home\nann:{OTHER}\nian:{OTHER}\n"
    assert users({name: value}) == [f"ian 0 {RSA} ian@home", f"ann 0 {OTHER}", f"ian 0 {OTHER}"]


def test_both_spellings_and_no_repetition() -> None:
    found = users({"ssh-keys": f"ian:{RSA}", "sshKeys": f"ian:{RSA}\nann:{OTHER}"})
    assert found == [f"ian 0 {RSA}", f"ann 0 {OTHER}"]


def test_a_key_that_ended_is_not_installed() -> None:
    keys = f"old:{RSA}{google(2017)}\nnew:{OTHER}{google(2037)}\nian:{RSA}"
    assert users({"ssh-keys": keys}) == [f"new 2127825399 {OTHER}{google(2037)}", f"ian 0 {RSA}"]
    assert make({"ssh-keys": f"old:{RSA}{google(2017)}"}) == ""
    content = guest({"ssh-keys": keys, "user-data": "#!/bin/sh\n"}, {"sshKeys": keys.replace("old", "older")})
    assert b"\nold" not in content and b"\nnew 2127825399" in content


@pytest.mark.parametrize(
    "end",
    [
        "google-ssh",
        "google-ssh nonsense",
        "google-ssh {}",
        "google-ssh [1]",
        'google-ssh {"expireOn": 1}',
        'google-ssh {"expireOn":"2037-06-05"}',
        'google-ssh {"expireOn":"9999-99-05T14:36:39+0000"}',
    ],
)
def test_a_key_whose_end_cannot_be_read_is_not_installed(end: str) -> None:
    assert ssh_keys({"ssh-keys": f"ian:{RSA} {end}\nann:{RSA}"}, NOW) == [SshKey("ann", RSA)]


def test_the_end_is_the_second_and_in_its_time_zone() -> None:
    line = f'ian:{RSA} google-ssh {{"expireOn":"2027-01-15T09:00:01+0100"}}'
    assert [key.ends for key in ssh_keys({"ssh-keys": line}, NOW)] == [1_800_000_001]
    assert ssh_keys({"ssh-keys": line}, NOW + 1) == []


@pytest.mark.parametrize("options", ["no-pty", 'from="10.0.0.0/8",no-pty', 'command="echo \\"ssh-rsa x\\" y"'])
def test_options_of_a_key_stay(options: str) -> None:
    (key,) = ssh_keys({"ssh-keys": f"ian:{options} {RSA} home"}, NOW)
    assert key.public_key == f"{options} {RSA} home"
    assert not key.is_registrable
    assert ssh_keys({"ssh-keys": f"ian:{options} {RSA}{google(2017)}"}, NOW) == []


def test_only_keys_for_good_may_be_key_pairs() -> None:
    keys = ssh_keys({"ssh-keys": f"ian:{RSA} home\nann:{OTHER}{google(2037)}"}, NOW)
    assert [key.is_registrable for key in keys] == [True, False]


@pytest.mark.parametrize(
    "line",
    [
        *("", "   ", RSA, "ian", "ian:", f":{RSA}", "ian:nokey AAAA"),
        *(f"Bad User:{RSA}", f"{'x' * 40}:{RSA}", f"a;b:{RSA}", f"-rf:{RSA}"),
        *(f"ian:{RSA}\0", f"ian:{RSA} \x1b[2J", f'ian:command="x {RSA}', f"ian:x\v{RSA}"),
    ],
)
def test_lines_that_are_no_keys(line: str) -> None:
    assert ssh_keys({"ssh-keys": line}, NOW) == []
    assert ssh_keys({"ssh-keys": f"{line}\r\nann:{OTHER}\r\n"}, NOW) == [SshKey("ann", OTHER)]


def test_keys_have_the_same_name_whatever_their_comment() -> None:
    assert SshKey("ian", f"{RSA} home").name == SshKey("ann", RSA).name != SshKey("ian", OTHER).name
    assert SshKey("ian", RSA).name.startswith("gce-")


def test_the_projects_keys_are_added() -> None:
    own, common = {"ssh-keys": f"ian:{RSA}"}, {"ssh-keys": f"ann:{OTHER}", "sshKeys": f"bob:{OTHER}"}
    assert {line.split()[0] for line in users(own, common)} == {"ian", "ann", "bob"}
    assert {line.split()[0] for line in users({}, common)} == {"ann", "bob"}


@pytest.mark.parametrize("own", [{"block-project-ssh-keys": value} for value in ("true", "TRUE", "1", "Yes")])
@pytest.mark.parametrize("name", ["ssh-keys", "sshKeys"])
@pytest.mark.parametrize("more", [{}, {"ssh-keys": f"ian:{RSA}"}, {"sshKeys": f"ian:{RSA}"}])
def test_the_projects_keys_are_blocked(own: dict[str, str], name: str, more: dict[str, str]) -> None:
    found = all_ssh_keys({**own, **more}, {name: f"ann:{OTHER}"}, NOW)
    assert [key.user for key in found] == ["ian"] * bool(more)


def test_the_old_key_of_an_instance_blocks_the_projects() -> None:
    assert all_ssh_keys({"sshKeys": f"ian:{RSA}"}, {"ssh-keys": f"ann:{OTHER}"}, NOW) == [SshKey("ian", RSA)]


@pytest.mark.parametrize("value", ["false", "", "no", "0"])
def test_the_projects_keys_are_not_blocked(value: str) -> None:
    assert "ann" in users({"block-project-ssh-keys": value}, {"ssh-keys": f"ann:{OTHER}"})[0]


# Scripts


@pytest.mark.parametrize("name", ["startup-script", "shutdown-script"])
def test_scripts(name: str) -> None:
    text = ours({name: "#!/bin/sh\necho hi\n"})
    assert "#!/bin/sh\necho hi\n" in text
    assert "no keys" not in text and users({name: "echo"}) == []


def test_the_instances_script_wins() -> None:
    common = {"startup-script": "common", "startup-script-url": "gs://b/common", "shutdown-script": "bye"}
    text = ours({"startup-script": "own"}, common)
    assert "\nown\n" in text and "\nbye\n" in text
    assert "common" not in text
    text = ours({"startup-script-url": "gs://b/o"}, common)
    assert "https://storage.googleapis.com/b/o" in text and "common" not in text


@pytest.mark.parametrize("size", [18_910, 100_000, 256 * 1024])
def test_long_scripts_are_compressed(size: int) -> None:
    script = "#!/bin/sh\n" + "echo x\n" * (size // 7)
    assert script in ours({"startup-script": script})


@pytest.mark.parametrize("with_keys", [True, False])
def test_a_script_that_does_not_fit_names_itself_and_the_room(with_keys: bool) -> None:
    keys = {"ssh-keys": f"ian:{RSA}"} if with_keys else {}
    error = refused({**keys, "startup-script": compressed(30_000)})
    assert error.location == f"resource.metadata.items[{len(keys)}].value"
    assert "'startup-script'" in error.message and str(ROOM) in error.message
    left = int(re.findall(r"(\d+) compressed bytes are available", error.message)[0])
    assert ROOM - 3000 < left < ROOM
    fits, does_not = compressed(left - 1000), compressed(left)
    assert left - 1000 < len(gzip.compress(fits.encode())) < left < len(gzip.compress(does_not.encode()))
    assert make({**keys, "startup-script": fits})
    refused({**keys, "startup-script": does_not})


def test_the_operators_limit_holds() -> None:
    assert make({"startup-script": compressed(30_000)}, limit=65536)
    assert str(49152) in refused({"startup-script": compressed(60_000)}, limit=65536).message


# User data alone


@pytest.mark.parametrize(
    "text", ["#cloud-config\n{}", "#!/bin/sh\nünïcode", "\0\x01", IGNITION, "plain", "#cloud-config\n\u00fb\u00ef>>~~"]
)
def test_user_data_is_passed_on(text: str) -> None:
    assert guest({"user-data": text}) == text.encode()
    assert guest({}, {"user-data": text}) == text.encode()


@given(st.text(min_size=1, max_size=300))
def test_any_text_reaches_the_guest_to_the_byte(text: str) -> None:
    parameter = make({"user-data": text})
    assert "+" not in parameter
    assert stored(parameter) == text.encode()


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_reach_the_guest_to_the_byte(content: bytes) -> None:
    encoded = base64.b64encode(content).decode()
    assert guest({"user-data": encoded, "user-data-encoding": "base64"}) == content
    lines = base64.encodebytes(content).decode()
    assert guest({"user-data": lines, "user-data-encoding": "base64"}) == content


@pytest.mark.parametrize("text", ["nö", "abc", "a!==", "#cloud-config\n{}"])
def test_what_is_no_base64_names_its_item(text: str) -> None:
    error = refused({"a": "b", "user-data": text, "user-data-encoding": "base64"}, field="resource")
    assert error.location == "resource.items[1].value"


def test_the_encoding_is_that_of_the_same_source() -> None:
    encoded = base64.b64encode(b"#!/bin/sh\n").decode()
    assert guest({"user-data": "plain"}, {"user-data-encoding": "base64"}) == b"plain"
    assert guest({"user-data-encoding": "x"}, {"user-data": encoded, "user-data-encoding": "base64"}) == b"#!/bin/sh\n"


def test_the_longest_that_fits() -> None:
    content = os.urandom(ROOM)
    encoded = {"user-data": base64.b64encode(content).decode(), "user-data-encoding": "base64"}
    assert guest(encoded) == content
    longer = {"user-data": base64.b64encode(content + b"x").decode(), "user-data-encoding": "base64"}
    error = refused(longer)
    assert error.location == "resource.metadata.items[0].value"
    assert f"{ROOM} compressed bytes are available" in error.message


def test_only_what_cloud_init_reads_is_compressed() -> None:
    config = "#cloud-config\n" + "a: b\n" * 10_000
    assert gzip.decompress(guest({"user-data": config})) == config.encode()
    assert guest({"user-data": config}) == guest({"user-data": config})
    refused({"user-data": json_like(60_000)})


def json_like(size: int) -> str:
    return '{"ignition":"' + "x" * size + '"}'


def test_nothing_to_say() -> None:
    assert make({}, {}) == ""
    assert make({"foo": "bar", "ssh-keys": "", "user-data": ""}, {"serial-port-enable": "true"}) == ""


# User data with keys and scripts

MERGED = {
    "#cloud-config\nusers: [a]\n": "text/cloud-config",
    "#cloud-config-archive\n[]": "text/cloud-config-archive",
    "#!/bin/bash\necho\n": "text/x-shellscript",
    "#include\nhttps://example.org/\n": "text/x-include-url",
    "#include-once\nhttps://example.org/\n": "text/x-include-once-url",
    "#cloud-boothook\n#!/bin/sh\n": "text/cloud-boothook",
    "## template: jinja\n#cloud-config\n{{ ds }}": "text/jinja2",
    "#part-handler\n": "text/part-handler",
    "\n#Cloud-Config\nx: ü\r\n": "text/cloud-config",
}


@pytest.mark.parametrize("text", MERGED)
def test_user_data_and_keys_and_a_script(text: str) -> None:
    content = guest({"user-data": text, "ssh-keys": f"ian:{RSA}", "startup-script": "echo hí"})
    mine, theirs = parts(content)
    assert mine[0] == "text/cloud-boothook"
    assert f"\nian 0 {RSA}\n".encode() in mine[1]
    assert base64.b64encode("echo hí".encode()) in mine[1]
    assert theirs == (MERGED[text], text.encode())


@given(st.sampled_from(["#!/bin/sh\n", "#cloud-config\n"]), st.binary(max_size=200))
def test_any_user_data_is_whole_beside_keys(start: str, rest: bytes) -> None:
    text = start.encode() + rest
    items = {"user-data": base64.b64encode(text).decode(), "user-data-encoding": "base64"}
    content = guest({**items, "ssh-keys": f"ian:{RSA}"})
    assert parts(content)[1][1] == text
    # A guest that reads the keys anew looks for whole lines.
    assert f"\n#:gstack keys\nian 0 {RSA}\n#:gstack end\n".encode() in content


def test_compressed_user_data_and_keys() -> None:
    text = "#cloud-config\n" + "a: b\n" * 10_000
    items = {"user-data": base64.b64encode(gzip.compress(text.encode())).decode(), "user-data-encoding": "base64"}
    assert guest(items)[:2] == b"\x1f\x8b"
    assert parts(guest({**items, "ssh-keys": f"ian:{RSA}"}))[1] == ("text/cloud-config", text.encode())


def test_a_message_is_a_part_as_it_is() -> None:
    text = (
        'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n'
        "--b\nContent-Type: text/cloud-config\n\n#cloud-config\nx: 1\n--b\nContent-Type: text/x-shellscript\n"
        "Content-Transfer-Encoding: base64\n\nIyEvYmluL3No\n--b--\n"
    )
    content = guest({"user-data": text, "ssh-keys": f"ian:{RSA}"})
    assert text.encode() in content
    mine, config, script = parts(content)
    assert mine[0] == "text/cloud-boothook"
    assert config == ("text/cloud-config", b"#cloud-config\nx: 1")
    assert script == ("text/x-shellscript", b"#!/bin/sh")


@pytest.mark.parametrize("text", [IGNITION, "plain", "#ps1_sysnative\nx", "<powershell>"])
def test_what_is_no_part_is_whole_and_a_script_beside_it_is_refused(text: str) -> None:
    """Keys go as key pairs of CloudStack."""
    assert guest({"user-data": text, "ssh-keys": f"ian:{RSA}"}) == text.encode()
    assert guest({"user-data": text}, {"ssh-keys": f"ian:{RSA}", "startup-script": "echo"}) == text.encode()
    error = refused({"startup-script": "echo", "user-data": text})
    assert error.location == "resource.metadata.items[0].value"
    error = refused({"a": "b", "startup-script": "echo"}, {"user-data": text})
    assert error.location == "resource.metadata.items[1].value"


def test_what_is_not_inflated_without_end() -> None:
    bomb = base64.b64encode(gzip.compress(b"#cloud-config\n" + bytes(50 << 20))).decode()
    items = {"user-data": bomb, "user-data-encoding": "base64"}
    assert refused({**items, "startup-script": "x"}).location.endswith(".value")


def test_what_is_taken_away_is_taken_away_in_the_guest() -> None:
    content = guest({}, had_ours=True)
    assert b"#:gstack keys\n#:gstack end\n" in content
    assert userdata.holds_ours(base64.b64encode(content).decode())
    assert not userdata.holds_ours(base64.b64encode(b"#cloud-config\n{}").decode())
    (kind, _), _ = parts(guest({"user-data": "#!/bin/sh\n"}, had_ours=True))
    assert kind == "text/cloud-boothook"


KEYS = ["ssh-keys", "sshKeys", "startup-script", "startup-script-url", "shutdown-script", "block-project-ssh-keys"]


@given(st.dictionaries(st.sampled_from(KEYS), st.text()))
def test_any_metadata_is_ascii_for_the_cloud(metadata: dict[str, str]) -> None:
    parameter = make(metadata, metadata)
    assert parameter.isascii()
    assert stored(parameter).isascii()


# The project


def rsa_keys(count: int, size: int = 535) -> str:
    return "\n".join(f"u{n}:ssh-rsa {compressed(size)}" for n in range(count))


def check(common: dict[str, str]) -> None:
    userdata.check_common(common, limit=LIMIT, now=NOW, field="resource")


@pytest.mark.parametrize(("count", "size"), [(30, 535), (60, 279)])
def test_what_a_project_may_have_leaves_room_for_instances(count: int, size: int) -> None:
    common = {"ssh-keys": rsa_keys(count, size)}
    check(common)
    assert make({}, common)
    assert make({"startup-script": compressed(3500), "ssh-keys": f"ian:{RSA}"}, common)
    assert make({"user-data": "#!/bin/sh\n" + compressed(3500)}, common)


def test_what_a_project_may_not_have_names_its_item() -> None:
    with pytest.raises(ApiError) as raised:
        check({"a": "b", "ssh-keys": rsa_keys(60)})
    assert (raised.value.code, raised.value.location) == (400, "resource.items[1].value")
    assert str(ROOM - ROOM // 6) in raised.value.message
    with pytest.raises(ApiError) as raised:
        check({"user-data": "!", "user-data-encoding": "base64"})
    assert raised.value.location == "resource.items[0].value"


@given(st.integers(0, 60), st.integers(0, 20_000))
def test_what_is_accepted_of_a_project_can_be_inserted(count: int, script: int) -> None:
    common = {"ssh-keys": rsa_keys(count, 200), "startup-script": compressed(script)}
    try:
        check(common)
    except ApiError:
        return
    make({}, common)
    make({}, common, had_ours=True)


# The table


def test_every_key_is_decided_once_and_told() -> None:
    patterns = [key for one in metadata_keys.DECISIONS for key in one.keys]
    assert len(patterns) == len(set(patterns))
    assert metadata_keys.table() in (ROOT / "docs" / "guests.md").read_text()
    assert all(one.why.endswith(".") and "|" not in one.why for one in metadata_keys.DECISIONS)


GOOGLES = [
    "startup-script",
    "startup-script-url",
    "shutdown-script",
    "shutdown-script-url",
    "user-data",
    "user-data-encoding",
    "ssh-keys",
    "sshKeys",
    "block-project-ssh-keys",
    "enable-oslogin",
    "enable-oslogin-2fa",
    "enable-oslogin-sk",
    "serial-port-enable",
    "serial-port-logging-enable",
    "enable-guest-attributes",
    "google-logging-enable",
    "google-monitoring-enable",
    "google-compute-default-zone",
    "google-compute-default-region",
    "gce-container-declaration",
    "cos-metrics-enabled",
    "cos-update-strategy",
    "sysprep-specialize-script-ps1",
    "windows-startup-script-ps1",
    "windows-shutdown-script-cmd",
    "windows-keys",
    "disable-address-manager",
    "disable-account-manager",
    "vmdnssetting",
    "VmDnsSetting",
    "created-by",
    "instance-template",
    "kube-env",
    "google-compute-enable-virtio-rng",
]


@pytest.mark.parametrize("key", GOOGLES)
def test_what_googles_guest_environment_knows_is_decided(key: str) -> None:
    assert metadata_keys.decision(key)


# Answered elsewhere, see test_serial_ports.
BESIDE = "windows-keys"


@pytest.mark.parametrize(
    "key",
    [key for one in metadata_keys.DECISIONS for key in one.keys if one.effect == Effect.WORKS and key != BESIDE],
)
def test_what_works_has_an_effect_or_steers_one(key: str) -> None:
    value = {"block-project-ssh-keys": "true", "user-data-encoding": "base64", "user-data": "eA=="}
    text = value.get(key, f"ian:{RSA}")
    base, common = {"user-data": "eA=="} if key == "user-data-encoding" else {}, {"ssh-keys": f"ann:{OTHER}"}
    assert make({**base, key: text}, common) != make(base, common)


@pytest.mark.parametrize(
    "key", [BESIDE, *(key for one in metadata_keys.DECISIONS for key in one.keys if one.effect == Effect.KEPT)]
)
def test_what_is_kept_changes_nothing_of_the_others(key: str) -> None:
    others = {"ssh-keys": f"ian:{RSA}", "startup-script": "echo", "user-data": "#!/bin/sh\n"}
    assert make({**others, key: "x"}) == make(others)


@pytest.mark.parametrize("key", ["enable-oslogin", "enable-oslogin-2fa", "enable-oslogin-sk"])
def test_os_login_is_refused(key: str) -> None:
    assert "not supported here" in metadata_keys.refusal(key, "TRUE")
    assert metadata_keys.refusal(key, "TRUE").endswith("Put keys into `ssh-keys`.")
    assert not metadata_keys.refusal(key, "FALSE")


def test_an_unknown_encoding_is_refused() -> None:
    assert metadata_keys.refusal("user-data-encoding", "rot13")
    assert not metadata_keys.refusal("user-data-encoding", "base64")
