"""The same services on a real PostgreSQL, which replicas share: two translators and two auth services."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
import requests

from tests import postgresql
from tests.auth import DEVICE, JWT_BEARER, OOB, SDK, assertion
from tests.clients.conftest import Stack, free_ports, make_stack
from tests.clients.people import Person
from tests.clients.sequences import machine

pytestmark = pytest.mark.real

database = postgresql.database


@pytest.fixture(scope="module")
def replicas(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """gstack with two translators and two auth services behind one gateway."""
    stack = make_stack(tmp_path_factory.mktemp("replicas"))
    second, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    first = stack.environment["GSTACK_TRANSLATOR_LISTEN"]
    stack.environment |= {
        "GSTACK_DATABASE_URL": database + "translator",
        "GSTACK_AUTH_DATABASE_URL": database + "auth",
        "GSTACK_TRANSLATOR_TARGET": f"ipv4:{first},{second}",
        "GSTACK_AUTH_TARGET": f"ipv4:{stack.environment['GSTACK_AUTH_LISTEN']},{other}",
    }
    for name in ("simulator", "auth", "translator"):
        stack.start(name)
    stack.start("translator-2", GSTACK_TRANSLATOR_LISTEN=second, GSTACK_EXECUTOR_ID="tests-2")
    stack.start("auth-2", GSTACK_AUTH_LISTEN=other)
    stack.start("gateway")
    try:
        stack.wait_ready()
        stack.wait_for_replicas(first, second, other)
        yield stack
    finally:
        for process in reversed(stack.processes.values()):
            process.kill()
            process.wait()


def test_life_of_an_instance(replicas: Stack) -> None:
    done = replicas.finish(replicas.call("POST", "/zones/ch-gv2/instances", machine("pg-1")).json())
    assert "error" not in done
    rule = {"name": "web", "allowed": [{"IPProtocol": "tcp", "ports": ["80"]}]}
    assert "error" not in replicas.finish(replicas.call("POST", "/global/firewalls", rule).json())
    # Each of the two translators is asked in turn, and both know everything.
    for _ in range(4):
        assert replicas.call("GET", "/zones/ch-gv2/instances/pg-1").json()["status"] == "RUNNING"
        assert replicas.call("GET", "/global/firewalls/web").status_code == 200
        assert replicas.call("GET", f"/zones/ch-gv2/operations/{done['name']}").json()["status"] == "DONE"
    assert "error" not in replicas.finish(replicas.call("DELETE", "/zones/ch-gv2/instances/pg-1").json())
    assert "error" not in replicas.finish(replicas.call("DELETE", "/global/firewalls/web").json())


def test_two_auth_services_know_the_same(replicas: Stack) -> None:
    """Every request may come to the other one: sessions, codes, tokens, devices, assertions, keys."""
    person = Person(replicas)
    token_url = f"{replicas.url}/oauth2/token"
    code = person.code(f"/oauth2/auth?{urlencode({'response_type': 'code', 'client_id': SDK, 'redirect_uri': OOB})}")
    form = {"grant_type": "authorization_code", "code": code, "client_id": SDK, "redirect_uri": OOB}
    tokens = requests.post(token_url, form, timeout=30).json()
    for _ in range(4):
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": SDK}
        tokens = requests.post(token_url, form, timeout=30).json()
        assert replicas.call("GET", "/zones", token=tokens["access_token"]).status_code == 200

    device = requests.post(f"{replicas.url}/oauth2/device/code", {"client_id": SDK}, timeout=30).json()
    consent = person.submit(person.visit("/device"), "/device", user_code=device["user_code"])
    assert person.submit(consent, "/oauth2/consent", decision="allow").status_code == 200
    form = {"grant_type": DEVICE, "device_code": device["device_code"], "client_id": SDK}
    assert "access_token" in requests.post(token_url, form, timeout=30).json()

    key = person.key("postgres-1")
    once = {"grant_type": JWT_BEARER, "assertion": assertion(key, jti="1")}
    answers = [requests.post(token_url, once, timeout=30).json() for _ in range(4)]
    assert ["access_token" in answer for answer in answers] == [True, False, False, False], answers
    form = {"token": tokens["refresh_token"]}
    assert requests.post(f"{replicas.url}/oauth2/revoke", form, timeout=30).status_code == 200
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": SDK}
    for _ in range(2):
        assert requests.post(token_url, form, timeout=30).json()["error"] == "invalid_grant"
    assert key["private_key_id"] in person.visit("/keys").text


def test_the_other_translator_goes_on(replicas: Stack) -> None:
    replicas.simulate("PATCH", "settings", {"job_seconds": {"": 0.1, "deployVirtualMachine": 3}})
    operations = [
        replicas.call("POST", "/zones/ch-gv2/instances", machine(f"over-{number}")).json() for number in range(4)
    ]
    replicas.kill("translator-2")
    for operation in operations:
        assert "error" not in replicas.finish(operation)
    found = replicas.call("GET", "/zones/ch-gv2/instances?filter=name eq over-.*").json()["items"]
    assert sorted(item["name"] for item in found) == [f"over-{number}" for number in range(4)]
    assert {item["status"] for item in found} == {"RUNNING"}
