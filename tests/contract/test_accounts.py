"""Sessions, keys and members of projects, which no recording here shows."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.app import Simulator
from simulator.world import Account, Project
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


def test_a_user_without_keys_has_none_to_tell(call: Caller) -> None:
    ian = call.world.users_by_key.pop("USER-APIKEY")
    ian.api_key = ian.secret_key = ""
    session = call.login()[1]["sessionkey"]
    assert call("getUserKeys", id=IAN, sessionkey=session)[1]["userkeys"] == {"apikeyaccess": True}
    assert "apikey" not in call("listUsers", sessionkey=session)[1]["user"][0]
    assert call.signed("listZones", ("", ""))[0] == 401
    keys = call("registerUserKeys", id=IAN, sessionkey=session)[1]["userkeys"]
    assert call.signed("listZones", (keys["apikey"], keys["secretkey"]))[0] == 200


def test_a_session_without_the_second_factor_is_good_for_nothing(call: Caller) -> None:
    call.world.users_by_key["USER-APIKEY"].two_factor = True
    status, session = call.login()
    assert (status, session["is2faenabled"], session["is2faverified"]) == (200, "true", "false")
    for command in ("getUserKeys", "listZones", "registerUserKeys"):
        assert call(command, id=IAN, sessionkey=session["sessionkey"])[0] == 511
    assert call("logout", sessionkey=session["sessionkey"])[0] == 200
    assert call("listZones", sessionkey=session["sessionkey"])[0] == 401
    assert call.signed("listZones")[0] == 200
    assert call.signed("listUsers")[1]["user"][0]["is2faenabled"] is True


def test_members_of_a_project_come_and_go(call: Caller) -> None:
    ian = call.world.users_by_key["USER-APIKEY"].account
    hidden = call.world.add(Account, name="PrjAcct-shop", domain=ian.domain)
    shop = call.world.add(Project, name="shop", display_text="shop", account=hidden, owner=ian)
    mallorys = cloud.KEYS["mallory"]

    def ask(command: str, account: str = "mallory", keys: tuple[str, str] = cloud.KEYS["user"]) -> tuple[int, Any]:
        return call.signed(command, keys, projectid=shop.id, account=account)

    assert ask("addAccountToProject", keys=mallorys)[0] == 531
    assert ask("addAccountToProject", "nobody")[0] == 431
    for command, count in (("addAccountToProject", 1), ("deleteAccountFromProject", 0)):
        status, answer = ask(command)
        assert status == 200
        call.clock.now += 10
        job = call.signed("queryAsyncJobResult", jobid=answer["jobid"])[1]
        assert (job["jobstatus"], job["jobresult"], job["jobinstancetype"]) == (1, {"success": True}, "Project")
        assert len(call.signed("listProjects", mallorys)[1].get("project", [])) == count
