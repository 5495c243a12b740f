"""Service accounts by IAM's REST API, with Google's client library and by hand, against running processes."""

from __future__ import annotations

import base64
import datetime
import json
import time
from collections.abc import Iterator
from typing import Any

import googleapiclient.discovery
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from google.oauth2.credentials import Credentials
from googleapiclient.errors import HttpError

from tests.auth import assertion
from tests.clients.conftest import PROJECT, Stack

CLOUD = "https://www.googleapis.com/auth/cloud-platform"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def accounts_of(stack: Stack, token: str) -> Any:
    built = googleapiclient.discovery.build(
        "iam", "v1", credentials=Credentials(token), client_options={"api_endpoint": stack.url}
    )
    return built.projects().serviceAccounts()


@pytest.fixture
def accounts(stack: Stack) -> Any:
    return accounts_of(stack, stack.token())


@pytest.fixture
def account(accounts: Any) -> Iterator[dict[str, Any]]:
    body = {"accountId": "robot-1", "serviceAccount": {"displayName": "Robot", "description": "Does things"}}
    made = accounts.create(name=f"projects/{PROJECT}", body=body).execute()
    yield made
    for one in accounts.list(name=f"projects/{PROJECT}").execute().get("accounts", []):
        if one["name"] == made["name"]:
            accounts.delete(name=made["name"]).execute()


