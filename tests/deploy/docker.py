"""A Docker engine and the images, for tests of what is deployed.

Where no engine answers, Debian's is installed and started for the session. The base image and those that stand in for
the official `postgres` and `haproxy` are made of Debian packages, so that no image registry is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.packages import install
from tests.waits import until

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "translator", "auth", "simulator")
TAG = "tests"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gstack-tests"
# The release that the official images of the Dockerfile's default are made of: the same Python.
_SUITE = "trixie"

_APT = "RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
_POSTGRES = f"""
FROM gstack-tests-base
{_APT} postgresql >/dev/null && rm -rf /var/lib/postgresql/* && ln -s /usr/lib/postgresql/*/bin /opt/postgresql
ENV PATH=/opt/postgresql:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
COPY entrypoint /entrypoint
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/entrypoint"]
CMD ["postgres"]
"""
# What the official image promises and docker-compose.yml relies on.
_POSTGRES_ENTRYPOINT = """
set -eu
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    chown postgres:postgres /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups sh /entrypoint "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --no-sync >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -j postgres >/dev/null
    pg_ctl -w -o "-c listen_addresses=''" start >/dev/null
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql -v ON_ERROR_STOP=1 --no-psqlrc -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file"
    done
    pg_ctl -m fast -w stop >/dev/null
fi
exec "$@"
"""
_HAPROXY = f"""
FROM gstack-tests-base
{_APT} haproxy >/dev/null
USER haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy", "-W", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""


@dataclass
class Docker:
    """The docker command with the engine's address."""

    environment: dict[str, str] = field(default_factory=lambda: {**os.environ, "DOCKER_CLI_HINTS": "false"})

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 170, text: str | None = None) -> str:
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, input=text, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout[-4000:]}{done.stderr}"
        return done.stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self("inspect", what))
        return found[0]

    def has_image(self, name: str) -> bool:
        return bool(self("images", "-q", name))

    def answers(self) -> bool:
        try:
            command = ["docker", "version", "--format", "{{.Server.Version}}"]
            asked = subprocess.run(command, env=self.environment, capture_output=True, timeout=20, check=False)
            return asked.returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    def build_text(self, name: str, dockerfile: str, **files: str | bytes) -> None:
        """Build an image of a Dockerfile and files that are only here."""
        with tempfile.TemporaryDirectory() as folder:
            for file, content in {"Dockerfile": dockerfile, **files}.items():
                (Path(folder) / file).write_bytes(content.encode() if isinstance(content, str) else content)
            self("build", "--network", "host", "-t", name, folder, timeout=500)

    def build(self, service: str, tag: str, **arguments: str) -> None:
        values = {"BASE_IMAGE": "gstack-tests-base", "VERSION": tag, **arguments}
        flags = [flag for name, value in values.items() for flag in ("--build-arg", f"{name}={value}")]
        image = f"gstack-{service}:{tag}"
        self("build", "--network", "host", "--target", service, "-t", image, *flags, str(ROOT), timeout=900)


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """An engine: the one that answers, or Debian's, stopped in the end."""
    docker = Docker()
    if shutil.which("docker") and docker.answers():
        yield docker
        return
    for program, package in (("dockerd", "docker.io"), ("iptables", "iptables")):
        if not shutil.which(program):
            install(package)
    if os.geteuid() != 0:
        pytest.skip("no Docker engine answers, and starting one needs root")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "engine.lock").open("w") as lock:
        # Layers are kept for the next time, and two engines must not share them.
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = tmp_path_factory.mktemp("docker")
        docker.environment["DOCKER_HOST"] = f"unix://{folder}/socket"
        engine = _start(docker, folder)
        try:
            yield docker
        finally:
            docker("container", "prune", "-f", check=False)
            docker("image", "prune", "-f", check=False)
            engine.terminate()
            engine.wait(60)
            # The engine leaves this mounted, and so the folder could not be removed.
            subprocess.run(["umount", str(folder / "exec" / "netns" / "default")], capture_output=True, check=False)


