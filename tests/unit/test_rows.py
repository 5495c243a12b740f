"""Answers that are not as they must be: whatever of one is lost or changed, methods end with an error that says so."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from google.protobuf.message_factory import GetMessageClass

from gstack.kernel.contract import services
from gstack.kernel.errors import ApiError
from tests.conftest import RECORDINGS, recorded_rows
from tests.unit import made
from tests.unit.test_firewalls import HTTP, SSH, group
from translator_service.cloudstack import rows
from translator_service.cloudstack.catalog import Catalog
from translator_service.cloudstack.client import Answer
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.gce.replies import Replies
from translator_service.kept import details
from translator_service.rpc import METHODS
from translator_service.scope import Scope

# What becomes an answer with a meaning; anything else is a 500.
_EXPECTED = (ApiError, CloudStackError, Unreachable)
_ROUNDS = 25
_STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1 << 31, 1 << 70, "", "x", "\ud800", "😀", [], [None], ["x"], {}, {"x": None}, [{}],
)  # fmt: skip


# The table


def _recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(RECORDINGS.glob("*.json")):
        for exchange in orjson.loads(path.read_bytes())["exchanges"]:
            command, body = (exchange.get("params") or {}).get("command", ""), exchange["body"]
            if command.startswith("list") and isinstance(body, dict) and exchange["status"] == 200:
                yield command, next(iter(body.values()))


def test_what_a_real_cloudstack_answered_passes_as_it_is() -> None:
    count = 0
    for command, body in _recorded():
        if len(body) == 1 and isinstance(only := next(iter(body.values())), dict):
            # listCapabilities, listTemplatePermissions
            assert rows.one(command, body) == only
            continue
        if (found := rows.many(command, body)) or "count" in body:
            listed = next((value for value in body.values() if isinstance(value, list)), [])
            assert found == listed
            count += len(found)
    assert count > 500


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"created": None}, True),
        ({"nic": None}, True),
        ({"cpunumber": "2"}, True),
        ({"unknown": object()}, True),
        ({"id": None}, False),
        ({"id": ""}, False),
        ({"id": 7}, False),
        ({"cpunumber": "two"}, False),
        ({"cpunumber": True}, False),
        ({"memory": 1 << 40}, False),
        ({"name": "\ud800"}, False),
        ({"details": {"a": 1}}, False),
        ({"details": []}, False),
        ({"nic": {}}, False),
        ({"nic": [{"id": "x"}]}, False),
        ({"nic": [None]}, False),
        ({"deleteprotection": "false"}, False),
    ],
)
def test_one_key(change: dict[str, Any], accepted: bool) -> None:
    row = recorded_rows("c-instances", "listVirtualMachines details=nics,tmpl,servoff")[0]
    if accepted:
        kept = {key: value for key, value in (row | change).items() if value is not None}
        assert rows.check("listVirtualMachines", [row | change]) == [kept]
    else:
        with pytest.raises(Unreachable, match="listVirtualMachines"):
            rows.check("listVirtualMachines", [row | change])


@pytest.mark.parametrize("body", [{"count": 1, "zone": None}, {"zone": {}}, {"zone": "torn"}, {"zone": [], "x": []}])
def test_a_torn_list_is_not_an_empty_one(body: dict[str, Any]) -> None:
    with pytest.raises(Unreachable, match="listZones"):
        rows.many("listZones", body)


def test_rows_that_are_as_they_must_be_are_not_copied() -> None:
    found = recorded_rows("h-security-groups", "listSecurityGroups")
    assert rows.check("listSecurityGroups", found) is found


# Mutated answers


@dataclass
class Tampered:
    """An endpoint whose answers are the same each time, but for those of one command, which are changed."""

    call: Any
    known: dict[str, bytes] = field(default_factory=dict)
    victim: str = ""
    seed: str = ""
    asked: set[str] = field(default_factory=set)

    def __call__(self, keys: Any, command: str, parameters: dict[str, str], **options: Any) -> Answer:
        self.asked.add(command)
        key = f"{command} {sorted(parameters.items())}"
        if key not in self.known:
            self.known[key] = self.call(keys, command, parameters, **options).raw
        raw = self.known[key]
        # Questions are asked side by side, so chance must not depend on their order.
        return Answer(mutated(raw, random.Random(self.seed + key)) if command == self.victim else raw, command)


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """The answer with one thing in it lost, changed or there twice, or with its end cut off."""
    if chance.random() < 0.05:
        return raw[: chance.randrange(len(raw))]
    document = json.loads(raw)
    spots = list(_spots(document))
    place, key = chance.choice(spots)
    kind = chance.randrange(5)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place[key], str):
        place[key] = place[key][: chance.randrange(len(place[key]) + 1)]
    elif kind == 2 and isinstance(place, list):
        place.append(copy.deepcopy(place[key]))
    else:
        place[key] = chance.choice(_STRANGE)
    return json.dumps(document).encode()


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside, but for the envelope."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _spots(value[key])


@pytest.fixture
def populated(scope: Scope) -> Scope:
    """Something of every collection."""
    packed = {
        **details.pack(details.TAGS, ["web"]),
        **details.pack(details.LABELS, {"a": "b"}),
        **details.pack(details.METADATA, {"startup-script": "true"}),
        **details.pack(details.CONFIG, {"description": "d", "scheduling": {"preemptible": True}}),
        **details.pack(details.DISK, {"name": "vm", "sizeGb": 10, "deviceName": "boot"}),
    }
    network = made.first(scope, "listNetworks", keyword="net-a")["id"]
    machine = made.machine(scope, "vm", networkids=network, **details.parameters(packed))
    made.machine(scope, "plain", "ch-gv2")
    address = made.job(scope, "associateIpAddress", networkid=network)["id"]
    scope.client.write("enableStaticNat", ipaddressid=address, virtualmachineid=machine["id"])
    made.job(scope, "createFirewallRule", ipaddressid=address, **SSH)
    made.tag(scope, "PublicIpAddress", address, "gce-name", "front")
    made.tag(scope, "Volume", made.volume(scope, "data")["id"], "gce-labels", details.encode({"a": "b"}))
    group(scope, "web", SSH, HTTP)
    return scope


_REQUEST = {
    "project": "demo", "zone": "ch-zh-1", "region": "ch-zh", "instance": "vm", "disk": "data", "address": "front",
    "network": "net-a", "subnetwork": "net-a", "firewall": "web", "image": "linux-debian-12-64-bit",
    "family": "debian-12", "machineType": "micro", "diskType": "pd-ssd",
}  # fmt: skip
READING = [
    (name, method)
    for service in services()
    for method in service.methods
    if (name := f"{service.name}.{method.name}") in METHODS
    and method.name.startswith(("Get", "List", "AggregatedList"))
    and service.name != "Licenses"
]


def _ask(scope: Scope, name: str, request: Any) -> Any:
    """The reply as it goes over the wire, of a translator that has seen nothing yet."""
    environment = scope.environment
    environment.catalog, environment.replies = Catalog(), Replies()
    reply = METHODS[name].function(scope, request)
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def test_no_changed_answer_is_an_internal_error(populated: Scope) -> None:
    scope = populated
    scope.client.deadline += 600
    tampered = scope.client.endpoint.call = Tampered(scope.client.endpoint.call)  # type: ignore[method-assign]
    refused = total = 0
    crashes: list[str] = []
    for name, method in READING:
        fields = method.input_type.fields_by_name
        request = GetMessageClass(method.input_type)(**{key: text for key, text in _REQUEST.items() if key in fields})
        tampered.asked.clear()
        tampered.victim = ""
        try:
            _ask(scope, name, request)
        except ApiError as error:
            assert error.code == 404, f"{name}: {error}"
        for command in sorted(tampered.asked):
            for round_ in range(_ROUNDS):
                tampered.victim, tampered.seed = command, f"{name} {command} {round_} "
                total += 1
                try:
                    _ask(scope, name, request)
                except _EXPECTED:
                    refused += 1
                except Exception as error:
                    crashes.append(f"{tampered.seed}: {type(error).__name__} {error}")
    assert not crashes, "\n".join(crashes[:20])
    assert total > 500 and refused > total / 10
