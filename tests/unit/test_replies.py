"""What is remembered: built replies, checked tokens, the catalog's lists."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import time_machine

from gateway.tokens import (
    BILLING,
    COMPUTE,
    CREDENTIALS,
    IAM,
    RESOURCE_MANAGER,
    SERVICE_USAGE,
    Principal,
    Scopes,
    Tokens,
)
from gstack.auth.v1 import auth_pb2
from gstack.compute.v1.instances_pb2 import Instance
from gstack.kernel.errors import ApiError
from tests.waits import LONG, Clock, until
from translator_service.cloudstack import catalog as catalog_module
from translator_service.cloudstack.catalog import Catalog, Entry, Kind
from translator_service.cloudstack.client import Answer
from translator_service.gce.naming import Index
from translator_service.gce.replies import Replies

BASE = "http://gw:5000"
WRITE = "https://www.googleapis.com/auth/compute"


# Replies


def test_a_reply_is_built_once_for_a_key() -> None:
    replies, built = Replies(), []

    def build() -> Instance:
        built.append(1)
        return Instance(name=f"i-{len(built)}")

    first = replies.get(1, build)
    assert replies.get(1, build) == first == Instance(name="i-1").SerializeToString()
    assert replies.get(2, build) != first
    assert len(built) == 2


def test_a_failure_is_not_remembered() -> None:
    replies = Replies()
    with pytest.raises(ZeroDivisionError):
        replies.get(1, lambda: 1 // 0)
    assert Instance.FromString(replies.get(1, lambda: Instance(name="x"))).name == "x"


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_memory_is_bounded(size: int) -> None:
    """Also what an entry takes besides its bytes."""
    replies = Replies(size)
    for number in range(50):
        answer = replies.get(number, lambda number=number: Instance(name=f"name-{number}"))
        assert Instance.FromString(answer).name == f"name-{number}"
    assert replies._cache.currsize <= size
    assert len(replies._cache) <= size // 400


# Tokens


class Unavailable(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def trailing_metadata(self) -> tuple:
        return ()


class Auth:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: auth_pb2.Principal | Exception = auth_pb2.Principal(
            active=True,
            subject="ian",
            credential=b"c",
            scopes=[WRITE],
            expires_at=int(time.time()) + 1000,
            cache_seconds=60,
        )

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        def authenticate(request: auth_pb2.AuthenticateRequest, timeout: float) -> auth_pb2.Principal:
            self.asked.append(request.token)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return authenticate


def test_a_token_is_asked_about_once() -> None:
    auth = Auth()
    tokens = Tokens(auth, 60, str)
    for header in ("Bearer t", "bearer t", "Bearer  t ", "OAuth t"):
        assert tokens.principal(header, BASE, "192.0.2.1").subject == "ian"
    assert auth.asked == ["t"]
    assert tokens.principal("Bearer other", BASE, "192.0.2.1").credential == b"c"
    assert auth.asked == ["t", "other"]
    assert b"t" not in tokens._cache and all(len(key) == 32 for key in tokens._cache)


def test_c1_tokens_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.tokens._SIZE", 20_000)
    auth = Auth()
    tokens = Tokens(auth, 60, str)
    assert isinstance(auth.answer, auth_pb2.Principal)
    for number in range(100):
        auth.answer.credential = b"c" * (30_000 if number == 99 else 200 * number)
        assert tokens.principal(f"Bearer {number}", BASE, "192.0.2.1").credential == auth.answer.credential
    assert 0 < tokens._cache.currsize <= 20_000
    assert len(tokens._cache) <= 20_000 // 800


def test_a_remembered_token_works_while_auth_is_away_until_its_time_is_up() -> None:
    auth = Auth()
    tokens = Tokens(auth, 60, str)
    tokens.principal("Bearer t", BASE, "192.0.2.1")
    auth.answer = Unavailable()
    assert tokens.principal("Bearer t", BASE, "192.0.2.1").subject == "ian"
    with pytest.raises(ApiError) as raised:
        tokens.principal("Bearer unknown", BASE, "192.0.2.1")
    assert raised.value.code == 503


def test_an_expired_token_is_asked_about_again() -> None:
    auth = Auth()
    auth.answer = auth_pb2.Principal(active=True, subject="ian", expires_at=int(time.time()) - 1, cache_seconds=60)
    tokens = Tokens(auth, 60, str)
    tokens.principal("Bearer t", BASE, "192.0.2.1")
    tokens.principal("Bearer t", BASE, "192.0.2.1")
    assert len(auth.asked) == 2


def test_a_principal_is_remembered_no_longer_than_auth_says() -> None:
    auth = Auth()
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        auth.answer = auth_pb2.Principal(active=True, expires_at=1_800_000_900, cache_seconds=7)
        tokens = Tokens(auth, 60, str)
        for seconds, asked in ((0, 1), (6.9, 1), (0.2, 2), (7.1, 3)):
            clock.shift(seconds)
            tokens.principal("Bearer t", BASE, "192.0.2.1")
            assert len(auth.asked) == asked


def test_a_token_of_another_endpoint_is_asked_about() -> None:
    auth = Auth()
    tokens = Tokens(auth, 60, str)
    tokens.principal("Bearer t", BASE, "192.0.2.1")
    tokens.principal("Bearer t", "http://other:5000", "192.0.2.1")
    assert len(auth.asked) == 2


def test_a_refusal_is_not_remembered() -> None:
    auth = Auth()
    good, auth.answer = auth.answer, auth_pb2.Principal(active=False)
    tokens = Tokens(auth, 60, str)
    with pytest.raises(ApiError) as raised:
        tokens.principal("Bearer t", BASE, "192.0.2.1")
    assert (raised.value.code, raised.value.reason) == (401, "authError")
    auth.answer = good
    assert tokens.principal("Bearer t", BASE, "192.0.2.1").subject == "ian"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "required"),
        ("Bearer", "authError"),
        ("Bearer ", "authError"),
        ("Basic eDp5", "authError"),
        ("t", "authError"),
    ],
)
def test_no_token(header: str, reason: str) -> None:
    auth = Auth()
    with pytest.raises(ApiError) as raised:
        Tokens(auth, 60, str).principal(header, BASE, "192.0.2.1")
    assert (raised.value.code, raised.value.reason, auth.asked) == (401, reason, [])


_GOOGLE = "https://www.googleapis.com/auth/"


@pytest.mark.parametrize(
    ("needed", "scope", "reads", "writes"),
    [
        (COMPUTE, "", False, False),
        (COMPUTE, "compute", True, True),
        (COMPUTE, "cloud-platform", True, True),
        (COMPUTE, "compute.readonly", True, False),
        (COMPUTE, "cloud-platform.read-only", True, False),
        (COMPUTE, "userinfo.email", False, False),
        (COMPUTE, "iam", False, False),
        (IAM, "compute", False, False),
        (IAM, "compute.readonly", False, False),
        (IAM, "cloud-platform", True, True),
        (IAM, "iam", True, True),
        (IAM, "cloud-platform.read-only", True, False),
        (RESOURCE_MANAGER, "cloud-platform", True, True),
        (RESOURCE_MANAGER, "cloud-platform.read-only", True, False),
        (RESOURCE_MANAGER, "compute", False, False),
        (SERVICE_USAGE, "cloud-platform", True, True),
        (SERVICE_USAGE, "service.management", True, True),
        (SERVICE_USAGE, "cloud-platform.read-only", True, False),
        (SERVICE_USAGE, "compute", False, False),
        (CREDENTIALS, "cloud-platform", True, True),
        (CREDENTIALS, "cloud-platform.read-only", False, False),
        (CREDENTIALS, "compute", False, False),
        (CREDENTIALS, "iam", True, True),
        (BILLING, "cloud-platform", True, True),
        (BILLING, "cloud-billing.readonly", True, False),
        (BILLING, "compute", False, False),
    ],
)
def test_a13_scopes(needed: Scopes, scope: str, reads: bool, writes: bool) -> None:
    principal = Principal("ian", "1", b"", frozenset((_GOOGLE + scope,)), 0)
    for mutates, allowed in ((False, reads), (True, writes)):
        if allowed:
            principal.check_scope(needed, mutates)
        else:
            with pytest.raises(ApiError) as raised:
                principal.check_scope(needed, mutates)
            assert (raised.value.code, raised.value.reason) == (403, "insufficientPermissions")


# The catalog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the catalog only."""
    made = Clock()
    monkeypatch.setattr(catalog_module, "time", made)
    return made


