"""What DBOS stores of a workflow, as JSON: whoever can write the database can change data with it, but run no code.

DBOS' own serializer is Python's pickle, whose texts are programs. DBOS reads them wherever a row claims to hold one,
whatever serializer it was given, so `forbid_pickle` takes that away.
"""

from __future__ import annotations

from typing import Any

import orjson
from dbos import Serializer
from dbos._serialization import DefaultSerializer

from gstack.kernel.errors import ApiError
from translator_service.cloudstack.errors import CloudStackError
from translator_service.operations.run import OperationError

# The errors that handlers tell apart; they keep their arguments.
_KNOWN = {kind.__name__: kind for kind in (CloudStackError, OperationError, ApiError)}


class StepFailed(Exception):
    """An error of a kind that is not kept."""


class JsonSerializer(Serializer):
    def name(self) -> str:
        return "gstack_json"

    def serialize(self, data: Any) -> str:
        content = {"error": _packed(data)} if isinstance(data, Exception) else {"value": data}
        return orjson.dumps(content).decode()

    def deserialize(self, serialized_data: str) -> Any:
        content = orjson.loads(serialized_data)
        return _unpacked(content["error"]) if "error" in content else content["value"]


def _packed(error: Exception) -> dict[str, Any]:
    kind = type(error).__name__
    if _KNOWN.get(kind) is not type(error):
        return {"kind": "", "arguments": [kind]}
    return {"kind": kind, "arguments": error.args, "entity": getattr(error, "entity", None)}


def _unpacked(content: dict[str, Any]) -> Exception:
    error = _KNOWN.get(content["kind"], StepFailed)(*content["arguments"])
    if isinstance(error, CloudStackError):
        error.entity = content["entity"]
    return error


def forbid_pickle() -> None:
    """From now on DBOS reads no pickles in this process."""

    def refuse(self: Any, serialized_data: str) -> Any:
        raise ValueError("a pickle in the database: it is not read")

    DefaultSerializer.deserialize = refuse  # type: ignore[assignment,method-assign]
