"""Asynchronous jobs whose ids we choose, so that a job submitted twice runs once.

A duplicate `customjobid` answers 530 and leaves an orphan (recordings, Surprises 1-3): after a crash, or when an answer
was lost, the job is asked for first and submitted only when CloudStack does not know it.

Only the job's own word ends it. An error of the question about it, whatever its code, says nothing of the job: it is
asked again, and where that goes on, CloudStack's list of running jobs is asked whether it is over, and the thing it was
to change what became of it (outcomes). The same goes for jobs that a restart of CloudStack ended without a result.
"""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gstack.kernel.metrics import JOBS_RUNNING, running
from translator_service.cloudstack.client import Client
from translator_service.cloudstack.errors import TRY_LATER, CloudStackError, Unfinished, Unreachable
from translator_service.cloudstack.outcomes import Again, Done, outcome, without_result

# Close at the start: whoever waits for a short job waits for our looking too.
_PAUSES = (*[0.05] * 4, *[0.1] * 8, *[0.15] * 10, *[0.25] * 10, *[0.5] * 10, *[1.0] * 10)
_LONGEST_PAUSE = 2.0
# How long a job is followed in one go while nothing is known of it, and while it runs.
_PATIENCE = 10.0
_LONG = 120.0
# So many errors of the question in a row, and the job is looked for elsewhere.
_DOUBTS = 4
# How often a job may be done that ends without a result: each time a management server stopped under it, or it is one
# that stops the server.
_ROUNDS = 10
# Fails jobs when a management server stops; older ones leave no text at all.
_CANCELLED = re.compile(r"management server|job (was )?cancel", re.IGNORECASE)


class _Doubt(Exception):
    """The question about a job was answered with an error."""


@dataclass
class _Submission:
    """A job as it is to be submitted, and what is known of it. entity: id of a create command's new entity."""

    id: str
    command: str
    parameters: dict[str, str]
    maybe_submitted: bool
    entity: str | None = None
    submitted: bool = False
    begun: Callable[[str], None] = lambda entity: None


def run(
    client: Client,
    job_id: str,
    command: str,
    parameters: dict[str, str],
    *,
    maybe_submitted: bool,
    pause: Callable[[float], None] = time.sleep,
    begun: Callable[[str], None] = lambda entity: None,
) -> dict[str, Any]:
    """Submit (unless already submitted), wait, and return `jobresult`, with `id` of a create command's new entity.

    maybe_submitted: an earlier attempt may have got through. pause: waits so many seconds. begun: is told the id of a
    create command's new entity before the wait. Raises CloudStackError for a
    refused or failed job, with `entity` set to what a failed create command left behind, and Unfinished when there is
    reason to ask later.
    """
    with running(JOBS_RUNNING):
        return _run(client, _Submission(job_id, command, parameters, maybe_submitted, begun=begun), pause)


def _run(client: Client, first: _Submission, pause: Callable[[float], None]) -> dict[str, Any]:
    job = replace(first)
    for number in range(1, _ROUNDS + 1):
        ended = _follow(client, job, pause)
        if ended is not None and ended["jobstatus"] == 1:
            return _result(job, ended.get("jobresult"))
        if ended is not None and (failure := _failure(ended)) is not None:
            failure.entity = job.entity
            raise failure
        found = _outcome(client, job, pause)
        if isinstance(found, Done):
            return _result(job, found.result)
        # The same id cannot be used again; the next is the same one after a crash.
        again = str(uuid.uuid5(uuid.UUID(first.id), str(number)))
        job = replace(
            first, id=again, command=found.command, parameters=found.parameters, entity=job.entity, submitted=False
        )
    raise without_result(first.command, job.entity)


def _result(job: _Submission, result: Any) -> dict[str, Any]:
    found = dict(result) if isinstance(result, dict) else {}
    return {"id": job.entity, **found} if job.entity else found


def _failure(ended: dict[str, Any]) -> CloudStackError | None:
    """What a failed job says, None when it says nothing about its work."""
    result = ended.get("jobresult")
    if not isinstance(result, dict) or _CANCELLED.search(str(result.get("errortext", ""))):
        return None
    code = result.get("errorcode")
    return CloudStackError(code if isinstance(code, int) else 530, str(result.get("errortext", "")))


