"""Sign-in on the wire, against running processes: paths, headers, cookies, keys, limits, secrets.

What the OAuth server itself promises is in tests/unit/test_oauth_server.py, with a clock that can be moved.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

from gateway.oauth import ENDPOINTS
from tests.auth import assertion
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack, free_ports, run_stack
from tests.clients.people import Person
from tests.waits import LONG, until

SDK = "32555940559.apps.googleusercontent.com"
OOB = "urn:ietf:wg:oauth:2.0:oob"
SCOPE = "https://www.googleapis.com/auth/compute"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LOOPBACK = "http://localhost:8085/"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gstack whose auth is stopped and started, and whose calls are counted: each test leaves it running."""
    yield from run_stack(tmp_path_factory.mktemp("oauth"))


def token(stack: Stack, path: str = "/oauth2/token", **form: str) -> requests.Response:
    return requests.post(stack.url + path, form, timeout=30)


def code_request(**more: str) -> dict[str, str]:
    query = {"response_type": "code", "client_id": SDK, "redirect_uri": OOB, "scope": SCOPE}
    return query | more


def login(stack: Stack, person: Person | None = None) -> dict[str, Any]:
    code = (person or Person(stack)).code(f"/oauth2/auth?{urlencode(code_request())}")
    form = {"code": code, "redirect_uri": OOB, "client_id": SDK}
    found: dict[str, Any] = token(stack, grant_type="authorization_code", **form).json()
    return found


def works(stack: Stack, access_token: str) -> bool:
    return stack.call("GET", "/zones", token=access_token).status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS["Token"][1])
def test_keys_as_client_credentials(stack: Stack, path: str) -> None:
    reply = token(stack, path, grant_type="client_credentials", client_id=API_KEY, client_secret=SECRET_KEY)
    assert reply.status_code == 200
    assert reply.json()["expires_in"] == 3600
    assert reply.json()["token_type"] == "Bearer"
    assert "refresh_token" not in reply.json()
    assert works(stack, reply.json()["access_token"])


def test_keys_by_http_basic(stack: Stack) -> None:
    reply = requests.post(
        f"{stack.url}/oauth2/token", {"grant_type": "client_credentials"}, auth=(API_KEY, SECRET_KEY), timeout=30
    )
    assert reply.status_code == 200


def test_refresh_with_keys_as_gcutil_does(stack: Stack) -> None:
    form = {"client_id": API_KEY, "client_secret": SECRET_KEY, "refresh_token": "None"}
    reply = token(stack, grant_type="refresh_token", **form)
    assert reply.status_code == 200, reply.text
    assert works(stack, reply.json()["access_token"])


@pytest.mark.parametrize(
    ("client_id", "secret"), [(API_KEY, "wrong"), ("unknown", SECRET_KEY), (API_KEY, ""), ("", "")]
)
def test_a16_wrong_keys_are_refused_in_the_same_words(stack: Stack, client_id: str, secret: str) -> None:
    reply = token(stack, grant_type="client_credentials", client_id=client_id, client_secret=secret)
    assert reply.status_code == 401
    assert reply.json() == {"error": "invalid_client"}


def test_a6_the_answer_to_a_form_is_303(stack: Stack) -> None:
    person = Person(stack)
    address = f"/oauth2/auth?{urlencode(code_request(redirect_uri=LOOPBACK, state='s t/a'))}"
    assert person.sign_in(person.get(address)).status_code == 303
    answer = person.agree(address)
    assert answer.status_code == 303
    found = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert (found["state"], found["iss"]) == (["s t/a"], [stack.url])
    # Blanks as libcloud compares them.
    assert "state=s%20t" in answer.headers["Location"]


def test_with_api_keys_instead_of_a_password(stack: Stack) -> None:
    person = Person(stack, api_key=API_KEY, secret_key=SECRET_KEY)
    assert works(stack, login(stack, person)["access_token"])


@pytest.mark.parametrize("uri", ["https://evil.example/", "http://user@localhost/", "javascript:alert(1)"])
def test_a1_redirects_elsewhere_are_shown_to_the_person_only(stack: Stack, uri: str) -> None:
    reply = Person(stack).get(f"/oauth2/auth?{urlencode(code_request(redirect_uri=uri))}")
    assert reply.status_code == 400
    assert "Location" not in reply.headers
    assert "text/html" in reply.headers["Content-Type"]


