"""The `filter` parameter: GCE's old `field eq regex` and AIP-160, over the messages of a list.

Grammar (AIP-160; OR binds tighter than AND, a blank between terms is AND):

    expression = sequence {"AND" sequence}
    sequence   = factor {factor}
    factor     = term {"OR" term}
    term       = ["NOT" | "-"] ("(" expression ")" | restriction)
    restriction = field [operator value]
    operator   = "=" "!=" "<" "<=" ">" ">=" ":" "eq" "ne" "=~" "!~" "~"

`eq` and `ne` take a regular expression (RE2 subset) that must match the whole value, as old clients send. `=` and `!=`
compare, with `*` as wildcard. `:` is "has": a substring for text, presence for `field:*`. A value that is a link also
matches by its last segment, one that is a time by its instant. Unknown fields, fields that hold others (`tags`) and
have no value to compare, operators without value and unbalanced parentheses are 400.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from operator import ge, gt, le, lt
from typing import Any

import re2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gstack.kernel.errors import ApiError

Predicate = Callable[[Message], bool]

# A bad pattern is the client's business, not the log's.
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False

# GCE's.
MAX_LENGTH = 4096
_MAX_DEPTH = 50
# Instructions of a compiled pattern, which each character of a text may cost: `(a{30}){30}` is short and has 900.
# As many names as a filter has room for have fewer.
_MAX_PATTERN = 5000
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<operator>!=|<=|>=|=~|!~|=|<|>|:|~)
    | (?P<paren>[()])
    | (?P<word>[^\s()"'=!<>:~][^\s()"'=!<>~]*|-)
    )""",
    re.VERBOSE,
)
# The value of eq and ne runs to the end of its term and may hold anything a regular expression may.
_REGEX_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s]+))""")


def bad(expression: str, why: str) -> ApiError:
    return ApiError(
        400,
        f"Invalid value for field 'filter': '{expression}'. Invalid list filter expression: {why}",
        "invalid",
        "filter",
    )


def compile_filter(expression: str, message: Descriptor) -> Predicate | None:
    """A predicate over messages of this type; None for an empty filter. Raises 400 naming what is wrong."""
    if not expression.strip():
        return None
    if len(expression) > MAX_LENGTH:
        raise bad(expression[:80] + "…", f"longer than {MAX_LENGTH} characters.")
    return _Parser(expression, message).parse()


class _Parser:
    def __init__(self, text: str, message: Descriptor):
        self.text = text
        self.message = message
        self.position = 0
        self.depth = 0

    def parse(self) -> Predicate:
        predicate = self._expression()
        if self._peek() is not None:
            raise self._error("unexpected text")
        return predicate

    def _error(self, why: str) -> ApiError:
        return bad(self.text, f"{why} at position {self.position}.")

    def _match(self) -> re.Match[str] | None:
        if not self.text[self.position :].strip():
            return None
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            raise self._error("unreadable text")
        return match

    def _peek(self) -> str | None:
        match = self._match()
        return match[0].strip() if match else None

    def _next(self) -> re.Match[str]:
        match = self._match()
        if match is None:
            raise self._error("unexpected end")
        self.position = match.end()
        return match

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self._error("nested too deeply")

    def _expression(self) -> Predicate:
        self._deeper()
        predicates = [self._sequence()]
        while self._peek() in ("AND", "and"):
            self._next()
            predicates.append(self._sequence())
        self.depth -= 1
        return _all(predicates)

    def _sequence(self) -> Predicate:
        predicates = [self._factor()]
        while self._peek() not in (None, ")", "AND", "and"):
            predicates.append(self._factor())
        return _all(predicates)

    def _factor(self) -> Predicate:
        predicates = [self._term()]
        while self._peek() in ("OR", "or"):
            self._next()
            predicates.append(self._term())
        return predicates[0] if len(predicates) == 1 else lambda message: any(p(message) for p in predicates)

    def _term(self) -> Predicate:
        token = self._peek()
        if token in ("NOT", "not", "-"):
            self._next()
            self._deeper()
            negated = self._term()
            self.depth -= 1
            return lambda message: not negated(message)
        if token == "(":
            self._next()
            inner = self._expression()
            if self._peek() != ")":
                raise self._error("missing )")
            self._next()
            return inner
        return self._restriction()

    def _restriction(self) -> Predicate:
        match = self._next()
        name = match["word"]
        if name is None:
            raise self._error(f"expected a field, found {match[0].strip()}")
        negate = name.startswith("-") and len(name) > 1
        name = name.removeprefix("-") if negate else name
        if ":" in name and not name.startswith("labels."):
            # `zone:us-*`: the word takes the colon along because label keys of gcloud may hold one.
            name, _, rest = name.partition(":")
            self.position -= len(rest) + 1
        elif name.startswith("labels.") and ":" in name:
            name, _, rest = name.partition(":")
            self.position -= len(rest) + 1
        values, holds_fields = _field(self.message, name, self)
        operator = self._operator()
        if holds_fields and operator is not None and not (operator == ":" and self._peek() == "*"):
            raise self._error(f"field '{name}' has no value of its own, only fields in it have")
        if operator is None:
            found: Predicate = lambda message: any(value not in ("", False) for value in values(message))  # noqa: E731
        elif operator in ("eq", "ne"):
            pattern = self._pattern(self._regex_value())
            found = lambda message: any(_matches(pattern, value) for value in values(message))  # noqa: E731
            negate ^= operator == "ne"
        else:
            found = _comparison(operator, self._value(), values, self)
            negate ^= operator in ("!=", "!~")
        return (lambda message: not found(message)) if negate else found

    def _operator(self) -> str | None:
        match = self._match()
        if match is None:
            return None
        if match["operator"] or match["word"] in ("eq", "ne"):
            self.position = match.end()
            return match["operator"] or match["word"]
        return None

    def _value(self) -> str:
        match = self._match()
        if match is not None and match["word"] is None and match["string"] is None:
            raise self._error("expected a value")
        if match is None:
            raise self._error("expected a value")
        self.position = match.end()
        if match["string"]:
            return _unquote(match["string"])
        return match["word"]

    def _regex_value(self) -> str:
        match = _REGEX_VALUE.match(self.text, self.position)
        if match is None:
            raise self._error("expected a value")
        if match[3] is None:
            self.position = match.end()
            return _unquote(match[0].strip(), regex=True)
        # A bare word ends at a blank, or at a parenthesis that it did not open.
        word, open_ = match[3], 0
        for index, character in enumerate(word):
            if character == "(":
                open_ += 1
            elif character == ")":
                open_ -= 1
                if open_ < 0:
                    word = word[:index]
                    break
        if not word:
            raise self._error("expected a value")
        self.position = match.start(3) + len(word)
        return word

    def _pattern(self, text: str) -> Any:
        """RE2, as GCE has: its time is linear in the text, whatever the pattern; Python's own would hold a thread."""
        try:
            pattern = re2.compile(text, _RE2_OPTIONS)
        except re2.error as error:
            why = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            raise self._error(f"invalid regular expression: {why}") from None
        if pattern.programsize > _MAX_PATTERN:
            raise self._error("regular expression too complex")
        return pattern


