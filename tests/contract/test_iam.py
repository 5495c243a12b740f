"""Our part of IAM v1 against Google's discovery document."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.others import Other
from gateway.routes import IAM, Router
from gstack.kernel.contract import AUTH, enum_values, http_rule, message_of, method_id, services
from gstack.kernel.errors import ApiError

METHODS = {method_id(method): method for service in services(AUTH) for method in service.methods}
_DOCUMENT = resources.files("googleapiclient.discovery_cache").joinpath("documents").joinpath("iam.v1.json")
GOOGLE: dict[str, Any] = json.loads(_DOCUMENT.read_bytes())
_ACCOUNTS = GOOGLE["resources"]["projects"]["resources"]["serviceAccounts"]
THEIRS = {
    method["id"]: method
    for methods in (_ACCOUNTS, _ACCOUNTS["resources"]["keys"])
    for method in methods["methods"].values()
}
ROUTER = Router(IAM)

_NAMES = {"{projectsId}": "{project}", "{serviceAccountsId}": "{account}", "{keysId}": "{key}"}
_TYPES: dict[int, tuple[str, str | None]] = {
    FieldDescriptor.TYPE_STRING: ("string", None),
    FieldDescriptor.TYPE_BOOL: ("boolean", None),
    FieldDescriptor.TYPE_BYTES: ("string", "byte"),
    FieldDescriptor.TYPE_INT32: ("integer", "int32"),
}


def schema_of(descriptor: Descriptor) -> str:
    """A body is a message inside its request, which has the schema's name already."""
    return descriptor.containing_type.name if descriptor.containing_type else descriptor.name


@pytest.mark.parametrize("identity", METHODS)
def test_methods(identity: str) -> None:
    method, theirs = METHODS[identity], THEIRS[identity]
    rule = http_rule(method)
    path = "/" + theirs["flatPath"]
    for google, ours in _NAMES.items():
        path = path.replace(google, ours)
    assert (rule.verb, rule.path) == (theirs["httpMethod"], path)
    assert method.output_type.name == theirs["response"]["$ref"]
    body = method.input_type.fields_by_name[rule.body] if rule.body else None
    # Bodies without fields are one message of ours.
    if body is not None and schema_of(message_of(body)) != "Empty":
        assert schema_of(message_of(body)) == theirs["request"]["$ref"]
    else:
        assert not GOOGLE["schemas"].get(theirs.get("request", {}).get("$ref", ""), {}).get("properties")
    in_query = {field.name for field in method.input_type.fields if f"{{{field.name}}}" not in path}
    assert in_query - {rule.body} == {name for name in theirs["parameters"] if name != "name"}


def bodies() -> list[Descriptor]:
    found = {}
    for method in METHODS.values():
        found[method.output_type.full_name] = method.output_type
        if body := http_rule(method).body:
            descriptor = message_of(method.input_type.fields_by_name[body])
            found[descriptor.full_name] = descriptor
    return [descriptor for descriptor in found.values() if descriptor.fields]


@pytest.mark.parametrize("descriptor", bodies(), ids=lambda descriptor: descriptor.full_name)
def test_fields(descriptor: Descriptor) -> None:
    schema = GOOGLE["schemas"][schema_of(descriptor)]["properties"]
    for field in descriptor.fields:
        theirs = schema[field.json_name]
        inner = theirs["items"] if field.is_repeated else theirs
        assert (theirs["type"] == "array") == field.is_repeated if "type" in theirs else True
        if field.message_type is not None:
            assert inner["$ref"] == field.message_type.name
        else:
            kind, form = _TYPES[field.type]
            assert inner["type"] == kind, field.name
            # Times and masks are texts to us.
            assert inner.get("format", form) in (form, "google-datetime", "google-fieldmask"), field.name
            assert set(enum_values(field)) <= set(inner.get("enum", enum_values(field)))


def test_every_other_method_is_known_by_name() -> None:
    missing = set(THEIRS) - set(METHODS)
    assert missing == {
        f"iam.projects.serviceAccounts.{name}"
        for name in ("getIamPolicy", "setIamPolicy", "signBlob", "signJwt", "testIamPermissions", "undelete")
    }
    for identity in missing:
        custom = identity.rpartition(".")[2]
        method, _ = ROUTER.find("POST", f"projects/p/serviceAccounts/a@b:{custom}")
        assert isinstance(method, Other) and (method.id, method.mutates) == (identity, True)


@pytest.mark.parametrize(
    ("verb", "path", "code"),
    [
        ("GET", "projects/p/serviceAccounts/a@b:disable", 405),
        ("POST", "projects/p/serviceAccounts/a@b:explode", 405),
        ("GET", "projects/p/roles", 404),
        ("GET", "organizations/1/serviceAccounts", 404),
        ("PUT", "projects/p/serviceAccounts", 405),
    ],
)
def test_other_paths(verb: str, path: str, code: int) -> None:
    with pytest.raises(ApiError) as raised:
        ROUTER.find(verb, path)
    assert raised.value.code == code
