"""Sealed values and records, rings of keys and their files."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import time_machine
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gstack.kernel import sealing
from gstack.kernel.sealing import (
    CREDENTIAL,
    IDENTITY,
    Key,
    KeyFileError,
    Keyring,
    SealError,
    create_key,
    key_id_of,
    read_ring,
    replace_ring,
)

OLD, NEW = b"k" * 32, b"n" * 32
RING = Keyring.of(OLD)
WAYS = [(RING.seal, RING.open), (RING.seal_record, RING.open_record)]

Seal = Callable[[bytes, str], bytes]
both_ways = pytest.mark.parametrize(("seal", "open_"), WAYS, ids=["value", "record"])


class Clock:
    """Time for the rings' looks at their files."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sealing, "time", made)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ring file with the primary key OLD."""
    made = tmp_path / "ring"
    create_key(made)
    replace_ring(made, [Key("primary", OLD)])
    return made


# Values and records


@both_ways
@given(plain=st.binary(max_size=200), purpose=st.text())
@settings(max_examples=100)
def test_what_is_sealed_opens_for_its_purpose(plain: bytes, purpose: str, seal: Seal, open_: Seal) -> None:
    sealed = seal(plain, purpose)
    assert open_(sealed, purpose) == plain
    with pytest.raises(SealError):
        open_(sealed, purpose + "x")


def test_the_forms_of_a_value_and_of_a_record() -> None:
    value, record = RING.seal(b"x" * 10, "p"), RING.seal_record(b"x" * 10, "p")
    key_id = hashlib.sha256(b"gstack key id" + OLD).hexdigest()[:8]
    assert key_id_of(value) == key_id_of(record) == RING.primary_id == key_id
    assert (len(value), len(record)) == (4 + 12 + 10 + 16, 4 + 12 + 48 + 12 + 10 + 16)
    assert AESGCM(OLD).decrypt(value[4:16], value[16:], bytes.fromhex(key_id) + b"p") == b"x" * 10


def test_a_value_is_no_record_and_purposes_do_not_stand_for_each_other() -> None:
    with pytest.raises(SealError):
        RING.open_record(RING.seal(b"x" * 100, "p"), "p")
    with pytest.raises(SealError):
        RING.open(RING.seal_record(b"x", "p"), "p")
    with pytest.raises(SealError):
        RING.open(RING.seal(b"x", CREDENTIAL), IDENTITY)


def test_a_message_has_an_end() -> None:
    with time_machine.travel(1000.5, tick=False) as clock:
        sealed = RING.seal_message({"a": "b"}, "p", 60)
        assert RING.open_message(sealed, "p") == {"a": "b", "expires": 1060}
        clock.move_to(1059.9)
        assert RING.open_message(sealed, "p")["a"] == "b"
        clock.move_to(1060)
        with pytest.raises(SealError):
            RING.open_message(sealed, "p")
    for endless in (b"{}", b'{"expires": null}', b'{"expires": "9999999999"}'):
        with pytest.raises(SealError):
            RING.open_message(RING.seal(endless, "p"), "p")


@both_ways
@given(plain=st.binary(max_size=50), position=st.integers(0), flip=st.integers(1, 255))
@settings(max_examples=200)
def test_b6_a_flipped_bit_is_noticed(plain: bytes, position: int, flip: int, seal: Seal, open_: Seal) -> None:
    sealed = bytearray(seal(plain, "p"))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(SealError):
        open_(bytes(sealed), "p")


@both_ways
def test_b6_a_shorter_one_is_noticed(seal: Seal, open_: Seal) -> None:
    sealed = seal(b"secret", "p")
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            open_(sealed[:length], "p")


def test_b6_a_value_in_another_row_does_not_open() -> None:
    one, other = RING.seal_record(b"one", "credentials/1/a"), RING.seal_record(b"other", "credentials/2/a")
    with pytest.raises(SealError):
        RING.open_record(one, "credentials/2/a")
    # Nor does the wrapped data key of one with the content of the other.
    with pytest.raises(SealError):
        RING.open_record(one[:64] + other[64:], "credentials/1/a")


