"""`gstack client TOOL`: writes a client's own configuration files, with this endpoint and these keys.

The files are those of `client_files/`, one folder a client. In them `@@name@@` stands for a value that needs no quotes,
`@@"name"@@` for it as a string of JSON (and of Python, JavaScript, Go, Java and HCL), `@@'name'@@` for it as a word of
the shell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import ssl
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
from cryptography.utils import CryptographyDeprecationWarning
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from gateway.snippets import (
    default_credentials,
    gcloud_settings,
    hcl,
    host_of,
    packer_settings,
    port_of,
    terraform_settings,
)
from translator_service.gce.naming import slug

FILES = Path(__file__).parent / "client_files"

# gcutil finds its credential by these constants of its source; what the credential holds is ours.
_GCUTIL_CLIENT = "32555940559.apps.googleusercontent.com"
_GCUTIL_AGENT = "Cloud SDK Command Line Tool"
_GCUTIL_SCOPES = (
    "appengine.admin", "bigquery", "compute", "devstorage.full_control", "userinfo.email", "ndev.cloudman",
    "cloud-platform", "sqlservice.admin", "prediction", "projecthosting",
)  # fmt: skip
# What gcloud and Terraform take as a project. A domain before it is theirs to check.
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ENDPOINT = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_MARK = re.compile(r"""@@(["']?)([a-z_0-9]+)\1@@""")
# Java's own, which everybody knows: there is no secret in a store of certificates.
_STORE_PASSWORD = b"changeit"
_HANDSHAKE_SECONDS = 5.0


@dataclass(frozen=True)
class Setup:
    """What a client is to know. ca: certificates (PEM) of the endpoint's CA, None for a publicly trusted one."""

    endpoint: str
    project: str
    api_key: str
    secret_key: str
    ca: bytes | None
    directory: Path | None

    def values(self) -> dict[str, str]:
        scheme = urlsplit(self.endpoint).scheme
        return {
            "endpoint": self.endpoint,
            "scheme": scheme,
            "host": host_of(self.endpoint),
            "port": str(port_of(self.endpoint)),
            "secure": str(scheme == "https"),
            "project": self.project,
            "api_key": self.api_key,
            "secret_key": self.secret_key,
        }


def write(
    tool: str,
    endpoint: str,
    project: str,
    api_key: str,
    secret_key: str,
    directory: Path | None,
    ca: Path | None = None,
    known: Iterable[Path] = (),
) -> str:
    """Write the files (mode 0600: they hold keys) and return what to do next.

    ca: certificate of the CA of an https endpoint. known: where one of ours may be, if it is needed. Raises
    ClickException.
    """
    if not _ENDPOINT.fullmatch(endpoint):
        raise click.ClickException(f"{endpoint}: the endpoint is a scheme, a host and a port: https://gce.example.org")
    own = authority(endpoint, ca, known)
    # The files name each other, and are used from anywhere.
    directory = directory and directory.absolute()
    setup = Setup(endpoint, project_id(project), api_key, secret_key, own, directory)
    return {"gcutil": _gcutil, "gcloud": _gcloud, "terraform": _terraform}.get(tool, _program)(tool, setup)


def project_id(project: str) -> str:
    """A project as clients take it: `ian@ianduffy.ie` is `ian-ianduffy-ie`, and means the same to the gateway."""
    return project if _PROJECT.fullmatch(project) else slug(project)


def authority(endpoint: str, given: Path | None, known: Iterable[Path]) -> bytes | None:
    """The CA that clients of this endpoint must be told of, as PEM. None when it is http or publicly trusted."""
    if not endpoint.startswith("https://"):
        if given:
            raise click.ClickException(f"{endpoint} is plain http: --ca has no use there")
        return None
    if given:
        return _certificates(given)
    # Not the system's own list, into which a private CA may have been put: most clients do not read it.
    if (trusted := _is_trusted(endpoint, Path(DEFAULT_CA_BUNDLE_PATH))) is None:
        click.echo(
            f"{endpoint} does not answer: whether its certificate is trusted is not known; else give --ca", err=True
        )
        return None
    if trusted:
        return None
    for path in known:
        if path.is_file() and os.access(path, os.R_OK) and _is_trusted(endpoint, path):
            return _certificates(path)
    raise click.ClickException(
        f"the certificate of {endpoint} is not publicly trusted: give that of its CA with --ca FILE"
    )


def _certificates(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError:
        raise click.ClickException(f"{path} must hold certificates in PEM") from None
    return content


def _is_trusted(endpoint: str, ca: Path) -> bool | None:
    """Whether the endpoint's certificate is good to who trusts these CAs; None when nobody answers."""
    parts = urlsplit(endpoint)
    host = str(parts.hostname)
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with socket.create_connection((host, parts.port or 443), _HANDSHAKE_SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError:
        return False
    except OSError:
        return None
    return True


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its marks replaced. Raises KeyError for a mark without a value."""

    def value(match: re.Match[str]) -> str:
        quote, name = match.groups()
        plain = values[name]
        return {"": plain, '"': json.dumps(plain), "'": shlex.quote(plain)}[quote]

    return _MARK.sub(value, text)


def _save(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def _fill_folder(tool: str, folder: Path, values: Mapping[str, str]) -> list[Path]:
    """The files of a client, in the order of their names. `.in` keeps them from being taken for code of ours."""
    sources = sorted((FILES / tool).rglob("*.in"))
    targets = [folder / path.relative_to(FILES / tool).with_suffix("") for path in sources]
    return [_save(target, fill(source.read_text(), values)) for source, target in zip(sources, targets, strict=True)]


def _trust(setup: Setup, folder: Path) -> dict[str, Path]:
    """Files by which clients trust the endpoint's CA: it alone, for those that add it to what they trust anyway, and
    with the public ones, for those that would trust nothing else any more. Empty without one."""
    if setup.ca is None:
        return {}
    public = Path(DEFAULT_CA_BUNDLE_PATH).read_bytes()
    return {
        "ca": _save(folder / "gstack-ca.pem", setup.ca),
        "bundle": _save(folder / "gstack-ca-bundle.pem", public.rstrip() + b"\n\n" + setup.ca),
    }


def _java_store(folder: Path, bundle: Path) -> Path:
    with warnings.catch_warnings():
        # Some public CA's number is not as it should be; that is between it and its users.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificates = x509.load_pem_x509_certificates(bundle.read_bytes())
    named = [PKCS12Certificate(certificate, str(number).encode()) for number, certificate in enumerate(certificates)]
    return _save(folder / "gstack-ca.p12", serialize_java_truststore(named, BestAvailableEncryption(_STORE_PASSWORD)))


def _exports(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _wrote(paths: Iterable[Path], then: str) -> str:
    return f"Wrote {', '.join(map(str, paths))}.\nNow: {then}"


def _gcutil(tool: str, setup: Setup) -> str:
    folder = setup.directory or Path.home()
    scopes = " ".join(f"https://www.googleapis.com/auth/{scope}" for scope in _GCUTIL_SCOPES)
    credential = {
        "_module": "oauth2client.client",
        "_class": "OAuth2Credentials",
        "access_token": None,
        "client_id": setup.api_key,
        "client_secret": setup.secret_key,
        "refresh_token": "keys",
        "token_expiry": None,
        "token_uri": f"{setup.endpoint}/oauth2/token",
        "user_agent": _GCUTIL_AGENT,
        "invalid": False,
        "id_token": None,
    }
    key = {"clientId": _GCUTIL_CLIENT, "userAgent": _GCUTIL_AGENT, "scope": scopes}
    store = {"file_version": 1, "data": [{"key": key, "credential": credential}]}
    auth = _save(folder / ".gcutil_auth", json.dumps(store, indent=1))
    flags = [
        f"--api_host={setup.endpoint}/",
        f"--authorization_uri_base={setup.endpoint}/oauth2",
        f"--credentials_file={auth}",
        "--auth_service_account=",
        "--check_for_new_version=false",
        f"--project={setup.project}",
    ]
    paths = [auth, _save(folder / ".gcutil.flags", "\n".join(flags) + "\n")]
    where = "" if setup.directory is None else f" --flagfile={shlex.quote(str(paths[1]))}"
    before = ""
    if setup.ca is not None:
        # Its HTTP library has a list of CAs of its own, and asks only a module of this name for another.
        modules = folder / ".gcutil_ca"
        trust = _trust(setup, modules)
        values = {"bundle": str(trust["bundle"])}
        paths += [*trust.values(), *_fill_folder(tool, modules, values)]
        before = f"PYTHONPATH={shlex.quote(str(modules))} "
    return _wrote(paths, f"{before}gcutil{where} listzones")


def _gcloud(tool: str, setup: Setup) -> str:
    folder = setup.directory or Path.home() / ".config" / "gstack"
    # gcloud asks token_host, not a file's own address, with this type; and nothing is there for it to revoke at Google.
    credential = _save(
        folder / "gcloud-keys.json",
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": setup.api_key,
                "client_secret": setup.secret_key,
                "refresh_token": "keys",
            },
            indent=1,
        ),
    )
    variables = {
        "CLOUDSDK_CONFIG": f"{folder}/gcloud",
        "CLOUDSDK_CORE_PROJECT": setup.project,
        **gcloud_settings(setup.endpoint),
        "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(credential),
    }
    trust = _trust(setup, folder)
    more = ""
    if trust:
        variables["CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"] = str(trust["bundle"])
        # These two win over gcloud's own setting, if they are there.
        more = "".join(
            f'if [ -n "${{{name}-}}" ]; then export {name}={shlex.quote(str(trust["bundle"]))}; fi\n'
            for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        )
    script = _save(folder / "gcloud.sh", _exports(variables) + more)
    return _wrote([script, credential, *trust.values()], f". {shlex.quote(str(script))} && gcloud compute zones list")


def _terraform(tool: str, setup: Setup) -> str:
    folder = setup.directory or Path.cwd()
    trust = _trust(setup, folder)
    values = setup.values() | {"endpoints": hcl(terraform_settings(setup.endpoint), 2)}
    values["environment"] = _exports({"SSL_CERT_FILE": str(trust["bundle"])} if trust else {})
    values["curl_ca"] = f" --cacert {shlex.quote(str(trust['bundle']))}" if trust else ""
    paths = _fill_folder(tool, folder, values)
    token = folder / "token.sh"
    return _wrote([*paths, *trust.values()], f". {shlex.quote(str(token))} && terraform plan")


def _program(tool: str, setup: Setup) -> str:
    """A program, or what a tool reads, with credentials and CA in files beside it."""
    folder = setup.directory or Path.cwd()
    trust = _trust(setup, folder)
    values = setup.values() | {"ca_bundle": str(trust.get("bundle", ""))}
    values["packer_endpoints"] = hcl(packer_settings(setup.endpoint), 4)
    paths = _fill_folder(tool, folder, values) + list(trust.values())
    place, more = shlex.quote(str(folder)), ""
    if tool in ("python", "libcloud"):
        return _wrote(paths, f"python3 {shlex.quote(str(paths[0]))}")
    credentials = _save(
        folder / "gstack-adc.json", default_credentials(setup.endpoint, setup.api_key, setup.secret_key)
    )
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": str(credentials), "GOOGLE_CLOUD_PROJECT": setup.project}
    if trust and tool == "java":
        store = _java_store(folder, trust["bundle"])
        paths.append(store)
        options = {"": str(store), "Type": "PKCS12", "Password": _STORE_PASSWORD.decode()}
        variables["MAVEN_OPTS"] = " ".join(
            f"-Djavax.net.ssl.trustStore{name}={shlex.quote(value)}" for name, value in options.items()
        )
    elif trust and tool == "node":
        variables["NODE_EXTRA_CA_CERTS"] = str(trust["ca"])
    elif trust:
        variables["SSL_CERT_FILE"] = str(trust["bundle"])
    if tool == "ansible":
        variables |= {"GCP_AUTH_KIND": "application", "GCP_PROJECT": setup.project}
        variables |= {"REQUESTS_CA_BUNDLE": str(trust["bundle"])} if trust else {}
        more = f'export PYTHONPATH={place}/lib"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
    script = _save(folder / "gstack.sh", _exports(variables) + more)
    run = {
        "ansible": f"ansible-playbook {place}/instances.yml",
        "packer": f"packer init {place} && packer build {place}",
        "go": f"cd {place} && go mod tidy && go run .",
        "node": f"cd {place} && npm install && node list.mjs",
        "java": f"mvn -q -f {place}/pom.xml compile exec:java",
    }[tool]
    return _wrote([*paths, credentials, script], f". {shlex.quote(str(script))} && {run}")
