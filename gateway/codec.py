"""JSON to messages and back, compiled once a message type from its descriptor.

Out: exactly the types of GCE's discovery document (int64 as strings, bytes as base64, no nulls). `orjson` writes what
an encoder returns; google.protobuf.json_format is about three times slower on lists.
In: every spelling that clients send (numbers as strings and the other way round, null as absent; see `cleared`).
What becomes of each field stands in the protos. A field that is refused, absent or unknown is looked over when its
value says nothing (null, false, 0, "", [], {}, or GCE's own default). A body is bounded in its items before it is
parsed.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gstack.kernel.contract import COMPUTE, Decision, absent, decision, enum_values, is_map, message_of
from gstack.kernel.errors import ApiError, unsupported

Encode = Callable[[Any], Any]
Decode = Callable[[Message, Any, str], None]

_LONG = (
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
    FieldDescriptor.TYPE_SINT64,
)
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1, "INT32"),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1, "UINT32"),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1, "INT64"),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1, "UINT64"),
}


_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
# What values are told from each other by; a string without an end reaches to the end.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[,\[{]', re.DOTALL)
_MAX_TOKENS = 300_000


# Out


def _same(value: Any) -> Any:
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _fingerprint(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode()


@cache
def encoder(descriptor: Descriptor) -> Callable[[Message], dict[str, Any]]:
    """A function from messages of this type to what orjson writes."""
    fields: dict[int, tuple[str, Encode]] = {}

    def encode(message: Message) -> dict[str, Any]:
        found = {}
        for field, value in message.ListFields():
            name, convert = fields[field.number]
            found[name] = convert(value)
        return found

    for field in descriptor.fields:
        # A message may contain itself, so its own encoder is looked up at call time.
        fields[field.number] = (field.json_name, _field_encoder(field))
    return encode


def _field_encoder(field: FieldDescriptor) -> Encode:
    if is_map(field):
        value_field = message_of(field).fields_by_name["value"]
        convert = _value_encoder(value_field)
        return lambda pairs: {key: convert(pairs[key]) for key in sorted(pairs)}
    convert = _value_encoder(field)
    if not field.is_repeated:
        return convert
    return list if convert is _same else lambda values: [convert(value) for value in values]


def _value_encoder(field: FieldDescriptor) -> Encode:
    if field.message_type is not None:
        descriptor = message_of(field)

        def encode_later(value: Any) -> Any:
            return encoder(descriptor)(value)

        return encode_later
    if field.type in _LONG:
        return str
    if field.type != FieldDescriptor.TYPE_BYTES:
        return _same
    # Google's fingerprints stand in URLs and patterns as they are; its key files are for any decoder.
    return _fingerprint if field.full_name.startswith(COMPUTE) else _base64


def to_json(value: Any, pretty: bool) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if pretty else None) + b"\n"


# In


def from_json(body: bytes) -> Any:
    """Parse a body. Raises 400 for what is not JSON: NaN, bad UTF-8, too deep, trailing text; and for many items."""
    # In most bodies there are few, even with those in texts.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MAX_TOKENS // 3:
        found = sum(1 for _ in islice(_TOKEN.finditer(body), _MAX_TOKENS))
        if found == _MAX_TOKENS:
            raise ApiError(400, "Invalid JSON payload received. It has too many items.", "parseError")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = f"Invalid JSON payload received. {error.msg.capitalize()} at line {error.lineno}, column {error.colno}."
        raise ApiError(400, text, "parseError") from None


@cache
def decoder(descriptor: Descriptor) -> Decode:
    """A function (message, parsed JSON, path of the field) that fills a message of this type. Raises 400."""
    fields: dict[str, Decode] = {}

    def decode(message: Message, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _bad(path, "an object", value)
        for name, item in value.items():
            fill = fields.get(name)
            if fill is not None:
                if item is not None:
                    fill(message, item, f"{path}.{name}")
            elif not _says_nothing(item):
                raise ApiError(
                    400,
                    f"Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field.",
                    "badRequest",
                    f"{path}.{name}",
                )

    for field in descriptor.fields:
        fields[field.json_name] = _decided(decision(field), _field_decoder(field), field.is_repeated)
    for name, found in absent(descriptor).items():
        fields[name] = _decided(found, None, False)
    return decode


def cleared(descriptor: Descriptor, value: Any, path: str = "") -> Iterator[str]:
    """Paths, as `scheduling.locationHint`, of what is null in a body that was decoded: in a PATCH that is how a field,
    a list or a map is taken away, which is not the same as an empty one. Lists are replaced as a whole."""
    for field in descriptor.fields:
        if field.json_name not in value or decision(field).use in ("OUTPUT", "NOTHING", "REFUSED"):
            continue
        item = value[field.json_name]
        if item is None:
            yield path + field.json_name
        elif field.message_type is not None and not field.is_repeated:
            yield from cleared(message_of(field), item, f"{path}{field.json_name}.")


def _decided(found: Decision, fill: Decode | None, is_list: bool) -> Decode:
    """What the decision makes of a field. fill: of one that the message has."""
    if found.use in ("OUTPUT", "NOTHING"):
        return lambda message, value, path: None
    if found.use == "REFUSED" or fill is None:

        def refuse(message: Message, value: Any, path: str) -> None:
            if not _says_nothing(value, found.unset):
                raise unsupported(path, f"not supported here: {found.why}")
            if fill is not None and not is_list:
                # It comes back: to clients that hold a block of `false` against what they read, none is another thing.
                # What it says nothing with may be of any type.
                with suppress(ApiError):
                    fill(message, value, path)

        return refuse
    if not found.unset:
        return fill

    def fill_or_not(message: Message, value: Any, path: str) -> None:
        if value not in found.unset:
            fill(message, value, path)

    return fill_or_not


_DEPTH = 32


def _says_nothing(value: Any, unset: tuple[str, ...] = (), depth: int = 0) -> bool:
    """Whether a value of any shape leaves everything as it is; what is deeper than any field of GCE's does not."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth < _DEPTH and all(_says_nothing(item, unset, depth + 1) for item in inner)
    return value in (None, False, 0, "", "0") or value in unset


