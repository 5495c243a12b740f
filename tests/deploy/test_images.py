"""The images are what docs say: small, of one service, without root, without installers, with a list of contents."""

from __future__ import annotations

import json

import pytest

from tests.deploy.docker import SERVICES, TAG, Docker
from tests.waits import until

# The first of them builds everything.
pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(900)]

_PACKAGES = {
    "gateway": "gateway", "translator": "translator_service", "auth": "auth_service", "simulator": "simulator"
}  # fmt: skip
each = pytest.mark.parametrize("service", SERVICES)
# Measured: 147 MB on top of the base image.
_MEGABYTES = 180

_LOOK = """
import importlib.metadata, importlib.util, json, shutil
print(json.dumps({
    "packages": [name for name in %r if importlib.util.find_spec(name)],
    "installers": [name for name in ("pip", "setuptools", "ensurepip", "wheel") if importlib.util.find_spec(name)],
    "programs": [name for name in ("pip", "pip3", "gcc", "cc", "make", "git", "curl") if shutil.which(name)],
    "distributions": {one.name.lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()},
    "missing": [str(file) for file in importlib.metadata.files("gstack") if not file.locate().exists()],
    "bytecode": importlib.util.find_spec("gstack.cli").cached,
    "sbom": json.load(open("/usr/share/gstack/sbom.cdx.json")),
}))
"""


def _look(docker: Docker, image: str) -> dict[str, object]:
    code = _LOOK % (tuple(_PACKAGES.values()),)
    found: dict[str, object] = json.loads(docker("run", "--rm", "-i", "--entrypoint", "python", image, "-", text=code))
    return found


@each
def test_an_image_says_how_it_is_run_and_where_it_comes_from(
    docker: Docker, images: dict[str, str], service: str
) -> None:
    about = docker.inspect(images[service])["Config"]
    assert about["User"] == "10001:10001"
    assert about["Entrypoint"] == ["gstack"] and about["Cmd"][0] == service
    assert about["StopSignal"] == "SIGTERM"
    assert about["Healthcheck"]["Test"] == ["CMD", "healthy", service]
    own = {name.removeprefix("org.opencontainers.image."): value for name, value in about["Labels"].items()}
    assert own["title"] == f"gstack {service}" and own["licenses"] == "Apache-2.0"
    assert own["version"] == TAG and own["description"] and own["revision"] and own["source"]


@each
def test_an_image_holds_one_service_and_nothing_to_install_or_compile_with(
    docker: Docker, images: dict[str, str], service: str
) -> None:
    found = _look(docker, images[service])
    assert found["packages"] == [_PACKAGES[service]]
    assert found["installers"] == [] and found["programs"] == []
    assert found["missing"] == []
    cached = found["bytecode"]
    docker("run", "--rm", "--entrypoint", "test", images[service], "-f", str(cached))


@each
def test_the_sbom_names_what_is_inside(docker: Docker, images: dict[str, str], service: str) -> None:
    found = _look(docker, images[service])
    sbom = found["sbom"]
    assert isinstance(sbom, dict)
    assert sbom["bomFormat"] == "CycloneDX" and sbom["metadata"]["component"]["name"] == f"gstack-{service}"
    listed: dict[str, dict[str, str]] = {"pypi": {}, "deb": {}, "generic": {}}
    for one in sbom["components"]:
        listed[one["purl"].split(":")[1].split("/")[0]][one["name"].lower().replace("_", "-")] = one["version"]
    own = {"gstack": listed["generic"].pop("gstack")}
    assert listed["pypi"] | own == found["distributions"]
    status = docker("run", "--rm", "--entrypoint", "dpkg-query", images[service], "-W", "-f", "${Package} ${Version}\n")
    assert listed["deb"] == dict(line.split() for line in status.splitlines())
    assert list(listed["generic"]) == ["python"]
    unlicensed = [one["name"] for one in sbom["components"] if "pypi" in one["purl"] and not one.get("licenses")]
    assert len(unlicensed) <= 3, unlicensed


@each
def test_an_image_is_small(docker: Docker, images: dict[str, str], service: str) -> None:
    size = docker.inspect(images[service])["Size"] - docker.inspect("gstack-tests-base")["Size"]
    assert size < _MEGABYTES * 1_000_000


def test_images_share_all_layers_but_a_small_one(docker: Docker, images: dict[str, str]) -> None:
    layers = [docker.inspect(image)["RootFS"]["Layers"] for image in images.values()]
    assert len({tuple(one[:-1]) for one in layers}) == 1


def test_a_container_runs_on_a_file_system_that_cannot_be_written(docker: Docker, images: dict[str, str]) -> None:
    secure = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    container = docker("run", "-d", *secure, "--health-interval", "1s", images["simulator"])
    try:
        until(
            lambda: docker.inspect(container)["State"]["Health"]["Status"] == "healthy",
            pause=0.3,
            told=lambda: docker("logs", container),
        )
        # It is not killed, which would be 137.
        docker("stop", "--time", "100", container)
        assert docker.inspect(container)["State"]["ExitCode"] == 0
    finally:
        docker("rm", "-f", container, check=False)


@each
def test_nobody_who_answers_is_not_healthy(docker: Docker, images: dict[str, str], service: str) -> None:
    code = f"healthy {service} && echo well || echo not well"
    assert docker("run", "--rm", "--entrypoint", "sh", images[service], "-c", code, check=False) == "not well"


def test_other_commands_run_too(docker: Docker, images: dict[str, str]) -> None:
    assert docker("run", "--rm", images["auth"], "--version").startswith("gstack ")
    refused = docker("run", "--rm", images["translator"], check=False)
    assert "Traceback" not in refused
