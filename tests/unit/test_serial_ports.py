"""What the serial ports of an instance say."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
import time_machine
from cryptography.hazmat.primitives import hashes

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.sealing import Keyring
from simulator.app import Fault
from simulator.families import deploy as simulated_deploy
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask, first, job, machine
from tests.unit.test_instances import ZONE_LINK, Finish, delete, done, insert, metadata, refused, user_data, wanted
from tests.windows import Asking
from translator_service.kept import passwords
from translator_service.kept.passwords import requests
from translator_service.operations import run as run_module
from translator_service.scope import Scope


def output(scope: Scope, name: str = "web-1", **options: Any) -> Any:
    request = pb.GetSerialPortOutputInstanceRequest(project="demo", zone="ch-zh-1", instance=name, **options)
    return ask(scope, "Instances.GetSerialPortOutput", request)


# The console


@pytest.fixture
def web(scope: Scope) -> Scope:
    """A scope with the instance web-1."""
    machine(scope, "web-1")
    return scope


def test_the_first_port_says_how_to_get_a_console(web: Scope) -> None:
    found = output(web)
    assert found == output(web, port=1)
    assert (found.kind, found.selfLink) == ("compute#serialPortOutput", f"{ZONE_LINK}/instances/web-1/serialPort")
    assert found.contents.endswith("\n") and found.contents.count("\n") == 1
    uuid = first(web, "listVirtualMachines", name="web-1")["id"]
    for word in (
        "CloudStack keeps no console output",
        "View console",
        f"createConsoleEndpoint with virtualmachineid={uuid}",
    ):
        assert word in found.contents
    assert (found.start, found.next) == (0, len(found.contents))
    # Ports without anything.
    for port in (2, 3):
        found = output(web, port=port)
        assert (found.HasField("contents"), found.contents, found.start, found.next) == (True, "", 0, 0)


def test_whoever_follows_a_port_is_told_once(web: Scope) -> None:
    """`gcloud compute instances tail-serial-port-output` asks from `next` on, for ever, and shows all that it gets."""
    whole = output(web).contents
    told, start = "", 0
    for _ in range(3):
        found = output(web, start=start)
        assert (found.start, found.next) == (start, start + len(found.contents))
        told, start = told + found.contents, found.next
    assert told == whole


def test_any_start(web: Scope) -> None:
    whole = output(web).contents
    size = len(whole)
    for start, contents, begin in (
        (5, whole[5:], 5),
        (size, "", size),
        (size + 7, "", size + 7),
        (-3, whole[-3:], size - 3),
        (-size - 9, whole, 0),
        (2**62, "", 2**62),
    ):
        found = output(web, start=start)
        assert (found.contents, found.start, found.next) == (contents, begin, begin + len(contents))


@pytest.mark.parametrize("port", [-1, 0, 5])
def test_a_port_that_is_none(web: Scope, port: int) -> None:
    assert refused(lambda: output(web, port=port)).location == "port"


def test_an_instance_that_is_not_there_yet_says_nothing(scope: Scope) -> None:
    insert(scope, wanted())
    assert output(scope).contents == output(scope, port=4).contents == ""


# Passwords of Windows


SECRET, NEXT = "pq7-Zz9_kX", "pq7-Zz9_kY"


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated cloud makes the one, then the other."""
    made = iter((SECRET, NEXT))
    monkeypatch.setattr(simulated_deploy.secrets, "token_urlsafe", lambda size: next(made))


IMAGE = "global/images/windows-server-2012"


def windows_machine(**fields: Any) -> pb.Instance:
    boot = pb.AttachedDiskInitializeParams(sourceImage=IMAGE)
    return wanted(disks=[pb.AttachedDisk(boot=True, autoDelete=True, initializeParams=boot)], **fields)


@pytest.fixture
def server(scope: Scope, operations: Finish) -> Scope:
    """A scope with the Windows machine web-1, whose password CloudStack told once."""
    done(scope, operations, insert(scope, windows_machine()))
    return scope


