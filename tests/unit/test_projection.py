"""How rules become security groups and firewall rules of addresses, and come back to what they should be."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstack.cli.doctor import _rules
from gstack.kernel.errors import ApiError
from simulator.world import VirtualMachine
from tests.conftest import Cloud, recorded_rows
from tests.unit import made
from tests.unit.test_firewalls import delete, get, group, insert, names, rule
from translator_service import places
from translator_service.cloudstack.errors import CloudStackError
from translator_service.kept import details
from translator_service.networking import claims, compiler, convergence, networks, projection
from translator_service.networking.compiler import Machine, Rule, address_rules, group_rules
from translator_service.networking.convergence import Wanted
from translator_service.operations import engine
from translator_service.operations import run as run_module
from translator_service.operations.run import Run, handler
from translator_service.resources import firewalls
from translator_service.scope import Scope

GROUPS, ISOLATED = "ch-gv2", "ch-zh-1"
Shown = dict[tuple[str, str], set[str]]


# What should be


def test_a_group_gets_protocols_by_number_and_all_ports() -> None:
    rules = [rule("a", "tcp:22,80-90", "udp", "icmp", "esp", "all", sourceRanges=["10.0.0.0/8"])]
    assert group_rules(rules) == {
        Rule("tcp", 22, 22, "10.0.0.0/8"),
        Rule("tcp", 80, 90, "10.0.0.0/8"),
        Rule("udp", 1, 65535, "10.0.0.0/8"),
        Rule("icmp", -1, -1, "10.0.0.0/8"),
        Rule("50", 0, 0, "10.0.0.0/8"),
        Rule("all", 0, 0, "10.0.0.0/8"),
    }


def test_source_tags_are_the_addresses_of_their_instances() -> None:
    machines = [
        Machine("1", frozenset({"front"}), ("10.0.0.1",), ()),
        Machine("2", frozenset({"back"}), ("10.0.0.2",), ()),
    ]
    rules = [rule("a", "tcp:22", sourceTags=["front", "other"])]
    assert group_rules(rules, machines) == {Rule("tcp", 22, 22, "10.0.0.1/32")}
    assert address_rules(rules) == set()


def test_an_address_knows_no_all_and_no_port_0() -> None:
    assert address_rules([rule("a", "all", sourceRanges=["0.0.0.0/0"])]) == {
        Rule("tcp", 1, 65535, "0.0.0.0/0"),
        Rule("udp", 1, 65535, "0.0.0.0/0"),
        Rule("icmp", -1, -1, "0.0.0.0/0"),
    }
    assert address_rules([rule("a", "tcp:0-9", sourceRanges=["0.0.0.0/0"])]) == {Rule("tcp", 1, 9, "0.0.0.0/0")}


PORT_RANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10)), max_size=8)


@given(PORT_RANGES)
def test_ranges_of_one_source_never_overlap_and_open_the_same_ports(ranges: list[tuple[int, int]]) -> None:
    texts = [f"{start}-{start + length}" for start, length in ranges]
    some = [rule(f"r{index}", f"tcp:{text}", sourceRanges=["0.0.0.0/0"]) for index, text in enumerate(texts)]
    found = sorted(address_rules(some))
    assert all(one.end < other.start for one, other in pairwise(found))
    opened = {port for one in found for port in range(one.start, one.end + 1)}
    assert opened == {port for start, length in ranges for port in range(start, start + length + 1)}


# What is


def test_recorded_rules_are_read() -> None:
    groups = {row["name"]: row for row in recorded_rows("h-security-groups", "listSecurityGroups")}
    found = set().union(*(compiler.rules_of_row(row) for row in groups["web"]["ingressrule"]))
    assert Rule("tcp", 80, 443, "0.0.0.0/0") in found
    assert Rule("icmp", -1, -1, "0.0.0.0/0") in found
    assert Rule("50", 0, 0, "10.9.0.0/16") in found
    assert compiler.rules_of_row(groups["db"]["ingressrule"][0]) == {Rule("tcp", 3306, 3306, "")}
    rows = recorded_rows("f-network", "listFirewallRules by address")
    several = next(row for row in rows if "," in row["cidrlist"])
    assert {one.source for one in compiler.rules_of_row(several)} == set(several["cidrlist"].split(","))


def test_a_row_that_lets_in_only_what_is_wanted_stays() -> None:
    rows = [
        {"id": "stays", "protocol": "tcp", "startport": 22, "endport": 22, "cidrlist": "10.0.0.0/8,10.1.0.0/16"},
        {"id": "again", "protocol": "tcp", "startport": 22, "endport": 22, "cidrlist": "10.0.0.0/8"},
        {"id": "half", "protocol": "tcp", "startport": 80, "endport": 80, "cidrlist": "10.0.0.0/8,0.0.0.0/0"},
    ]
    wanted = {Rule("tcp", 22, 22, f"10.{text}") for text in ("0.0.0/8", "1.0.0/16", "2.0.0/16", "3.0.0/16")}
    wanted.add(Rule("tcp", 80, 80, "10.0.0.0/8"))
    ours = [row["id"] for row in rows]
    deletes, creates = convergence._difference(rows, "id", ours, Wanted(wanted, wanted))
    assert deletes == ["again", "half"]
    assert creates == [
        (Rule("tcp", 22, 22, "10.2.0.0/16"), ["10.2.0.0/16", "10.3.0.0/16"]),
        (Rule("tcp", 80, 80, "10.0.0.0/8"), ["10.0.0.0/8"]),
    ]


def test_what_others_made_counts_as_there_and_stays() -> None:
    rows = [
        {"id": "theirs", "protocol": "tcp", "startport": 80, "endport": 85, "cidrlist": "10.0.0.0/8,192.0.2.0/24"},
        {"id": "ours", "protocol": "tcp", "startport": 90, "endport": 99, "cidrlist": "10.0.0.0/8"},
        {"id": "all", "protocol": "udp", "cidrlist": "10.0.0.0/8"},
    ]
    wanted = {Rule("tcp", 80, 99, "10.0.0.0/8"), Rule("udp", 53, 53, "10.0.0.0/8"), Rule("udp", 53, 53, "192.0.2.0/24")}
    deletes, creates = convergence._difference(rows, "id", ["ours"], Wanted(wanted, wanted))
    assert deletes == []
    assert creates == [
        (Rule("tcp", 86, 89, "10.0.0.0/8"), ["10.0.0.0/8"]),
        (Rule("udp", 53, 53, "192.0.2.0/24"), ["192.0.2.0/24"]),
    ]


BOXES = st.lists(
    st.builds(
        lambda protocol, start, length, source: Rule(protocol, start, start + length, source),
        st.sampled_from(["tcp", "udp"]), st.integers(1, 30), st.integers(0, 8), st.sampled_from(["a", "b"]),
    ),
    max_size=8,
)  # fmt: skip


@given(BOXES, BOXES, BOXES)
def test_the_difference_makes_it_right_without_touching_others(
    wanted: list[Rule], mine: list[Rule], others: list[Rule]
) -> None:
    def opened(rules: Any) -> set[tuple[str, str, int]]:
        return {(rule.protocol, rule.source, port) for rule in rules for port in range(rule.start, rule.end + 1)}

    def row(identity: str, rule: Rule) -> dict[str, Any]:
        ports = {"startport": rule.start, "endport": rule.end}
        return {"id": identity, "protocol": rule.protocol, "cidrlist": rule.source, **ports}

    rows = [row(f"ours{index}", rule) for index, rule in enumerate(mine)]
    ours = [one["id"] for one in rows]
    rows += [row(f"theirs{index}", rule) for index, rule in enumerate(others)]
    deletes, creates = convergence._difference(rows, "id", ours, Wanted({*wanted}, {*wanted}))
    assert {*deletes} <= {*ours}
    kept = [rule for identity, rule in zip(ours, mine, strict=True) if identity not in deletes]
    made = [Rule(rule.protocol, rule.start, rule.end, source) for rule, sources in creates for source in sources]
    assert opened([*kept, *made, *others]) == opened([*wanted, *others])
    assert not opened(made) & opened([*kept, *others]), "CloudStack refuses what overlaps"
    if not deletes and not creates:
        return
    rows = [one for one in rows if one["id"] not in deletes]
    rows += [row(f"made{index}", rule) for index, rule in enumerate(made)]
    ours = [one["id"] for one in rows if "theirs" not in one["id"]]
    assert convergence._difference(rows, "id", ours, Wanted({*wanted}, {*wanted})) == ([], [])


# In the cloud


@handler("tests.projection")
def _do(run: Run) -> None:
    """Calls a function of the projection as the instances do."""
    zone = places.resolve_zone(run.scope, run.payload["zone"])
    if run.payload["do"] == "deploy":
        network = networks.members(run.scope, "default")[0]
        groups = projection.groups_for_deploy(run, zone, network, run.payload["name"], run.payload["tags"])
        run.step(
            "keep", lambda: run.scope.store.put_document("tests", "groups", run.name, ",".join(groups).encode(), None)
        )
    elif run.payload["do"] == "refresh":
        row = run.read("row", "listVirtualMachines", id=run.payload["id"])[0]
        projection.refresh_instance(run, "firewall", zone, row, run.payload["tags"])
    else:
        projection.release_instance(run, zone, run.payload["name"], run.payload.get("row"))


class Lab:
    """Instances as the operations make them."""

    def __init__(self, scope: Scope, finish: Any):
        self.scope = scope
        self.finish = finish

    def run(self, **payload: Any) -> Any:
        operation = engine.submit(
            self.scope, type="test", target=f"tests/{payload}", handler="tests.projection", payload=payload
        )
        row = self.finish(self.scope, operation)
        assert not row["error"], row["error"]
        return row

    def rule(self, *arguments: Any, **fields: Any) -> Any:
        row = self.finish(self.scope, insert(self.scope, rule(*arguments, **fields)))
        assert not row["error"], row["error"]
        return row

    def delete(self, name: str) -> None:
        assert not self.finish(self.scope, delete(self.scope, name))["error"]

    def grouped(self, name: str, *tags: str) -> dict[str, Any]:
        """An instance in the zone with security groups."""
        row = self.run(do="deploy", zone=GROUPS, name=name, tags=list(tags))
        groups = (self.scope.store.document("tests", "groups", row["name"]) or b"").decode()
        machine = made.machine(self.scope, name, GROUPS, securitygroupids=groups, **_details(tags))
        self.run(do="refresh", zone=GROUPS, id=machine["id"], tags=list(tags))
        return machine

    def isolated(self, name: str, *tags: str) -> str:
        """Id of the public address of an instance in the network net-a."""
        network = made.first(self.scope, "listNetworks", keyword="net-a")["id"]
        machine = made.machine(self.scope, name, ISOLATED, networkids=network, **_details(tags))
        address = made.job(self.scope, "associateIpAddress", networkid=network)["id"]
        self.scope.client.write("enableStaticNat", ipaddressid=address, virtualmachineid=machine["id"])
        self.run(do="refresh", zone=ISOLATED, id=machine["id"], tags=list(tags))
        return str(address)

    def tag(self, machine: dict[str, Any], *tags: str) -> None:
        self.scope.client.write("updateVirtualMachine", id=machine["id"], **_details(tags))
        self.run(do="refresh", zone=GROUPS, id=machine["id"], tags=list(tags))

    def group(self, name: str) -> Shown | None:
        """The rules in the group of a network, or of an instance by the beginning of its name."""
        rows = [row for row in self.groups() if row["name"].partition(".")[0] == name]
        return _shown(rows[0]["ingressrule"]) if rows else None

    def groups(self) -> list[dict[str, Any]]:
        return self.scope.client.read("listSecurityGroups", keyword="gce-").items

    def release(self, machine: dict[str, Any], expunge: str = "true") -> None:
        row = made.first(self.scope, "listVirtualMachines", id=machine["id"])
        made.job(self.scope, "destroyVirtualMachine", id=machine["id"], expunge=expunge)
        self.run(do="release", zone=GROUPS, name=machine["name"], row=row)

    def address(self, identity: str) -> Shown:
        return _shown(self.scope.client.read("listFirewallRules", ipaddressid=identity).items)


def _details(tags: tuple[str, ...]) -> dict[str, str]:
    return details.parameters(details.pack(details.TAGS, list(tags)) or {"x": "y"})


def _shown(rows: list[dict[str, Any]]) -> Shown:
    """(protocol, ports) -> sources."""
    found: Shown = {}
    for row in rows:
        ports = "" if "icmptype" in row else f"{row['startport']}-{row['endport']}"
        found.setdefault((row["protocol"], ports), set()).update((row.get("cidr") or row["cidrlist"]).split(","))
    return found


ANY = {"0.0.0.0/0"}


@pytest.fixture
def lab(scope: Scope, operations: Any) -> Lab:
    return Lab(scope, operations)


# Zones with security groups


def test_rules_without_tags_are_in_the_group_of_the_network(lab: Lab, simulated: Cloud) -> None:
    lab.rule("ssh", "tcp:22", "icmp", "esp")
    machine = lab.grouped("vm")
    assert lab.group("gce-default") == {("tcp", "22-22"): ANY, ("icmp", ""): ANY, ("50", "0-0"): ANY}
    assert lab.group("gce-vm-vm") == {}
    row = made.first(lab.scope, "listVirtualMachines", id=machine["id"], details="secgrp")
    assert {group["name"].partition(".")[0] for group in row["securitygroup"]} == {"gce-default", "gce-vm-vm"}
    lab.rule("web", "tcp:80", sourceRanges=["10.0.0.0/8", "192.0.2.0/24"])
    assert (lab.group("gce-default") or {})["tcp", "80-80"] == {"10.0.0.0/8", "192.0.2.0/24"}
    lab.delete("ssh")
    assert lab.group("gce-default") == {("tcp", "80-80"): {"10.0.0.0/8", "192.0.2.0/24"}}


def test_several_sources_are_one_call(lab: Lab, simulated: Cloud) -> None:
    lab.grouped("vm")
    before = simulated.calls.get("authorizeSecurityGroupIngress", 0)
    lab.rule("web", "tcp:80", sourceRanges=["10.0.0.0/8", "192.0.2.0/24"])
    assert simulated.calls["authorizeSecurityGroupIngress"] == before + 1


def test_calls_of_a_rule_do_not_grow_with_the_instances(lab: Lab, simulated: Cloud) -> None:
    for name in ("a", "b", "c"):
        lab.grouped(name, "web")
    before = dict(simulated.calls)
    lab.rule("web", "tcp:80", targetTags=["web"])
    extra = {name: count - before.get(name, 0) for name, count in simulated.calls.items()}
    # One look for names that are taken, one before and one after the change.
    assert extra["listSecurityGroups"] == 3
    assert extra["listVirtualMachines"] == 2
    assert extra["authorizeSecurityGroupIngress"] == 3


def test_a_deploy_without_rules_asks_once(lab: Lab, simulated: Cloud) -> None:
    lab.run(do="deploy", zone=GROUPS, name="a", tags=[])
    before = dict(simulated.calls)
    lab.run(do="deploy", zone=GROUPS, name="b", tags=["x"])
    extra = {name: count - before.get(name, 0) for name, count in simulated.calls.items()}
    assert {name: count for name, count in extra.items() if count} == {
        "listSecurityGroups": 1,
        "createSecurityGroup": 1,
    }


def test_a_refresh_is_free_where_no_rule_has_tags(lab: Lab, simulated: Cloud) -> None:
    lab.rule("ssh", "tcp:22")
    machine = lab.grouped("vm", "web")
    before = dict(simulated.calls)
    lab.run(do="refresh", zone=GROUPS, id=machine["id"], tags=["web"])
    assert simulated.calls["listSecurityGroups"] == before["listSecurityGroups"]
    assert simulated.calls["listVirtualMachines"] == before["listVirtualMachines"] + 1


def test_rules_with_target_tags_are_in_the_groups_of_the_instances(lab: Lab) -> None:
    lab.rule("web", "tcp:80", targetTags=["web"])
    lab.grouped("front", "web")
    back = lab.grouped("back", "db")
    assert lab.group("gce-vm-front") == {("tcp", "80-80"): ANY}
    assert lab.group("gce-vm-back") == lab.group("gce-default") == {}
    lab.rule("db", "tcp:3306", targetTags=["db", "other"])
    assert lab.group("gce-vm-back") == {("tcp", "3306-3306"): ANY}
    lab.tag(back, "web")
    assert lab.group("gce-vm-back") == {("tcp", "80-80"): ANY}
    lab.tag(back)
    assert lab.group("gce-vm-back") == {}
    lab.delete("web")
    assert lab.group("gce-vm-front") == {}


def test_source_tags_follow_their_instances(lab: Lab) -> None:
    front = lab.grouped("front", "web")
    address = f"{front['nic'][0]['ipaddress']}/32"
    lab.grouped("back", "db")
    lab.rule("db", "tcp:3306", sourceTags=["web"], targetTags=["db"])
    lab.rule("ping", "icmp", sourceTags=["web"])
    assert lab.group("gce-vm-back") == {("tcp", "3306-3306"): {address}}
    assert lab.group("gce-default") == {("icmp", ""): {address}}
    lab.tag(front, "nothing")
    assert lab.group("gce-vm-back") == lab.group("gce-default") == {}
    second = lab.grouped("second", "web")
    assert lab.group("gce-default") == {("icmp", ""): {f"{second['nic'][0]['ipaddress']}/32"}}
    lab.release(second)
    assert lab.group("gce-default") == {}
    assert lab.group("gce-vm-second") is None


def test_disabled_rules_and_egress_change_nothing(lab: Lab) -> None:
    lab.grouped("vm")
    lab.rule("off", "tcp:22", disabled=True)
    lab.rule("out", "tcp:22", direction="EGRESS")
    assert lab.group("gce-default") == {}
    lab.delete("off")
    assert names(lab.scope) == ["out"]


def test_what_others_put_into_our_groups_stays(lab: Lab) -> None:
    lab.rule("ssh", "tcp:22")
    lab.grouped("vm")
    group = made.first(lab.scope, "listSecurityGroups", securitygroupname="gce-default")["id"]
    ports = {"protocol": "tcp", "startport": "1", "endport": "2", "cidrlist": "0.0.0.0/0"}
    made.job(lab.scope, "authorizeSecurityGroupIngress", securitygroupid=group, **ports)
    made.job(lab.scope, "authorizeSecurityGroupEgress", securitygroupid=group, **ports)
    lab.rule("web", "tcp:80", "tcp:2")
    theirs = {("tcp", "1-2"): ANY}
    assert lab.group("gce-default") == {("tcp", "22-22"): ANY, ("tcp", "80-80"): ANY} | theirs
    assert names(lab.scope) == ["gce-default", "ssh", "web"]
    for name in ("ssh", "web"):
        lab.delete(name)
    assert lab.group("gce-default") == theirs
    assert len(made.first(lab.scope, "listSecurityGroups", id=group)["egressrule"]) == 1
    assert not lab.finish(lab.scope, delete(lab.scope, "gce-default"))["error"]
    assert lab.group("gce-default") == {}


# Groups of instances


def test_release_leaves_a_group_in_use_and_knows_one_that_is_gone(lab: Lab) -> None:
    machine = lab.grouped("vm")
    row = made.first(lab.scope, "listVirtualMachines", id=machine["id"])
    lab.run(do="release", zone=GROUPS, name="vm", row=row)
    assert lab.group("gce-vm-vm") == {}
    lab.run(do="release", zone=GROUPS, name="never")
    lab.release(machine)
    lab.run(do="release", zone=GROUPS, name="vm", row=row)
    assert lab.group("gce-vm-vm") is None


def test_a_new_instance_of_the_name_of_a_renamed_one_has_rules_of_its_own(lab: Lab) -> None:
    lab.rule("db", "tcp:3306", targetTags=["db"])
    lab.rule("web", "tcp:80", targetTags=["web"])
    first = lab.grouped("vm", "db")
    lab.scope.client.write("updateVirtualMachine", id=first["id"], name="other")
    lab.grouped("vm", "web")
    shown = [_shown(row["ingressrule"]) for row in lab.groups() if row["name"].startswith("gce-vm-")]
    assert shown == [{("tcp", "3306-3306"): ANY}, {("tcp", "80-80"): ANY}]
    lab.delete("db")
    shown = [_shown(row["ingressrule"]) for row in lab.groups() if row["name"].startswith("gce-vm-")]
    assert shown == [{}, {("tcp", "80-80"): ANY}]


def test_machines_that_share_a_group_get_what_is_for_all_of_them(lab: Lab) -> None:
    """As they did while groups had the names of their instances only."""
    shared = lab.scope.client.write("createSecurityGroup", name="gce-vm-vm").one()["id"]
    both, web = ("web", "all"), ("all",)
    for name, tags in (("renamed", both), ("vm", web)):
        made.machine(lab.scope, name, GROUPS, securitygroupids=shared, **_details(tags))
    row = lab.rule("web", "tcp:80", targetTags=["web"])
    assert [warning["code"] for warning in row["warnings"]] == ["NOT_CRITICAL_ERROR"]
    assert lab.group("gce-vm-vm") == {}
    assert not lab.rule("all", "tcp:22", targetTags=["all"])["warnings"]
    assert lab.group("gce-vm-vm") == {("tcp", "22-22"): ANY}


def test_a_group_that_goes_while_an_instance_is_made_is_made_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.rule("ssh", "tcp:22")
    real = run_module.jobs.run

    def run(client: Any, job_id: str, command: str, parameters: Any, **more: Any) -> Any:
        if command == "authorizeSecurityGroupIngress" and not gone:
            gone.append(client.write("deleteSecurityGroup", id=parameters["securitygroupid"]))
        return real(client, job_id, command, parameters, **more)

    gone: list[Any] = []
    monkeypatch.setattr(run_module.jobs, "run", run)
    lab.grouped("vm")
    assert gone and lab.group("gce-default") == {("tcp", "22-22"): ANY}


def test_an_instance_of_before_keeps_its_group(lab: Lab) -> None:
    group = lab.scope.client.write("createSecurityGroup", name="gce-vm-vm").one()["id"]
    machine = made.machine(lab.scope, "vm", GROUPS, securitygroupids=group, **_details(("web",)))
    lab.rule("web", "tcp:80", targetTags=["web"])
    assert lab.group("gce-vm-vm") == {("tcp", "80-80"): ANY}
    lab.tag(machine, "db")
    assert lab.group("gce-vm-vm") == {}
    lab.release(machine)
    assert lab.groups() == []


def test_groups_of_instances_that_are_gone_are_cleared_by_and_by(lab: Lab, simulated: Cloud) -> None:
    """Users who may not expunge leave groups in use, as does who deletes machines in CloudStack."""
    first, second = lab.grouped("first"), lab.grouped("second")
    lab.release(first, expunge="false")
    assert lab.group("gce-vm-first") == {}, "CloudStack counts a destroyed machine"
    made.job(lab.scope, "destroyVirtualMachine", id=second["id"], expunge="true")
    lab.scope.client.write("createSecurityGroup", name="gce-vm-old")
    world = simulated.app.world
    gone = world.find(VirtualMachine, first["id"])
    assert gone is not None
    world.purge(gone)
    others = lab.scope.client.write("createSecurityGroup", name="mine").one()["id"]
    third = lab.grouped("third")
    lab.release(third)
    assert [row["name"] for row in lab.groups()] == ["gce-default"]
    assert lab.scope.client.read("listSecurityGroups", id=others).items
    assert set(lab.scope.store.documents(lab.scope.project.key, claims.KIND)) <= {row["id"] for row in lab.groups()}


def test_a_group_that_waits_for_its_instance_is_not_cleared(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = lab.grouped("vm")
    waiting = {"name": "operation-1-abc", "status": "RUNNING"}
    real = type(lab.scope.store).operation

    def operation(store: Any, owner: str, name: str) -> Any:
        return waiting if name == waiting["name"] else real(store, owner, name)

    monkeypatch.setattr(type(lab.scope.store), "operation", operation)
    client = lab.scope.client
    description = "Rules of instance soon (operation-1-abc)"
    client.write("createSecurityGroup", name="gce-vm-soon.0123", description=description)
    monkeypatch.setattr(
        type(lab.scope.store), "running", lambda store, owner: [("zones/ch-gv2/instances/older", "insert")]
    )
    client.write("createSecurityGroup", name="gce-vm-older")
    lab.release(machine)
    assert {row["name"] for row in lab.groups()} == {"gce-default", "gce-vm-soon.0123", "gce-vm-older"}
    waiting["status"] = "DONE"
    lab.run(do="release", zone=GROUPS, name="nothing")
    assert {row["name"] for row in lab.groups()} == {"gce-default", "gce-vm-older"}


def test_rules_that_cannot_reach_an_instance_are_told(lab: Lab) -> None:
    made.machine(lab.scope, "theirs", GROUPS, **_details(("web",)))
    row = lab.rule("web", "tcp:80", targetTags=["web"])
    assert [warning["code"] for warning in row["warnings"]] == ["NOT_CRITICAL_ERROR"]
    assert "'web'" in row["warnings"][0]["message"]


def test_a_project_has_groups_of_its_own(lab: Lab, scope_for: Any) -> None:
    theirs = Lab(scope_for("webshop"), lab.finish)
    theirs.rule("ssh", "tcp:22")
    theirs.run(do="deploy", zone=GROUPS, name="vm", tags=[])
    assert theirs.group("gce-default") == {("tcp", "22-22"): ANY}
    assert lab.group("gce-default") is None


# Isolated networks


def test_an_address_has_the_rules_that_match_its_instance(lab: Lab) -> None:
    lab.rule("ssh", "tcp:22", "icmp", network="net-a")
    lab.rule("web", "tcp:80", network="net-a", targetTags=["web"])
    lab.rule("elsewhere", "tcp:99")
    front = lab.isolated("front", "web")
    back = lab.isolated("back")
    assert lab.address(front) == {("tcp", "22-22"): ANY, ("icmp", ""): ANY, ("tcp", "80-80"): ANY}
    assert lab.address(back) == {("tcp", "22-22"): ANY, ("icmp", ""): ANY}
    lab.rule("all", "all", network="net-a", sourceRanges=["10.0.0.0/8"], targetTags=["web"])
    assert lab.address(front)["tcp", "1-65535"] == lab.address(front)["udp", "1-65535"] == {"10.0.0.0/8"}
    assert lab.address(front)["icmp", ""] == {"0.0.0.0/0", "10.0.0.0/8"}
    assert ("udp", "1-65535") not in lab.address(back)
    for name in ("all", "ssh"):
        lab.delete(name)
    assert lab.address(front) == {("tcp", "80-80"): ANY}
    assert lab.address(back) == {}


def test_overlapping_rules_do_not_conflict(lab: Lab) -> None:
    address = lab.isolated("vm")
    lab.rule("some", "tcp:80-90", network="net-a")
    lab.rule("one", "tcp:85", network="net-a")
    assert lab.address(address) == {("tcp", "80-90"): ANY}
    lab.rule("more", "tcp:88-99", network="net-a")
    assert lab.address(address) == {("tcp", "80-90"): ANY, ("tcp", "91-99"): ANY}
    lab.delete("some")
    assert lab.address(address) == {("tcp", "85-85"): ANY, ("tcp", "88-90"): ANY, ("tcp", "91-99"): ANY}


def test_another_source_interrupts_none(lab: Lab) -> None:
    address = lab.isolated("vm")
    lab.rule("one", "tcp:22", network="net-a", sourceRanges=["10.0.0.0/8"])
    before = lab.scope.client.read("listFirewallRules", ipaddressid=address).items
    lab.rule("two", "tcp:22", network="net-a", sourceRanges=["192.0.2.0/24"])
    assert before[0]["id"] in {
        row["id"] for row in lab.scope.client.read("listFirewallRules", ipaddressid=address).items
    }
    assert lab.address(address) == {("tcp", "22-22"): {"10.0.0.0/8", "192.0.2.0/24"}}


def test_other_addresses_are_left_alone(lab: Lab) -> None:
    lab.isolated("vm")
    network = made.first(lab.scope, "listNetworks", keyword="net-a")["id"]
    other = made.job(lab.scope, "associateIpAddress", networkid=network)["id"]
    made.job(lab.scope, "createFirewallRule", ipaddressid=other, protocol="tcp", startport="1", endport="2")
    lab.rule("ssh", "tcp:22", network="net-a")
    assert lab.address(other) == {("tcp", "1-2"): ANY}


# What others made


MYSQL = {"protocol": "tcp", "startport": "3306", "endport": "3306", "cidrlist": "10.0.0.0/8"}
SSH = {"protocol": "tcp", "startport": "22", "endport": "22", "cidrlist": "0.0.0.0/0"}


def test_rules_made_in_cloudstack_stay_and_are_shown(lab: Lab, simulated: Cloud) -> None:
    address = lab.isolated("vm", "web")
    theirs = [made.job(lab.scope, "createFirewallRule", ipaddressid=address, **one)["id"] for one in (MYSQL, SSH)]
    shown = {("tcp", "3306-3306"): {"10.0.0.0/8"}, ("tcp", "22-22"): ANY}
    before = simulated.calls["createFirewallRule"]
    lab.rule("ssh", "tcp:22", network="net-a")
    assert simulated.calls["createFirewallRule"] == before, "it is there already"
    lab.rule("wide", "tcp:3300-3310", "udp:53", network="net-a", sourceRanges=["10.0.0.0/8"])
    ours = {
        ("tcp", "3300-3305"): {"10.0.0.0/8"},
        ("tcp", "3307-3310"): {"10.0.0.0/8"},
        ("udp", "53-53"): {"10.0.0.0/8"},
    }
    assert lab.address(address) == shown | ours
    machine = made.first(lab.scope, "listVirtualMachines", name="vm")["id"]
    lab.run(do="refresh", zone=ISOLATED, id=machine, tags=["other"])
    assert lab.address(address) == shown | ours
    found = [name for name in names(lab.scope) if name.startswith("address-")]
    assert len(found) == 2 and names(lab.scope) == [*found, "ssh", "wide"]
    described = {tuple(one.sourceRanges): one for one in (get(lab.scope, name) for name in found)}
    assert list(described["10.0.0.0/8",].allowed[0].ports) == ["3306"]
    assert described["10.0.0.0/8",].network.endswith("/networks/net-a")
    assert described["10.0.0.0/8",].description.startswith("Rules of address ")
    with pytest.raises(ApiError) as taken:
        insert(lab.scope, rule(found[0], "tcp:1", network="net-a"))
    assert taken.value.code == 409
    for name in ("ssh", "wide"):
        lab.delete(name)
    assert lab.address(address) == shown
    rows = lab.scope.client.read("listFirewallRules", ipaddressid=address).items
    assert {row["id"] for row in rows} == {*theirs}
    lab.delete(described["10.0.0.0/8",].name)
    assert lab.address(address) == {("tcp", "22-22"): ANY}


def test_doctor_tells_of_rules_made_in_cloudstack(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, client = lab.scope.environment.settings, lab.scope.client
    account = client.read("listUsers").items[0]["accountid"]
    address = lab.isolated("vm")
    lab.grouped("grouped")
    lab.rule("ssh", "tcp:22", network="net-a")
    lab.rule("web", "tcp:80")
    documents = lab.scope.store.documents(lab.scope.project.key, claims.KIND)
    for target, content in documents.items():
        lab.scope.store.put_document(account, claims.KIND, target, content, expected=None)
    assert _rules(client, settings) == "all made by gstack"
    made.job(lab.scope, "createFirewallRule", ipaddressid=address, **MYSQL)
    group(lab.scope, "mine", MYSQL)
    assert _rules(client, settings).startswith("2 made in CloudStack")
    elsewhere = settings.model_copy(update={"state_dir": settings.state_dir / "none"})
    assert "2 rules of addresses; which of them gstack made" in _rules(client, elsewhere)


def test_a_rule_that_was_ours_and_was_made_anew_elsewhere_stays(lab: Lab) -> None:
    address = lab.isolated("vm")
    lab.rule("ssh", "tcp:22", network="net-a")
    (mine,) = lab.scope.client.read("listFirewallRules", ipaddressid=address).items
    made.job(lab.scope, "deleteFirewallRule", id=mine["id"])
    made.job(lab.scope, "createFirewallRule", ipaddressid=address, **SSH)
    lab.delete("ssh")
    assert lab.address(address) == {("tcp", "22-22"): ANY}


def test_rules_of_before_there_were_claims_are_ours(lab: Lab) -> None:
    """An intent of an older version, whose rules were made one a source, and a rule that somebody else made."""
    address = lab.isolated("vm")
    sources = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"]
    kept = firewalls.normalised(lab.scope, rule("ssh", "tcp:22", network="net-a", sourceRanges=sources))
    kept.ClearField("kind")
    lab.scope.store.add_firewall(lab.scope.project.key, "ssh", "net-a", kept.SerializeToString())
    for one in (MYSQL, SSH | {"cidrlist": "192.0.2.0/24"}, SSH | {"cidrlist": "10.0.0.0/8,10.1.0.0/16"}):
        made.job(lab.scope, "createFirewallRule", ipaddressid=address, **one)
    assert names(lab.scope) == ["ssh"], "whose they are is not known yet"
    lab.delete("ssh")
    assert lab.address(address) == {("tcp", "3306-3306"): {"10.0.0.0/8"}}
    assert len(names(lab.scope)) == 1


def test_a_rule_that_was_made_before_its_translator_died_is_ours(lab: Lab) -> None:
    address = lab.isolated("vm")
    key = Rule("tcp", 22, 22, "0.0.0.0/0").key
    claims.claim(lab.scope, address, [key], "operation-gone")
    identity = made.job(lab.scope, "createFirewallRule", ipaddressid=address, **SSH)["id"]
    lab.rule("ssh", "tcp:22", network="net-a")
    assert claims.of_project(lab.scope)[address][key][0] == identity
    lab.delete("ssh")
    assert lab.address(address) == {}


def test_claims_of_what_is_not_there_are_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    address = lab.isolated("vm")
    lab.rule("ssh", "tcp:22", network="net-a")
    lab.delete("ssh")
    claims.claim(lab.scope, address, ["tcp/1/1/x"], "operation-gone")
    lab.rule("web", "tcp:80", network="net-a")
    assert len(claims.of_project(lab.scope)[address]) == 3
    monkeypatch.setattr(claims, "_KEPT_SECONDS", 0.0)
    lab.rule("other", "tcp:81", network="net-a")
    assert sorted(claims.of_project(lab.scope)[address]) == ["tcp/80/80/0.0.0.0/0", "tcp/81/81/0.0.0.0/0"]


# Large rules

MANY = [f"10.{place}.0.0/24" for place in range(100)]
PORTS = [f"tcp:{port}" for port in range(1000, 1040, 2)]


def test_a_large_rule_takes_a_call_for_each_range_of_ports(lab: Lab, simulated: Cloud) -> None:
    lab.isolated("vm")
    lab.rule("large", *PORTS, network="net-a", sourceRanges=MANY)
    assert simulated.calls["createFirewallRule"] == 20
    lab.delete("large")
    assert simulated.calls["deleteFirewallRule"] == 20
    near = [f"tcp:{port}" for port in range(1000, 1040)]
    lab.rule("joined", *near, network="net-a", sourceRanges=[f"10.0.{place}.0/24" for place in range(128)])
    assert simulated.calls["createFirewallRule"] == 21
    (row,) = lab.scope.client.read("listFirewallRules").items
    assert (row["startport"], row["endport"], row["cidrlist"]) == (1000, 1039, "10.0.0.0/17")


def test_a_large_rule_of_groups_takes_a_call_for_each_range_of_ports(lab: Lab, simulated: Cloud) -> None:
    lab.grouped("vm")
    lab.rule("large", *PORTS, sourceRanges=MANY[:10])
    assert simulated.calls["authorizeSecurityGroupIngress"] == 20
    lab.delete("large")
    assert simulated.calls["revokeSecurityGroupIngress"] == 200
    assert lab.group("gce-default") == {}


def test_others_do_not_wait_for_a_large_rule(lab: Lab, simulated: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its jobs hang, rules and instances come and go, without doing its work for it."""
    lab.grouped("vm")
    lab.rule("ssh", "tcp:22")
    held, real = threading.Event(), run_module.jobs.run

    def run(client: Any, job_id: str, command: str, parameters: Any, **more: Any) -> Any:
        if parameters.get("startport", "").startswith("10"):
            assert held.wait(60)
        return real(client, job_id, command, parameters, **more)

    monkeypatch.setattr(run_module.jobs, "run", run)
    large = insert(lab.scope, rule("large", *PORTS[:4], sourceRanges=MANY))
    try:
        lab.rule("web", "tcp:80")
        lab.delete("ssh")
        lab.grouped("other")
        assert lab.group("gce-default") == {("tcp", "80-80"): ANY}
        assert (lab.scope.store.operation_by_name(large.name) or {})["status"] == "RUNNING"
    finally:
        held.set()
    assert not lab.finish(lab.scope, large)["error"]
    assert lab.group("gce-default") == {("tcp", "80-80"): ANY} | {
        ("tcp", f"{port}-{port}"): {*MANY} for port in range(1000, 1008, 2)
    }