@both_ways
@given(raw=st.binary(max_size=120))
def test_no_other_bytes_open(raw: bytes, seal: Seal, open_: Seal) -> None:
    for one in (raw, bytes.fromhex(RING.primary_id) + raw):
        with pytest.raises(SealError):
            open_(one, "p")


@both_ways
def test_b7_nonces_and_data_keys_never_repeat(seal: Seal, open_: Seal) -> None:
    sealed = [seal(b"secret", "p") for _ in range(1000)]
    assert len({one[4:16] for one in sealed}) == len({one[-34:-22] for one in sealed}) == len(set(sealed)) == 1000
    assert all(b"secret" not in one for one in sealed)


def test_b5_a_key_that_is_not_in_the_ring() -> None:
    for seal, open_ in ((RING.seal, Keyring.of(NEW).open), (RING.seal_record, Keyring.of(NEW).open_record)):
        with pytest.raises(SealError, match=f"{RING.primary_id}, which is not in the ring") as raised:
            open_(seal(b"secret", "p"), "p")
        assert "secret" not in str(raised.value)


# Rotation


def test_b3_after_a_rotation_old_values_open_and_new_ones_use_the_new_key() -> None:
    record, value = RING.seal_record(b"x", "p"), RING.seal(b"y", "p")
    rotated = Keyring.of(NEW, OLD)
    assert (rotated.open_record(record, "p"), rotated.open(value, "p")) == (b"x", b"y")
    assert key_id_of(rotated.seal(b"", "p")) == key_id_of(rotated.seal_record(b"", "p")) == rotated.primary_id
    assert rotated.primary_id == Keyring.of(NEW).primary_id != RING.primary_id


def test_b3_rewrap_leaves_nothing_on_the_old_key() -> None:
    record = RING.seal_record(b"x" * 1000, "p")
    rotated = Keyring.of(NEW, OLD)
    moved = rotated.rewrap(record, "p")
    assert key_id_of(moved) == rotated.primary_id
    assert Keyring.of(NEW).open_record(moved, "p") == b"x" * 1000
    assert moved[64:] == record[64:], "only the data key is encrypted anew"
    assert rotated.rewrap(moved, "p") is moved
    with pytest.raises(SealError):
        RING.open_record(moved, "p")
    with pytest.raises(SealError):
        rotated.rewrap(record, "another row")
    with pytest.raises(SealError):
        Keyring.of(NEW).rewrap(record, "p")


def test_b4_a_staged_key_opens_before_it_is_primary(path: Path) -> None:
    replace_ring(path, [Key("primary", OLD), Key("staged", NEW)])
    ring = Keyring(path)
    assert ring.open(Keyring.of(NEW).seal(b"x", "p"), "p") == b"x"
    assert ring.open_record(Keyring.of(NEW).seal_record(b"x", "p"), "p") == b"x"
    assert key_id_of(ring.seal(b"x", "p")) == RING.primary_id


def test_b4_a_replica_learns_a_key_from_a_value_at_once(path: Path, clock: Clock) -> None:
    replica = Keyring(path)
    replace_ring(path, [Key("primary", OLD), Key("staged", NEW)])
    sealed = Keyring.of(NEW).seal(b"x", "p")
    with pytest.raises(SealError):  # it has just looked
        replica.open(sealed, "p")
    clock.now += 1.1
    assert replica.open(sealed, "p") == b"x"
    # The primary that it does not know yet, a second later: the ring with both keys opens what both sides seal.
    replace_ring(path, [Key("secondary", OLD), Key("primary", NEW)])
    clock.now += 1.1
    assert key_id_of(replica.seal(b"x", "p")) == RING.primary_id
    clock.now += 5.1
    assert key_id_of(replica.seal(b"x", "p")) == Keyring.of(NEW).primary_id


