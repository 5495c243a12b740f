"""Licenses: CloudStack has none; a static one answers for whatever an image or a client names."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import licenses_pb2 as pb
from translator_service.gce.naming import number
from translator_service.gce.times import UNKNOWN_TIME
from translator_service.rpc import rpc
from translator_service.scope import Scope


@rpc("Licenses.Get", differences="Any name is a license without a fee.", public_projects=True)
def get(scope: Scope, request: pb.GetLicenseRequest) -> Message:
    link = scope.links.of("global", "licenses", request.license)
    return pb.License(
        kind="compute#license",
        id=number(link),
        name=request.license,
        chargesUseFee=False,
        licenseCode=number(link),
        creationTimestamp=UNKNOWN_TIME,
        transferable=True,
        selfLink=link,
    )
