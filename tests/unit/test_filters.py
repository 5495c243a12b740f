"""The `filter` parameter: what clients send, what both languages mean, what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gstack.compute.v1.firewalls_pb2 import Firewall
from gstack.compute.v1.images_pb2 import Image
from gstack.compute.v1.instances_pb2 import Instance
from gstack.compute.v1.networks_pb2 import Network
from gstack.compute.v1.operations_pb2 import Operation
from gstack.compute.v1.routes_pb2 import Route
from gstack.compute.v1.zones_pb2 import Zone
from gstack.kernel.errors import ApiError
from translator_service.gce.filters import MAX_LENGTH, _wildcard, compile_filter

BASE = "https://www.googleapis.com/compute/v1/projects/demo"


def instance(name: str, **values) -> Instance:
    made = Instance(name=name, **values)
    made.zone = made.zone or f"{BASE}/zones/ch-gv2"
    return made


WEB1 = instance(
    "web-1", status="RUNNING", labels={"env": "prod", "role": "web"}, id=10, creationTimestamp="2026-11-01T08:00:00Z"
)
WEB2 = instance("web-2", status="TERMINATED", labels={"env": "test"}, id=20, creationTimestamp="2026-11-02T08:00:00Z")
DB = instance(
    "db",
    status="RUNNING",
    description="the main database",
    zone=f"{BASE}/zones/ch-zh-1",
    id=30,
    canIpForward=True,
    creationTimestamp="2026-11-03T08:00:00+01:00",
)
DB.networkInterfaces.add(network=f"{BASE}/global/networks/default", networkIP="10.0.0.5")
DB.networkInterfaces.add(network=f"{BASE}/global/networks/backup", networkIP="10.1.0.5")
DB.tags.items.extend(["http", "mysql"])
DB.scheduling.automaticRestart = True
ALL = [WEB1, WEB2, DB]


def chosen(expression: str, items: Iterable = ALL) -> list[str]:
    items = list(items)
    predicate = compile_filter(expression, items[0].DESCRIPTOR)
    assert predicate is not None
    return [item.name for item in items if predicate(item)]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        # gcutil, and gcloud's prompts
        ("name eq web-1", ["web-1"]),
        ("name eq web.*", ["web-1", "web-2"]),
        ("name eq ^web-1$", ["web-1"]),
        ("name eq web", []),
        ("name ne web-1", ["web-2", "db"]),
        ("name ne .*1", ["web-2", "db"]),
        ("name eq 'web-1'", ["web-1"]),
        ('name eq "web-1"', ["web-1"]),
        ("name eq (web-1|db)", ["web-1", "db"]),
        ("(name eq (web-1|db))", ["web-1", "db"]),
        ("(name eq web.*)(status eq RUNNING)", ["web-1"]),
        ("(name eq web.*) (status ne RUNNING)", ["web-2"]),
        (" (status eq RUNNING)", ["web-1", "db"]),
        ("status eq RUNNING", ["web-1", "db"]),
        ("id eq 10", ["web-1"]),
        ("canIpForward eq true", ["db"]),
        ("zone eq .*/ch-gv2", ["web-1", "web-2"]),
        ("zone eq ch-gv2", ["web-1", "web-2"]),
        ("networkInterfaces.network eq .*/backup", ["db"]),
        # gcloud
        (r'zone eq ".*\bch\-gv2\b.*"', ["web-1", "web-2"]),
        (r'name eq ".*(^web).*"', ["web-1", "web-2"]),
        (r'name ne ".*\bdb\b.*"', ["web-1", "web-2"]),
        # AIP-160
        ("name = web-1", ["web-1"]),
        ("name=web-1", ["web-1"]),
        ("NAME_IS_NOT", None),
        ('name="web-1"', ["web-1"]),
        ("name = web*", ["web-1", "web-2"]),
        ("name = *-1", ["web-1"]),
        ("name = w*b*1", ["web-1"]),
        ("name = WEB-1", ["web-1"]),
        ("name != web-1", ["web-2", "db"]),
        ("name:web", ["web-1", "web-2"]),
        ("name:web*", ["web-1", "web-2"]),
        ('name:"web"', ["web-1", "web-2"]),
        ("name : web", ["web-1", "web-2"]),
        ("-name:web*", ["db"]),
        ("(name = web-1) (zone = ch-gv2)", ["web-1"]),
        ("(name = web-1) (zone = ch-zh-1)", []),
        ("name=web-1 zone=ch-gv2", ["web-1"]),
        ("zone = ch-gv2", ["web-1", "web-2"]),
        (f'zone = "{BASE}/zones/ch-gv2"', ["web-1", "web-2"]),
        ('zone = "http://localhost:5000/compute/v1/projects/demo/zones/ch-gv2"', ["web-1", "web-2"]),
        ("zone:ch-*", ["web-1", "web-2", "db"]),
        ("labels.env=prod", ["web-1"]),
        ("labels.env = prod AND labels.role = web", ["web-1"]),
        ("labels.env:*", ["web-1", "web-2"]),
        ("labels.env!=prod", ["web-2", "db"]),
        ("-labels.env:*", ["db"]),
        ("labels:env", ["web-1", "web-2"]),
        ("-status=TERMINATED", ["web-1", "db"]),
        ("NOT status=TERMINATED", ["web-1", "db"]),
        ("NOT NOT status=TERMINATED", ["web-2"]),
        ("description:*", ["db"]),
        ("description:database", ["db"]),
        ('description = "the main database"', ["db"]),
        ("scheduling.automaticRestart = true", ["db"]),
        ("canIpForward", ["db"]),
        ("tags.items = http", ["db"]),
        ("networkInterfaces.networkIP = 10.1.0.5", ["db"]),
        ("name =~ ^web", ["web-1", "web-2"]),
        ("name !~ ^web", ["db"]),
        ("name ~ 2$", ["web-2"]),
        # OR binds tighter than AND, AND tighter than nothing; NOT binds to one term
        ("name=web-1 OR name=db", ["web-1", "db"]),
        ("status=RUNNING AND name=web-1 OR name=web-2", ["web-1"]),
        ("name=web-1 OR name=web-2 AND status=RUNNING", ["web-1"]),
        ("name=web-1 OR name=web-2 status=RUNNING", ["web-1"]),
        ("(name=web-1) OR (name=web-2 AND status=RUNNING)", ["web-1"]),
        ("NOT name=web-1 AND status=RUNNING", ["db"]),
        ("NOT (name=web-1 OR name=db)", ["web-2"]),
        ("-(name=web-1)", ["web-2", "db"]),
        # numbers and times
        ("id > 10", ["web-2", "db"]),
        ("id >= 20 AND id < 30", ["web-2"]),
        ("id<=10", ["web-1"]),
        ("id > abc", []),
        ("creationTimestamp > 2026-11-02T00:00:00Z", ["web-2", "db"]),
        ('creationTimestamp < "2026-11-03T07:30:00Z"', ["web-1", "web-2", "db"]),
        ('creationTimestamp <= "2026-11-03T06:59:00Z"', ["web-1", "web-2"]),
        ("creationTimestamp >= 2026-11-03T07:00:00.000+00:00", ["db"]),
        ("creationTimestamp = 2026-11-03T07:00:00Z", ["db"]),
        ('creationTimestamp = "2026-11-02T23:00:00-08:00"', ["db"]),
        ("creationTimestamp != 2026-11-03T07:00:00Z", ["web-1", "web-2"]),
        ("tags:*", ["db"]),
        ("-networkInterfaces:*", ["web-1", "web-2"]),
        ("name > e", ["web-1", "web-2"]),
    ],
)
def test_expressions(expression: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(ApiError):
            chosen(expression)
    else:
        assert chosen(expression) == names


def test_gclouds_old_image_aliases() -> None:
    images = [Image(name=name) for name in ("centos-7", "centos-7-v20200101", "centos-7-x86-v2020", "centos-6-v2020")]
    assert chosen("name eq ^centos-7(-.+)*-v.+", images) == ["centos-7-v20200101", "centos-7-x86-v2020"]
    assert chosen("name eq ^centos-7$", images) == ["centos-7"]


def test_gclouds_lists() -> None:
    zones = [
        Zone(name="us-central1-a", region=f"{BASE}/regions/us-central1", status="UP"),
        Zone(name="us-central1-b", region=f"{BASE}/regions/us-central1", status="DOWN"),
    ]
    assert chosen(r'name eq ".*\bus\-central1\-a\b.*"', zones) == ["us-central1-a"]
    assert chosen(r'region eq ".*\bus\-central1\b.*"', zones) == ["us-central1-a", "us-central1-b"]
    assert chosen(r'(region eq ".*\bus\-central1\b.*")(status eq UP)', zones) == ["us-central1-a"]
    assert chosen("status eq DONE", [Operation(name="a", status="DONE"), Operation(name="b")]) == ["a"]
    assert chosen(r'network eq ".*\bdefault\b.*"', [Firewall(name="f", network=f"{BASE}/global/networks/default")])


def test_terraforms_route_lookup() -> None:
    link = f"{BASE}/global/networks/default"
    routes = [
        Route(name="default-route", network=link, destRange="0.0.0.0/0"),
        Route(name="other", network=link, destRange="10.0.0.0/8"),
        Route(name="elsewhere", network=f"{BASE}/global/networks/other", destRange="0.0.0.0/0"),
    ]
    assert chosen(f'(network="{link}") AND (destRange="0.0.0.0/0")', routes) == ["default-route"]


def test_a_bool_that_is_unset_is_false() -> None:
    networks = [Network(name="a", autoCreateSubnetworks=True), Network(name="b", autoCreateSubnetworks=False)]
    assert chosen("autoCreateSubnetworks = false", networks) == ["b"]
    assert chosen("autoCreateSubnetworks != true", networks) == ["b"]


@pytest.mark.parametrize("count", [60, 130])
def test_many_names_in_one_filter(count: int) -> None:
    """As Kubernetes asks for its nodes; GCE takes 4 kB."""
    wanted = [f"kubernetes-minion-{number:03d}-ab0c"[:30] for number in range(count)]
    expression = f"name eq ({'|'.join(wanted)})"
    assert len(expression) <= 4096
    assert chosen(expression, [Instance(name=name) for name in [*wanted, "other"]]) == wanted


def test_a_filter_as_long_as_may_be() -> None:
    names = [f"{number:x}".rjust(8, "abcdefgh"[number % 8]) for number in range(450)]
    expression = f"name eq ({'|'.join(names)})"
    assert len(expression) > 4000
    assert chosen(expression, [Instance(name=names[-1]), Instance(name="x")]) == [names[-1]]


@pytest.mark.parametrize("expression", ["", "   ", "\t\n"])
def test_no_filter(expression: str) -> None:
    assert compile_filter(expression, Instance.DESCRIPTOR) is None


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("colour = red", "unknown field 'colour'"),
        ("name.first = x", "unknown field 'name.first'"),
        ("labels.env.x = y OR nosuch=1", "unknown field 'nosuch'"),
        ("(name = x", "missing )"),
        ("name = x)", "unexpected text"),
        ("name =", "expected a value"),
        ("name eq", "expected a value"),
        ("name eq )", "expected a value"),
        ("= x", "expected a field"),
        ('"x" = name', "expected a field"),
        ("name = 'x", "position"),
        ("name = x OR", "unexpected end"),
        ("name = x AND", "unexpected end"),
        ("NOT", "unexpected end"),
        ("()", "expected a field"),
        ("name eq [", "invalid regular expression"),
        ("name eq (web", "invalid regular expression"),
        ("name eq " + "(a{30}){30}" * 6, "too complex"),
        ("name eq " + "[a-z]{1000}" * 9, "too complex"),
        ("tags = x", "field 'tags' has no value of its own"),
        ('tags = "x"', "field 'tags' has no value of its own"),
        ("tags != x", "field 'tags' has no value of its own"),
        ("tags eq x", "field 'tags' has no value of its own"),
        ("tags:x", "field 'tags' has no value of its own"),
        ("scheduling > 5", "field 'scheduling' has no value of its own"),
        ("networkInterfaces =~ .*", "field 'networkInterfaces' has no value of its own"),
        ("networkInterfaces.accessConfigs = x", "field 'networkInterfaces.accessConfigs' has no value of its own"),
        ("(" * 60 + "name=x" + ")" * 60, "nested too deeply"),
        ("- " * 1000 + "name=x", "nested too deeply"),
        ("NOT " * 500 + "name=x", "nested too deeply"),
        ("name=" + "x" * MAX_LENGTH, "longer than"),
    ],
)
def test_what_is_refused(expression: str, why: str) -> None:
    with pytest.raises(ApiError) as raised:
        compile_filter(expression, Instance.DESCRIPTOR)
    error = raised.value
    assert (error.code, error.reason, error.location) == (400, "invalid", "filter")
    assert why in error.message


@pytest.mark.parametrize(
    "expression",
    [
        "name eq (a*)*b",
        "name eq (a|a)*b",
        "name eq ([a-z]+)+x",
        r'description eq ".*.*.*.*.*.*.*.*.*x"',
        "description = *a*a*a*a*a*a*a*a*a*a*x",
        "description:*a*a*a*a*a*a*a*a*a*a*x",
        "description =~ (a|aa)+$x",
        "name eq ^a(-.+)*-v.+",
    ],
)
def test_no_expression_takes_long(expression: str) -> None:
    hard = Instance(name="a" + "-" * 61, description="a" * 2000)
    started = time.monotonic()
    try:
        predicate = compile_filter(expression, Instance.DESCRIPTOR)
    except ApiError as error:
        assert error.code == 400
    else:
        assert predicate is not None
        predicate(hard)
        predicate(Instance(name="a" * 62, description="a" * 2000))
    assert time.monotonic() - started < 2


# Expressions that are right, and texts that look like them.

fields = st.sampled_from(
    ["name", "status", "labels.env", "id", "zone", "creationTimestamp", "tags.items", "description"]
)
values = st.sampled_from(["web-1", "RUNNING", "prod", "10", "web*", "*", '"web 1"', "2026-11-02T00:00:00Z", "db"])
restrictions = st.builds(
    lambda name, operator, value: f"{name} {operator} {value}",
    fields,
    st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"]),
    values,
) | st.builds(lambda name, value: f"{name} eq {value}", fields, st.sampled_from(["web.*", "10", "'.*b'", "[a-z]+"]))
expressions = st.recursive(
    restrictions,
    lambda below: st.one_of(
        st.builds(lambda inner: f"NOT ({inner})", below),
        st.builds(lambda inner: f"({inner})", below),
        st.builds(
            lambda left, joint, right: f"({left}){joint}({right})",
            below,
            st.sampled_from([" ", " AND ", " OR "]),
            below,
        ),
    ),
    max_leaves=5,
)


@given(expressions)
@settings(max_examples=150)
def test_not_is_the_complement_and_a_filter_selects(expression: str) -> None:
    names = chosen(expression)
    assert [item.name for item in ALL if item.name in names] == names
    assert chosen(f"NOT ({expression})") == [item.name for item in ALL if item.name not in names]
    assert chosen(f"-({expression})") == chosen(f"NOT ({expression})")


@given(expressions, expressions)
@settings(max_examples=100)
def test_and_and_or_are_intersection_and_union(left: str, right: str) -> None:
    one, other = set(chosen(left)), set(chosen(right))
    assert set(chosen(f"({left}) AND ({right})")) == set(chosen(f"({left}) ({right})")) == one & other
    assert set(chosen(f"({left}) OR ({right})")) == one | other


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "name",
                "id",
                "labels.",
                "labels.a:b",
                "eq",
                "ne",
                "AND",
                "OR",
                "NOT",
                "-",
                "(",
                ")",
                "=",
                ":",
                "<",
                "=~",
                '"',
                "'",
                "*",
                "\\",
                "[",
                "{9}",
                "(?",
                "+",
                "a",
                "2026-01-01",
                "creationTimestamp",
            ]
        ),
        max_size=12,
    ).map(" ".join)
    | st.builds(
        lambda name, operator, text: f"{name} {operator} {text}",
        fields,
        st.sampled_from(["=", "eq", "<", ":", "=~"]),
        st.text(),
    )
)
@example("creationTimestamp < 0001-01-01T00:00:00+23:59")
@example("name eq (?P<a>x)(?P=a)")
@example("id < nan")
@example("name eq \\")
@example("name eq (?i)a(?i)")
@settings(max_examples=300)
def test_any_text_is_a_predicate_or_400(text: str) -> None:
    try:
        predicate = compile_filter(text, Instance.DESCRIPTOR)
    except ApiError as error:
        assert (error.code, error.location) == (400, "filter")
        return
    for item in ALL:
        if predicate is not None:
            assert predicate(item) in (True, False)


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)b", "(?<!a)b", "((a{50}){50}){50}b*", "(?>a*)b", "("])
def test_patterns_that_are_not_offered(pattern: str) -> None:
    with pytest.raises(ApiError) as error:
        compile_filter(f'name eq "{pattern}"', Zone.DESCRIPTOR)
    assert error.value.code == 400
    assert "regular expression" in error.value.message


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a*)*b", "(a+)+$", "*".join("a" * 20) + "b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    predicate = compile_filter(f'name eq "{pattern}"', Zone.DESCRIPTOR)
    assert predicate is not None
    assert not predicate(Zone(name="a" * 50_000 + "!"))


@pytest.mark.parametrize("wanted", ["a*b", "*", "a", "a**b", "*a*", "ab*", "*ab", "a*a", ""])
@given(text=st.text("ab", max_size=6))
def test_wildcards_mean_what_a_pattern_means(wanted: str, text: str) -> None:
    pattern = re.compile(".*".join(map(re.escape, wanted.split("*"))), re.DOTALL)
    assert _wildcard(wanted, whole=True)(text) == (pattern.fullmatch(text) is not None)
    assert _wildcard(wanted, whole=False)(text) == (pattern.search(text) is not None)
