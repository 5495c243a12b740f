"""Pages of a list: order, tokens, limits."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gstack.compute.v1.common_pb2 import ListInZoneRequest
from gstack.compute.v1.instances_pb2 import Instance
from gstack.kernel.errors import ApiError
from translator_service.gce.paging import MAX_RESULTS, Pager

PAGER = Pager(b"a key")
PATH = "zones/z/instances"

instances = st.lists(
    st.builds(
        Instance,
        name=st.text("ab-1é", max_size=4),
        id=st.integers(1, 2**63 - 1),
        creationTimestamp=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2025-01-01T00:00:00Z"]),
    ),
    unique_by=lambda item: item.id,
    max_size=25,
)
orders = st.sampled_from(["", "name", "name desc", "creationTimestamp desc", " creationTimestamp  asc "])


def page(items: list[Instance], *, pager: Pager = PAGER, scope: str = PATH, **request) -> tuple[list[Instance], str]:
    return pager.page(
        items,
        ListInZoneRequest(**request),
        scope=scope,
        name=lambda item: item.name,
        created=lambda item: item.creationTimestamp,
        identity=lambda item: item.id,
    )


def ids(items: list[Instance]) -> list[int]:
    return [item.id for item in items]


def some(count: int) -> list[Instance]:
    return [Instance(name=f"i-{number:04}", id=number + 1) for number in range(count)]


@given(instances, st.integers(1, 30), orders)
@settings(max_examples=150)
def test_pages_together_are_the_sorted_list(items: list[Instance], size: int, order: str) -> None:
    whole, token = page(items, orderBy=order)
    assert token == "" and len(whole) == len(items)
    collected: list[Instance] = []
    for _ in range(100):
        shown, token = page(items, orderBy=order, maxResults=size, pageToken=token)
        assert len(shown) == size or not token
        collected += shown
        if not token:
            break
    assert ids(collected) == ids(whole)
    names = [item.name for item in whole]
    if not order or order.startswith("name"):
        assert names == sorted(names, reverse=order.endswith("desc"))
    else:
        times = [item.creationTimestamp for item in whole]
        assert times == sorted(times, reverse=order.endswith("desc"))


@given(instances, instances, st.integers(1, 5), orders, st.data())
@settings(max_examples=100)
def test_what_is_there_all_the_time_is_shown_once(
    kept: list[Instance], coming_and_going: list[Instance], size: int, order: str, data: st.DataObject
) -> None:
    staying = set(ids(kept))
    coming_and_going = [item for item in coming_and_going if item.id not in staying]
    collected: list[int] = []
    token = ""
    for _ in range(100):
        others = (
            data.draw(st.lists(st.sampled_from(coming_and_going), unique_by=lambda item: item.id))
            if coming_and_going
            else []
        )
        shown, token = page(kept + others, orderBy=order, maxResults=size, pageToken=token)
        collected += ids(shown)
        if not token:
            break
    assert len(collected) == len(set(collected))
    assert staying <= set(collected)


def test_the_order_is_by_name_and_then_by_id() -> None:
    items = [Instance(name="b", id=1), Instance(name="a", id=9), Instance(name="a", id=3)]
    assert ids(page(items)[0]) == [3, 9, 1]
    assert ids(page(items, orderBy="name desc")[0]) == [1, 9, 3]


@pytest.mark.parametrize(("size", "shown"), [(None, MAX_RESULTS), (0, MAX_RESULTS), (1, 1), (MAX_RESULTS, MAX_RESULTS)])
def test_sizes(size: int | None, shown: int) -> None:
    assert len(page(some(MAX_RESULTS + 1), maxResults=size)[0]) == shown


def test_a_last_page_that_is_full_has_no_token() -> None:
    assert page(some(4), maxResults=4)[1] == ""
    assert page(some(5), maxResults=4)[1] != ""
    assert page([], maxResults=4) == ([], "")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"maxResults": 501}, "maxResults"),
        ({"orderBy": "size"}, "orderBy"),
        ({"orderBy": "name, creationTimestamp"}, "orderBy"),
    ],
)
def test_what_is_refused(request_: dict, field: str) -> None:
    with pytest.raises(ApiError) as raised:
        page(some(2), **request_)
    assert (raised.value.code, raised.value.location) == (400, field)


def assert_refused(items: list[Instance], **request) -> None:
    with pytest.raises(ApiError) as raised:
        page(items, **request)
    assert (raised.value.code, raised.value.location) == (400, "pageToken")


def test_a_token_of_another_question_is_refused() -> None:
    items = some(5)
    token = page(items, maxResults=2, filter="name:i*", orderBy="name")[1]
    assert_refused(items, pageToken=token, filter="name:j*", orderBy="name")
    assert_refused(items, pageToken=token, filter="name:i*", orderBy="name desc")
    assert_refused(items, pageToken=token, filter="name:i*", orderBy="name", scope="zones/other/instances")
    assert_refused(items, pageToken=token, filter="name:i*", orderBy="name", pager=Pager(b"another key"))


def test_the_page_size_may_change_between_pages() -> None:
    items = some(5)
    token = page(items, maxResults=2)[1]
    assert ids(page(items, maxResults=3, pageToken=token)[0]) == [3, 4, 5]


def test_any_replica_with_the_same_key_goes_on() -> None:
    items = some(5)
    token = page(items, maxResults=2)[1]
    assert ids(page(items, maxResults=2, pageToken=token, pager=Pager(b"a key"))[0]) == [3, 4]


def test_b3_a_rotation_in_the_middle_of_a_list_breaks_nothing() -> None:
    items = some(7)
    keys = [b"old", b"staged"]
    pager = Pager(lambda: keys)
    token = page(items, maxResults=2, pager=pager)[1]
    keys[:] = [b"staged", b"old"]
    shown, token = page(items, maxResults=2, pageToken=token, pager=pager)
    assert ids(shown) == [3, 4]
    # This one is signed with the new key: it goes on without the old one, and on a replica that has it only staged.
    assert ids(page(items, maxResults=2, pageToken=token, pager=Pager(lambda: [b"old", b"staged"]))[0]) == [5, 6]
    keys[:] = [b"staged"]
    assert ids(page(items, maxResults=2, pageToken=token, pager=pager)[0]) == [5, 6]
    assert_refused(items, pageToken=token, pager=Pager(lambda: [b"old"]))


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=100)
def test_a_token_with_a_changed_bit_is_refused(position: int, flip: int) -> None:
    items = some(5)
    token = page(items, maxResults=2)[1]
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[position % len(raw)] ^= flip
    assert_refused(items, maxResults=2, pageToken=base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


@given(st.text(min_size=1, max_size=80))
@example("AAAA")
@example("!")
@example("ü")
@settings(max_examples=150)
def test_any_other_text_is_no_token(text: str) -> None:
    assert_refused(some(3), pageToken=text)


def test_tokens_fit_a_url() -> None:
    token = page([Instance(name="é" * 63, id=1), Instance(name="é" * 63, id=2)], maxResults=1)[1]
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
