"""The APIs beside Compute Engine, as clients ask them: Google's libraries, and paths with every name of a project."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import google.auth.transport.requests
import googleapiclient.discovery
import jwt
import pytest
import requests
from google.auth import exceptions, impersonated_credentials
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials
from googleapiclient.errors import HttpError

from tests.auth import assertion
from tests.clients.conftest import PROJECT, Stack
from tests.clients.test_iam import CLOUD, JWT_BEARER, account, accounts, accounts_of, make_key

__all__ = ["account", "accounts"]

IAN = ("ian-api-key", "ian-secret-key")


def api(stack: Stack, name: str, token: str) -> Any:
    options = {"api_endpoint": f"{stack.url}/{name}/"}
    return googleapiclient.discovery.build(name, "v1", credentials=Credentials(token), client_options=options)


def ask(stack: Stack, path: str, token: str, body: Any = None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{stack.url}/{path}"
    if body is None:
        return requests.get(url, headers=headers, timeout=30)
    return requests.post(url, json=body, headers=headers, timeout=30)


def test_googles_library_reads_projects_services_and_billing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    token = stack.token()
    projects = api(stack, "cloudresourcemanager", token).projects()
    [found] = projects.list(filter="id:demo").execute()["projects"]
    assert (found["projectId"], found["lifecycleState"]) == (PROJECT, "ACTIVE")
    assert projects.get(projectId=PROJECT).execute() == found
    assert found["projectNumber"] == stack.call("GET", "").json()["id"]
    permissions = {"permissions": ["compute.instances.create"]}
    assert projects.testIamPermissions(resource=PROJECT, body=permissions).execute() == permissions
    assert projects.getIamPolicy(resource=PROJECT, body={}).execute()["bindings"][0]["role"] == "roles/owner"

    services = api(stack, "serviceusage", token).services()
    name = f"projects/{PROJECT}/services/compute.googleapis.com"
    assert services.get(name=name).execute()["state"] == "ENABLED"
    done = services.enable(name=name).execute()
    assert done["done"] and done["response"]["@type"].endswith("EnableServiceResponse")
    assert api(stack, "serviceusage", token).operations().get(name=done["name"]).execute()["done"]

    billing = api(stack, "cloudbilling", token).projects().getBillingInfo(name=f"projects/{PROJECT}").execute()
    assert billing["billingEnabled"] is True

    # A 5xx would have been repeated with pauses of 31 s in all.
    monkeypatch.setattr("googleapiclient.http.time.sleep", pytest.fail)
    with pytest.raises(HttpError) as raised:
        api(stack, "oslogin", token).users().getLoginProfile(name="users/me@example.org").execute(num_retries=5)
    assert raised.value.status_code == 400
    error = json.loads(raised.value.content)["error"]
    assert error["status"] == "INVALID_ARGUMENT" and "enable-oslogin" in error["message"]
    with pytest.raises(HttpError) as raised:
        projects.get(projectId="ian-example-org").execute()
    assert json.loads(raised.value.content)["error"]["status"] == "PERMISSION_DENIED"


def test_tokens_and_scopes_are_asked_for(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    _, file = make_key(accounts, account)

    def token(scope: str) -> str:
        form = {"grant_type": JWT_BEARER, "assertion": assertion(file, scope=scope, jti=str(time.time()))}
        return str(requests.post(f"{stack.url}/oauth2/token", form, timeout=30).json()["access_token"])

    reading, compute = token(f"{CLOUD}.read-only"), token("https://www.googleapis.com/auth/compute")
    credentials = f"iamcredentials/v1/projects/-/serviceAccounts/{account['email']}:generateAccessToken"
    for path, body in (
        (f"cloudresourcemanager/v1/projects/{PROJECT}", None),
        (f"cloudresourcemanager/v1/projects/{PROJECT}:getIamPolicy", {}),
        (f"serviceusage/v1/projects/{PROJECT}/services/iam.googleapis.com", None),
        (f"cloudbilling/v1/projects/{PROJECT}/billingInfo", None),
        (credentials, {"scope": [CLOUD]}),
    ):
        unsigned = ask(stack, path, "nobody", body)
        assert (unsigned.status_code, unsigned.json()["error"]["status"]) == (401, "UNAUTHENTICATED"), path
        assert ask(stack, path, compute, body).status_code == 403, path
        assert ask(stack, path, reading, body).status_code == (403 if path == credentials else 200), path
        assert ask(stack, path, token(CLOUD), body).status_code == 200, path


def impersonated(stack: Stack, source: Any, email: str, **options: Any) -> impersonated_credentials.Credentials:
    return impersonated_credentials.Credentials(
        source,
        email,
        [CLOUD],
        iam_endpoint_override=f"{stack.url}/iamcredentials/v1/projects/-/serviceAccounts/{email}:generateAccessToken",
        **options,
    )


def test_googles_library_acts_as_a_service_account(stack: Stack, accounts: Any, account: dict[str, Any]) -> None:
    transport = google.auth.transport.requests.Request()
    default = f"{stack.call('GET', '').json()['defaultServiceAccount']}"
    assert default in [one["email"] for one in accounts.list(name=f"projects/{PROJECT}").execute()["accounts"]]
    _, file = make_key(accounts, account)
    key = service_account.Credentials.from_service_account_info(file, scopes=[CLOUD])
    for source, email in (
        (Credentials(stack.token()), account["email"]),
        (Credentials(stack.token()), default),
        (key, default),
    ):
        found = impersonated(stack, source, email, lifetime=300)
        found.refresh(transport)
        assert stack.call("GET", "/zones", token=found.token).status_code == 200
        assert ask(stack, "oauth2/v3/userinfo", found.token).json()["email"] == email
    with pytest.raises(exceptions.RefreshError, match="may not exist"):
        impersonated(stack, Credentials(stack.token(*IAN)), account["email"]).refresh(transport)

    path = f"iamcredentials/v1/projects/-/serviceAccounts/{default}:generateIdToken"
    text = ask(stack, path, stack.token(), {"audience": "https://x.example.org", "includeEmail": True}).json()["token"]
    known = jwt.PyJWKClient(f"{stack.url}/oauth2/v3/certs").get_signing_key_from_jwt(text)
    claims = jwt.decode(text, known.key, algorithms=["RS256"], audience="https://x.example.org")
    assert (claims["email"], claims["iss"]) == (default, stack.url)


def test_a_project_goes_by_an_id_that_gcloud_takes(stack: Stack) -> None:
    """The account is `ian@example.org`: its slug, its own name and its number work wherever a project is named."""
    token = stack.token(*IAN)
    [found] = ask(stack, "cloudresourcemanager/v1/projects", token).json()["projects"]
    assert (found["projectId"], found["name"]) == ("ian-example-org", "ian@example.org")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", found["projectId"])
    for name in (found["projectId"], "ian@example.org", "ian%40example.org", found["projectNumber"]):
        for path in (
            f"compute/v1/projects/{name}",
            f"compute/v1/projects/{name}/zones",
            f"compute/v1/projects/{name}/aggregated/instances",
            f"v1/projects/{name}/serviceAccounts",
            f"cloudresourcemanager/v1/projects/{name}",
            f"serviceusage/v1/projects/{name}/services",
            f"cloudbilling/v1/projects/{name}/billingInfo",
        ):
            assert ask(stack, path, token).status_code == 200, path
            assert ask(stack, path, stack.token()).status_code in (403, 404), path
    made = accounts_of(stack, token).create(name="projects/ian-example-org", body={"accountId": "robot-9"}).execute()
    assert made["email"] == "robot-9@ian-example-org.iam.gserviceaccount.com"
    accounts_of(stack, token).delete(name=made["name"]).execute()


def test_what_there_is_not_is_refused_at_once(stack: Stack) -> None:
    token = stack.token()
    for path, code in (
        ("cloudresourcemanager/v3/projects/demo", 404),
        ("cloudresourcemanager/v1/liens", 400),
        ("serviceusage/v2beta/projects/demo/services", 404),
        ("iamcredentials/v1/projects/-/serviceAccounts/a@b/allowedLocations", 400),
        ("oslogin/v1beta/users/a@b/loginProfile", 400),
        ("cloudbilling/v1/billingAccounts", 400),
        ("cloudbilling/", 404),
        ("v1/projects/demo/serviceAccounts/a@b:signJwt", 405),
    ):
        reply = ask(stack, path, token)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (code, code), path
        assert error["message"] and error["errors"][0]["reason"], path


@pytest.mark.real
def test_gcloud_itself(stack: Stack, tmp_path: Path) -> None:
    """Where it is installed: nothing but this endpoint is asked."""
    found = subprocess.run(["which", "gcloud"], capture_output=True, text=True, check=False).stdout.strip()
    if not found:
        pytest.skip("gcloud is not installed")
    names = ("cloudresourcemanager", "serviceusage", "oslogin", "iamcredentials", "cloudbilling")
    environment = {
        **stack.environment,
        **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name.upper()}": f"{stack.url}/{name}/" for name in names},
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{stack.url}/compute/v1/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM": f"{stack.url}/",
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_PROJECT": "ian-example-org",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "CLOUDSDK_AUTH_ACCESS_TOKEN": stack.token(*IAN),
        # Whatever is asked elsewhere fails.
        "https_proxy": "http://127.0.0.1:9",
    }

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [found, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    assert run("projects", "list", "--format=value(projectId)").split() == ["ian-example-org"]
    run("services", "enable", "compute.googleapis.com")
    project = ask(stack, "compute/v1/projects/ian-example-org", environment["CLOUDSDK_AUTH_ACCESS_TOKEN"]).json()
    assert "ch-gv2" in run(
        "compute", "zones", "list", f"--impersonate-service-account={project['defaultServiceAccount']}"
    )
    assert "enable-oslogin" in run("compute", "os-login", "describe-profile", code=1)