def test_wrong_password_shows_the_form_again(stack: Stack) -> None:
    person = Person(stack, password="wrong-password")
    answer = person.sign_in(person.get("/login"))
    assert answer.status_code == 401
    assert "is wrong" in answer.text
    assert "wrong-password" not in answer.text


def test_b5_who_guesses_keeps_the_owner_out_of_browsers_that_nobody_knows_only(own_stack: Stack) -> None:
    """And CloudStack goes on letting the user in, with the fourth and fifth of its tries."""
    owner, stranger = Person(own_stack), Person(own_stack, password="wrong")
    owner.visit("/keys")
    owner.submit(owner.get("/"), "/logout")
    page = stranger.get("/login")
    for number in range(12):
        stranger.typed |= {"username": "DEMO" if number % 2 else "demo", "domain": "/" * (number // 3)}
        assert stranger.sign_in(page).status_code == 401
    assert own_stack.simulate("GET", "calls")["login"] == 4
    told = Person(own_stack)
    answer = told.sign_in(told.get("/login"))
    assert answer.status_code == 401 and "API key" in answer.text
    keys = Person(own_stack, api_key=API_KEY, secret_key=SECRET_KEY)
    assert keys.sign_in(keys.get("/login")).status_code == 303
    assert own_stack.token()
    assert owner.sign_in(owner.get("/login")).status_code == 303


def test_a_user_without_keys_is_asked_before_any_are_made(shared: Stack) -> None:
    person = Person(shared, "nokeys", "nokeys")
    asked = person.sign_in(person.get("/login"))
    assert asked.status_code == 401 and "register_keys" in asked.text
    shared.simulate("DELETE", "calls")
    assert person.sign_in(asked).status_code == 401
    assert "registerUserKeys" not in shared.simulate("GET", "calls")
    person.typed["register_keys"] = "yes"
    assert person.sign_in(asked).status_code == 303
    assert shared.simulate("GET", "calls")["registerUserKeys"] == 1
    assert works(shared, login(shared, person)["access_token"])


def test_a_second_factor_is_told(stack: Stack) -> None:
    person = Person(stack, "twofactor", "twofactor")
    answer = person.sign_in(person.get("/login"))
    assert answer.status_code == 401 and "second factor" in answer.text


@pytest.mark.parametrize(
    "path", ["/login", "/logout", "/oauth2/consent", "/device", "/keys", "/keys/delete", "/grants/delete"]
)
def test_a15_forms_of_other_sites_are_refused(stack: Stack, path: str) -> None:
    person = Person(stack)
    person.visit("/keys")
    for csrf in ({}, {"csrf": "guess"}, {"csrf": ""}):
        reply = person.browser.post(stack.url + path, {"username": "demo", "password": "demo", **csrf}, timeout=30)
        assert reply.status_code == 403


def test_a15_cookies(stack: Stack) -> None:
    person = Person(stack)
    page = person.get("/login")
    signed_in = person.sign_in(page).raw.headers.getlist("Set-Cookie")
    csrf, (session, device) = page.headers["Set-Cookie"], signed_in
    assert csrf.startswith("gstack_csrf=") and {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(csrf.split("; "))
    assert session.startswith("gstack_session=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=28800"} <= set(session.split("; "))
    assert device.startswith("gstack_device=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=31536000"} <= set(device.split("; "))


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/revoke", "/oauth2/introspect", "/oauth2/device/code"])
def test_a15_answers_are_not_stored(stack: Stack, path: str) -> None:
    reply = token(stack, path, token="x")
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")


def test_a8_a_revoked_token_stops_working(stack: Stack) -> None:
    found = login(stack)
    assert token(stack, "/oauth2/revoke", token=found["access_token"]).status_code == 200
    # This gateway has not seen the token yet, so no cache answers for it.
    assert stack.call("GET", "/zones", token=found["access_token"]).status_code == 401


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ({}, 'Bearer realm="https://accounts.google.com/"'),
        ({"Authorization": "Bearer nonsense"}, 'Bearer realm="https://accounts.google.com/", error="invalid_token"'),
        ({"Authorization": "Bearer a.b.c"}, 'Bearer realm="https://accounts.google.com/", error="invalid_token"'),
        ({"Authorization": "Basic abc"}, 'Bearer realm="https://accounts.google.com/", error="invalid_token"'),
    ],
)
def test_a20_without_a_valid_token(stack: Stack, header: dict[str, str], challenge: str) -> None:
    for path in (stack.api + "/zones", f"{stack.url}/v1/projects/demo/serviceAccounts"):
        reply = requests.get(path, headers=header, timeout=30)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"] == challenge
        assert reply.json()["error"]["code"] == 401


@pytest.mark.parametrize("name", ["access_token", "oauth_token"])
def test_a14_a_token_in_the_query_is_not_accepted(stack: Stack, name: str) -> None:
    reply = requests.get(f"{stack.api}/zones?{name}={stack.token()}", timeout=30)
    assert reply.status_code == 401
    reply = requests.get(f"{stack.url}/oauth2/v3/userinfo?{name}={stack.token()}", timeout=30)
    assert reply.status_code == 401


def test_a13_read_only_scope_cannot_change_anything(stack: Stack) -> None:
    form: dict[str, Any] = {"client_id": API_KEY, "client_secret": SECRET_KEY}
    scope = "https://www.googleapis.com/auth/compute.readonly"
    found = token(stack, grant_type="client_credentials", scope=scope, **form).json()["access_token"]
    assert works(stack, found)
    reply = stack.call("POST", "/global/firewalls", {"name": "x", "allowed": [{"IPProtocol": "tcp"}]}, token=found)
    assert reply.status_code == 403
    assert reply.json()["error"]["errors"][0]["reason"] == "insufficientPermissions"
    # Waiting for an operation changes nothing.
    waited = stack.call("POST", "/global/operations/operation-1/wait", token=found)
    assert waited.status_code == 404
    # A token for machines is none for service accounts.
    assert (
        requests.get(
            f"{stack.url}/v1/projects/demo/serviceAccounts", headers={"Authorization": f"Bearer {found}"}, timeout=30
        ).status_code
        == 403
    )


@pytest.mark.parametrize("path", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"])
def test_a10_metadata_names_endpoints_that_answer(stack: Stack, path: str) -> None:
    found = requests.get(stack.url + path, timeout=30).json()
    assert found["issuer"] == stack.url
    for name, address in found.items():
        if name.endswith(("_endpoint", "_uri")):
            verb = "GET" if name in ("authorization_endpoint", "jwks_uri", "userinfo_endpoint") else "POST"
            assert requests.request(verb, address, timeout=30).status_code in (200, 400, 401), name


@pytest.fixture
def strict_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    yield from run_stack(tmp_path, GSTACK_RATE_FAILURES="8", GSTACK_RATE_REQUESTS="500", GSTACK_PROXIES="1")


def test_a17_limits_answer_429(strict_stack: Stack) -> None:
    """Behind a proxy, so that each client has its own address."""

    def attempt(path: str, address: str, **form: str) -> requests.Response:
        headers = {"X-Forwarded-For": f"203.0.113.9, {address}"}
        return requests.post(strict_stack.url + path, form, headers=headers, timeout=30)

    wrong = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}
    found = [attempt("/oauth2/token", "192.0.2.1", **wrong) for _ in range(20)]
    limited = next(reply for reply in found if reply.status_code == 429)
    assert 0 < int(limited.headers["Retry-After"]) <= 61
    assert limited.json()["error"] == "temporarily_unavailable"
    # Keys that nobody knows yet are not asked about now. The limit reaches nobody else, and not who is known.
    right = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    assert [attempt("/oauth2/token", f"192.0.2.{last}", **right).status_code for last in (1, 2, 1)] == [429, 200, 200]
    person = Person(strict_stack, password="wrong")
    person.browser.headers["X-Forwarded-For"] = "192.0.2.3"
    page = person.get("/login")
    answers = [person.sign_in(page) for _ in range(20)]
    assert answers[0].status_code == 401 and answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) > 0


