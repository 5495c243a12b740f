"""Debian packages that tests of real parts need, installed where they are missing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

import pytest


def install(package: str) -> None:
    """Install the package; skips the test where that needs root. One test process at a time."""
    if os.geteuid() != 0:
        pytest.skip(f"the package {package} is not installed, and installing it needs root")
    with (Path(tempfile.gettempdir()) / "gstack-tests-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)
