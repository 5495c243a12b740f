"""instances.getSerialPortOutput: CloudStack keeps no output, so the ports say what there is to say in its place."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import instances_pb2 as pb
from gstack.kernel.errors import invalid
from translator_service import places
from translator_service.cloudstack.rows import Row
from translator_service.resources.instances.find import AWAITED, find, path
from translator_service.rpc import rpc
from translator_service.scope import Scope

_CONSOLE = 1
_PORTS = 4


@rpc(
    "Instances.GetSerialPortOutput",
    calls=("listVirtualMachines",),
    differences="CloudStack keeps no output: port 1 says in one line how to get a console; the others are empty.",
)
def get_serial_port_output(scope: Scope, request: pb.GetSerialPortOutputInstanceRequest) -> Message:
    zone = places.resolve_zone(scope, request.zone)
    port = request.port if request.HasField("port") else _CONSOLE
    if not 1 <= port <= _PORTS:
        raise invalid("port", f"'{port}'. Values must be within the range: [1, {_PORTS}]")
    name, row, _ = find(scope, zone, request.instance)
    start, contents = _part(_written(row, port), request.start)
    return pb.SerialPortOutput(
        kind="compute#serialPortOutput",
        selfLink=scope.links.of(path(zone, name), "serialPort"),
        contents=contents,
        start=start,
        next=start + len(contents),
    )


def _written(row: Row, port: int) -> str:
    """All that a port has to say, in ASCII."""
    # What is not there yet is not told of under an id that CloudStack would not know.
    if port != _CONSOLE or AWAITED in row:
        return ""
    return (
        "CloudStack keeps no console output of machines. For a console choose 'View console' at this machine in "
        f"CloudStack's UI, or ask its API for createConsoleEndpoint with virtualmachineid={row['id']}.\n"
    )


def _part(written: str, start: int) -> tuple[int, str]:
    """(position of its first byte, what is to be read from `start` on). A negative start counts from the end.

    From beyond the end there is nothing, and the next byte to ask for is still that one.
    """
    if start < 0:
        start = max(0, len(written) + start)
    return start, written[start:]
