"""Our contract against Google's discovery document of compute v1, and the document that we serve."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from googleapiclient.discovery import build_from_document
from googleapiclient.http import HttpMockSequence

from gateway import others
from gateway.discovery import Discovery
from gateway.routes import COMPUTE, Router
from gstack.kernel.contract import comment, enum_values, format_of, http_rule, is_map, method_id, services
from tests.contract import methods
from tests.contract.documents import google, googles_methods

ROUTER = Router(COMPUTE)
METHODS = {method_id(method): method for service in services() for method in service.methods}
ROOT = "http://gw.example.org:5000"

# Parameters and fields of ours that Google's document of today does not have.
EXTRA_PARAMETERS = {
    # gcloud and older libraries still send it; Google took it out of the document in 2026.
    "returnPartialSuccess",
}
EXTRA_FIELDS = {
    # API version v1beta16, which gcutil can speak: the image of an instance, without boot disk.
    "Instance.image",
    # libcloud sends the one, Terraform the other.
    "Image.zone",
    "Snapshot.zone",
    # Of compute beta and alpha.
    "AttachedDiskInitializeParams.guestOsFeatures",
}
# Lists to which Google's document gives the kind of one of their resources, or another spelling.
ODD_KINDS = {
    "compute.crossSiteNetworks.list", "compute.globalVmExtensionPolicies.aggregatedList",
    "compute.interconnectAttachmentGroups.list", "compute.interconnectGroups.list",
}  # fmt: skip
# Of methods that are not ours.
ANY = "NotOffered"
# Methods of v1beta16 that we know by name only.
EXTRA_METHODS = {"compute.kernels.list", "compute.kernels.get"}
# Shapes that Google writes out wherever they occur and that are one message of ours.
INLINE = {"Warning"}

# What gcutil asks of a document before any command (as its source says, gcutil 1.16.1).
GCUTIL = {
    "disks", "firewalls", "globalOperations", "images", "instances", "machineTypes", "networks", "projects", "routes",
    "snapshots", "zoneOperations", "zones",
}  # fmt: skip

_TYPES: dict[int, tuple[str, str | None]] = {
    FieldDescriptor.TYPE_STRING: ("string", None),
    FieldDescriptor.TYPE_BOOL: ("boolean", None),
    FieldDescriptor.TYPE_BYTES: ("string", "byte"),
    FieldDescriptor.TYPE_INT32: ("integer", "int32"),
    FieldDescriptor.TYPE_UINT32: ("integer", "uint32"),
    FieldDescriptor.TYPE_INT64: ("string", "int64"),
    FieldDescriptor.TYPE_UINT64: ("string", "uint64"),
    FieldDescriptor.TYPE_DOUBLE: ("number", "double"),
}


def _type(field: FieldDescriptor) -> tuple[str, str | None]:
    type, usual = _TYPES[field.type]
    return type, format_of(field) or usual


def served(version: str = "v1") -> dict[str, Any]:
    found = Discovery(ROUTER).document(version, ROOT)
    assert found is not None
    return json.loads(found[0])


def messages() -> dict[str, Descriptor]:
    """Every message that stands for a schema of its own, below the bodies and answers."""
    found: dict[str, Descriptor] = {}

    def visit(descriptor: Descriptor) -> None:
        if descriptor.full_name in found:
            return
        found[descriptor.full_name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                visit(field.message_type)

    for method in METHODS.values():
        if method.output_type.fields:
            visit(method.output_type)
        if body := http_rule(method).body:
            visit(method.input_type.fields_by_name[body].message_type)
    return {name: one for name, one in found.items() if one.containing_type is None}


@pytest.mark.parametrize("identity", METHODS)
def test_methods(identity: str) -> None:
    method, theirs = METHODS[identity], googles_methods()[identity]
    rule = http_rule(method)
    assert rule.verb == theirs["httpMethod"]
    assert rule.path == "/compute/v1/" + theirs["path"].replace("{+", "{")
    body = method.input_type.fields_by_name[rule.body].message_type.name if rule.body else None
    assert body == theirs.get("request", {}).get("$ref")
    answer = method.output_type.name if method.output_type.fields else None
    assert answer == theirs.get("response", {}).get("$ref")


def _parameters(method: MethodDescriptor) -> list[FieldDescriptor]:
    return [field for field in method.input_type.fields if field.name != http_rule(method).body]


@pytest.mark.parametrize("identity", METHODS)
def test_parameters(identity: str) -> None:
    method, theirs = METHODS[identity], googles_methods()[identity]["parameters"]
    path = http_rule(method).path
    for field in _parameters(method):
        if field.name in EXTRA_PARAMETERS and field.name not in theirs:
            continue
        found = theirs[field.json_name]
        assert _type(field) == (found["type"], found.get("format")), field.name
        assert field.is_repeated == found.get("repeated", False), field.name
        assert found["location"] == ("path" if f"{{{field.name}}}" in path else "query"), field.name
    ours = {field.json_name for field in _parameters(method)}
    assert {name for name, found in theirs.items() if found.get("required")} <= ours


def test_exceptions_are_needed() -> None:
    for name in EXTRA_PARAMETERS:
        assert any(
            name in {field.json_name for field in _parameters(method)}
            and name not in googles_methods()[identity]["parameters"]
            for identity, method in METHODS.items()
        )
    assert not INLINE & set(google()["schemas"])
    for name in EXTRA_FIELDS:
        message, _, field = name.partition(".")
        assert field not in google()["schemas"][message]["properties"]


@pytest.mark.parametrize("name", sorted(name for name, one in messages().items() if one.name not in INLINE))
def test_messages(name: str) -> None:
    descriptor = messages()[name]
    assert not _differences(descriptor, google()["schemas"][descriptor.name], descriptor.name)


def _differences(descriptor: Descriptor, schema: dict[str, Any], path: str) -> list[str]:
    found = []
    for field in descriptor.fields:
        here = f"{path}.{field.json_name}"
        if here in EXTRA_FIELDS:
            continue
        theirs = schema.get("properties", {}).get(field.json_name)
        found += [f"{here}: not Google's"] if theirs is None else _field_differences(field, theirs, here)
    return found


def _field_differences(field: FieldDescriptor, theirs: dict[str, Any], path: str) -> list[str]:
    if is_map(field):
        if "additionalProperties" not in theirs:
            return [f"{path}: not a map"]
        value = field.message_type.fields_by_name["value"]
        return _value_differences(value, theirs["additionalProperties"], path)
    if field.is_repeated != (theirs.get("type") == "array"):
        return [f"{path}: repeated or not"]
    return _value_differences(field, theirs["items"] if field.is_repeated else theirs, path)


def _value_differences(field: FieldDescriptor, theirs: dict[str, Any], path: str) -> list[str]:
    if field.message_type is None:
        ours = _type(field)
        if ours != (theirs.get("type"), theirs.get("format")):
            return [f"{path}: {ours}, Google has {theirs.get('type')} {theirs.get('format')}"]
        more = set(enum_values(field)) - set(theirs.get("enum", ()))
        return [f"{path}: values {more}"] if more else []
    if "$ref" in theirs:
        return [] if theirs["$ref"] == field.message_type.name else [f"{path}: {theirs['$ref']}"]
    if "properties" not in theirs:
        return [f"{path}: no object"]
    return _differences(field.message_type, theirs, path)


def test_every_method_of_google_is_known() -> None:
    """`make methods` writes the file anew."""
    assert others.FOLDER.joinpath(others.METHODS).read_text().splitlines() == methods.lines()
    known = {other.id for other in others.read(others.METHODS)}
    assert set(METHODS) <= known == set(googles_methods()) | EXTRA_METHODS
    assert not EXTRA_METHODS & set(googles_methods())


def test_what_is_absent_is_googles_and_not_ours() -> None:
    known = {other.collection for other in others.read(others.METHODS)}
    ours = {identity.split(".")[1] for identity in METHODS}
    assert others.absent_collections() <= known - ours


def test_what_is_refused_with_a_reason_is_googles_and_not_ours() -> None:
    for identity, why in others.refusals().items():
        assert identity in googles_methods() and identity not in METHODS
        assert why.endswith(".") and why.count(".") == 1 and "cloudstack" not in why.lower()
    for other in others.read(others.METHODS):
        # Their kinds are Google's.
        if other.is_absent and other.lists and other.id not in EXTRA_METHODS:
            kind = google()["schemas"][other.reply]["properties"].get("kind", {}).get("default")
            shown = other.answer("projects/p/x", "https://gw/compute/v1")
            assert kind in (None, shown["kind"]) or other.id in ODD_KINDS, other.id
            items = google()["schemas"][other.reply]["properties"]["items"]
            assert type(shown["items"]) is (list if items["type"] == "array" else dict)


def test_everything_is_described() -> None:
    missing = [method.full_name for method in METHODS.values() if not comment(method)]
    missing += [field.full_name for one in messages().values() for field in one.fields if not comment(field)]
    missing += [field.full_name for method in METHODS.values() for field in _parameters(method) if not comment(field)]
    assert not missing


# The document that we serve


@pytest.mark.parametrize("version", COMPUTE.versions)
def test_a_client_is_built_from_the_document(version: str) -> None:
    document = served(version)
    assert (document["version"], document["rootUrl"]) == (version, f"{ROOT}/")
    answers = HttpMockSequence([({"status": "200"}, b'{"kind": "compute#instanceList", "items": [{"name": "i"}]}')])
    client = build_from_document(document, http=answers)
    request = client.instances().list(project="ian@example.org", zone="CH-GV2", filter="name eq i", maxResults=2)
    assert request.uri.startswith(f"{ROOT}/compute/{version}/projects/ian%40example.org/zones/CH-GV2/instances?")
    assert request.execute()["items"] == [{"name": "i"}]


def test_every_method_is_in_the_client() -> None:
    """A client has Google's methods with Google's parameters, and each leads where it would lead at Google."""
    ours = build_from_document(served(), http=HttpMockSequence([]))
    base = f"{ROOT}/compute/v1/"
    for identity, method in sorted(googles_methods().items()):
        _, collection, name = identity.split(".")
        given = {key: "1" for key, about in method["parameters"].items() if about.get("required")}
        for key in given:
            if method["parameters"][key].get("type") == "boolean":
                given[key] = True
        if "{+" in method["path"]:
            parent = "parentName" if "parentName" in given else "parentResource"
            before, _, after = method["path"].partition(f"{{+{parent}}}")
            given[parent] = re.sub(r"{\w+}", "1", method["flatPath"].removeprefix(before).removesuffix(after))
        if "request" in method:
            given["body"] = {}
        request = getattr(getattr(ours, collection)(), name)(**given)
        assert request.method == method["httpMethod"]
        path = re.sub(r"{\+?(\w+)}", lambda found, given=given: given[found[1]], method["path"])
        below = request.uri.partition("?")[0].removeprefix(base)
        assert below.removeprefix("projects/") == path.removeprefix("projects/")
        # Also for a client that has been told that the base is `/compute/v1/`.
        for url in (below, below.removeprefix("projects/")):
            assert ROUTER.find(request.method, url)[0].id == identity


def test_the_parameters_of_all_methods() -> None:
    resources = served()["resources"]
    for identity, theirs in googles_methods().items():
        _, collection, name = identity.split(".")
        found = resources[collection]["methods"][name]
        if identity in METHODS:
            for key in found["parameters"].keys() & theirs["parameters"].keys():
                flags = [one["parameters"][key].get("repeated", False) for one in (found, theirs)]
                assert flags[0] == flags[1], identity
            continue
        assert found["parameters"].keys() == theirs["parameters"].keys()
        for key, about in found["parameters"].items():
            expected = {part: theirs["parameters"][key].get(part) for part in ("type", "format", "location")}
            assert {part: about.get(part) for part in expected} == expected, identity
            for flag in ("required", "repeated"):
                assert about.get(flag, False) == theirs["parameters"][key].get(flag, False), identity
        assert set(theirs.get("parameterOrder", ())) == set(found["parameterOrder"]), identity
        assert ("request" in theirs, "response" in theirs) == ("request" in found, "response" in found)
        assert found["description"].count(".") == 1


def test_what_gcutil_reads() -> None:
    document = served()
    assert set(document["resources"]) >= GCUTIL
    assert "kernels" not in document["resources"]
    assert "kernels" in served("v1beta16")["resources"]
    assert document["rootUrl"] + document["servicePath"] == f"{ROOT}/compute/v1/projects/"
    for identity, ours in METHODS.items():
        _, collection, name = identity.split(".")
        method = document["resources"][collection]["methods"][name]
        assert method["id"] == identity
        assert "/compute/v1/projects/" + method["path"] == http_rule(ours).path


@pytest.mark.parametrize("version", COMPUTE.versions)
def test_names_are_not_checked_by_patterns(version: str) -> None:
    assert '"pattern"' not in json.dumps(served(version))


def test_every_reference_leads_somewhere() -> None:
    document = served()
    references: set[str] = set()

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                references.add(value["$ref"])
            for below in value.values():
                visit(below)
        elif isinstance(value, list):
            for below in value:
                visit(below)

    visit(document)
    assert references and references <= set(document["schemas"])


def test_served_schemas_say_what_googles_do() -> None:
    schemas = served()["schemas"]
    assert {name for name in schemas if name not in google()["schemas"]} == INLINE | {ANY}
    for name, schema in schemas.items():
        if name in INLINE | {ANY}:
            continue
        theirs = google()["schemas"][name]["properties"]
        for field, shown in schema["properties"].items():
            inline = shown.get("$ref") in INLINE
            if f"{name}.{field}" not in EXTRA_FIELDS and not inline:
                for key in ("type", "format", "$ref"):
                    assert shown.get(key) == theirs[field].get(key), f"{name}.{field}"


def test_the_document_is_stable_and_tagged() -> None:
    discovery = Discovery(ROUTER)
    body, tag = discovery.document("v1", ROOT)
    assert discovery.document("v1", ROOT) == (body, tag)
    assert Discovery(ROUTER).document("v1", ROOT) == (body, tag)
    assert discovery.document("beta", ROOT)[1] != tag != discovery.document("v1", "http://other")[1]
    assert discovery.document("v2", ROOT) is None
    for number in range(300):
        discovery.document("v1", f"http://{number}")
    assert len(discovery._documents) <= 201


def test_the_directory() -> None:
    found = json.loads(Discovery(ROUTER).directory(ROOT))
    assert found["kind"] == "discovery#directoryList"
    assert [item["version"] for item in found["items"]] == list(COMPUTE.versions)
    assert [item["version"] for item in found["items"] if item["preferred"]] == ["v1"]
    assert found["items"][0]["discoveryRestUrl"] == f"{ROOT}/discovery/v1/apis/compute/v1/rest"
