from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import projects_pb2 as pb
from gstack.kernel.errors import ApiError
from simulator.world import Account
from tests.conftest import Cloud, OpenScope, recorded_rows
from tests.unit.made import ask, machine
from translator_service.kept import details, userdata
from translator_service.kept.store import Store
from translator_service.resources import projects
from translator_service.resources.common_metadata import common_items, common_metadata
from translator_service.scope import Scope, projects_kind

ACCOUNT = recorded_rows("a-catalog", "listAccounts")[0]
PROJECT = recorded_rows("a-catalog", "listProjects")[0]
LINK = "https://www.googleapis.com/compute/v1/projects/demo"
STALE = "Supplied fingerprint does not match current metadata fingerprint."


def get(scope: Scope) -> pb.Project:
    found: pb.Project = ask(scope, "Projects.Get", pb.GetProjectRequest(project=scope.project.name))
    return found


def put(scope: Scope, items: list[tuple[str, str]], fingerprint: bytes = b"", request_id: str = "") -> Any:
    metadata = common_pb2.Metadata(fingerprint=fingerprint)
    for key, value in items:
        metadata.items.add(key=key, value=value)
    request = pb.SetCommonInstanceMetadataRequest(project="demo", requestId=request_id, resource=metadata)
    return ask(scope, "Projects.SetCommonInstanceMetadata", request)


def refused(scope: Scope, items: list[tuple[str, str]], fingerprint: bytes = b"") -> ApiError:
    with pytest.raises(ApiError) as error:
        put(scope, items, fingerprint)
    return error.value


def limits(scope: Scope) -> dict[str, tuple[float, float]]:
    return {quota.metric: (quota.limit, quota.usage) for quota in get(scope).quotas}


def test_account(scope: Scope, simulated: Cloud) -> None:
    found = get(scope)
    assert (found.kind, found.name, found.selfLink) == ("compute#project", "demo", LINK)
    assert found.id == scope.project.number
    assert found.creationTimestamp.endswith("-08:00") and not found.creationTimestamp.startswith("1969")
    assert found.defaultNetworkTier == "PREMIUM"
    assert found.defaultServiceAccount == f"{found.id}-compute@developer.gserviceaccount.com"
    assert get(scope) == found
    assert simulated.calls == {"listAccounts": 1}


def test_cloudstack_project(scope_for: OpenScope, simulated: Cloud) -> None:
    scope = scope_for("webshop")
    before = dict(simulated.calls)
    found = get(scope)
    assert (found.name, found.description) == ("webshop", "Web shop")
    assert found.selfLink.endswith("/projects/webshop")
    assert simulated.calls["listProjects"] - before.get("listProjects", 0) == 1
    assert "listAccounts" not in simulated.calls


def test_another_tenant(scope_for: OpenScope) -> None:
    with pytest.raises(ApiError) as error:
        scope_for("webshop", account="ian@example.org")
    assert (error.value.code, error.value.message) == (404, "The resource 'projects/webshop' was not found")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ACCOUNT, {"CPUS": (400, 5), "INSTANCES": (200, 4), "DISKS_TOTAL_GB": (20000, 73), "NETWORKS": (60, 1)}),
        (
            ACCOUNT,
            {"SNAPSHOTS": (200, 0), "STATIC_ADDRESSES": (100, 1), "IN_USE_ADDRESSES": (100, 1), "IMAGES": (100, 0)},
        ),
        (PROJECT, {"CPUS": (80, 0), "INSTANCES": (40, 0), "DISKS_TOTAL_GB": (4000, 0)}),
    ],
)
def test_quotas(scope: Scope, row: dict[str, Any], expected: dict[str, tuple[float, float]]) -> None:
    kind = projects._kind(scope)
    scope.catalog(kind).index = kind.build([row])
    found = limits(scope)
    assert {metric: found[metric] for metric in expected} == expected
    assert "FIREWALLS" in found


