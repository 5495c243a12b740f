"""The memory of gstack's processes: idle, and under mixed work for a moment (the long form is `make bench-soak`)."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import figures, resident_mb, run, verdict
from gstack.kernel.rpc import healthy
from tests.clients.conftest import Stack, make_stack
from tests.clients.sequences import until

# It is 117 MB with the packages that the images have; test tools bring more, and machines differ.
IDLE_MB = 130


def test_c2_an_idle_translator_is_small(tmp_path: Path) -> None:
    stack = make_stack(tmp_path)
    # As in deployments, where the schema is there before a translator starts.
    stack.run("db", "upgrade")
    stack.start("translator")
    try:
        until(lambda: healthy(stack.environment["GSTACK_TRANSLATOR_LISTEN"]))
        assert resident_mb(stack.processes["translator"].pid) < IDLE_MB
    finally:
        stack.kill("translator")


def test_c2_every_process_is_measured_under_mixed_work(own_stack: Stack) -> None:
    own_stack.stop("gateway")
    own_stack.start("gateway", GSTACK_GATEWAY_WORKERS="2")
    own_stack.wait_ready()
    result = run(own_stack, minutes=0.1)
    names = {row["process"] for row in result["processes"]}
    assert names == {"auth", "translator", "gateway", "gateway, worker 1", "gateway, worker 2"}
    assert all(row["idle_mb"] > 30 for row in result["processes"])
    asked = result["requests"]
    assert {"list 200", "pages 200", "batch 200", "insert 200", "token 200", "wrong token 401"} <= set(asked)
    # Keys that are not known yet may be told to wait.
    assert not [name for name in asked if name.endswith(("500", "501", "502", "504"))], asked


@pytest.mark.parametrize(
    ("samples", "flat"),
    [
        ([100.0, *range(100, 150), *[150.0] * 50], True),
        ([100.0, *[150.0] * 60, *[157.9] * 40], True),
        ([100.0, *[150.0] * 60, *[158.1] * 40], False),
        ([300.0, *[400.0] * 60, *[419.0] * 40], True),
        ([300.0, *[400.0] * 60, *[421.0] * 40], False),
    ],
)
def test_a_process_is_flat_that_does_not_grow_after_half_time(samples: list[float], flat: bool) -> None:
    row = {"process": "auth", **figures(samples)}
    assert row["flat"] is flat
    assert (row["idle_mb"], row["end_mb"], row["most_mb"]) == (samples[0], samples[-1], max(samples))
    assert bool(verdict({"processes": [row], "requests": {"list 200": 5}})) is not flat


def test_a_failure_is_part_of_the_verdict() -> None:
    assert verdict({"processes": [], "requests": {"list 200": 5, "token 503": 1}}) == []
    assert verdict({"processes": [], "requests": {"list 500": 5}}) == ["5 requests failed"]


_ARENAS = """
import ctypes, threading
from gstack.kernel import process
process.share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(12)
def work():
    together.wait()
    for _ in range(2000):
        libc.malloc(ctypes.c_size_t(3000))
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
[one.start() for one in threads]
[one.join() for one in threads]
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="no glibc")
def test_threads_share_arenas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    done = subprocess.run([sys.executable, "-c", _ARENAS], capture_output=True, text=True, timeout=60, check=True)
    assert 1 <= done.stdout.count("<heap nr=") <= 2, done.stdout
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    done = subprocess.run([sys.executable, "-c", _ARENAS], capture_output=True, text=True, timeout=60, check=True)
    assert 3 <= done.stdout.count("<heap nr=") <= 4, done.stdout
