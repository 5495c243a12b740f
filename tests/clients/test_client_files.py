"""What `gstack client` writes, used as its users use it: by the real client where it is installed, else by the library
that it is made of, over http and over https with a CA of our own."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import requests
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from gateway.snippets import key_snippets, snippets, terraform_settings
from gstack.cli import TOOLS
from gstack.cli.certs import Authority
from gstack.cli.client import FILES, fill, project_id
from gstack.cli.client import write as write_files
from gstack.cli.up import _name
from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, free_ports, make_stack
from tests.clients.test_commands import KEYS, run


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gstack behind https, with a CA where `gstack up --tls` puts it."""
    folder = tmp_path_factory.mktemp("secure")
    stack = make_stack(folder)
    authority = Authority(folder / "ca.pem", folder / "ca.key", "gstack CA of a test")
    authority.issue(folder / "tls.pem", folder / "tls.key", [_name("127.0.0.1"), _name("localhost")])
    stack.environment |= {
        "GSTACK_GATEWAY_TLS_CERT": str(folder / "tls.pem"),
        "GSTACK_GATEWAY_TLS_KEY": str(folder / "tls.key"),
    }
    for name in ("simulator", "auth", "translator", "gateway"):
        stack.start(name)
    try:
        until = time.monotonic() + 60
        while not is_ready(f"https://127.0.0.1:{stack.port}", folder / "ca.pem"):
            assert time.monotonic() < until and all(one.poll() is None for one in stack.processes.values())
            time.sleep(0.1)
        yield stack
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


def is_ready(url: str, ca: Path) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=5, verify=str(ca)).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(params=["http", "https"])
def endpoint(request: pytest.FixtureRequest, stack: Stack) -> tuple[str, Path | None]:
    """(address, CA)"""
    if request.param == "http":
        return stack.url, None
    secure: Stack = request.getfixturevalue("secure")
    return f"https://127.0.0.1:{secure.port}", secure.folder / "ca.pem"


def write(tool: str, endpoint: tuple[str, Path | None], folder: Path, project: str = "demo") -> str:
    url, ca = endpoint
    told = write_files(tool, url, project, API_KEY, SECRET_KEY, folder, ca)
    assert SECRET_KEY not in told
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in written)
    for path in written:
        assert path.suffix == ".p12" or not re.search(r"""@@["']?[a-z_0-9]+["']?@@""", path.read_text()), path
        assert str(path) in told
    return told


def shell(script: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command after the script, in a shell that complains, without what this machine says of CAs and gcloud."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"CLOUDSDK_|GOOGLE_|GCP_|REQUESTS_CA|CURL_CA|SSL_CERT|NODE_EXTRA|PYTHONPATH", name)
    }
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    return subprocess.run(
        ["bash", "-euc", f". {script} && {command}"],
        capture_output=True, text=True, timeout=120, env=clean | environment, check=False,
    )  # fmt: skip


def python(folder: Path, code: str, script: Path | None = None) -> str:
    found = shell(script or Path("/dev/null"), f"cd {folder} && python3 -c '{code}'")
    assert found.returncode == 0, found.stderr
    return found.stdout


# What is written


@pytest.mark.parametrize("tool", ["python", "libcloud"])
def test_programs_run(endpoint: tuple[str, Path | None], tmp_path: Path, tool: str) -> None:
    told = write(tool, endpoint, tmp_path)
    found = shell(Path("/dev/null"), told.rpartition("Now: ")[2])
    assert (found.returncode, found.stderr) == (0, "")
    if tool == "python":
        assert "ch-gv2\n" in found.stdout


def test_operations_of_google_cloud_compute_are_asked_for_here(stack: Stack, tmp_path: Path) -> None:
    """By itself the library asks compute.googleapis.com how an operation is getting on."""
    write("python", (stack.url, None), tmp_path)
    code = """
from gstack_compute import PROJECT, client, compute_v1 as c
disk = c.AttachedDisk(boot=True, auto_delete=True, initialize_params=c.AttachedDiskInitializeParams(
    source_image="projects/debian-cloud/global/images/family/debian-12"))
machine = c.Instance(name="seeded", machine_type="zones/ch-gv2/machineTypes/micro", disks=[disk],
    network_interfaces=[c.NetworkInterface(network="global/networks/default")])
machines = client(c.InstancesClient)
place = dict(project=PROJECT, zone="ch-gv2")
made = machines.insert(instance_resource=machine, **place)
made.result(timeout=60)
print(machines.get(instance="seeded", **place).status)
machines.delete(instance="seeded", **place).result(timeout=60)
rule = c.Firewall(name="seeded", network="global/networks/default", allowed=[c.Allowed(I_p_protocol="icmp")])
rules = client(c.FirewallsClient)
rules.insert(project=PROJECT, firewall_resource=rule).result(timeout=60)
rules.delete(project=PROJECT, firewall="seeded").result(timeout=60)
"""
    (tmp_path / "use.py").write_text(code)
    found = shell(Path("/dev/null"), f"cd {tmp_path} && python3 use.py")
    assert (found.returncode, found.stdout) == (0, "RUNNING\n"), found.stderr


