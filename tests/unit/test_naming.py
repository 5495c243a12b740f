"""GCE names and numbers of CloudStack rows, and back."""

from __future__ import annotations

import random
import re
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstack.kernel.errors import ApiError
from translator_service.gce.naming import (
    PATTERN,
    Ids,
    Index,
    Row,
    check_new_name,
    number,
    slug,
    split_suffix,
    with_suffix,
)

GCE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
FIRST = "11111111-aaaa-4aaa-8aaa-000000000001"
SECOND = "22222222-bbbb-4bbb-8bbb-000000000002"
THIRD = "33333333-cccc-4ccc-8ccc-000000000003"

# Few letters and few uuids, so that names and the beginnings of uuids meet.
tight_names = st.text("aA1 -", max_size=4) | st.sampled_from(["web", "Web", "web-0a000000", "x", ""])
identities = st.builds(
    lambda head, middle: str(uuid.UUID(int=(head << 96) | (middle << 66), version=4)),
    st.sampled_from([0x0A000000, 0x0B000000, 0xFFFFFFFF]),
    st.integers(0, 2**10 - 1),
)


@st.composite
def lists_of_rows(draw: st.DrawFn) -> list[Row]:
    ids = draw(st.lists(identities, unique=True, max_size=8))
    days = draw(st.permutations(range(1, len(ids) + 1)))
    return [
        {"id": one, "name": draw(tight_names | st.text(max_size=80)), "created": f"2026-01-{day:02}T00:00:00+0000"}
        for one, day in zip(ids, days, strict=True)
    ]


def row(identity: str, name: str, day: int = 1) -> Row:
    return {"id": identity, "name": name, "created": f"2026-01-{day:02}T00:00:00+0000"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("CH-GV2", "ch-gv2"),
        ("Linux CentOS 6.4 64-bit", "linux-centos-6-4-64-bit"),
        ("web-1", "web-1"),
        ("1web", "x-1web"),
        ("", "x"),
        ("---", "x"),
        ("Zürich", "z-rich"),
        ("a" * 70, "a" * 63),
        ("a" * 62 + "-b", "a" * 62),
    ],
)
def test_slugs(name: str, shown: str) -> None:
    assert slug(name) == shown


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_a_slug_is_a_gce_name_and_its_own_slug(name: str) -> None:
    shown = slug(name)
    assert GCE_NAME.fullmatch(shown)
    assert slug(shown) == shown
    check_new_name(shown)


@given(st.uuids().map(str) | st.text())
def test_numbers_are_positive_signed_64_bit_and_stable(identity: str) -> None:
    assert 1 <= number(identity) <= 2**63 - 1
    assert number(identity) == number(identity)


def test_a_number_is_never_zero_and_knows_no_case() -> None:
    assert number(str(uuid.UUID(int=0))) == 1
    assert number(FIRST.upper()) == number(FIRST)
    assert number(FIRST) != number(SECOND)


@pytest.mark.parametrize("name", ["Web", "1web", "web-", "-web", "web_1", "a" * 64, "wéb", "web\n"])
def test_names_that_gce_refuses(name: str) -> None:
    with pytest.raises(ApiError) as raised:
        check_new_name(name, "resource.name")
    assert (raised.value.code, raised.value.location) == (400, "resource.name")
    assert PATTERN in raised.value.message


def test_a_name_is_required() -> None:
    with pytest.raises(ApiError) as raised:
        check_new_name("", "resource.name")
    assert (raised.value.reason, raised.value.location) == ("required", "resource.name")


def test_the_oldest_keeps_the_slug() -> None:
    index = Index([row(SECOND, "web", 2), row(FIRST, "Web", 1), row(THIRD, "WEB", 3)], "rfc1035")
    assert index.name(FIRST) == "web"
    assert index.name(SECOND) == "web-22222222"
    assert index.name(THIRD) == "web-33333333"
    assert [shown for shown, _ in index] == ["web", "web-22222222", "web-33333333"]


def test_verbatim_shows_the_clouds_names_and_tells_duplicates_apart() -> None:
    index = Index([row(FIRST, "My Image", 1), row(SECOND, "My Image", 2)], "verbatim")
    assert index.name(FIRST) == "My Image"
    assert index.name(SECOND) == "My Image-22222222"


