"""The discovery documents, made from the descriptors: what gcutil and google-api-python-client build themselves from.

Paths stand below `compute/{version}/projects/` as in Google's documents of gcutil's time; today's clients read both
forms. There are no `pattern`s, because zone and image names of a cloud may be wider than Google's.

Methods of Google's that we do not serve are there too, so that clients have them to call and are told by name.
"""

from __future__ import annotations

import hashlib
import re
import threading
from functools import cached_property
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway import others
from gateway.others import Other
from gateway.routes import COMPUTE, Route, Router
from gstack.kernel.contract import comment, enum_values, format_of, http_rule, is_map, message_of

_TYPES: dict[int, dict[str, str]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}
_SCOPES = {
    "https://www.googleapis.com/auth/cloud-platform": "See, edit, configure and delete your cloud data",
    "https://www.googleapis.com/auth/compute": "View and manage your compute resources",
    "https://www.googleapis.com/auth/compute.readonly": "View your compute resources",
}
# What methods that are not ours take and give, where it is nothing of ours.
_ANY = "NotOffered"
_TYPES_OF_PARAMETERS = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "float": {"type": "number", "format": "float"},
    "int32": {"type": "integer", "format": "int32"},
    "uint32": {"type": "integer", "format": "uint32"},
    "int64": {"type": "string", "format": "int64"},
    "google-fieldmask": {"type": "string", "format": "google-fieldmask"},
}
_REVISION = "20261125"


# Where scheme and host of the client come to stand.
_ROOT = "https://root.invalid"


