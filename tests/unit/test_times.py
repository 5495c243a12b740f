"""Times: the same instant as CloudStack's, in one offset, in their order as texts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translator_service.gce.times import UNKNOWN_TIME, from_cloudstack, rfc3339

SHAPE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}-08:00")
moments = st.datetimes(
    min_value=datetime(1970, 1, 2),
    max_value=datetime(2200, 1, 1),
    timezones=st.sampled_from([timezone(timedelta(minutes=minutes)) for minutes in (0, 60, -480, 330, -210, 840)]),
).map(lambda moment: moment.replace(microsecond=0))


def cloudstack(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S%z")


@given(moments)
def test_the_same_instant(moment: datetime) -> None:
    for text in (from_cloudstack(cloudstack(moment)), rfc3339(moment.timestamp())):
        assert SHAPE.fullmatch(text)
        assert datetime.fromisoformat(text) == moment


@given(moments, moments)
def test_texts_are_in_the_order_of_time(one: datetime, other: datetime) -> None:
    texts = [from_cloudstack(cloudstack(moment)) for moment in (one, other)]
    assert (texts[0] < texts[1], texts[0] == texts[1]) == (one < other, one == other)


def test_milliseconds() -> None:
    assert rfc3339(1795389866.123) == "2026-11-22T15:24:26.123-08:00"
    assert from_cloudstack("2026-11-22T23:24:26+0000") == "2026-11-22T15:24:26.000-08:00"
    assert from_cloudstack("2026-11-22T23:24:26+0530") == "2026-11-22T09:54:26.000-08:00"


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-13-22T23:24:26+0000", "2026-11-22T25:24:26+0000", "0001-01-01T00:00:00+0000",
     "0001-01-01T00:00:00+0030", "2026-11-22T23:24:26", "2026-11-22T23:24:26+0000\n"],
)  # fmt: skip
def test_what_is_no_time_is_the_epoch(text: str) -> None:
    assert from_cloudstack(text) == UNKNOWN_TIME
    assert datetime.fromisoformat(UNKNOWN_TIME) == datetime.fromtimestamp(0, UTC)


def test_a_time_is_a_pattern_of_itself() -> None:
    """As a suite takes answers for regular expressions."""
    for text in (UNKNOWN_TIME, rfc3339(0), from_cloudstack("2026-11-22T23:24:26+0000")):
        assert re.fullmatch(text, text)
