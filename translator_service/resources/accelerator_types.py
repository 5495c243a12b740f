"""Accelerator types: none are offered, so lists are empty and a get is 404."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.kernel.errors import not_found
from translator_service.collection import Items, Reading, gets, lists
from translator_service.places import Zone
from translator_service.scope import Scope


def _find(scope: Scope, zone: Zone, name: str) -> Reading[Message]:
    raise not_found(scope.links.path(zone.path, "acceleratorTypes", name))


def _read(scope: Scope, zone: Zone | None) -> Reading[Items]:
    return Reading(lambda: [])


gets("AcceleratorTypes", _find, differences="There are none.")
lists("AcceleratorTypes", _read, differences="There are none.")
