"""An account's own API limit (429): its calls are held up, nobody else's are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from simulator.app import Fault
from tests.conftest import Cloud
from tests.waits import Clock
from translator_service.cloudstack import pace
from translator_service.cloudstack.client import Client, Endpoint, Keys
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def rate(made: Pace, clock: Clock, account: str = "a", calls: int = 20) -> float:
    started = clock.now
    for _ in range(calls):
        assert made.wait(account, clock.now + 100)
    return calls / (clock.now - started) if clock.now > started else float("inf")


def test_who_was_never_refused_is_not_held_up(clock: Clock) -> None:
    made = Pace()
    made.refused("b")
    assert rate(made, clock) == float("inf")


def test_each_refusal_makes_it_slower_down_to_one_a_second(clock: Clock) -> None:
    made = Pace()
    made.refused("a")
    first = rate(made, clock)
    assert 5 < first < 10
    seen = [first]
    for _ in range(6):
        made.refused("a")
        seen.append(rate(made, clock))
    assert seen == sorted(seen, reverse=True)
    assert 0.9 < seen[-1] < 1.6


def test_refusals_that_come_together_are_one(clock: Clock) -> None:
    made = Pace()
    for _ in range(10):
        made.refused("a")
    assert rate(made, clock) > 5


def test_it_recovers(clock: Clock) -> None:
    made = Pace()
    made.refused("a")
    clock.now += 60
    assert rate(made, clock) == float("inf")


def test_nobody_waits_longer_than_they_want(clock: Clock) -> None:
    made = Pace()
    made.refused("a")
    before = clock.now
    assert not made.wait("a", clock.now + 0.5)
    assert clock.now == before
    assert made.wait("a", clock.now + 1.5)


# On the simulated cloud


@pytest.fixture
def endpoint(simulated: Cloud) -> Iterator[Endpoint]:
    made = Endpoint(simulated.url, connections=16, timeout=60)
    yield made
    made.close()


def test_a_call_that_is_one_too_many_is_sent_again(simulated: Cloud, endpoint: Endpoint) -> None:
    """Nothing was done, so that is true of writes, too."""
    client = Client(endpoint, Keys("demo-api-key", "demo-secret-key"))
    simulated.app.faults.append(Fault("status", "listZones", status=429))
    assert client.read("listZones").items
    simulated.app.faults.append(Fault("status", "createSecurityGroup", status=429))
    assert client.write("createSecurityGroup", name="one").one()["name"] == "one"
    assert simulated.app.calls["createSecurityGroup"] == 2


def test_one_accounts_limit_is_not_anothers(simulated: Cloud, endpoint: Endpoint) -> None:
    one = Client(endpoint, Keys("demo-api-key", "demo-secret-key"))
    other = Client(endpoint, Keys("ian-api-key", "ian-secret-key"))
    simulated.app.world.settings.api_limit = 4
    # All in one second of CloudStack's, however long that takes.
    simulated.app.world.clock = lambda: 1_800_000_000.0

    def ask(_: int) -> int:
        try:
            one.read("listZones")
        except CloudStackError as error:
            return error.code
        return 200

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(ask, range(60)))
    # Within what a request may be held up, some got through, and others were told to come back.
    assert set(seen) == {200, 429}
    assert other.read("listZones").items
    # They were held up here instead of being sent to be refused.
    assert simulated.app.calls["listZones"] < 60
