"""Sealed values and key files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstack.kernel.sealing import CREDENTIAL, IDENTITY, KeyFileError, Sealer, SealError, create_key, read_key

SEALER = Sealer(b"k" * 32)


@given(st.binary(max_size=200), st.text())
@settings(max_examples=100)
def test_what_is_sealed_opens_for_its_purpose(plain: bytes, purpose: str) -> None:
    sealed = SEALER.seal(plain, purpose)
    assert Sealer(b"k" * 32).open(sealed, purpose) == plain
    assert len(sealed) == len(plain) + 28
    with pytest.raises(SealError):
        SEALER.open(sealed, purpose + "x")


def test_purposes_do_not_stand_for_each_other() -> None:
    with pytest.raises(SealError):
        SEALER.open(SEALER.seal(b"x", CREDENTIAL), IDENTITY)


@given(st.binary(min_size=1, max_size=50), st.integers(0), st.integers(1, 255))
@settings(max_examples=100)
def test_a_flipped_bit_is_noticed(plain: bytes, position: int, flip: int) -> None:
    sealed = bytearray(SEALER.seal(plain, "p"))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(SealError):
        SEALER.open(bytes(sealed), "p")


@given(st.binary(max_size=60))
def test_no_other_bytes_open(raw: bytes) -> None:
    with pytest.raises(SealError):
        SEALER.open(raw, "p")


def test_another_key_does_not_open() -> None:
    with pytest.raises(SealError) as raised:
        Sealer(b"x" * 32).open(SEALER.seal(b"secret", "p"), "p")
    assert "secret" not in str(raised.value)


def test_the_same_is_never_sealed_alike() -> None:
    sealed = {SEALER.seal(b"x", "p") for _ in range(100)}
    assert len(sealed) == len({one[:12] for one in sealed}) == 100
    assert all(b"secret" not in SEALER.seal(b"secret", "p") for _ in range(10))


def test_a_key_file_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "sealing.key"
    create_key(path)
    key = read_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    create_key(path)
    assert read_key(path) == key
    create_key(tmp_path / "other.key")
    assert read_key(tmp_path / "other.key") != key


@pytest.mark.parametrize(
    ("mode", "good"),
    [
        (0o600, True),
        (0o400, True),
        (0o640, True),
        (0o440, True),
        (0o644, False),
        (0o604, False),
        (0o602, False),
        (0o666, False),
    ],
)
def test_modes_of_a_key_file(tmp_path: Path, mode: int, good: bool) -> None:
    path = tmp_path / "key"
    create_key(path)
    path.chmod(mode)
    if good:
        assert len(read_key(path)) == 32
    else:
        with pytest.raises(KeyFileError, match="0600"):
            read_key(path)


@pytest.mark.parametrize(
    "text", [b"", b"short", base64.b64encode(b"x" * 31), base64.b64encode(b"x" * 33), b"\xff" * 44, b"!" * 44]
)
def test_a_file_that_holds_no_key(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="32 bytes"):
        read_key(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="gstack up"):
        read_key(tmp_path / "none")
