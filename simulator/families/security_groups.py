"""Security groups and their rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from simulator import errors
from simulator.commands import Call, Lazy, Listing, by_name, command, missing
from simulator.errors import ApiError
from simulator.families import tags
from simulator.index import Index, index
from simulator.world import Account, SecurityGroup, SecurityGroupRule, VirtualMachine, World, Zone

DEFAULT = "default"
MAX_PORT = 65535
MAX_PROTOCOL = 255
Users = dict[SecurityGroup, list[str]]


def groups_of(world: World) -> Index[SecurityGroup]:
    """Groups by account."""
    return index(world, SecurityGroup, lambda group: (group.account,))


def _rule_groups(world: World) -> dict[str, SecurityGroup]:
    """The group of each rule's id."""
    found: dict[str, SecurityGroup] | None = world.indexes.get(SecurityGroupRule)
    if found is None:
        found = {rule.id: group for group in world.all(SecurityGroup) for rule in group.rules}
        world.indexes[SecurityGroupRule] = found
    return found


def default_group(world: World, account: Account) -> SecurityGroup:
    """The account's group that is there without anybody having made it."""
    found = by_name(groups_of(world).of(account), DEFAULT)
    return found[0] if found else _add(world, account, DEFAULT, "Default Security Group")


def _add(world: World, account: Account, name: str, description: str) -> SecurityGroup:
    group = world.add(SecurityGroup, name=name, description=description, account=account)
    groups_of(world).put(group)
    return group


# Answers


def render_in_vm(group: SecurityGroup) -> dict[str, Any]:
    """A group inside a VM's answer: without its rules."""
    return _head(group) | {"ingressrule": [], "egressrule": [], "tags": [], "virtualmachineids": []}


def _head(group: SecurityGroup) -> dict[str, Any]:
    body: dict[str, Any] = {"id": group.id, "name": group.name}
    if group.description:
        body["description"] = group.description
    owner = tags.owner_keys(group.account)
    return body | {key: value for key, value in owner.items() if not key.startswith("domain")}


def _render(group: SecurityGroup, users: Users) -> dict[str, Any]:
    machines = users.get(group, [])
    return _with_owner(group) | {
        "ingressrule": [_render_rule(rule) for rule in group.rules if rule.direction == "ingress"],
        "egressrule": [_render_rule(rule) for rule in group.rules if rule.direction == "egress"],
        "tags": [tag | {"domainpath": group.account.domain.path} for tag in group.tags],
        "virtualmachinecount": len(machines),
        "virtualmachineids": machines,
    }


def _with_owner(group: SecurityGroup) -> dict[str, Any]:
    owner = group.account
    return _head(group) | tags.owner_keys(owner) | {"domainpath": owner.domain.path}


def _render_new(group: SecurityGroup, rules: list[SecurityGroupRule]) -> dict[str, Any]:
    """The result of an authorize job: the group with the new rules only, without their tags."""
    shown = [{key: value for key, value in _render_rule(rule).items() if key != "tags"} for rule in rules]
    ingress = rules[0].direction == "ingress"
    return _with_owner(group) | {
        "ingressrule": shown if ingress else [],
        "egressrule": [] if ingress else shown,
        "tags": list(group.tags),
        "virtualmachineids": [],
    }


def _render_rule(rule: SecurityGroupRule) -> dict[str, Any]:
    body: dict[str, Any] = {"ruleid": rule.id, "protocol": rule.protocol}
    if rule.protocol == "icmp":
        body |= {"icmptype": rule.icmp_type, "icmpcode": rule.icmp_code}
    else:
        body |= {"startport": rule.start_port, "endport": rule.end_port}
    if rule.cidr:
        body["cidr"] = rule.cidr
    else:
        body |= {"securitygroupname": rule.group_name, "account": rule.group_account}
    return body | {"tags": rule.tags}


def _users(world: World, owners: Iterable[Account]) -> Users:
    """The ids of the VMs in each group, oldest first."""
    users: Users = {}
    accounts = set(owners)
    for vm in world.all(VirtualMachine):
        if vm.account in accounts:
            for group in vm.security_groups:
                users.setdefault(group, []).append(vm.id)
    return users


# For VMs


def groups_for_deploy(call: Call, account: Account, zone: Zone) -> list[SecurityGroup]:
    """The groups of `securitygroupids` or `securitygroupnames`, else the default one; none in a zone without groups."""
    if "securitygroupids" in call.parameters and "securitygroupnames" in call.parameters:
        text = "securitygroupids parameter is mutually exclusive with securitygroupnames parameter"
        raise errors.invalid(text)
    asked = call.rows(SecurityGroup, "securitygroupids")
    if not zone.security_groups:
        return []
    if asked:
        for group in asked:
            call.check_access(group.account)
        return list(dict.fromkeys(asked))
    if names := call.items("securitygroupnames"):
        return list(dict.fromkeys(_named(call.world, account, name) for name in names))
    return [default_group(call.world, account)]


