"""Sessions and keys, which no recording shows."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.app import Simulator
from tests.contract import recorded_cloud as cloud
from tests.contract.replay import signed

IAN = "4f5acdfc-7fb4-4459-b4b3-fa533a563974"


class Caller:
    def __init__(self) -> None:
        self.world, self.clock = cloud.build()
        self.app = Simulator(self.world)

    def __call__(self, command: str, **parameters: str) -> tuple[int, dict[str, Any]]:
        status, answer = self.app.answer("POST", {"command": command, "response": "json", **parameters})
        (body,) = answer.values()
        return status, body

    def signed(self, command: str, keys: tuple[str, str] = cloud.KEYS["user"], **more: str) -> tuple[int, Any]:
        return self(**signed({"command": command, "response": "json", **more}, *keys))

    def login(self, **more: str) -> tuple[int, dict[str, Any]]:
        return self("login", **{"username": "ian", "password": "ians-password", "domain": "/example", **more})


@pytest.fixture
def call() -> Caller:
    return Caller()


@pytest.mark.parametrize("domain", ["/example", "example", "ROOT/example", "/Example/"])
def test_a_session_finds_the_keys_of_its_user(call: Caller, domain: str) -> None:
    status, session = call.login(domain=domain)
    assert status == 200 and session["userid"] == IAN and session["account"] == "ian@example.org"
    status, answer = call("getUserKeys", id=session["userid"], sessionkey=session["sessionkey"])
    assert status == 200
    assert answer["userkeys"] == {"apikey": "USER-APIKEY", "secretkey": "USER-SECRETKEY", "apikeyaccess": True}


@pytest.mark.parametrize("wrong", [{"password": "x"}, {"domain": "/nope"}, {"domain": ""}, {"username": "nobody"}])
def test_a_login_with_anything_wrong_is_refused(call: Caller, wrong: dict[str, str]) -> None:
    status, body = call.login(**wrong)
    assert status == 531 and body["errorcode"] == 531 and "cserrorcode" not in body


def test_a_session_ends_by_logout_and_by_time(call: Caller) -> None:
    first, second = (call.login()[1]["sessionkey"] for _ in range(2))
    assert call("listZones", sessionkey=first)[0] == 200
    assert call("logout", sessionkey=first)[0] == 200
    assert call("listZones", sessionkey=first)[0] == 401
    call.clock.now += 1700
    assert call("listZones", sessionkey=second)[0] == 200
    call.clock.now += 1700
    assert call("listZones", sessionkey=second)[0] == 200
    call.clock.now += 1900
    assert call("listZones", sessionkey=second)[0] == 401


def test_new_keys_replace_the_old_ones(call: Caller) -> None:
    status, answer = call.signed("registerUserKeys", id=IAN)
    keys = answer["userkeys"]
    assert status == 200
    assert call.signed("listZones")[0] == 401
    assert call.signed("listZones", (keys["apikey"], keys["secretkey"]))[0] == 200


def test_only_an_admin_lists_domains_roles_and_all_accounts(call: Caller) -> None:
    admin = cloud.KEYS["admin"]
    for command in ("listDomains", "listRoles"):
        assert call.signed(command)[0] == 432
        assert call.signed(command, admin)[0] == 200
    assert [row["name"] for row in call.signed("listAccounts")[1]["account"]] == ["ian@example.org"]
    names = {row["name"] for row in call.signed("listAccounts", admin)[1]["account"]}
    assert names == {"admin", "ian@example.org", "mallory"}


def test_a_disabled_user_gets_nowhere(call: Caller) -> None:
    session = call.login()[1]["sessionkey"]
    call.world.users_by_key["USER-APIKEY"].enabled = False
    assert call.signed("listZones")[0] == 401
    assert call("listZones", sessionkey=session)[0] == 401
    assert call.login()[0] == 531
