"""Nobody is kept out by what others ask of the auth service: strangers, guessers, neighbours behind one address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import time_machine

from auth_service import service
from auth_service.limits import Room, network_of
from auth_service.logins import name_of, path_of
from gstack.auth.v1 import auth_pb2, auth_pb2_grpc, pages_pb2
from gstack.kernel import rpc
from gstack.kernel.errors import NOT_TRIED, ApiError
from simulator.app import Fault
from simulator.world import Domain, User
from tests.auth import ADDRESS, BASE, JWT_BEARER, OOB, SDK, Auth, assertion
from tests.conftest import Cloud
from tests.waits import LONG, until
from translator_service.scope import Environment

KEYS = {"grant_type": "client_credentials", "client_id": "demo-api-key", "client_secret": "demo-secret-key"}
WRONG = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """The present, standing still until a test moves it: limits are of minutes and of hours, so none ends by itself.

    Never more than a minute ago: gRPC's own clock goes on.
    """
    now = time.time() // 60 * 60 + 1
    if now % 3600 > 3000:
        now += 3600 - now % 3600 + 1
    with time_machine.travel(now, tick=False) as traveller:
        yield traveller


def user(simulated: Cloud, name: str = "demo") -> User:
    return next(row for row in simulated.app.world.all(User) if row.name == name)


def sign_in(auth: Auth, password: str = "demo", **typed: str) -> pages_pb2.SignInResponse:
    """From an address of its own, unless the test says which."""
    asked = {"username": "demo", "password": password, "remote_address": f"198.51.100.{time.monotonic_ns() % 250}"}
    reply: pages_pb2.SignInResponse = auth.pages.SignIn(pages_pb2.SignInRequest(**{**asked, **typed}), None)
    return reply


def guess(auth: Auth, **typed: str) -> str:
    reply = sign_in(auth, "wrong", **typed)
    assert not reply.session
    return str(reply.failure)


# B5: passwords

SPELLINGS = ("", "/", "//", "ROOT", "/ROOT/", " / ", "root//", "")


def test_b5_cloudstack_disables_a_user_after_five_wrong_passwords_in_a_row(simulated: Cloud) -> None:
    """What it is about; the simulator does as CloudStack does."""

    def login(password: str) -> int:
        form = {"command": "login", "username": "demo", "password": password, "response": "json"}
        return simulated.app.answer("POST", form)[0]

    assert [login("wrong") for _ in range(4)] == [531] * 4 and login("demo") == 200
    assert [login("wrong") for _ in range(5)] == [531] * 5
    assert login("demo") == 531 and not user(simulated).enabled


def test_b5_guessing_stops_before_cloudstack_disables_the_user(auth: Auth, simulated: Cloud) -> None:
    names = ("demo", "Demo", "DEMO ", "de\u200bmo", "d\u00e9mo", "\uff44emo", "demo", "demo")
    for number in range(40):
        guess(auth, username=names[number % 8], domain=SPELLINGS[number // 5])
    assert user(simulated).enabled and simulated.calls["login"] <= 4
    assert "API key" in guess(auth)
    # The right one does not help a stranger either, or it could be found.
    assert not sign_in(auth).session


def test_b5_the_owner_goes_on_where_he_is_known_and_with_keys(auth: Auth, simulated: Cloud) -> None:
    device = sign_in(auth).device
    with_keys = sign_in(auth, username="", api_key="demo-api-key", secret_key="demo-secret-key")
    for _ in range(10):
        guess(auth)
    assert not sign_in(auth).session
    assert auth.token(**KEYS)["status"] == 200
    assert sign_in(auth, device=with_keys.device).session
    # That was the right one: CloudStack begins to count anew, and so do we.
    assert sign_in(auth).session
    for _ in range(10):
        guess(auth)
    assert sign_in(auth, username="DEMO", domain="//", device=device).session
    assert user(simulated).enabled


def test_b5_a_known_browser_cannot_disable_the_user_either(auth: Auth, simulated: Cloud) -> None:
    device = sign_in(auth).device
    for _ in range(10):
        guess(auth, device=device)
    assert user(simulated).enabled and simulated.calls["login"] == 5
    assert sign_in(auth, username="", api_key="demo-api-key", secret_key="demo-secret-key").session


def test_b5_a_browser_is_known_for_its_own_users_only(auth: Auth, simulated: Cloud) -> None:
    device = sign_in(auth, "ian", username="ian").device
    both = sign_in(auth, device=device).device
    for _ in range(10):
        guess(auth)
    assert not sign_in(auth, device=device).session
    for forged in ("", "x", "00" * 100, both[:-2] + "00", "f" * 1_000_000):
        assert not sign_in(auth, device=forged).session
    assert sign_in(auth, device=both).session


def test_b5_time_alone_does_not_make_up_for_wrong_passwords(
    auth: Auth, simulated: Cloud, clock: time_machine.Traveller
) -> None:
    """CloudStack's count does not end with time."""
    for _ in range(30):
        guess(auth)
        clock.shift(24 * 3600)
        auth.store.purge()
    assert user(simulated).enabled


