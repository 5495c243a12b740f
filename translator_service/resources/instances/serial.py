"""instances.getSerialPortOutput: CloudStack keeps no output, so the ports say what there is to say in its place."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid
from translator_service import places
from translator_service.resources.instances import passwords
from translator_service.resources.instances.find import AWAITED, find, path, under_way
from translator_service.rpc import rpc
from translator_service.scope import Scope

_CONSOLE, _AGENT, _PORTS = 1, 4, 4


@rpc(
    "Instances.GetSerialPortOutput",
    calls=("listVirtualMachines",),
    differences="CloudStack keeps no output: port 1 says in one line how to get a console, and port 4 has the answers "
    "to `windows-keys` (see guests.md). The others are empty.",
)
def get_serial_port_output(scope: Scope, request: pb.GetSerialPortOutputInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    port = request.port if request.HasField("port") else _CONSOLE
    if not 1 <= port <= _PORTS:
        raise invalid("port", f"'{port}'. Values must be within the range: [1, {_PORTS}]")
    name, row, _ = find(scope, zone, request.instance)
    first, written = 0, ""
    # What is not there yet is not told of under an id that CloudStack would not know.
    if AWAITED in row:
        pass
    elif port == _CONSOLE:
        written = _CONSOLE_OUTPUT.format(id=row["id"])
    elif port == _AGENT:
        first, written = passwords.port(scope, row, path(zone, name) not in under_way(scope))
    start, contents = _part(first, written, request.start)
    return pb.SerialPortOutput(
        kind="compute#serialPortOutput",
        selfLink=scope.links.of(path(zone, name), "serialPort"),
        contents=contents,
        start=start,
        next=start + len(contents),
    )


_CONSOLE_OUTPUT = (
    "CloudStack keeps no console output of machines. For a console choose 'View console' at this machine in "
    "CloudStack's UI, or ask its API for createConsoleEndpoint with virtualmachineid={id}.\n"
)


def _part(first: int, written: str, start: int) -> tuple[int, str]:
    """(position of its first byte, what is to be read from `start` on). first: position of what is still there.

    A negative start counts from the end. From beyond the end there is nothing, and the next byte is still that one.
    """
    start = max(first, first + len(written) + start if start < 0 else start)
    return start, written[start - first :]
