"""Ready set-ups for each client, with this endpoint's address filled in. For the pages of the gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    title: str
    text: str


def snippets(base: str, project: str = "") -> list[Snippet]:
    """Commands that work when pasted, for this endpoint. project: "" leaves a placeholder."""
    project = project or "PROJECT"
    return [
        Snippet(
            "A token for curl",
            f"TOKEN=$(curl -s {base}/oauth2/token -d grant_type=client_credentials \\\n"
            f"    -d client_id=API_KEY -d client_secret=SECRET_KEY | python3 -c 'import json,sys; "
            f'print(json.load(sys.stdin)["access_token"])\')\n'
            f'curl -H "Authorization: Bearer $TOKEN" {base}/compute/v1/projects/{project}/zones',
        ),
        Snippet(
            "gcloud",
            f"export CLOUDSDK_CORE_PROJECT={project}\n"
            f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE={base}/compute/v1/\n"
            f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM={base}/\n"
            f"export CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=1\n"
            f"export CLOUDSDK_AUTH_AUTH_HOST={base}/oauth2/auth CLOUDSDK_AUTH_TOKEN_HOST={base}/oauth2/token\n"
            # gcloud's OAuth library refuses plain http unless it is told.
            f"{'' if base.startswith('https') else 'export OAUTHLIB_INSECURE_TRANSPORT=1' + chr(10)}"
            f"gcloud auth login\n"
            f"gcloud compute zones list",
        ),
        Snippet(
            "gcutil",
            f"gcutil --api_host={base}/ --authorization_uri_base={base}/oauth2 --project={project} \\\n"
            f"    --check_for_new_version=false --auth_service_account= auth --noconfirm_email\n"
            f"gcutil --api_host={base}/ --project={project} --check_for_new_version=false listzones",
        ),
        Snippet(
            "google-cloud-compute (Python)",
            f"from google.cloud import compute_v1\n"
            f"from google.oauth2.credentials import Credentials\n\n"
            f"credentials = Credentials(None, refresh_token='any', token_uri='{base}/oauth2/token',\n"
            f"                          client_id='API_KEY', client_secret='SECRET_KEY')\n"
            f"zones = compute_v1.ZonesClient(credentials=credentials, client_options={{'api_endpoint': '{base}'}})\n"
            f"print([zone.name for zone in zones.list(project='{project}')])",
        ),
        Snippet(
            "libcloud",
            f'# credentials.json: {{"access_token": "TOKEN", "expire_time": "2099-01-01T00:00:00Z"}}\n'
            f"from libcloud.compute.drivers.gce import GCENodeDriver\n\n"
            f"driver = GCENodeDriver('any.apps.googleusercontent.com', 'unused', project='{project}',\n"
            f"                       auth_type='IA', credential_file='credentials.json',\n"
            f"                       secure={base.startswith('https')}, proxy_url='{base}')\n"
            f"print(driver.list_nodes())",
        ),
        Snippet(
            "Terraform",
            f'provider "google" {{\n'
            f'  project                 = "{project}"\n'
            f"  access_token            = var.token\n"
            f'  compute_custom_endpoint = "{base}/compute/v1/"\n'
            f"}}",
        ),
    ]


def key_snippets(base: str, project: str = "", file: str = "", service_account: str = "") -> list[Snippet]:
    """Commands that use the key file of a service account. What is "" leaves a placeholder."""
    project, file = project or "PROJECT", file or "KEY.json"
    email = service_account or "NAME@PROJECT.iam.gserviceaccount.com"
    return [
        Snippet(
            "gcloud",
            f"export CLOUDSDK_CORE_PROJECT={project}\n"
            f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE={base}/compute/v1/\n"
            f"export CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=1\n"
            f"gcloud auth activate-service-account --key-file={file}\n"
            f"gcloud compute zones list",
        ),
        Snippet(
            "Terraform",
            f'provider "google" {{\n'
            f'  project                 = "{project}"\n'
            f'  credentials             = file("{file}")\n'
            f'  compute_custom_endpoint = "{base}/compute/v1/"\n'
            f"}}",
        ),
        Snippet(
            "google-cloud-compute (Python)",
            f"from google.cloud import compute_v1\n"
            f"from google.oauth2 import service_account\n\n"
            f"credentials = service_account.Credentials.from_service_account_file('{file}')\n"
            f"zones = compute_v1.ZonesClient(credentials=credentials, client_options={{'api_endpoint': '{base}'}})\n"
            f"print([zone.name for zone in zones.list(project='{project}')])",
        ),
        Snippet(
            "libcloud",
            f"from libcloud.compute.drivers.gce import GCENodeDriver\n\n"
            f"driver = GCENodeDriver('{email}', '{file}',\n"
            f"                       project='{project}', auth_type='SA',\n"
            f"                       secure={base.startswith('https')}, proxy_url='{base}')\n"
            f"print(driver.list_nodes())",
        ),
    ]
