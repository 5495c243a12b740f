"""What is made what should be: the difference of the rules of one target, and the jobs that take it away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.networking import claims
from translator_service.networking.compiler import WITH_PORTS, Openings, Rule, contents_of, rules_of_row
from translator_service.operations.run import Run
from translator_service.scope import Scope

_ROUNDS = 3
_ATTEMPTS = 30
# Jobs of one rule at a time, so that it leaves room for others.
_AT_ONCE = 16
# Sources of one rule: the answer about a job may not be longer than 64 kB (recordings, Surprises 4).
_SOURCES = 200
# "Already there" and "gone" (recordings, Surprises 33, 50 and 58).
_OVERTAKEN = (431, 530, 537)


@dataclass
class Plan:
    """Jobs to do: (key, command, parameters). made: what the creates make, as (target, content of a rule).

    groups: of a new instance; missed: rules that reach not all instances.
    """

    deletes: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    creates: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """What a target should let through. now: without what other operations see to at this moment.

    touched: the only rules that may be taken away, None for all; older: those of intents from before there were claims.
    """

    all: set[Rule]
    now: set[Rule]
    touched: set[Rule] | None = None
    older: set[Rule] = field(default_factory=set)


def _difference(
    rows: Iterable[Row], id_key: str, ours: Iterable[str], wanted: Wanted
) -> tuple[list[str], list[tuple[Rule, list[str]]]]:
    """(ids to delete, what to create: one rule for all sources of the same ports).

    A row of ours stays when all that it lets through is wanted, so that adding a source interrupts no other. What
    others made is there, and stays.
    """
    ours = set(ours)
    there, right = Openings(), Openings(wanted.all)
    touched = None if wanted.touched is None else Openings(wanted.touched)
    deletes: list[str] = []
    for row in sorted(rows, key=lambda row: row[id_key] in ours):
        rules = rules_of_row(row)
        is_right = right.hold(rules) and not there.hold(rules)
        if row[id_key] in ours and not is_right and (touched is None or touched.meet(rules)):
            deletes.append(row[id_key])
        else:
            there.add(rules)
    sources: dict[tuple[str, int, int], list[str]] = {}
    for rule in sorted(wanted.now):
        for start, end in there.rest(rule):
            sources.setdefault((rule.protocol, start, end), []).append(rule.source)
            there.add([Rule(rule.protocol, start, end, rule.source)])
    return deletes, [(Rule(*key, some[0]), some) for key, some in sources.items()]


def _parts(creates: Iterable[tuple[Rule, list[str]]]) -> list[tuple[str, Rule, list[str]]]:
    """(key, rule, sources) of each call."""
    return [
        (f"{rule.protocol}/{rule.start}/{rule.end}{f'/{start}' if start else ''}", rule, some[start : start + _SOURCES])
        for rule, some in creates
        for start in range(0, len(some), _SOURCES)
    ]


def _add(plan: Plan, scope: Scope, target: str, rows: Iterable[Row], wanted: Wanted, how: _Commands) -> None:
    """What makes the rules of a target right."""
    found = {row[how.id_key]: row for row in rows}
    older = Openings(wanted.older)
    ours = claims.recognise(
        scope,
        target,
        {identity: contents_of(row) for identity, row in found.items()},
        lambda identity: older.hold(rules_of_row(found[identity])),
    )
    deletes, creates = _difference(found.values(), how.id_key, ours, wanted)
    plan.deletes += [(identity, how.delete, {"id": identity}) for identity in deletes]
    for key, rule, sources in _parts(creates):
        parameters = {how.target: target, **_parameters(rule, ",".join(sources))}
        plan.creates.append((f"{target}/{key}", how.create, parameters))
        plan.made += [(target, Rule(rule.protocol, rule.start, rule.end, source).key) for source in sources]


@dataclass(frozen=True)
class _Commands:
    """How rules of a kind of target come and go. target: the parameter; id_key: of the rows."""

    create: str
    delete: str
    target: str
    id_key: str


_OF_GROUPS = _Commands("authorizeSecurityGroupIngress", "revokeSecurityGroupIngress", "securitygroupid", "ruleid")
_OF_ADDRESSES = _Commands("createFirewallRule", "deleteFirewallRule", "ipaddressid", "id")


def _parameters(rule: Rule, sources: str) -> dict[str, str]:
    parameters = {"protocol": rule.protocol, "cidrlist": sources}
    if rule.protocol == "icmp":
        return parameters | {"icmptype": str(rule.start), "icmpcode": str(rule.end)}
    if rule.protocol in WITH_PORTS:
        return parameters | {"startport": str(rule.start), "endport": str(rule.end)}
    return parameters


def plan_group(plan: Plan, scope: Scope, group: Row, wanted: Wanted) -> None:
    _add(plan, scope, group["id"], group.get("ingressrule", ()), wanted, _OF_GROUPS)


def plan_address(plan: Plan, scope: Scope, address: str, rows: Iterable[Row], wanted: Wanted) -> None:
    rows = [row for row in rows if row.get("state") != "Revoke"]
    _add(plan, scope, address, rows, wanted, _OF_ADDRESSES)


def converge(run: Run, step: str, plan: Callable[[Scope], Plan]) -> dict[str, Any]:
    """Plan and apply until nothing is left; returns the last plan.

    Others who change the same rules at this moment make some jobs fail, but then the next plan is another one. Raises
    CloudStackError when the same plan has failed three times.
    """

    def work(scope: Scope) -> dict[str, Any]:
        found = plan(scope)
        made: dict[str, list[str]] = {}
        for target, content in found.made:
            made.setdefault(target, []).append(content)
        for target, contents in made.items():
            claims.claim(scope, target, contents, run.name)
        return asdict(found)

    first: dict[str, Any] = {}
    todo: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    vain = 0
    for attempt in range(1, _ATTEMPTS + 1):
        todo = run.look(f"{step}/{attempt}", work)
        first = first or todo
        if not todo["deletes"] and not todo["creates"]:
            break
        vain = vain if todo == failed else 0
        try:
            for part in ("deletes", "creates"):
                _apply(run, f"{step}/{attempt}/{part}", todo[part])
        except CloudStackError as error:
            failed, vain = todo, vain + 1
            if error.code not in _OVERTAKEN or vain == _ROUNDS or attempt == _ATTEMPTS:
                raise
    if first["missed"]:
        rules = ", ".join(f"'{name}'" for name in sorted(set(first["missed"])))
        why = "that were not created here, or that share a security group"
        run.warn("NOT_CRITICAL_ERROR", f"These rules do not reach instances {why}: {rules}.")
    return todo


def _apply(run: Run, step: str, calls: Sequence[tuple[str, str, dict[str, str]]]) -> None:
    for start in range(0, len(calls), _AT_ONCE):
        some = [(f"{step}/{key}", command, parameters) for key, command, parameters in calls[start : start + _AT_ONCE]]
        run.jobs(f"{step}/{start}", some)


# Plans
