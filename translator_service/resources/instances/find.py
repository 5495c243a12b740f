"""How one instance is found, and what is under way on it.

An instance is there from the moment its insert is accepted. Until CloudStack shows it, it is what the insert's preview
says: a row as CloudStack's, with `awaited`, the name of the operation, and no id that CloudStack would know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from google.protobuf.message import Message

from gstack.kernel.errors import already_exists, not_found
from translator_service import places
from translator_service.cloudstack.client import Answer, Call, all_rows
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.naming import number
from translator_service.operations import engine
from translator_service.operations.run import OperationError, Run
from translator_service.places import Zone
from translator_service.resources.instances.view import DETAILS, HIDDEN, index, name_of
from translator_service.scope import Scope

AWAITED = "awaited"
# Of host names that are made unique.
ATTEMPTS = 4


def under_way(scope: Scope) -> dict[str, str]:
    """Instance path -> type of the operation that runs on it."""
    return {target: type for target, type in scope.store.running(scope.project.key) if "/instances/" in target}


def path(zone: Zone, name: str) -> str:
    return f"{zone.path}/instances/{name}"


def awaited(scope: Scope, where: str) -> dict[str, Row]:
    """Instance path -> row of those under insert. where: path of a zone or an instance, "" for all.

    To be asked before CloudStack is where both are shown, so that none falls in between.
    """
    found: dict[str, Row] = {}
    for target, operation, row in engine.awaited(scope, where):
        if "/instances/" in target:
            found.setdefault(target, {**row, "id": operation, AWAITED: operation})
    return found


def find(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, list[Answer]]:
    """(GCE name, row, answers) of one instance, by one question; without answers when it is awaited. Raises 404.

    Questions after the first: a host name that was made unique, and a name with the suffix of a duplicate. CloudStack
    knows no numbers, so a numeric id that no answer has shown yet is looked for in the whole zone.
    """
    was_busy = path(zone, name) in under_way(scope)
    # What is under insert may have come between the question to CloudStack and the one to the store.
    for _ in range(2 if was_busy else 1):
        if found := look(scope, zone, name) or _find_awaited(scope, zone, name):
            return found
    raise not_found(scope.links.path(path(zone, name)))


def look(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, list[Answer]] | None:
    """(GCE name, row, answers) of one instance that CloudStack shows."""
    for question, is_match in _questions(scope, name):
        calls: list[Call] = [
            ("listVirtualMachines", {"zoneid": zone.id, "details": DETAILS, **parameters}) for parameters in question
        ]
        try:
            answers = [answer for answers in scope.client.read_all_many(calls) for answer in answers]
        except CloudStackError as error:
            if error.code not in NO_SUCH_ROW:
                raise
            continue
        for shown, row in index(scope, all_rows(answers)):
            if is_match(shown, row):
                scope.environment.ids.remember(row["id"])
                return shown, row, answers
    return None


def _find_awaited(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, list[Answer]] | None:
    for row in awaited(scope, zone.path if naming.is_number(name) else path(zone, name)).values():
        if name in (row["name"], str(number(row["id"]))):
            return row["name"], row, []
    return None


def _questions(scope: Scope, name: str) -> list[tuple[list[dict[str, str]], Callable[[str, Row], bool]]]:
    """(parameters of lists, whether a row of the answers is the one), in the order of asking."""
    if naming.UUID.fullmatch(name):
        return [([{"id": name}], lambda shown, row: True)]
    if naming.is_number(name):
        known = scope.environment.ids.find(int(name))
        return [([{"id": known} if known else {}], lambda shown, row: number(row["id"]) == int(name))]
    if not naming.is_askable(name):
        return []
    plain, unique = named(scope, name)
    questions: list[tuple[list[dict[str, str]], Callable[[str, Row], bool]]] = [
        ([plain], lambda shown, row: name in (shown, row["name"])),
        ([unique], lambda shown, row: shown == name),
    ]
    if parts := naming.split_suffix(name):
        questions.append((named(scope, parts[0]), lambda shown, row: shown == name))
    return questions


def named(scope: Scope, name: str) -> list[dict[str, str]]:
    """The questions for instances of a name: with it as their host name, and with one that was made unique."""
    return [{"name": name}, {"keyword": naming.host_stem(scope.project.key, name)}]


def check_free(scope: Scope, zone: Zone, name: str) -> None:
    """Raise 409 when an instance of the zone has this name, or is about to."""
    where = path(zone, name)
    plain, unique = scope.client.read_many(
        [("listVirtualMachines", {"zoneid": zone.id, "details": "min", **question}) for question in named(scope, name)]
    )
    there = [row for row in plain.items if row.get("state") not in HIDDEN]
    there += [row for _, row in index(scope, unique.items) if name_of(scope, row) == name]
    if there or scope.store.is_busy(scope.project.key, where):
        raise already_exists(scope.links.path(where))


# Operations on one instance


def submit(
    scope: Scope,
    zone: Zone,
    name: str,
    row: Row,
    type: str,
    handler: str,
    *,
    also: Collection[str] = (),
    **payload: Any,
) -> Message:
    """Begin an operation on an instance that was found. also: as of `engine.submit`; payload: besides `target`."""
    return engine.submit(
        scope,
        type=type,
        target=path(zone, name),
        target_id=target_id(row),
        handler=handler,
        payload={**target(scope, zone, name, row), **payload},
        also=also,
    )


def target(scope: Scope, zone: Zone, name: str, row: Row) -> dict[str, Any]:
    """What the payload of an operation on an instance says of it, for `at_turn`."""
    coming = row.get(AWAITED)
    return {"id": None if coming else row["id"], "zone": zone.name, "name": name, AWAITED: coming}


def target_id(row: Row) -> int:
    """The number of an instance; 0 while it has none."""
    return 0 if AWAITED in row else number(row["id"])


# When an operation's turn has come


def at_turn(scope: Scope, payload: dict[str, Any]) -> Row | None:
    """The machine that an operation was submitted for, as it is now, None when it is gone.

    What was awaited then is what its insert made: never another one that has taken the name since.
    """
    if payload["id"] is not None:
        rows = scope.client.rows_of_id("listVirtualMachines", payload["id"], details=DETAILS)
        return next((row for row in rows if row.get("state") not in HIDDEN), None)
    found = look(scope, places.resolve_zone(scope, payload["zone"]), payload["name"])
    insert = scope.store.operation_by_name(payload[AWAITED])
    if found is None or insert is None:
        return None
    row = found[1]
    # An insert that failed may have left a broken machine that it could not take away.
    is_its = insert["target_id"] == str(number(row["id"])) or (insert["error"] and row.get("state") == "Error")
    return row if is_its else None


def machine(run: Run, step: str, check: Callable[[Scope, Row], None] = lambda scope, row: None) -> Row:
    """The machine of an operation whose turn has come. check: what was checked at submit, once more.

    Raises OperationError (404), and what `check` does.
    """

    def work(scope: Scope) -> Row:
        row = at_turn(scope, run.payload)
        if row is None:
            raise OperationError("RESOURCE_NOT_FOUND", "The resource was not found.", 404)
        check(scope, row)
        return row

    row = run.look(step, work)
    if run.payload["id"] is None:
        run.set_target_id(number(row["id"]))
    return row
