"""Replicas that come and go behind a name: found soon, and not forgotten too soon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from gstack.cli import main
from gstack.kernel import rpc
from tests.clients.conftest import free_ports
from tests.waits import LONG, Clock, until

METHOD = "/tests.Replica/Who"


class Replica:
    """A server that answers with its address, and may have too much to do."""

    def __init__(self, address: str, port: int, threads: int = 8):
        self.server = rpc.Server(threads)
        self.go = threading.Event()
        self.go.set()

        def who(_: bytes, __: Any) -> bytes:
            self.go.wait(LONG)
            return address.encode()

        handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(who, "Replica.Who"))
        self.server.add_generic("tests.Replica", {"Who": handler}, callers=[])
        self.server.start(f"{address}:{port}")

    def stop(self) -> None:
        self.go.set()
        self.server.grpc.stop(None).wait()


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the name resolves to."""
    found: list[str] = []
    monkeypatch.setattr(rpc, "_resolve", lambda host, _: list(found) if host == "replicas.test" else [])
    monkeypatch.setattr(rpc, "_LOOK_LEAST_SECONDS", 0.05)
    return found


@pytest.fixture
def replica(port: int) -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(address: str, **options: int) -> Replica:
        made.append(Replica(address, port, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def looked(names: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns when what the name resolves to now has been looked up, and taken in."""
    looks, resolve = threading.Semaphore(0), rpc._resolve

    def look(host: str, port: int) -> list[str]:
        looks.release()
        return resolve(host, port)

    def again() -> None:
        while looks.acquire(blocking=False):
            pass
        # The one that is under way may have the old answer; when the third begins, the second is done.
        assert all(looks.acquire(timeout=LONG) for _ in range(3))

    monkeypatch.setattr(rpc, "_resolve", look)
    monkeypatch.setattr(rpc, "_LOOK_SECONDS", 0.02)
    return again


def test_d7_a_new_replica_is_found_when_the_others_have_too_much_to_do(
    names: list[str], port: int, replica: Callable[..., Replica]
) -> None:
    """Long before it is looked for again, and though no connection is lost."""
    names.append("127.0.0.1")
    busy = replica("127.0.0.1", threads=1)
    with rpc.channel(f"dns:///replicas.test:{port}", "replica", None) as channel:
        call = channel.unary_unary(METHOD)
        until(lambda: call_or_none(call) == b"127.0.0.1")
        busy.go.clear()
        waiting = [threading.Thread(target=call_or_none, args=(call,), daemon=True) for _ in range(2)]
        for one in waiting:
            one.start()
        replica("127.0.0.2")
        names.append("127.0.0.2")
        until(lambda: call_or_none(call) == b"127.0.0.2")
        busy.go.set()
        for one in waiting:
            one.join(LONG)


def call_or_none(call: Any) -> bytes | None:
    try:
        return bytes(call(b"", timeout=LONG))
    except grpc.RpcError:
        return None


def test_d7_an_old_answer_does_not_make_it_forget(
    names: list[str], looked: Callable[[], None], port: int, replica: Callable[..., Replica]
) -> None:
    """The DNS of a cluster has several caches: one names what another does not know yet, or any more."""
    names += ["127.0.0.1", "127.0.0.2"]
    old = replica("127.0.0.1")
    replica("127.0.0.2")
    with rpc.channel(f"dns:///replicas.test:{port}", "replica", None) as channel:
        call = channel.unary_unary(METHOD)
        until(lambda: call_or_none(call) == b"127.0.0.2")
        for answer in (["127.0.0.1"], []):
            names[:] = answer
            looked()
        old.stop()
        assert [call(b"", timeout=LONG) for _ in range(8)] == [b"127.0.0.2"] * 8


def test_addresses_that_are_not_named_for_long_are_forgotten(
    names: list[str], looked: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(rpc, "time", clock)
    names += ["127.0.0.1", "127.0.0.2"]
    moved: list[str] = []
    replicas = rpc._Replicas("replicas.test", 5001, moved.append)
    until(lambda: moved == ["ipv4:127.0.0.1:5001,127.0.0.2:5001"])
    names.pop()
    clock.now += 50
    looked()
    assert len(moved) == 1
    clock.now += 61
    until(lambda: moved[1:] == ["ipv4:127.0.0.1:5001"])
    # Answers of another family take the place of the first, and no answer takes away what was known.
    names[:] = ["fd00::1"]
    until(lambda: moved[2:] == ["ipv6:[fd00::1]:5001"])
    names.clear()
    clock.now += 61
    looked()
    assert len(moved) == 3
    replicas.close()


def test_targets() -> None:
    assert rpc._dns_name("dns:///auth.gstack.svc.cluster.local:5002") == ("auth.gstack.svc.cluster.local", 5002)
    for other in ("127.0.0.1:5001", "ipv4:127.0.0.1:5001,127.0.0.1:5011", "unix:/run/x", "dns:///auth"):
        assert rpc._dns_name(other) is None
    assert rpc._as_target(["fd00::1", "fd00::2"], 5001) == "ipv6:[fd00::1]:5001,[fd00::2]:5001"
    assert rpc._resolve("localhost", 5001)
    assert rpc._resolve("nowhere.invalid", 5001) == []


# The order of an upgrade


def test_d7_an_upgrade_waits_for_those_that_it_calls(
    port: int, replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("gstack.cli.health._PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(rpc, "releases", partial(rpc.releases, timeout=LONG))
    target = f"ipv4:127.0.0.1:{port},127.0.0.2:{port}"
    environment = {"GSTACK_TRANSLATOR_TARGET": target, "GSTACK_STATE_DIR": str(tmp_path)}

    def awaited(seconds: str) -> str:
        done = CliRunner().invoke(main, ["await", "translator", "--seconds", seconds], env=environment)
        assert done.exit_code == 0, done.output
        return done.output

    assert "going on without" in awaited("0")
    with monkeypatch.context() as before:
        before.setattr(rpc, "__version__", "1.9.9")
        old = replica("127.0.0.1")
    assert awaited("0.2") == "translator: 0 of this release, 1 of another\ntranslator: going on without\n"
    replica("127.0.0.2")
    assert awaited("0.2") == "translator: 1 of this release, 1 of another\ntranslator: going on without\n"
    old.stop()
    assert awaited(str(LONG)) == "translator: 1 of this release, 0 of another\n"
