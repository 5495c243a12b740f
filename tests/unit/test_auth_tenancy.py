"""What one tenant, or a stranger, cannot do to another one by way of the auth service."""

from __future__ import annotations

import base64
import time
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs

from auth_service.store.auth_store import AuthStore
from auth_service.store.tables import MIGRATIONS, service_accounts
from gateway.oauth import Issuer
from gstack.auth.v1 import auth_pb2, iam_pb2, pages_pb2
from gstack.kernel import database
from gstack.kernel.errors import ApiError
from gstack.kernel.sealing import Keyring
from gstack.kernel.settings import Settings
from simulator.world import Account, Project
from tests.auth import ADDRESS, BASE, CLOUD, COMPUTE, EXCHANGE, JWT_BEARER, OOB, SDK, Auth, assertion
from tests.conftest import Cloud

ACCESS_TYPE = "urn:ietf:params:oauth:token-type:access_token"
KEYS = {"client_id": "demo-api-key", "client_secret": "demo-secret-key"}


def works(auth: Auth, token: str) -> bool:
    return bool(auth.principal(token).active)


def exchanged(auth: Auth, token: str, **form: str) -> str:
    reply = auth.token(EXCHANGE, subject_token=token, subject_token_type=ACCESS_TYPE, **form)
    assert reply["status"] == 200, reply
    return str(reply["access_token"])


def revoke(auth: Auth, token: str) -> None:
    assert auth.post("Revoke", {"token": token}).status == 200


# Exchanged tokens


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_a6_what_was_exchanged_for_a_token_ends_with_it(auth: Auth, kind: str) -> None:
    tokens = auth.login()
    child = exchanged(auth, tokens["access_token"], scope=COMPUTE)
    grandchild = exchanged(auth, child)
    assert works(auth, child) and works(auth, grandchild)
    revoke(auth, tokens[kind])
    assert not works(auth, child) and not works(auth, grandchild)


def test_a6_who_was_given_less_cannot_end_the_login(auth: Auth) -> None:
    tokens = auth.login()
    child, sibling = (exchanged(auth, tokens["access_token"], scope=COMPUTE) for _ in range(2))
    grandchild = exchanged(auth, child)
    revoke(auth, child)
    assert not works(auth, child) and not works(auth, grandchild)
    assert works(auth, tokens["access_token"]) and works(auth, sibling)
    assert auth.token("refresh_token", refresh_token=tokens["refresh_token"], client_id=SDK)["status"] == 200


def test_a6_a_login_that_is_ended_on_the_page_ends_what_came_of_it(auth: Auth) -> None:
    tokens = auth.login()
    child = exchanged(auth, tokens["access_token"])
    row = auth.store.tokens.bearer(child)
    assert row is not None
    auth.store.tokens.revoke_family(row[0]["family"])
    assert not works(auth, child) and not works(auth, tokens["access_token"])


# Addresses


def claims_of(text: str) -> dict[str, Any]:
    body = text.split(".")[1]
    found: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


