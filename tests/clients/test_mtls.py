"""Services that know each other by certificates, and talk to nobody else."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gstack.auth.v1 import auth_pb2, auth_pb2_grpc, identity_pb2, identity_pb2_grpc
from gstack.cli.certs import issue_all
from gstack.kernel import rpc
from gstack.kernel.tls import Tls
from tests.clients.conftest import Stack, make_stack
from tests.clients.sequences import machine
from tests.waits import LONG, until

SERVICES = ("auth", "translator", "gateway")


def files(folder: Path, service: str) -> dict[str, str]:
    own = folder / service
    names = {"CERT": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
    return {f"GSTACK_TLS_{name}": str(own / file) for name, file in names.items()}


def tls(folder: Path, service: str) -> Tls:
    return Tls(*(folder / service / name for name in ("tls.crt", "tls.key", "ca.crt")))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    assert issue_all(folder) == ["gateway", "translator", "auth"]
    return folder


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Stack]:
    stack = make_stack(tmp_path_factory.mktemp("secured"))
    stack.environment["GSTACK_CONNECTION_AGE"] = "1"
    stack.start("simulator")
    for name in SERVICES:
        stack.start(name, **files(certificates, name))
    try:
        stack.wait_ready()
        stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
        yield stack
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


def status_of(call: Any, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=LONG)
    return raised.value.code()


def test_a_client_notices_nothing(secured: Stack) -> None:
    token = secured.token()
    assert secured.call("GET", "/zones", token=token).status_code == 200
    operation = secured.call("POST", "/zones/ch-gv2/instances", machine("secured"), token=token).json()
    assert "error" not in secured.finish(operation)


@pytest.mark.parametrize("service", ["translator", "auth"])
def test_nobody_without_a_certificate_of_the_ca(
    secured: Stack, certificates: Path, tmp_path: Path, service: str
) -> None:
    address = secured.environment[f"GSTACK_{service.upper()}_LISTEN"]
    issue_all(tmp_path)
    for stranger in (None, tls(tmp_path, "gateway")):
        assert not rpc.healthy(address, service, stranger)
    assert rpc.healthy(address, service, tls(certificates, "gateway"))
    # And a gateway does not talk to an auth service that has only another service's certificate.
    assert not rpc.healthy(address, "gateway", tls(certificates, "gateway"))


def test_each_service_is_called_by_those_that_need_it(secured: Stack, certificates: Path) -> None:
    translator, auth = (secured.environment[f"GSTACK_{name}_LISTEN"] for name in ("TRANSLATOR", "AUTH"))
    gateway = tls(certificates, "gateway")
    with rpc.channel(translator, "translator", gateway) as channel:
        stub: Any = identity_pb2_grpc.IdentityStub(channel)
        assert status_of(stub.Projects, identity_pb2.ProjectsRequest()) == grpc.StatusCode.PERMISSION_DENIED
    with rpc.channel(translator, "translator", tls(certificates, "auth")) as channel:
        stub = identity_pb2_grpc.IdentityStub(channel)
        assert status_of(stub.Projects, identity_pb2.ProjectsRequest()) == grpc.StatusCode.UNAUTHENTICATED
        listing = channel.unary_unary("/gstack.compute.v1.Zones/List")
        assert status_of(listing, b"") == grpc.StatusCode.PERMISSION_DENIED
    with rpc.channel(auth, "auth", tls(certificates, "translator")) as channel:
        asking: Any = auth_pb2_grpc.AuthStub(channel).Authenticate
        assert status_of(asking, auth_pb2.AuthenticateRequest()) == grpc.StatusCode.PERMISSION_DENIED


def test_health_is_told_on_the_command_line(secured: Stack, certificates: Path) -> None:
    environment = dict(secured.environment)
    for service in SERVICES:
        secured.environment = {**environment, **files(certificates, service)}
        found = secured.run("health", service)
        assert (found.returncode, found.stdout) == (0, f"{service}: well\n"), found.stderr
    # Without its certificate the command is a stranger like any other.
    secured.environment = environment
    assert secured.run("health", "auth").returncode == 1


def test_renewed_certificates_are_taken_without_a_restart(secured: Stack, certificates: Path) -> None:
    token = secured.token()
    for service in SERVICES:
        (certificates / service / "tls.crt").unlink()
    assert issue_all(certificates) == ["gateway", "translator", "auth"]
    new = x509.load_pem_x509_certificate((certificates / "translator" / "tls.crt").read_bytes()).serial_number

    def noticed() -> bool:
        assert secured.call("GET", "/zones", token=token).status_code == 200
        # From its beginning: the end is soon of other requests.
        return "certificate_renewed" in (secured.folder / "gateway.log").read_text()

    until(noticed, pause=0.2)
    until(lambda: served(secured, certificates) == new, pause=0.2, told=lambda: secured.log("translator"))
    assert secured.call("GET", "/zones", token=secured.token()).status_code == 200


def served(stack: Stack, certificates: Path) -> int:
    """Serial number of the certificate that the translator shows."""
    context = ssl.create_default_context(cafile=str(certificates / "ca" / "ca.crt"))
    context.load_cert_chain(certificates / "gateway" / "tls.crt", certificates / "gateway" / "tls.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = stack.environment["GSTACK_TRANSLATOR_LISTEN"].rpartition(":")
    with (
        socket.create_connection((host, int(port)), LONG) as raw,
        context.wrap_socket(raw, server_hostname="translator.gstack.internal") as wire,
    ):
        found = wire.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).serial_number


def test_liveness_is_asked_apart_from_readiness(secured: Stack, certificates: Path) -> None:
    credentials = tls(certificates, "gateway").channel_credentials()
    options = [("grpc.ssl_target_name_override", "auth.gstack.internal")]
    with grpc.secure_channel(secured.environment["GSTACK_AUTH_LISTEN"], credentials, options) as channel:
        asking: Any = health_pb2_grpc.HealthStub(channel).Check
        for name in ("", rpc.LIVENESS):
            found = asking(health_pb2.HealthCheckRequest(service=name), timeout=LONG)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