def test_gcutil(endpoint: tuple[str, Path | None], tmp_path: Path) -> None:
    told = write("gcutil", endpoint, tmp_path)
    url, ca = endpoint
    store = json.loads((tmp_path / ".gcutil_auth").read_text())
    credential = store["data"][0]["credential"]
    # What gcutil does with it at its first 401: this request, and then its command again.
    form = {key: credential[key] for key in ("client_id", "client_secret", "refresh_token")}
    trust = str(ca) if ca else True
    reply = requests.post(credential["token_uri"], {"grant_type": "refresh_token", **form}, timeout=30, verify=trust)
    assert reply.status_code == 200
    assert f"--api_host={url}/" in (tmp_path / ".gcutil.flags").read_text()
    assert (f"PYTHONPATH={tmp_path}/.gcutil_ca gcutil" in told) == bool(ca)
    if ca:
        # Its HTTP library takes its list of CAs from a module of this name, if there is one.
        bundle = python(tmp_path / ".gcutil_ca", "import ca_certs_locater; print(ca_certs_locater.get())").strip()
        assert requests.get(f"{url}/readyz", timeout=30, verify=bundle).status_code == 200


def test_gcloud(endpoint: tuple[str, Path | None], tmp_path: Path) -> None:
    url, ca = endpoint
    write("gcloud", endpoint, tmp_path)
    found = shell(tmp_path / "gcloud.sh", "env")
    assert (found.returncode, found.stderr) == (0, "")
    set_to = dict(line.split("=", 1) for line in found.stdout.splitlines() if line.startswith("CLOUDSDK_"))
    prefix = "CLOUDSDK_API_ENDPOINT_OVERRIDES_"
    overrides = {name.removeprefix(prefix).lower(): value for name, value in set_to.items() if name.startswith(prefix)}
    beside = ("cloudresourcemanager", "serviceusage", "oslogin", "iamcredentials", "cloudbilling")
    expected = {"compute": f"{url}/compute/v1/", "iam": f"{url}/"} | {name: f"{url}/{name}/" for name in beside}
    assert overrides == expected
    assert set_to["CLOUDSDK_SURVEY_DISABLE_PROMPTS"] == set_to["CLOUDSDK_CORE_DISABLE_USAGE_REPORTING"] == "true"
    # With a file of this type gcloud asks its token host; it stores nothing that it could revoke at Google.
    keys = json.loads(Path(set_to["CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"]).read_text())
    assert keys.pop("type") == "authorized_user"
    form = {"grant_type": "refresh_token", **keys}
    bundle = set_to.get("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE")
    assert (bundle is not None) == bool(ca)
    reply = requests.post(set_to["CLOUDSDK_AUTH_TOKEN_HOST"], form, timeout=30, verify=bundle or True)
    assert reply.status_code == 200
    if ca:
        # gcloud heeds this one more than its own setting.
        found = shell(tmp_path / "gcloud.sh", "echo $REQUESTS_CA_BUNDLE", REQUESTS_CA_BUNDLE="/somewhere/else")
        assert found.stdout.strip() == bundle


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_the_real_gcloud_says_nothing_but_what_was_asked_for(endpoint: tuple[str, Path | None], tmp_path: Path) -> None:
    write("gcloud", endpoint, tmp_path)
    found = shell(tmp_path / "gcloud.sh", "gcloud compute zones list --format='value(name)'")
    assert (found.returncode, found.stdout, found.stderr) == (0, "ch-gv2\nch-zh-1\n", "")
    # It would go to Google with what it revokes.
    found = shell(tmp_path / "gcloud.sh", "gcloud auth revoke")
    assert "No credentials available to revoke" in found.stderr


