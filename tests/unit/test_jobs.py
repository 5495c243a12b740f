"""Asynchronous jobs with ids of our choice, on a simulated cloud."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from simulator.app import Fault
from simulator.families.jobs import restart
from simulator.world import Job, ServiceOffering
from tests.conftest import Cloud
from tests.waits import LONG, until
from translator_service.cloudstack import jobs
from translator_service.cloudstack.client import Client, Endpoint, Keys
from translator_service.cloudstack.errors import CloudStackError, Unfinished


@pytest.fixture
def client(simulated: Cloud) -> Iterator[Client]:
    endpoint = Endpoint(simulated.url, connections=2, timeout=LONG)
    yield Client(endpoint, Keys("demo-api-key", "demo-secret-key"))
    endpoint.close()


@pytest.fixture
def machine(client: Client) -> dict[str, str]:
    """Parameters of a deployment that works."""
    return {
        "zoneid": client.read("listZones", name="CH-GV2").items[0]["id"],
        "serviceofferingid": client.read("listServiceOfferings", name="Micro").items[0]["id"],
        "templateid": client.read("listTemplates", templatefilter="executable").items[0]["id"],
        "name": "web-1",
    }


def new_job() -> str:
    return str(uuid.uuid4())


def deploy(client: Client, parameters: dict[str, str], job: str, maybe_submitted: bool = False) -> dict:
    return jobs.run(client, job, "deployVirtualMachine", parameters, maybe_submitted=maybe_submitted)


def names(client: Client) -> list[str]:
    return [row["name"] for row in client.read("listVirtualMachines").items]


def test_a_job_gives_its_result_and_the_new_id(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    result = deploy(client, machine, new_job())
    assert jobs.object_of(result)["id"] == result["id"]
    assert result["virtualmachine"]["name"] == "web-1"
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_a_job_without_object(client: Client, machine: dict[str, str]) -> None:
    created = deploy(client, machine, new_job())
    tags = {"resourceids": created["id"], "resourcetype": "UserVm", "tags[0].key": "k", "tags[0].value": "v"}
    result = jobs.run(client, new_job(), "createTags", tags, maybe_submitted=False)
    assert result.get("success") is True
    assert jobs.object_of(result) == {}


def test_a_lost_answer_starts_no_second_job(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    simulated.app.faults.append(Fault("drop", "deployVirtualMachine"))
    result = deploy(client, machine, new_job())
    assert result["virtualmachine"]["name"] == "web-1"
    assert result["id"] == result["virtualmachine"]["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 1
    assert names(client) == ["web-1"]


def test_half_an_answer_starts_no_second_job(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    simulated.app.faults.append(Fault("truncated", "deployVirtualMachine"))
    assert deploy(client, machine, new_job())["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_a_submit_that_did_not_arrive_is_sent_again(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    simulated.app.faults.append(Fault("html", "deployVirtualMachine", status=502))
    assert deploy(client, machine, new_job())["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 2
    assert names(client) == ["web-1"]


def test_after_a_crash_the_job_is_asked_for_first(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    job = new_job()
    first = deploy(client, machine, job)
    again = deploy(client, machine, job, maybe_submitted=True)
    assert again["id"] == first["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 1
    assert deploy(client, {**machine, "name": "web-2"}, new_job(), maybe_submitted=True)["id"] != first["id"]


def test_polls_survive_a_cloud_that_stays_away(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.3}
    simulated.app.faults.append(Fault("html", "queryAsyncJobResult", status=503, count=2))
    assert deploy(client, machine, new_job())["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_patience_ends(
    simulated: Cloud, client: Client, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not taken for a failure: the same job is found again later."""
    simulated.app.faults.append(Fault("html", "queryAsyncJobResult", status=503, count=100))
    job = new_job()
    with monkeypatch.context() as impatient:
        impatient.setattr(jobs, "_PATIENCE", 0.2)
        with pytest.raises(Unfinished):
            deploy(client, machine, job)
    simulated.app.faults.clear()
    assert deploy(client, machine, job, maybe_submitted=True)["id"]
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_a_long_job_is_left_for_later(
    simulated: Cloud, client: Client, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LONG", 0.0)
    simulated.app.world.settings.job_seconds = {"": 3600.0}
    with pytest.raises(Unfinished):
        deploy(client, machine, new_job())


# An unknown answer is not a no


ERRORS = [
    *(Fault("status", "queryAsyncJobResult", status=status) for status in (401, 429, 430, 431, 432, 503, 530, 531)),
    *(Fault(kind, "queryAsyncJobResult", status=502) for kind in ("html", "truncated", "drop")),
]


@pytest.mark.parametrize("fault", ERRORS, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_errors_of_the_question_are_no_answer(
    simulated: Cloud, client: Client, machine: dict[str, str], fault: Fault
) -> None:
    simulated.app.world.settings.job_seconds = {"": 0.5}
    # Fewer where each costs a wait: the fifth unreadable answer in a row opens the circuit, a limit slows down.
    simulated.app.faults.append(replace(fault, count=4 if fault.kind == "html" or fault.status == 429 else 6))
    result = deploy(client, machine, new_job())
    assert client.read("listVirtualMachines", id=result["id"]).items[0]["state"] == "Running"
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_a_result_that_can_never_be_read(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    """More than 64 kB (recordings, Surprises 4): what the job made tells that it is over, and how it ended."""
    details = {f"details[0].gce.{number}": "x" * 5000 for number in range(14)}
    result = deploy(client, {**machine, **details}, new_job())
    assert client.read("listVirtualMachines", id=result["id"]).items[0]["name"] == "web-1"
    assert simulated.app.calls["deployVirtualMachine"] == 1


def test_a_result_that_can_never_be_read_after_a_crash(
    simulated: Cloud, client: Client, machine: dict[str, str]
) -> None:
    """Its id came with the answer to the submit, which is lost: the machine is known by its details."""
    details = {f"details[0].gce.{number}": "x" * 5000 for number in range(14)}
    job = new_job()
    first = deploy(client, {**machine, **details}, job)
    assert deploy(client, {**machine, **details}, job, maybe_submitted=True)["id"] == first["id"]
    assert names(client) == ["web-1"]


def test_a_job_that_cloudstack_has_forgotten(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    job = new_job()
    first = deploy(client, machine, job)
    world = simulated.app.world
    stop = new_job()
    simulated.app.world.settings.job_seconds = {"stopVirtualMachine": 0.2}
    client.write("stopVirtualMachine", id=first["id"], customjobid=stop)
    row = world.find(Job, stop)
    assert row is not None
    until(lambda: client.read("listVirtualMachines", id=first["id"]).items[0]["state"] == "Stopped")
    world.purge(row)
    jobs.run(client, stop, "stopVirtualMachine", {"id": first["id"]}, maybe_submitted=True)
    assert client.read("listVirtualMachines", id=first["id"]).items[0]["state"] == "Stopped"


# Jobs that end without a result


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["done", "begun"])
@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("deployVirtualMachine", "Running"),
        ("startVirtualMachine", "Running"),
        ("stopVirtualMachine", "Stopped"),
        ("rebootVirtualMachine", "Running"),
        ("destroyVirtualMachine", ""),
    ],
)
def test_a_restart_ends_jobs_and_they_are_done_again(
    simulated: Cloud, client: Client, machine: dict[str, str], command: str, state: str, seconds: float, told: bool
) -> None:
    """Whatever they had done by then: what they were to change is looked at."""
    world = simulated.app.world
    parameters = machine
    if command != "deployVirtualMachine":
        parameters = {"id": deploy(client, machine, new_job())["id"]}
        if command == "startVirtualMachine":
            jobs.run(client, new_job(), "stopVirtualMachine", parameters, maybe_submitted=False)
    job = new_job()
    world.settings.job_seconds = {"": seconds}
    client.write(command, {**parameters, "customjobid": job})
    world.tick()
    row = world.find(Job, job)
    assert row is not None and row.status == (0 if seconds else 1)
    if not seconds:
        row.status = 0
    restart(world, told=told)
    world.settings.job_seconds = {"": 0.02}
    jobs.run(client, job, command, parameters, maybe_submitted=True)
    found = client.read("listVirtualMachines", name="web-1").items
    assert [one["state"] for one in found] == ([state] if state else [])


def test_a_job_that_one_restart_after_another_ends(simulated: Cloud, client: Client) -> None:
    """As long as what it was to do is safe to do once more."""
    network = client.read("listNetworks", keyword="net-a").items[0]["id"]
    address = jobs.run(client, new_job(), "associateIpAddress", {"networkid": network}, maybe_submitted=False)["id"]
    world = simulated.app.world
    world.settings.job_seconds = {"": 3600.0}
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(
            jobs.run, client, new_job(), "disassociateIpAddress", {"id": address}, maybe_submitted=False
        )
        for _ in range(5):
            until(lambda: any(row.status == 0 for row in world.all(Job)))
            restart(world, told=True)
        until(lambda: any(row.status == 0 for row in world.all(Job)))
        world.finish()
        going.result(20)
    assert client.read("listPublicIpAddresses", id=address).items == []


def test_an_address_on_its_way_when_cloudstack_restarts_is_told_of(simulated: Cloud, client: Client) -> None:
    """It stays in state Allocating for ever; who asked for it has to give it back."""
    network = client.read("listNetworks", keyword="net-a").items[0]["id"]
    simulated.app.world.settings.job_seconds = {"": 3600.0}
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(
            jobs.run, client, new_job(), "associateIpAddress", {"networkid": network}, maybe_submitted=False
        )
        until(lambda: simulated.app.calls["queryAsyncJobResult"] > 0)
        restart(simulated.app.world, told=True)
        with pytest.raises(CloudStackError) as raised:
            going.result(20)
    assert raised.value.entity


@pytest.mark.parametrize("seconds", [0.0, 3600.0], ids=["done", "begun"])
@pytest.mark.parametrize("command", ["createTags", "disassociateIpAddress", "detachVolume"])
def test_other_jobs_that_a_restart_ends(
    simulated: Cloud, client: Client, machine: dict[str, str], command: str, seconds: float
) -> None:
    world = simulated.app.world
    made = deploy(client, machine, new_job())["id"]
    if command == "createTags":
        parameters = {"resourceids": made, "resourcetype": "UserVm", "tags[0].key": "k", "tags[0].value": "v"}
    elif command == "disassociateIpAddress":
        network = client.read("listNetworks", keyword="net-a").items[0]["id"]
        address = jobs.run(client, new_job(), "associateIpAddress", {"networkid": network}, maybe_submitted=False)["id"]
        parameters = {"id": address}
    else:
        jobs.run(client, new_job(), "stopVirtualMachine", {"id": made}, maybe_submitted=False)
        parameters = {"id": client.read("listVolumes", virtualmachineid=made).items[0]["id"]}
    job = new_job()
    world.settings.job_seconds = {"": seconds}
    client.write(command, {**parameters, "customjobid": job})
    world.tick()
    row = world.find(Job, job)
    assert row is not None
    row.status = 0
    restart(world, told=True)
    world.settings.job_seconds = {"": 0.02}
    jobs.run(client, job, command, parameters, maybe_submitted=True)
    assert simulated.app.calls[command] == (2 if seconds else 1)


# How it went otherwise


def test_a_refused_submit_is_raised(simulated: Cloud, client: Client, machine: dict[str, str]) -> None:
    with pytest.raises(CloudStackError) as raised:
        deploy(client, {**machine, "templateid": new_job()}, new_job())
    assert (raised.value.code, raised.value.entity) == (431, None)
    assert simulated.app.calls["queryAsyncJobResult"] == 0


def test_a_failed_job_is_raised_with_what_it_left_behind(
    simulated: Cloud, client: Client, machine: dict[str, str]
) -> None:
    offering = simulated.app.world.find(ServiceOffering, machine["serviceofferingid"])
    assert offering is not None
    offering.fits_nowhere = True
    with pytest.raises(CloudStackError) as raised:
        deploy(client, machine, new_job())
    assert raised.value.code == 533
    left = client.read("listVirtualMachines", id=raised.value.entity or "").items
    assert [row["state"] for row in left] == ["Error"]


def test_find(client: Client, machine: dict[str, str]) -> None:
    job = new_job()
    assert jobs.find(client, job) is None
    deploy(client, machine, job)
    found = jobs.find(client, job)
    assert found is not None and found["jobstatus"] == 1


@pytest.mark.parametrize("status", [431, 530])
def test_find_does_not_take_an_error_for_absence(simulated: Cloud, client: Client, status: int) -> None:
    simulated.app.faults.append(Fault("status", "queryAsyncJobResult", status=status))
    with pytest.raises(CloudStackError):
        jobs.find(client, new_job())