def test_b4_unknown_keys_do_not_make_the_file_be_read_all_the_time(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring(path)
    looks: list[Path] = []
    real = sealing._fingerprint
    monkeypatch.setattr(sealing, "_fingerprint", lambda where: looks.append(where) or real(where))
    for _ in range(100):
        clock.now += 0.05
        with pytest.raises(SealError):
            ring.open(b"\0" * 40, "p")
    assert len(looks) in (4, 5)


def test_derived_keys_follow_the_ring(path: Path, clock: Clock) -> None:
    ring = Keyring(path)
    [old] = ring.derive(b"page tokens")
    assert len(old) == 32
    assert ring.derive(b"another use") != [old]
    replace_ring(path, [Key("secondary", OLD), Key("primary", NEW)])
    clock.now += 5.1
    assert ring.derive(b"page tokens") == [*Keyring.of(NEW).derive(b"page tokens"), old]
    assert ring.keys() == [(Keyring.of(NEW).primary_id, "primary"), (RING.primary_id, "secondary")]


def test_values_of_before_keys_had_ids() -> None:
    sealed = b"n" * 12 + AESGCM(OLD).encrypt(b"n" * 12, b"x", b"credentials/1")
    assert Keyring.of(NEW, OLD).open_unnamed(sealed, "credentials/1") == b"x"
    with pytest.raises(SealError):
        Keyring.of(NEW, OLD).open_unnamed(sealed, "credentials/2")
    with pytest.raises(SealError):
        Keyring.of(NEW).open_unnamed(sealed, "credentials/1")


# Files


def test_b8_a_ring_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "sealing.key"
    create_key(path)
    [key] = read_ring(path)
    assert key.state == "primary" and len(key.secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    create_key(path)
    assert read_ring(path) == [key]
    create_key(tmp_path / "other.key")
    assert read_ring(tmp_path / "other.key") != [key]
    assert key.secret.hex() not in repr(key) and repr(key.secret) not in repr(key)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_b8_a_replaced_ring_keeps_its_mode_and_leaves_nothing_else(path: Path, mode: int) -> None:
    path.chmod(mode)
    before = path.stat()
    replace_ring(path, [Key("primary", OLD), Key("staged", NEW)])
    assert path.stat().st_mode == before.st_mode and path.stat().st_ino != before.st_ino
    assert read_ring(path) == [Key("primary", OLD), Key("staged", NEW)]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_b8_a_replaced_ring_keeps_its_owner(path: Path) -> None:
    os.chown(path, 1234, 2345)
    replace_ring(path, [Key("primary", NEW)])
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


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
def test_b8_modes_of_a_ring_file(path: Path, mode: int, good: bool) -> None:
    path.chmod(mode)
    if good:
        assert Keyring(path).primary_id == RING.primary_id
    else:
        with pytest.raises(KeyFileError, match="set mode 0600 or 0640"):
            Keyring(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_bare_key_is_a_ring(path: Path, end: bytes) -> None:
    path.write_bytes(base64.b64encode(OLD) + end)
    assert Keyring(path).keys() == [(RING.primary_id, "primary")]


def test_the_age_of_the_primary_key(path: Path, tmp_path: Path) -> None:
    with time_machine.travel("2026-03-01", tick=False) as now:
        create_key(tmp_path / "made")
        ring = Keyring(tmp_path / "made")
        now.shift(400 * 86400)
        assert ring.age() == 400 * 86400
    # A file that does not say it was last changed today.
    assert Keyring(path).age() < 3600


@pytest.mark.parametrize("day", [b"x", b"2026-02-30", b"\xff"])
def test_a_day_that_is_none(path: Path, day: bytes) -> None:
    path.write_bytes(b"primary " + GOOD + b" " + day)
    with pytest.raises(KeyFileError, match="YYYY-MM-DD"):
        Keyring(path)


def test_comments_and_empty_lines(path: Path) -> None:
    old, new = (base64.b64encode(key).decode() for key in (OLD, NEW))
    path.write_text(f"# of 2026\n\n  staged   {new}  \n#primary {new}\nprimary {old}\n")
    assert Keyring(path).keys() == [(RING.primary_id, "primary"), (Keyring.of(NEW).primary_id, "staged")]


GOOD = base64.b64encode(OLD)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "exactly one primary key of 32 bytes"),
        (b"# nothing\n", "exactly one primary key"),
        (b"staged " + GOOD, "exactly one primary key"),
        (b"primary " + GOOD + b"\nprimary " + base64.b64encode(NEW), "exactly one primary key"),
        (b"primary " + GOOD + b"\nsecondary " + GOOD, "the same key twice"),
        (GOOD + b"\n" + GOOD, "must hold `primary`"),
        (b"first " + GOOD, "must hold `primary`"),
        (b"primary " + GOOD + b" 2026-03-01 x", "must hold `primary`"),
        (b"primary", "not 32 bytes"),
        (b"short", "not 32 bytes"),
        (base64.b64encode(b"x" * 31), "not 32 bytes"),
        (base64.b64encode(b"x" * 33), "not 32 bytes"),
        (b"\xff" * 44, "not 32 bytes"),
        (b"\xff " + GOOD, "must hold `primary`"),
        (b"primary " + b"!" * 44, "not 32 bytes"),
    ],
)
def test_b5_a_file_that_is_no_ring(path: Path, text: bytes, says: str) -> None:
    path.write_bytes(text)
    with pytest.raises(KeyFileError, match=says) as raised:
        Keyring(path)
    assert str(path) in str(raised.value)
    assert GOOD.decode() not in str(raised.value)


