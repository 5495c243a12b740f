"""Ready set-ups for each client, with this endpoint's address filled in: for the pages of the gateway. And what all
set-ups must agree on: which of a client's settings name which of our addresses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

# Services beside Compute Engine whose clients are answered here, each below a path of its name.
_BESIDE = ("cloudresourcemanager", "serviceusage", "oslogin", "iamcredentials", "cloudbilling")


@dataclass(frozen=True)
class Snippet:
    title: str
    text: str


def host_of(base: str) -> str:
    """As it stands in a URL: IPv6 addresses in brackets."""
    host = str(urlsplit(base).hostname)
    return f"[{host}]" if ":" in host else host


def port_of(base: str) -> int:
    return urlsplit(base).port or (443 if base.startswith("https") else 80)


def gcloud_settings(base: str) -> dict[str, str]:
    """gcloud's settings, as variables of the environment: our addresses, and nothing said to Google or asked of people.

    base: scheme and host of the endpoint.
    """
    overrides = {"compute": f"{base}/compute/v1/", "iam": f"{base}/"} | {name: f"{base}/{name}/" for name in _BESIDE}
    return {
        **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name.upper()}": url for name, url in overrides.items()},
        "CLOUDSDK_AUTH_AUTH_HOST": f"{base}/oauth2/auth",
        "CLOUDSDK_AUTH_TOKEN_HOST": f"{base}/oauth2/token",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }


def terraform_settings(base: str) -> dict[str, str]:
    """The addresses in Terraform's `provider "google"`: releases 5 to 7 know all of these names."""
    # The provider cuts the version off the end before it hands a path to most of Google's libraries, if the path begins
    # with https; with http some releases do not (7.25). A dot is cut off or resolved away: right both ways.
    v1, v3 = ("v1", "v3") if base.startswith("https") else (".", ".")
    return {
        "compute_custom_endpoint": f"{base}/compute/v1/",
        "iam_custom_endpoint": f"{base}/{v1}/",
        "iam_beta_custom_endpoint": f"{base}/v1/",
        "iam_credentials_custom_endpoint": f"{base}/iamcredentials/{v1}/",
        "resource_manager_custom_endpoint": f"{base}/cloudresourcemanager/{v1}/",
        "resource_manager_v3_custom_endpoint": f"{base}/cloudresourcemanager/{v3}/",
        "service_usage_custom_endpoint": f"{base}/serviceusage/{v1}/",
        "cloud_billing_custom_endpoint": f"{base}/cloudbilling/{v1}/",
        # Taken as it is, like that of iam_beta.
        "os_login_custom_endpoint": f"{base}/oslogin/v1/",
    }


def packer_settings(base: str) -> dict[str, str]:
    """`custom_endpoints` of Packer's googlecompute."""
    return {"compute": f"{base}/compute/v1/", "oslogin": f"{base}/oslogin/", "oauth2": f"{base}/"}


def hcl(settings: dict[str, str], indent: int) -> str:
    """Settings as lines of HCL, with their signs below each other as `terraform fmt` puts them."""
    width = max(map(len, settings))
    return "\n".join(f"{' ' * indent}{name.ljust(width)} = {json.dumps(value)}" for name, value in settings.items())


def default_credentials(base: str, api_key: str, secret_key: str) -> str:
    """Application default credentials of the one type whose own token endpoint all of Google's libraries heed."""
    return json.dumps(
        {
            "type": "external_account_authorized_user",
            "audience": "//iam.googleapis.com/locations/global/workforcePools/gstack/providers/keys",
            "client_id": api_key,
            "client_secret": secret_key,
            # The keys are the proof, this is only a word.
            "refresh_token": "keys",
            "token_url": f"{base}/oauth2/token",
            "token_info_url": f"{base}/oauth2/introspect",
            "revoke_url": f"{base}/oauth2/revoke",
        },
        indent=1,
    )