@pytest.mark.parametrize("naming", ["rfc1035", "verbatim"])
def test_every_spelling_of_a_row_finds_it(naming) -> None:
    index = Index([row(FIRST, "Linux CentOS 6.4")], naming)
    for spelling in ("Linux CentOS 6.4", FIRST, FIRST.upper(), str(number(FIRST)), index.name(FIRST)):
        found = index.find(spelling)
        assert found is not None and found["id"] == FIRST
    assert index.find("linux") is None
    assert index.name(SECOND) is None


def test_what_an_operator_mapped_wins_over_age() -> None:
    rows = [row(FIRST, "gold", 1), row(SECOND, "Old Disk", 2), row(THIRD, "Other", 3)]
    index = Index(rows, "rfc1035", mapped={"Old Disk": "gold", THIRD: "pd-ssd"})
    assert index.name(SECOND) == "gold"
    assert index.name(FIRST) == "gold-11111111"
    assert index.name(THIRD) == "pd-ssd"


def test_a_suffix_that_an_older_row_has_as_its_name_is_not_used_twice() -> None:
    rows = [row(FIRST, "web-22222222", 1), row(THIRD, "web", 2), row(SECOND, "web", 3)]
    index = Index(rows, "rfc1035")
    assert index.name(FIRST) == "web-22222222"
    assert len({index.name(one["id"]) for one in rows}) == len(index) == 3


def test_what_is_far_takes_no_name_of_what_is_near() -> None:
    near = row("abcdefab-1111-4111-8111-111111111111", "web", 9)
    names = ["web", near["id"], str(number(near["id"])), "Web"]
    far = [{**row(str(uuid.UUID(int=place)), name, place), "far": 1} for place, name in enumerate(names, 1)]
    for naming in ("rfc1035", "verbatim"):
        index = Index([*far, near], naming, rank=lambda one: one.get("far", 0))  # type: ignore[arg-type]
        assert index.name(near["id"]) == "web"
        for name in ("web", near["id"], near["id"].upper(), str(number(near["id"]))):
            assert index.find(name) is near
        for one in far:
            assert index.find(one["id"]) is index.find(index.name(one["id"]) or "") is one


@given(lists_of_rows(), st.sampled_from(["rfc1035", "verbatim"]))
@settings(max_examples=200)
def test_names_are_unique_and_every_row_is_found(rows: list[Row], naming) -> None:
    index = Index(rows, naming)
    assert len(index) == len(rows)
    shown = {one["id"]: index.name(one["id"]) for one in rows}
    assert len(set(shown.values())) == len(rows)
    assert {one["id"]: name for name, one in index} == shown
    for one in rows:
        assert index.find(shown[one["id"]]) is one
        assert index.find(one["id"]) is one
        assert index.find(str(number(one["id"]))) is one
        if naming == "rfc1035":
            assert GCE_NAME.fullmatch(shown[one["id"]])


@given(lists_of_rows(), st.sampled_from(["rfc1035", "verbatim"]), st.randoms())
@settings(max_examples=100)
def test_names_do_not_depend_on_the_order_of_the_answer(rows: list[Row], naming, shuffle: random.Random) -> None:
    before = dict(Index(rows, naming)._names)
    mixed = list(rows)
    shuffle.shuffle(mixed)
    assert Index(mixed, naming)._names == before


@given(st.text("abc-1", min_size=1, max_size=63).map(slug), st.uuids().map(str))
def test_a_suffixed_name_is_short_enough_and_splits_again(name: str, identity: str) -> None:
    shown = with_suffix(name, identity)
    assert len(shown) <= 63
    parts = split_suffix(shown)
    assert parts is not None
    stem, digits = parts
    assert name.startswith(stem) and identity.startswith(digits)


def test_a_name_without_suffix_does_not_split() -> None:
    assert split_suffix("web") is None
    assert split_suffix("web-1234567") is None
    assert split_suffix("web-1234567g") is None


def test_ids_remember_what_was_shown() -> None:
    ids = Ids(size=2)
    ids.remember(FIRST)
    assert ids.find(number(FIRST)) == FIRST
    assert ids.find(number(SECOND)) is None
    ids.remember(SECOND)
    ids.remember(THIRD)
    assert ids.find(number(FIRST)) is None
