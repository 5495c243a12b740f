"""Health of a gRPC server: watched by many, and asked of several replicas at once."""

from __future__ import annotations

import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gstack.kernel import rpc
from tests.clients.conftest import free_ports
from tests.waits import LONG, until


def started() -> tuple[rpc.Server, str]:
    server, (port,) = rpc.Server(4), free_ports(1)
    server.start(f"127.0.0.1:{port}")
    return server, f"127.0.0.1:{port}"


def test_watches_that_come_and_go_do_not_stop_the_server() -> None:
    """One that ends while another begins: clients do that whenever a connection has reached its age."""
    server, address = started()
    stop, watched = threading.Event(), [0] * 4

    def come_and_go(number: int) -> None:
        while not stop.is_set():
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, options=options) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
                try:
                    next(watch)
                    watched[number] += 1
                except grpc.RpcError:
                    pass
                watch.cancel()

    threads = [threading.Thread(target=come_and_go, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    # As many as have stopped a server in each of many tries.
    until(lambda: min(watched) >= 100, told=lambda: watched)
    stop.set()
    assert rpc.healthy(address, timeout=LONG)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    server.grpc.stop(None).wait(LONG)


def test_a_target_is_healthy_while_one_of_its_replicas_is() -> None:
    (first, one), (second, two) = started(), started()
    target = f"ipv4:{one},{two}"
    first.serving(False)
    assert [rpc.healthy(target) for _ in range(4)] == [True] * 4
    second.serving(False)
    assert not rpc.healthy(target)
    first.serving(True)
    second.grpc.stop(None).wait(LONG)
    assert [rpc.healthy(target) for _ in range(4)] == [True] * 4
    first.grpc.stop(None).wait(LONG)
    assert not rpc.healthy(target)