def test_quotas_without_limit_and_their_use(scope: Scope, simulated: Cloud) -> None:
    owner = next(row for row in simulated.app.world.all(Account) if row.name == "demo")
    owner.limits["cpu"] = 7
    machine(scope, "a")
    found = limits(scope)
    assert found["CPUS"] == (7, 1)
    limit, used = found["INSTANCES"]
    assert limit > 100_000 and used == 1


def test_account_of_a_name_that_others_have(scope: Scope) -> None:
    kind = projects._kind(scope)
    own = {**ACCOUNT, "id": scope.caller.account_id, "cpulimit": "3"}
    scope.catalog(kind).index = kind.build([ACCOUNT, own])
    assert limits(scope)["CPUS"][0] == 3


def test_firewalls_count(scope: Scope) -> None:
    before = limits(scope)["FIREWALLS"][1]
    scope.store.add_firewall(scope.project.key, "a", "default", b"")
    assert limits(scope)["FIREWALLS"][1] == before + 1


def test_metadata_is_always_there(scope: Scope) -> None:
    found = get(scope).commonInstanceMetadata
    assert found.kind == "compute#metadata"
    assert found.fingerprint and not found.items


def test_set_and_get(scope: Scope) -> None:
    assert put(scope, [("sshKeys", "a:ssh-rsa AAAA"), ("empty", "")]).status == "PENDING"
    # What is not for guests is done at once.
    operation = put(scope, [("sshKeys", "a:ssh-rsa AAAA"), ("empty", ""), ("a", "1")])
    put(scope, [("sshKeys", "a:ssh-rsa AAAA"), ("empty", "")])
    assert (operation.status, operation.operationType, operation.progress) == ("DONE", "setMetadata", 100)
    assert operation.targetLink == LINK
    assert operation.selfLink.startswith(f"{LINK}/global/operations/")
    found = get(scope).commonInstanceMetadata
    assert [(item.key, item.value) for item in found.items] == [("sshKeys", "a:ssh-rsa AAAA"), ("empty", "")]
    assert common_metadata(scope) == found
    put(scope, [])
    assert not get(scope).commonInstanceMetadata.items


def test_text_comes_back_as_it_was(scope: Scope) -> None:
    value = 'ü \\u0041 "quoted"\n\t€ 🙂'
    put(scope, [("k", value)])
    assert get(scope).commonInstanceMetadata.items[0].value == value


def test_fingerprint_is_of_the_content(scope: Scope) -> None:
    empty = common_metadata(scope).fingerprint
    put(scope, [("a", "1"), ("b", "2")])
    full = common_metadata(scope).fingerprint
    assert full != empty
    put(scope, [("b", "2"), ("a", "1")])
    assert common_metadata(scope).fingerprint == full
    put(scope, [])
    assert common_metadata(scope).fingerprint == empty


def test_stale_fingerprint(scope: Scope) -> None:
    old = common_metadata(scope).fingerprint
    put(scope, [("a", "1")], old)
    error = refused(scope, [("a", "2")], old)
    assert (error.code, error.reason, error.message) == (412, "conditionNotMet", STALE)
    assert common_metadata(scope).items[0].value == "1"
    put(scope, [("a", "2")])
    assert common_metadata(scope).items[0].value == "2"


