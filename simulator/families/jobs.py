"""queryAsyncJobResult, listAsyncJobs."""

from __future__ import annotations

from typing import Any

from simulator import errors
from simulator.commands import Call, Listing, command
from simulator.families.machines import set_state
from simulator.world import Job, Snapshot, VirtualMachine, World, timestamp

_SERVER = {"managementserverid": "5f0b6b52-4a0a-4c86-9b7c-6d4b0f0a9d11", "managementservername": "simulator"}


def render(job: Job) -> dict[str, Any]:
    """The flat answer of queryAsyncJobResult: `jobresult` only when finished, the server only while pending."""
    body: dict[str, Any] = {
        "accountid": job.account.id,
        "account": job.account.name,
        "domainid": job.account.domain.id,
        "domainpath": job.account.domain.path,
        "userid": job.user.id,
        "cmd": job.java_class,
        "jobprocstatus": 0,
        "jobresultcode": job.result_code,
    }
    if job.result is not None:
        body["jobresulttype"] = "object"
        body["jobresult"] = job.result
    if job.instance_type:
        body["jobinstancetype"] = job.instance_type
    if job.instance_id:
        body["jobinstanceid"] = job.instance_id
    if job.status == 0:
        body |= _SERVER
    body["created"] = timestamp(job.created)
    if job.completed is not None:
        body["completed"] = timestamp(job.completed)
    body["jobid"] = job.id
    body["jobstatus"] = job.status
    return body


@command("queryAsyncJobResult")
def query_async_job_result(call: Call) -> dict[str, Any]:
    job = call.require(Job, "jobid")
    if not call.may_use(job.account):
        raise errors.denied(f"Account {call.account.name} is not authorized to see job id={job.number}")
    if len(str(job.result)) > 65535:
        # The result does not fit its column and can never be read (recordings, Surprises 4).
        raise errors.internal(cserrorcode=errors.SERVER_API)
    return render(job)


@command("listAsyncJobs")
def list_async_jobs(call: Call) -> Listing:
    """Pending jobs of the account; finished ones are gone from this list."""
    owners = call.owners()
    return Listing([render(job) for job in call.world.all(Job) if job.status == 0 and job.account in owners])


def finish(world: World) -> None:
    """Whatever is on its way arrives now."""
    world.finish()
    for vm in world.all(VirtualMachine):
        vm.busy_until = world.now


def restart(world: World, *, told: bool) -> None:
    """A management server that stops and comes back: its jobs end as failed, whatever they had done by then.

    told: with the text that it leaves in them; older ones leave nothing. Machines on their way are found by the next
    report of their hosts.
    """
    for job in world.all(Job):
        if job.status == 0:
            job.status, job.result_code, job.completed = 2, 530, world.now
            text = "job cancelled because of management server restart or shutdown"
            job.result = {"errorcode": 530, "errortext": text} if told else None
    for snapshot in world.all(Snapshot):
        snapshot.jobs.clear()
    for vm in world.all(VirtualMachine):
        vm.jobs.clear()
        vm.busy_until = world.now
        if vm.state in ("Starting", "Stopping"):
            set_state(world, vm, {"Starting": "Stopped", "Stopping": "Running"}[vm.state])
