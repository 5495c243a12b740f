"""Sign-in as clients do it, against running processes: keys, the login page, codes, refresh."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sqlite3
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

from tests.clients.conftest import API_KEY, SECRET_KEY, Stack

GCUTIL = "32555940559.apps.googleusercontent.com"
OTHER_TOOL = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
OOB = "urn:ietf:wg:oauth:2.0:oob"
SCOPE = "https://www.googleapis.com/auth/compute"
LOOPBACK = "http://localhost:8085/"


def token(stack: Stack, path: str = "/oauth2/token", **form: str) -> requests.Response:
    return requests.post(stack.url + path, form, timeout=30)


def sign_in(stack: Stack, query: dict[str, str], **typed: str) -> requests.Response:
    """Open the login page, fill it in, and return the answer to the form."""
    browser = requests.Session()
    page = browser.get(f"{stack.url}/oauth2/auth?{urlencode(query)}", timeout=30)
    assert page.status_code == 200, page.text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    form = {name: html.unescape(value) for name, value in hidden.items()} | typed
    return browser.post(f"{stack.url}/oauth2/login", form, timeout=30, allow_redirects=False)


def pkce() -> tuple[str, str]:
    verifier = "v" * 64
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, challenge


def code_request(**more: str) -> dict[str, str]:
    query = {"response_type": "code", "client_id": GCUTIL, "redirect_uri": OOB, "scope": SCOPE}
    return query | more


def works(stack: Stack, access_token: str) -> bool:
    return stack.call("GET", "/zones", token=access_token).status_code == 200


@pytest.mark.parametrize("path", ["/oauth2/token", "/token", "/o/oauth2/token", "/oauth2/v4/token"])
def test_keys_as_client_credentials(stack: Stack, path: str) -> None:
    reply = token(stack, path, grant_type="client_credentials", client_id=API_KEY, client_secret=SECRET_KEY)
    assert reply.status_code == 200
    assert reply.json()["expires_in"] == 3600
    assert reply.json()["token_type"] == "Bearer"
    assert "refresh_token" not in reply.json()
    assert reply.headers["Cache-Control"] == "no-store"
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
def test_wrong_keys_are_refused_in_the_same_words(stack: Stack, client_id: str, secret: str) -> None:
    reply = token(stack, grant_type="client_credentials", client_id=client_id, client_secret=secret)
    assert reply.status_code == 401
    assert reply.json()["error"] == "invalid_client"
    assert SECRET_KEY not in reply.text


def test_other_grants_are_not_offered(stack: Stack) -> None:
    form = {"client_id": API_KEY, "client_secret": SECRET_KEY, "username": "demo", "password": "demo"}
    assert token(stack, grant_type="password", **form).json()["error"] == "unsupported_grant_type"
    implicit = requests.get(
        f"{stack.url}/oauth2/auth?{urlencode(code_request(response_type='token'))}", timeout=30, allow_redirects=False
    )
    assert implicit.status_code in (303, 400)
    assert "access_token" not in implicit.headers.get("Location", "") + implicit.text


def test_out_of_band_code_with_name_and_password(stack: Stack) -> None:
    answer = sign_in(stack, code_request(), username="demo", password="demo")
    assert answer.status_code == 200, answer.text
    match = re.search(r'<output id="code" class="code">([^<]+)</output>', answer.text)
    assert match
    form = {"code": match[1], "redirect_uri": OOB, "client_id": GCUTIL, "client_secret": "published", "scope": SCOPE}
    first = token(stack, grant_type="authorization_code", **form)
    assert first.status_code == 200, first.text
    found = first.json()
    assert works(stack, found["access_token"])

    refreshed = token(
        stack, grant_type="refresh_token", refresh_token=found["refresh_token"], client_id=GCUTIL, client_secret="x"
    )
    assert refreshed.status_code == 200, refreshed.text
    assert works(stack, refreshed.json()["access_token"])

    # The second use of a code is refused and ends what the first one got.
    assert token(stack, grant_type="authorization_code", **form).json()["error"] == "invalid_grant"
    again = token(stack, grant_type="refresh_token", refresh_token=found["refresh_token"], client_id=GCUTIL)
    assert again.json()["error"] == "invalid_grant"


def test_loopback_with_pkce_and_api_keys(stack: Stack) -> None:
    _, challenge = pkce()
    query = code_request(
        client_id=OTHER_TOOL,
        redirect_uri=LOOPBACK,
        state="s t/a",
        code_challenge=challenge,
        code_challenge_method="S256",
    )
    answer = sign_in(stack, query, api_key=API_KEY, secret_key=SECRET_KEY)
    assert answer.status_code == 303, answer.text
    assert answer.headers["Location"].startswith(LOOPBACK)
    found = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert found["state"] == ["s t/a"]
    form = {"code": found["code"][0], "redirect_uri": LOOPBACK, "client_id": OTHER_TOOL}
    wrong = token(stack, grant_type="authorization_code", code_verifier="w" * 64, **form)
    assert wrong.json()["error"] == "invalid_grant"


def test_pkce_code_is_exchanged_with_its_verifier(stack: Stack) -> None:
    verifier, challenge = pkce()
    query = code_request(
        client_id=OTHER_TOOL, redirect_uri=LOOPBACK, code_challenge=challenge, code_challenge_method="S256"
    )
    location = sign_in(stack, query, username="demo", password="demo").headers["Location"]
    code = parse_qs(urlsplit(location).query)["code"][0]
    form = {"code": code, "redirect_uri": LOOPBACK, "client_id": OTHER_TOOL, "code_verifier": verifier}
    reply = token(stack, grant_type="authorization_code", **form)
    assert reply.status_code == 200, reply.text
    assert works(stack, reply.json()["access_token"])


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": "http://localhost.evil.example/"},
        {"redirect_uri": "http://user@localhost/"},
        {"redirect_uri": "javascript:alert(1)"},
    ],
)
def test_redirects_elsewhere_are_shown_to_the_person_only(stack: Stack, change: dict[str, str]) -> None:
    reply = requests.get(
        f"{stack.url}/oauth2/auth?{urlencode(code_request(**change))}", timeout=30, allow_redirects=False
    )
    assert reply.status_code == 400
    assert "Location" not in reply.headers


def test_public_client_without_pkce_or_with_plain_is_refused(stack: Stack) -> None:
    for more in ({}, {"code_challenge": "c" * 43, "code_challenge_method": "plain"}):
        query = code_request(client_id=OTHER_TOOL, redirect_uri=LOOPBACK, **more)
        reply = requests.get(f"{stack.url}/oauth2/auth?{urlencode(query)}", timeout=30, allow_redirects=False)
        assert reply.status_code in (303, 400)
        assert "ticket" not in reply.text


def test_wrong_password_shows_the_form_again(stack: Stack) -> None:
    answer = sign_in(stack, code_request(), username="demo", password="wrong-password")
    assert answer.status_code == 401
    assert "is wrong" in answer.text
    assert "wrong-password" not in answer.text


def test_login_form_of_another_site_is_refused(stack: Stack) -> None:
    form = {"username": "demo", "password": "demo", "ticket": "00", "csrf": "guess"}
    assert requests.post(f"{stack.url}/oauth2/login", form, timeout=30).status_code == 403


def test_revoked_token_stops_working(stack: Stack) -> None:
    code_page = sign_in(stack, code_request(), username="demo", password="demo").text
    match = re.search(r'class="code">([^<]+)</output>', code_page)
    assert match
    form = {"code": match[1], "redirect_uri": OOB, "client_id": GCUTIL}
    found = token(stack, grant_type="authorization_code", **form).json()
    reply = token(stack, "/oauth2/revoke", token=found["access_token"], client_id=GCUTIL)
    assert reply.status_code == 200
    # This gateway has not seen the token yet, so no cache answers for it.
    assert stack.call("GET", "/zones", token=found["access_token"]).status_code == 401


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ({}, 'Bearer realm="https://accounts.google.com/"'),
        ({"Authorization": "Bearer nonsense"}, 'Bearer realm="https://accounts.google.com/", error="invalid_token"'),
        ({"Authorization": "Basic abc"}, 'Bearer realm="https://accounts.google.com/", error="invalid_token"'),
    ],
)
def test_without_a_valid_token(stack: Stack, header: dict[str, str], challenge: str) -> None:
    reply = requests.get(stack.api + "/zones", headers=header, timeout=30)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == challenge
    assert reply.json()["error"]["code"] == 401


def test_token_in_the_query_is_not_accepted(stack: Stack) -> None:
    reply = requests.get(f"{stack.api}/zones?access_token={stack.token()}", timeout=30)
    assert reply.status_code == 401


def test_read_only_scope_cannot_change_anything(stack: Stack) -> None:
    form: dict[str, Any] = {"client_id": API_KEY, "client_secret": SECRET_KEY}
    scope = "https://www.googleapis.com/auth/compute.readonly"
    found = token(stack, grant_type="client_credentials", scope=scope, **form).json()["access_token"]
    assert works(stack, found)
    reply = stack.call("POST", "/global/firewalls", {"name": "x", "allowed": [{"IPProtocol": "tcp"}]}, token=found)
    assert reply.status_code == 403
    assert reply.json()["error"]["errors"][0]["reason"] == "insufficientPermissions"


def test_secrets_are_neither_stored_nor_logged_in_clear(stack: Stack) -> None:
    access = stack.token()
    assert works(stack, access)
    files = [path for path in stack.folder.iterdir() if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for secret in (SECRET_KEY, access):
            assert secret.encode() not in content, f"{secret[:8]}... in {path.name}"
    with sqlite3.connect(stack.folder / "auth.sqlite") as database:
        assert database.execute("select count(*) from tokens").fetchone()[0] > 0