def make_key(accounts: Any, account: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer, and the key file in it."""
    made = accounts.keys().create(name=account["name"], body={"keyAlgorithm": "KEY_ALG_RSA_2048"}).execute()
    return made, json.loads(base64.b64decode(made["privateKeyData"]))


def ask(stack: Stack, key: dict[str, Any], **claims: Any) -> dict[str, Any]:
    form = {
        "grant_type": JWT_BEARER,
        "assertion": assertion(key, **{"scope": CLOUD, "jti": str(time.time()), **claims}),
    }
    found: dict[str, Any] = requests.post(f"{stack.url}/oauth2/token", form, timeout=30).json()
    return found


def refused(call: Any, code: int, words: str) -> None:
    with pytest.raises(HttpError) as raised:
        call.execute()
    error = json.loads(raised.value.content)["error"]
    assert (error["code"], words in error["message"]) == (code, True), error
    assert error["status"] in ("NOT_FOUND", "INVALID_ARGUMENT", "ALREADY_EXISTS", "PERMISSION_DENIED", "INTERNAL")


def test_life_of_a_service_account(accounts: Any, account: dict[str, Any]) -> None:
    email = f"robot-1@{PROJECT}.iam.gserviceaccount.com"
    assert account["name"] == f"projects/{PROJECT}/serviceAccounts/{email}"
    assert (account["email"], account["projectId"], account["displayName"]) == (email, PROJECT, "Robot")
    assert len(account["uniqueId"]) == 21 and account["oauth2ClientId"] == account["uniqueId"]
    for name in (
        account["name"],
        f"projects/-/serviceAccounts/{email}",
        f"projects/-/serviceAccounts/{account['uniqueId']}",
    ):
        assert accounts.get(name=name).execute() == account
    assert email in [one["email"] for one in accounts.list(name=f"projects/{PROJECT}").execute()["accounts"]]

    body = {"serviceAccount": {"displayName": "Other"}, "updateMask": "displayName"}
    changed = accounts.patch(name=account["name"], body=body).execute()
    assert (changed["displayName"], changed["description"]) == ("Other", "Does things")
    assert changed["etag"] != account["etag"]
    stale = {"serviceAccount": {"displayName": "X", "etag": account["etag"]}, "updateMask": "displayName"}
    refused(accounts.patch(name=account["name"], body=stale), 409, "concurrent")

    accounts.disable(name=account["name"], body={}).execute()
    assert accounts.get(name=account["name"]).execute()["disabled"] is True
    accounts.enable(name=account["name"], body={}).execute()
    assert "disabled" not in accounts.get(name=account["name"]).execute()
    accounts.delete(name=account["name"]).execute()
    refused(accounts.get(name=account["name"]), 404, "Unknown service account")


def test_life_of_a_key(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    made, file = make_key(accounts, account)
    assert file["client_email"] == account["email"] and made["name"].endswith(file["private_key_id"])
    assert file["token_uri"] == f"{stack.url}/oauth2/token"
    assert (made["keyOrigin"], made["keyType"]) == ("GOOGLE_PROVIDED", "USER_MANAGED")
    token = ask(stack, file)["access_token"]
    assert stack.call("GET", "/zones", token=token).status_code == 200

    keys = accounts.keys()
    shown = keys.get(name=made["name"], publicKeyType="TYPE_X509_PEM_FILE").execute()
    assert "privateKeyData" not in shown
    certificate = x509.load_pem_x509_certificate(base64.b64decode(shown["publicKeyData"]))
    raw = keys.get(name=made["name"], publicKeyType="TYPE_RAW_PUBLIC_KEY").execute()
    pem = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64decode(raw["publicKeyData"]) == pem
    assert [key["name"] for key in keys.list(name=account["name"]).execute()["keys"]] == [made["name"]]
    assert keys.list(name=account["name"], keyTypes=["SYSTEM_MANAGED"]).execute() == {}

    keys.disable(name=made["name"], body={}).execute()
    assert ask(stack, file)["error"] == "invalid_grant"
    keys.enable(name=made["name"], body={}).execute()
    assert "access_token" in ask(stack, file)
    keys.delete(name=made["name"]).execute()
    assert ask(stack, file)["error"] == "invalid_grant"
    refused(keys.get(name=made["name"]), 404, "does not exist")


def certificate_of(key: Any, days: int) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - datetime.timedelta(days=2)).not_valid_after(
        now + datetime.timedelta(days=days)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_key_made_elsewhere(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    body = {"publicKeyData": base64.b64encode(certificate_of(pair, 3)).decode()}
    made = accounts.keys().upload(name=account["name"], body=body).execute()
    assert made["keyOrigin"] == "USER_PROVIDED" and "privateKeyData" not in made
    ends = datetime.datetime.fromisoformat(made["validBeforeTime"])
    assert 2 <= (ends - datetime.datetime.now(datetime.UTC)).days <= 3
    private = pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = {"client_email": account["email"], "private_key": private, "private_key_id": made["name"].rpartition("/")[2]}
    assert "access_token" in ask(stack, file)


@pytest.mark.parametrize("kind", ["text", "curve", "small", "expired"])
def test_keys_that_are_refused(accounts: Any, account: dict[str, Any], kind: str) -> None:
    data = {
        "text": lambda: b"no key",
        "curve": lambda: certificate_of(ec.generate_private_key(ec.SECP256R1()), 3),
        "small": lambda: certificate_of(rsa.generate_private_key(public_exponent=65537, key_size=1024), 3),
        "expired": lambda: certificate_of(rsa.generate_private_key(public_exponent=65537, key_size=2048), -1),
    }[kind]()
    body = {"publicKeyData": base64.b64encode(data).decode()}
    refused(accounts.keys().upload(name=account["name"], body=body), 400, "publicKeyData")


@pytest.mark.parametrize("name", ["", "short", "Robot-1", "1robot", "robot-", "r" * 31, "ro bot", "röbot-1"])
def test_names_that_are_refused(accounts: Any, name: str) -> None:
    refused(accounts.create(name=f"projects/{PROJECT}", body={"accountId": name}), 400, "accountId")


def test_bad_input_names_the_field(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    again = {"accountId": "robot-1"}
    refused(accounts.create(name=f"projects/{PROJECT}", body=again), 409, "already exists")
    long = {"accountId": "robot-2", "serviceAccount": {"displayName": "x" * 101}}
    refused(accounts.create(name=f"projects/{PROJECT}", body=long), 400, "serviceAccount.displayName")
    refused(accounts.patch(name=account["name"], body={"serviceAccount": {}}), 400, "updateMask")
    body = {"serviceAccount": {"email": "x"}, "updateMask": "email"}
    refused(accounts.patch(name=account["name"], body=body), 400, "updateMask")
    refused(accounts.list(name=f"projects/{PROJECT}", pageSize=101), 400, "pageSize")
    keys = f"{stack.url}/v1/{account['name']}/keys"
    header = {"Authorization": f"Bearer {stack.token()}"}
    for body, field in (({"keyAlgorithm": "KEY_ALG_RSA_1024"}, "keyAlgorithm"), ({"nope": 1}, "nope")):
        reply = requests.post(keys, json=body, headers=header, timeout=30)
        assert reply.status_code == 400 and field in reply.json()["error"]["message"]


def test_pages(stack: Stack, accounts: Any) -> None:
    names = [f"paged-{number}" for number in range(5)]
    made = [accounts.create(name=f"projects/{PROJECT}", body={"accountId": name}).execute()["name"] for name in names]
    found: list[str] = []
    request = accounts.list(name=f"projects/{PROJECT}", pageSize=2)
    while request is not None:
        reply = request.execute()
        assert len(reply["accounts"]) <= 2
        found += [one["name"] for one in reply["accounts"]]
        request = accounts.list_next(request, reply)
    assert found == sorted(found) and set(made) <= set(found)
    for name in made:
        accounts.delete(name=name).execute()


def test_c1_a_body_is_a_few_kilobytes(stack: Stack) -> None:
    url = f"{stack.url}/v1/projects/{PROJECT}/serviceAccounts"
    reply = stack.call("POST", url, {"accountId": "robot-1", "serviceAccount": {"description": "x" * 100_000}})
    assert reply.status_code == 413 and reply.json()["error"]["code"] == 413


# Whose they are


def test_f1_nobody_else_sees_a_service_account(stack: Stack, account: dict[str, Any]) -> None:
    other = accounts_of(stack, stack.token("ian-api-key", "ian-secret-key"))
    email = account["email"]
    for name in (
        account["name"],
        f"projects/-/serviceAccounts/{email}",
        f"projects/ian@example.org/serviceAccounts/{email}",
    ):
        for call in (
            other.get(name=name),
            other.delete(name=name),
            other.keys().create(name=name, body={}),
            other.keys().list(name=name),
        ):
            refused(call, 404, "")
    refused(other.list(name=f"projects/{PROJECT}"), 404, "")
    refused(other.create(name=f"projects/{PROJECT}", body={"accountId": "intruder"}), 404, "")


def test_f1_an_account_of_the_same_name_elsewhere_is_another_one(stack: Stack, account: dict[str, Any]) -> None:
    other = accounts_of(stack, stack.token("ian-api-key", "ian-secret-key"))
    made = other.create(name="projects/ian@example.org", body={"accountId": "robot-1"}).execute()
    assert made["email"] == "robot-1@ian-example-org.iam.gserviceaccount.com"
    _, file = make_key(other, made)
    token = ask(stack, file)["access_token"]
    assert stack.call("GET", "/zones", token=token).status_code == 404
    other.delete(name=made["name"]).execute()


def test_a_key_works_in_its_own_project_only(stack: Stack, accounts: Any) -> None:
    shop = accounts.create(name="projects/webshop", body={"accountId": "shop-1"}).execute()
    _, file = make_key(accounts, shop)
    token = ask(stack, file)["access_token"]
    root = f"{stack.url}/compute/v1/projects"
    assert stack.call("GET", f"{root}/webshop/zones", token=token).status_code == 200
    assert stack.call("GET", f"{root}/{PROJECT}/zones", token=token).status_code == 404
    # Neither does it make itself a key for another project.
    limited = accounts_of(stack, token)
    refused(limited.create(name=f"projects/{PROJECT}", body={"accountId": "escape-1"}), 404, "")
    assert limited.get(name=shop["name"]).execute()["email"] == shop["email"]
    accounts.delete(name=shop["name"]).execute()


def test_a_key_made_with_a_key_is_limited_as_well(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    _, file = make_key(accounts, account)
    own = accounts_of(stack, ask(stack, file)["access_token"])
    _, second = make_key(own, account)
    token = ask(stack, second)["access_token"]
    assert stack.call("GET", f"{stack.url}/compute/v1/projects/webshop/zones", token=token).status_code == 404
    # A deleted parent does not matter to it, a deleted account does.
    accounts.delete(name=account["name"]).execute()
    assert ask(stack, second)["error"] == "invalid_grant"


@pytest.mark.parametrize("scope", ["compute", "compute.readonly", "cloud-platform.read-only"])
def test_a13_other_scopes_make_no_keys(stack: Stack, account: dict[str, Any], scope: str) -> None:
    form = {
        "grant_type": "client_credentials",
        "client_id": "demo-api-key",
        "client_secret": "demo-secret-key",
        "scope": f"https://www.googleapis.com/auth/{scope}",
    }
    token = requests.post(f"{stack.url}/oauth2/token", form, timeout=30).json()["access_token"]
    other = accounts_of(stack, token)
    refused(other.keys().create(name=account["name"], body={}), 403, "scopes")
    if scope == "cloud-platform.read-only":
        assert other.get(name=account["name"]).execute() == account