def test_terraform(endpoint: tuple[str, Path | None], tmp_path: Path) -> None:
    url, ca = endpoint
    write("terraform", endpoint, tmp_path)
    found = shell(tmp_path / "token.sh", 'echo "$GOOGLE_OAUTH_ACCESS_TOKEN"')
    headers = {"Authorization": f"Bearer {found.stdout.strip()}"}
    trust = str(ca) if ca else True
    assert requests.get(f"{url}/compute/v1/projects/demo", headers=headers, timeout=30, verify=trust).status_code == 200
    assert ("export SSL_CERT_FILE=" in (tmp_path / "token.sh").read_text()) == bool(ca)
    text = (tmp_path / "provider.tf").read_text()
    set_to = dict(re.findall(r'^  ([a-z0-9_]+) += "(.*)"$', text, re.MULTILINE))
    assert set_to == {"project": "demo"} | terraform_settings(url)
    if shutil.which("terraform"):
        assert (
            subprocess.run(["terraform", "fmt", "-check", str(tmp_path)], capture_output=True, check=False).returncode
            == 0
        )


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("pattern", ["http[s]://", "https?://"], ids=["https only", "both"])
def test_terraform_asks_below_the_right_paths(scheme: str, pattern: str) -> None:
    """As the provider makes Google's libraries' base path of a setting, and these put the path of a request to it."""
    base = f"{scheme}://127.0.0.1:5000"
    settings = terraform_settings(base)
    below = {
        "iam": "", "iam_credentials": "/iamcredentials", "resource_manager": "/cloudresourcemanager",
        "resource_manager_v3": "/cloudresourcemanager", "service_usage": "/serviceusage",
        "cloud_billing": "/cloudbilling",
    }  # fmt: skip
    for name, prefix in below.items():
        setting = settings[f"{name}_custom_endpoint"]
        assert re.fullmatch(".*/[^/]+/", setting)
        cut = re.sub(rf"({pattern}.*)/[^/]+?/$", r"\1/", setting)
        assert requests.compat.urljoin(cut, "v1/projects/demo") == f"{base}{prefix}/v1/projects/demo"
    as_it_is = {"compute": "/compute/v1/", "iam_beta": "/v1/", "os_login": "/oslogin/v1/"}
    assert {name: settings[f"{name}_custom_endpoint"] for name in as_it_is} == {
        name: base + path for name, path in as_it_is.items()
    }


DEFAULT_CREDENTIALS = """
import google.auth
from google.auth.transport.requests import AuthorizedSession
credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
print(project, [zone["name"] for zone in AuthorizedSession(credentials).get(URL).json()["items"]])
"""


@pytest.mark.parametrize("tool", ["ansible", "packer", "go", "node", "java"])
def test_default_credentials(endpoint: tuple[str, Path | None], tmp_path: Path, tool: str) -> None:
    url, ca = endpoint
    write(tool, endpoint, tmp_path)
    script = tmp_path / "gstack.sh"
    environment = shell(script, "env").stdout
    trust = {"go": "SSL_CERT_FILE", "packer": "SSL_CERT_FILE", "node": "NODE_EXTRA_CA_CERTS", "java": "MAVEN_OPTS"}
    assert (f"\n{trust.get(tool, 'REQUESTS_CA_BUNDLE')}=" in f"\n{environment}") == bool(ca)
    (tmp_path / "ask.py").write_text(f"URL = '{url}/compute/v1/projects/demo/zones'\n{DEFAULT_CREDENTIALS}")
    bundle = f"REQUESTS_CA_BUNDLE={tmp_path}/gstack-ca-bundle.pem " if ca else ""
    found = shell(script, f"{bundle}python3 {tmp_path}/ask.py")
    assert found.stdout == "demo ['ch-gv2', 'ch-zh-1']\n", found.stderr


def test_ansible(endpoint: tuple[str, Path | None], tmp_path: Path) -> None:
    """The collection's modules ask these two hosts, through this library."""
    write("ansible", endpoint, tmp_path)
    (play,) = yaml.safe_load((tmp_path / "instances.yml").read_text())
    assert [task.get("ansible.builtin.uri", {}).get("url") for task in play["tasks"]][1] == (
        f"{endpoint[0]}/compute/v1/projects/demo/zones"
    )
    assert yaml.safe_load((tmp_path / "gstack.gcp_compute.yml").read_text())["projects"] == ["demo"]
    for host in ("compute", "www"):
        url = f"https://{host}.googleapis.com/compute/v1/projects/demo/zones"
        (tmp_path / "ask.py").write_text(f"URL = '{url}'\n{DEFAULT_CREDENTIALS}")
        found = shell(tmp_path / "gstack.sh", f"python3 {tmp_path}/ask.py", PYTHONPATH="/somewhere/else")
        assert found.stdout == "demo ['ch-gv2', 'ch-zh-1']\n", found.stderr