class Source:
    """A list that changes, and counts how often it was asked for."""

    def __init__(self, ttl: float = 60.0):
        self.asked = 0
        self.names = ["one"]
        self.go = threading.Event()
        self.go.set()
        self.kind = Kind("things", ttl, self._fetch, lambda rows: Index(rows, "rfc1035"))

    def _fetch(self, _: Any) -> list[Answer]:
        self.asked += 1
        assert self.go.wait(LONG)
        rows = ",".join(f'{{"id":"0000000{number}-0","name":"{name}"}}' for number, name in enumerate(self.names))
        return [Answer(f'{{"r":{{"thing":[{rows}]}}}}'.encode())]


def test_a_list_is_fetched_once_an_owner() -> None:
    catalog, source = Catalog(), Source()
    first = catalog.get("ian", source.kind, None)
    assert catalog.get("ian", source.kind, None) is first
    assert source.asked == 1
    catalog.get("ann", source.kind, None)
    assert source.asked == 2
    assert catalog.find("ian", source.kind, None, "one")["name"] == "one"


def together(catalog: Catalog, source: Source, owner: str, count: int) -> list[Entry]:
    """What so many get who ask while the list is fetched."""
    source.go.clear()
    with ThreadPoolExecutor(count) as pool:
        found = [pool.submit(catalog.get, owner, source.kind, None) for _ in range(count)]
        flights = catalog._flights
        until(lambda: (flight := flights.get((owner, source.kind.name))) and flight.users == count)
        source.go.set()
        return [one.result(LONG) for one in found]


