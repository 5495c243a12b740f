"""What of a request's body is only kept: the fields that the protos decide so, as JSON and back."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from gstack.kernel.contract import decision, is_map, message_of

M = TypeVar("M", bound=Message)


@cache
def names(descriptor: Descriptor) -> frozenset[str]:
    """The fields of a message that are kept, or have something below them that is."""
    return frozenset(field.name for field in descriptor.fields if _is_kept(field) or _has_kept(field))


@cache
def _is_kept(field: FieldDescriptor) -> bool:
    """Of what is refused, what says nothing is."""
    return decision(field).use == "KEPT" or (decision(field).use == "REFUSED" and not field.is_repeated)


@cache
def _has_kept(field: FieldDescriptor) -> bool:
    """Whether it is decided below. No body contains itself."""
    if field.message_type is None or is_map(field) or decision(field).use != "UNDECIDED":
        return False
    return bool(names(message_of(field)))


def kept(message: Message) -> dict[str, Any]:
    """What is kept of a message; lists keep their length, and a message with nothing in it is one."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if _is_kept(field):
            found |= MessageToDict(_only(message, field), preserving_proto_field_name=True)
        elif _has_kept(field):
            below = [kept(one) for one in value] if field.is_repeated else kept(value)
            if not field.is_repeated or any(below):
                found[field.name] = below
    return found


def _only(message: M, field: FieldDescriptor) -> M:
    part = type(message)()
    value = getattr(message, field.name)
    if field.is_repeated:
        getattr(part, field.name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(part, field.name).CopyFrom(value)
    else:
        setattr(part, field.name, value)
    return part


def put(message: Message, found: dict[str, Any], chosen: Collection[str]) -> None:
    """Put these fields of what was kept into a message. What is of another kind is left out: anybody may write it."""
    wanted = {name: found[name] for name in chosen if name in found}
    if not wanted:
        return
    if (whole := _parsed(message, wanted)) is not None:
        message.MergeFrom(whole)
        return
    for name, value in wanted.items():
        if (part := _parsed(message, {name: value})) is not None:
            message.MergeFrom(part)


def _parsed(message: M, found: dict[str, Any]) -> M | None:
    try:
        return ParseDict(found, type(message)(), ignore_unknown_fields=True)
    except (ParseError, TypeError, ValueError, AttributeError):
        return None
