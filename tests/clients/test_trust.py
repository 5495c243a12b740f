"""Services without certificates: callers are known by a secret, before anything of a request is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gstack.cli import main
from gstack.kernel import rpc, trust
from gstack.kernel.sealing import create_key
from gstack.kernel.settings import Settings
from tests.clients.conftest import Stack
from tests.waits import LONG

METHOD = "/tests.Echo/Go"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "services.key"
    create_key(path)
    return path


class Echo:
    def __init__(self, key: Path, **options: Any):
        self.seen: list[bytes] = []
        self.server = rpc.Server(2, trust.Secret(key), **options)

        def method(request: bytes, _: Any) -> bytes:
            self.seen.append(request)
            return request

        handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(method, "Echo.Go"))
        self.server.add_generic("tests.Echo", {"Go": handler}, callers=[])
        self.address = f"127.0.0.1:{self.server.start('127.0.0.1:0')}"


@pytest.fixture
def echo(key: Path) -> Iterator[Echo]:
    made = Echo(key)
    yield made
    made.server.grpc.stop(None).wait()


def other(folder: Path) -> trust.Secret:
    create_key(folder / "other.key")
    return trust.Secret(folder / "other.key")


def status_of(call: Any, *arguments: Any, **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments, timeout=LONG, **options)
    return raised.value.code()


def test_a5_who_shows_the_secret_is_let_in(echo: Echo, key: Path, tmp_path: Path) -> None:
    with rpc.channel(echo.address, "echo", trust.Secret(key)) as channel:
        assert channel.unary_unary(METHOD)(b"x", timeout=LONG) == b"x"
    for stranger in (None, other(tmp_path)):
        with rpc.channel(echo.address, "echo", stranger) as channel:
            assert status_of(channel.unary_unary(METHOD), b"y") == grpc.StatusCode.UNAUTHENTICATED
    # Nor is a text a secret.
    with grpc.insecure_channel(echo.address) as channel:
        shown = (("x-services-secret", "x"),)
        assert status_of(channel.unary_unary(METHOD), b"z", metadata=shown) == grpc.StatusCode.UNAUTHENTICATED
    assert echo.seen == [b"x"]


def test_a5_a_stranger_is_refused_before_the_request_is_read(echo: Echo) -> None:
    """Here it never comes."""
    done = threading.Event()

    def never() -> Iterator[bytes]:
        done.wait(LONG)
        yield b""

    with grpc.insecure_channel(echo.address) as channel:
        assert status_of(channel.stream_unary(METHOD), never()) == grpc.StatusCode.UNAUTHENTICATED
        done.set()


def test_probes_need_no_secret_and_a_service_with_another_one_is_told(echo: Echo, key: Path, tmp_path: Path) -> None:
    assert rpc.healthy(echo.address)
    assert rpc.healthy(echo.address, "echo", trust.Secret(key))
    assert not rpc.healthy(echo.address, "echo", other(tmp_path))
    with grpc.insecure_channel(echo.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def test_the_secret_is_changed_while_services_run(key: Path) -> None:
    """One who has read the file already, and one who has not, in both directions."""
    before = trust.Secret(key)
    for step in ("stage", "promote"):
        command = ["keys", step, "--ring", "services", *(["--now"] if step == "promote" else [])]
        done = CliRunner().invoke(main, command, env={"GSTACK_SERVICES_KEY_FILE": str(key)})
        assert done.exit_code == 0, done.output
        after = trust.Secret(key)
        assert after.knows(before.shown()[1])
        if step == "stage":
            staged = after
    assert staged.knows(after.shown()[1]) and not before.knows(after.shown()[1])
    done = CliRunner().invoke(
        main, ["keys", "retire", "--ring", "services", "--now"], env={"GSTACK_SERVICES_KEY_FILE": str(key)}
    )
    assert done.exit_code == 0, done.output
    assert not trust.Secret(key).knows(before.shown()[1])


def asked(address: str, secret: trust.Secret) -> list[str]:
    """Names of services that reflection tells."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = stub.ServerReflectionInfo(question, metadata=(secret.shown(),), timeout=LONG)
        return [one.name for one in next(answers).list_services_response.service]


def test_a5_reflection_is_off_unless_asked_for(echo: Echo, key: Path) -> None:
    assert status_of(lambda **_: asked(echo.address, trust.Secret(key))) == grpc.StatusCode.UNIMPLEMENTED
    talkative = Echo(key, reflection=True)
    try:
        assert "tests.Echo" in asked(talkative.address, trust.Secret(key))
    finally:
        talkative.server.grpc.stop(None).wait()


def test_what_services_know_each_other_by(tmp_path: Path, key: Path) -> None:
    first, second = (trust.of(Settings(state_dir=tmp_path / "state")) for _ in range(2))
    assert isinstance(first, trust.Secret) and isinstance(second, trust.Secret) and second.knows(first.shown()[1])
    assert (tmp_path / "state" / "services.key").stat().st_mode & 0o777 == 0o600
    named = trust.of(Settings(state_dir=tmp_path / "nothing", services_key_file=key))
    assert isinstance(named, trust.Secret) and not named.knows(first.shown()[1])
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("service", "method"), [("TRANSLATOR", "compute.v1.Zones/List"), ("AUTH", "auth.v1.Auth/Authenticate")]
)
def test_a5_running_services_know_their_own(stack: Stack, service: str, method: str) -> None:
    with grpc.insecure_channel(stack.environment[f"GSTACK_{service}_LISTEN"]) as channel:
        assert status_of(channel.unary_unary(f"/gstack.{method}"), b"") == grpc.StatusCode.UNAUTHENTICATED
    assert stack.call("GET", "/zones").status_code == 200
