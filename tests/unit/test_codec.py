"""JSON to messages and back, held against google.protobuf.json_format."""

from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import codec
from gstack.auth.v1.iam_pb2 import ServiceAccountKey
from gstack.compute.v1.disks_pb2 import Disk
from gstack.compute.v1.firewalls_pb2 import Firewall
from gstack.compute.v1.instances_pb2 import AttachedDisk, Instance, InstanceAggregatedList, InstanceList, Tags
from gstack.compute.v1.operations_pb2 import Operation
from gstack.compute.v1.projects_pb2 import Project
from gstack.compute.v1.zones_pb2 import Zone
from gstack.kernel.contract import decision, enum_values, http_rule, is_map, services
from gstack.kernel.errors import ApiError

ANSWERS = sorted({method.output_type for service in services() for method in service.methods}, key=lambda d: d.name)
BODIES = sorted(
    {
        method.input_type.fields_by_name[rule.body].message_type
        for service in services()
        for method in service.methods
        if (rule := http_rule(method)).body
    },
    key=lambda descriptor: descriptor.name,
)

_NUMBERS = {
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=12),
}


def texts(size: int) -> st.SearchStrategy[str]:
    """Of every character that a body may hold."""
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=size)


def scalars(field: FieldDescriptor) -> st.SearchStrategy:
    if values := enum_values(field):
        return st.sampled_from(values)
    return _NUMBERS[field.type] if field.type in _NUMBERS else texts(12)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0, taken: bool = False) -> Message:
    """taken: only with fields that a body may have."""
    message = GetMessageClass(descriptor)()
    fields = [
        field for field in descriptor.fields if not taken or decision(field).use in ("UNDECIDED", "HONOURED", "KEPT")
    ]
    wanted = draw(
        st.lists(st.sampled_from(fields), max_size=max(8 - depth, 1), unique_by=lambda f: f.number)
        if fields
        else st.just([])
    )
    for field in wanted:
        if is_map(field):
            value = field.message_type.fields_by_name["value"]
            for key in draw(st.lists(texts(8), max_size=2)):
                if value.message_type:
                    getattr(message, field.name)[key].CopyFrom(draw(messages(value.message_type, depth + 3, taken)))
                else:
                    getattr(message, field.name)[key] = draw(scalars(value))
        elif field.message_type is not None:
            if depth > 4:
                continue
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 2))):
                    getattr(message, field.name).add().CopyFrom(draw(messages(field.message_type, depth + 2, taken)))
            else:
                getattr(message, field.name).CopyFrom(draw(messages(field.message_type, depth + 2, taken)))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(scalars(field), max_size=3)))
        else:
            setattr(message, field.name, draw(scalars(field)))
    return message


