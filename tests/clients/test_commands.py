"""The `gstack` command: what it writes for clients works, doctor tells what is wrong, up starts and stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.clients.conftest import API_KEY, SECRET_KEY, Stack, free_ports

GSTACK = [sys.executable, "-m", "gstack.cli"]
KEYS = ["--api-key", API_KEY, "--secret-key", SECRET_KEY]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GSTACK_")}
    return subprocess.run(
        [*GSTACK, *arguments], capture_output=True, text=True, timeout=120, env=clean | environment, check=False
    )


def write(stack: Stack, tool: str, folder: Path) -> str:
    found = run("client", tool, "--endpoint", stack.url, "--project", "demo", "--directory", str(folder), *KEYS)
    assert found.returncode == 0, found.stderr
    assert SECRET_KEY not in found.stdout
    return found.stdout


def test_python_and_libcloud_programs_run(stack: Stack, tmp_path: Path) -> None:
    for tool, file in (("python", "gstack_compute.py"), ("libcloud", "gstack_libcloud.py")):
        write(stack, tool, tmp_path)
        found = subprocess.run(
            [sys.executable, str(tmp_path / file)], capture_output=True, text=True, timeout=60, check=False
        )
        assert found.returncode == 0, found.stderr
    assert stat.S_IMODE((tmp_path / "gstack_compute.py").stat().st_mode) == 0o600


def test_gcutil_credential_file(stack: Stack, tmp_path: Path) -> None:
    write(stack, "gcutil", tmp_path)
    store = json.loads((tmp_path / ".gcutil_auth").read_text())
    credential = store["data"][0]["credential"]
    assert stat.S_IMODE((tmp_path / ".gcutil_auth").stat().st_mode) == 0o600
    # What gcutil does with it at its first 401: this request, and then its command again.
    form = {key: credential[key] for key in ("client_id", "client_secret", "refresh_token")}
    reply = requests.post(credential["token_uri"], {"grant_type": "refresh_token", **form}, timeout=30)
    assert reply.status_code == 200
    assert f"--api_host={stack.url}/" in (tmp_path / ".gcutil.flags").read_text()


def test_gcloud_and_terraform_files_are_shell(stack: Stack, tmp_path: Path) -> None:
    write(stack, "gcloud", tmp_path)
    script = (tmp_path / "gcloud.sh").read_text().replace("gcloud auth", ": gcloud auth")
    found = subprocess.run(
        ["bash", "-euc", script + "\necho $CLOUDSDK_AUTH_TOKEN_HOST"], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == f"{stack.url}/oauth2/token"
    write(stack, "terraform", tmp_path)
    command = f'. {tmp_path}/token.sh && test -n "$GOOGLE_OAUTH_ACCESS_TOKEN"'
    assert subprocess.run(["bash", "-euc", command], check=False).returncode == 0


def test_doctor(stack: Stack, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stack.simulator_port}/client/api"
    good = run("doctor", "--cloudstack", url, "--endpoint", stack.url, *KEYS, GSTACK_STATE_DIR=str(stack.folder))
    assert good.returncode == 0, good.stdout
    assert "FAIL" not in good.stdout
    assert "CH-GV2 (security groups)" in good.stdout
    assert "firewall rules: " in good.stdout and "database is" not in good.stdout
    bad = run("doctor", "--cloudstack", url, "--api-key", API_KEY, "--secret-key", "wrong")
    assert bad.returncode == 1
    assert "FAIL keys" in bad.stdout
    away = run("doctor", "--cloudstack", f"http://127.0.0.1:{free_ports(1)[0]}/client/api", *KEYS)
    assert away.returncode == 1
    assert "does not answer" in away.stdout
    assert "Traceback" not in good.stderr + bad.stderr + away.stderr


def test_up_says_what_is_wrong(stack: Stack, tmp_path: Path) -> None:
    taken = run("up", "--demo", "--port", str(stack.port), GSTACK_STATE_DIR=str(tmp_path))
    assert taken.returncode == 1
    assert "the port is in use; try --port" in taken.stderr
    assert run("up", GSTACK_STATE_DIR=str(tmp_path)).returncode == 2
    wrong = run("translator", GSTACK_LOG_LEVEL="loud")
    assert "GSTACK_LOG_LEVEL" in wrong.stderr
    no_file = run("auth", GSTACK_CONFIG=str(tmp_path / "none.toml"))
    assert "which is not there" in no_file.stderr
    no_key = run("auth", GSTACK_STATE_DIR=str(tmp_path / "none"))
    assert no_key.returncode == 1
    assert "key file" in no_key.stderr
    assert "Traceback" not in taken.stderr + wrong.stderr + no_key.stderr


def test_up_starts_and_stops(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GSTACK_")}
    process = subprocess.Popen(
        [*GSTACK, "up", "--demo", "--tls", "--port", str(port)],
        env=clean | {"GSTACK_STATE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        text = ""
        assert process.stdout is not None
        while "Ctrl-C" not in text and time.monotonic() < until:
            text += process.stdout.readline()
        ca = tmp_path / "demo" / "ca.pem"
        assert str(ca) in text
        assert requests.get(f"https://127.0.0.1:{port}/readyz", verify=str(ca), timeout=10).status_code == 200
        assert stat.S_IMODE((tmp_path / "demo" / "tls.key").stat().st_mode) == 0o600
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
    with requests.Session() as session:
        try:
            session.get(f"https://127.0.0.1:{port}/readyz", verify=False, timeout=2)
            raise AssertionError("still there")
        except requests.ConnectionError:
            pass