def userinfo(auth: Auth, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    request = auth_pb2.HttpRequest(uri=f"{BASE}/oauth2/v3/userinfo", method="GET", headers=headers)
    found: dict[str, Any] = orjson.loads(auth.oauth.UserInfo(request, None).body)
    return found


def tokeninfo(auth: Auth, token: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(auth.post("TokenInfo", {"access_token": token}).body)
    return found


def test_a6_an_address_that_a_user_wrote_down_is_not_verified(auth: Auth) -> None:
    tokens = auth.login(scope=f"openid email {CLOUD}")
    told = claims_of(tokens["id_token"])
    assert (told["email"], told["email_verified"]) == ("demo@example.org", False)
    found = userinfo(auth, tokens["access_token"])
    assert (found["email_verified"], found["verified_email"]) == (False, False)
    found = tokeninfo(auth, tokens["access_token"])
    assert (found["email_verified"], found["verified_email"]) == ("false", False)


def test_a6_a_service_accounts_is_because_it_is_ours(auth: Auth) -> None:
    key = auth.key_file()
    signed = auth.token(JWT_BEARER, assertion=assertion(key, target_audience="https://x.example", scope=None))
    assert claims_of(signed["id_token"])["email_verified"] is True
    token = auth.token(JWT_BEARER, assertion=assertion(key, jti="1"))["access_token"]
    assert userinfo(auth, token)["email_verified"] is True
    assert tokeninfo(auth, token)["email_verified"] == "true"


@pytest.fixture
def namesake(simulated: Cloud) -> Project:
    """A project of ian's that is called as demo's account is."""
    world = simulated.app.world
    ian = next(row for row in world.all(Account) if row.name.startswith("ian"))
    hidden = world.add(Account, name="PrjAcct-demo-x", domain=ian.domain)
    made = world.add(Project, name="demo", display_text="demo", account=hidden, owner=ian, members=[])
    hidden.project = made
    return made


def test_a6_an_address_is_one_accounts(auth: Auth, namesake: Project) -> None:
    """Also when two tenants have projects of one name, and when the first account is gone."""
    first, second = auth.key_file("demo"), auth.key_file("ian", projects=["demo"])
    assert first["client_email"] == "robot-1@demo.iam.gserviceaccount.com"
    assert second["client_email"].startswith("robot-1@demo-") and second["client_email"].endswith(
        ".iam.gserviceaccount.com"
    )
    for key, owner in ((first, "demo"), (second, "ian")):
        token = auth.token(JWT_BEARER, assertion=assertion(key, kid=False))["access_token"]
        assert userinfo(auth, token)["email"] == key["client_email"]
        assert auth.principal(token).key == auth.caller(owner).owner
    # The name that clients make up is understood, and means one's own.
    made_up = iam_pb2.GetServiceAccountRequest(project="demo", account="robot-1@demo.iam.gserviceaccount.com")
    for name, key in (("demo", first), ("ian", second)):
        assert auth.accounts.get(auth.caller(name), made_up).email == key["client_email"]
    auth.accounts.delete(
        auth.caller("demo"), iam_pb2.DeleteServiceAccountRequest(project="demo", account=first["client_email"])
    )
    request = iam_pb2.CreateServiceAccountRequest(project="demo")
    request.createServiceAccountRequest.accountId = "robot-2"
    assert "@demo-" in auth.accounts.create(auth.caller("ian"), request).email


def test_a6_a_suffix_that_is_another_projects_name_is_not_taken(auth: Auth) -> None:
    host = auth.store.service_accounts.host
    assert host("a/1", "p", "demo") == "demo"
    suffixed = host("b/1", "q", "demo")
    assert suffixed != "demo" and host("b/1", "q", "demo") == suffixed
    assert host("c/1", "r", suffixed) not in ("demo", suffixed)
    assert host("a/1", "p", "demo") == "demo"


def test_a6_addresses_of_before_keep_their_hosts(tmp_path: Path) -> None:
    """Two accounts of one address, from before hosts had owners: the older one's owner has the host."""
    url, ring = f"sqlite:///{tmp_path / 'before.sqlite'}", Keyring.of(b"k" * 32)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        table = database._table(MIGRATIONS)
        config = Config(attributes={"keyring": ring, "connection": connection, "version_table": table})
        config.set_main_option("script_location", str(database._folder(MIGRATIONS)))
        command.upgrade(config, "0002")
        for owner, project, created in (("a/1", "p", 20.0), ("b/1", "q", 10.0)):
            connection.execute(
                service_accounts.insert().values(
                    id=project,
                    unique_id=project,
                    owner=owner,
                    credential_id="c",
                    project_key=project,
                    project="demo",
                    account_id="robot-1",
                    email="robot-1@demo.iam.gserviceaccount.com",
                    display_name="",
                    description="",
                    disabled=False,
                    created=created,
                )
            )
    engine.dispose()
    store = AuthStore(url, ring)
    assert store.service_accounts.host("b/1", "q", "demo") == "demo"
    assert store.service_accounts.host("a/1", "p", "demo").startswith("demo-")
    store.engine.dispose()


# Parameters


@pytest.mark.parametrize("name", ["grant_type", "client_id", "client_secret", "scope", "unknown"])
def test_a6_a_parameter_comes_once_at_the_token_endpoint(auth: Auth, name: str) -> None:
    form = {"grant_type": "client_credentials", **KEYS, "scope": COMPUTE, "unknown": "x"}
    body = "&".join(f"{key}={value}" for key, value in form.items())
    assert auth.post("Token", body).status == 200
    for twice in (f"{body}&{name}={form[name]}", f"{body}&{name}="):
        reply = auth.post("Token", twice)
        assert (reply.status, orjson.loads(reply.body)["error"]) == (400, "invalid_request")
    reply = auth.post("Token", body, query=f"?{name}={form[name]}")
    assert (reply.status, orjson.loads(reply.body)["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("endpoint", ["Revoke", "Introspect", "DeviceAuthorization", "TokenInfo"])
def test_a6_nor_anywhere_else(auth: Auth, endpoint: str) -> None:
    token = auth.login()["access_token"]
    form = f"client_id={SDK}&token={token}&token={token}"
    for body, query in ((form, ""), (f"client_id={SDK}&token={token}", "?token=other")):
        reply = auth.post(endpoint, body, query=query)
        assert (reply.status, orjson.loads(reply.body)["error"]) == (400, "invalid_request")
    assert works(auth, token)


def test_a6_nor_in_what_a_browser_brings(auth: Auth) -> None:
    uri = f"{BASE}/oauth2/auth?response_type=code&client_id={SDK}&redirect_uri={OOB}&scope=a&scope=b"
    request = auth_pb2.HttpRequest(uri=uri, method="GET", remote_address=ADDRESS, base=BASE)
    answer = auth.pages.Authorize(pages_pb2.AuthorizeRequest(request=request), None)
    assert answer.response.status == 400


def test_audiences_and_resources_may_come_more_than_once(auth: Auth) -> None:
    token = auth.login()["access_token"]
    body = (
        f"grant_type={EXCHANGE}&subject_token={token}&subject_token_type={ACCESS_TYPE}"
        "&audience=a&audience=b&resource=https://a.example&resource=https://b.example"
    )
    assert auth.post("Token", body).status == 200


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("a&" * 1_000_000, ""),
        ("&".join(f"a{number}=x" for number in range(51)), ""),
        ("grant_type=client_credentials&x=" + "x" * 20_000, ""),
        ("", "?" + "&".join(f"a{number}" for number in range(60))),
        ("", "?x=" + "x" * 9_000),
    ],
)
@pytest.mark.parametrize("endpoint", ["Token", "Revoke", "Introspect", "DeviceAuthorization", "TokenInfo"])
def test_c1_forms_are_measured_before_they_are_parsed(auth: Auth, endpoint: str, body: str, query: str) -> None:
    auth.post(endpoint, "x=y")
    tracemalloc.start()
    reply = auth.post(endpoint, body, query=query)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (reply.status, orjson.loads(reply.body)["error"]) == (400, "invalid_request")
    # Of 2 MB there are the copies in the message, and no list of a million names.
    assert peak < 16 * 1024 * 1024


# JWTs


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{encoded(b'[' * 5000)}.e30.x",
        f"{encoded(b'{}')}.{encoded(b'[' * 5000)}.x",
        encoded(b'{"alg":"RS256","kid":' + b"9" * 5000 + b"}") + ".e30.x",
        encoded(b'{"alg":"RS256"}') + "." + encoded(b'{"iss":' + b"[" * 5000 + b"]" * 5000 + b"}") + ".eA",
        "x" * 100_000 + ".y.z",
    ],
)
def test_c1_a_jwt_that_nobody_could_have_made_is_refused(auth: Auth, text: str) -> None:
    assert not works(auth, text)
    for form in ({"grant_type": JWT_BEARER, "assertion": text}, {"id_token": text}):
        endpoint = "TokenInfo" if "id_token" in form else "Token"
        assert auth.post(endpoint, form).status == 400


