"""The `fields` parameter: a partial response, as `items(name,zone),nextPageToken` or `items/networkInterfaces/name`."""

from __future__ import annotations

import re
from typing import Any

from gstack.kernel.errors import ApiError


class Mask(dict[str, "Mask"]):
    """A tree of names; an empty tree means "all of it"."""


_TOKEN = re.compile(r"[(),/]|[^(),/\s]+")
_MAX_LENGTH = 4096
_MAX_DEPTH = 30


def parse(text: str) -> Mask | None:
    """None for no mask or `*`. Raises 400 for unbalanced parentheses or missing names."""
    if not text or text == "*":
        return None
    tokens = _TOKEN.findall(text[:_MAX_LENGTH])
    if len(text) > _MAX_LENGTH or "".join(tokens) != "".join(text.split()):
        raise _bad(text)
    mask, position = _selections(tokens, 0, text, 0)
    if position != len(tokens):
        raise _bad(text)
    return mask


def _bad(text: str) -> ApiError:
    return ApiError(400, f"Invalid field selection {text[:80]}", "invalidParameter", "fields")


def _selections(tokens: list[str], position: int, text: str, depth: int) -> tuple[Mask, int]:
    mask = Mask()
    while True:
        position = _selection(mask, tokens, position, text, depth)
        if position >= len(tokens) or tokens[position] != ",":
            return mask, position
        position += 1


def _selection(mask: Mask, tokens: list[str], position: int, text: str, depth: int) -> int:
    if depth > _MAX_DEPTH or position >= len(tokens) or tokens[position] in "(),/":
        raise _bad(text)
    name, below = tokens[position], Mask()
    position += 1
    if position < len(tokens) and tokens[position] == "/":
        position = _selection(below, tokens, position + 1, text, depth + 1)
    elif position < len(tokens) and tokens[position] == "(":
        below, position = _selections(tokens, position + 1, text, depth + 1)
        if position >= len(tokens) or tokens[position] != ")":
            raise _bad(text)
        position += 1
    _merge(mask, name, below)
    return position


def _merge(mask: Mask, name: str, below: Mask) -> None:
    """A name that is selected twice: all of it, if one of the two is; else what either selects."""
    known = mask.get(name)
    if known is None or not below:
        mask[name] = below
    elif known:
        for key, value in below.items():
            _merge(known, key, value)


def apply(mask: Mask, value: Any) -> Any:
    """What of a JSON value the mask selects. Lists are looked through; `*` stands for any name."""
    if not mask:
        return value
    if isinstance(value, list):
        return [apply(mask, item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, item in value.items():
        below = mask.get(name, mask.get("*"))
        if below is not None:
            found[name] = apply(below, item)
    return found
