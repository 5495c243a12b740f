"""Which of Google's APIs there are, for Service Usage's REST API: those that are served here, in every project."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from auth_service.service_accounts import Caller
from gstack.auth.serviceusage.v1 import services_pb2 as pb
from gstack.auth.v1 import identity_pb2
from gstack.kernel.errors import ApiError, invalid

SERVICES = {
    "cloudbilling.googleapis.com": "Cloud Billing API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "compute.googleapis.com": "Compute Engine API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "oslogin.googleapis.com": "Cloud OS Login API",
    "serviceusage.googleapis.com": "Service Usage API",
}
# What Google calls the operation of an enable that had nothing to do.
_DONE = "noop.DONE_OPERATION"
_TYPES = "type.googleapis.com/google.api.serviceusage.v1."
# Google's limits.
_PAGE = 200
_MAX_GET = 30
_MAX_ENABLE = 20
_FILTER = re.compile(r"\s*(?:state\s*[:=]\s*(ENABLED|DISABLED)\s*)?")
_NAME = re.compile(r"projects/([^/]+)/services/([^/]+)")
_SERVICE = re.compile(r"[a-z0-9][a-z0-9.-]{0,90}\.googleapis\.com")

Find = Callable[[Caller, str], identity_pb2.Project]


class ServiceUsage:
    def __init__(self, find: Find):
        """find: the caller's project of this name; raises 403."""
        self._find = find

    def get(self, caller: Caller, request: pb.GetServiceRequest) -> pb.Service:
        return _service(self._find(caller, request.project), request.service)

    def list(self, caller: Caller, request: pb.ListServicesRequest) -> pb.ListServicesResponse:
        project = self._find(caller, request.project)
        if not 0 <= request.pageSize <= _PAGE:
            raise invalid("pageSize", f"'{request.pageSize}'. It must be at most {_PAGE}.")
        asked = _FILTER.fullmatch(request.filter)
        if asked is None:
            raise invalid("filter", "It must be state:ENABLED or state:DISABLED.")
        size = request.pageSize or _PAGE
        # The token is the last name of the page before: nothing to sign, it only says where to go on.
        names = [name for name in SERVICES if name > request.pageToken] if asked[1] != "DISABLED" else []
        return pb.ListServicesResponse(
            services=[_service(project, name) for name in names[:size]],
            nextPageToken=names[size - 1] if len(names) > size else "",
        )

    def batch_get(self, caller: Caller, request: pb.BatchGetServicesRequest) -> pb.BatchGetServicesResponse:
        project = self._find(caller, request.project)
        if not 1 <= len(request.names) <= _MAX_GET:
            raise invalid("names", f"There must be 1 to {_MAX_GET}.")
        services = []
        for name in request.names:
            found = _NAME.fullmatch(name)
            if found is None or found[1] not in (request.project, project.id, str(project.number)):
                raise invalid("names", f"'{name[:200]}'. It must be projects/{request.project}/services/SERVICE.")
            services.append(_service(project, found[2]))
        return pb.BatchGetServicesResponse(services=services)

    def enable(self, caller: Caller, request: pb.EnableServiceRequest) -> pb.EnableServiceOperation:
        project = self._find(caller, request.project)
        _check([request.service], "name")
        made = pb.EnableServiceOperation(name=f"operations/{_DONE}", done=True)
        made.response.type = f"{_TYPES}EnableServiceResponse"
        made.response.service.CopyFrom(_service(project, request.service))
        return made

    def batch_enable(self, caller: Caller, request: pb.BatchEnableServicesRequest) -> pb.BatchEnableServicesOperation:
        project = self._find(caller, request.project)
        asked = request.batchEnableServicesRequest.serviceIds
        if not 1 <= len(asked) <= _MAX_ENABLE:
            raise invalid("serviceIds", f"There must be 1 to {_MAX_ENABLE}.")
        _check(asked, "serviceIds")
        made = pb.BatchEnableServicesOperation(name=f"operations/{_DONE}", done=True)
        made.response.type = f"{_TYPES}BatchEnableServicesResponse"
        made.response.services.extend(_service(project, name) for name in asked)
        return made

    def operation(self, caller: Caller, request: pb.GetOperationRequest) -> pb.Operation:
        if request.operation != _DONE:
            raise ApiError(404, f"Operation operations/{request.operation} was not found.")
        return pb.Operation(name=f"operations/{_DONE}", done=True)


def _service(project: identity_pb2.Project, name: str) -> pb.Service:
    """Whether Google has it is not known here. Raises 404 for what it cannot have."""
    if name not in SERVICES and not _SERVICE.fullmatch(name):
        raise ApiError(404, f"Service '{name}' was not found.")
    parent = f"projects/{project.number}"
    return pb.Service(
        name=f"{parent}/services/{name}",
        parent=parent,
        config=pb.ServiceConfig(name=name, title=SERVICES.get(name, "")),
        state="ENABLED" if name in SERVICES else "DISABLED",
    )


def _check(names: Iterable[str], field: str) -> None:
    absent = [name for name in names if name not in SERVICES]
    if absent:
        raise ApiError(400, f"There is no {', '.join(absent)} here: it cannot be enabled.", "failedPrecondition", field)
