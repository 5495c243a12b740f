"""The answers to `windows-keys`: CloudStack's password of a machine, on serial port 4 (see kept.passwords).

CloudStack makes a password when a machine is made, and a new one for a stopped machine only: of one that is stopped and
whose password is not kept any more it is reset by the operation that sets the metadata.
"""

from __future__ import annotations

import time

from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.kept.passwords import KEY, Request, requests
from translator_service.operations.run import Run
from translator_service.resources.common_metadata import common_items
from translator_service.resources.instances.metadata import metadata_items
from translator_service.scope import Scope

_NEVER = "The template of the machine is not password-enabled, so CloudStack makes no passwords of it."
_GONE = (
    "No password is kept: CloudStack shows it once, and it was told before, or is too old. It makes a new one of a "
    "stopped machine only: stop the instance, ask again, then start it."
)
_FAILED = "CloudStack did not make a new password of the machine."


def _asked(scope: Scope, row: Row) -> list[Request]:
    """The requests of the instance and of its project."""
    texts = (common_items(scope).get(KEY, ""), metadata_items(scope, row).get(KEY, ""))
    return requests("\n".join(text.strip() for text in texts if text), time.time())


def answer(scope: Scope, row: Row, why_not: str = "") -> list[str]:
    """Answer what is not answered yet; returns why it could not be told. why_not: no password could be made."""
    why_not = why_not or (_GONE if row.get("passwordenabled") else _NEVER)
    return scope.passwords.answer(row["id"], _asked(scope, row), scope.environment.settings.windows_user, why_not)


def answer_at_turn(run: Run, row: Row) -> None:
    """What the metadata that an operation has just set asks for. The password is reset where none is kept.

    What cannot be told is a warning too: gcloud shows it, and reads no such answer from the port.
    """
    why_not = ""
    if run.look("windows-keys", lambda scope: _needs_reset(scope, row)):
        try:
            run.job("reset-password", "resetPasswordForVirtualMachine", id=row["id"])
        except CloudStackError:
            why_not = _FAILED
    for reason in run.step("passwords", lambda: answer(run.scope, row, why_not)):
        run.warn("NOT_CRITICAL_ERROR", reason)


def _needs_reset(scope: Scope, row: Row) -> bool:
    if not row.get("passwordenabled") or row.get("state") != "Stopped":
        return False
    user = scope.environment.settings.windows_user.lower()
    waiting = scope.passwords.unanswered(row["id"], _asked(scope, row))
    return any(request.user.lower() == user for request in waiting) and not scope.passwords.is_kept(row["id"])


def port(scope: Scope, row: Row, is_settled: bool) -> tuple[int, str]:
    """(position of the first byte, text) of serial port 4. is_settled: nothing is under way on the machine.

    What was asked for when the machine was made is answered now.
    """
    if is_settled:
        answer(scope, row)
    return scope.passwords.told(row["id"], bool(row.get("passwordenabled")))