def _follow(client: Client, job: _Submission, pause: Callable[[float], None]) -> dict[str, Any] | None:
    """The finished job; None when it is over and cannot be read."""
    began = known = time.monotonic()
    doubts = 0
    for attempt in itertools.count():
        client.deadline = time.monotonic() + client.endpoint.timeout
        try:
            if not job.submitted:
                _submit(client, job)
                if job.entity:
                    job.begun(job.entity)
            answer = _question(client, job.id)
            # Nobody else may have taken it away, and it was there: that is an error like others.
            if answer is None:
                raise _Doubt
            if answer["jobstatus"] != 0:
                return answer
            doubts, known = 0, time.monotonic()
            if known - began > _LONG:
                raise Unfinished("the job still runs")
        except _Doubt:
            doubts += 1
            if doubts >= _DOUBTS and _is_over(client, job.id):
                return None
        except Unfinished:
            raise
        except Unreachable:
            pass
        if time.monotonic() - known > _PATIENCE:
            raise Unfinished("nothing is known of the job")
        pause(_PAUSES[attempt] if attempt < len(_PAUSES) else _LONGEST_PAUSE)
    raise AssertionError


def _submit(client: Client, job: _Submission) -> None:
    if job.maybe_submitted and (known := _question(client, job.id)) is not None:
        job.submitted, job.entity = True, known.get("jobinstanceid") or job.entity
        return
    job.maybe_submitted = True
    try:
        answer = client.write(job.command, {**job.parameters, "customjobid": job.id})
        job.entity = answer.body.get("id") or job.entity
    except CloudStackError as refusal:
        if refusal.code in TRY_LATER:
            raise Unreachable(f"{job.command} is to be submitted later") from None
        # Another translator may have submitted it at the same moment: the second one is refused like this.
        if refusal.code != 530 or _question(client, job.id) is None:
            raise
    job.submitted = True


def _question(client: Client, job_id: str) -> dict[str, Any] | None:
    """The job, None when CloudStack does not know it."""
    try:
        return find(client, job_id)
    except CloudStackError:
        raise _Doubt from None


def find(client: Client, job_id: str) -> dict[str, Any] | None:
    """The job, or None when CloudStack does not know it."""
    try:
        job = client.read("queryAsyncJobResult", jobid=job_id).body
    except CloudStackError as error:
        # An error that does not name the id is no word about the job: it may be there, and a second one would leave an
        # orphan (recordings, Surprises 2 and 3).
        if error.code == 431 and "jobid" in error.text:
            return None
        raise
    if not isinstance(job.get("jobstatus"), int):
        raise Unreachable("queryAsyncJobResult: an answer without jobstatus")
    return job


def _is_over(client: Client, job_id: str) -> bool:
    """Whether the account's list of running jobs does not have it; False when that cannot be found out."""
    # Jobs belong to the account that submitted them, also those of a project.
    account = replace(client, project_id=None)
    try:
        pages = account.read_all("listAsyncJobs")
    except (CloudStackError, Unreachable):
        return False
    return all(row.get("jobid") != job_id for page in pages for row in page.items)


def _outcome(client: Client, job: _Submission, pause: Callable[[float], None]) -> Done | Again:
    """Done or Again, once it can be told."""
    known = time.monotonic()
    while True:
        client.deadline = time.monotonic() + client.endpoint.timeout
        try:
            found = outcome(client, job.command, job.parameters, job.entity)
            if found is not None:
                return found
        except CloudStackError as error:
            if error.code not in TRY_LATER:
                raise
        except Unreachable:
            pass
        if time.monotonic() - known > _PATIENCE:
            raise Unfinished("the outcome of the job is not known")
        pause(1.0)


def object_of(result: dict[str, Any]) -> dict[str, Any]:
    """The object inside a job result: `{"virtualmachine": {...}}` without its key; {} when there is none."""
    return next((value for value in result.values() if isinstance(value, dict)), {})