def ask_for(scope: Scope, operations: Finish, *asking: Asking, **items: str) -> Any:
    """The finished operation that sets the metadata."""
    resource = metadata(**{"windows-keys": "\n".join(one.line for one in asking), **items})
    request = pb.SetMetadataInstanceRequest(project="demo", zone="ch-zh-1", instance="web-1", resource=resource)
    return done(scope, operations, ask(scope, "Instances.SetMetadata", request))


def kept(scope: Scope) -> dict[str, bytes]:
    return scope.store.documents(scope.project.key, "passwords")


def test_the_password_of_the_deploy_is_told_to_whoever_asks(
    server: Scope, operations: Finish, simulated: Cloud
) -> None:
    assert json.loads(output(server, port=4).contents)["ready"] is True
    asking = Asking()
    simulated.app.calls.clear()
    assert not ask_for(server, operations, asking)["warnings"]
    assert "resetPasswordForVirtualMachine" not in simulated.calls
    contents = output(server, port=4).contents
    assert asking.password(contents) == SECRET
    answer = asking.answer(contents)
    assert answer is not None and {"userName": "Administrator", "exponent": "AQAB"}.items() <= answer.items()
    assert user_data(server) == ""
    # It is told once, and nobody is left to tell it again.
    assert b'"password":"' not in next(iter(kept(server).values()))


def test_the_answer_is_found_from_next_on(server: Scope, operations: Finish) -> None:
    before = output(server, port=4)
    assert before.next == len(before.contents)
    asking = Asking()
    ask_for(server, operations, asking)
    after = output(server, port=4, start=before.next)
    assert asking.password(after.contents) == SECRET
    assert output(server, port=4, start=after.next).contents == ""
    assert output(server, port=4).contents == before.contents + after.contents


def test_a_request_that_came_with_the_machine(scope: Scope, operations: Finish) -> None:
    asking = Asking()
    sent = insert(scope, windows_machine(metadata=metadata(**{"windows-keys": asking.line})))
    done(scope, operations, sent)
    assert asking.password(output(scope, port=4).contents) == SECRET
    assert user_data(scope) == ""


def test_all_who_ask_at_once_get_it(server: Scope, operations: Finish) -> None:
    first, second = Asking(), Asking("ADMINISTRATOR", hashFunction="sha256")
    ask_for(server, operations, first, second)
    contents = output(server, port=4).contents
    assert first.password(contents) == second.password(contents, hashes.SHA256) == SECRET


def test_another_user_is_told_whose_password_there_is(server: Scope, operations: Finish) -> None:
    asking, right = Asking("ian"), Asking()
    (warning,) = ask_for(server, operations, asking)["warnings"]
    answer = asking.answer(output(server, port=4).contents)
    assert answer is not None and answer["passwordFound"] is False and "encryptedPassword" not in answer
    assert answer["errorMessage"] == warning["message"]
    assert "'Administrator' only, not of 'ian'" in answer["errorMessage"]
    # And the password is there for who asks in the right name.
    ask_for(server, operations, asking, right)
    assert right.password(output(server, port=4).contents) == SECRET


def test_a_later_reset_of_a_running_machine_says_what_to_do(
    server: Scope, operations: Finish, simulated: Cloud
) -> None:
    ask_for(server, operations, Asking())
    asking = Asking()
    (warning,) = ask_for(server, operations, asking)["warnings"]
    answer = asking.answer(output(server, port=4).contents)
    assert answer is not None and answer["passwordFound"] is False
    assert answer["errorMessage"] == warning["message"]
    assert "stop the instance, ask again, then start it" in answer["errorMessage"]
    assert "resetPasswordForVirtualMachine" not in simulated.calls


