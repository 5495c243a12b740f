"""What the serial ports of an instance say."""

from __future__ import annotations

from typing import Any

import pytest

from gstack.compute.v1 import instances_pb2 as pb
from tests.unit.made import ask, first, machine
from tests.unit.test_instances import ZONE_LINK, insert, refused, wanted
from translator_service.scope import Scope


def output(scope: Scope, name: str = "web-1", **options: Any) -> Any:
    request = pb.GetSerialPortOutputInstanceRequest(project="demo", zone="ch-zh-1", instance=name, **options)
    return ask(scope, "Instances.GetSerialPortOutput", request)


# The console


@pytest.fixture
def web(scope: Scope) -> Scope:
    """A scope with the instance web-1."""
    machine(scope, "web-1")
    return scope


def test_the_first_port_says_how_to_get_a_console(web: Scope) -> None:
    found = output(web)
    assert found == output(web, port=1)
    assert (found.kind, found.selfLink) == ("compute#serialPortOutput", f"{ZONE_LINK}/instances/web-1/serialPort")
    assert found.contents.endswith("\n") and found.contents.count("\n") == 1
    uuid = first(web, "listVirtualMachines", name="web-1")["id"]
    for word in (
        "CloudStack keeps no console output",
        "View console",
        f"createConsoleEndpoint with virtualmachineid={uuid}",
    ):
        assert word in found.contents
    assert (found.start, found.next) == (0, len(found.contents))
    # Ports without anything.
    for port in (2, 3):
        found = output(web, port=port)
        assert (found.HasField("contents"), found.contents, found.start, found.next) == (True, "", 0, 0)


def test_whoever_follows_a_port_is_told_once(web: Scope) -> None:
    """`gcloud compute instances tail-serial-port-output` asks from `next` on, for ever, and shows all that it gets."""
    whole = output(web).contents
    told, start = "", 0
    for _ in range(3):
        found = output(web, start=start)
        assert (found.start, found.next) == (start, start + len(found.contents))
        told, start = told + found.contents, found.next
    assert told == whole


def test_any_start(web: Scope) -> None:
    whole = output(web).contents
    size = len(whole)
    for start, contents, begin in (
        (5, whole[5:], 5),
        (size, "", size),
        (size + 7, "", size + 7),
        (-3, whole[-3:], size - 3),
        (-size - 9, whole, 0),
        (2**62, "", 2**62),
    ):
        found = output(web, start=start)
        assert (found.contents, found.start, found.next) == (contents, begin, begin + len(contents))


@pytest.mark.parametrize("port", [-1, 0, 5])
def test_a_port_that_is_none(web: Scope, port: int) -> None:
    assert refused(lambda: output(web, port=port)).location == "port"


def test_an_instance_that_is_not_there_yet_says_nothing(scope: Scope) -> None:
    insert(scope, wanted())
    assert output(scope).contents == output(scope, port=4).contents == ""
