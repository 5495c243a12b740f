"""Methods of Google's that we do not serve: known by what `gce_methods.txt` says of them, and refused by name.

Of some collections a cloud of ours can have nothing (`absent_collections.txt`): their lists are empty, which is the
truth, and what they would hold is not found. Whatever is not offered is a 400, which clients show at once; a 501 is
asked again for half a minute. Where a user would ask why, it says so (`refused_methods.txt`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from gstack.kernel.errors import not_found, not_offered

FOLDER = resources.files("gateway")
METHODS = "gce_methods.txt"
_ABSENT = "absent_collections.txt"
_REFUSED = "refused_methods.txt"
_SEVERAL = re.compile(r"\{\w+=([^}]+)\}")
_SCOPES = {"project", "zone", "region"}


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str  # type or format of discovery documents; "string" for texts
    required: bool
    repeated: bool


@dataclass(frozen=True)
class Other:
    """A method by what stands in its line. path: as in `google.api.http`. body, reply: names of schemas, or ""."""

    id: str
    verb: str
    path: str
    body: str = ""
    reply: str = ""
    query: str = ""

    @property
    def mutates(self) -> bool:
        return self.verb != "GET"

    @property
    def collection(self) -> str:
        return self.id.split(".")[-2]

    @property
    def segments(self) -> str:
        """The path with a parameter for each segment."""
        return _SEVERAL.sub(lambda found: found[1].replace("*", "{}"), self.path)

    @cached_property
    def path_parameters(self) -> list[str]:
        return re.findall(r"\{(\w+)", self.path)

    def query_parameters(self) -> list[Parameter]:
        found = []
        for text in filter(None, self.query.split(",")):
            name, _, kind = text.rstrip("!*").partition(":")
            found.append(Parameter(name, kind or "string", "!" in text, "*" in text))
        return found

    @property
    def is_absent(self) -> bool:
        """Whether there is nothing of its kind, rather than nothing to be had."""
        return not self.mutates and self.collection in absent_collections()

    @property
    def why(self) -> str:
        """How the sentence goes on that it is not offered, "" where nobody would ask."""
        return refusals().get(self.id, "")

    @property
    def lists(self) -> bool:
        return self.id.endswith((".list", ".aggregatedList")) and set(self.path_parameters) <= _SCOPES

    def answer(self, path: str, base: str, advice: str = "") -> dict[str, Any]:
        """An empty list. path: of the request, below the version; base: of links; advice: for a refusal.

        Raises 400 and 404.
        """
        if self.is_absent and self.lists:
            return {
                "kind": f"compute#{self.reply[:1].lower()}{self.reply[1:]}",
                "id": path,
                "items": {} if self.id.endswith(".aggregatedList") else [],
                "selfLink": f"{base}/{path}",
            }
        if self.is_absent and not set(self.path_parameters) <= _SCOPES:
            raise not_found(path)
        raise not_offered(self.id, advice, self.why)


@cache
def absent_collections() -> frozenset[str]:
    return frozenset(_lines(_ABSENT))


@cache
def refusals() -> dict[str, str]:
    """Id of a method -> why it is not offered."""
    return {identity: why for identity, _, why in (line.partition(" ") for line in _lines(_REFUSED))}


def _lines(name: str) -> list[str]:
    lines = FOLDER.joinpath(name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@cache
def read(name: str) -> tuple[Other, ...]:
    """The methods of a file. Some of them may be ours."""
    found = []
    for line in FOLDER.joinpath(name).read_text().splitlines():
        verb, path, identity, *more = line.split()
        found.append(Other(identity, verb, path, *(text.strip("-") for text in more)))
    return tuple(found)