class Discovery:
    def __init__(self, router: Router):
        self._router = router
        self._documents: dict[str, tuple[bytes, str]] = {}
        self._lock = threading.Lock()

    def document(self, version: str, root: str) -> tuple[bytes, str] | None:
        """(JSON, ETag) of a version for clients that use this scheme and host; None for an unknown version."""
        if version not in COMPUTE.versions:
            return None
        with self._lock:
            if version not in self._documents:
                made = orjson.dumps(self._build(version, _ROOT))
                self._documents[version] = (made, hashlib.sha256(made).hexdigest())
        # Hosts are told by clients: what is kept must not depend on them.
        body, digest = self._documents[version]
        etag = hashlib.sha256(f"{digest} {root}".encode()).hexdigest()[:32]
        return body.replace(_ROOT.encode(), orjson.dumps(root)[1:-1]), f'"{etag}"'

    def directory(self, root: str) -> bytes:
        """`GET /discovery/v1/apis`."""
        items = [
            {
                "kind": "discovery#directoryItem",
                "id": f"compute:{version}",
                "name": "compute",
                "version": version,
                "title": "Compute Engine API",
                "description": "Creates and runs virtual machines.",
                "discoveryRestUrl": f"{root}/discovery/v1/apis/compute/{version}/rest",
                "preferred": version == "v1",
            }
            for version in COMPUTE.versions
        ]
        listing = {"kind": "discovery#directoryList", "discoveryVersion": "v1", "items": items}
        return orjson.dumps(listing, option=orjson.OPT_INDENT_2)

    def _build(self, version: str, root: str) -> dict[str, Any]:
        service_path = f"compute/{version}/projects/"
        return {
            "kind": "discovery#restDescription",
            "discoveryVersion": "v1",
            "id": f"compute:{version}",
            "name": "compute",
            "version": version,
            "revision": _REVISION,
            "title": "Compute Engine API",
            "description": "Creates and runs virtual machines.",
            "ownerDomain": "google.com",
            "ownerName": "Google",
            "icons": {
                "x16": "https://www.google.com/images/icons/product/compute_engine-16.png",
                "x32": "https://www.google.com/images/icons/product/compute_engine-32.png",
            },
            "documentationLink": "https://cloud.google.com/compute/",
            "protocol": "rest",
            "rootUrl": f"{root}/",
            "servicePath": service_path,
            "basePath": f"/{service_path}",
            "baseUrl": f"{root}/{service_path}",
            "batchPath": f"batch/compute/{version}",
            "parameters": _COMMON_PARAMETERS,
            "auth": {"oauth2": {"scopes": {scope: {"description": text} for scope, text in _SCOPES.items()}}},
            "schemas": self._schemas,
            "resources": self._resources(version),
        }

    @cached_property
    def _schemas(self) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def visit(descriptor: Any) -> None:
            if descriptor.name in found or descriptor.containing_type is not None:
                return
            found[descriptor.name] = schema = {"id": descriptor.name}
            schema |= _object(descriptor)
            visit_fields(descriptor)

        def visit_fields(descriptor: Any) -> None:
            for field in descriptor.fields:
                if field.message_type is not None:
                    inner = message_of(field)
                    (visit_fields if inner.containing_type else visit)(inner)

        for route in self._router.routes:
            if route.reply.DESCRIPTOR.fields:
                visit(route.reply.DESCRIPTOR)
            if route.body:
                visit(message_of(route.descriptor.input_type.fields_by_name[route.body]))
        found[_ANY] = {
            "id": _ANY,
            "type": "object",
            "description": "What a method that is not offered would take or give.",
            "properties": {},
        }
        return dict(sorted(found.items()))

    def _resources(self, version: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for route in self._router.routes:
            _, collection, name = route.id.split(".")
            found.setdefault(collection, {"methods": {}})["methods"][name] = _method(route)
        for other in others.read(COMPUTE.other_methods):
            if other.collection != "kernels" or version == "v1beta16":
                methods = found.setdefault(other.collection, {"methods": {}})["methods"]
                methods.setdefault(other.id.rpartition(".")[2], _other_method(other, self._schemas))
        return dict(sorted(found.items()))


_COMMON_PARAMETERS = {
    "alt": {"type": "string", "default": "json", "enum": ["json"], "enumDescriptions": ["JSON"], "location": "query",
            "description": "Form of the answer."},
    "fields": {"type": "string", "location": "query", "description": "Fields to return."},
    "key": {"type": "string", "location": "query", "description": "Accepted and ignored."},
    "oauth_token": {"type": "string", "location": "query", "description": "Not accepted; use a header."},
    "prettyPrint": {"type": "boolean", "default": "true", "location": "query", "description": "Indent the answer."},
    "quotaUser": {"type": "string", "location": "query", "description": "Accepted and ignored."},
    "userIp": {"type": "string", "location": "query", "description": "Accepted and ignored."},
}  # fmt: skip


def _schema(field: FieldDescriptor) -> dict[str, Any]:
    if is_map(field):
        value = message_of(field).fields_by_name["value"]
        return {"type": "object", "additionalProperties": _single(value), "description": comment(field)}
    single = _single(field)
    if accepted := enum_values(field):
        single |= {"enum": list(accepted), "enumDescriptions": [""] * len(accepted)}
    shown = {"type": "array", "items": single} if field.is_repeated else single
    return {**shown, "description": comment(field)} if "$ref" not in shown else {**shown}


def _single(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type is None:
        return {**_TYPES[field.type], **({"format": one} if (one := format_of(field)) else {})}
    if field.message_type.containing_type is not None:
        return _object(field.message_type)
    return {"$ref": field.message_type.name}


def _object(descriptor: Descriptor) -> dict[str, Any]:
    properties = {field.json_name: _schema(field) for field in descriptor.fields}
    return {"type": "object", "description": comment(descriptor), "properties": properties}


def _parameter(field: FieldDescriptor, location: str) -> dict[str, Any]:
    found = {**_single(field), "location": location, "description": comment(field)}
    found |= {"repeated": True} if field.is_repeated else {}
    return found | ({"required": True} if location == "path" else {})


def _method(route: Route) -> dict[str, Any]:
    path = http_rule(route.descriptor).path.removeprefix("/compute/v1/projects/")
    in_path = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    request = route.descriptor.input_type
    parameters = {name: _parameter(request.fields_by_name[name], "path") for name in in_path}
    parameters |= {name: _parameter(field, "query") for name, field in route.parameters.items()}
    found: dict[str, Any] = {
        "id": route.id,
        "path": path,
        "httpMethod": route.verb,
        "description": comment(route.descriptor),
        "parameters": parameters,
        "parameterOrder": in_path,
        "scopes": list(_SCOPES) if not route.mutates else list(_SCOPES)[:2],
    }
    if route.body:
        found["request"] = {"$ref": message_of(request.fields_by_name[route.body]).name}
    if route.reply.DESCRIPTOR.fields:
        found["response"] = {"$ref": route.reply.DESCRIPTOR.name}
    return found


def _told(other: Other) -> str:
    if other.is_absent:
        return "There are none of these here."
    return f"Not offered here: {other.why}" if other.why else "Not offered here."


def _other_method(other: Other, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, dict[str, Any]] = {
        name: {"type": "string", "location": "path", "required": True} for name in other.path_parameters
    }
    query = other.query_parameters()
    for one in query:
        about = {**_TYPES_OF_PARAMETERS[one.kind], "location": "query"}
        parameters[one.name] = about | {key: True for key in ("required", "repeated") if getattr(one, key)}
    path = re.sub(r"\{(\w+)=[^}]+\}", r"{+\1}", other.path)
    found: dict[str, Any] = {
        "id": other.id,
        "path": path.removeprefix("projects/"),
        "httpMethod": other.verb,
        "description": _told(other),
        "parameters": parameters,
        "parameterOrder": [*other.path_parameters, *(one.name for one in query if one.required)],
    }
    for key, name in (("request", other.body), ("response", other.reply)):
        if name:
            found[key] = {"$ref": name if name in schemas else _ANY}
    return found