def _field_decoder(field: FieldDescriptor) -> Decode:
    name = field.name
    if is_map(field):
        kind = message_of(field).fields_by_name["value"]
        inner = message_of(kind) if kind.message_type is not None else None
        convert = scalar(kind)

        def fill_map(message: Message, value: Any, path: str) -> None:
            if not isinstance(value, dict):
                raise _bad(path, "an object", value)
            target = getattr(message, name)
            for key, item in value.items():
                if inner is None:
                    target[without_nul(key, path)] = convert(item, f"{path}.{key}")
                else:
                    decoder(inner)(target[without_nul(key, path)], {} if item is None else item, f"{path}.{key}")

        return fill_map
    if field.message_type is not None:
        descriptor = message_of(field)

        def fill_messages(message: Message, value: Any, path: str) -> None:
            if not isinstance(value, list):
                raise _bad(path, "a list", value)
            target = getattr(message, name)
            for index, item in enumerate(value):
                if item is not None:  # Terraform's way of an empty list
                    decoder(descriptor)(target.add(), item, f"{path}[{index}]")

        def fill_message(message: Message, value: Any, path: str) -> None:
            target = getattr(message, name)
            target.SetInParent()
            decoder(descriptor)(target, value, path)

        return fill_messages if field.is_repeated else fill_message
    convert = scalar(field)
    if field.is_repeated:

        def fill_list(message: Message, value: Any, path: str) -> None:
            if not isinstance(value, list):
                raise _bad(path, "a list", value)
            getattr(message, name).extend(convert(item, f"{path}[{index}]") for index, item in enumerate(value))

        return fill_list
    return lambda message, value, path: setattr(message, name, convert(value, path))


def _bad(path: str, wanted: str, value: Any) -> ApiError:
    if isinstance(value, dict | list):  # which may be too deep to be written
        shown = "an object" if isinstance(value, dict) else "a list"
    else:
        shown = repr(value) if len(repr(value)) < 80 else "a long text"
    return ApiError(400, f"Invalid value at '{path}': expected {wanted}, found {shown}.", "invalid", path)


@cache
def scalar(field: FieldDescriptor) -> Callable[[Any, str], Any]:
    """A function (JSON value or query text, path) to the Python value of a scalar field. Raises 400."""
    if field.type in _RANGES:
        low, high, kind = _RANGES[field.type]

        def to_int(value: Any, path: str) -> int:
            number = value
            if isinstance(value, str):
                text = value.strip(" ")
                if not _INTEGER.fullmatch(text):
                    raise _bad(path, f"an integer ({kind})", value)
                number = int(text)
            elif isinstance(value, float) and value.is_integer():
                number = int(value)
            if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
                raise _bad(path, f"an integer ({kind})", value)
            return number

        return to_int
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):

        def to_float(value: Any, path: str) -> float:
            try:
                number = math.nan if isinstance(value, bool) else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise _bad(path, "a number", value)
            return number

        return to_float
    if field.type == FieldDescriptor.TYPE_BOOL:

        def to_bool(value: Any, path: str) -> bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
                return value.lower() in ("true", "1")
            raise _bad(path, "true or false", value)

        return to_bool
    if field.type == FieldDescriptor.TYPE_BYTES:

        def to_bytes(value: Any, path: str) -> bytes:
            if not isinstance(value, str):
                raise _bad(path, "base64 text", value)
            try:
                text = value.replace("-", "+").replace("_", "/").rstrip("=")
                return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            except (binascii.Error, ValueError):
                raise _bad(path, "base64 text", value) from None

        return to_bytes
    accepted = enum_values(field)

    def to_text(value: Any, path: str) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise _bad(path, "a string", value)
        if accepted and value and value not in accepted:
            raise _bad(path, f"one of {', '.join(accepted)}", value)
        return without_nul(value, path)

    return to_text


def without_nul(value: str, path: str) -> str:
    """The text itself. Raises 400 for one with U+0000, which no database takes and no name may hold."""
    if "\0" in value:
        raise _bad(path, "a text without the character U+0000", value)
    return value
