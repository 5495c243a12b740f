"""Each leaf of each body in Google's discovery document is decided in our protos, and the gateway holds to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from gateway import codec
from gstack.api import field_pb2
from gstack.kernel.contract import absent, bodies, decision, is_map, leaves, message_of
from gstack.kernel.errors import ApiError
from tests.contract.documents import google, googles_methods
from tests.contract.test_discovery import EXTRA_FIELDS, METHODS

BODIES = bodies()
USES = set(field_pb2.Use.keys()) - {"UNDECIDED"}


def googles_leaves(schema: dict[str, Any], path: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
    """`Instance.disks[].initializeParams.labels` and so on; a schema within itself is a leaf."""
    if "$ref" in schema:
        name = schema["$ref"]
        if name in seen:
            yield path
        else:
            yield from googles_leaves(google()["schemas"][name], path, (*seen, name))
    elif schema.get("type") == "array":
        yield from googles_leaves(schema["items"], f"{path}[]", seen)
    elif "properties" in schema:
        for name, below in schema["properties"].items():
            yield from googles_leaves(below, f"{path}.{name}", seen)
    else:
        yield path


def is_decided(descriptor: Descriptor, path: list[str]) -> bool:
    """path: names of fields, from this message on."""
    name, below = path[0].removesuffix("[]"), path[1:]
    if name in absent(descriptor):
        return True
    field = next((one for one in descriptor.fields if one.json_name == name), None)
    if field is None:
        return False
    if decision(field).use != "UNDECIDED":
        return True
    return bool(below) and field.message_type is not None and not is_map(field) and is_decided(message_of(field), below)


@pytest.mark.parametrize("name", BODIES)
def test_every_leaf_of_googles_body_is_decided(name: str) -> None:
    found = list(googles_leaves({"$ref": name}, name))
    assert found
    undecided = [path for path in found if not is_decided(BODIES[name][0], path.split(".")[1:])]
    assert not undecided, f"{name}: decide these in the protos: {', '.join(undecided)}"


def test_the_walk_finds_what_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = google()["schemas"]["NetworkInterface"]
    monkeypatch.setitem(schema["properties"], "someday", {"type": "object", "properties": {"a": {"type": "string"}}})
    found = list(googles_leaves({"$ref": "Instance"}, "Instance"))
    assert "Instance.networkInterfaces[].someday.a" in found
    assert not is_decided(BODIES["Instance"][0], ["networkInterfaces[]", "someday", "a"])
    assert len(found) > 200 and len(set(found)) == len(found)


@pytest.mark.parametrize("identity", METHODS)
def test_a_body_of_google_is_one_of_ours(identity: str) -> None:
    body = googles_methods()[identity].get("request", {}).get("$ref")
    assert body is None or identity in BODIES[body][1]


def _pairs(descriptor: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        yield descriptor
        for field in descriptor.fields:
            if field.message_type is not None and not is_map(field) and decision(field).use == "UNDECIDED":
                yield from _pairs(message_of(field), seen)


PARTS = {one.full_name: one for body, _ in BODIES.values() for one in _pairs(body, set())}


@pytest.mark.parametrize("name", sorted(PARTS))
def test_decisions_are_whole(name: str) -> None:
    """Each has what its kind needs; what is absent is Google's, and not there."""
    ours = {field.json_name for field in PARTS[name].fields}
    schema = google()["schemas"].get(PARTS[name].name, {}).get("properties")
    for field, found in absent(PARTS[name]).items():
        assert found.use in ("REFUSED", "OUTPUT", "NOTHING") and field not in ours, field
        assert schema is not None and field in schema, field
        assert (found.use == "OUTPUT") != found.why.endswith("."), field
    for field in PARTS[name].fields:
        found = decision(field)
        assert found.use in USES or field.message_type is not None, field.name
        assert (found.use in ("REFUSED", "NOTHING")) == bool(found.why), field.name


def test_what_google_calls_output_only_is_never_kept() -> None:
    """A client that sends an answer back must not be told that it set it."""
    for body, _ in BODIES.values():
        for part in _pairs(body, set()):
            for name, theirs in google()["schemas"].get(part.name, {}).get("properties", {}).items():
                ours = next((one for one in part.fields if one.json_name == name), None)
                said = theirs.get("description", "")
                if ours is not None and said.startswith(("Output only", "[Output Only]")):
                    assert decision(ours).use == "OUTPUT", f"{part.name}.{name}"


# What the gateway makes of them


def decode(name: str, body: Any) -> Any:
    message = GetMessageClass(BODIES[name][0])()
    codec.decoder(message.DESCRIPTOR)(message, codec.from_json(json.dumps(body).encode()), "resource")
    return message


def _body(path: str, value: Any) -> Any:
    for step in reversed(path.split(".")):
        value = {step.removesuffix("[]"): [value] if step.endswith("[]") else value}
    return value


REFUSED = [(name, path) for name, (one, _) in BODIES.items() for path, found in leaves(one) if found.use == "REFUSED"]
QUIET = [
    (name, path)
    for name, (one, _) in BODIES.items()
    for path, found in leaves(one)
    if found.use in ("OUTPUT", "NOTHING")
]
UNSET = [
    (name, path, value) for name, (one, _) in BODIES.items() for path, found in leaves(one) for value in found.unset
]