@pytest.mark.parametrize("number", [10**400, float("inf"), float("nan"), -1, 1e300])
@pytest.mark.parametrize("claim", ["iat", "exp", "nbf"])
def test_c1_times_that_cannot_be_reckoned_with_are_refused(auth: Auth, claim: str, number: Any) -> None:
    key = auth.key_file()
    now = time.time()
    times = {"iat": now, "exp": now + 60.5, claim: number}
    assert auth.token(JWT_BEARER, assertion=assertion(key, **times))["error"] == "invalid_grant"
    assert not works(auth, assertion(key, aud=BASE, sub=key["client_email"], **times))


def test_c1_keys_that_make_each_check_slow_are_refused(auth: Auth) -> None:
    account = auth.service_account()
    fine = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    slow = rsa.RSAPublicNumbers(e=2**63 + 1, n=fine.public_numbers().n).public_key()
    pem = slow.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    large = rsa.RSAPublicNumbers(e=65537, n=(1 << 8191) + 1).public_key()
    for data in (pem, large.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), b"x" * 100_000):
        request = iam_pb2.UploadServiceAccountKeyRequest(project="demo", account=account.email)
        request.uploadServiceAccountKeyRequest.publicKeyData = data
        with pytest.raises(ApiError) as raised:
            auth.accounts.upload_key(auth.caller(), request)
        assert (raised.value.code, raised.value.location) == (400, "publicKeyData")


def test_c1_a_key_names_a_bounded_number_of_projects(auth: Auth, simulated: Cloud) -> None:
    auth.caller()
    simulated.app.calls.clear()
    with pytest.raises(ApiError) as raised:
        auth.key_file(projects=["demo"] * 101)
    assert (raised.value.code, raised.value.location) == (400, "projects")
    assert "listProjects" not in simulated.calls


# What the endpoint is called


def issuer(**settings: Any) -> Issuer:
    return Issuer(Settings(**settings))


def test_a6_a_host_that_a_request_names_is_no_audience() -> None:
    with capture_logs() as logs:
        local, open_ = issuer(), issuer(gateway_listen="0.0.0.0:5000")
        behind, both = issuer(gateway_listen="[::]:5000"), issuer(public_url="https://gce.example.org/")
    assert [one["event"] for one in logs] == ["public_url_missing"] * 2
    assert [one.is_missing for one in (local, open_, behind, both)] == [False, True, True, False]
    for base in ("http://127.0.0.1:5000", "http://localhost:8080", "http://[::1]:5000", "http://gce.localhost"):
        assert local.of(base) == open_.of(base) == base
        assert both.of(base) == "https://gce.example.org"
    for base in ("http://evil.example", "http://10.0.0.5:5000", "http://localhost.evil.example", "http://[", "http://"):
        assert local.of(base) == open_.of(base) == "http://127.0.0.1:5000"
        assert both.of(base) == "https://gce.example.org"
    assert issuer(gateway_listen="0.0.0.0:443", public_url="https://a.example").is_missing is False
