"""`gstack client TOOL`: writes a client's own configuration files, with this endpoint and these keys."""

from __future__ import annotations

import json
import os
from pathlib import Path

# gcutil finds its credential by these constants of its source; what the credential holds is ours.
_GCUTIL_CLIENT = "32555940559.apps.googleusercontent.com"
_GCUTIL_AGENT = "Cloud SDK Command Line Tool"
_GCUTIL_SCOPES = (
    "appengine.admin", "bigquery", "compute", "devstorage.full_control", "userinfo.email", "ndev.cloudman",
    "cloud-platform", "sqlservice.admin", "prediction", "projecthosting",
)  # fmt: skip


_ACCOUNT = "keys@gstack.local"


def write(tool: str, endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    """Write the files (mode 0600 where they hold keys) and return what to do next."""
    makers = {
        "gcutil": _gcutil,
        "gcloud": _gcloud,
        "python": _python,
        "libcloud": _libcloud,
        "terraform": _terraform,
    }
    return makers[tool](endpoint, project, api_key, secret_key, directory)


def _save(path: Path, text: str, executable: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700 if executable else 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    path.chmod(0o700 if executable else 0o600)
    return path


def _gcutil(endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    folder = directory or Path.home()
    scopes = " ".join(f"https://www.googleapis.com/auth/{scope}" for scope in _GCUTIL_SCOPES)
    credential = {
        "_module": "oauth2client.client",
        "_class": "OAuth2Credentials",
        "access_token": None,
        "client_id": api_key,
        "client_secret": secret_key,
        "refresh_token": "keys",
        "token_expiry": None,
        "token_uri": f"{endpoint}/oauth2/token",
        "user_agent": _GCUTIL_AGENT,
        "invalid": False,
        "id_token": None,
    }
    key = {"clientId": _GCUTIL_CLIENT, "userAgent": _GCUTIL_AGENT, "scope": scopes}
    store = {"file_version": 1, "data": [{"key": key, "credential": credential}]}
    auth = _save(folder / ".gcutil_auth", json.dumps(store, indent=1))
    flags = [
        f"--api_host={endpoint}/",
        f"--authorization_uri_base={endpoint}/oauth2",
        f"--credentials_file={auth}",
        "--auth_service_account=",
        "--check_for_new_version=false",
        f"--project={project}",
    ]
    written = _save(folder / ".gcutil.flags", "\n".join(flags) + "\n")
    where = "" if directory is None else f" --flagfile={written}"
    return f"Wrote {auth} and {written}.\nNow: gcutil{where} listzones"


def _gcloud(endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    folder = directory or Path.home() / ".config" / "gstack"
    lines = [
        f"export CLOUDSDK_CONFIG={folder}/gcloud",
        f"export CLOUDSDK_CORE_PROJECT={project}",
        f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE={endpoint}/compute/v1/",
        f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM={endpoint}/",
        f"export CLOUDSDK_AUTH_TOKEN_HOST={endpoint}/oauth2/token",
        f"export CLOUDSDK_AUTH_CLIENT_ID={api_key}",
        f"export CLOUDSDK_AUTH_CLIENT_SECRET={secret_key}",
        "export CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=1",
        "export CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=1",
        # gcloud wants an account; the keys above are the proof, the refresh token is only a word.
        f"export CLOUDSDK_CORE_ACCOUNT={_ACCOUNT}",
        f"gcloud auth activate-refresh-token {_ACCOUNT} keys --quiet",
    ]
    path = _save(folder / "gcloud.sh", "\n".join(lines) + "\n")
    return f"Wrote {path}.\nNow: . {path} && gcloud compute zones list"


def _python(endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    folder = directory or Path.cwd()
    text = f'''"""Lists zones and machines. Needs: pip install google-cloud-compute"""

from google.cloud import compute_v1
from google.oauth2.credentials import Credentials

PROJECT = {project!r}
credentials = Credentials(
    None,
    refresh_token="keys",
    token_uri={endpoint + "/oauth2/token"!r},
    client_id={api_key!r},
    client_secret={secret_key!r},
)
options = {{"api_endpoint": {endpoint!r}}}

for zone in compute_v1.ZonesClient(credentials=credentials, client_options=options).list(project=PROJECT):
    print(zone.name)
    instances = compute_v1.InstancesClient(credentials=credentials, client_options=options)
    for instance in instances.list(project=PROJECT, zone=zone.name):
        print("  ", instance.name, instance.status)
'''
    path = _save(folder / "gstack_compute.py", text)
    return f"Wrote {path}.\nNow: python3 {path}"


def _libcloud(endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    folder = directory or Path.cwd()
    text = f'''"""Lists machines. Needs: pip install apache-libcloud"""

import json
import tempfile
import urllib.parse
import urllib.request

from libcloud.compute.drivers.gce import GCENodeDriver

ENDPOINT = {endpoint!r}
form = {{"grant_type": "client_credentials", "client_id": {api_key!r}, "client_secret": {secret_key!r}}}
with urllib.request.urlopen(ENDPOINT + "/oauth2/token", urllib.parse.urlencode(form).encode()) as reply:
    token = json.load(reply)["access_token"]
with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
    json.dump({{"access_token": token, "expire_time": "2099-01-01T00:00:00Z"}}, file)

# The driver only knows Google's host; as a proxy, this endpoint gets its requests.
driver = GCENodeDriver(
    "any.apps.googleusercontent.com", "unused", project={project!r}, auth_type="IA", credential_file=file.name,
    secure={endpoint.startswith("https")}, proxy_url=ENDPOINT,
)
for node in driver.list_nodes():
    print(node.name, node.state)
'''
    path = _save(folder / "gstack_libcloud.py", text)
    return f"Wrote {path}.\nNow: python3 {path}"


def _terraform(endpoint: str, project: str, api_key: str, secret_key: str, directory: Path | None) -> str:
    folder = directory or Path.cwd()
    text = f'''# The token comes from the environment: GOOGLE_OAUTH_ACCESS_TOKEN, see token.sh.
provider "google" {{
  project                 = "{project}"
  compute_custom_endpoint = "{endpoint}/compute/v1/"
}}
'''
    script = (
        "export GOOGLE_OAUTH_ACCESS_TOKEN=$(curl -s "
        f"{endpoint}/oauth2/token -d grant_type=client_credentials "
        f"-d client_id={api_key} -d client_secret={secret_key} | "
        "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])')\n"
    )
    provider = _save(folder / "provider.tf", text)
    token = _save(folder / "token.sh", script)
    return f"Wrote {provider} and {token}.\nNow: . {token} && terraform plan"
