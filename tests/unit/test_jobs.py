"""Asynchronous jobs with ids of our choice, on a simulated cloud."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from simulator.app import Fault
from simulator.world import ServiceOffering
from tests.conftest import Cloud
from translator_service.cloudstack import jobs
from translator_service.cloudstack.client import Client, Endpoint, Keys
from translator_service.cloudstack.errors import CloudStackError, Unreachable


@pytest.fixture
def client(simulated: Cloud) -> Iterator[Client]:
    endpoint = Endpoint(simulated.url, connections=2, timeout=10)
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
    monkeypatch.setattr(jobs, "_PATIENCE", 0.2)
    simulated.app.faults.append(Fault("html", "queryAsyncJobResult", status=503, count=100))
    started = time.monotonic()
    with pytest.raises(Unreachable):
        deploy(client, machine, new_job())
    assert time.monotonic() - started < 5


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


def test_find_does_not_take_an_error_for_absence(simulated: Cloud, client: Client) -> None:
    simulated.app.faults.append(Fault("status", "queryAsyncJobResult", status=530))
    with pytest.raises(CloudStackError):
        jobs.find(client, new_job())
