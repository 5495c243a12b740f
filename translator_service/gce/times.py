"""Times as GCE writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_CLOUDSTACK = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([+-]\d\d)(\d\d)")
# What CloudStack has no time for; clients want one.
UNKNOWN_TIME = "1970-01-01T00:00:00.000+00:00"


def rfc3339(seconds: float) -> str:
    """`2026-11-22T23:24:26.123+00:00`, as GCE writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def cloudstack_time(seconds: float) -> str:
    """As CloudStack writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def from_cloudstack(text: str) -> str:
    """`2026-11-22T23:24:26+0000`, as CloudStack writes times, in GCE's way; the epoch for one that is unknown."""
    match = _CLOUDSTACK.fullmatch(text)
    return f"{match[1]}.000{match[2]}:{match[3]}" if match else UNKNOWN_TIME