def test_sources_by_tag_ask_nothing_in_an_isolated_network(lab: Lab, simulated: Cloud) -> None:
    address = lab.isolated("vm", "web")
    before = simulated.calls["listFirewallRules"]
    lab.rule("inside", "tcp:22", network="net-a", sourceTags=["web"])
    assert simulated.calls["listFirewallRules"] == before
    assert lab.address(address) == {}


# When CloudStack refuses


def _refusing(monkeypatch: pytest.MonkeyPatch, code: int, times: int, commands: tuple[str, ...]) -> list[str]:
    """Jobs of these commands fail the first times."""
    real, failed = run_module.jobs.run, []

    def run(client: Any, job_id: str, command: str, *rest: Any, **more: Any) -> Any:
        if command in commands and len(failed) < times:
            failed.append(command)
            raise CloudStackError(code, "Failed to authorize security group ingress rule(s)")
        return real(client, job_id, command, *rest, **more)

    monkeypatch.setattr(run_module.jobs, "run", run)
    return failed


def test_a_lost_race_is_looked_at_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.grouped("vm")
    failed = _refusing(monkeypatch, 530, 2, ("authorizeSecurityGroupIngress",))
    lab.rule("ssh", "tcp:22", "tcp:24")
    assert len(failed) == 2
    assert lab.group("gce-default") == {("tcp", "22-22"): ANY, ("tcp", "24-24"): ANY}