def test_a_later_reset_of_a_stopped_machine(server: Scope, operations: Finish, simulated: Cloud) -> None:
    ask_for(server, operations, Asking())
    job(server, "stopVirtualMachine", id=first(server, "listVirtualMachines", name="web-1")["id"])
    asking = Asking()
    assert not ask_for(server, operations, asking)["warnings"]
    assert simulated.calls["resetPasswordForVirtualMachine"] == 1
    assert asking.password(output(server, port=4).contents) == NEXT
    # The same metadata once more asks for nothing.
    ask_for(server, operations, asking, other="x")
    assert simulated.calls["resetPasswordForVirtualMachine"] == 1


def test_a_reset_that_fails_is_told(server: Scope, operations: Finish, simulated: Cloud) -> None:
    ask_for(server, operations, Asking())
    job(server, "stopVirtualMachine", id=first(server, "listVirtualMachines", name="web-1")["id"])
    simulated.app.faults.append(Fault("status", "resetPasswordForVirtualMachine", status=530))
    (warning,) = ask_for(server, operations, Asking())["warnings"]
    assert "did not make a new password" in warning["message"]


def test_a_template_without_passwords_is_told(web: Scope, operations: Finish) -> None:
    assert output(web, port=4).contents == ""
    asking = Asking()
    (warning,) = ask_for(web, operations, asking)["warnings"]
    assert "not password-enabled" in warning["message"]
    assert asking.answer(output(web, port=4).contents)


def test_the_first_start_shows_the_password(scope: Scope, operations: Finish) -> None:
    template = first(scope, "listTemplates", templatefilter="executable", name="Windows Server 2012")["id"]
    offering = first(scope, "listServiceOfferings", name="Micro")["id"]
    zone = first(scope, "listZones", name="CH-ZH-1")["id"]
    where = {"zoneid": zone, "templateid": template, "serviceofferingid": offering, "startvm": "false"}
    assert "password" not in job(scope, "deployVirtualMachine", name="web-1", **where)
    request = pb.StartInstanceRequest(project="demo", zone="ch-zh-1", instance="web-1")
    done(scope, operations, ask(scope, "Instances.Start", request))
    asking = Asking()
    ask_for(scope, operations, asking)
    assert asking.password(output(scope, port=4).contents) == SECRET


