"""Signatures, by the rules of CloudStack's ApiServer.verifyRequest; the vectors were made with openssl."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import signature as theirs
from simulator.app import _parse
from translator_service.cloudstack import signing as ours

# (parameters, secret, digest): `printf %s STRING | openssl dgst -sha1 -hmac SECRET -binary | base64`.
VECTORS = [
    # apikey=key&command=createvolume&name=a%20b%2bc%7ed*e%5bf%5d%28g%29%21h%27i%40j%3ak%2cl%2fm%3dn%26o.p_q-r&...
    (
        {
            "command": "createVolume",
            "response": "json",
            "apikey": "Key",
            "name": "a b+c~d*e[f](g)!h'i@j:k,l/m=n&o.p_q-r",
        },
        "secret-Key",
        "kd7ozSAZNIMAQONiah60sXCSteI=",
    ),
    # ...&details[0].cpunumber=2&details[0].memory=1024&displayname=z%c3%bcrich%20%e2%82%ac%20%f0%9f%98%80&response=json
    (
        {
            "command": "deployVirtualMachine",
            "apikey": "key",
            "displayname": "Zürich € 😀",
            "details[0].memory": "1024",
            "details[0].cpuNumber": "2",
            "response": "json",
        },
        "secret-Key",
        "qg5C2V2qbiuGPuh19iuGBtHQPjg=",
    ),
    # apikey=key&command=listzones&name=&response=json
    (
        {"command": "listZones", "apikey": "key", "response": "json", "name": ""},
        "schlüssel",
        "efgiAlUSeJojgy6EnC5nff1jwuo=",
    ),
    # The names are sorted as they are, upper case first, and lower-cased afterwards: b=1&a=2&c=3
    ({"a": "2", "B": "1", "c": "3"}, "secret-Key", "M3JjRqJHkDP6mXOqo9ApxlKrvAY="),
    ({"a": "2", "b": "1", "c": "3"}, "secret-Key", "3SKKvbtjNKQgFbLynkT5ZmLI8U4="),
]

names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}(\[[0-9]\]\.[A-Za-z0-9.]{1,6})?", fullmatch=True)
parameters = st.dictionaries(names.filter(lambda name: name.lower() != "signature"), st.text(), max_size=8)
secrets = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize(("values", "secret", "digest"), VECTORS)
@pytest.mark.parametrize("sign", [ours.sign, theirs.sign])
def test_vectors(sign, values: dict[str, str], secret: str, digest: str) -> None:
    assert sign(values, secret) == digest


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (" ", "%20"),
        ("+", "%2B"),
        ("~", "%7E"),
        ("*", "*"),
        (".-_", ".-_"),
        ("[0]", "%5B0%5D"),
        ("(a)!'", "%28a%29%21%27"),
        ("@:,", "%40%3A%2C"),
        ("/=&%", "%2F%3D%26%25"),
        ("ü", "%C3%BC"),
        ("\n\t\0", "%0A%09%00"),
        ("😀", "%F0%9F%98%80"),
    ],
)
def test_values_are_encoded_as_java_does(text: str, encoded: str) -> None:
    assert ours.encode(text) == encoded


def test_the_case_of_values_is_not_signed() -> None:
    assert ours.sign({"name": "WEB"}, "k") == ours.sign({"name": "web"}, "k")
    assert ours.sign({"name": "web"}, "k") != ours.sign({"name": "web"}, "K")


def test_the_signature_itself_is_not_signed() -> None:
    assert theirs.sign({"a": "1", "signature": "x"}, "k") == theirs.sign({"a": "1"}, "k")


@given(parameters, secrets)
@settings(max_examples=150)
def test_a_query_arrives_whole_and_its_signature_holds(values: dict[str, str], secret: str) -> None:
    query = ours.signed_query(values, secret)
    arrived = _parse(query.encode())
    signature = arrived.pop("signature")
    assert arrived == values
    assert theirs.sign(arrived, secret) == signature == ours.sign(values, secret)


@given(parameters.filter(bool), secrets, st.data())
@settings(max_examples=50)
def test_another_value_has_another_signature(values: dict[str, str], secret: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(values)))
    assert ours.sign(values, secret) != ours.sign({**values, name: values[name] + "x"}, secret)


def test_a_signed_query_is_one_form() -> None:
    query = ours.signed_query({"name": "a b", "x[0].y": "1"}, "k")
    assert [name for name, _ in parse_qsl(query)] == ["name", "x[0].y", "signature"]
    assert "\n" not in query and " " not in query


@pytest.mark.parametrize("layout", ["%Y-%m-%dT%H:%M:%S+0000", "%Y-%m-%dT%H:%M:%SZ"])
def test_expires_is_read_in_its_forms(layout: str) -> None:
    now = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    assert theirs.expired((now - timedelta(seconds=1)).strftime(layout), now)
    assert not theirs.expired((now + timedelta(seconds=1)).strftime(layout), now)


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-11-23", "1700000000"])
def test_an_unreadable_time_has_expired(text: str) -> None:
    assert theirs.expired(text, datetime(2020, 1, 1, tzinfo=UTC))
