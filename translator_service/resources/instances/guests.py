"""What a change of a project's metadata does to its machines: guests that run ask CloudStack for their user data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

from gstack.kernel.errors import ApiError
from translator_service.cloudstack.client import all_rows
from translator_service.cloudstack.errors import NO_SUCH_ROW, TRY_LATER, CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.operations.run import Run
from translator_service.resources.instances.metadata import changed_user_data, is_ours, metadata_items, project_state
from translator_service.resources.instances.view import DETAILS, HIDDEN
from translator_service.scope import Scope

# Machines that are changed at a time.
_SIDE_BY_SIDE = 8


def refresh(run: Run) -> None:
    """Give the machines that gstack made the user data that the project's metadata now makes of theirs."""

    def work() -> list[str]:
        rows = all_rows(run.client().read_all("listVirtualMachines", details=DETAILS))
        wanted = [row for row in rows if is_ours(row) and row.get("state") not in (*HIDDEN, "Error")]
        with ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="guests") as pool:
            futures = [pool.submit(copy_context().run, _is_done, run, row) for row in wanted]
        return [str(row["name"]) for row, future in zip(wanted, futures, strict=True) if not future.result()]

    for name in run.step("guests", lambda: run.patiently(work)):
        run.warn("NOT_CRITICAL_ERROR", _NOT_GIVEN.format(name))


def catch_up(run: Run, machine: str, known: str) -> None:
    """A machine that was made meanwhile was none of those that a change of the project's metadata was given to.

    known: `project_state` when its user data were made; as long as that is so CloudStack is not asked.
    """

    def work(scope: Scope) -> bool:
        if project_state(scope) == known:
            return True
        try:
            rows = scope.client.read("listVirtualMachines", id=machine, details=DETAILS).items
        except CloudStackError as error:
            if error.code in TRY_LATER:
                raise
            return error.code in NO_SUCH_ROW
        return not rows or _is_done(run, rows[0])

    if not run.look("guest-again", work):
        run.warn("NOT_CRITICAL_ERROR", _NOT_GIVEN.format(run.payload["name"]))


_NOT_GIVEN = "The guest of the instance '{}' could not be given the metadata."


def _is_done(run: Run, row: Row) -> bool:
    """Whether the machine has it, or is gone."""
    while True:
        scope = replace(run.scope, client=run.client())
        items = metadata_items(scope, row)
        try:
            data = changed_user_data(scope, items, row, is_there=True)
            if data is None:
                return True
            scope.client.write("updateVirtualMachine", id=row["id"], userdata=data)
            there = scope.client.read("listVirtualMachines", id=row["id"], details=DETAILS).items
        except ApiError:
            return False
        except CloudStackError as error:
            if error.code in TRY_LATER:
                raise
            return error.code in NO_SUCH_ROW
        # Its own metadata may have been set between the two.
        if not there or metadata_items(scope, there[0]) == items:
            return True
        row = there[0]