def test_no_password_is_written_anywhere(
    scope: Scope, operations: Finish, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither in the steps that are recorded, nor in the store or the logs."""
    with structlog.testing.capture_logs() as logs:
        done(scope, operations, insert(scope, windows_machine()))
        assert len(kept(scope)) == 1
        ask_for(scope, operations, Asking())
    assert SECRET not in str(logs)
    machine_id = first(scope, "listVirtualMachines", name="web-1")["id"].encode()
    found = []
    for folder in (tmp_path, *tmp_path_factory.getbasetemp().glob("workflows*")):
        for file in folder.rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            found.append(machine_id in content)
            for secret in (
                SECRET.encode(),
                *(base64.b64encode(b"x" * shift + SECRET.encode())[4:-4] for shift in range(3)),
            ):
                assert secret not in content, file
    # The steps of its insert were among what was looked at.
    assert any(found)


def test_it_goes_with_the_machine(server: Scope, operations: Finish) -> None:
    assert kept(server)
    done(server, operations, delete(server))
    assert not kept(server)


def test_it_is_sealed_for_its_machine_and_its_project(server: Scope) -> None:
    (content,) = kept(server).values()
    other = "00000000-0000-4000-8000-000000000001"
    server.store.put_document(server.project.key, "passwords", other, content, None)
    assert not server.passwords.is_kept(other)
    (own,) = [name for name in kept(server) if name != other]
    assert server.passwords.is_kept(own)
    server.environment.sealer = Keyring.of(b"x" * 32)
    assert not server.passwords.is_kept(own)


def test_it_is_kept_for_two_weeks(server: Scope) -> None:
    (name,) = kept(server)
    with time_machine.travel(time.time() + 13.9 * 24 * 3600):
        passwords.purge(server.store)
        assert server.passwords.is_kept(name)
    with time_machine.travel(time.time() + 14.1 * 24 * 3600):
        assert not server.passwords.is_kept(name)
        passwords.purge(server.store)
    assert not kept(server)


def test_a_project_has_so_many(scope: Scope, scope_for: OpenScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_MACHINES", 3)
    scope_for("ian@example.org", account="ian@example.org").passwords.keep("other", SECRET)
    for number in range(5):
        scope.passwords.keep(f"m-{number}", SECRET)
    assert set(kept(scope)) == {"m-2", "m-3", "m-4"}


def test_a_port_has_so_many_answers(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is not counted anew: who follows the port goes on where he was."""
    monkeypatch.setattr(passwords, "_ANSWERS", 2)
    told = '{"ready":true,"version":"gstack"}\n'
    for number in range(4):
        scope.passwords.answer("m", requests(Asking().line, time.time()), "Administrator", f"no {number}")
        begin, text = scope.passwords.told("m", True)
        told += text[len(told) - begin :]
        assert begin + len(text) == len(told)
    assert [json.loads(line)["errorMessage"] for line in told.splitlines()[1:]] == ["no 0", "no 1", "no 2", "no 3"]
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"expireOn": "2020-01-01T00:00:00+0000"},
        {"expireOn": "soon"},
        {"expireOn": "2999-01-01T00:00:00"},
        {"expireOn": 5},
        {"expireOn": None},
        {"userName": ""},
        {"modulus": "x"},
        {"modulus": 7},
        {"modulus": "AAAA"},
        {"exponent": ""},
        {"exponent": "Ag=="},
        {"hashFunction": "md5"},
        {"hashFunction": ["sha1"]},
        {"email": "x" * 5000},
    ],
)
def test_what_is_no_request_is_left_out(changes: dict[str, Any]) -> None:
    good = Asking()
    bad = json.dumps({**json.loads(good.line), **changes})
    found = requests("\n".join([bad, "", "nonsense", "[1]", "{}", "null", good.line, ""]), time.time())
    assert [one.modulus for one in found] == [good.modulus]
    assert requests(bad, time.time()) == []


def test_the_last_requests_are_looked_at() -> None:
    line = Asking().line
    assert len(requests("\n".join([line] * 100), time.time())) == 20


def test_a_key_that_is_too_short_for_the_password(scope: Scope) -> None:
    scope.passwords.keep("m", "x" * 87)
    (reason,) = scope.passwords.answer("m", requests(Asking(size=1024).line, time.time()), "Administrator", "")
    assert "too short" in reason
    assert scope.passwords.is_kept("m")


@pytest.mark.parametrize("place", ["unanswered", "keep", "answer", "after keep", "after answer"])
def test_nothing_is_lost_or_done_twice_when_it_is_interrupted(
    server: Scope, operations: Finish, simulated: Cloud, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A translator that goes between any two steps, or within one before or after its work, loses no password."""
    ask_for(server, operations, Asking())
    job(server, "stopVirtualMachine", id=first(server, "listVirtualMachines", name="web-1")["id"])
    monkeypatch.setattr(run_module, "_LATER", 0.05)
    name, real, seen = place.rpartition(" ")[2], getattr(passwords.Passwords, place.rpartition(" ")[2]), []

    def once(self: Any, *arguments: Any) -> Any:
        seen.append(name)
        found = real(self, *arguments) if place.startswith("after") or len(seen) > 1 else None
        if len(seen) == 1:
            raise run_module.Parked("gone")
        return found

    monkeypatch.setattr(passwords.Passwords, name, once)
    asking = Asking()
    assert not ask_for(server, operations, asking)["warnings"]
    assert len(seen) > 1
    assert simulated.calls["resetPasswordForVirtualMachine"] == 1
    assert asking.password(output(server, port=4).contents) == NEXT
