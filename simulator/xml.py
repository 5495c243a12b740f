"""CloudStack's XML, its default: what a caller gets who does not ask for `response=json`."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


def render(answer: dict[str, Any], version: str) -> bytes:
    ((key, body),) = answer.items()
    opening = f'{key} cloud-stack-version="{version}"' if "errorcode" not in body else key
    return f"{_HEAD}<{opening}>{_inner(body)}</{key}>".encode()


def _inner(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_element(key, item) for key, item in value.items())
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(str(value))


def _element(key: str, value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return "".join(f"<{key}>{_inner(item)}</{key}>" for item in items)
