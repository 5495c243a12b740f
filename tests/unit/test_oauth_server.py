"""The OAuth server, each promise by its number (A: what servers of this kind promise; RFC 6749 and its family)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import grpc
import jwt
import orjson
import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auth_service import clients, service
from gateway.tokens import Tokens
from gstack.auth.v1 import auth_pb2, iam_pb2, iam_pb2_grpc, pages_pb2
from gstack.kernel import rpc
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.sealing import CREDENTIAL, SealError
from simulator.app import Fault
from tests.auth import (
    ADDRESS,
    BASE,
    CHALLENGE,
    CLOUD,
    COMPUTE,
    DEVICE,
    EXCHANGE,
    FILES,
    JWT_BEARER,
    LOOPBACK,
    OOB,
    SDK,
    VERIFIER,
    Auth,
    assertion,
)
from translator_service.cloudstack.client import Client, Keys
from translator_service.scope import Environment

PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
READ_ONLY = "https://www.googleapis.com/auth/compute.readonly"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TYPE = "urn:ietf:params:oauth:token-type:access_token"


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """The present, standing still until a test moves it."""
    with time_machine.travel(time.time(), tick=False) as traveller:
        yield traveller


def query_of(uri: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(uri).query).items()}


def works(auth: Auth, token: str) -> bool:
    return bool(auth.principal(token).active)


# A1: redirects


@pytest.mark.parametrize(
    "uri",
    [
        OOB,
        "https://sdk.cloud.google.com/authcode.html",
        "http://localhost:8085/",
        "http://127.0.0.1:1/callback",
        "http://[::1]:50000/",
        "http://localhost",
    ],
)
def test_a1_known_redirects(auth: Auth, uri: str) -> None:
    assert auth.authorize(redirect_uri=uri, **PKCE).client_name == "Google Cloud SDK"


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/",
        "http://localhost.evil.example/",
        "http://localhost@evil.example/",
        "http://user@localhost/",
        "https://localhost:8085/",
        "http://localhost:port/",
        "http://localhost:8085/#fragment",
        "https://sdk.cloud.google.com/authcode.html?x=1",
        "https://sdk.cloud.google.com/authcode.html/",
        "https://sdk.cloud.google.com.evil.example/authcode.html",
        "javascript:alert(1)",
        "//localhost/",
        "",
    ],
)
def test_a1_other_redirects_are_told_to_the_person_only(auth: Auth, uri: str) -> None:
    response = auth.authorize(redirect_uri=uri).response
    assert response.status == 400
    assert "Location" not in response.headers


@given(st.text(max_size=60) | st.from_regex(r"https?://[a-z.@:\[\]0-9]{0,30}(/[a-z#?]{0,8})?", fullmatch=True))
@settings(max_examples=300)
def test_a1_no_redirect_leaves_this_machine(uri: str) -> None:
    if clients.may_redirect(uri) and uri not in clients.SHOWN_CODE:
        parts = urlsplit(uri)
        assert parts.scheme == "http"
        assert parts.hostname in ("localhost", "127.0.0.1", "::1")
        assert parts.username is None


# A2, A3, A4: which grants, PKCE


@pytest.mark.parametrize("kind", ["token", "id_token", "code token", "none", ""])
def test_a2_no_implicit_grant(auth: Auth, kind: str) -> None:
    response = auth.authorize(response_type=kind, redirect_uri=LOOPBACK).response
    assert response.status in (303, 400)
    assert "access_token" not in response.headers.get("Location", "") + response.body


def test_a2_no_password_grant(auth: Auth) -> None:
    reply = auth.token(
        "password", client_id="demo-api-key", client_secret="demo-secret-key", username="demo", password="demo"
    )
    assert (reply["status"], reply["error"]) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "more",
    [{}, {"code_challenge": CHALLENGE}, {"code_challenge": VERIFIER, "code_challenge_method": "plain"}],
    ids=["none", "method left out is plain", "plain"],
)
def test_a3_public_clients_need_pkce_with_s256(auth: Auth, more: dict[str, str]) -> None:
    response = auth.authorize(client_id=FILES, redirect_uri=LOOPBACK, state="s", **more).response
    assert response.status == 303
    found = query_of(response.headers["Location"])
    assert (found["error"], found["state"], found["iss"]) == ("invalid_request", "s", BASE)


def test_a3_gcutil_may_come_without_pkce_unless_the_operator_says_no(environment: Environment, tmp_path: Path) -> None:
    strict = Auth(environment, tmp_path, login_without_pkce=False)
    assert strict.authorize(redirect_uri=LOOPBACK).response.status == 303
    assert strict.authorize(redirect_uri=LOOPBACK, **PKCE).client_name
    strict.close()


def test_a3_a4_verifier_must_fit_the_challenge(auth: Auth) -> None:
    for form, error in (
        ({"code_verifier": "w" * 64}, "invalid_grant"),
        ({}, "invalid_request"),
    ):
        code = auth.code(client_id=FILES, redirect_uri=LOOPBACK, **PKCE)
        reply = auth.token("authorization_code", code=code, client_id=FILES, redirect_uri=LOOPBACK, **form)
        assert (reply["status"], reply["error"]) == (400, error)


def test_a4_verifier_without_challenge_is_a_downgrade(auth: Auth) -> None:
    code = auth.code()
    reply = auth.token("authorization_code", code=code, client_id=SDK, redirect_uri=OOB, code_verifier=VERIFIER)
    assert (reply["status"], reply["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    "query",
    [
        {"code_challenge": "x" * 500, "code_challenge_method": "S256"},
        {"code_challenge": "a\0" * 21 + "a", "code_challenge_method": "S256"},
        {"nonce": "n" * 256},
        {"nonce": "\0"},
        {"scope": "compute\0"},
        {"scope": "x" * 200},
        {"scope": 'a"b'},
        {"scope": " ".join(f"s{number}" for number in range(51))},
    ],
)
def test_a3_texts_that_nobody_needs_are_refused(auth: Auth, query: dict[str, str]) -> None:
    response = auth.authorize(redirect_uri=LOOPBACK, **query).response
    assert response.status == 303
    assert query_of(response.headers["Location"])["error"] in ("invalid_request", "invalid_scope")


# A5, A6: codes


def test_a5_a_code_lives_a_minute(auth: Auth, clock: time_machine.Traveller) -> None:
    for seconds, status in ((59.9, 200), (60.0, 400)):
        code = auth.code()
        clock.shift(seconds)
        assert auth.token("authorization_code", code=code, client_id=SDK, redirect_uri=OOB)["status"] == status


def test_a5_a_second_use_ends_what_the_first_one_got(auth: Auth) -> None:
    code = auth.code()
    form = {"code": code, "client_id": SDK, "redirect_uri": OOB}
    first = auth.token("authorization_code", **form)
    assert works(auth, first["access_token"])
    assert auth.token("authorization_code", **form)["error"] == "invalid_grant"
    assert not works(auth, first["access_token"])
    assert auth.token("refresh_token", refresh_token=first["refresh_token"], client_id=SDK)["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "change", [{"client_id": FILES}, {"redirect_uri": LOOPBACK}, {"code": "x"}, {"redirect_uri": ""}]
)
def test_a5_a_code_is_bound_to_client_and_redirect(auth: Auth, change: dict[str, str]) -> None:
    form = {"code": auth.code(), "client_id": SDK, "redirect_uri": OOB, **change}
    reply = auth.token("authorization_code", **form)
    assert reply["status"] == 400
    assert reply["error"] in ("invalid_grant", "invalid_request")


def test_a6_state_and_issuer_come_back(auth: Auth) -> None:
    session = auth.sign_in()
    asked = auth.authorize(session, redirect_uri=LOOPBACK, state="s t/a&te")
    for allow, name in ((True, "code"), (False, "error")):
        found = query_of(auth.decide(session, asked.consent.ticket, allow).redirect_uri)
        assert (found["state"], found["iss"]) == ("s t/a&te", BASE)
        assert name in found
    assert asked.consent.redirect_origin == "http://localhost:8085"


def test_a6_a_program_learns_that_it_was_denied(auth: Auth) -> None:
    session = auth.sign_in()
    decision = auth.decide(session, auth.authorize(session, redirect_uri=LOOPBACK).consent.ticket, allow=False)
    assert query_of(decision.redirect_uri)["error"] == "access_denied"
    shown = auth.decide(session, auth.authorize(session).consent.ticket, allow=False)
    assert shown.done and not shown.code


def test_a_ticket_is_bound_to_session_and_time(auth: Auth, clock: time_machine.Traveller) -> None:
    mine, other = auth.sign_in(), auth.sign_in("ian")
    ticket = auth.authorize(mine).consent.ticket
    for session, text in ((other, ticket), (mine, ticket[:-2] + "00"), (mine, ""), (mine, "no hex")):
        assert auth.decide(session, text).failure
    clock.shift(601)
    assert auth.decide(mine, ticket).failure
    with pytest.raises(ApiError) as raised:
        auth.decide("unknown", ticket)
    assert raised.value.code == 401


def test_a_session_ends(auth: Auth, clock: time_machine.Traveller) -> None:
    session = auth.sign_in()
    request = pages_pb2.SessionRequest(session=session, remote_address=ADDRESS)
    assert auth.pages.Overview(request, None).person.subject == "demo@example.org"
    auth.pages.SignOut(pages_pb2.SignOutRequest(session=session), None)
    with pytest.raises(ApiError):
        auth.pages.Overview(request, None)
    mine, elsewhere, other = auth.sign_in(), auth.sign_in(), auth.sign_in("ian")
    auth.pages.SignOut(pages_pb2.SignOutRequest(session=mine, everywhere=True), None)
    for text in (mine, elsewhere):
        with pytest.raises(ApiError):
            auth.pages.WhoAmI(pages_pb2.SessionRequest(session=text), None)
    assert auth.pages.WhoAmI(pages_pb2.SessionRequest(session=other), None).subject == "ian@example.org"
    again = auth.sign_in()
    clock.shift(8 * 3600)
    with pytest.raises(ApiError):
        auth.pages.Overview(pages_pb2.SessionRequest(session=again), None)


# A7: refresh


def refresh(auth: Auth, token: str, client_id: str = SDK, **form: str) -> dict[str, Any]:
    return auth.token("refresh_token", refresh_token=token, client_id=client_id, **form)


def test_a7_each_refresh_gives_a_new_token(auth: Auth, clock: time_machine.Traveller) -> None:
    tokens = [auth.login()["refresh_token"]]
    for _ in range(3):
        clock.shift(4000)
        reply = refresh(auth, tokens[-1])
        assert works(auth, reply["access_token"])
        tokens.append(reply["refresh_token"])
    assert len(set(tokens)) == 4


def test_a7_an_old_one_ends_the_whole_family(auth: Auth, clock: time_machine.Traveller) -> None:
    first = auth.login()
    other = auth.login()
    second = refresh(auth, first["refresh_token"])
    clock.shift(61)
    assert refresh(auth, first["refresh_token"])["error"] == "invalid_grant"
    assert refresh(auth, second["refresh_token"])["error"] == "invalid_grant"
    assert not works(auth, second["access_token"]) and not works(auth, first["access_token"])
    assert refresh(auth, other["refresh_token"])["status"] == 200


def test_a7_a_retry_within_a_minute_is_no_theft(auth: Auth, clock: time_machine.Traveller) -> None:
    first = auth.login()["refresh_token"]
    one = refresh(auth, first)
    clock.shift(59)
    two = refresh(auth, first)
    assert two["refresh_token"] != one["refresh_token"]
    clock.shift(61)
    assert refresh(auth, one["refresh_token"])["status"] == refresh(auth, two["refresh_token"])["status"] == 200


def test_a7_files_that_nobody_writes_back_keep_their_token(auth: Auth, clock: time_machine.Traveller) -> None:
    token = auth.login(FILES)["refresh_token"]
    for _ in range(4):
        clock.shift(100 * 24 * 3600)
        assert refresh(auth, token, FILES)["refresh_token"] == token
    clock.shift(180 * 24 * 3600)
    assert refresh(auth, token, FILES)["error"] == "invalid_grant"


def test_a7_a_refresh_token_belongs_to_its_client_and_scopes(auth: Auth) -> None:
    token = auth.login(scope=READ_ONLY)["refresh_token"]
    assert refresh(auth, token, FILES)["error"] == "invalid_grant"
    assert refresh(auth, token, scope=CLOUD)["error"] == "invalid_scope"
    reply = refresh(auth, token)
    assert list(auth.principal(reply["access_token"]).scopes) == [READ_ONLY]


# A8, A9: revocation, introspection


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_a8_revocation_ends_the_family(auth: Auth, kind: str) -> None:
    tokens = auth.login()
    assert auth.post("Revoke", {"token": tokens[kind], "client_id": SDK}, path="/oauth2/revoke").status == 200
    assert not works(auth, tokens["access_token"])
    assert refresh(auth, tokens["refresh_token"])["error"] == "invalid_grant"


def test_a8_revocation_is_200_for_what_is_unknown_and_takes_the_query(auth: Auth) -> None:
    assert auth.post("Revoke", {"token": "unknown"}).status == 200
    tokens = auth.login()
    assert auth.post("Revoke", "", query=f"?token={tokens['refresh_token']}").status == 200
    assert not works(auth, tokens["access_token"])
    assert auth.post("Revoke", "").status == 400


def introspect(auth: Auth, token: str, **options: Any) -> dict[str, Any]:
    reply = auth.post("Introspect", {"token": token, **options.pop("form", {})}, **options)
    return {**orjson.loads(reply.body), "status": reply.status}


def test_a9_introspection_needs_a_client(auth: Auth) -> None:
    token = auth.login()["access_token"]
    for options in ({}, {"basic": ("demo-api-key", "wrong")}, {"form": {"client_id": "unknown"}}):
        assert introspect(auth, token, **options)["status"] == 401


def test_a9_what_a_client_learns(auth: Auth) -> None:
    tokens = auth.login()
    own = introspect(auth, tokens["access_token"], basic=(SDK, "published"))
    assert own.pop("status") == 200
    assert own["exp"] - own["iat"] == 3600
    assert {name: own[name] for name in ("active", "username", "client_id", "scope", "token_type")} == {
        "active": True,
        "username": "demo@example.org",
        "client_id": SDK,
        "scope": f"{COMPUTE} {CLOUD}",
        "token_type": "Bearer",
    }
    assert introspect(auth, tokens["refresh_token"], basic=("demo-api-key", "demo-secret-key"))["active"] is True


@pytest.mark.parametrize("who", [(FILES, "x"), ("ian-api-key", "ian-secret-key")])
def test_a9_others_learn_nothing(auth: Auth, who: tuple[str, str]) -> None:
    tokens = auth.login()
    for token in (tokens["access_token"], tokens["refresh_token"], "unknown"):
        assert introspect(auth, token, basic=who) == {"active": False, "status": 200}


# A10: metadata


def test_a10_metadata_is_what_is_true(auth: Auth) -> None:
    request = auth_pb2.HttpRequest(uri=f"{BASE}/.well-known/oauth-authorization-server", method="GET", base=BASE)
    found = orjson.loads(auth.oauth.Metadata(request, None).body)
    assert found["issuer"] == BASE
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert found["response_types_supported"] == ["code"]
    assert found["authorization_response_iss_parameter_supported"] is True
    for grant in found["grant_types_supported"]:
        # Each is known; what is missing in the request is another error.
        assert auth.token(grant, client_id="unknown")["error"] != "unsupported_grant_type", grant
    assert auth.token("urn:ietf:params:oauth:grant-type:saml2-bearer")["error"] == "unsupported_grant_type"


def test_a10_id_tokens_are_signed_by_the_published_key(auth: Auth) -> None:
    token = auth.login(scope=f"openid email {CLOUD}", nonce="n-1")["id_token"]
    keys = orjson.loads(auth.oauth.Certificates(auth_pb2.HttpRequest(), None).body)
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=SDK, issuer=BASE)
    assert (claims["email"], claims["nonce"], claims["exp"] - claims["iat"]) == ("demo@example.org", "n-1", 3600)
    assert "id_token" not in auth.login(scope=CLOUD)
    assert "demo-secret-key" not in str(claims)


def test_a10_the_key_of_id_tokens_is_changed_and_the_old_one_still_published(
    auth: Auth, clock: time_machine.Traveller
) -> None:
    def published() -> set[str]:
        reply = auth.oauth.Certificates(auth_pb2.HttpRequest(), None)
        return {key["kid"] for key in orjson.loads(reply.body)["keys"]}

    first = published()
    clock.shift(91 * 24 * 3600)
    second = published()
    assert first < second and len(second) == 2
    clock.shift(91 * 24 * 3600)
    assert len(published()) == 2 and not first & published()


# A11: devices


def device(auth: Auth, client_id: str = SDK, **form: str) -> dict[str, Any]:
    reply = auth.post("DeviceAuthorization", {"client_id": client_id, **form}, path="/oauth2/device/code")
    return {**orjson.loads(reply.body), "status": reply.status}


def poll(auth: Auth, code: str, client_id: str = SDK) -> dict[str, Any]:
    return auth.token(DEVICE, device_code=code, client_id=client_id)


def find_device(auth: Auth, session: str, code: str) -> pages_pb2.FindDeviceResponse:
    request = pages_pb2.FindDeviceRequest(session=session, user_code=code, remote_address=ADDRESS)
    return auth.pages.FindDevice(request, None)


def test_a11_a_device_is_let_in(auth: Auth, clock: time_machine.Traveller) -> None:
    found = device(auth, scope=f"{CLOUD} email")
    assert (found["status"], found["interval"], found["expires_in"]) == (200, 5, 1800)
    assert found["verification_uri"] == found["verification_url"] == f"{BASE}/device"
    assert poll(auth, found["device_code"])["error"] == "authorization_pending"
    session = auth.sign_in()
    consent = find_device(auth, session, found["user_code"].lower().replace("-", " ")).consent
    assert (list(consent.scopes), consent.client_name) == ([CLOUD, "email"], "Google Cloud SDK")
    assert auth.decide(session, consent.ticket).done
    clock.shift(5)
    tokens = poll(auth, found["device_code"])
    assert works(auth, tokens["access_token"]) and tokens["id_token"]
    assert refresh(auth, tokens["refresh_token"])["status"] == 200
    assert poll(auth, found["device_code"])["error"] == "invalid_grant"


def test_a11_a_device_is_refused(auth: Auth) -> None:
    found = device(auth)
    session = auth.sign_in()
    consent = find_device(auth, session, found["user_code"]).consent
    assert auth.decide(session, consent.ticket, allow=False).done
    assert poll(auth, found["device_code"])["error"] == "access_denied"
    assert auth.decide(session, consent.ticket).failure


def test_a11_slow_down_adds_five_seconds(auth: Auth, clock: time_machine.Traveller) -> None:
    code = device(auth)["device_code"]
    for seconds, error in (
        (0, "authorization_pending"),
        (4.9, "slow_down"),
        (5.1, "slow_down"),  # it is ten now, and fifteen after this
        (15, "authorization_pending"),
    ):
        clock.shift(seconds)
        assert poll(auth, code)["error"] == error


def test_a11_a_device_code_expires_to_the_second(auth: Auth, clock: time_machine.Traveller) -> None:
    found, session = device(auth), auth.sign_in()
    clock.shift(1799.9)
    assert find_device(auth, session, found["user_code"]).HasField("consent")
    clock.shift(0.1)
    assert find_device(auth, session, found["user_code"]).failure
    assert poll(auth, found["device_code"])["error"] == "expired_token"


def test_a11_a_device_code_belongs_to_its_client(auth: Auth) -> None:
    assert poll(auth, device(auth)["device_code"], FILES)["error"] == "invalid_grant"
    assert poll(auth, "unknown")["error"] == "invalid_grant"
    assert device(auth, "unknown")["status"] == 401


def test_a11_guessing_user_codes_is_stopped(auth: Auth) -> None:
    session = auth.sign_in()
    right = device(auth)["user_code"]
    with pytest.raises(ApiError) as raised:
        for number in range(200):
            assert find_device(auth, session, f"BCDF-{number:04}").failure
    assert (raised.value.code, raised.value.retry_after > 0) == (429, True)
    with pytest.raises(ApiError):
        find_device(auth, session, right)


def test_a11_the_grant_of_older_libraries(auth: Auth, clock: time_machine.Traveller) -> None:
    found, session = device(auth), auth.sign_in()
    auth.decide(session, find_device(auth, session, found["user_code"]).consent.ticket)
    clock.shift(5)
    reply = auth.token("http://oauth.net/grant_type/device/1.0", code=found["device_code"], client_id=SDK)
    assert works(auth, reply["access_token"])


# A12: assertions of service accounts


def bearer(auth: Auth, text: str) -> dict[str, Any]:
    return auth.token(JWT_BEARER, assertion=text)


@pytest.mark.parametrize(
    "audience",
    [
        "https://oauth2.googleapis.com/token",
        "https://accounts.google.com/o/oauth2/token",
        "https://www.googleapis.com/oauth2/v4/token",
        f"{BASE}/oauth2/token",
        f"{BASE}/token",
        ["https://example.org/", f"{BASE}/o/oauth2/token"],
    ],
)
def test_a12_audiences_that_libraries_use(auth: Auth, audience: Any) -> None:
    reply = bearer(auth, assertion(auth.key_file(), aud=audience))
    principal = auth.principal(reply["access_token"])
    assert (principal.active, principal.subject) == (True, "robot-1@demo.iam.gserviceaccount.com")
    assert "refresh_token" not in reply


def test_a12_without_kid_and_with_padding_as_libcloud_does(auth: Auth) -> None:
    key = auth.key_file()
    head, body, _ = assertion(key, kid=False).split(".")
    padded = ".".join(part + "=" * (-len(part) % 4) for part in (head, body))
    algorithm = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    signature = algorithm.sign(padded.encode(), algorithm.prepare_key(key["private_key"]))
    tail = jwt.utils.base64url_encode(signature).decode()
    assert bearer(auth, f"{padded}.{tail}{'=' * (-len(tail) % 4)}")["status"] == 200


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "https://example.org/token"}, "audience"),
        ({"aud": None}, "audience"),
        ({"iat": 3600 + 61, "exp": 3600 + 100}, "not valid yet"),
        ({"exp": 3600 + 61}, "60 minutes"),
        ({"exp": 24 * 3600}, "60 minutes"),
        ({"exp": 0}, "expired"),
        ({"exp": -1, "iat": -100}, "expired"),
        ({"sub": "somebody@example.org"}, "somebody else"),
        ({"iss": "other@demo.iam.gserviceaccount.com"}, "Signature"),
        ({"iat": None}, "'iat' is missing"),
        ({"exp": None}, "'exp' is missing"),
        ({"exp": "tomorrow"}, "seconds"),
        ({"iat": True}, "seconds"),
    ],
)
def test_a12_claims_that_are_refused(
    auth: Auth, clock: time_machine.Traveller, claims: dict[str, Any], words: str
) -> None:
    now = int(time.time())
    moved = {
        name: now + value if name in ("iat", "exp") and type(value) is int else value for name, value in claims.items()
    }
    reply = bearer(auth, assertion(auth.key_file(), **moved))
    assert (reply["status"], reply["error"]) == (400, "invalid_grant")
    assert words in reply["error_description"]


def test_a12_only_rs256(auth: Auth) -> None:
    key = auth.key_file()
    public = auth.store.service_account_keys.find(key=key["private_key_id"])[0].public_key
    claims = jwt.decode(assertion(key), options={"verify_signature": False})
    none = jwt.encode(claims, None, "none", headers={"kid": key["private_key_id"]})
    # The public key as a secret of HMAC, which careless servers take.
    head = jwt.utils.base64url_encode(orjson.dumps({"alg": "HS256", "kid": key["private_key_id"]}))
    body = jwt.utils.base64url_encode(orjson.dumps(claims))
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head + b"." + body, public.encode())
    confused = b".".join((head, body, jwt.utils.base64url_encode(mac))).decode()
    for text in (none, confused, assertion(key, algorithm="RS512"), assertion(key, algorithm="PS256")):
        assert bearer(auth, text)["error"] == "invalid_grant"
        assert not works(auth, text)


def test_a12_a_stranger_and_a_wrong_signature_are_refused_in_the_same_words(auth: Auth) -> None:
    key = auth.key_file()
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other = pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    answers = {
        orjson.dumps(bearer(auth, text))
        for text in (
            assertion({**key, "private_key": other}),
            assertion({**key, "private_key": other, "private_key_id": "0" * 40}),
            assertion({**key, "private_key_id": "0" * 40}),
            assertion({**key, "private_key": other}, kid=False),
            assertion({**key, "client_email": "nobody@example.org"}, kid=False),
        )
    }
    assert len(answers) == 1


def test_a12_jti_is_used_once_and_an_assertion_without_one_for_a_minute(
    auth: Auth, clock: time_machine.Traveller
) -> None:
    key = auth.key_file()
    once = assertion(key, jti="1")
    assert bearer(auth, once)["status"] == 200
    assert "used before" in bearer(auth, once)["error_description"]
    assert "used before" in bearer(auth, assertion(key, jti="1", scope=READ_ONLY))["error_description"]
    assert bearer(auth, assertion(key, jti="2"))["status"] == 200
    twin = assertion(key)
    assert bearer(auth, twin)["status"] == 200
    clock.shift(59)
    assert bearer(auth, twin)["status"] == 200
    clock.shift(1)
    assert "used before" in bearer(auth, twin)["error_description"]


@pytest.mark.parametrize("what", ["key", "account", "deleted key", "deleted account"])
def test_a12_disabled_keys_are_refused_and_their_tokens_end(auth: Auth, what: str) -> None:
    key = auth.key_file()
    token = bearer(auth, assertion(key))["access_token"]
    found = auth.store.service_account_keys.find(key=key["private_key_id"])[0]
    if what == "key":
        auth.store.service_account_keys.disable(found.id, True)
    elif what == "account":
        auth.store.service_accounts.change(found.account, disabled=True)
    elif what == "deleted key":
        auth.store.service_account_keys.delete(found.id)
    else:
        auth.store.service_accounts.delete(found.account)
    assert not works(auth, token)
    assert bearer(auth, assertion(key, jti="2"))["error"] == "invalid_grant"
    assert not works(auth, assertion(key, aud=BASE + "/", sub=key["client_email"]))


def test_a12_scopes_or_a_target_audience_are_needed(auth: Auth) -> None:
    key = auth.key_file()
    assert bearer(auth, assertion(key, scope=None))["error"] == "invalid_scope"
    reply = bearer(auth, assertion(key, scope=None, target_audience=SDK))
    assert set(reply) == {"id_token", "status"}
    claims = jwt.decode(reply["id_token"], options={"verify_signature": False})
    assert (claims["aud"], claims["email"]) == (SDK, key["client_email"])


@given(st.text(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a12_any_other_text_is_no_assertion(auth: Auth, text: str) -> None:
    auth.store.counters.add = lambda *_: 0  # type: ignore[method-assign] - the limit would end it first
    assert auth.token(JWT_BEARER, assertion=text)["error"] in ("invalid_grant", "invalid_request")
    assert not works(auth, text)


@pytest.mark.parametrize("strange", ["\0", "\ud800", "ä", "x" * 300])
def test_a12_strange_names_are_names_of_nobody(auth: Auth, strange: str) -> None:
    key = auth.key_file()
    for text in (
        assertion({**key, "client_email": strange}, kid=False),
        assertion({**key, "private_key_id": strange}),
    ):
        assert bearer(auth, text)["error"] == "invalid_grant"
    assert bearer(auth, assertion(key, jti=strange))["status"] == 200


# Self-signed JWTs as bearers


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://compute.googleapis.com/", "scope": None},
        {"aud": "https://cloudresourcemanager.googleapis.com/", "scope": None},
        {"aud": "https://iamcredentials.googleapis.com/", "scope": None},
        {"aud": "https://www.googleapis.com", "scope": None},
        {"aud": None, "scope": COMPUTE},
        {"aud": BASE, "scope": None},
    ],
)
def test_a_jwt_that_an_account_signed_is_a_bearer(auth: Auth, claims: dict[str, Any]) -> None:
    key = auth.key_file()
    principal = auth.principal(assertion(key, sub=key["client_email"], **claims))
    assert principal.active and COMPUTE in principal.scopes


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://storage.googleapis.com/"},
        {"aud": "https://oauth2.googleapis.com/token"},
        {"aud": None, "scope": None},
        {"aud": BASE, "sub": None},
        {"aud": BASE, "sub": "x@example.org"},
        {"aud": BASE, "exp": 1},
    ],
)
def test_other_jwts_are_not(auth: Auth, claims: dict[str, Any]) -> None:
    key = auth.key_file()
    assert not works(auth, assertion(key, **{"sub": key["client_email"], **claims}))


# Token exchange


def test_external_account_credentials_exchange_a_jwt(auth: Auth, clock: time_machine.Traveller) -> None:
    key = auth.key_file()
    text = assertion(key, aud=f"{BASE}/oauth2/token")
    clock.shift(3000)
    form = {"subject_token": text, "subject_token_type": JWT_TYPE, "audience": "//iam.googleapis.com/x"}
    for _ in range(2):  # the file is read by many
        reply = auth.token(EXCHANGE, scope=COMPUTE, **form)
        assert reply["issued_token_type"] == ACCESS_TYPE
        # It does not outlive what it was given for.
        assert reply["expires_in"] in (599, 600)
        assert works(auth, reply["access_token"])
    assert auth.token(EXCHANGE, scope=CLOUD, **form)["error"] == "invalid_scope"
    clock.shift(600)
    assert auth.token(EXCHANGE, **form)["error"] == "invalid_grant"


def test_a_token_is_exchanged_for_a_narrower_one_only(auth: Auth) -> None:
    token = auth.login(scope=f"{COMPUTE} {READ_ONLY}")["access_token"]
    form = {"subject_token": token, "subject_token_type": ACCESS_TYPE}
    reply = auth.token(EXCHANGE, scope=READ_ONLY, **form)
    assert list(auth.principal(reply["access_token"]).scopes) == [READ_ONLY]
    assert auth.token(EXCHANGE, scope=CLOUD, **form)["error"] == "invalid_scope"
    for change in ({"subject_token": "x"}, {"subject_token_type": "x"}, {"subject_token": ""}):
        assert auth.token(EXCHANGE, **{**form, **change})["status"] == 400


# A13: least privilege


def test_a13_a_key_for_reading_never_writes(auth: Auth) -> None:
    key = auth.key_file(read_only=True)
    for text in (
        bearer(auth, assertion(key, scope=f"{COMPUTE} {CLOUD}"))["access_token"],
        assertion(key, aud=BASE, sub=key["client_email"], scope=None),
    ):
        scopes = set(auth.principal(text).scopes)
        assert scopes == {READ_ONLY, "https://www.googleapis.com/auth/cloud-platform.read-only"}


def test_a_key_is_limited_to_its_projects(auth: Auth) -> None:
    key = auth.key_file(projects=["webshop"])
    token = bearer(auth, assertion(key, scope=CLOUD))["access_token"]
    sealed = auth.principal(token).credential
    assert [project.name for project in auth.people.projects("demo", sealed)] == ["webshop"]
    with pytest.raises(ApiError) as raised:
        auth.people.project("demo", sealed, "demo")
    assert raised.value.code == 404


# A15, A16, A17: headers, equal answers, limits


def test_a15_answers_are_not_stored(auth: Auth) -> None:
    for reply in (auth.post("Token", {"grant_type": "x"}), auth.post("Revoke", {"token": "x"})):
        assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")


def test_a16_unknown_client_and_wrong_secret_are_alike(auth: Auth, simulated: Any) -> None:
    replies, asked = set(), []
    for client_id, secret in (("demo-api-key", "wrong"), ("unknown", "demo-secret-key"), ("ian-api-key", "wrong")):
        before = sum(simulated.calls.values())
        reply = auth.post(
            "Token", {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        )
        replies.add((reply.status, reply.body))
        asked.append(sum(simulated.calls.values()) - before)
    assert len(replies) == 1 and replies.pop()[0] == 401
    # Equal work is equal time: each costs the same question to CloudStack.
    assert len(set(asked)) == 1


def test_a16_wrong_name_and_wrong_password_are_alike(auth: Auth) -> None:
    typed = [("demo", "wrong"), ("nobody", "demo"), ("demo", "")]
    answers = {
        auth.pages.SignIn(
            pages_pb2.SignInRequest(username=name, password=password, remote_address=ADDRESS), None
        ).failure
        for name, password in typed
    }
    assert len(answers) == 1


def attempts(call: Callable[[], Any], most: int) -> int:
    """How often it can be done before the limit."""
    for number in range(most):
        try:
            reply = call()
        except ApiError as error:
            assert error.code == 429 and error.retry_after > 0
            return number
        if getattr(reply, "status", 0) == 429:
            assert int(reply.headers["Retry-After"]) > 0
            return number
    return most


@pytest.mark.parametrize("endpoint", ["Token", "Introspect", "DeviceAuthorization"])
def test_a17_failures_are_limited(
    environment: Environment, tmp_path: Path, clock: time_machine.Traveller, endpoint: str
) -> None:
    clock.move_to(time.time() // 60 * 60 + 1)
    auth = Auth(environment, tmp_path, rate_failures=5)
    form = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y", "token": "t"}
    assert attempts(lambda: auth.post(endpoint, form), 20) == 5
    # Others are not kept out, and it ends with the minute.
    assert auth.post("Token", form, address="192.0.2.2").status == 401
    clock.shift(60)
    assert auth.post("Token", form).status == 401
    auth.close()


def test_a17_requests_are_limited(environment: Environment, tmp_path: Path, clock: time_machine.Traveller) -> None:
    auth = Auth(environment, tmp_path, rate_requests=4)
    form = {"grant_type": "client_credentials", "client_id": "demo-api-key", "client_secret": "demo-secret-key"}
    assert attempts(lambda: auth.post("Token", form), 20) == 4
    auth.close()


def test_a17_passwords_cannot_be_guessed_from_many_addresses(auth: Auth, simulated: Any) -> None:
    for number in range(200):
        address = f"198.51.{number}.1"
        request = pages_pb2.SignInRequest(username="Demo", password="wrong", remote_address=address)
        assert auth.pages.SignIn(request, None).failure
    assert simulated.calls["login"] == 3
    assert auth.sign_in("ian")


def test_a17_making_keys_is_limited(environment: Environment, tmp_path: Path) -> None:
    auth = Auth(environment, tmp_path, rate_keys=4)
    auth.key_file()
    with pytest.raises(ApiError) as raised:
        for _ in range(10):
            auth.key_file()
    assert (raised.value.code, raised.value.reason) == (429, "rateLimitExceeded")
    auth.close()


def test_a17_replicas_count_together(environment: Environment, tmp_path: Path, clock: time_machine.Traveller) -> None:
    clock.move_to(time.time() // 60 * 60 + 1)
    one, two = (Auth(environment, tmp_path, rate_failures=6) for _ in range(2))
    form = {"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}
    replicas = iter([one, two] * 10)
    # Each learns of the other's failures within a second, and of all with its own.
    assert 6 <= attempts(lambda: next(replicas).post("Token", form), 20) <= 8
    one.close()
    two.close()


# A18, A19: ends


def test_a18_access_tokens_end_to_the_second(auth: Auth, clock: time_machine.Traveller) -> None:
    token = auth.login()["access_token"]
    clock.shift(3599.9)
    assert works(auth, token)
    clock.shift(0.1)
    assert not works(auth, token)


def test_a18_keys_end_to_the_second_and_their_tokens_with_them(auth: Auth, clock: time_machine.Traveller) -> None:
    key = auth.key_file(days=1)
    clock.shift(24 * 3600 - 600)
    reply = bearer(auth, assertion(key))
    assert reply["expires_in"] in (599, 600)
    clock.shift(599)
    assert works(auth, assertion(key, aud=BASE, sub=key["client_email"]))
    clock.shift(1)
    assert not works(auth, reply["access_token"])
    assert not works(auth, assertion(key, aud=BASE, sub=key["client_email"]))
    assert bearer(auth, assertion(key, jti="2"))["error"] == "invalid_grant"


def test_a19_keys_that_cloudstack_refuses_end_everything_within_a_minute(
    auth: Auth, environment: Environment, clock: time_machine.Traveller
) -> None:
    tokens, key, session = auth.login(), auth.key_file(), auth.sign_in()
    got = bearer(auth, assertion(key))["access_token"]
    # The user makes new keys in CloudStack's own console.
    credential = auth.people.verify("demo-api-key", "demo-secret-key", ADDRESS)
    assert credential is not None
    client = Client(environment.endpoint, Keys(credential.api_key, credential.secret_key), None, time.monotonic() + 10)
    client.write("registerUserKeys", id=credential.user_id)
    clock.shift(60)
    for text in (tokens["access_token"], got, assertion(key, aud=BASE, sub=key["client_email"])):
        assert not works(auth, text)
    assert refresh(auth, tokens["refresh_token"])["error"] == "invalid_grant"
    assert bearer(auth, assertion(key, jti="2"))["error"] == "invalid_grant"
    with pytest.raises(ApiError):
        auth.pages.Overview(pages_pb2.SessionRequest(session=session), None)
    # After the next sign-in the service account goes on with the new keys.
    clock.shift(11)
    auth.sign_in()
    assert works(auth, bearer(auth, assertion(key, jti="3"))["access_token"])


def test_a19_an_unreachable_cloudstack_ends_nothing(auth: Auth, simulated: Any, clock: time_machine.Traveller) -> None:
    token = auth.login()["access_token"]
    simulated.app.faults.append(Fault("status", "listUsers", status=503, count=9))
    clock.shift(61)
    principal = auth.principal(token)
    assert principal.active and 0 < principal.cache_seconds <= 5


def test_a19_one_asks_cloudstack_and_the_others_go_on(
    auth: Auth, simulated: Any, clock: time_machine.Traveller
) -> None:
    token = auth.login()["access_token"]
    clock.shift(61)
    asking, answered = threading.Event(), threading.Event()
    verify = auth.people._identity.Verify

    def slow(request: Any, timeout: float) -> Any:
        assert timeout <= 5
        asking.set()
        assert answered.wait(10)
        return verify(request, timeout=timeout)

    auth.people._identity.Verify = slow
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(auth.principal, token)
        assert asking.wait(10)
        principal = auth.principal(token)
        assert principal.active and principal.cache_seconds <= 5
        answered.set()
        assert first.result(10).cache_seconds == 60


# What goes to translators


def test_a_sealed_credential_ends_minutes_after_a_gateway_forgets_it(auth: Auth, clock: time_machine.Traveller) -> None:
    token = auth.login()["access_token"]
    principal = auth.principal(token)
    content = auth.sealer.open_message(principal.credential, CREDENTIAL)
    assert content["api_key"] == "demo-api-key"
    authenticate = SimpleNamespace(unary_unary=lambda *_, **__: lambda *_, **__: principal)
    kept = Tokens(authenticate, 100_000, str).principal(f"Bearer {token}", BASE, ADDRESS)  # type: ignore[arg-type]
    assert kept.known_until <= time.time() + 60
    assert kept.known_until + 300 < content["expires"] <= time.time() + 900
    clock.move_to(content["expires"])
    with pytest.raises(SealError):
        auth.sealer.open_message(principal.credential, CREDENTIAL)


def test_a_credential_that_is_over_makes_no_service_accounts(
    auth: Auth, environment: Environment, clock: time_machine.Traveller
) -> None:
    auth.service_account()
    sealed = auth.caller().sealed
    server = rpc.Server(2)
    service.add_services(server, auth.store, auth.people, environment.sealer, auth.limits, auth.settings)
    with rpc.channel(f"127.0.0.1:{server.start('127.0.0.1:0')}", "auth", None) as channel:
        stub: Any = iam_pb2_grpc.ServiceAccountsStub(channel)  # type: ignore[no-untyped-call]

        def listed(credential: bytes) -> Any:
            request = iam_pb2.ListServiceAccountsRequest(project="demo")
            return stub.List(request, timeout=10, metadata=((rpc.CREDENTIAL, credential),))

        # With the project's own.
        assert len(listed(sealed).accounts) == 2
        endless = environment.sealer.seal(b'{"key": "k", "credential_id": "c"}', CREDENTIAL)
        clock.shift(900)
        for credential in (sealed, endless):
            with pytest.raises(grpc.RpcError) as raised:
                listed(credential)
            assert from_rpc(raised.value).code == 401
        assert len(listed(auth.caller().sealed).accounts) == 2
    server.grpc.stop(None).wait()


# What a form may not do


@given(
    st.dictionaries(
        st.sampled_from(["found", "family", "user", "client", "scopes", "service_key", "seconds", "extra_credentials"]),
        st.text(min_size=1, max_size=20),
        min_size=1,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parameters_cannot_stand_in_for_what_we_find_out(auth: Auth, form: dict[str, str]) -> None:
    auth.store.counters.add = lambda *_: 0  # type: ignore[method-assign]
    keys = {"client_id": "demo-api-key", "client_secret": "demo-secret-key"}
    reply = auth.token("client_credentials", **{**form, **keys})
    assert reply["status"] == 200 and reply["expires_in"] == 3600
    principal = auth.principal(reply["access_token"])
    assert (principal.subject, set(principal.scopes)) == ("demo@example.org", {COMPUTE, CLOUD})


@given(
    st.binary(max_size=300)
    | st.dictionaries(st.text(max_size=20), st.text(max_size=40)).map(lambda d: urlencode(d).encode())
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_brings_the_endpoints_down(auth: Auth, body: bytes) -> None:
    auth.store.counters.add = lambda *_: 0  # type: ignore[method-assign]
    for endpoint in ("Token", "Revoke", "Introspect", "DeviceAuthorization", "TokenInfo"):
        reply = auth.post(endpoint, body.decode("utf-8", "replace"))
        assert reply.status in (200, 400, 401)
        assert isinstance(orjson.loads(reply.body), dict)


# Who somebody is


def test_userinfo_and_tokeninfo(auth: Auth) -> None:
    tokens = auth.login(scope=f"openid email {CLOUD}")
    request = auth_pb2.HttpRequest(
        uri=f"{BASE}/oauth2/v3/userinfo", method="GET", headers={"Authorization": f"Bearer {tokens['access_token']}"}
    )
    found = orjson.loads(auth.oauth.UserInfo(request, None).body)
    assert found["email"] == "demo@example.org" and found["id"] == found["sub"]
    in_query = auth_pb2.HttpRequest(
        uri=f"{BASE}/oauth2/v3/userinfo?access_token={tokens['access_token']}", method="GET"
    )
    reply = auth.oauth.UserInfo(in_query, None)
    assert reply.status == 401 and 'error="invalid_token"' in reply.headers["WWW-Authenticate"]

    def info(query: str) -> auth_pb2.HttpResponse:
        return auth.oauth.TokenInfo(auth_pb2.HttpRequest(uri=f"{BASE}/oauth2/v1/tokeninfo?{query}", method="GET"), None)

    told = orjson.loads(info(f"access_token={tokens['access_token']}").body)
    assert (told["email"], told["audience"], told["user_id"]) == ("demo@example.org", SDK, found["sub"])
    assert 3590 <= told["expires_in"] <= 3600
    assert orjson.loads(info(f"id_token={tokens['id_token']}").body)["aud"] == SDK
    assert info("access_token=unknown").status == info("").status == 400