def _fields(descriptor: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """Of a message and of all that are in it."""
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            yield field
            if field.message_type is not None:
                yield from _fields(field.message_type, seen)


def encoded(message: Message) -> bytes:
    return codec.to_json(codec.encoder(message.DESCRIPTOR)(message), pretty=False)


def decoded(kind: type[Message], text: str | bytes) -> Message:
    message = kind()
    body = text if isinstance(text, bytes) else text.encode()
    codec.decoder(kind.DESCRIPTOR)(message, codec.from_json(body), "resource")
    return message


def refused(kind: type[Message], text: str | bytes) -> ApiError:
    with pytest.raises(ApiError) as raised:
        decoded(kind, text)
    assert raised.value.code == 400
    return raised.value


@pytest.mark.parametrize("descriptor", [d for d in ANSWERS if d.fields], ids=lambda d: d.name)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_answers_are_what_json_format_writes(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages(descriptor))
    assert _url_safe(json.loads(encoded(message))) == _url_safe(json.loads(json_format.MessageToJson(message)))


def _url_safe(value: Any) -> Any:
    """Two answers that differ in the alphabet of base64 at most become the same."""
    if isinstance(value, dict):
        return {key: _url_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_url_safe(item) for item in value]
    return value.replace("+", "-").replace("/", "_") if isinstance(value, str) else value


@pytest.mark.parametrize("descriptor", BODIES, ids=lambda d: d.name)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_bodies_come_back_as_they_went(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages(descriptor, taken=True))
    kind = type(message)
    assert decoded(kind, encoded(message)) == message
    assert decoded(kind, json_format.MessageToJson(message)) == message
    assert json_format.Parse(encoded(message), kind()) == message


def test_types_of_answers() -> None:
    operation = Operation(id=2**64 - 1, progress=0, name="o", error=Operation.Error())
    assert json.loads(encoded(operation)) == {"id": "18446744073709551615", "progress": 0, "name": "o", "error": {}}
    assert json.loads(encoded(Disk(sizeGb=10))) == {"sizeGb": "10"}
    assert json.loads(encoded(Instance(fingerprint=b"\xff\xfe\xfd"))) == {"fingerprint": "__79"}
    assert encoded(Instance()) == b"{}\n"
    assert b"null" not in encoded(InstanceList(items=[Instance()]))


def test_maps_are_sorted_and_nested() -> None:
    found = InstanceAggregatedList()
    found.items["zones/b"].instances.add(name="x")
    found.items["zones/a"].warning.code = "NO_RESULTS_ON_PAGE"
    value = codec.encoder(found.DESCRIPTOR)(found)
    assert list(value["items"]) == ["zones/a", "zones/b"]
    assert value["items"]["zones/b"] == {"instances": [{"name": "x"}]}


def test_pretty_and_plain_are_the_same_value() -> None:
    value = {"a": [1, {"b": "ü"}]}
    assert json.loads(codec.to_json(value, True)) == json.loads(codec.to_json(value, False)) == value
    assert codec.to_json(value, True).count(b"\n") > codec.to_json(value, False).count(b"\n") == 1


# Spellings that clients send


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Disk, '{"sizeGb": "10"}', Disk(sizeGb=10)),
        (Disk, '{"sizeGb": 10}', Disk(sizeGb=10)),
        (Disk, '{"sizeGb": 10.0}', Disk(sizeGb=10)),
        (Disk, '{"sizeGb": " 10 "}', Disk(sizeGb=10)),
        (Disk, '{"description": null, "sizeGb": null, "labels": null, "licenses": null}', Disk()),
        (Disk, '{"labels": {}, "licenses": []}', Disk()),
        (Disk, '{"labels": {"a": 1, "b": ""}}', Disk(labels={"a": "1", "b": ""})),
        (Disk, '{"name": "a", "name": "b"}', Disk(name="b")),
        (Disk, ' {"name": "a"}\n', Disk(name="a")),
        (Firewall, '{"priority": "1000"}', Firewall(priority=1000)),
        (Firewall, '{"allowed": [{"IPProtocol": 6, "ports": [22, "80-90"]}]}', None),
        (Firewall, '{"disabled": "True"}', Firewall(disabled=True)),
        (Firewall, '{"disabled": "false"}', Firewall(disabled=False)),
        (Tags, '{"fingerprint": "//79"}', Tags(fingerprint=b"\xff\xfe\xfd")),
        (Tags, '{"fingerprint": "__79"}', Tags(fingerprint=b"\xff\xfe\xfd")),
        (Tags, '{"fingerprint": "AQ"}', Tags(fingerprint=b"\x01")),
        (Tags, '{"fingerprint": "AQ=="}', Tags(fingerprint=b"\x01")),
        (Tags, '{"fingerprint": ""}', Tags(fingerprint=b"")),
        (Instance, '{"kind": "compute#instance", "id": 12, "status": {"a": 1}}', Instance()),
        (Instance, '{"disks": [null, {"boot": true}]}', Instance(disks=[AttachedDisk(boot=True)])),
        (Instance, '{"canIpForward": false}', Instance(canIpForward=False)),
    ],
)
def test_tolerated(kind: type[Message], text: str, expected: Message | None) -> None:
    if expected is None:
        expected = Firewall()
        expected.allowed.add(IPProtocol="6", ports=["22", "80-90"])
    assert decoded(kind, text) == expected


def test_an_empty_object_is_told_from_an_absent_one() -> None:
    assert decoded(Instance, '{"scheduling": {}}').HasField("scheduling")
    assert not decoded(Instance, '{"scheduling": null}').HasField("scheduling")


def test_false_is_told_from_absent() -> None:
    assert decoded(Instance, '{"canIpForward": false}').HasField("canIpForward")
    assert not decoded(Instance, "{}").HasField("canIpForward")


@pytest.mark.parametrize("nothing", ["null", "false", "0", "0.0", '""', '"0"', "[]", "{}", "[0]", '{"a": null}'])
def test_an_unknown_field_that_says_nothing_is_looked_over(nothing: str) -> None:
    assert decoded(Disk, f'{{"someday": {nothing}, "name": "d"}}') == Disk(name="d")


