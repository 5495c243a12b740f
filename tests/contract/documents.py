"""Google's own discovery document of compute v1."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def google() -> dict[str, Any]:
    folder = resources.files("googleapiclient.discovery_cache").joinpath("documents")
    return json.loads(folder.joinpath("compute.v1.json").read_bytes())


@cache
def googles_methods() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def visit(resource: dict[str, Any]) -> None:
        found.update({method["id"]: method for method in resource.get("methods", {}).values()})
        for below in resource.get("resources", {}).values():
            visit(below)

    visit(google())
    return found