def test_many_lost_races_are_no_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else makes the rule of port 2 just before our first try, that of port 4 before our second, ..."""
    lab.grouped("vm")
    real = run_module.jobs.run
    tries: dict[int, int] = {}

    def run(client: Any, job_id: str, command: str, parameters: Any, **more: Any) -> Any:
        port = int(parameters["startport"]) // 2
        tries[port] = tries.get(port, 0) + 1
        if tries[port] == port:
            real(client, job_id, command, parameters, **more)
        raise CloudStackError(530, "Failed to authorize security group ingress rule(s)")

    monkeypatch.setattr(run_module.jobs, "run", run)
    lab.rule("many", "tcp:2", "tcp:4", "tcp:6", "tcp:8", "tcp:10")
    assert tries == {port: port for port in range(1, 6)}


@pytest.mark.parametrize(("code", "tries"), [(530, 3), (535, 1)])
def test_a_rule_that_cannot_be_applied_does_not_stay(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    lab.grouped("vm")
    failed = _refusing(monkeypatch, code, 99, ("authorizeSecurityGroupIngress",))
    row = lab.finish(lab.scope, insert(lab.scope, rule("ssh", "tcp:22")))
    assert row["error"]
    assert len(failed) == tries
    assert names(lab.scope) == []


def test_what_a_failed_rule_left_is_taken_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.grouped("vm")
    real = run_module.jobs.run

    def run(client: Any, job_id: str, command: str, parameters: Any, **more: Any) -> Any:
        if parameters.get("startport") == "24":
            raise CloudStackError(535, "Maximum amount of resources")
        return real(client, job_id, command, parameters, **more)

    monkeypatch.setattr(run_module.jobs, "run", run)
    row = lab.finish(lab.scope, insert(lab.scope, rule("ssh", "tcp:22", "tcp:24")))
    assert row["error"]["code"] == "QUOTA_EXCEEDED"
    assert lab.group("gce-default") == {}


def test_a_rule_that_remains_in_force_remains_in_the_list(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.grouped("vm")
    lab.rule("ssh", "tcp:22")
    _refusing(monkeypatch, 531, 99, ("revokeSecurityGroupIngress",))
    assert lab.finish(lab.scope, delete(lab.scope, "ssh"))["error"]
    assert names(lab.scope) == ["ssh"]
    monkeypatch.undo()
    lab.delete("ssh")
    assert lab.group("gce-default") == {}
    with pytest.raises(ApiError):
        delete(lab.scope, "ssh")


def test_rules_made_and_deleted_at_the_same_time_meet(lab: Lab) -> None:
    lab.grouped("vm", "web")
    many = [rule(f"r{index}", f"tcp:{index + 1}", targetTags=["web"] if index % 2 else []) for index in range(8)]
    for row in [lab.finish(lab.scope, operation) for operation in [insert(lab.scope, one) for one in many]]:
        assert not row["error"]
    assert lab.group("gce-default") == {("tcp", f"{port}-{port}"): ANY for port in (1, 3, 5, 7)}
    assert lab.group("gce-vm-vm") == {("tcp", f"{port}-{port}"): ANY for port in (2, 4, 6, 8)}
    pending = [delete(lab.scope, one.name) for one in many[:6]]
    pending += [insert(lab.scope, rule(f"s{index}", f"udp:{index + 1}")) for index in range(3)]
    for operation in pending:
        assert not lab.finish(lab.scope, operation)["error"]
    assert lab.group("gce-default") == {("tcp", "7-7"): ANY} | {("udp", f"{port}-{port}"): ANY for port in (1, 2, 3)}
    assert lab.group("gce-vm-vm") == {("tcp", "8-8"): ANY}


def test_instances_made_at_the_same_time_share_the_group(lab: Lab) -> None:
    lab.rule("ssh", "tcp:22")
    payloads = [{"do": "deploy", "zone": GROUPS, "name": f"vm-{index}", "tags": []} for index in range(6)]
    pending = [
        engine.submit(lab.scope, type="test", target=f"tests/{one}", handler="tests.projection", payload=one)
        for one in payloads
    ]
    for operation in pending:
        assert not lab.finish(lab.scope, operation)["error"]
    rows = lab.scope.client.read("listSecurityGroups", keyword="gce-default").items
    assert [_shown(row["ingressrule"]) for row in rows] == [{("tcp", "22-22"): ANY}]