def test_b5_many_at_a_time_at_all_replicas_are_no_more(
    environment: Environment, tmp_path: Path, simulated: Cloud
) -> None:
    replicas = [Auth(environment, tmp_path, rate_failures=1000) for _ in range(2)]
    together = threading.Barrier(16)

    def one(number: int) -> str:
        together.wait(LONG)
        try:
            return guess(replicas[number % 2])
        except ApiError as error:
            assert error.code == 503
            return "overloaded"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(16)))
    assert user(simulated).enabled and simulated.calls["login"] <= 3
    for replica in replicas:
        replica.close()


def test_b5_an_answer_that_never_came_counts_as_a_no(auth: Auth, simulated: Cloud) -> None:
    """CloudStack may have seen the password, and said no."""
    simulated.app.faults.append(Fault("drop", "login", count=100))
    for _ in range(3):
        with pytest.raises(ApiError) as raised:
            sign_in(auth, "wrong")
        assert raised.value.code == 503
    assert "API key" in guess(auth)


def test_b5_what_cloudstack_has_not_seen_does_not_count(auth: Auth, environment: Environment) -> None:
    login = auth.people._identity.Login

    def away(*_: Any, **__: Any) -> Any:
        raise ApiError(503, "The service is unavailable.", NOT_TRIED)

    auth.people._identity.Login = away
    for _ in range(10):
        with pytest.raises(ApiError):
            sign_in(auth)
    auth.people._identity.Login = login
    assert sign_in(auth).session


def test_b5_a_cloudstack_that_is_not_there_has_seen_nothing(auth: Auth, environment: Environment) -> None:
    url, environment.endpoint.url = environment.endpoint.url, "http://127.0.0.1:9/client/api"
    for _ in range(10):
        with pytest.raises(ApiError) as raised:
            sign_in(auth)
        assert raised.value.code == 503
    environment.endpoint.url = url
    assert sign_in(auth).session


def test_b5_a_try_whose_replica_died_counts(auth: Auth, clock: time_machine.Traveller) -> None:
    for _ in range(2):
        assert auth.store.logins.begin(name_of("demo", ""), 3)
    clock.shift(121)
    guess(auth)
    assert "API key" in guess(auth)