def test_b5_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="run `gstack keys init`; `gstack up` makes one by itself for this machine"):
        Keyring(tmp_path / "none")
    with pytest.raises(KeyFileError, match="Is a directory"):
        Keyring(tmp_path)


@pytest.mark.parametrize("what", ["gone", "broken", "open to everybody"])
def test_b5_a_file_that_goes_bad_leaves_the_known_keys(path: Path, clock: Clock, what: str) -> None:
    ring = Keyring(path)
    text = path.read_bytes()
    with capture_logs() as logs:
        if what == "gone":
            path.unlink()
        elif what == "broken":
            path.write_bytes(b"primary " + GOOD[:-5] + b"\n")
        else:
            path.chmod(0o644)
        for _ in range(3):
            clock.now += 5.1
            assert ring.open(RING.seal(b"x", "p"), "p") == b"x"
    assert [(one["event"], one["log_level"]) for one in logs] == [("keyring_unreadable", "warning")]
    assert GOOD[:-5].decode() not in repr(logs)
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(text.replace(GOOD, base64.b64encode(NEW)))
    clock.now += 5.1
    assert ring.primary_id == Keyring.of(NEW).primary_id


def test_b5_a_mended_mode_is_a_change(path: Path, clock: Clock) -> None:
    ring = Keyring(path)
    replace_ring(path, [Key("primary", NEW)])
    path.chmod(0o644)
    clock.now += 5.1
    assert ring.primary_id == RING.primary_id
    path.chmod(0o600)
    clock.now += 5.1
    assert ring.primary_id == Keyring.of(NEW).primary_id


def test_threads_seal_and_open_while_keys_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(sealing, "_LOOK_SECONDS_UNKNOWN", 0.0)
    ring = Keyring(path)
    failures: list[BaseException] = []
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            try:
                assert ring.open(ring.seal(b"x", "p"), "p") == b"x"
                assert ring.open_record(ring.rewrap(ring.seal_record(b"x", "p"), "p"), "p") == b"x"
            except BaseException as failure:
                failures.append(failure)
                return

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(60):
        keys = [OLD, NEW] if number % 2 else [NEW, OLD]
        replace_ring(path, [Key("primary", keys[0]), Key("secondary", keys[1])])
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
