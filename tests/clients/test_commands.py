"""The `gstack` command: doctor tells what is wrong, up starts and stops cleanly. For `client` see test_client_files."""

from __future__ import annotations

import os
import re
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


def test_doctor(stack: Stack, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stack.simulator_port}/client/api"
    good = run("doctor", "--cloudstack", url, "--endpoint", stack.url, *KEYS, GSTACK_STATE_DIR=str(stack.folder))
    assert good.returncode == 0, good.stdout
    assert "FAIL" not in good.stdout
    # Each line is of a check: no call is logged between them.
    assert all(re.match(r"(ok  |note) [a-z A-Z]+: ", line) for line in good.stdout.splitlines()), good.stdout
    assert "networks: CH-GV2: " in good.stdout and "permissions: all " in good.stdout
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