def test_java_trusts_what_is_public_too(secure: Stack, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{secure.port}"
    told = write("java", (url, secure.folder / "ca.pem"), tmp_path)
    assert "gstack-ca.p12" in told
    store = load_pkcs12((tmp_path / "gstack-ca.p12").read_bytes(), b"changeit")
    kept = {one.certificate.fingerprint(one.certificate.signature_hash_algorithm) for one in store.additional_certs}
    own = x509.load_pem_x509_certificate((secure.folder / "ca.pem").read_bytes())
    assert own.fingerprint(own.signature_hash_algorithm) in kept and len(kept) > 50
    assert "trustStore=" in shell(tmp_path / "gstack.sh", 'echo "$MAVEN_OPTS"').stdout
    if keytool := shutil.which("keytool"):
        command = [keytool, "-list", "-keystore", str(tmp_path / "gstack-ca.p12"), "-storepass", "changeit"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        assert listed.count("trustedCertEntry") == len(kept)


@pytest.mark.parametrize(
    ("tool", "command"),
    [("go", "gofmt -l main.go"), ("node", "node --check list.mjs"), ("java", "xmllint --noout pom.xml")],
)
def test_what_is_written_is_of_its_language(stack: Stack, tmp_path: Path, tool: str, command: str) -> None:
    if shutil.which(command.partition(" ")[0]) is None:
        pytest.skip(f"{command} is not installed")
    write(tool, (stack.url, None), tmp_path)
    found = shell(Path("/dev/null"), f"cd {tmp_path} && {command}")
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


def test_what_the_page_shows_works_when_pasted(stack: Stack, tmp_path: Path) -> None:
    shown = {one.title: one.text for one in snippets(stack.url, "demo")}
    put_in = {"API_KEY": API_KEY, "SECRET_KEY": SECRET_KEY}
    for name, value in put_in.items():
        shown = {title: text.replace(name, value) for title, text in shown.items()}
    for title, command in (
        ("A token for curl", "{}"),
        ("google-cloud-compute (Python)", "cat > a.py <<'END'\n{}\nEND\npython3 a.py"),
        ("Application default credentials", "{}\ntest -s $GOOGLE_APPLICATION_CREDENTIALS"),
    ):
        found = shell(Path("/dev/null"), f"cd {tmp_path}\n" + command.replace("{}", shown[title]))
        assert found.returncode == 0, found.stderr
        assert title.startswith("App") or "ch-gv2" in found.stdout
    (tmp_path / "ask.py").write_text(f"URL = '{stack.api}/zones'\n{DEFAULT_CREDENTIALS}")
    adc = f"GOOGLE_APPLICATION_CREDENTIALS={tmp_path}/gstack-adc.json GOOGLE_CLOUD_PROJECT=demo"
    assert shell(Path("/dev/null"), f"{adc} python3 {tmp_path}/ask.py").stdout == "demo ['ch-gv2', 'ch-zh-1']\n"
    (tmp_path / "credentials.json").write_text(
        json.dumps({"access_token": stack.token(), "expire_time": "2099-01-01T00:00:00Z"})
    )
    (tmp_path / "b.py").write_text(shown["libcloud"])
    found = shell(Path("/dev/null"), f"cd {tmp_path} && python3 b.py")
    assert found.returncode == 0, found.stderr


def test_a_key_file_with_what_its_page_shows(stack: Stack, tmp_path: Path) -> None:
    accounts = "/v1/projects/demo/serviceAccounts"
    made = stack.call("POST", stack.url + accounts, {"accountId": "page-key-1"}).json()
    key = stack.call("POST", f"{stack.url}{accounts}/{made['email']}/keys", {}).json()
    (tmp_path / "key.json").write_bytes(base64.b64decode(key["privateKeyData"]))
    shown = {one.title: one.text for one in key_snippets(stack.url, "demo", "key.json")}
    for title in ("google-cloud-compute (Python)", "libcloud"):
        (tmp_path / "a.py").write_text(shown[title])
        found = shell(Path("/dev/null"), f"cd {tmp_path} && python3 a.py")
        assert found.returncode == 0, found.stderr
    stack.call("DELETE", f"{stack.url}{accounts}/{made['email']}")


# Whom it trusts


def test_the_ca_of_up_is_found(secure: Stack, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{secure.port}"
    arguments = ("client", "python", "--endpoint", url, "--directory", str(tmp_path), *KEYS)
    found = run(*arguments, GSTACK_STATE_DIR=str(secure.folder))
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "gstack-ca.pem").read_bytes() == (secure.folder / "ca.pem").read_bytes()
    elsewhere = run(*arguments, GSTACK_STATE_DIR=str(tmp_path / "none"))
    assert elsewhere.returncode == 1 and "--ca FILE" in elsewhere.stderr


def test_a_ca_that_cannot_be_right_is_refused(stack: Stack, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    refused = {
        (stack.url, wrong): "plain http",
        ("https://127.0.0.1:1", wrong): "must hold certificates",
        **{
            (url, None): "the endpoint is a scheme, a host and a port"
            for url in ("ftp://x", "http://host/path", "https://host:port", "http://a'b")
        },
    }
    for (url, ca), why in refused.items():
        with pytest.raises(click.ClickException, match=why):
            write_files("go", url, "demo", API_KEY, SECRET_KEY, tmp_path / "out", ca)
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_does_not_answer_gets_its_files(tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{free_ports(1)[0]}"
    found = run("client", "go", "--endpoint", url, "--directory", str(tmp_path), *KEYS)
    assert found.returncode == 0 and "does not answer" in found.stderr
    assert (tmp_path / "main.go").exists() and not (tmp_path / "gstack-ca.pem").exists()


# Names and quotes


def test_projects_are_written_as_clients_take_them(stack: Stack, tmp_path: Path) -> None:
    assert project_id("ian@ianduffy.ie") == "ian-ianduffy-ie"
    assert project_id("Ian Example") == "ian-example"
    for good in ("demo", "example.org:demo", "123456789", "a" * 63):
        assert project_id(good) == good
    write("gcloud", (stack.url, None), tmp_path, "ian@example.org")
    assert "CLOUDSDK_CORE_PROJECT=ian-example-org\n" in (tmp_path / "gcloud.sh").read_text()
    # And it is the account's own project to the gateway.
    token = stack.token("ian-api-key", "ian-secret-key")
    headers = {"Authorization": f"Bearer {token}"}
    reply = requests.get(f"{stack.url}/compute/v1/projects/ian-example-org", headers=headers, timeout=30)
    assert reply.status_code == 200, reply.text


def test_keys_may_hold_anything(tmp_path: Path) -> None:
    odd = "a'b\"c\\d$e`f${g}&h i"
    folder = tmp_path / 'it\'s a "folder"'
    for tool in TOOLS:
        write_files(tool, "http://[::1]:5000", "demo", odd, odd, folder / tool)
    for credentials in ("gcloud/gcloud-keys.json", "go/gstack-adc.json"):
        assert json.loads((folder / credentials).read_text())["client_secret"] == odd
    for program in ("python/gstack_compute.py", "libcloud/gstack_libcloud.py"):
        compile((folder / program).read_text(), program, "exec")
    for script in ("gcloud/gcloud.sh", "terraform/token.sh", "go/gstack.sh", "ansible/gstack.sh"):
        assert subprocess.run(["bash", "-n", str(folder / script)], check=False).returncode == 0
    found = subprocess.run(
        ["bash", "-euc", '. "$1" && cat "$GOOGLE_APPLICATION_CREDENTIALS"', "-", str(folder / "ansible/gstack.sh")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(found.stdout)["client_id"] == odd


def test_marks_are_quoted_for_their_language() -> None:
    values = {"a1": 'it\'s "x"'}
    assert fill("""@@a1@@ @@"a1"@@ @@'a1'@@""", values) == """it's "x" "it's \\"x\\"" 'it'"'"'s "x"'"""
    with pytest.raises(KeyError):
        fill("@@b@@", values)
    assert all(path.suffix == ".in" for path in FILES.rglob("*") if path.is_file())


def test_secrets_are_only_where_they_are_needed(stack: Stack, tmp_path: Path) -> None:
    for tool in TOOLS:
        write(tool, (stack.url, None), tmp_path / tool)
        holders = {
            path.name for path in (tmp_path / tool).rglob("*") if path.is_file() and SECRET_KEY in path.read_text()
        }
        assert len(holders) == 1, (tool, holders)
    assert API_KEY in (tmp_path / "go" / "gstack-adc.json").read_text()