@pytest.mark.parametrize(("name", "path"), REFUSED)
def test_a_refused_field_is_named_with_its_path_and_why(name: str, path: str) -> None:
    for value in (1, "x", True, {"a": {"b": 1}}):
        with pytest.raises(ApiError) as raised:
            decode(name, _body(path, value))
        error = raised.value
        where = "resource." + path.replace("[].", "[0].").removesuffix("[]")
        assert (error.code, error.reason, error.location) == (400, "unsupportedOperation", where)
        assert error.message.startswith(f"Invalid value for field '{where}': not supported here: ")
        assert error.message.endswith(".")
        # What is behind the API is nothing that its users are told.
        assert "cloudstack" not in error.message.lower() and "offering" not in error.message


NOTHING: list[Any] = [None, False, 0, "", [], {}, [None], [{}], {"a": None}, {"a": {"b": [{"c": False, "d": ""}]}}]


@pytest.mark.parametrize(("name", "path"), REFUSED)
def test_what_says_nothing_is_no_reason_to_refuse(name: str, path: str) -> None:
    empty = _telling(decode(name, _body(path, None)))
    for value in NOTHING:
        assert _telling(decode(name, _body(path.removesuffix("[]"), value))) == empty, value


def _telling(message: Any, unset: str = "") -> Any:
    """A message without what says nothing, which may be kept so that it comes back."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            found = {key: without(one) for key, one in value.items()}
            return {key: one for key, one in found.items() if one not in (None, {}, False, 0, "", "0", unset)}
        return [without(one) for one in value] if isinstance(value, list) else value

    return without(MessageToDict(message))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("Instance", "advancedMachineFeatures.enableNestedVirtualization", False),
        ("Instance", "advancedMachineFeatures.threadsPerCore", 0),
        ("Instance", "advancedMachineFeatures", {}),
        ("Instance", "confidentialInstanceConfig.enableConfidentialCompute", False),
        ("Instance", "networkPerformanceConfig.totalEgressBandwidthTier", "DEFAULT"),
        ("Instance", "scheduling.gracefulShutdown.enabled", False),
        ("BulkInsertInstanceResource", "instanceProperties.workloadIdentityConfig.identityCertificateEnabled", False),
    ],
)
def test_what_says_nothing_is_there_to_come_back(name: str, path: str, value: Any) -> None:
    assert MessageToDict(decode(name, _body(path, value))) == _body(path, value)


@pytest.mark.parametrize(("name", "path"), QUIET)
def test_what_the_server_says_is_looked_over(name: str, path: str) -> None:
    empty = decode(name, _body(path, None))
    for value in (*NOTHING, 1, "x", {"a": {"b": 1}}):
        assert decode(name, _body(path.removesuffix("[]"), value)) == empty, value


@pytest.mark.parametrize(("name", "path", "value"), UNSET)
def test_googles_own_default_says_nothing(name: str, path: str, value: str) -> None:
    assert _telling(decode(name, _body(path, value)), value) == _telling(decode(name, _body(path, None)))


def test_defaults_say_nothing_in_depth() -> None:
    config = {"confidentialInstanceType": "CONFIDENTIAL_INSTANCE_TYPE_UNSPECIFIED", "enableConfidentialCompute": False}
    body = {
        "confidentialInstanceConfig": {**config, "confidentialParavisorConfig": None},
        "params": {"resourceManagerTags": {}},
        "privateIpv6GoogleAccess": "INHERIT_FROM_SUBNETWORK",
        "scheduling": {"nodeAffinities": [None], "onHostMaintenance": "MIGRATE"},
        "networkPerformanceConfig": {"totalEgressBandwidthTier": "DEFAULT"},
        "guestAccelerators": [None],
        "disks": [None, {"boot": True, "diskEncryptionKey": {}, "guestOsFeatures": [None]}],
        "networkInterfaces": [{"accessConfigs": [{"setPublicPtr": False}], "aliasIpRanges": [{}], "queueCount": None}],
    }
    found = decode("Instance", body)
    assert found.scheduling.onHostMaintenance == "MIGRATE"
    assert len(found.disks) == 1 and not found.disks[0].guestOsFeatures
    with pytest.raises(
        ApiError, match=r"resource\.confidentialInstanceConfig\.confidentialInstanceType': not supported here: "
    ):
        decode("Instance", {"confidentialInstanceConfig": {**config, "confidentialInstanceType": "TDX"}})


@pytest.mark.parametrize("name", BODIES)
def test_a_name_that_google_does_not_have_is_not_found(name: str) -> None:
    for value in NOTHING:
        decode(name, {"someday": value})
    with pytest.raises(ApiError, match=r"Unknown name \"someday\" at 'resource': Cannot find field") as raised:
        decode(name, {"someday": {"a": [{"b": 1}]}})
    assert (raised.value.code, raised.value.reason) == (400, "badRequest")


def test_depth_is_bounded() -> None:
    deep: Any = None
    for _ in range(200):
        deep = {"a": deep}
    for field in ("someday", "guestAccelerators"):
        with pytest.raises(ApiError):
            decode("Instance", {field: deep})


def test_fields_of_other_versions_are_decided_too() -> None:
    for extra in EXTRA_FIELDS:
        message, _, name = extra.partition(".")
        part = next(one for one in PARTS.values() if one.name == message)
        field = part.fields_by_name[name]
        assert decision(field).use in USES or field.message_type is not None
