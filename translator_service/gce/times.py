"""Times as GCE writes them: `2026-11-22T15:24:26.123-08:00`, always eight hours west.

Any offset is right in RFC 3339. Google's is that of its own clocks, and clients are made to it: some use an answer as
a regular expression, where the `+` of `+00:00` means something else. A fixed offset, unlike a real zone's, leaves times
in their order as texts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

_ZONE = timezone(timedelta(hours=-8))
_CLOUDSTACK = re.compile(r"(\d{4}-\d\d-\d\dT\d\d)(:\d\d:\d\d)([+-]\d{4})")
# What CloudStack has no time for; clients want one: the epoch.
UNKNOWN_TIME = "1969-12-31T16:00:00.000-08:00"


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as GCE writes times."""
    return _text(datetime.fromtimestamp(seconds, _ZONE))


def cloudstack_time(seconds: float) -> str:
    """As CloudStack writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def from_cloudstack(text: str) -> str:
    """`2026-11-22T23:24:26+0000`, as CloudStack writes times, in GCE's way; the epoch for one that is unknown."""
    match = _CLOUDSTACK.fullmatch(text)
    if match is None:
        return UNKNOWN_TIME
    hour, rest, offset = match.groups()
    try:
        if offset.endswith("00"):
            return f"{_hour(hour, offset)}{rest}.000-08:00"
        return _text(datetime.fromisoformat(text).astimezone(_ZONE))
    except (ValueError, OverflowError):
        return UNKNOWN_TIME


def from_kept(text: str) -> str:
    """A time that is kept, in any way of ISO 8601, in GCE's; "" for what is none: anybody may write what is kept."""
    try:
        moment = datetime.fromisoformat(text)
        return _text(moment.astimezone(_ZONE)) if moment.tzinfo is not None else ""
    except (ValueError, OverflowError):
        return ""


@lru_cache(8192)
def _hour(hour: str, offset: str) -> str:
    """An hour here. Lists have thousands of times, of not so many hours."""
    return _text(datetime.fromisoformat(f"{hour}:00:00{offset}").astimezone(_ZONE))[:13]


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
