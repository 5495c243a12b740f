"""Regular expressions of clients, in time linear in the text: Python's own engine backtracks, and holds every thread.

A plain expression goes to `re`; one that could backtrack runs on sets of states (Thompson's construction). The syntax
is RE2's: no look-around and no back references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Protocol

# The parser of `re`: it has no public name since Python 3.11.
_parser: Any = import_module("re._parser")

_MAX_STATES = 2000
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
_UNBOUNDED_OF_RE = 2

Test = Callable[[str], bool]


class Pattern(Protocol):
    """What is used of `re.Pattern`; the answers count as true or false."""

    def fullmatch(self, text: str, /) -> object: ...
    def search(self, text: str, /) -> object: ...


def compile_pattern(text: str) -> Pattern:
    """Raises ValueError saying what is wrong."""
    try:
        tree = _parser.parse(text)
        simple = _is_simple(tree)
        return re.compile(text) if simple else _Automaton(tree)
    except (re.error, OverflowError) as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    except RecursionError:
        raise ValueError("regular expression too complex") from None


def _is_simple(tree: Any) -> bool:
    """Whether `re` needs at most quadratic time: few repeats, none of them of more than one character."""
    unbounded = 0
    for operator, inside, argument in _nodes(tree):
        if operator in _REPEATS:
            if inside or len(argument[2]) != 1 or str(argument[2][0][0]) in ("SUBPATTERN", "BRANCH", *_REPEATS):
                return False
            unbounded += 1
    return unbounded <= _UNBOUNDED_OF_RE


def _nodes(tree: Any, inside: bool = False) -> Iterable[tuple[str, bool, Any]]:
    """(operator, whether inside a repeat, argument) of every node. Raises re.error for what RE2 does not have."""
    for code, argument in tree:
        operator = str(code)
        yield operator, inside, argument
        if operator in _REPEATS:
            yield from _nodes(argument[2], True)
        elif operator == "SUBPATTERN":
            yield from _nodes(argument[3], inside)
        elif operator == "BRANCH":
            for branch in argument[1]:
                yield from _nodes(branch, inside)
        elif operator not in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"):
            raise re.error(f"{operator.lower().replace('_', ' ')} is not supported")


class _Automaton:
    """Steps: a test of one character, `None` with what to go on with (several: all of them), or a place ("AT")."""

    def __init__(self, tree: Any):
        self._fold = bool(tree.state.flags & re.IGNORECASE)
        self._tests: list[Test | str | None] = []
        self._next: list[tuple[int, ...]] = []
        self._accept = self._state(None)
        self._start = self._sequence(tree, self._accept)

    def fullmatch(self, text: str, /) -> bool:
        return self._run(text, anywhere=False)

    def search(self, text: str, /) -> bool:
        return self._run(text, anywhere=True)

    def _run(self, text: str, anywhere: bool) -> bool:
        text = text.lower() if self._fold else text
        states: set[int] = self._reach([self._start], text, 0)
        for position, character in enumerate(text):
            if anywhere and self._accept in states:
                return True
            passed = [
                following
                for state in states
                if callable(test := self._tests[state]) and test(character)
                for following in self._next[state]
            ]
            states = self._reach([*passed, self._start] if anywhere else passed, text, position + 1)
            if not states:
                return False
        return self._accept in states

    def _reach(self, states: list[int], text: str, position: int) -> set[int]:
        """These states and what can be reached from them without a character."""
        found: set[int] = set()
        while states:
            state = states.pop()
            if state in found:
                continue
            found.add(state)
            test = self._tests[state]
            if test is None or (isinstance(test, str) and _is_at(test, text, position)):
                states += self._next[state]
        return found

    def _state(self, test: Test | str | None, *following: int) -> int:
        if len(self._tests) >= _MAX_STATES:
            raise re.error("too complex")
        self._tests.append(test)
        self._next.append(following)
        return len(self._tests) - 1

    def _sequence(self, tree: Any, after: int) -> int:
        """The state that begins this sequence; built from its end."""
        for code, argument in reversed(list(tree)):
            after = self._node(str(code), argument, after)
        return after

    def _node(self, operator: str, argument: Any, after: int) -> int:
        if operator == "SUBPATTERN":
            _, add, remove, inner = argument
            if add or remove:
                raise re.error("flags of a group are not supported")
            return self._sequence(inner, after)
        if operator == "BRANCH":
            return self._state(None, *[self._sequence(branch, after) for branch in argument[1]])
        if operator in _REPEATS:
            return self._repeat(argument, after)
        if operator == "AT":
            return self._state(str(argument), after)
        items = argument if operator == "IN" else [(operator, argument)]
        return self._state(_test(items, self._fold), after)

    def _repeat(self, argument: Any, after: int) -> int:
        least, most, inner = argument
        if most == _parser.MAXREPEAT:
            loop = self._state(None)
            self._next[loop] = (self._sequence(inner, loop), after)
            begin = loop
        else:
            begin = after
            for _ in range(most - least):
                begin = self._state(None, self._sequence(inner, begin), after)
        for _ in range(least):
            begin = self._sequence(inner, begin)
        return begin


def _test(items: Any, fold: bool) -> Test:
    negated = False
    tests: list[Test] = []
    for code, argument in items:
        operator = str(code)
        if operator == "NEGATE":
            negated = True
        elif operator == "ANY":
            tests.append(lambda character: character != "\n")
        elif operator == "CATEGORY":
            name = str(argument).removeprefix("CATEGORY_")
            tests.append(_category(_CATEGORIES[name.removeprefix("NOT_")], name.startswith("NOT_")))
        else:
            low, high = argument if operator == "RANGE" else (argument, argument)
            tests.append(_between(low, high, operator == "NOT_LITERAL", fold))
    return lambda character: any(test(character) for test in tests) != negated


def _category(wanted: str, negated: bool) -> Test:
    pattern = re.compile(wanted)
    return lambda character: (pattern.match(character) is not None) != negated


def _between(low: int, high: int, negated: bool, fold: bool) -> Test:
    if not fold:
        return lambda character: (low <= ord(character) <= high) != negated
    return lambda character: any(low <= ord(one) <= high for one in character + character.upper()) != negated


def _is_at(place: str, text: str, position: int) -> bool:
    if place in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return position == 0
    if place == "AT_END_STRING":
        return position == len(text)
    if place == "AT_END":
        return position == len(text) or (position == len(text) - 1 and text[position] == "\n")
    before = position > 0 and _is_word(text[position - 1])
    after = position < len(text) and _is_word(text[position])
    return (before != after) == (place == "AT_BOUNDARY")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
