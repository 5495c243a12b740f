"""What clients do about guests and limits: passwords of Windows, serial ports, a project that is full."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Stack
from tests.clients.sequences import machine

SMALL, ZONE = "/compute/v1/projects/mallory", "/zones/ch-gv2"


class Small:
    """The demo cloud's small account: two instances."""

    def __init__(self, stack: Stack):
        self.stack, self.token = stack, stack.token("mallory-api-key", "mallory-secret-key")

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        reply = self.stack.call(method, f"{self.stack.url}{SMALL}{path}", body, token=self.token)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def end(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The operation, done."""
        operation = self.ask(method, path, body)
        while operation["status"] != "DONE":
            operation = self.ask("POST", f"{ZONE}/operations/{operation['name']}/wait")
        return operation


@pytest.fixture
def small(stack: Stack) -> Small:
    return Small(stack)


def test_a_project_that_is_full(small: Small) -> None:
    """Each refusal names GCE's metric and the limit, where Terraform and where Google's libraries look."""
    made = [f"{ZONE}/instances/full-{number}" for number in (1, 2)]
    try:
        for number in (1, 2):
            assert "error" not in small.end("POST", f"{ZONE}/instances", machine(f"full-{number}"))
        refusal = small.end("POST", f"{ZONE}/instances", machine("full-3"))
        message = "Quota 'INSTANCES' exceeded.  Limit: 2.0 globally."
        assert refusal["error"]["errors"] == [{"code": "QUOTA_EXCEEDED", "message": message}]
        assert (refusal["httpErrorStatusCode"], refusal["httpErrorMessage"]) == (403, "FORBIDDEN")
        quotas = {quota["metric"]: quota for quota in small.ask("GET", "")["quotas"]}
        assert quotas["INSTANCES"]["limit"] == 2
    finally:
        for path in made:
            small.end("DELETE", path)
    assert small.ask("GET", f"{ZONE}/instances").get("items") is None
