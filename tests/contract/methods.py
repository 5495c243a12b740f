"""Writes gateway/gce_methods.txt from Google's discovery document of compute v1: `make methods`.

A line has verb, path, id, schema of the body, schema of the answer ("-" for none), and the parameters of the query,
each with its type behind a colon when it is no text, `!` when it is required and `*` when it may be repeated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gateway.others import FOLDER, METHODS
from tests.contract.documents import googles_methods

# Of API version v1beta16: gcutil looks for the collection before anything else.
EXTRA = [
    "GET projects/{project}/global/kernels compute.kernels.list - KernelList filter,maxResults:uint32,pageToken",
    "GET projects/{project}/global/kernels/{kernel} compute.kernels.get - Kernel -",
]


def _parameter(name: str, about: dict[str, Any]) -> str:
    kind = about.get("format") or about["type"]
    shown = name if kind == "string" else f"{name}:{kind}"
    return shown + "!" * about.get("required", False) + "*" * about.get("repeated", False)


def _path(method: dict[str, Any]) -> str:
    """`path` may hold a parameter of several segments; which ones stands in `flatPath`."""
    before, several, after = method["path"].partition("{+")
    if not several:
        return str(method["path"])
    name, _, after = after.partition("}")
    inside = method["flatPath"].removeprefix(before).removesuffix(after)
    return f"{before}{{{name}={re.sub(r'{[^}]+}', '*', inside)}}}{after}"


def lines() -> list[str]:
    found = []
    for identity, method in googles_methods().items():
        query = [_parameter(*one) for one in method["parameters"].items() if one[1]["location"] == "query"]
        body, answer = (method.get(part, {}).get("$ref", "-") for part in ("request", "response"))
        parts = (method["httpMethod"], _path(method), identity, body, answer, ",".join(sorted(query)) or "-")
        found.append(" ".join(parts))
    return sorted([*found, *EXTRA], key=lambda line: line.split()[2])


if __name__ == "__main__":
    Path(str(FOLDER.joinpath(METHODS))).write_text("\n".join(lines()) + "\n")