@pytest.mark.parametrize("typed", [{"username": "x" * 10_000}, {"domain": "/" * 10_000}, {"password": "x" * 300}])
def test_c1_what_is_typed_has_a_bound(auth: Auth, simulated: Cloud, typed: dict[str, str]) -> None:
    assert not sign_in(auth, **typed).session
    assert "login" not in simulated.calls


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Ian", ""), ("ian", "/")),
        (("ian", "a/b"), ("IAN", "//A//b/")),
        (("ian", "ROOT/a"), ("ian", "/a/")),
        (("hans", ""), ("han\u00df", "")),
        (("weiss", ""), ("wei\u00df", "")),
        (("soren", ""), ("S\u00d8REN", "")),
        (("ilker", ""), ("\u0131lker", "")),
        (("a b", ""), ("a\u00a0b\x00", "")),
    ],
)
def test_b5_spellings_that_mean_one_user(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert name_of(*one) == name_of(*other)


def test_b5_users_are_told_apart() -> None:
    names = [("ian", ""), ("iann", ""), ("ian", "a"), ("ian", "a/b"), ("\u0438\u044f\u043d", ""), ("\u4e2d", "")]
    assert len({name_of(*name) for name in names}) == len(names)
    assert path_of("/ROOT/Sales/North/") == ["Sales", "North"]


def test_b5_a_domain_reaches_cloudstack_as_a_path(auth: Auth, simulated: Cloud) -> None:
    world = simulated.app.world
    person = user(simulated)
    person.account.domain = world.add(Domain, name="Sales", path="ROOT/Sales")
    assert not sign_in(auth).session
    assert sign_in(auth, domain="//Sales/").session


# B4: addresses


def test_b4_neighbours_with_good_credentials_are_not_kept_out(
    environment: Environment, tmp_path: Path, clock: time_machine.Traveller
) -> None:
    auth = Auth(environment, tmp_path, rate_failures=5)
    tokens, device = auth.login(), sign_in(auth).device
    key = auth.key_file()
    assert auth.token(**KEYS)["status"] == 200
    replies = [auth.post("Token", WRONG) for _ in range(40)]
    assert [reply.status for reply in replies] == [401] * 5 + [429] * 35
    assert all(int(reply.headers["Retry-After"]) > 0 for reply in replies[5:])
    # Everything that proves itself goes on; nothing else does.
    assert auth.token(**KEYS)["status"] == 200
    assert auth.token("refresh_token", refresh_token=tokens["refresh_token"], client_id=SDK)["status"] == 200
    assert auth.token(JWT_BEARER, assertion=assertion(key))["status"] == 200
    assert auth.token(**{**KEYS, "client_secret": "wrong"})["status"] == 429
    assert auth.token("refresh_token", refresh_token="x", client_id=SDK)["status"] == 429
    assert sign_in(auth, remote_address=ADDRESS, device=device).session
    keys = {"username": "", "api_key": "demo-api-key", "secret_key": "demo-secret-key"}
    assert sign_in(auth, remote_address=ADDRESS, **keys).session
    for typed in ({}, {**keys, "secret_key": "wrong"}, {"username": "ian", "password": "ian"}):
        with pytest.raises(ApiError) as raised:
            sign_in(auth, remote_address=ADDRESS, **typed)
        assert raised.value.code == 429 and raised.value.retry_after > 0
    # Also an hour later, when CloudStack is asked about them again.
    clock.shift(3600)
    for _ in range(6):
        auth.post("Token", WRONG)
    assert auth.post("Token", WRONG).status == 429
    assert auth.token(**KEYS)["status"] == 200
    auth.close()


def test_b4_what_is_refused_for_its_address_asks_nothing_of_cloudstack(
    environment: Environment, tmp_path: Path, simulated: Cloud, clock: time_machine.Traveller
) -> None:
    auth = Auth(environment, tmp_path, rate_failures=3)
    for _ in range(30):
        auth.post("Token", WRONG)
    assert sum(simulated.calls.values()) <= 2 * 3
    auth.close()


def test_everybody_has_many_addresses_of_ipv6() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("unknown") == "unknown" and len(network_of("x" * 1000)) == 64


# B4: room


def test_room_for_all_and_for_each() -> None:
    room = Room(3, 2)
    with room.place("a"), room.place("a"):
        with pytest.raises(ApiError) as raised, room.place("a"):
            pass
        assert (raised.value.code, raised.value.retry_after) == (503, 1)
        with room.place("b"), pytest.raises(ApiError), room.place("c", patience=0.01):
            pass
        with room.place("c"):
            pass
    assert not room._inside


class Hanging:
    """The Identity service of a CloudStack that does not answer about what it does not know."""

    def __init__(self, auth: Auth):
        self.verify = auth.people._identity.Verify
        self.go = threading.Event()
        self.asked = threading.Semaphore(0)
        auth.people._identity.Verify = self

    def __call__(self, request: Any, timeout: float) -> Any:
        self.asked.release()
        self.go.wait(timeout)
        return self.verify(request, timeout=timeout)


@pytest.fixture
def served(auth: Auth, environment: Environment) -> Iterator[str]:
    """The address of the auth service on a real gRPC server, with its 16 threads."""
    server = rpc.Server(auth.settings.auth_threads)
    service.add_services(server, auth.store, auth.people, environment.sealer, auth.limits, auth.settings)
    yield f"127.0.0.1:{server.start('127.0.0.1:0')}"
    server.grpc.stop(None).wait()


def test_b4_strangers_do_not_keep_good_tokens_out(auth: Auth, served: str, clock: time_machine.Traveller) -> None:
    """Also tokens that the gateway has not seen, and keys that CloudStack should be asked about again."""
    tokens = auth.login()
    assert auth.token(**KEYS)["status"] == 200
    clock.shift(61)
    cloudstack = Hanging(auth)

    def ask(form: str, address: str) -> auth_pb2.HttpResponse:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request = auth_pb2.HttpRequest(
            uri=f"{BASE}/oauth2/token", method="POST", headers=headers, body=form, remote_address=address, base=BASE
        )
        reply: auth_pb2.HttpResponse = programs.Token(request, timeout=LONG)
        return reply

    def stranger(number: int) -> int:
        form = f"grant_type=client_credentials&client_id=random-{number}&client_secret=x"
        try:
            reply = ask(form, f"192.0.2.{number}")
        except grpc.RpcError as failure:
            assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            return 503
        assert reply.status != 503 or int(reply.headers["Retry-After"]) > 0
        return reply.status

    with rpc.channel(served, "auth", None) as channel, ThreadPoolExecutor(50) as pool:
        programs: Any = auth_pb2_grpc.OAuthStub(channel)  # type: ignore[no-untyped-call]
        bearers: Any = auth_pb2_grpc.AuthStub(channel)  # type: ignore[no-untyped-call]
        strangers = [pool.submit(stranger, number) for number in range(50)]
        # As many as there is room for are asked about, and hang; the others have their answer.
        for _ in range(8):
            assert cloudstack.asked.acquire(timeout=LONG)
        until(lambda: sum(one.done() for one in strangers) >= 42)
        assert {one.result() for one in strangers if one.done()} == {503}
        again = pool.submit(
            bearers.Authenticate, auth_pb2.AuthenticateRequest(token=tokens["access_token"], base=BASE), timeout=LONG
        )
        # One is asked about again, and the others go on meanwhile.
        assert cloudstack.asked.acquire(timeout=LONG)
        for _ in range(20):
            asked = auth_pb2.AuthenticateRequest(token=tokens["access_token"], base=BASE)
            assert bearers.Authenticate(asked, timeout=LONG).active
        form = "&".join(f"{name}={value}" for name, value in KEYS.items())
        assert ask(form, "198.51.100.7").status == 200
        cloudstack.go.set()
        assert again.result(LONG).active
        assert {one.result(LONG) for one in strangers} == {401, 503}


def test_b4_one_address_does_not_take_the_room_of_all_strangers(auth: Auth) -> None:
    cloudstack = Hanging(auth)
    with ThreadPoolExecutor(20) as pool:
        crowd = [pool.submit(auth.post, "Token", {**WRONG, "client_id": f"x{number}"}) for number in range(12)]
        for _ in range(4):
            assert cloudstack.asked.acquire(timeout=LONG)
        until(lambda: sum(one.done() for one in crowd) >= 8)
        other = pool.submit(auth.post, "Token", KEYS, address="192.0.2.99")
        assert cloudstack.asked.acquire(timeout=LONG)
        cloudstack.go.set()
        assert other.result(LONG).status == 200
        assert sorted(one.result(LONG).status for one in crowd) == [401] * 4 + [503] * 8


# Rows


def test_a_user_has_a_bounded_number_of_sessions_logins_and_tokens(
    environment: Environment, tmp_path: Path, clock: time_machine.Traveller
) -> None:
    auth = Auth(environment, tmp_path, rate_tokens=205, rate_requests=100_000)
    sessions = []
    for _ in range(51):
        clock.shift(1)
        sessions.append(auth.sign_in())
    other = auth.sign_in("ian")
    assert auth.store.sessions.find(sessions[0]) is None
    assert all(auth.store.sessions.find(one) for one in (*sessions[1:], other))
    logins = []
    for _ in range(101):
        clock.shift(1)
        session = sessions[-1]
        code = auth.code(session)
        logins.append(auth.token("authorization_code", code=code, client_id=SDK, redirect_uri=OOB))
    assert not auth.principal(logins[0]["access_token"]).active and auth.principal(logins[1]["access_token"]).active
    statuses = [auth.token(**KEYS)["status"] for _ in range(110)]
    assert statuses[0] == 200 and statuses[-1] == 429
    ian = {**KEYS, "client_id": "ian-api-key", "client_secret": "ian-secret-key"}
    assert auth.token(**ian)["status"] == 200
    auth.close()


def test_devices_of_an_address_are_bounded(environment: Environment, tmp_path: Path) -> None:
    auth = Auth(environment, tmp_path, rate_requests=100)
    statuses = [auth.post("DeviceAuthorization", {"client_id": SDK}).status for _ in range(20)]
    assert statuses[:10] == [200] * 10 and statuses[-1] == 429
    assert auth.post("DeviceAuthorization", {"client_id": SDK}, address="192.0.2.2").status == 200
    auth.close()


def test_what_is_over_is_purged_in_parts(auth: Auth, clock: time_machine.Traveller, monkeypatch: Any) -> None:
    monkeypatch.setattr("auth_service.store.auth_store._PURGE_BATCH", 10)
    monkeypatch.setattr("auth_service.store.auth_store._MAX_LOGINS", 20)
    for number in range(45):
        auth.store.counters.add(f"x/{number}", time.time() + 60, 1)
        clock.shift(0.1)
        auth.store.logins.begin(f"name-{number}", 3)
    clock.shift(60)
    auth.store.counters.add("y", time.time() + 60, 1)
    auth.store.purge()
    assert [auth.store.counters.value(name) for name in ("x/0", "x/44", "y")] == [0, 0, 1]
    with auth.store.engine.connect() as connection:
        left = sorted(connection.exec_driver_sql("SELECT name FROM logins").scalars())
    assert len(left) == 21 and "name-44" in left and "name-0" not in left
