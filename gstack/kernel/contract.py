"""The contracts of the REST APIs as descriptors: services, method ids, HTTP rules, comments; from compiled protos."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from gstack.api import field_pb2

COMPUTE = "gstack.compute.v1"
AUTH = "gstack.auth.v1"
# What the packages of the other APIs that auth answers begin with.
AUTH_APIS = "gstack.auth"
DESCRIPTORS = "descriptors.binpb"


@dataclass(frozen=True)
class HttpRule:
    """`google.api.http` of a method: verb, path template with `{field}`s, name of the body field ("" is none)."""

    verb: str
    path: str
    body: str


@dataclass(frozen=True)
class Decision:
    """What becomes of a field of a body: a value of gstack.api.Use by name, why, and values that say nothing."""

    use: str
    why: str = ""
    unset: tuple[str, ...] = ()


@cache
def file_set() -> descriptor_pb2.FileDescriptorSet:
    """All compiled files with their comments."""
    raw = resources.files("gstack").joinpath("compute", DESCRIPTORS).read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(raw)


@cache
def services(package: str = COMPUTE) -> tuple[ServiceDescriptor, ...]:
    """Every service of a package whose methods have HTTP rules, by name."""
    found = []
    for file in file_set().file:
        if file.package != package:
            continue
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        descriptor = descriptor_pool.Default().FindFileByName(file.name)
        found += [
            service
            for service in descriptor.services_by_name.values()
            if service.methods[0].GetOptions().HasExtension(annotations_pb2.http)
        ]
    return tuple(sorted(found, key=lambda service: service.name))


def _lower_first(name: str) -> str:
    return name[0].lower() + name[1:]


def method_id(method: MethodDescriptor) -> str:
    """`compute.instances.setTags`."""
    service = method.containing_service
    named: str = service.GetOptions().Extensions[field_pb2.collection]  # type: ignore[index]
    collection = named or f"compute.{_lower_first(service.name)}"
    return f"{collection}.{_lower_first(method.name)}"


def http_rule(method: MethodDescriptor) -> HttpRule:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return HttpRule(verb.upper(), getattr(rule, verb), rule.body)


def waits(method: MethodDescriptor) -> bool:
    """Whether the method only waits for something to end, and answers with what it is by then."""
    return bool(method.GetOptions().Extensions[field_pb2.waits])  # type: ignore[index]


def reads(method: MethodDescriptor) -> bool:
    """Whether the method changes nothing, whatever its verb is."""
    return http_rule(method).verb == "GET" or bool(method.GetOptions().Extensions[field_pb2.reads])  # type: ignore[index]


def enum_values(field: FieldDescriptor) -> tuple[str, ...]:
    """Values that a string field accepts; empty when it accepts any."""
    return tuple(field.GetOptions().Extensions[field_pb2.enum])  # type: ignore[index]


def format_of(field: FieldDescriptor) -> str:
    """Format of a string in discovery documents, "" for a plain one."""
    return str(field.GetOptions().Extensions[field_pb2.format])  # type: ignore[index]


def decision(field: FieldDescriptor) -> Decision:
    options = field.GetOptions().Extensions
    use = field_pb2.Use.Name(options[field_pb2.use])  # type: ignore[index]
    return Decision(use, options[field_pb2.why], tuple(options[field_pb2.unset]))  # type: ignore[index]


def absent(descriptor: Descriptor) -> dict[str, Decision]:
    """What GCE has and this message has not, by name in JSON."""
    found: Any = descriptor.GetOptions().Extensions[field_pb2.absent]  # type: ignore[index]
    return {
        one.name: Decision(field_pb2.Use.Name(one.use or field_pb2.REFUSED), one.why, tuple(one.unset)) for one in found
    }


def bodies() -> dict[str, tuple[Descriptor, list[str]]]:
    """Name of a message that is a body -> the message, and the ids of the methods that take it."""
    found: dict[str, tuple[Descriptor, list[str]]] = {}
    for service in services():
        for method in service.methods:
            if body := http_rule(method).body:
                descriptor = message_of(method.input_type.fields_by_name[body])
                found.setdefault(descriptor.name, (descriptor, []))[1].append(method_id(method))
    return found


def leaves(descriptor: Descriptor, path: str = "") -> Iterator[tuple[str, Decision]]:
    """Path of each leaf of a body, such as `disks[].initializeParams.labels`, and what becomes of it.

    A field that is absent, or that is decided as a whole, is a leaf. No body contains itself.
    """
    for field in descriptor.fields:
        here = f"{path}{field.json_name}{'[]' if field.is_repeated and not is_map(field) else ''}"
        found = decision(field)
        if found.use == "UNDECIDED" and field.message_type is not None and not is_map(field):
            yield from leaves(message_of(field), f"{here}.")
        else:
            yield here, found
    for name, found in absent(descriptor).items():
        yield f"{path}{name}", found


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


@cache
def comments() -> dict[str, str]:
    """Full name of a message, field, service or method -> its comment."""
    found: dict[str, str] = {}
    for file in file_set().file:
        for location in file.source_code_info.location:
            if location.leading_comments and (name := _name_at(file, list(location.path))):
                found[name] = " ".join(location.leading_comments.split())
    return found


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: list[int]) -> str:
    node: Any = file
    name = file.package
    while path:
        number, path = path[0], path[1:]
        if not path:
            return ""
        index, path = path[0], path[1:]
        node = getattr(node, node.DESCRIPTOR.fields_by_number[number].name)[index]
        name = f"{name}.{node.name}"
    return name


def message_of(field: Any) -> Descriptor:
    """The message type of a field that has one. (The type stubs have two classes of descriptors; they are one.)"""
    found: Descriptor = field.message_type
    return found


def comment(descriptor: Descriptor | FieldDescriptor | MethodDescriptor | ServiceDescriptor) -> str:
    return comments().get(descriptor.full_name, "")