# What the endpoint is called, and how much it reads


@pytest.fixture
def open_gateway(stack: Stack) -> Iterator[str]:
    """Another gateway of the same stack, which listens on all addresses and was not told its name."""
    port = free_ports(1)[0]
    stack.start("gateway-open", GSTACK_GATEWAY_LISTEN=f"0.0.0.0:{port}")
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(f"{url}/readyz", timeout=LONG).status_code == 200
        except requests.RequestException:
            return False

    try:
        until(ready, told=lambda: stack.log("gateway-open"))
        yield url
    finally:
        stack.kill("gateway-open")
        del stack.processes["gateway-open"]


def test_a6_a_jwt_for_another_server_is_not_taken_under_that_servers_name(stack: Stack, open_gateway: str) -> None:
    key = Person(stack).key("audience-1")
    evil = {"Host": "evil.example"}

    def grant(audience: str, jti: str, headers: dict[str, str]) -> int:
        form = {"grant_type": JWT_BEARER, "assertion": assertion(key, aud=audience, jti=jti)}
        return requests.post(f"{open_gateway}/oauth2/token", form, headers=headers, timeout=30).status_code

    def zones(audience: str, headers: dict[str, str]) -> int:
        bearer = assertion(key, aud=audience, sub=key["client_email"])
        headers = {**headers, "Authorization": f"Bearer {bearer}"}
        url = f"{open_gateway}/compute/v1/projects/{PROJECT}/zones"
        return requests.get(url, headers=headers, timeout=30).status_code

    assert grant(f"{open_gateway}/oauth2/token", "1", {}) == 200
    assert grant("http://evil.example/oauth2/token", "2", evil) == 400
    assert grant("https://oauth2.googleapis.com/token", "3", evil) == 200
    assert (zones(open_gateway, {}), zones("http://evil.example", evil)) == (200, 401)
    metadata = requests.get(f"{open_gateway}/.well-known/openid-configuration", headers=evil, timeout=30).json()
    assert metadata["issuer"] == open_gateway
    assert "GSTACK_PUBLIC_URL" in requests.get(open_gateway, timeout=30).text
    assert "GSTACK_PUBLIC_URL" not in requests.get(stack.url, timeout=30).text
    assert "public_url_missing" in (stack.folder / "gateway-open.log").read_text()
    assert "public_url_missing" not in (stack.folder / "gateway.log").read_text()


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/revoke", "/login", "/device", "/oauth2/auth"])
@pytest.mark.parametrize("chunked", [False, True])
def test_c1_a_form_is_a_few_kilobytes(stack: Stack, path: str, chunked: bool) -> None:
    body = b"a&" * 1_000_000
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    method = "GET" if path == "/oauth2/auth" else "POST"
    data = iter([body]) if chunked else body
    try:
        reply = requests.request(method, stack.url + path, data=data, headers=headers, timeout=30)
    except requests.ConnectionError:
        # It was answered, and closed, before all of it was sent.
        return
    assert reply.status_code == 413, reply.text
    if path.startswith("/oauth2/t"):
        assert reply.json()["error"] == "invalid_request"


