"""`gstack up` and its services as processes: signals, a death without warning, one folder for one, logs."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from gstack.cli.up import _Log
from gstack.kernel import process
from tests.clients.conftest import Stack, free_ports, make_stack

GSTACK = [sys.executable, "-m", "gstack.cli"]


@dataclass
class Up:
    """A running `gstack up --demo`, and what it says."""

    folder: Path
    port: int
    process: subprocess.Popen[str]

    @property
    def state(self) -> Path:
        return self.folder / "demo"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said_until(self, text: str) -> str:
        said = ""
        assert self.process.stdout is not None
        while text not in said:
            line = self.process.stdout.readline()
            assert line, said
            said += line
        return said

    def services(self) -> list[int]:
        """Processes of all its services, their workers too."""
        mark = f"GSTACK_STATE_DIR={self.state}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if int(path.name) != self.process.pid and mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except (OSError, ValueError):
                continue
        return found


def environment(folder: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GSTACK_")}
    return clean | {"GSTACK_STATE_DIR": str(folder)}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    started: list[Up] = []

    def make() -> Up:
        port = free_ports(1)[0]
        process = subprocess.Popen(
            [*GSTACK, "up", "--demo", "--port", str(port)],
            env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(Up(tmp_path, port, process))
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()
        for number in one.services():
            os.kill(number, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def burst(send: Callable[[int], None], ended: Callable[[], bool]) -> None:
    """Signals as close together as they come, until the process is gone."""
    for _ in range(5000):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                send(number)
            except ProcessLookupError:
                return
        if ended():
            return


def test_signals_in_a_burst_stop_everything(start: Callable[[], Up]) -> None:
    up = start()
    up.said_until("Ctrl-C stops it.")
    assert len(up.services()) >= 4
    burst(lambda number: os.killpg(up.process.pid, number), lambda: up.process.poll() is not None)
    assert up.process.wait(60) == 0
    wait_until(lambda: not up.services())


@pytest.mark.parametrize("service", ["translator", "auth", "simulator"])
def test_signals_in_a_burst_stop_a_service(tmp_path: Path, service: str) -> None:
    stack: Stack = make_stack(tmp_path)
    stack.start(service)
    running = stack.processes[service]
    try:
        wait_until(lambda: "serving" in stack.log(service) or service == "simulator")
        burst(running.send_signal, lambda: running.poll() is not None)
        running.wait(60)
    finally:
        running.kill()
        running.wait()


def test_services_end_with_the_process_that_started_them(start: Callable[[], Up]) -> None:
    up = start()
    up.said_until("Ctrl-C stops it.")
    up.process.kill()
    up.process.wait()
    # The next one waits for them, and then has the folder to itself.
    again = start()
    again.said_until("Ctrl-C stops it.")
    assert requests.get(f"{again.url}/readyz", timeout=10).status_code == 200
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{up.url}/readyz", timeout=10)
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(60) == 0


def test_one_folder_is_for_one(start: Callable[[], Up]) -> None:
    first = start()
    first.said_until("Ctrl-C stops it.")
    second = start()
    said = second.said_until("GSTACK_STATE_DIR")
    assert f"{first.state} is in use by another `gstack up`, process {first.process.pid}" in said.replace("\n", " ")
    assert second.process.wait(30) == 1
    assert requests.get(f"{first.url}/readyz", timeout=10).status_code == 200


def test_nobody_else_reads_what_it_keeps(start: Callable[[], Up]) -> None:
    up = start()
    up.said_until("Ctrl-C stops it.")
    files = [path for path in up.state.rglob("*") if path.is_file()]
    assert {"auth.sqlite", "translator.sqlite", "workflows.sqlite", "auth.log", "lock", "services.key"} <= {
        path.name for path in files
    }
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in files} == dict.fromkeys(files, 0o600)
    folders = [up.state, *(path for path in up.state.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


# Parts of it


def test_stop_signals_are_waited_for_in_a_process_of_their_own() -> None:
    """Also those that come before anybody waits, and while a handler runs."""
    code = (
        "import os, signal, time; from gstack.kernel.process import StopSignals; signals = StopSignals(); "
        "assert not signals.wait(0.01); [signal.raise_signal(signal.SIGTERM) for _ in range(100000)]; "
        "assert signals.wait() and signals.wait(1) and signals.told; print('told')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


def test_a_process_without_a_lifeline_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(process.LIFELINE, raising=False)
    process.end_with_parent(1)
    assert "lifeline" not in {one.name for one in threading.enumerate()}


def test_logs_are_bounded_and_survive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gstack.cli.up._LOG_BYTES", 200_000)
    folder = tmp_path / "log"
    folder.mkdir()
    log = _Log(folder / "auth.log")
    lines = [f"{number:>9999}\n".encode() for number in range(100)]
    for line in lines[:50]:
        os.write(log.writing, line)
    wait_until(lambda: (folder / "auth.log").exists() and lines[49] in (folder / "auth.log").read_bytes())
    assert sorted(path.name for path in folder.iterdir()) == ["auth.log", "auth.log.1", "auth.log.2"]
    # Nothing can be written: nobody waits, and what comes later is kept.
    moved = folder.rename(tmp_path / "away")
    log.path = tmp_path / "log" / "auth.log"
    for line in lines[50:90]:
        os.write(log.writing, line)
    moved.rename(folder)
    for line in lines[90:]:
        os.write(log.writing, line)
        wait_until(lambda line=line: line in b"".join(path.read_bytes() for path in folder.iterdir()))
    os.close(log.writing)
    log.close()
    assert log.tail(1) == [lines[-1].decode().rstrip("\n")]
    assert all(path.stat().st_size <= 200_000 and path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