@pytest.mark.parametrize("something", ["true", "1", '"x"', "[1]", '{"a": [null, {"b": "x"}]}', "-1", '"false"'])
def test_an_unknown_field_that_says_something_is_refused(something: str) -> None:
    error = refused(Instance, f'{{"disks": [{{}}, {{"someday": {something}}}]}}')
    assert error.location == "resource.disks[1].someday"
    assert "someday" in error.message and "resource.disks[1]" in error.message


@pytest.mark.parametrize(
    ("kind", "text", "path"),
    [
        (Disk, "[]", "resource"),
        (Disk, '"ignored"', "resource"),
        (Disk, "null", "resource"),
        (Disk, '{"sizeGb": "ten"}', "resource.sizeGb"),
        (Disk, '{"sizeGb": ""}', "resource.sizeGb"),
        (Disk, '{"sizeGb": 1.5}', "resource.sizeGb"),
        (Disk, '{"sizeGb": true}', "resource.sizeGb"),
        (Disk, '{"sizeGb": [1]}', "resource.sizeGb"),
        (Disk, '{"sizeGb": {}}', "resource.sizeGb"),
        (Disk, '{"sizeGb": 9223372036854775808}', "resource.sizeGb"),
        (Disk, '{"sizeGb": "-9223372036854775809"}', "resource.sizeGb"),
        (Disk, '{"sizeGb": 1e400}', None),
        (Disk, '{"sizeGb": ' + "9" * 400 + "}", None),
        (Disk, '{"sizeGb": "' + "9" * 5000 + '"}', "resource.sizeGb"),
        (Disk, '{"sizeGb": NaN}', None),
        (Zone, '{"id": -1}', "resource.id"),
        (Firewall, '{"priority": 2147483648}', "resource.priority"),
        (Firewall, '{"disabled": "yes"}', "resource.disabled"),
        (Firewall, '{"disabled": 1}', "resource.disabled"),
        (Firewall, '{"direction": "SIDEWAYS"}', "resource.direction"),
        (Firewall, '{"sourceRanges": "0.0.0.0/0"}', "resource.sourceRanges"),
        (Firewall, '{"sourceRanges": [null]}', "resource.sourceRanges[0]"),
        (Firewall, '{"allowed": {"IPProtocol": "tcp"}}', "resource.allowed"),
        (Firewall, '{"allowed": [1]}', "resource.allowed[0]"),
        (Firewall, '{"allowed": [{"ports": [22, {}]}]}', "resource.allowed[0].ports[1]"),
        (Disk, '{"name": true}', "resource.name"),
        (Disk, '{"name": ["x"]}', "resource.name"),
        (Disk, '{"labels": ["x"]}', "resource.labels"),
        (Disk, '{"labels": {"a": {}}}', "resource.labels.a"),
        (Disk, '{"labels": {"a": null}}', "resource.labels.a"),
        (Instance, '{"scheduling": []}', "resource.scheduling"),
        (Instance, '{"disks": [{"initializeParams": {"labels": 1}}]}', "resource.disks[0].initializeParams.labels"),
        (Tags, '{"fingerprint": "*"}', "resource.fingerprint"),
        (Tags, '{"fingerprint": "A"}', "resource.fingerprint"),
        (Tags, '{"fingerprint": "é"}', "resource.fingerprint"),
        (Tags, '{"fingerprint": 1}', "resource.fingerprint"),
    ],
)  # fmt: skip
def test_refused_with_the_path_of_the_field(kind: type[Message], text: str, path: str | None) -> None:
    error = refused(kind, text)
    if path is not None:
        assert error.location == path
        assert path in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": "a"} x',
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "\xff"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "\\ud800"}',
        b"{'name': 'a'}",
        b'{"name": "a",}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"disks":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    assert refused(Instance, body).reason == "parseError"


@pytest.mark.parametrize("field", ["name", "sizeGb", "labels", "licenses", "someday", "resourcePolicies"])
@pytest.mark.parametrize("depth", [50, 900, 1000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_deep_values_are_refused_not_crashed_on(field: str, depth: int, brackets: tuple[str, str]) -> None:
    begin, end = brackets
    refused(Disk, f'{{"{field}": {begin * depth}1{end * depth}}}')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "labels", "disks", "sizeGb", "tags", "items", "x"]), below, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 200_000 + b"1]", b"{" + b'"a":1,' * 200_000 + b'"b":1}', b'{"a":[' + b"1," * 400_000 + b"1]}"],
    ids=["lists", "members", "numbers"],
)
def test_c1_items_are_counted_before_they_are_made(body: bytes) -> None:
    # The decoder is made with the first body.
    refused(Instance, b"[]")
    tracemalloc.start()
    assert "items" in refused(Instance, body).message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("script", ["a,b{[" * 60_000, '"' * 100_000, "\\" * 100_001, '\\"' * 100_000])