def test_many_at_once_ask_once() -> None:
    catalog, source = Catalog(), Source()
    found = together(catalog, source, "ian", 8)
    assert source.asked == 1
    assert all(one is found[0] for one in found)


def test_an_old_list_is_fetched_anew_and_kept_when_it_is_the_same(clock: Clock) -> None:
    catalog, source = Catalog(), Source(ttl=60.0)
    first = catalog.get("ian", source.kind, None)
    clock.now += 59
    assert catalog.get("ian", source.kind, None) is first
    assert source.asked == 1
    clock.now += 2
    assert catalog.get("ian", source.kind, None) is first
    assert source.asked == 2
    source.names = ["one", "two"]
    clock.now += 61
    second = catalog.get("ian", source.kind, None)
    assert second is not first and second.digest != first.digest
    assert len(second.index) == 2


def test_a_miss_asks_again_but_not_all_the_time(clock: Clock) -> None:
    catalog, source = Catalog(), Source()
    assert catalog.find("ian", source.kind, None, "two") is None
    assert source.asked == 1
    source.names = ["one", "two"]
    assert catalog.find("ian", source.kind, None, "two") is None
    clock.now += 1.1
    assert catalog.find("ian", source.kind, None, "two")["name"] == "two"
    assert source.asked == 2


def test_a_forgotten_list_is_fetched_anew() -> None:
    catalog, source = Catalog(), Source()
    catalog.get("ian", source.kind, None)
    catalog.forget("ian", source.kind)
    catalog.forget("nobody", source.kind)
    catalog.get("ian", source.kind, None)
    assert source.asked == 2


def test_c1_lists_are_bounded_by_bytes() -> None:
    catalog, source = Catalog(size=100_000), Source()
    source.names = [f"name-{number}" for number in range(100)]
    for owner in range(20):
        catalog.get(f"owner-{owner}", source.kind, None)
    assert source.asked == 20
    # Each answer has some 4 kB, and takes more when it is parsed.
    assert 2 <= len(catalog._entries) <= 100_000 // (4 * 4000)
    catalog.get("owner-19", source.kind, None)
    assert source.asked == 20
    catalog.get("owner-0", source.kind, None)
    assert source.asked == 21
    assert not catalog._flights


def test_c1_a_list_that_is_too_large_is_used_and_not_kept() -> None:
    catalog, source = Catalog(size=50_000), Source()
    catalog.get("ian", source.kind, None)
    source.names = [f"name-{number}" for number in range(10_000)]
    assert [len(entry.index) for entry in together(catalog, source, "ann", 4)] == [10_000] * 4
    assert source.asked == 2
    catalog.get("ian", source.kind, None)
    assert source.asked == 2
    assert len(catalog.get("ann", source.kind, None).index) == 10_000
    assert source.asked == 3


def test_a_list_that_is_forgotten_while_it_is_fetched_is_not_kept() -> None:
    catalog, source = Catalog(), Source()

    def fetch(client: Any) -> list[Answer]:
        found = source._fetch(client)
        if source.asked == 1:
            catalog.forget("ian", source.kind)
        return found

    kind = Kind("things", 60.0, fetch, source.kind.build)
    catalog.get("ian", kind, None)
    catalog.get("ian", kind, None)
    assert source.asked == 2
    catalog.get("ian", kind, None)
    assert source.asked == 2


def test_a_failed_fetch_leaves_the_list_as_it_was() -> None:
    catalog, source = Catalog(), Source()
    source.names = ["one\x01"]

    def fail(_: Any) -> list[Answer]:
        raise ApiError(503, "away")

    with pytest.raises(ApiError):
        catalog.get("ian", Kind("things", 60, fail, source.kind.build), None)
    assert catalog.get("ian", source.kind, None).index.find("one\x01") is not None