def test_c1_a_form_has_few_fields(stack: Stack) -> None:
    reply = requests.post(f"{stack.url}/login", "a&" * 1000, timeout=30)
    assert reply.status_code == 400
    assert requests.post(f"{stack.url}/oauth2/token", "a&" * 1000, timeout=30).json()["error"] == "invalid_request"


# Secrets


def test_b1_b2_no_secret_is_stored_logged_or_told(own_stack: Stack) -> None:
    """A whole life with a gstack, then every file and every error is searched for what must not be there."""
    stack = own_stack
    person = Person(stack)
    tokens = login(stack, person)
    access = stack.token()
    key = Person(stack).key()
    got = token(stack, grant_type=JWT_BEARER, assertion=assertion(key)).json()
    again = token(stack, grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id=SDK).json()
    session = person.browser.cookies["gstack_session"]
    secrets = {
        "secret key": SECRET_KEY,
        "api key": API_KEY,
        "password": "demo-password-canary",
        "access token": access,
        "code flow's token": tokens["access_token"],
        "refresh token": tokens["refresh_token"],
        "its successor": again["refresh_token"],
        "service account's token": got["access_token"],
        "private key": key["private_key"].splitlines()[3],
        "session": session,
        "assertion": assertion(key, jti="log").split(".")[2],
    }
    for text in (access, tokens["access_token"], got["access_token"]):
        assert works(stack, text)
    # Errors of all kinds, with the secrets in them.
    answers = [
        token(stack, grant_type="client_credentials", client_id=API_KEY, client_secret=secrets["password"]).text,
        token(stack, grant_type="authorization_code", code=tokens["access_token"], client_id=SDK).text,
        token(stack, grant_type=JWT_BEARER, assertion=assertion(key, jti="log")).text,
        Person(stack, password=secrets["password"]).sign_in(person.get("/login")).text,
        stack.call("GET", f"/zones/{tokens['refresh_token']}").text.replace(tokens["refresh_token"], ""),
        stack.call("GET", "/zones", token=tokens["access_token"] + "x").text,
    ]
    stack.simulate("POST", "faults", {"kind": "html", "command": "", "count": 3})
    answers.append(stack.call("GET", "/zones/ch-gv2/instances", token=access).text)
    stack.kill("translator")
    answers.append(token(stack, grant_type="client_credentials", client_id="x", client_secret=SECRET_KEY).text)
    for name, secret in secrets.items():
        for answer in answers:
            assert secret not in answer, name
    searched = 0
    for path in stack.folder.rglob("*"):
        if path.is_file() and path.name != "simulator.log":
            content = path.read_bytes()
            searched += 1
            for name, secret in secrets.items():
                # The path of a request is logged; whoever writes a token there has published it.
                if (name, path.name) != ("refresh token", "gateway.log"):
                    assert secret.encode() not in content, f"{name} in {path.name}"
    assert searched >= 6
    with sqlite3.connect(stack.folder / "auth.sqlite") as database:
        assert database.execute("select count(*) from tokens").fetchone()[0] > 3


