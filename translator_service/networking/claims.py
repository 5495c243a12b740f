"""Which of CloudStack's firewall rules are ours.

People make rules in CloudStack too, at the same addresses and in the same groups, and those are theirs. CloudStack does
not tell who made a rule, so we keep it: one document a target (a public address or a security group) with what we made
there. A rule is claimed before it is made, because a translator may die in between, and known by its id once it is
seen. What it lets through identifies it until then: CloudStack has no two rules of the same content at one target.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import orjson

from translator_service.scope import Scope

KIND = "firewall-rules"

# Claims of what is not there are forgotten after this time, in which nobody can still be at work with an older list.
_KEPT_SECONDS = 15 * 60.0
_PENDING = "@"

# Content of a rule, as a text -> (its id, or `@` and the operation that makes it; since when).
Claims = dict[str, tuple[str, float]]


def parse(content: bytes | None) -> Claims:
    return {key: (value[0], value[1]) for key, value in orjson.loads(content).items()} if content else {}


def of_project(scope: Scope) -> dict[str, Claims]:
    """All claims of the project by target."""
    return {name: parse(content) for name, content in scope.store.documents(scope.project.key, KIND).items()}


def digest(claims: Mapping[str, Claims]) -> int:
    """Changes when claims do."""
    return hash(tuple((target, *found.items()) for target, found in sorted(claims.items())))


def is_ours(claims: Claims, identity: str, contents: Iterable[str]) -> bool:
    """Whether a rule, with all that it lets through, was made by us."""
    return all(key in claims and (claims[key][0] == identity or claims[key][0][0] == _PENDING) for key in contents)


def recognise(
    scope: Scope, target: str, found: Mapping[str, frozenset[str]], is_older: Callable[[str], bool]
) -> set[str]:
    """The ids of our rules among those that are there. found: id -> contents.

    is_older: whether the rule of an id is what an intent from before there were claims asks for; such ones become ours
    when a target is seen for the first time.
    """
    content = scope.store.document(scope.project.key, KIND, target)
    claims = parse(content)
    ours = {
        identity
        for identity, contents in found.items()
        if is_ours(claims, identity, contents) or (content is None and is_older(identity))
    }
    now = time.time()
    seen = {key: (identity, now) for identity in ours for key in found[identity]}
    learnt = {key: value for key, value in seen.items() if key not in claims or claims[key][0] != value[0]}
    old = [key for key, value in claims.items() if key not in seen and _is_over(scope, value, now)]
    if learnt or old:

        def change(claims: Claims) -> None:
            for key in old:
                if key in claims and _is_over(scope, claims[key], now):
                    del claims[key]
            claims.update(learnt)

        _change(scope, target, change)
    return ours


def _is_over(scope: Scope, value: tuple[str, float], now: float) -> bool:
    """Whether nobody can still be making the rule of this claim, nor have seen it since."""
    if now - value[1] < _KEPT_SECONDS:
        return False
    if not value[0].startswith(_PENDING):
        return True
    row = scope.store.operation(scope.project.key, value[0].removeprefix(_PENDING))
    return row is None or row["status"] == "DONE"


def claim(scope: Scope, target: str, contents: Iterable[str], operation: str) -> None:
    """Before rules are made: they will be ours."""
    made = dict.fromkeys(contents, (f"{_PENDING}{operation}", time.time()))
    _change(scope, target, lambda claims: claims.update(made))


def forget(scope: Scope, target: str) -> None:
    """The target is gone."""
    scope.store.delete_document(scope.project.key, KIND, target)


def _change(scope: Scope, target: str, change: Callable[[Claims], None]) -> None:
    while True:
        content = scope.store.document(scope.project.key, KIND, target)
        claims = parse(content)
        change(claims)
        if scope.store.put_document(scope.project.key, KIND, target, orjson.dumps(claims), expected=content):
            return
