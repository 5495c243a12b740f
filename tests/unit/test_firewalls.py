"""Firewalls: what is accepted, kept, shown, and what becomes of security groups made elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import common_pb2
from gstack.compute.v1 import firewalls_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, recorded_rows
from tests.unit import made
from translator_service.networking.groups import network_group
from translator_service.operations import engine
from translator_service.resources import firewalls
from translator_service.scope import Scope

ROOT = "https://www.googleapis.com/compute/v1/projects/demo/global"


def rule(name: str = "web", *allowed: str, **fields: Any) -> pb.Firewall:
    """`rule("web", "tcp:22,80-90", "icmp", network="net-a")`."""
    message = pb.Firewall(name=name, **fields)
    for text in allowed:
        protocol, _, ports = text.partition(":")
        message.allowed.add(IPProtocol=protocol, ports=ports.split(",") if ports else [])
    return message


def insert(scope: Scope, wanted: pb.Firewall) -> Any:
    return made.ask(scope, "Firewalls.Insert", pb.InsertFirewallRequest(project="demo", resource=wanted))


def delete(scope: Scope, name: str) -> Any:
    return made.ask(scope, "Firewalls.Delete", pb.DeleteFirewallRequest(project="demo", firewall=name))


def get(scope: Scope, name: str) -> Any:
    return made.ask(scope, "Firewalls.Get", pb.GetFirewallRequest(project="demo", firewall=name))


def names(scope: Scope, **options: Any) -> list[str]:
    found = made.ask(scope, "Firewalls.List", common_pb2.ListRequest(project="demo", **options))
    return [item.name for item in found.items]


def group(scope: Scope, name: str, *rules: dict[str, str]) -> str:
    """A security group made elsewhere."""
    made_group = scope.client.write("createSecurityGroup", name=name).one()
    for one in rules:
        made.job(scope, "authorizeSecurityGroupIngress", securitygroupid=made_group["id"], **one)
    return str(made_group["id"])


SSH = {"protocol": "tcp", "startport": "22", "endport": "22", "cidrlist": "10.0.0.0/8"}
HTTP = {"protocol": "tcp", "startport": "80", "endport": "443", "cidrlist": "0.0.0.0/0"}


# What is kept


def test_defaults_are_filled_in(scope: Scope, operations: Any) -> None:
    assert not operations(scope, insert(scope, rule("web", "tcp:22,80-90", "icmp", description="a")))["error"]
    shown = get(scope, "web")
    assert shown.kind == "compute#firewall"
    assert shown.id > 0
    assert shown.selfLink == f"{ROOT}/firewalls/web"
    assert shown.network == f"{ROOT}/networks/default"
    assert (shown.priority, shown.direction, shown.description) == (1000, "INGRESS", "a")
    assert list(shown.sourceRanges) == ["0.0.0.0/0"]
    assert shown.HasField("disabled") and not shown.disabled
    assert shown.logConfig.HasField("enable") and not shown.logConfig.enable
    assert [(one.IPProtocol, list(one.ports)) for one in shown.allowed] == [("tcp", ["22", "80-90"]), ("icmp", [])]
    assert shown.creationTimestamp > "2020"


def test_numbers_of_gcutil_become_names_and_others_stay(scope: Scope) -> None:
    kept = firewalls.normalised(scope, rule("web", "6:22", "17", "1", "50", "ESP", "all", "sctp"))
    assert [one.IPProtocol for one in kept.allowed] == ["tcp", "udp", "icmp", "50", "esp", "all", "sctp"]


def test_source_tags_alone_do_not_open_the_world(scope: Scope) -> None:
    kept = firewalls.normalised(scope, rule("web", "tcp", sourceTags=["front"]))
    assert not kept.sourceRanges


def test_what_the_server_sets_cannot_be_sent(scope: Scope) -> None:
    sent = rule("web", "tcp", kind="x", id=7, selfLink="x", creationTimestamp="x")
    kept = firewalls.normalised(scope, sent)
    assert kept.kind == "compute#firewall"
    assert not (kept.HasField("id") or kept.selfLink or kept.creationTimestamp)


def test_ranges_are_written_as_networks_and_once(scope: Scope) -> None:
    kept = firewalls.normalised(scope, rule("web", "tcp", sourceRanges=["192.0.2.1", "10.0.0.0/8", "192.0.2.1/32"]))
    assert list(kept.sourceRanges) == ["192.0.2.1/32", "10.0.0.0/8"]


def test_ports_from_zero_as_in_the_default_rules_of_google(scope: Scope) -> None:
    assert list(firewalls.normalised(scope, rule("web", "tcp:0-65535")).allowed[0].ports) == ["0-65535"]


def test_egress_is_kept_with_destinations(scope: Scope, operations: Any, simulated: Cloud) -> None:
    wanted = rule("out", "esp", direction="EGRESS", network="net-a")
    before = dict(simulated.calls)
    assert not operations(scope, insert(scope, wanted))["error"]
    shown = get(scope, "out")
    assert (shown.direction, list(shown.destinationRanges), list(shown.sourceRanges)) == ("EGRESS", ["0.0.0.0/0"], [])
    assert "createFirewallRule" not in simulated.calls.keys() - before.keys()


def test_what_can_be_joined_is_counted_as_one(scope: Scope) -> None:
    sources = [f"10.0.{place // 256}.{place % 256}" for place in range(1024)]
    many = ",".join(str(port) for port in range(1, 500))
    kept = firewalls.normalised(scope, rule("web", f"tcp:{many}", sourceRanges=sources))
    assert len(kept.sourceRanges) == 1024 and len(kept.allowed[0].ports) == 499, "shown as they were put in"
    firewalls.normalised(scope, rule("web", f"tcp:{ports(64)}", network="net-a", sourceRanges=apart(256)))
    firewalls.normalised(scope, rule("web", f"tcp:{ports(20)}", sourceRanges=apart(50)))


# What is refused


def apart(count: int) -> list[str]:
    """Ranges that cannot be joined."""
    return [f"10.{place // 128}.{place % 128 * 2}.0/24" for place in range(count)]


def ports(count: int) -> str:
    return ",".join(str(port) for port in range(1, 2 * count, 2))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (rule("", "tcp"), "resource.name"),
        (rule("Web", "tcp"), "resource.name"),
        (rule("web"), "resource.allowed"),
        (rule("web", ""), "resource.allowed[0].IPProtocol"),
        (rule("web", "tcp", "nope"), "resource.allowed[1].IPProtocol"),
        (rule("web", "256"), "resource.allowed[0].IPProtocol"),
        (rule("web", "²"), "resource.allowed[0].IPProtocol"),
        (rule("web", "icmp:8"), "resource.allowed[0].ports"),
        (rule("web", "all:1-2"), "resource.allowed[0].ports"),
        (rule("web", "tcp:22,0"), "resource.allowed[0].ports[1]"),
        (rule("web", "tcp:65536"), "resource.allowed[0].ports[0]"),
        (rule("web", "tcp:9-8"), "resource.allowed[0].ports[0]"),
        (rule("web", "tcp:22-"), "resource.allowed[0].ports[0]"),
        (rule("web", "tcp", sourceRanges=["10.0.0.0/8", "10.1.2.3/8"]), "resource.sourceRanges[1]"),
        (rule("web", "tcp", sourceRanges=["everywhere"]), "resource.sourceRanges[0]"),
        (rule("web", "tcp", sourceRanges=["10.0.0.0/8", "2001:db8::/32"]), "resource.sourceRanges"),
        (rule("web", "tcp", sourceRanges=["2001:db8::/32"], network="net-a"), "resource.sourceRanges"),
        (rule("web", "tcp", destinationRanges=["10.0.0.0/8"]), "resource.destinationRanges"),
        (rule("web", "tcp", direction="EGRESS", sourceTags=["a"]), "resource.sourceTags"),
        (rule("web", "tcp", direction="EGRESS", sourceRanges=["10.0.0.0/8"]), "resource.sourceRanges"),
        (rule("web", "tcp", direction="SIDEWAYS"), "resource.direction"),
        (rule("web", "tcp", sourceTags=["a", "A"]), "resource.sourceTags[1]"),
        (rule("web", "tcp", targetTags=["-a"]), "resource.targetTags[0]"),
        (rule("web", "tcp", priority=65536), "resource.priority"),
        (rule("web", "tcp", priority=-1), "resource.priority"),
        (rule("web", "tcp", denied=[pb.Firewall.Denied(IPProtocol="udp")]), "resource.denied"),
        (rule("web", "tcp", sourceTags=[f"t{index}" for index in range(31)]), "resource.sourceTags"),
        (rule("web", "tcp", targetTags=[f"t{index}" for index in range(71)]), "resource.targetTags"),
        (rule("web", "tcp", sourceRanges=apart(257)), "resource.sourceRanges"),
        (rule("web", "tcp", network="net-a", sourceRanges=apart(257)), "resource.sourceRanges"),
        (rule("web", "tcp", direction="EGRESS", destinationRanges=apart(257)), "resource.destinationRanges"),
        (rule("web", f"tcp:{ports(33)}", f"udp:{ports(32)}"), "resource.allowed"),
        (rule("web", f"tcp:{ports(20)}", sourceRanges=apart(51)), "resource.sourceRanges"),
        (rule("web", f"tcp:{ports(51)}", sourceRanges=apart(20)), "resource.allowed"),
    ],
)
def test_refused(scope: Scope, wanted: pb.Firewall, field: str) -> None:
    with pytest.raises(ApiError) as failure:
        insert(scope, wanted)
    assert (failure.value.code, failure.value.location) == (400, field)
    assert names(scope) == []


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (rule("web", denied=[pb.Firewall.Denied(IPProtocol="tcp")]), "resource.denied"),
        (rule("web", denied=[pb.Firewall.Denied(IPProtocol="tcp")], direction="EGRESS"), "resource.denied"),
        (rule("web", "tcp", sourceServiceAccounts=["a@example.org"]), "resource.sourceServiceAccounts"),
        (rule("web", "tcp", targetServiceAccounts=["a@example.org"]), "resource.targetServiceAccounts"),
        (rule("web", "tcp", "esp", network="net-a"), "resource.allowed[1].IPProtocol"),
        (rule("web", "47", network="net-a"), "resource.allowed[0].IPProtocol"),
        (rule("web", "sctp:22"), "resource.allowed[0].ports"),
    ],
)
def test_what_no_zone_can_do_is_said(scope: Scope, wanted: pb.Firewall, field: str) -> None:
    with pytest.raises(ApiError) as failure:
        insert(scope, wanted)
    error = failure.value
    assert (error.code, error.reason, error.location) == (400, "unsupportedOperation", field)
    assert "cloudstack" not in error.message.lower()


def test_an_unknown_network_is_404_and_leaves_nothing(scope: Scope) -> None:
    with pytest.raises(ApiError) as failure:
        insert(scope, rule("web", "tcp", network="global/networks/nope"))
    assert failure.value.code == 404
    assert names(scope) == []


def test_a_name_is_taken_once(scope: Scope, operations: Any) -> None:
    operations(scope, insert(scope, rule("web", "tcp")))
    with pytest.raises(ApiError) as failure:
        insert(scope, rule("web", "udp"))
    assert failure.value.code == 409
    assert "'projects/demo/global/firewalls/web' already exists" in failure.value.message


def test_a_group_made_elsewhere_takes_its_name(scope: Scope) -> None:
    group(scope, "Web", HTTP)
    with pytest.raises(ApiError) as failure:
        insert(scope, rule("web", "tcp"))
    assert failure.value.code == 409


# Reading


def test_a_rule_of_ours_costs_no_call(scope: Scope, operations: Any, simulated: Cloud) -> None:
    operations(scope, insert(scope, rule("web", "tcp")))
    before = dict(simulated.calls)
    shown = get(scope, "web")
    assert get(scope, str(shown.id)) == shown
    assert simulated.calls == before


def test_a_list_costs_one_call(scope: Scope, simulated: Cloud) -> None:
    names(scope)
    before = simulated.calls["listSecurityGroups"]
    names(scope)
    assert simulated.calls["listSecurityGroups"] == before + 1


def test_a_list_shows_a_rule_at_once_and_filters(scope: Scope, operations: Any) -> None:
    operation = insert(scope, rule("web", "tcp"))
    assert names(scope) == ["web"]
    assert (operation.operationType, operation.targetLink) == ("insert", f"{ROOT}/firewalls/web")
    assert operation.targetId == get(scope, "web").id
    operations(scope, operation)
    operations(scope, insert(scope, rule("db", "tcp", network="net-a")))
    assert names(scope) == ["db", "web"]
    assert names(scope, filter="name eq w.*") == ["web"]
    assert names(scope, filter="network:net-a") == ["db"]


def test_a_rule_made_anew_is_not_shown_as_it_was(scope: Scope, operations: Any) -> None:
    operations(scope, insert(scope, rule("web", "tcp")))
    assert names(scope, filter="allowed.IPProtocol=tcp") == ["web"]
    operations(scope, delete(scope, "web"))
    operations(scope, insert(scope, rule("web", "udp")))
    assert names(scope, filter="allowed.IPProtocol=tcp") == []


def test_projects_do_not_see_each_other(scope: Scope, scope_for: Any, operations: Any) -> None:
    operations(scope, insert(scope, rule("web", "tcp")))
    other = scope_for("webshop")
    found = made.ask(other, "Firewalls.List", common_pb2.ListRequest(project="webshop"))
    assert list(found.items) == []


def test_unknown_is_404(scope: Scope) -> None:
    for call in (get, delete):
        with pytest.raises(ApiError) as failure:
            call(scope, "nope")
        assert failure.value.code == 404
        assert "'projects/demo/global/firewalls/nope'" in failure.value.message


# Groups made elsewhere


def test_recorded_groups_by_their_sources(scope: Scope) -> None:
    found = firewalls.foreign(scope, recorded_rows("h-security-groups", "listSecurityGroups"))
    shown = {tuple(one.firewall.sourceRanges): one for one in found}
    assert len(shown) == len(found) == 4, "groups without a CIDR are left out"
    everyone = shown["0.0.0.0/0",]
    assert everyone.firewall.name == "web"
    assert [(one.IPProtocol, list(one.ports)) for one in everyone.firewall.allowed] == [
        ("tcp", ["80-443"]),
        ("udp", ["53"]),
        ("icmp", []),
    ]
    assert len(everyone.rules) == 3
    some = shown["10.0.0.0/8", "192.168.0.0/16"].firewall
    assert (some.allowed[0].IPProtocol, list(some.allowed[0].ports)) == ("tcp", ["22"])
    assert [one.IPProtocol for one in shown["10.9.0.0/16",].firewall.allowed] == ["all", "50"]
    assert len({one.firewall.id for one in found}) == len({one.firewall.name for one in found}) == 4
    assert all(one.firewall.name == "web" or one.firewall.name.startswith("web-") for one in found)
    assert all(one.firewall.creationTimestamp == "1969-12-31T16:00:00.000-08:00" for one in found)


def test_a_rule_of_ours_keeps_its_name_beside_a_group(scope: Scope) -> None:
    rows = recorded_rows("h-security-groups", "listSecurityGroups")
    found = {one.firewall.name for one in firewalls.foreign(scope, rows, [rule("web")])}
    assert "web" not in found
    assert len(found) == 4


def test_a_group_that_comes_later_gets_another_name(scope: Scope, operations: Any) -> None:
    operations(scope, insert(scope, rule("web", "udp")))
    group(scope, "web", SSH)
    found = names(scope)
    assert len(set(found)) == 2 and "web" in found
    theirs = next(name for name in found if name != "web")
    assert [one.IPProtocol for one in get(scope, "web").allowed] == ["udp"]
    assert [one.IPProtocol for one in get(scope, theirs).allowed] == ["tcp"]
    assert not operations(scope, delete(scope, theirs))["error"]
    assert names(scope) == ["web"]


def test_groups_made_elsewhere_are_read_by_name_and_number(scope: Scope) -> None:
    group(scope, "My Group", HTTP)
    group(scope, network_group("other"), HTTP)
    assert names(scope) == ["gce-other", "my-group"]
    shown = get(scope, "my-group")
    assert (list(shown.sourceRanges), shown.network) == (["0.0.0.0/0"], f"{ROOT}/networks/default")
    assert get(scope, str(shown.id)).name == "my-group"


def test_a_group_made_elsewhere_is_taken_away_in_parts(scope: Scope, operations: Any) -> None:
    identity = group(scope, "web", SSH, HTTP)
    other = next(name for name in names(scope) if name != "web")
    assert list(get(scope, "web").sourceRanges) == ["0.0.0.0/0"]
    assert list(get(scope, other).sourceRanges) == ["10.0.0.0/8"]
    assert not operations(scope, delete(scope, "web"))["error"]
    rows = scope.client.read("listSecurityGroups", id=identity).items
    assert [one["cidr"] for one in rows[0]["ingressrule"]] == ["10.0.0.0/8"]
    # Whatever of its group is gone, it keeps its name.
    assert names(scope) == [other]
    assert not operations(scope, delete(scope, other))["error"]
    assert scope.client.read("listSecurityGroups", securitygroupname="web").items == []


def test_a_used_or_the_default_group_stays_without_its_rules(scope: Scope, operations: Any) -> None:
    default = made.first(scope, "listSecurityGroups", securitygroupname="default")["id"]
    made.job(scope, "authorizeSecurityGroupIngress", securitygroupid=default, **HTTP)
    used = group(scope, "used", HTTP)
    made.machine(scope, "vm", "ch-gv2", securitygroupids=used)
    for name in ("default", "used"):
        assert not operations(scope, delete(scope, name))["error"]
        assert made.first(scope, "listSecurityGroups", securitygroupname=name)["ingressrule"] == []
    assert names(scope) == []


def test_rules_and_groups_gone_in_the_meantime_are_no_error(scope: Scope, operations: Any) -> None:
    identity = group(scope, "web", SSH, {**SSH, "startport": "23", "endport": "23"})
    rules = [rule["ruleid"] for rule in scope.client.read("listSecurityGroups", id=identity).items[0]["ingressrule"]]
    made.job(scope, "revokeSecurityGroupIngress", id=rules[0])
    for _ in range(2):
        operation = engine.submit(
            scope,
            type="delete",
            target="global/firewalls/web",
            handler="firewalls.deleteForeign",
            payload={"group": identity, "rules": rules},
        )
        assert not operations(scope, operation)["error"]
        assert scope.client.read("listSecurityGroups", securitygroupname="web").items == []


# Coming and going


def test_a_rule_comes_and_goes(scope: Scope, operations: Any) -> None:
    first = get_after(scope, operations, rule("web", "tcp"))
    row = operations(scope, delete(scope, "web"))
    assert not row["error"]
    assert row["target_id"] == str(first.id)
    assert names(scope) == []
    assert get_after(scope, operations, rule("web", "tcp")).id != first.id


def get_after(scope: Scope, operations: Any, wanted: pb.Firewall) -> Any:
    assert not operations(scope, insert(scope, wanted))["error"]
    return get(scope, wanted.name)
