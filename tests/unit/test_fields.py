"""The `fields` parameter: partial responses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fields import apply, parse
from gstack.kernel.errors import ApiError

LIST = {
    "kind": "compute#instanceList",
    "items": [
        {"name": "a", "zone": "z", "networkInterfaces": [{"name": "nic0", "networkIP": "10.0.0.1"}]},
        {"name": "b", "labels": {"env": "prod"}},
    ],
    "nextPageToken": "t",
}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("kind", {"kind": "compute#instanceList"}),
        ("kind,nextPageToken", {"kind": "compute#instanceList", "nextPageToken": "t"}),
        ("items(name)", {"items": [{"name": "a"}, {"name": "b"}]}),
        ("items/name", {"items": [{"name": "a"}, {"name": "b"}]}),
        ("items(name,zone),kind", {"items": [{"name": "a", "zone": "z"}, {"name": "b"}], "kind": LIST["kind"]}),
        ("items/networkInterfaces/name", {"items": [{"networkInterfaces": [{"name": "nic0"}]}, {}]}),
        ("items(networkInterfaces(networkIP))", {"items": [{"networkInterfaces": [{"networkIP": "10.0.0.1"}]}, {}]}),
        ("items(networkInterfaces/networkIP,name)", {
            "items": [{"name": "a", "networkInterfaces": [{"networkIP": "10.0.0.1"}]}, {"name": "b"}]
        }),
        ("items/*/name", {"items": [{"networkInterfaces": [{"name": "nic0"}], "name": "a", "zone": "z"}, {}]}),
        ("items/labels/env", {"items": [{}, {"labels": {"env": "prod"}}]}),
        (" items ( name ) , kind ", {"kind": "compute#instanceList", "items": [{"name": "a"}, {"name": "b"}]}),
        ("nosuch", {}),
        ("items/name,items", {"items": LIST["items"]}),
        ("items(name),items(name,zone)", {"items": [{"name": "a", "zone": "z"}, {"name": "b"}]}),
        ("items/name,items/zone", {"items": [{"name": "a", "zone": "z"}, {"name": "b"}]}),
    ],
)  # fmt: skip
def test_masks(mask: str, expected: dict) -> None:
    parsed = parse(mask)
    assert parsed is not None
    if "*" in mask:
        # What is no object has nothing below it to choose from, and stays.
        expected["items"][1] = {"name": "b", "labels": {}}
    assert apply(parsed, LIST) == expected


@pytest.mark.parametrize("mask", ["", "*"])
def test_no_mask(mask: str) -> None:
    assert parse(mask) is None


@pytest.mark.parametrize(
    "mask",
    [",", "a,", ",a", "a,,b", "(", ")", "a(", "a()", "a(b", "a)b", "a/", "/a", "a//b", "a(b))", "a(b)c", "a b", "(a)",
     "/".join("a" * 40), "a(" * 40 + "a" + ")" * 40, "a" * 5000, "a," * 3000],
)  # fmt: skip
def test_refused(mask: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(mask)
    assert (raised.value.code, raised.value.location) == (400, "fields")
    assert len(raised.value.message) < 200


words = st.sampled_from(["a", "b", "c", "*"])
masks = st.recursive(
    words,
    lambda below: st.one_of(
        st.builds(lambda left, right: f"{left},{right}", below, below),
        st.builds(lambda name, inner: f"{name}({inner})", words, below),
        st.builds(lambda name, other: f"{name}/{other}", words, words),
    ),
    max_leaves=6,
)
values = st.recursive(
    st.integers() | st.text(max_size=2),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abcd"), below, max_size=4),
    max_leaves=10,
)


def holds(whole: object, part: object) -> bool:
    """Whether `part` is `whole` with nothing but names left out."""
    if isinstance(whole, dict):
        return isinstance(part, dict) and all(name in whole and holds(whole[name], part[name]) for name in part)
    if isinstance(whole, list):
        return isinstance(part, list) and len(whole) == len(part) and all(map(holds, whole, part))
    return whole == part


@given(masks, values)
@settings(max_examples=150)
def test_a_mask_only_leaves_names_out_and_doing_it_twice_changes_nothing(mask: str, value: object) -> None:
    parsed = parse(mask)
    if parsed is None:
        return
    chosen = apply(parsed, value)
    assert holds(value, chosen)
    assert apply(parsed, chosen) == chosen


@given(st.text("ab(),/* ", max_size=30) | st.text(max_size=20))
@settings(max_examples=200)
def test_any_text_is_a_mask_or_400(text: str) -> None:
    try:
        parsed = parse(text)
    except ApiError as error:
        assert error.code == 400
    else:
        apply(parsed or {}, LIST)
