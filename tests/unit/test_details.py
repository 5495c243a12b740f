"""GCE data in CloudStack's details: nothing but plain ASCII, in pieces that fit."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from translator_service.kept import details

LONGEST = 5120  # characters of a detail's value

values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=10,
).filter(bool)


@given(values)
@settings(max_examples=150)
def test_round_trip(value: object) -> None:
    packed = details.pack(details.LABELS, value)
    assert details.unpack(packed, details.LABELS, None) == value
    for text in packed.values():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", text)


@pytest.mark.parametrize("text", ["x" * 20_000, "zürich 😀 \\u0041 \\u0022\0" * 1000, '"' * 20_000])
def test_long_values_are_cut_and_put_together(text: str) -> None:
    value = {"startup-script": text}
    packed = details.pack(details.METADATA, value)
    assert len(packed) > 4
    assert all(len(chunk) <= LONGEST for chunk in packed.values())
    assert set(packed) == {"gce.metadata", *(f"gce.metadata.{number}" for number in range(1, len(packed)))}
    shuffled = dict(sorted({**packed, "other": "x", "gce.metadatas": "y"}.items(), reverse=True))
    assert details.unpack(shuffled, details.METADATA, {}) == value


@pytest.mark.parametrize("size", [3746, 3747, 3748, 7497, 7498])
def test_values_about_the_length_of_a_piece(size: int) -> None:
    packed = details.pack("k", "x" * size)
    assert details.unpack(packed, "k", "") == "x" * size
    assert all(packed.values())


@pytest.mark.parametrize("value", [None, {}, [], "", 0, False])
def test_nothing_takes_no_room(value: object) -> None:
    assert details.pack("k", value) == {}
    assert details.unpack({}, "k", "default") == "default"


def test_a_shorter_value_leaves_no_pieces_of_the_longer_one() -> None:
    before = {"cpuNumber": "2", "gce.metadata.note": "mine"} | details.pack(details.METADATA, {"a": "x" * 20_000})
    after = details.replaced(before, details.METADATA, {"a": "short"})
    assert set(after) == {"cpuNumber", "gce.metadata.note", "gce.metadata"}
    assert details.unpack(after, details.METADATA, {}) == {"a": "short"}
    assert set(details.replaced(before, details.METADATA, {})) == {"cpuNumber", "gce.metadata.note"}


@given(values, values)
@settings(max_examples=50)
def test_other_values_stay(one: object, other: object) -> None:
    both = details.pack("gce.tags", one) | details.pack("gce.tagsets", other)
    changed = details.replaced(both, "gce.tags", other)
    assert details.unpack(changed, "gce.tags", None) == other
    assert details.unpack(changed, "gce.tagsets", None) == other


@given(st.text(min_size=1))
@settings(max_examples=150)
def test_what_is_not_ours_is_the_default(text: str) -> None:
    found = details.decode(text, "default")
    if found != "default":
        assert isinstance(details.encode(found), str)  # by chance it was base64 of JSON


@pytest.mark.parametrize("text", ["hello world", "%%%", "ü", "e30x", "{}", "AAAA"])
def test_foreign_texts(text: str) -> None:
    assert details.decode(text, "default") == "default"


def test_as_parameters() -> None:
    assert details.parameters({"gce.tags": "x", "cpuNumber": "2"}) == {
        "details[0].gce.tags": "x",
        "details[0].cpuNumber": "2",
    }
