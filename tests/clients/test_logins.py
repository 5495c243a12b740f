"""Every way to a token, each with the unchanged library that uses it, against running processes."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import google.auth.transport.requests
import googleapiclient.discovery
import httplib2
import pytest
import requests
from google.auth import external_account_authorized_user, identity_pool
from google.cloud import compute_v1
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account
from libcloud.compute.drivers.gce import GCENodeDriver
from oauth2client import client as oauth2client
from oauth2client.service_account import ServiceAccountCredentials
from requests_oauthlib import OAuth2Session

from tests.auth import assertion
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack
from tests.clients.people import Person
from tests.waits import LONG, until

SDK = "32555940559.apps.googleusercontent.com"
FILES = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
OOB = "urn:ietf:wg:oauth:2.0:oob"
LOOPBACK = "http://localhost:8085/"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
COMPUTE = "https://www.googleapis.com/auth/compute"


def works(stack: Stack, token: str) -> bool:
    return stack.call("GET", "/zones", token=token).status_code == 200


def zones(found: Any) -> list[str]:
    return [zone.name for zone in found]


@pytest.fixture(scope="module")
def key(stack: Stack) -> dict[str, Any]:
    """A service account key, made by IAM's REST API with its client library."""
    iam = googleapiclient.discovery.build(
        "iam", "v1", credentials=user_credentials.Credentials(stack.token()), client_options={"api_endpoint": stack.url}
    )
    accounts = iam.projects().serviceAccounts()
    body = {"accountId": "logins", "serviceAccount": {"displayName": "Logins"}}
    account = accounts.create(name=f"projects/{PROJECT}", body=body).execute()
    made = accounts.keys().create(name=account["name"], body={}).execute()
    found: dict[str, Any] = json.loads(base64.b64decode(made["privateKeyData"]))
    return found


# google-auth


def test_google_auth_service_account_file_signs_for_itself(stack: Stack, key: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(key))
    found = service_account.Credentials.from_service_account_file(str(file))
    client = compute_v1.ZonesClient(credentials=found, client_options={"api_endpoint": stack.url})
    assert zones(client.list(project=PROJECT)) == ["ch-gv2", "ch-zh-1"]


def test_google_auth_service_account_asks_for_a_token(stack: Stack, key: dict[str, Any]) -> None:
    found = service_account.Credentials.from_service_account_info(key, scopes=[COMPUTE])
    session = google.auth.transport.requests.AuthorizedSession(found)
    assert session.get(f"{stack.api}/zones").status_code == 200
    assert found.token.count(".") == 0
    compute = googleapiclient.discovery.build(
        "compute", "v1", credentials=found, client_options={"api_endpoint": f"{stack.url}/compute/v1/"}
    )
    assert compute.zones().list(project=PROJECT).execute()["items"]


def test_google_auth_authorized_user(stack: Stack) -> None:
    login = OAuth2Session(FILES, redirect_uri=LOOPBACK, scope=[CLOUD], pkce="S256")
    address, _ = login.authorization_url(f"{stack.url}/oauth2/auth")
    answer = Person(stack).agree(address)
    token = login.fetch_token(
        f"{stack.url}/oauth2/token", authorization_response=answer.headers["Location"], include_client_id=True
    )
    for _ in range(3):  # as processes that read one file and never write it back
        found = user_credentials.Credentials(
            None,
            refresh_token=token["refresh_token"],
            token_uri=f"{stack.url}/oauth2/token",
            client_id=FILES,
            client_secret="published",
        )
        found.refresh(google.auth.transport.requests.Request())
        assert works(stack, found.token)


def test_google_auth_external_account_authorized_user(stack: Stack, tmp_path: Path) -> None:
    """The file that `gcloud auth login --login-config` writes: HTTP Basic, own token_url and token_info_url."""
    query = {"response_type": "code", "client_id": SDK, "redirect_uri": OOB, "scope": f"openid {CLOUD}"}
    code = Person(stack).code(f"/oauth2/auth?{urlencode(query)}")
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": OOB}
    token = requests.post(f"{stack.url}/v1/token", form, auth=(SDK, "published"), timeout=30).json()
    file = tmp_path / "user.json"
    content = {
        "type": "external_account_authorized_user",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/cloud/providers/cloud",
        "refresh_token": token["refresh_token"],
        "token_url": f"{stack.url}/v1/token",
        "token_info_url": f"{stack.url}/v1/introspect",
        "client_id": SDK,
        "client_secret": "published",
    }
    file.write_text(json.dumps(content))
    found = external_account_authorized_user.Credentials.from_file(str(file))
    for _ in range(2):  # rotated: the second one uses what the first one got
        found.refresh(google.auth.transport.requests.Request())
        assert works(stack, found.token)
    told = requests.post(content["token_info_url"], {"token": found.token}, auth=(SDK, "published"), timeout=30)
    assert told.json()["username"] == "demo@example.org"


