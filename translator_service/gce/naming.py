"""GCE names and numbers of CloudStack things, and back. The one name resolver.

`rfc1035`: a name becomes a lower-case slug; of several with the same slug the oldest keeps it, the others get
`-<first 8 hex digits of the uuid>`. `verbatim`: CloudStack's own names, duplicates told apart in the same way.
On input the shown name, the verbatim name, the uuid and the numeric id all work.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from cachetools import LRUCache

from gstack.kernel.errors import ApiError, invalid
from translator_service.cloudstack.rows import Row

Naming = Literal["rfc1035", "verbatim"]

MAX_LENGTH = 63
PATTERN = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_NAME = re.compile(PATTERN)
_OTHER = re.compile(r"[^a-z0-9]+")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_SUFFIXED = re.compile(r"(?P<stem>.+)-(?P<hex>[0-9a-f]{8})")


def slug(name: str) -> str:
    """`Linux CentOS 6.4 64-bit` -> `linux-centos-6-4-64-bit`; always a valid GCE name."""
    text = _OTHER.sub("-", name.lower()).strip("-")
    if not text or not text[0].isalpha():
        text = f"x-{text}" if text else "x"
    return text[:MAX_LENGTH].rstrip("-")


def number(identity: str) -> int:
    """A stable id for a uuid, or for any other text: 1 to 2^63-1 (clients parse ids as signed 64-bit integers)."""
    try:
        value = uuid.UUID(identity).int >> 65
    except ValueError:
        value = uuid.uuid5(uuid.NAMESPACE_URL, identity).int >> 65
    return value or 1


def check_new_name(name: str, field: str = "resource.name") -> None:
    """Raise 400 with the pattern unless this is a name that GCE would accept for a new resource."""
    if not name:
        raise ApiError(400, f"Required field '{field}' not specified", "required", field)
    if not _NAME.fullmatch(name):
        raise invalid(field, f"'{name}'. Must be a match of regex '{PATTERN}'")


def is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= 19


def is_askable(name: str) -> bool:
    """CloudStack takes at most 255 characters, and none of four bytes (recordings, Surprises 34)."""
    return len(name) <= 255 and all(character <= "\uffff" for character in name)


def with_suffix(shown: str, identity: str, attempt: int = 0) -> str:
    """attempt: above 0 when another row has that name already, be it by chance or by somebody's intent."""
    tail = identity[:8] if not attempt else f"{number(f'{identity}/{attempt}'):x}"
    return f"{shown[: MAX_LENGTH - 1 - len(tail)].rstrip('-')}-{tail}"


def split_suffix(name: str) -> tuple[str, str] | None:
    """(`stem`, `hex`) of a name that may be one of several: `web-1a2b3c4d`."""
    match = _SUFFIXED.fullmatch(name)
    return (match["stem"], match["hex"]) if match else None


# Digits of a host name that tell whose it is and which name was asked for, and those that count the attempts.
_OWNED, _ATTEMPT = 6, 2
_HOST = re.compile(rf"(?P<stem>.+)-(?P<owned>[0-9a-f]{{{_OWNED}}})[0-9a-f]{{{_ATTEMPT}}}")


def host_name(owner: str, name: str, attempt: int) -> str:
    """The host name of an instance whose own name somebody else's has in its network: `web-1a2b3c00` for `web`.

    owner: key of the project. attempt: 0 to 255, when that is taken too.
    """
    return f"{host_stem(owner, name)}{attempt:0{_ATTEMPT}x}"


def host_stem(owner: str, name: str) -> str:
    """What all such host names of the name begin with."""
    return f"{_host_stem(name)}-{_owned(owner, name)}"


def asked_name(owner: str, host: str, kept: str = "") -> str:
    """The name that was asked for an instance with this host name. kept: the one kept with it, for a long one, which
    its host name tells only in part."""
    match = _HOST.fullmatch(host)
    if match is None:
        return host
    for name in (kept, match["stem"]):
        if name and _host_stem(name) == match["stem"] and _owned(owner, name) == match["owned"]:
            return name
    return host


def _host_stem(name: str) -> str:
    return name[: MAX_LENGTH - 1 - _OWNED - _ATTEMPT].rstrip("-")


def _owned(owner: str, name: str) -> str:
    return hashlib.sha256(f"{owner}/{name}".encode()).hexdigest()[:_OWNED]


class Ids:
    """Numeric ids that answers have shown, so that a name that is a number costs no list."""

    def __init__(self, size: int = 50_000):
        """size: how many are remembered; each takes some 250 bytes."""
        self._known: LRUCache[int, str] = LRUCache(size)
        self._lock = threading.Lock()

    def remember(self, identity: str, shown: str = "") -> None:
        """shown: what its number is made of, where that is something else."""
        with self._lock:
            self._known[number(shown or identity)] = identity

    def find(self, wanted: int) -> str | None:
        with self._lock:
            return self._known.get(wanted)


class Index:
    """The GCE names of a list of CloudStack rows. Rows need `id`; age is `created`, then their order in the list."""

    def __init__(
        self,
        rows: Iterable[Row],
        naming: Naming,
        *,
        label: Callable[[Row], str] = lambda row: str(row.get("name", "")),
        mapped: dict[str, str] | None = None,
        rank: Callable[[Row], int] = lambda row: 0,
    ):
        """mapped: CloudStack name -> GCE name, what an operator decided.

        rank: how far a row is from the caller. Nothing of a higher rank takes what one of a lower rank is called by.
        """
        self._shown: dict[str, Row] = {}
        self._other: dict[str, Row] = {}
        self._names: dict[str, str] = {}
        self._rank = rank
        mapped = mapped or {}
        ordered = sorted(
            rows,
            key=lambda row: (rank(row), row["id"] not in mapped and label(row) not in mapped, row.get("created", "")),
        )
        for row in ordered:
            verbatim = label(row)
            shown = (
                mapped.get(row["id"]) or mapped.get(verbatim) or (slug(verbatim) if naming == "rfc1035" else verbatim)
            )
            plain, attempt = shown, 0
            while shown in self._shown or self._is_nearer(shown, row):
                shown = with_suffix(plain, row["id"], attempt)
                attempt += 1
            self._shown[shown] = row
            self._names[row["id"]] = shown
            for alias in (verbatim, row["id"].lower(), str(number(row["id"]))):
                self._other.setdefault(alias, row)

    def _is_nearer(self, alias: str, row: Row) -> bool:
        known = self._other.get(alias)
        return known is not None and self._rank(known) < self._rank(row)

    def find(self, name: str) -> Row | None:
        shown = self._shown.get(name)
        other = self._other.get(name) or self._other.get(name.lower())
        if shown is None or other is None:
            return shown or other
        return other if self._rank(other) < self._rank(shown) else shown

    def name(self, identity: str) -> str | None:
        """The GCE name of the row with this uuid."""
        return self._names.get(identity)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """(GCE name, row), in the order of the names."""
        return iter(sorted(self._shown.items()))

    def __len__(self) -> int:
        return len(self._shown)
