"""The APIs that clients of Compute Engine ask besides, against Google's discovery documents."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from gateway.others import Other
from gateway.routes import BESIDES, OS_LOGIN, Router, Surface
from gstack.kernel.contract import http_rule, message_of, method_id, services
from gstack.kernel.errors import ApiError

_FOLDER = resources.files("googleapiclient.discovery_cache").joinpath("documents")
ROUTERS = {surface.mount.strip("/"): Router(surface) for surface in BESIDES}
METHODS = [
    (surface, method) for surface in BESIDES for service in services(surface.package) for method in service.methods
]
# Parts of paths, as the flat paths of the documents have them.
_NAMES = {
    "{projectsId}": "{project}",
    "{serviceAccountsId}": "{account}",
    "{servicesId}": "{service}",
    "{operationsId}": "{operation}",
    "{v1Id}/{v1Id1}": "projects/{project}",
}
_TYPES: dict[int, tuple[str, str | None]] = {
    FieldDescriptor.TYPE_STRING: ("string", None),
    FieldDescriptor.TYPE_BOOL: ("boolean", None),
    FieldDescriptor.TYPE_BYTES: ("string", "byte"),
    FieldDescriptor.TYPE_INT32: ("integer", "int32"),
    FieldDescriptor.TYPE_INT64: ("string", "int64"),
}


def document(surface: Surface) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FOLDER.joinpath(f"{surface.mount.strip('/')}.v1.json").read_bytes())
    return found


def methods_of(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {method["id"]: method for method in node.get("methods", {}).values()}
    for below in node.get("resources", {}).values():
        found |= methods_of(below)
    return found


def schema_of(descriptor: Descriptor) -> str:
    """A body is a message inside its request; operations are told apart by what is in them."""
    name = descriptor.containing_type.name if descriptor.containing_type else descriptor.name
    return "Operation" if name.endswith("Operation") else name


@pytest.mark.parametrize(("surface", "method"), METHODS, ids=lambda one: getattr(one, "full_name", ""))
def test_methods_and_their_fields(surface: Surface, method: MethodDescriptor) -> None:
    google = document(surface)
    theirs, rule = methods_of(google)[method_id(method)], http_rule(method)
    path = "/" + theirs["flatPath"]
    for name, ours in _NAMES.items():
        path = path.replace(name, ours)
    assert (rule.verb, rule.path) == (theirs["httpMethod"], path)
    answer = theirs["response"]["$ref"].removeprefix("GoogleApiServiceusageV1")
    assert schema_of(method.output_type) == answer
    in_path = {"name", "parent", "projectId", "resource"} | {name.strip("{}") for name in path.split("/")}
    in_query = {field.name for field in method.input_type.fields if f"{{{field.name}}}" not in path} - {rule.body}
    assert in_query == set(theirs["parameters"]) - in_path
    check_fields(google, method.output_type, theirs["response"]["$ref"])
    if rule.body:
        body = message_of(method.input_type.fields_by_name[rule.body])
        assert body.name in ("Body", "Empty")
        check_fields(google, body, theirs["request"]["$ref"])
        assert body.fields or not google["schemas"][theirs["request"]["$ref"]].get("properties")


def check_fields(google: dict[str, Any], descriptor: Descriptor, schema: str) -> None:
    for field in descriptor.fields:
        theirs = google["schemas"][schema]["properties"][field.json_name]
        assert (theirs.get("type") == "array") == field.is_repeated, field.full_name
        inner = theirs["items"] if field.is_repeated else theirs
        if field.message_type is None:
            kind, form = _TYPES[field.type]
            assert inner["type"] == kind, field.full_name
            # Times are texts to us.
            assert inner.get("format", form) in (form, "google-datetime", "google-duration"), field.full_name
        elif "$ref" in inner:
            check_fields(google, message_of(field), inner["$ref"])
        else:
            # What Google calls an `Any`: a message of its own, with its type beside its fields.
            assert descriptor.name.endswith("Operation") and field.json_name == "response", field.full_name


@pytest.mark.parametrize("surface", BESIDES, ids=lambda surface: surface.mount)
def test_what_there_is_not_is_refused_by_name_and_never_repeated(surface: Surface) -> None:
    """Clients repeat a 5xx for half a minute."""
    router, ours = ROUTERS[surface.mount.strip("/")], {method_id(method) for one, method in METHODS if one is surface}
    for identity, theirs in methods_of(document(surface)).items():
        verb, path = theirs["httpMethod"], theirs["flatPath"].removeprefix("v1/").replace("{", "x").replace("}", "")
        if identity in ours:
            continue
        method, _ = router.find(verb, path)
        assert isinstance(method, Other)
        with pytest.raises(ApiError) as raised:
            method.answer(path, "", surface.advice)
        assert (raised.value.code, raised.value.reason) == (400, "notSupported"), identity
        assert raised.value.message == f"Method {identity} is not offered here.{surface.advice}"
    with pytest.raises(ApiError) as raised:
        router.find("GET", "what/nobody/has")
    assert raised.value.code == 404


def test_os_login_says_what_works() -> None:
    for verb, path in (("GET", "users/a@example.org/loginProfile"), ("POST", "users/a@b:importSshPublicKey")):
        method, _ = ROUTERS["oslogin"].find(verb, path)
        assert isinstance(method, Other)
        with pytest.raises(ApiError, match="take enable-oslogin out of the metadata") as raised:
            method.answer(path, "", OS_LOGIN.advice)
        assert raised.value.code == 400
    assert OS_LOGIN.versions == ("v1", "v1beta", "v1alpha")