def test_google_auth_external_account(stack: Stack, key: dict[str, Any], tmp_path: Path) -> None:
    subject = tmp_path / "jwt"
    subject.write_text(assertion(key, aud=f"{stack.url}/oauth2/token", scope=None))
    file = tmp_path / "external.json"
    content = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{stack.url}/v1/token",
        "credential_source": {"file": str(subject)},
    }
    file.write_text(json.dumps(content))
    found = identity_pool.Credentials.from_file(str(file), scopes=[COMPUTE])
    found.refresh(google.auth.transport.requests.Request())
    assert works(stack, found.token)


# oauth2client 4.1.3


def flow(stack: Stack, **more: Any) -> Any:
    return oauth2client.OAuth2WebServerFlow(
        client_id=SDK,
        client_secret="published",
        scope=[COMPUTE, "https://www.googleapis.com/auth/userinfo.email"],
        auth_uri=f"{stack.url}/o/oauth2/auth",
        token_uri=f"{stack.url}/o/oauth2/token",
        revoke_uri=f"{stack.url}/o/oauth2/revoke",
        device_uri=f"{stack.url}/o/oauth2/device/code",
        token_info_uri=f"{stack.url}/oauth2/v3/tokeninfo",
        **more,
    )


def test_oauth2client_out_of_band(stack: Stack) -> None:
    login = flow(stack, redirect_uri=OOB)
    found = login.step2_exchange(Person(stack).code(login.step1_get_authorize_url()))
    assert found.id_token["email"] == "demo@example.org"
    assert works(stack, found.access_token)
    first = found.refresh_token
    found.refresh(httplib2.Http())
    assert found.refresh_token != first
    assert works(stack, found.access_token)
    assert set(found.retrieve_scopes(httplib2.Http())) >= {COMPUTE}
    found.revoke(httplib2.Http())
    with pytest.raises(oauth2client.HttpAccessTokenRefreshError):
        found.refresh(httplib2.Http())


def test_oauth2client_device(stack: Stack) -> None:
    login = flow(stack, pkce=False)
    device = login.step1_get_device_and_user_codes()
    assert device.verification_url == f"{stack.url}/device"
    with pytest.raises(oauth2client.FlowExchangeError):
        login.step2_exchange(device_flow_info=device)
    person = Person(stack)
    consent = person.submit(person.visit("/device"), "/device", user_code=device.user_code)
    assert person.submit(consent, "/oauth2/consent", decision="allow").status_code == 200
    time.sleep(device.interval)
    assert works(stack, login.step2_exchange(device_flow_info=device).access_token)


def test_oauth2client_service_account(stack: Stack, key: dict[str, Any]) -> None:
    found = ServiceAccountCredentials.from_json_keyfile_dict(key, [COMPUTE])
    found.refresh(httplib2.Http())
    assert works(stack, found.access_token)


# requests-oauthlib


