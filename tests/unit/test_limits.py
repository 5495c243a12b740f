"""What is too much is refused at once: in a gateway process, for one user, in a gRPC server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gateway import limits
from gateway.limits import Room, Users
from gstack.kernel import rpc
from gstack.kernel.errors import ApiError, from_rpc
from gstack.kernel.waits import Waits
from tests.waits import LONG, Clock, until


def test_a_crowd_of_quick_requests_passes() -> None:
    room = Room(2)

    def quick(_: int) -> None:
        with room.place():
            time.sleep(0.01)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(quick, range(40)))


def test_in_a_lasting_crowd_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    room, done = Room(1), threading.Event()
    inside = threading.Event()
    free, chances = room._free, []

    def acquire(blocking: bool = True, timeout: float | None = None) -> bool:
        chances.extend([timeout] if blocking else [])
        return free.acquire(blocking, timeout)

    room._free = SimpleNamespace(acquire=acquire, release=free.release)  # type: ignore[assignment]

    def slow() -> None:
        with room.place():
            inside.set()
            done.wait(LONG)

    thread = threading.Thread(target=slow)
    thread.start()
    inside.wait(LONG)
    for number in range(20):
        # Only the first of them is given a chance, and one after a while.
        clock.now += 1.1 if number == 10 else 0.01
        with pytest.raises(ApiError) as raised, room.place():
            pass
        assert (raised.value.code, raised.value.retry_after) == (503, 1)
        assert chances == [0.5] * (1 if number < 10 else 2)
    done.set()
    thread.join()
    with room.place():
        pass


def test_one_user_does_not_take_the_place_of_all() -> None:
    users = Users(2)
    users.enter("ian")
    users.enter("ian")
    with pytest.raises(ApiError) as raised:
        users.enter("ian")
    assert (raised.value.code, raised.value.reason, raised.value.retry_after) == (429, "rateLimitExceeded", 1)
    users.enter("eve")
    users.leave("ian")
    users.enter("ian")
    for user in ("ian", "ian", "eve"):
        users.leave(user)
    assert not users._running


def test_waiting_is_shared_out_and_nobody_is_refused() -> None:
    waits = Waits(3, 2)
    with waits.place("ian") as first, waits.place("ian") as second, waits.place("ian") as third:
        assert (first, second, third) == (True, True, False)
        with waits.place("eve") as hers, waits.place("joe") as his:
            assert (hers, his) == (True, False)
    with waits.place("joe") as his:
        assert his
    assert not waits._running


class Slow:
    """A server whose calls take until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.server = rpc.Server(2)

        def method(request: bytes, context: Any) -> bytes:
            if rpc.may_wait():
                self.go.wait(LONG)
            return request

        handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(method, "Slow.Go"))
        self.server.add_generic("tests.Slow", {"Go": handler}, callers=[])
        self.address = f"127.0.0.1:{self.server.start('127.0.0.1:0')}"


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go.set()
    made.server.grpc.stop(None).wait()


def test_c6_calls_beyond_threads_and_queue_are_refused_and_health_goes_on(slow: Slow) -> None:
    with rpc.channel(slow.address, "slow", None) as channel, ThreadPoolExecutor(12) as pool:
        call = channel.unary_unary("/tests.Slow/Go")
        waiting = [pool.submit(call, b"x", timeout=LONG) for _ in range(4)]
        until(lambda: slow.server.grpc._state.active_rpc_count >= 4)
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as raised:
                call(b"x", timeout=LONG)
            refusal = from_rpc(raised.value)
            assert (refusal.code, refusal.retry_after) == (503, 1)
        # A replica that has much to do is no dead one.
        assert rpc.healthy(slow.address)
        slow.go.set()
        assert [one.result(LONG) for one in waiting] == [b"x"] * 4
        assert call(b"y", timeout=LONG) == b"y"


def test_b4_a_service_with_threads_of_its_own_is_served_whatever_the_others_do(slow: Slow) -> None:
    handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(lambda request, _: request, "Quick.Go"))
    slow.server.add_generic("tests.Quick", {"Go": handler}, callers=[], threads=1)
    with rpc.channel(slow.address, "slow", None) as channel, ThreadPoolExecutor(12) as pool:
        call = channel.unary_unary("/tests.Slow/Go")
        waiting = [pool.submit(call, b"x", timeout=LONG) for _ in range(4)]
        until(lambda: slow.server.grpc._state.active_rpc_count >= 4)
        with pytest.raises(grpc.RpcError):
            call(b"x", timeout=LONG)
        assert channel.unary_unary("/tests.Quick/Go")(b"q", timeout=LONG) == b"q"
        slow.go.set()
        assert [one.result(LONG) for one in waiting] == [b"x"] * 4


def test_c1_requests_are_as_large_as_a_server_takes_them() -> None:
    server = rpc.Server(1, max_request=1000)
    seen: list[bytes] = []
    handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(lambda request, _: seen.append(request) or b"", "Small"))
    server.add_generic("tests.Small", {"Go": handler}, callers=[])
    with rpc.channel(f"127.0.0.1:{server.start('127.0.0.1:0')}", "small", None) as channel:
        call = channel.unary_unary("/tests.Small/Go")
        call(b"x" * 900, timeout=LONG)
        with pytest.raises(grpc.RpcError):
            call(b"x" * 1100, timeout=LONG)
    server.grpc.stop(None).wait()
    assert [len(one) for one in seen] == [900]


def test_b3_a_call_that_may_not_wait_is_answered_at_once(slow: Slow) -> None:
    with rpc.channel(slow.address, "slow", None) as channel:
        call = channel.unary_unary("/tests.Slow/Go")
        for _ in range(3):
            assert call(b"x", timeout=LONG, metadata=((rpc.AT_ONCE, "1"),)) == b"x"
        with pytest.raises(grpc.RpcError):
            call(b"x", timeout=0.3)


def test_calls_that_are_given_up_leave_their_place(slow: Slow) -> None:
    with rpc.channel(slow.address, "slow", None) as channel, ThreadPoolExecutor(12) as pool:
        call = channel.unary_unary("/tests.Slow/Go")

        def give_up(_: int) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as raised:
                call(b"x", timeout=0.3)
            return raised.value.code()

        assert set(pool.map(give_up, range(4))) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        slow.go.set()

        def served() -> bool:
            try:
                return bytes(call(b"y", timeout=LONG)) == b"y"
            except grpc.RpcError:
                return False

        until(served)


def test_c1_what_is_asked_on_behalf_of_a_caller_ends_before_the_caller_goes(slow: Slow) -> None:
    """A service in between: it would wait for ten seconds, but its caller for three."""
    between = rpc.Server(2)
    found: list[float] = []
    with rpc.channel(slow.address, "slow", None) as behind:
        ask = behind.unary_unary("/tests.Slow/Go")

        def method(request: bytes, _: Any) -> bytes:
            found.append(rpc.deadline(10) - time.monotonic())
            try:
                return bytes(ask(request, timeout=LONG))
            except grpc.RpcError as failure:
                raise from_rpc(failure) from None

        handler = grpc.unary_unary_rpc_method_handler(rpc.guarded(method, "Between.Go"))
        between.add_generic("tests.Between", {"Go": handler}, callers=[])
        with rpc.channel(f"127.0.0.1:{between.start('127.0.0.1:0')}", "between", None) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary("/tests.Between/Go")(b"x", timeout=3)
            # The answer of the service in between, not the end of our own patience.
            assert "The request took too long." in str(raised.value.details())
    between.grpc.stop(None).wait()
    assert 0 < found[0] < 2.8
    assert rpc.deadline(10) - time.monotonic() > 9