def _start(docker: Docker, folder: Path) -> subprocess.Popen[bytes]:
    """Containers that the tests themselves run in may forbid one or the other."""
    for options in (
        ["--storage-driver=overlay2"],
        ["--storage-driver=vfs"],
        ["--storage-driver=vfs", "--iptables=false"],
    ):
        # It ends with us, however we end: what it keeps is of use to one engine at a time.
        command = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "dockerd",
            "--host",
            docker.environment["DOCKER_HOST"],
            "--pidfile",
            str(folder / "pid"),
        ]
        command += ["--data-root", str(_CACHE / "engine"), "--exec-root", str(folder / "exec"), *options]
        with (folder / "log").open("ab") as log:
            engine = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        # With the wrong storage everything would be built anew: only an engine that has ended is given up.
        until(lambda: engine.poll() is not None or docker.answers(), pause=0.3)  # noqa: B023
        if engine.poll() is None:
            return engine
        engine.kill()
        engine.wait()
    raise AssertionError("no Docker engine starts:\n" + (folder / "log").read_text()[-4000:])


@pytest.fixture(scope="session")
def base_image(docker: Docker) -> None:
    """`gstack-tests-base`: Debian with Python, and the CAs and the package index that pip uses on this machine."""
    if not docker.has_image("gstack-tests-debian"):
        tarball = _CACHE / f"debian-{_SUITE}.tar"
        if not tarball.exists():
            _make_debian(tarball)
        docker("import", str(tarball), "gstack-tests-debian")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    pairs = (line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
    values = {key.rpartition(".")[2]: value.strip("'\"") for key, value in pairs}
    lines, certificates = ["[global]"], b""
    if "index-url" in values:
        lines.append(f"index-url = {values['index-url']}")
    recipe = "FROM gstack-tests-debian\nCOPY pip.conf /etc/pip.conf\n"
    if "cert" in values:
        lines.append("cert = /etc/ssl/certs/ca-certificates.crt")
        certificates = Path(values["cert"]).read_bytes()
        recipe += "COPY certificates /etc/ssl/certs/ca-certificates.crt\n"
    docker.build_text(
        "gstack-tests-base", recipe, **{"pip.conf": "\n".join(lines) + "\n", "certificates": certificates}
    )


def _make_debian(tarball: Path) -> None:
    for program, package in (
        ("debootstrap", "debootstrap"),
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ):
        if not (shutil.which(program) or Path(program).exists()):
            install(package)
    if os.geteuid() != 0:
        pytest.skip("making the base image needs root")
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        packages = "--include=python3,python3-venv,ca-certificates"
        make = ["debootstrap", "--variant=minbase", packages, _SUITE, f"{folder}/root"]
        subprocess.run(make, check=True, capture_output=True)
        for cache in ("cache/apt/archives", "lib/apt/lists"):
            shutil.rmtree(Path(folder) / "root/var" / cache)
        part = tarball.with_suffix(".part")
        subprocess.run(["tar", "-C", f"{folder}/root", "-cf", str(part), "."], check=True)
        part.rename(tarball)


@pytest.fixture(scope="session")
def images(docker: Docker, base_image: None) -> dict[str, str]:
    """Names of the images of the services, built from this checkout."""
    # By a name, so that what it took to install the dependencies outlives the removal of what has none.
    for service in ("build", *SERVICES):
        docker.build(service, TAG)
    return {service: f"gstack-{service}:{TAG}" for service in SERVICES}


@pytest.fixture(scope="session")
def other_images(docker: Docker, base_image: None) -> dict[str, str]:
    """The variables of docker-compose.yml that name PostgreSQL's and HAProxy's images."""
    recipes: dict[str, tuple[str, dict[str, str]]] = {
        "postgres": (_POSTGRES, {"entrypoint": _POSTGRES_ENTRYPOINT}),
        "haproxy": (_HAPROXY, {}),
    }
    names = {}
    for name, (recipe, files) in recipes.items():
        digest = hashlib.sha256((recipe + str(files)).encode()).hexdigest()[:12]
        names[f"{name.upper()}_IMAGE"] = image = f"gstack-tests-{name}:{digest}"
        if not docker.has_image(image):
            docker.build_text(image, recipe, **files)
    return names
