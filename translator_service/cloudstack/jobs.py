"""Asynchronous jobs whose ids we choose, so that a job submitted twice runs once.

A duplicate `customjobid` answers 530 and leaves an orphan (recordings, Surprises 1-3): after a crash, or when an answer
was lost, the job is asked for first and submitted only when CloudStack does not know it.
"""

from __future__ import annotations

import time
from typing import Any

from gstack.kernel.metrics import JOBS_RUNNING, running
from translator_service.cloudstack.client import Answer, Client
from translator_service.cloudstack.errors import CloudStackError, Unreachable

_PAUSES = (0.1, 0.2, 0.3, 0.5, 0.5, 1.0, 1.0)
_LONGEST_PAUSE = 2.0
# How long a job is followed while CloudStack does not answer at all.
_PATIENCE = 15 * 60.0


def run(
    client: Client, job_id: str, command: str, parameters: dict[str, str], *, maybe_submitted: bool
) -> dict[str, Any]:
    """Submit (unless already submitted), wait, and return `jobresult`, with `id` of a create command's new entity.

    maybe_submitted: an earlier attempt may have got through. Raises CloudStackError for a refused or failed job, with
    `entity` set to what a failed create command left behind, and Unreachable when CloudStack stays away.
    """
    with running(JOBS_RUNNING):
        return _run(client, job_id, command, parameters, maybe_submitted)


def _run(
    client: Client, job_id: str, command: str, parameters: dict[str, str], maybe_submitted: bool
) -> dict[str, Any]:
    lost_since: float | None = None
    entity: str | None = None
    submitted = False
    for attempt in range(1_000_000):
        client.deadline = time.monotonic() + client.endpoint.timeout
        try:
            if not submitted and maybe_submitted and (known := find(client, job_id)) is not None:
                submitted, entity = True, known.get("jobinstanceid")
            if not submitted:
                maybe_submitted = True
                entity = client.write(command, {**parameters, "customjobid": job_id}).body.get("id")
                submitted = True
            job = client.read("queryAsyncJobResult", jobid=job_id).body
            lost_since = None
            if job["jobstatus"] == 1:
                result = job.get("jobresult") or {}
                return {"id": entity, **result} if entity else dict(result)
            if job["jobstatus"] != 0:
                failure = job.get("jobresult") or {}
                error = CloudStackError(int(failure.get("errorcode", 530)), str(failure.get("errortext", "")))
                error.entity = entity
                raise error
        except Unreachable:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > _PATIENCE:
                raise
        time.sleep(_PAUSES[attempt] if attempt < len(_PAUSES) else _LONGEST_PAUSE)
    raise Unreachable("job never finished")


def find(client: Client, job_id: str) -> dict[str, Any] | None:
    """The job, or None when CloudStack does not know it."""
    try:
        return client.read("queryAsyncJobResult", jobid=job_id).body
    except CloudStackError as error:
        if error.code == 431:
            return None
        raise


def object_of(result: dict[str, Any]) -> dict[str, Any]:
    """The object inside a job result: `{"virtualmachine": {...}}` without its key; {} when there is none."""
    return next((value for value in result.values() if isinstance(value, dict)), {})


__all__ = ["Answer", "find", "object_of", "run"]