def _named(world: World, account: Account, name: str) -> SecurityGroup:
    found = by_name(groups_of(world).of(account), name)
    if not found:
        raise errors.invalid(f"Unable to find group by name {name}")
    return found[0]


# Groups


@command("createSecurityGroup")
def create_security_group(call: Call) -> dict[str, Any]:
    owner, name = call.owner(), call.text("name")
    call.check_named_account()
    if by_name(groups_of(call.world).of(owner), name):
        raise errors.invalid(f"Unable to create security group, a group with name {name} already exists.")
    return _render(_add(call.world, owner, name, call.text("description")), {})


@command("deleteSecurityGroup")
def delete_security_group(call: Call) -> dict[str, Any]:
    group = _group(call, "id", "name")
    world = call.world
    if group.name.lower() == DEFAULT:
        raise errors.invalid(f"The network group {group.name} is reserved")
    if any(_names(rule, group) for other in world.all(SecurityGroup) if other is not group for rule in other.rules):
        raise ApiError(536, "Cannot delete group when there are security rules that allow this group")
    if group in _users(world, [group.account]):
        raise ApiError(536, "Cannot delete group when it's in use by virtual machines")
    for rule in group.rules:
        _rule_groups(world).pop(rule.id, None)
    world.purge(group)
    groups_of(world).put(group)
    return {"success": True}


def _names(rule: SecurityGroupRule, group: SecurityGroup) -> bool:
    return not rule.cidr and rule.group_name == group.name and rule.group_account == group.account.name


def _group(call: Call, id_parameter: str, name_parameter: str) -> SecurityGroup:
    """The group named by id or name, when the caller may."""
    owner = call.owner()
    call.check_named_account()
    group = call.row(SecurityGroup, id_parameter)
    if group is not None:
        call.check_access(group.account)
        return group
    name = call.text(name_parameter)
    if not name:
        raise missing(call.command, id_parameter)
    found = by_name(groups_of(call.world).of(owner), name)
    if not found:
        raise errors.invalid(f"Unable to find security group by name {name} for the account id={owner.number}")
    return found[0]


@command("updateSecurityGroup")
def update_security_group(call: Call) -> dict[str, Any]:
    """Rename a group, in the rules that name it too."""
    world, group, name = call.world, call.require(SecurityGroup, "id"), call.text("name")
    if name and name != group.name:
        if DEFAULT in (group.name.lower(), name.lower()):
            raise errors.invalid("The default security group is reserved and cannot be changed")
        if any(other is not group for other in by_name(groups_of(world).of(group.account), name)):
            raise errors.invalid(f"Unable to update security group, a group with name {name} already exists.")
        for other in world.all(SecurityGroup):
            for rule in other.rules:
                if _names(rule, group):
                    rule.group_name = name
        group.name = name
        for vm in world.all(VirtualMachine):
            if group in vm.security_groups:
                vm.views.clear()
    return _render(group, _users(world, [group.account]))


@command("listSecurityGroups")
def list_security_groups(call: Call) -> Listing:
    one, vm, owners = call.row(SecurityGroup, "id"), call.row(VirtualMachine, "virtualmachineid"), call.owners()
    found = groups_of(call.world).of(*owners)
    if one is not None:
        found = [row for row in found if row is one]
    if vm is not None:
        call.check_access(vm.account)
        found = [row for row in found if row in vm.security_groups]
    if "securitygroupname" in call.parameters:
        found = by_name(found, call.text("securitygroupname"))
    if keyword := call.text("keyword").lower():
        found = [row for row in found if keyword in row.name.lower()]
    found = tags.filter_rows(call, found)
    users = _users(call.world, owners) if found else {}
    return Listing(Lazy(found, lambda group: _render(group, users)))


# Rules


@command("authorizeSecurityGroupIngress")
def authorize_ingress(call: Call) -> dict[str, Any]:
    return _authorize(call, "ingress")


@command("authorizeSecurityGroupEgress")
def authorize_egress(call: Call) -> dict[str, Any]:
    return _authorize(call, "egress")


@command("revokeSecurityGroupIngress")
def revoke_ingress(call: Call) -> dict[str, Any]:
    return _revoke(call, "ingress")


@command("revokeSecurityGroupEgress")
def revoke_egress(call: Call) -> dict[str, Any]:
    return _revoke(call, "egress")