def test_b3_b4_keys_are_changed_while_requests_go_on(own_stack: Stack) -> None:
    """Stage, promote, rewrap, retire both rings with services running: no request fails, the old key is not needed."""
    stack = own_stack
    person = Person(stack)
    tokens = login(stack, person)
    failures: list[str] = []

    def secrets_of(ring: str) -> list[str]:
        lines = (stack.folder / f"{ring}.key").read_text().splitlines()
        return [line.split()[1] for line in lines if line and not line.startswith("#")]

    def check() -> None:
        if not works(stack, stack.token()):
            failures.append("token")
        if person.visit("/keys").status_code != 200:
            failures.append("session")

    def keys(*arguments: str) -> str:
        done = stack.run("keys", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        check()
        return done.stdout

    for ring in ("master", "sealing"):
        before = secrets_of(ring)
        keys("stage", "--ring", ring)
        # Services look at their files every five seconds.
        time.sleep(6)
        keys("promote", "--ring", ring, "--now")
        if ring == "master":
            assert "1" in keys("rewrap")
        time.sleep(6)
        check()
        keys("retire", "--ring", ring, "--now")
        after = secrets_of(ring)
        assert len(before) == len(after) == 1 and before != after
        assert "primary" in keys("status", "--ring", ring)
    time.sleep(6)
    check()
    refreshed = token(stack, grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id=SDK)
    assert refreshed.status_code == 200
    assert works(stack, refreshed.json()["access_token"])
    assert failures == []


def test_b5_without_its_key_auth_refuses_to_start(shared: Stack) -> None:
    stack = shared
    stack.stop("auth")
    (stack.folder / "master.key").rename(stack.folder / "elsewhere")
    stack.start("auth")
    assert stack.processes["auth"].wait(LONG) != 0
    assert "gstack keys init" in stack.log("auth")
    assert requests.get(f"{stack.url}/readyz", timeout=LONG).status_code == 503
    (stack.folder / "elsewhere").rename(stack.folder / "master.key")
    stack.start("auth")
    stack.wait_ready()


def test_b5_with_a_wrong_key_auth_refuses_to_start_until_the_lost_one_is_forgotten(shared: Stack) -> None:
    stack = shared
    key = Person(stack).key()
    stack.stop("auth")
    (stack.folder / "master.key").unlink()
    assert stack.run("keys", "init").returncode == 0
    stack.start("auth")
    assert stack.processes["auth"].wait(LONG) != 0
    assert "gstack keys forget" in stack.log("auth")
    assert "deleted" in stack.run("keys", "forget", "--yes").stdout
    stack.start("auth")
    stack.wait_ready()
    # The service account waits for its user, and goes on then.
    assert token(stack, grant_type=JWT_BEARER, assertion=assertion(key)).json()["error"] == "invalid_grant"
    stack.token()
    assert works(stack, token(stack, grant_type=JWT_BEARER, assertion=assertion(key)).json()["access_token"])


def test_b9_backup_and_restore(shared: Stack, tmp_path: Path) -> None:
    """A copy made while auth runs, and the key file, are enough to go on as if nothing had been."""
    stack = shared
    key, tokens = Person(stack).key(), login(stack)
    backup = tmp_path / "backup"
    backup.mkdir()
    with sqlite3.connect(stack.folder / "auth.sqlite") as source, sqlite3.connect(backup / "auth.sqlite") as target:
        source.backup(target)
    shutil.copy2(stack.folder / "master.key", backup)
    stack.kill("auth")
    for path in (*stack.folder.glob("auth.sqlite*"), stack.folder / "master.key"):
        path.unlink()
    for path in backup.iterdir():
        shutil.copy2(path, stack.folder)
    stack.start("auth")
    stack.wait_ready()
    assert works(stack, tokens["access_token"])
    again = token(stack, grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id=SDK)
    assert works(stack, again.json()["access_token"])
    assert works(stack, token(stack, grant_type=JWT_BEARER, assertion=assertion(key)).json()["access_token"])


def test_b10_the_secret_key_never_is_in_the_gateway(own_stack: Stack) -> None:
    """A person signs in with a password and works; then the gateway's memory is searched for what CloudStack gave."""
    stack = own_stack
    access = login(stack)["access_token"]
    assert works(stack, access)
    assert stack.call("GET", "/zones/ch-gv2/instances", token=access).status_code == 200
    gateway = stack.processes["gateway"].pid
    children = Path(f"/proc/{gateway}/task/{gateway}/children").read_text().split()
    processes = [gateway, *map(int, children)]
    try:
        # What must be there is found, so that nothing found says something.
        assert any(memory_holds(process, b"example.org") for process in processes)
    except PermissionError:
        pytest.skip("reading the memory of another process needs root here")
    for process in processes:
        assert not memory_holds(process, SECRET_KEY.encode())


def memory_holds(process: int, wanted: bytes) -> bool:
    """Whether these bytes are in the writable memory of a process."""
    regions = Path(f"/proc/{process}/maps").read_text().splitlines()
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for region in regions:
            addresses, rights, *_ = region.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            try:
                memory.seek(start)
                if wanted in memory.read(end - start):
                    return True
            except (OSError, OverflowError):
                continue
    return False


def test_f5_audit_lines(shared: Stack) -> None:
    """Who did what, from where, with which result."""
    stack = shared
    login(stack)
    body = {"name": "audited", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}]}
    operation = stack.call("POST", "/global/firewalls", body).json()
    stack.call("POST", "/global/firewalls", body)
    token(stack, grant_type="client_credentials", client_id=API_KEY, client_secret="wrong")

    def lines(service: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (stack.folder / f"{service}.log").read_text().splitlines() if "{" in line]
        return [line for line in found if line.get("log") == "audit"]

    mutations = [line for line in lines("gateway") if line["event"] == "compute.firewalls.insert"]
    assert [(line["status"], line["operation"]) for line in mutations] == [(200, operation["name"]), (409, "")]
    assert {(line["subject"], line["remote_address"]) for line in mutations} == {("demo@example.org", "127.0.0.1")}
    events = {line["event"] for line in lines("auth")}
    assert events >= {"sign_in", "consent", "access_granted", "access_refused"}
    refused = [line for line in lines("auth") if line["event"] == "access_refused"][-1]
    assert (refused["reason"], refused["remote_address"]) == ("invalid_client", "127.0.0.1")
