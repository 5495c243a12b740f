"""Filters of lists of projects: `lifecycleState:ACTIVE AND (id:web-* OR name="Web shop") -labels.env:test`.

The language is that of https://google.aip.dev/160, where OR binds closer than AND and a blank is an AND; `*` stands for
any text, and case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

from gstack.auth.resourcemanager.v1 import projects_pb2 as pb
from gstack.kernel.errors import ApiError, invalid

Filter = Callable[[pb.Project], bool]

_MAX_LENGTH = 1000
_MAX_DEPTH = 20
_TOKEN = re.compile(
    r"\s*(?:(?P<mark>\(|\)|-|(?:AND|OR|NOT)\b(?!\s*[:=]))|(?P<field>[\w.]+)\s*(?P<sign>!=|:|=)\s*"
    r'(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s()"]+)))'
)
_FIELDS: dict[str, Callable[[pb.Project], str]] = {
    "id": lambda one: one.projectId,
    "projectid": lambda one: one.projectId,
    "name": lambda one: one.name,
    "projectnumber": lambda one: str(one.projectNumber),
    "lifecyclestate": lambda one: one.lifecycleState,
}
# There are none here.
_EMPTY = ("labels", "parent")


def parse(text: str) -> Filter:
    """Raises 400 for what is no filter; "" lets everything through."""
    if len(text) > _MAX_LENGTH:
        raise invalid("filter", f"It must not be longer than {_MAX_LENGTH} characters.")
    tokens: list[re.Match[str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position, end)
        if found is None:
            raise _bad(text[position:])
        tokens.append(found)
        position = found.end()
    if not tokens:
        return lambda _: True
    parser = _Parser(tokens)
    made = parser.sequence(0)
    if parser.mark() is not None or parser.left:
        raise _bad(text)
    return made


class _Parser:
    def __init__(self, tokens: list[re.Match[str]]):
        self._tokens = tokens[::-1]

    @property
    def left(self) -> bool:
        return bool(self._tokens)

    def mark(self) -> str | None:
        return self._tokens[-1]["mark"] if self._tokens else None

    def sequence(self, depth: int) -> Filter:
        """Of factors that are all true."""
        factors = [self._factor(depth)]
        while self.left and self.mark() not in (")", "OR"):
            if self.mark() == "AND":
                self._tokens.pop()
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else lambda one: all(factor(one) for factor in factors)

    def _factor(self, depth: int) -> Filter:
        """Of terms of which one is true."""
        terms = [self._term(depth)]
        while self.mark() == "OR":
            self._tokens.pop()
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else lambda one: any(term(one) for term in terms)

    def _term(self, depth: int) -> Filter:
        if not self.left or depth > _MAX_DEPTH:
            raise _bad("")
        token = self._tokens.pop()
        if token["mark"] in ("NOT", "-"):
            inner = self._term(depth + 1)
            return lambda one: not inner(one)
        if token["mark"] == "(":
            inner = self.sequence(depth + 1)
            if self.mark() != ")":
                raise _bad(")")
            self._tokens.pop()
            return inner
        if token["mark"]:
            raise _bad(token["mark"])
        return _comparison(token)


def _comparison(token: re.Match[str]) -> Filter:
    field = token["field"].lower()
    if field.partition(".")[0] in _EMPTY:
        return lambda _: token["sign"] == "!="
    read = _FIELDS.get(field)
    if read is None:
        raise invalid("filter", f"'{token['field'][:60]}' is no field of a project.")
    value = token["bare"] if token["quoted"] is None else token["quoted"]
    # Only the star is special, not what else fnmatch knows.
    pattern = re.compile(translate(re.sub(r"[\[?]", lambda one: f"[{one[0]}]", value)), re.IGNORECASE)
    return lambda one: bool(pattern.match(read(one))) == (token["sign"] != "!=")


def _bad(text: str) -> ApiError:
    return invalid("filter", f"it cannot be read{f' at {text[:60]!r}' if text else ''}.")
