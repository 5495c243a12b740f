"""docker-compose.yml as an operator uses it: started, scaled, robbed of a container and rolled, under load."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.oauth2.credentials
import pytest
import requests
from cryptography import x509
from googleapiclient import discovery

from gstack.cli.certs import Authority
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, free_ports
from tests.deploy.docker import ROOT, TAG, Docker
from tests.packages import install
from tests.waits import LONG, until

# The first of them builds the images.
pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(900), pytest.mark.real]

_NEXT = "tests-next"
_CONNECTION_AGE = 3
_ZONE = "ch-gv2"


def _compose_command() -> list[str]:
    """Compose is a plugin of newer engines, and a program of its own in Debian."""
    if not shutil.which("docker-compose"):
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
            return ["docker", "compose"]
        install("docker-compose")
    return ["docker-compose"]


@dataclass
class Compose:
    """The deployment of docker-compose.yml."""

    docker: Docker
    command: list[str]
    port: int
    tls_port: int
    variables: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"{self.url}/compute/v1/projects/{PROJECT}"

    def _run(self, command: Sequence[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = {**self.docker.environment, **self.variables, **variables}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
        )

    def try_out(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run([*self.command, *arguments], variables)

    def __call__(self, *arguments: str, **variables: str) -> str:
        done = self.try_out(*arguments, **variables)
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def roll(self, service: str, version: str) -> None:
        variables = {"COMPOSE": " ".join(self.command), "GSTACK_VERSION": version}
        done = self._run(["deploy/compose/roll", service], variables)
        assert done.returncode == 0, done.stdout + done.stderr

    def containers(self, service: str) -> list[str]:
        return self("ps", "-aq", service).split()

    def logs(self) -> str:
        done = self.try_out("--profile", "demo", "logs", "--no-color", "--tail=30")
        return done.stdout[-6000:]

    def wait_healthy(self, service: str, count: int) -> list[str]:
        def healthy() -> list[str]:
            found = self.containers(service)
            states = [self.docker.inspect(one)["State"].get("Health", {}).get("Status") for one in found]
            return found if states == ["healthy"] * count else []

        return until(healthy, pause=0.5, told=self.logs)

    def answered_calls(self, container: str) -> float:
        """gRPC calls that a container has answered, from its own metrics."""
        code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9000/metrics').read().decode())"
        text = self.docker("exec", container, "python", "-c", code)
        counts = re.findall(r"^gstack_rpc_seconds_count\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
        return sum(map(float, counts))

    def token(self) -> str:
        form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
        reply = requests.post(f"{self.url}/oauth2/token", form, timeout=LONG)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])


@pytest.fixture(scope="module")
def next_images(docker: Docker, images: dict[str, str]) -> None:
    """The next release: the same, but for its labels."""
    for service, image in images.items():
        label = f'LABEL org.opencontainers.image.version="{_NEXT}"'
        docker.build_text(f"gstack-{service}:{_NEXT}", f"FROM {image}\n{label}\n")


@pytest.fixture(scope="module")
def compose(
    docker: Docker,
    images: dict[str, str],
    other_images: dict[str, str],
    next_images: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Compose]:
    """Started as README.md says, with the profile `demo` and nothing prepared but the images."""
    certificates = tmp_path_factory.mktemp("certificates")
    _write_certificate(certificates)
    port, tls_port = free_ports(2)
    variables = {
        "COMPOSE_PROJECT_NAME": f"gstack-tests-{os.getpid()}",
        "GSTACK_PORT": str(port),
        "GSTACK_TLS_PORT": str(tls_port),
        "GSTACK_CERTIFICATES": str(certificates),
        "GSTACK_VERSION": TAG,
        "GSTACK_CONNECTION_AGE": str(_CONNECTION_AGE),
        **other_images,
    }
    compose = Compose(docker, _compose_command(), port, tls_port, variables)
    try:
        compose("--profile", "demo", "up", "-d", "--no-build", "--scale", "gateway=2", "--scale", "auth_service=2")
        _wait_for(f"{compose.url}/readyz")
        yield compose
    finally:
        compose.try_out("--profile", "demo", "down", "-v", "--remove-orphans", "-t", "5")
    mine = f"label=com.docker.compose.project={variables['COMPOSE_PROJECT_NAME']}"
    assert docker("ps", "-aq", "--filter", mine) == docker("volume", "ls", "-q", "--filter", mine) == ""


def _write_certificate(folder: Path) -> None:
    """As HAProxy reads it: certificate and key in one file, in a folder with nothing else."""
    authority = Authority(folder.parent / "ca.crt", folder.parent / "ca.key", "tests")
    authority.issue(folder.parent / "tls.crt", folder.parent / "tls.key", [x509.DNSName("localhost")])
    pem = folder / "endpoint.pem"
    pem.write_text((folder.parent / "tls.crt").read_text() + (folder.parent / "tls.key").read_text())
    # HAProxy runs as a user of its own.
    pem.chmod(0o644)
    folder.chmod(0o755)


def _wait_for(address: str) -> None:
    said = ""

    def ready() -> bool:
        nonlocal said
        try:
            reply = requests.get(address, timeout=LONG)
            said = reply.text
            return reply.status_code == 200
        except requests.RequestException as error:
            said = str(error)
            return False

    until(ready, pause=0.3, told=lambda: said)


@dataclass
class Load:
    """What clients saw."""

    answered: int = 0
    operations: int = 0
    failures: list[str] = field(default_factory=list)

    def goes_on(self) -> None:
        """Returns when a good deal more was answered."""
        answered, operations = self.answered + 40, self.operations + 2
        until(lambda: self.failures or (self.answered >= answered and self.operations >= operations))


@contextmanager
def load(compose: Compose) -> Iterator[Load]:
    """Readers and one that makes and deletes instances, who expect every request to be answered well."""
    seen, stop, lock = Load(), threading.Event(), threading.Lock()

    def call(session: requests.Session, method: str, address: str, body: Any = None) -> dict[str, Any]:
        try:
            reply = session.request(method, address, json=body, timeout=LONG)
            failure = "" if reply.status_code == 200 else f"{method} {address}: {reply.status_code} {reply.text[:300]}"
            found: dict[str, Any] = {} if failure else reply.json()
        except requests.RequestException as error:
            failure, found = f"{method} {address}: {error!r}", {}
        with lock:
            seen.answered += 1
            if failure:
                seen.failures.append(f"{time.strftime('%X')} {failure}")
        return found

    def new_session() -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {compose.token()}"
        return session

    def read() -> None:
        session = new_session()
        while not stop.is_set():
            for what in ("/zones", f"/zones/{_ZONE}/instances", "/global/images"):
                call(session, "GET", compose.api + what)
                # Other tests run beside this one.
                stop.wait(0.05)

    def sign_in() -> None:
        while not stop.is_set():
            try:
                compose.token()
            except (AssertionError, requests.RequestException) as error:
                seen.failures.append(f"{time.strftime('%X')} token: {error!r}")
            stop.wait(0.2)

    def write(name: str) -> None:
        session, number = new_session(), 0
        zone = f"{compose.api}/zones/{_ZONE}"
        while not stop.is_set():
            number += 1
            # Both operations of an instance finish, whoever goes meanwhile.
            for method, address, body in (
                ("POST", f"{zone}/instances", _instance(f"{name}-{number}")),
                ("DELETE", f"{zone}/instances/{name}-{number}", None),
            ):
                operation, until = call(session, method, address, body), time.monotonic() + LONG
                while operation and operation["status"] != "DONE" and time.monotonic() < until:
                    operation = call(session, "POST", f"{zone}/operations/{operation['name']}/wait")
                with lock:
                    if operation.get("status") == "DONE" and "error" not in operation:
                        seen.operations += 1
                    else:
                        seen.failures.append(f"{time.strftime('%X')} {method} {name}-{number}: {operation}")

    threads = [threading.Thread(target=one) for one in (read, read, sign_in)]
    threads.append(threading.Thread(target=write, args=(f"load-{time.time_ns():x}",)))
    for one in threads:
        one.start()
    try:
        yield seen
    finally:
        stop.set()
        for one in threads:
            one.join(120)
    assert not seen.failures, "\n".join(seen.failures[:20]) + f"\n{len(seen.failures)} of {seen.answered}"
    assert seen.answered > 50 and seen.operations >= 2, seen


def _instance(name: str) -> dict[str, Any]:
    zone = f"projects/{PROJECT}/zones/{_ZONE}"
    image = f"projects/{PROJECT}/global/images/linux-debian-12-64-bit"
    return {
        "name": name,
        "machineType": f"{zone}/machineTypes/micro",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}],
        "networkInterfaces": [{"network": f"projects/{PROJECT}/global/networks/default"}],
    }


def test_clients_work_through_it(compose: Compose) -> None:
    credentials = google.oauth2.credentials.Credentials(compose.token())  # type: ignore[no-untyped-call]
    client = discovery.build(
        "compute",
        "v1",
        credentials=credentials,
        discoveryServiceUrl=f"{compose.url}/discovery/v1/apis/{{api}}/{{apiVersion}}/rest",
    )
    instances = client.instances()
    operation = instances.insert(project=PROJECT, zone=_ZONE, body=_instance("web")).execute()
    while operation["status"] != "DONE":
        operation = client.zoneOperations().wait(project=PROJECT, zone=_ZONE, operation=operation["name"]).execute()
    assert "error" not in operation
    assert "web" in [one["name"] for one in instances.list(project=PROJECT, zone=_ZONE).execute()["items"]]


def test_https_with_the_certificate_that_is_given(compose: Compose) -> None:
    ca = Path(compose.variables["GSTACK_CERTIFICATES"]).parent / "ca.crt"
    found = requests.get(
        f"https://localhost:{compose.tls_port}/discovery/v1/apis/compute/v1/rest", verify=str(ca), timeout=LONG
    )
    # The gateway knows from the balancer how it was reached.
    assert found.json()["rootUrl"].startswith(f"https://localhost:{compose.tls_port}/")


def test_the_balancer_says_where_a_client_is_and_not_the_client(compose: Compose) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    found = requests.get(f"{compose.url}/discovery/v1/apis/compute/v1/rest", headers=headers, timeout=LONG)
    assert found.json()["rootUrl"].startswith(f"{compose.url}/")
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    assert requests.post(f"{compose.url}/oauth2/token", form, headers=headers, timeout=LONG).ok
    assert "203.0.113.9" not in compose("logs", "auth_service")


def test_each_service_sees_its_own_secrets_and_networks(compose: Compose) -> None:
    seen = {}
    for service in ("gateway", "translator_service", "auth_service"):
        container = compose.containers(service)[0]
        seen[service] = set(compose.docker("exec", container, "ls", "/etc/gstack/secrets").split())
        about = compose.docker.inspect(container)["HostConfig"]
        assert about["ReadonlyRootfs"] and about["CapDrop"] == ["ALL"]
        assert not compose.docker("exec", container, "sh", "-c", "touch /etc/gstack/secrets/x && echo yes", check=False)
    tls = {"tls.crt", "tls.key", "ca.crt"}
    assert seen["gateway"] == tls | {"services.key"}
    assert seen["translator_service"] == tls | {"services.key", "sealing.key", "gstack_database_url"}
    assert seen["auth_service"] == tls | {"services.key", "sealing.key", "master.key", "gstack_auth_database_url"}
    reached = "import socket; socket.create_connection(('postgres', 5432), 5)"
    for service, allowed in (("auth_service", True), ("gateway", False)):
        connect = ["exec", compose.containers(service)[0], "python", "-c", f"{reached}; print('reached')"]
        assert (compose.docker(*connect, check=False) == "reached") is allowed


def test_a4_a_translator_cannot_connect_to_the_database_of_auth(compose: Compose) -> None:
    code = (
        "import pathlib, psycopg; url = pathlib.Path('/etc/gstack/secrets/gstack_database_url').read_text();"
        "url = url.replace('+psycopg', ''); psycopg.connect(url).close(); print('own');"
        "psycopg.connect(url.rpartition('/')[0] + '/gstack_auth').close(); print('other')"
    )
    container = compose.containers("translator_service")[0]
    assert compose.docker("exec", container, "python", "-c", code, check=False) == "own"


def test_keys_are_looked_at_where_they_are_kept(compose: Compose) -> None:
    assert "primary" in compose("run", "--rm", "--entrypoint", "gstack", "secrets", "keys", "status")
    assert "primary  0 records" not in compose("exec", "-T", "auth_service", "gstack", "keys", "status")


def test_all_of_three_translators_serve_and_one_can_die(compose: Compose) -> None:
    compose("--profile", "demo", "up", "-d", "--no-build", "--no-recreate", "--scale", "translator_service=3")
    translators = compose.wait_healthy("translator_service", 3)
    before = [compose.answered_calls(one) for one in translators]
    with load(compose) as seen:
        # Connections are made anew at their age, and then go to all.
        until(
            lambda: all(compose.answered_calls(one) > early + 5 for one, early in zip(translators, before, strict=True))
        )
        compose.docker("kill", translators[0])
        seen.goes_on()


@pytest.mark.parametrize("service", ["translator_service", "auth_service", "gateway"])
def test_a_new_release_is_rolled_out_without_a_failed_request(compose: Compose, service: str) -> None:
    old = compose.containers(service)
    with load(compose) as seen:
        seen.goes_on()
        compose.roll(service, _NEXT)
        seen.goes_on()
    new = compose.wait_healthy(service, len(old))
    assert not set(old) & set(new)
    labels = [compose.docker.inspect(one)["Config"]["Labels"]["org.opencontainers.image.version"] for one in new]
    assert labels == [_NEXT] * len(old)


def test_clients_get_json_while_translators_are_gone(compose: Compose) -> None:
    token = compose.token()
    compose("stop", "-t", "5", "translator_service")
    try:
        found = requests.get(f"{compose.api}/zones", headers={"Authorization": f"Bearer {token}"}, timeout=LONG)
        assert found.status_code == 503 and json.loads(found.text)["error"]["code"] == 503
    finally:
        compose("start", "translator_service")


def test_nothing_starts_without_a_cloudstack_and_an_address(compose: Compose) -> None:
    other = {"COMPOSE_PROJECT_NAME": f"{compose.variables['COMPOSE_PROJECT_NAME']}-without"}
    try:
        done = compose.try_out("run", "--rm", "secrets", **other)
        assert done.returncode != 0
        assert "set GSTACK_CLOUDSTACK_URL" in done.stdout + done.stderr
        url = {"GSTACK_CLOUDSTACK_URL": "https://cloud.example.org/client/api"}
        done = compose.try_out("run", "--rm", "secrets", **other, **url)
        assert done.returncode != 0
        assert "set GSTACK_PUBLIC_URL" in done.stdout + done.stderr
    finally:
        compose.try_out("down", "-v", **other)