def snippets(base: str, project: str = "") -> list[Snippet]:
    """Commands that work when pasted, for this endpoint. project: "" leaves a placeholder."""
    project = project or "PROJECT"
    exports = "".join(f"export {name}={value}\n" for name, value in gcloud_settings(base).items())
    use_credentials = "Credentials: GOOGLE_APPLICATION_CREDENTIALS, see Application default credentials."
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
            f"{exports}"
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
            "Terraform",
            f"# A token: see A token for curl, then export GOOGLE_OAUTH_ACCESS_TOKEN=$TOKEN\n"
            f'provider "google" {{\n'
            f'  project = "{project}"\n\n'
            f"{hcl(terraform_settings(base), 2)}\n"
            f"}}",
        ),
        Snippet(
            "Application default credentials",
            f"umask 077\ncat > gstack-adc.json <<'END'\n{default_credentials(base, 'API_KEY', 'SECRET_KEY')}\nEND\n"
            f"export GOOGLE_APPLICATION_CREDENTIALS=$PWD/gstack-adc.json GOOGLE_CLOUD_PROJECT={project}",
        ),
        Snippet(
            "google-cloud-compute (Python)",
            _python(
                base,
                project,
                "from google.oauth2.credentials import Credentials",
                f"Credentials(None, refresh_token='any', token_uri='{base}/oauth2/token',\n"
                f"                          client_id='API_KEY', client_secret='SECRET_KEY')",
            ),
        ),
        Snippet(
            "libcloud",
            f'# credentials.json: {{"access_token": "TOKEN", "expire_time": "2099-01-01T00:00:00Z"}}\n'
            f"{_libcloud(base, project)}",
        ),
        Snippet(
            "Ansible",
            f"# {use_credentials}\n"
            f"# export GCP_AUTH_KIND=application GCP_PROJECT={project} PYTHONPATH=$PWD\n"
            f"# The collection google.cloud has Google's addresses written into it. This file, sitecustomize.py,\n"
            f"# which Python finds by PYTHONPATH, sends what it asks Compute Engine here.\n"
            f"import requests\n\n"
            f"GOOGLE = ('https://compute.googleapis.com/compute/', 'https://www.googleapis.com/compute/')\n"
            f"ask = requests.Session.send\n\n\n"
            f"def send(self, request, **options):\n"
            f"    if request.url.startswith(GOOGLE):\n"
            f"        request.url = '{base}/' + request.url.split('/', 3)[3]\n"
            f"    return ask(self, request, **options)\n\n\n"
            f"requests.Session.send = send",
        ),
        Snippet(
            "Packer",
            f"# {use_credentials}\n"
            f'source "googlecompute" "example" {{\n'
            f'  project_id          = "{project}"\n'
            f'  zone                = "ZONE"\n'
            f'  source_image_family = "debian-12"\n'
            f'  ssh_username        = "packer"\n\n'
            f"  custom_endpoints = {{\n{hcl(packer_settings(base), 4)}\n  }}\n"
            f"}}",
        ),
        Snippet(
            "Go",
            f"// {use_credentials}\n"
            f"service, err := compute.NewService(ctx,\n"
            f'\toption.WithEndpoint("{base}/compute/v1/"), option.WithScopes(compute.CloudPlatformScope))\n'
            f'zones, err := service.Zones.List("{project}").Do()',
        ),
        Snippet(
            "Node.js",
            f"// {use_credentials}\n"
            f'import compute from "@google-cloud/compute";\n\n'
            f'const options = {{ apiEndpoint: "{host_of(base)}", port: {port_of(base)}, '
            f'protocol: "{urlsplit(base).scheme}" }};\n'
            f"const zones = new compute.ZonesClient(options);\n"
            f'const [found] = await zones.list({{ project: "{project}" }});\n'
            f"console.log(found.map((zone) => zone.name));",
        ),
        Snippet(
            "Java",
            f"// {use_credentials}\n"
            f'ZonesSettings settings = ZonesSettings.newBuilder().setEndpoint("{base}").build();\n'
            f"try (ZonesClient zones = ZonesClient.create(settings)) {{\n"
            f'  zones.list("{project}").iterateAll().forEach(zone -> System.out.println(zone.getName()));\n'
            f"}}",
        ),
    ]


def key_snippets(base: str, project: str = "", file: str = "") -> list[Snippet]:
    """Commands that use the key file of a service account. What is "" leaves a placeholder."""
    project, file = project or "PROJECT", file or "KEY.json"
    exports = "".join(f"export {name}={value}\n" for name, value in gcloud_settings(base).items())
    return [
        Snippet(
            "gcloud",
            f"export CLOUDSDK_CORE_PROJECT={project}\n"
            f"{exports}"
            f"gcloud auth activate-service-account --key-file={file}\n"
            f"gcloud compute zones list",
        ),
        Snippet(
            "Terraform",
            f'provider "google" {{\n'
            f'  project     = "{project}"\n'
            f'  credentials = file("{file}")\n\n'
            f"{hcl(terraform_settings(base), 2)}\n"
            f"}}",
        ),
        Snippet(
            "google-cloud-compute (Python)",
            _python(
                base,
                project,
                "from google.oauth2 import service_account",
                f"service_account.Credentials.from_service_account_file('{file}')",
            ),
        ),
        Snippet(
            "libcloud",
            # The driver could read the file itself, but would ask Google for the token.
            f"import json\n"
            f"from google.auth.transport.requests import Request\n"
            f"from google.oauth2 import service_account\n\n"
            f"key = service_account.Credentials.from_service_account_file(\n"
            f"    '{file}', scopes=['https://www.googleapis.com/auth/cloud-platform'])\n"
            f"key.refresh(Request())\n"
            f"with open('credentials.json', 'w') as out:\n"
            f"    json.dump({{'access_token': key.token, 'expire_time': '2099-01-01T00:00:00Z'}}, out)\n\n"
            f"{_libcloud(base, project)}",
        ),
    ]


def _python(base: str, project: str, imports: str, credentials: str) -> str:
    return (
        f"from google.cloud import compute_v1\n"
        f"{imports}\n\n"
        f"options = {{'api_endpoint': '{base}'}}\n"
        f"credentials = {credentials}\n"
        f"zones = compute_v1.ZonesClient(credentials=credentials, client_options=options)\n"
        f"print([zone.name for zone in zones.list(project='{project}')])\n\n"
        f"instances = compute_v1.InstancesClient(credentials=credentials, client_options=options)\n"
        f"# Without this the library asks Google how operations are getting on.\n"
        f"waiting = instances.transport._extended_operations_services\n"
        f"waiting['zone_operations'] = compute_v1.ZoneOperationsClient(\n"
        f"    credentials=credentials, client_options=options)"
    )


def _libcloud(base: str, project: str) -> str:
    return (
        f"from libcloud.compute.drivers.gce import GCENodeDriver\n\n"
        f"driver = GCENodeDriver('any.apps.googleusercontent.com', 'unused', project='{project}',\n"
        f"                       auth_type='IA', credential_file='credentials.json',\n"
        f"                       secure={base.startswith('https')})\n"
        f"driver.connection.host, driver.connection.port = '{host_of(base)}', {port_of(base)}\n"
        f"driver.connection.connect()\n"
        f"print(driver.list_nodes())"
    )