def test_another_writer_in_between(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Store.put_document

    def late(self: Store, owner: str, kind: str, name: str, content: bytes, expected: bytes | None) -> bool:
        replace(self, owner, kind, name, b"e30", expected)
        return replace(self, owner, kind, name, content, expected)

    monkeypatch.setattr(Store, "put_document", late)
    error = refused(scope, [("a", "1")])
    assert (error.code, error.message) == (412, STALE)


def test_projects_do_not_share(scope_for: OpenScope) -> None:
    put(scope_for("demo"), [("a", "1")])
    assert not common_metadata(scope_for("webshop")).items


@pytest.mark.parametrize("key", ["", "a b", "a.b", "ü", "k" * 129, "a\n"])
def test_bad_keys(scope: Scope, key: str) -> None:
    error = refused(scope, [("good", "x"), (key, "x")])
    assert (error.code, error.location) == (400, "resource.items[1].key")
    assert not common_metadata(scope).items


def test_good_keys(scope: Scope) -> None:
    put(scope, [("k" * 128, "x"), ("A-z_0", "x")])
    assert len(common_metadata(scope).items) == 2


def test_repeated_key(scope: Scope) -> None:
    error = refused(scope, [("a", "1"), ("a", "2")])
    assert (error.code, error.location) == (400, "resource.items[1].key")


def test_sizes(scope: Scope) -> None:
    kilobyte = 1024
    put(scope, [("a", "x" * 256 * kilobyte)])
    assert refused(scope, [("a", "x" * (256 * kilobyte + 1))]).location == "resource.items[0].value"
    assert refused(scope, [("a", "ü" * (128 * kilobyte + 1))]).location == "resource.items[0].value"
    assert refused(scope, [(key, "x" * 200 * kilobyte) for key in "abc"]).location == "resource.items"


def test_what_is_refused_by_its_key(scope: Scope) -> None:
    error = refused(scope, [("a", "1"), ("enable-oslogin", "TRUE")])
    assert (error.code, error.location) == (400, "resource.items[1].value")
    error = refused(scope, [("user-data", "!"), ("user-data-encoding", "base64")])
    assert (error.code, error.location) == (400, "resource.items[0].value")
    put(scope, [("enable-oslogin", "FALSE")])


def keys_of(count: int) -> tuple[str, str]:
    """As many RSA-4096 keys."""
    return "ssh-keys", "\n".join(f"u{n}:ssh-rsa {base64.b64encode(os.urandom(535)).decode()}" for n in range(count))


def test_keys_that_a_project_may_have_are_no_trouble_afterwards(scope: Scope) -> None:
    put(scope, [keys_of(30)])
    common = common_items(scope)
    assert userdata.user_data({}, common, limit=32768, now=1.0)


def test_keys_that_would_leave_no_room_are_refused_when_they_are_set(scope: Scope, simulated: Cloud) -> None:
    error = refused(scope, [("a", "1"), keys_of(60)])
    assert (error.code, error.location) == (400, "resource.items[1].value")
    assert "bytes are available to 'ssh-keys'" in error.message
    assert not common_items(scope)
    assert "listVirtualMachines" not in simulated.calls


def with_metadata(scope: Scope, name: str, **items: str) -> None:
    machine(scope, name, **details.parameters(details.pack(details.METADATA, items)))


def test_keys_that_leave_no_room_to_an_instance_that_is_there_are_refused(scope: Scope, simulated: Cloud) -> None:
    script = base64.b64encode(os.urandom(10_000)).decode()
    with_metadata(scope, "web-1", **{"startup-script": script})
    with_metadata(scope, "web-2", **{"startup-script": script, "block-project-ssh-keys": "true"})
    put(scope, [("zone", "a")])
    assert "listVirtualMachines" not in simulated.calls
    put(scope, [keys_of(10)])
    error = refused(scope, [keys_of(30)])
    assert (error.code, error.location) == (400, "resource.items")
    assert "'web-1'" in error.message
    userdata.user_data({"startup-script": script}, common_items(scope), limit=32768, now=1.0)


def test_an_instance_without_room_of_old_is_no_reason(scope: Scope) -> None:
    with_metadata(scope, "web-1", **{"startup-script": base64.b64encode(os.urandom(30_000)).decode()})
    put(scope, [keys_of(1)])


def test_a_project_that_others_made_takes_no_name_of_an_own_one(environment: Any) -> None:
    """Whoever owns a project can make anybody a member of it, without being asked."""
    theirs = {
        "id": "a" * 8,
        "name": "web-shop",
        "created": "2000-01-01T00:00:00+0000",
        "owner": [{"account": "mallory"}],
    }
    own = {"id": "b" * 8, "name": "Web Shop", "created": "2020-01-01T00:00:00+0000", "owner": [{"account": "demo"}]}
    index = projects_kind(environment, "demo").build([theirs, own])
    assert index.find("web-shop") is index.find("Web Shop") is own
    assert index.find(theirs["id"]) is theirs
