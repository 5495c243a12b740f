"""How one instance is found, and what is under way on it."""

from __future__ import annotations

from collections.abc import Callable

from gstack.kernel.errors import not_found
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.naming import number
from translator_service.places import Zone
from translator_service.resources import disks
from translator_service.resources.instances.view import DETAILS, index
from translator_service.scope import Scope


def under_way(scope: Scope) -> dict[str, str]:
    """Instance path -> type of the operation that runs on it."""
    return {target: type for target, type in scope.store.running(scope.project.key) if "/instances/" in target}


def path(zone: Zone, name: str) -> str:
    return f"{zone.path}/instances/{name}"


def find(scope: Scope, zone: Zone, name: str) -> tuple[str, Row, Answer]:
    """(GCE name, row, answer) of one instance, by one question. Raises 404.

    Questions after the first: a name with the suffix of a duplicate. CloudStack knows no numbers, so a numeric id that
    no answer has shown yet is looked for in the whole zone.
    """
    for question, is_match in _questions(scope, name):
        try:
            answers = scope.client.read_all("listVirtualMachines", zoneid=zone.id, details=DETAILS, **question)
        except CloudStackError as error:
            if error.code not in disks.NO_SUCH_ROW:
                raise
            continue
        for answer in answers:
            for shown, row in index(scope, answer.items):
                if is_match(shown, row):
                    scope.environment.ids.remember(row["id"])
                    return shown, row, answer
    raise not_found(scope.links.path(path(zone, name)))


def _questions(scope: Scope, name: str) -> list[tuple[dict[str, str], Callable[[str, Row], bool]]]:
    """(parameters, whether a row of the answer is the one), in the order of asking."""
    if naming.UUID.fullmatch(name):
        return [({"id": name}, lambda shown, row: True)]
    if naming.is_number(name):
        known = scope.environment.ids.find(int(name))
        return [({"id": known} if known else {}, lambda shown, row: number(row["id"]) == int(name))]
    if not naming.is_askable(name):
        return []
    questions: list[tuple[dict[str, str], Callable[[str, Row], bool]]] = [
        ({"name": name}, lambda shown, row: name in (shown, row["name"]))
    ]
    if parts := naming.split_suffix(name):
        questions.append(({"name": parts[0]}, lambda shown, row: shown == name))
    return questions