@pytest.mark.parametrize("redirect", ["http://localhost:1/", "http://127.0.0.1:60000/path", "http://[::1]:8085/"])
def test_requests_oauthlib_code_with_pkce(stack: Stack, redirect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    login = OAuth2Session(FILES, redirect_uri=redirect, scope=["openid", CLOUD], pkce="S256")
    address, state = login.authorization_url(f"{stack.url}/oauth2/auth", access_type="offline")
    answer = Person(stack).agree(address)
    assert answer.status_code == 303
    location = answer.headers["Location"]
    found = {name: value[0] for name, value in parse_qs(urlsplit(location).query).items()}
    assert location.startswith(redirect) and found["state"] == state and found["iss"] == stack.url
    token = login.fetch_token(
        f"{stack.url}/oauth2/token", authorization_response=location, include_client_id=True, client_secret="published"
    )
    assert token["id_token"].count(".") == 2
    assert login.get(f"{stack.api}/zones").status_code == 200


def test_requests_oauthlib_learns_that_it_was_denied(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    login = OAuth2Session(FILES, redirect_uri=LOOPBACK, scope=[CLOUD], pkce="S256")
    address, _ = login.authorization_url(f"{stack.url}/oauth2/auth")
    answer = Person(stack).agree(address, decision="deny")
    with pytest.raises(Exception, match="access_denied"):
        login.fetch_token(f"{stack.url}/oauth2/token", authorization_response=answer.headers["Location"])


# libcloud


def test_libcloud_service_account_file(stack: Stack, key: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(key))
    driver = GCENodeDriver(
        key["client_email"],
        str(file),
        project=PROJECT,
        credential_file=str(tmp_path / "token"),
        secure=False,
        proxy_url=stack.url,
    )
    assert zones(driver.ex_list_zones()) == ["ch-gv2", "ch-zh-1"]


def test_libcloud_installed_application(stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's own keys are client id and secret; the code comes to libcloud's own little server."""
    made: list[Any] = []

    def connect() -> None:
        made.append(
            GCENodeDriver(
                API_KEY,
                SECRET_KEY,
                project=PROJECT,
                auth_type="IA",
                credential_file=str(tmp_path / "token"),
                secure=False,
                proxy_url=stack.url,
            )
        )

    thread = threading.Thread(target=connect)
    thread.start()

    def asked() -> str:
        return next((line for line in capsys.readouterr().out.splitlines() if line.startswith("https://")), "")

    answer = Person(stack).agree(until(asked))
    assert requests.get(answer.headers["Location"], timeout=LONG).status_code == 200
    thread.join(LONG)
    assert zones(made[0].ex_list_zones()) == ["ch-gv2", "ch-zh-1"]
    stored = json.loads((tmp_path / "token").read_text())
    assert stored["refresh_token"]


# gcutil and gcloud, request by request (facts of their sources: gcutil 1.16.1, gcloud 512)


def test_gcutil_login(stack: Stack) -> None:
    """`gcutil auth`: ten scopes, no state, no PKCE, the code typed in; later a refresh after a 401; `whoami`."""
    names = "appengine.admin bigquery compute devstorage.full_control userinfo.email ndev.cloudman cloud-platform"
    scopes = " ".join(f"https://www.googleapis.com/auth/{name}" for name in names.split())
    query = {
        "scope": scopes,
        "redirect_uri": OOB,
        "response_type": "code",
        "client_id": SDK,
        "access_type": "offline",
    }
    code = Person(stack).code(f"/oauth2/auth?{urlencode(query)}")
    form = {"code": code, "redirect_uri": OOB, "client_id": SDK, "client_secret": "published", "scope": scopes}
    reply = requests.post(f"{stack.url}/oauth2/token", {"grant_type": "authorization_code", **form}, timeout=30).json()
    assert works(stack, reply["access_token"])
    assert reply["id_token"].count(".") == 2
    form = {"client_id": SDK, "client_secret": "published", "refresh_token": reply["refresh_token"]}
    again = requests.post(f"{stack.url}/oauth2/token", {"grant_type": "refresh_token", **form}, timeout=30).json()
    assert works(stack, again["access_token"])
    me = requests.get(
        f"{stack.url}/userinfo/v2/me", headers={"Authorization": f"Bearer {again['access_token']}"}, timeout=30
    )
    assert me.json()["email"] == "demo@example.org"


@pytest.mark.parametrize("redirect", ["http://localhost:8085/", "https://sdk.cloud.google.com/authcode.html"])
def test_gcloud_login(stack: Stack, redirect: str) -> None:
    """`gcloud auth login`, in a browser here or on another machine."""
    from tests.auth import CHALLENGE, VERIFIER

    scopes = ["openid", *(f"https://www.googleapis.com/auth/{name}" for name in ("userinfo.email", "cloud-platform"))]
    query = {
        "response_type": "code",
        "client_id": SDK,
        "redirect_uri": redirect,
        "scope": " ".join(scopes),
        "state": "A1b2",
        "access_type": "offline",
        "prompt": "consent",
        "token_usage": "remote",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    address = f"/o/oauth2/auth?{urlencode(query)}"
    if redirect.startswith("http://"):
        answer = Person(stack).agree(address)
        code = parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]
    else:
        code = Person(stack).code(address)
    form = {
        "grant_type": "authorization_code",
        "client_id": SDK,
        "client_secret": "published",
        "code": code,
        "redirect_uri": redirect,
        "code_verifier": VERIFIER,
    }
    reply = requests.post(f"{stack.url}/token", form, timeout=30).json()
    assert reply["id_token"].count(".") == 2 and reply["expires_in"] == 3600
    assert set(scopes) <= set(reply["scope"].split())
    assert works(stack, reply["access_token"])


def test_gcloud_activate_service_account(stack: Stack, key: dict[str, Any]) -> None:
    """Two requests: one for an ID token of gcloud's own audience, one for scopes."""
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}
    named = {**form, "assertion": assertion(key, scope=None, target_audience=SDK)}
    assert requests.post(key["token_uri"], named, timeout=30).json()["id_token"]
    reply = requests.post(key["token_uri"], {**form, "assertion": assertion(key, scope=CLOUD)}, timeout=30).json()
    assert works(stack, reply["access_token"])