def _authorize(call: Call, direction: str) -> dict[str, Any]:
    """One rule a CIDR or group; those that exist are left alone, but at least one has to be new."""
    group = _group(call, "securitygroupid", "securitygroupname")

    def authorize() -> dict[str, Any]:
        existing = {_identity(rule) for rule in group.rules}
        rules = [rule for rule in _new_rules(call, direction) if _identity(rule) not in existing]
        if group.removed or not rules:
            raise errors.internal(f"Failed to authorize security group {direction} rule(s)")
        group.rules += rules
        _rule_groups(call.world).update({rule.id: group for rule in rules})
        return {"securitygroup": _render_new(group, rules)}

    return call.job(authorize, instance=("SecurityGroup", group.id))


def _identity(rule: SecurityGroupRule) -> tuple[Any, ...]:
    source = (rule.cidr, rule.group_account, rule.group_name)
    return (rule.direction, rule.protocol, *source, rule.start_port, rule.end_port, rule.icmp_type, rule.icmp_code)


def _new_rules(call: Call, direction: str) -> list[SecurityGroupRule]:
    protocol = call.text("protocol", "all").lower()
    if protocol not in ("tcp", "udp", "icmp", "all") and not (protocol.isdigit() and int(protocol) <= MAX_PROTOCOL):
        raise errors.invalid(f"Invalid protocol {protocol}")
    numbers = _icmp(call) if protocol == "icmp" else _ports(call, protocol)
    sources = _cidrs(call) + _source_groups(call)
    if not sources:
        raise errors.invalid("At least one cidr or at least one security group needs to be specified")
    new_id = call.world.new_id
    return [
        SecurityGroupRule(id=new_id(), direction=direction, protocol=protocol, **numbers, **source)
        for source in sources
    ]


def _ports(call: Call, protocol: str) -> dict[str, Any]:
    start, end = call.integer("startport"), call.integer("endport")
    if protocol not in ("tcp", "udp"):
        return {"start_port": start or 0, "end_port": end or 0}
    if start is None and end is None:
        raise errors.invalid("Invalid port range specified, startPort = null, endPort = null")
    start = end if start is None else start
    end = start if end is None else end
    assert start is not None and end is not None
    if not 0 <= start <= MAX_PORT or not 0 <= end <= MAX_PORT:
        raise errors.invalid(f"Invalid port numbers {start}:{end}")
    if start > end:
        raise errors.invalid(f"Invalid port range {start}:{end}")
    return {"start_port": start, "end_port": end}


def _icmp(call: Call) -> dict[str, Any]:
    """ICMP type and code, -1 for any."""
    kind, code = call.integer("icmptype"), call.integer("icmpcode")
    kind, code = -1 if kind is None else kind, -1 if code is None else code
    if not -1 <= kind <= 255 or not -1 <= code <= 255:
        raise errors.invalid(f"Invalid icmp type/code {kind}/{code}")
    return {"icmp_type": kind, "icmp_code": code}


def _cidrs(call: Call) -> list[dict[str, Any]]:
    cidrs = list(dict.fromkeys(call.items("cidrlist")))
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise errors.invalid(f"Invalid cidr {cidr}") from None
        if "/" not in cidr:
            raise errors.invalid(f"Invalid cidr {cidr}")
    return [{"cidr": cidr} for cidr in cidrs]


def _source_groups(call: Call) -> list[dict[str, Any]]:
    """The groups of `usersecuritygrouplist[i].account` and `.group`."""
    found = []
    for entry in call.entries("usersecuritygrouplist"):
        account_name, name = entry.get("account", call.account.name), entry.get("group", "")
        accounts = by_name(call.world.all(Account), account_name)
        groups = by_name(groups_of(call.world).of(*accounts), name)
        if not groups:
            raise errors.invalid(
                f"Nonexistent group {name} for account {account_name}/{call.account.domain.number} is given, unable to "
                "authorize security group rule."
            )
        found.append({"group_account": groups[0].account.name, "group_name": groups[0].name})
    return found


def _revoke(call: Call, direction: str) -> dict[str, Any]:
    identity = call.text("id").lower()
    group = _rule_groups(call.world).get(identity)
    if group is None:
        raise errors.no_such_entity(call.command, "id", call.text("id"))
    call.check_access(group.account)
    rule = next(rule for rule in group.rules if rule.id == identity)
    if rule.direction != direction:
        raise errors.invalid(f"Unable to find {direction} rule with id {identity}")

    def revoke() -> dict[str, Any]:
        if rule not in group.rules:
            raise errors.internal(f"Failed to revoke security group {direction} rule")
        group.rules.remove(rule)
        _rule_groups(call.world).pop(identity, None)
        return {"success": True}

    return call.job(revoke, instance=("SecurityGroup", group.id))