def _all(predicates: list[Predicate]) -> Predicate:
    return predicates[0] if len(predicates) == 1 else lambda message: all(p(message) for p in predicates)


def _unquote(text: str, regex: bool = False) -> str:
    """A quoted string without quotes; in a regular expression only the quotes' own escapes are undone."""
    inner = text[1:-1]
    return inner.replace('\\"', '"') if regex else re.sub(r"\\(.)", r"\1", inner)


def _field(message: Descriptor, path: str, parser: _Parser) -> tuple[Callable[[Message], list[Any]], bool]:
    """(a function that returns all values found under a path such as `networkInterfaces.network` or `labels.env`,
    whether they are messages)."""
    steps: list[FieldDescriptor] = []
    key: str | None = None
    descriptor: Descriptor | None = message
    parts = path.split(".")
    for index, part in enumerate(parts):
        field = descriptor.fields_by_name.get(part) if descriptor is not None else None
        if field is None:
            raise parser._error(f"unknown field '{path}'")
        steps.append(field)
        if _is_map(field):
            key = ".".join(parts[index + 1 :])
            break
        descriptor = field.message_type
    return lambda root: list(_walk(root, steps, key)), descriptor is not None and key is None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _walk(node: Any, steps: list[FieldDescriptor], key: str | None) -> Iterator[Any]:
    if not steps:
        yield node
        return
    field, rest = steps[0], steps[1:]
    if _is_map(field):
        pairs = getattr(node, field.name)
        if not key:
            yield from pairs
        elif key in pairs:
            yield pairs[key]
        return
    if field.message_type is not None and not field.is_repeated and not node.HasField(field.name):
        return
    value = getattr(node, field.name)
    for item in value if field.is_repeated else (value,):
        yield from _walk(item, rest, key)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Message):
        return "set"
    return str(value)


def _last(text: str) -> str | None:
    return text.rpartition("/")[2] if "://" in text else None


def _wildcard(wanted: str, *, whole: bool) -> Callable[[str], bool]:
    """Whether a text is (or holds) `wanted`, where `*` is anything. Needs no backtracking: each piece comes first."""
    first, *rest = wanted.lower().split("*")

    def matches(text: str) -> bool:
        text = text.lower()
        if whole and not rest:
            return text == first
        position, end = 0, len(text)
        if whole:
            position, end = len(first), end - len(rest[-1])
            if not text.startswith(first) or not text.endswith(rest[-1]) or position > end:
                return False
        for piece in rest[:-1] if whole else [first, *rest]:
            position = text.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True

    return matches


def _matches(pattern: Any, value: Any) -> bool:
    text = _text(value)
    if pattern.fullmatch(text):
        return True
    last = _last(text)
    return last is not None and bool(pattern.fullmatch(last))


def _comparison(operator: str, wanted: str, values: Callable[[Message], list[Any]], parser: _Parser) -> Predicate:
    if operator in ("=", "!="):
        same = _wildcard(wanted, whole=True)
        moment = _moment(wanted)

        def equal(value: Any) -> bool:
            text = _text(value)
            if same(text) or (moment is not None and moment == _moment(text)):
                return True
            last = _last(text)
            if last is not None and same(last):
                return True
            # A link by any spelling: `https://elsewhere/compute/v1/projects/p/x` is `projects/p/x`.
            return last is not None and "projects/" in wanted and text.endswith(wanted[wanted.index("projects/") :])

        return lambda message: any(equal(value) for value in values(message))
    if operator == ":":
        if wanted == "*":
            return lambda message: any(value not in ("", False) for value in values(message))
        holds = _wildcard(wanted, whole=False)
        return lambda message: any(holds(_text(value)) for value in values(message))
    if operator in ("=~", "!~", "~"):
        pattern = parser._pattern(wanted)
        return lambda message: any(pattern.search(_text(value)) for value in values(message))
    order = _ORDERS[operator]
    return lambda message: any(
        pair is not None and order(*pair) for pair in (_comparable(value, wanted) for value in values(message))
    )


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


def _comparable(value: Any, wanted: str) -> tuple[Any, Any] | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value, float(wanted)
        except ValueError:
            return None
    text = _text(value)
    left, right = _moment(text), _moment(wanted)
    return (text, wanted) if left is None or right is None else (left, right)


def _moment(text: str) -> datetime | None:
    """The instant of a text that is a time with its offset."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