def test_long_texts_are_one_item(script: str) -> None:
    assert decoded(Disk, orjson.dumps({"description": script})).description == script
    # Without its end it is no JSON, and found to be none in one pass.
    refused(Disk, orjson.dumps({"description": script})[:-2])


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a\\u0000b"}',
        '{"labels": {"\\u0000": "x"}}',
        '{"labels": {"x": "\\u0000"}}',
        '{"licenses": ["\\u0000"]}',
        '{"sizeGb": "\\u001f5"}',
        '{"sizeGb": "\\u00a05"}',
    ],
)
def test_e_characters_that_no_database_takes(text: str) -> None:
    assert refused(Disk, text).reason == "invalid"


number_texts = st.text(st.sampled_from("0123456789+-. eE_\x1d\x1f\t\n\u00a0\u0660xInfa"), max_size=12)


@pytest.mark.parametrize("name", ["sizeGb", "id"])
@given(number_texts | texts(8) | st.floats() | st.integers())
@settings(max_examples=150)
def test_e_any_value_is_a_number_or_400(name: str, value: object) -> None:
    convert = codec.scalar(Disk.DESCRIPTOR.fields_by_name[name])
    try:
        found = convert(value, name)
    except ApiError as error:
        assert (error.code, error.location) == (400, name)
    else:
        assert isinstance(found, int)


@given(json_values, st.sampled_from([Instance, Disk, Firewall, Project]))
@settings(max_examples=200)
def test_any_json_is_a_message_or_400(value: object, kind: type[Message]) -> None:
    message = kind()
    try:
        codec.decoder(kind.DESCRIPTOR)(message, value, "resource")
    except ApiError as error:
        assert error.code == 400
        assert error.location.startswith("resource")
    else:
        orjson.loads(encoded(message))


@given(st.binary(max_size=80))
@settings(max_examples=150)
def test_any_bytes_are_json_or_400(body: bytes) -> None:
    try:
        codec.from_json(body)
    except ApiError as error:
        assert (error.code, error.reason) == (400, "parseError")


@given(st.binary(max_size=40))
def test_base64_in_both_alphabets(value: bytes) -> None:
    for text in (base64.b64encode(value), base64.urlsafe_b64encode(value), base64.b64encode(value).rstrip(b"=")):
        assert decoded(Tags, orjson.dumps({"fingerprint": text.decode()})) == Tags(fingerprint=value)
    assert not set("+/") & set(json.loads(encoded(Tags(fingerprint=value))).get("fingerprint", ""))


COMPUTES_BYTES = sorted(
    {
        (field.containing_type.full_name, field.name)
        for answer in ANSWERS
        for field in _fields(answer, set())
        if field.type == FieldDescriptor.TYPE_BYTES
    }
)


@pytest.mark.parametrize(("message", "name"), COMPUTES_BYTES)
def test_every_fingerprint_is_url_safe(message: str, name: str) -> None:
    descriptor = descriptor_pool.Default().FindMessageTypeByName(message)
    shown = json.loads(encoded(GetMessageClass(descriptor)(**{name: b"\xfb\xff\xfe\x01"})))
    assert shown == {descriptor.fields_by_name[name].json_name: "-__-AQ=="}


def test_a_key_file_is_for_any_decoder() -> None:
    key = ServiceAccountKey(privateKeyData=b"\xfb\xff\xfe\x01")
    assert json.loads(encoded(key)) == {"privateKeyData": "+//+AQ=="}


def test_nulls_of_a_patch_are_told_by_their_paths() -> None:
    body = {
        "description": None, "labels": None, "disks": None, "selfLink": None, "guestAccelerators": None, "nope": None,
        "scheduling": {"locationHint": None, "automaticRestart": True, "gracefulShutdown": {"enabled": None}},
        "networkInterfaces": [{"nicType": None}], "displayDevice": {}, "tags": {"items": None},
    }  # fmt: skip
    kind = Instance()
    codec.decoder(kind.DESCRIPTOR)(kind, body, "resource")
    assert sorted(codec.cleared(kind.DESCRIPTOR, body)) == [
        "description", "disks", "labels", "scheduling.locationHint", "tags.items",
    ]  # fmt: skip
