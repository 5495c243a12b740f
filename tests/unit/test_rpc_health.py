"""Health of a gRPC server: watched by many, and asked of several replicas at once."""

from __future__ import annotations

import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gstack.kernel import rpc
from tests.clients.conftest import free_ports


def started() -> tuple[rpc.Server, str]:
    server, (port,) = rpc.Server(4), free_ports(1)
    server.start(f"127.0.0.1:{port}")
    return server, f"127.0.0.1:{port}"


def test_watches_that_come_and_go_do_not_stop_the_server() -> None:
    """One that ends while another begins: clients do that whenever a connection has reached its age."""
    server, address = started()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, options=options) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=5)
                try:
                    next(watch)
                except grpc.RpcError:
                    pass
                watch.cancel()

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    stop.set()
    assert any(rpc.healthy(address) for _ in range(3))
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    server.grpc.stop(None).wait(10)


def test_a_target_is_healthy_while_one_of_its_replicas_is() -> None:
    (first, one), (second, two) = started(), started()
    target = f"ipv4:{one},{two}"
    first.serving(False)
    assert [rpc.healthy(target) for _ in range(4)] == [True] * 4
    second.serving(False)
    assert not rpc.healthy(target)
    first.serving(True)
    second.grpc.stop(None).wait(10)
    assert [rpc.healthy(target) for _ in range(4)] == [True] * 4
    first.grpc.stop(None).wait(10)
    assert not rpc.healthy(target)
