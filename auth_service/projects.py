"""The projects of a caller, as Google's APIs about projects tell of them.

They are told from those of others nowhere: a project that there is not and one of somebody else's are both 403.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable

from auth_service.people import People
from auth_service.project_filter import parse
from auth_service.service_accounts import Caller
from auth_service.service_usage import SERVICES
from gstack.auth.cloudbilling.v1 import billing_pb2
from gstack.auth.resourcemanager.v1 import projects_pb2 as pb
from gstack.auth.v1 import identity_pb2
from gstack.kernel.errors import ApiError, invalid

_PAGE = 1000
_MAX_PERMISSIONS = 100
_POLICY_VERSIONS = (0, 1, 3)
# Of permissions, such as `compute.instances.get`: the APIs that there are here.
_APIS = frozenset(name.partition(".")[0] for name in SERVICES) | {"resourcemanager", "billing"}
# There is none; clients want to see a name where billing is enabled.
_BILLING_ACCOUNT = "billingAccounts/000000-000000-000000"


class Projects:
    def __init__(self, people: People):
        self._people = people

    def find(self, caller: Caller, name: str, *, with_created: bool = False) -> identity_pb2.Project:
        """Raises 403 for a project that is not the caller's."""
        try:
            return self._people.project(caller.owner, caller.sealed, name, with_created=with_created)
        except ApiError as error:
            if error.code != 404:
                raise
        raise ApiError(403, f"The caller does not have permission on project {name}, or it does not exist.")

    # Cloud Resource Manager

    def get(self, caller: Caller, request: pb.GetProjectRequest) -> pb.Project:
        return _project(self.find(caller, request.projectId, with_created=True))

    def list(self, caller: Caller, request: pb.ListProjectsRequest) -> pb.ListProjectsResponse:
        if not 0 <= request.pageSize <= _PAGE:
            raise invalid("pageSize", f"'{request.pageSize}'. It must be at most {_PAGE}.")
        size = request.pageSize or _PAGE
        matches: Callable[[pb.Project], bool] = parse(request.filter)
        found = self._people.projects(caller.owner, caller.sealed, with_created=True)
        # The token is the last id of the page before: nothing to sign, it only says where to go on.
        rows = sorted((_project(one) for one in found), key=lambda one: one.projectId)
        rows = [one for one in rows if one.projectId > request.pageToken and matches(one)]
        return pb.ListProjectsResponse(
            projects=rows[:size], nextPageToken=rows[size - 1].projectId if len(rows) > size else ""
        )

    def get_ancestry(self, caller: Caller, request: pb.GetAncestryRequest) -> pb.GetAncestryResponse:
        project = self.find(caller, request.projectId)
        return pb.GetAncestryResponse(ancestor=[pb.Ancestor(resourceId=pb.ResourceId(type="project", id=project.id))])

    def get_iam_policy(self, caller: Caller, request: pb.GetIamPolicyRequest) -> pb.Policy:
        self.find(caller, request.resource)
        if request.getIamPolicyRequest.options.requestedPolicyVersion not in _POLICY_VERSIONS:
            raise invalid("options.requestedPolicyVersion", "It must be 0, 1 or 3.")
        kind = "serviceAccount" if caller.subject.endswith(".gserviceaccount.com") else "user"
        member = f"{kind}:{caller.subject}"
        return pb.Policy(
            version=1,
            bindings=[pb.Binding(role="roles/owner", members=[member])],
            etag=binascii.crc32(member.encode()).to_bytes(4, "big"),
        )

    def test_iam_permissions(
        self, caller: Caller, request: pb.TestIamPermissionsRequest
    ) -> pb.TestIamPermissionsResponse:
        self.find(caller, request.resource)
        asked = request.testIamPermissionsRequest.permissions
        if len(asked) > _MAX_PERMISSIONS:
            raise invalid("permissions", f"There must be at most {_MAX_PERMISSIONS}.")
        if any("*" in permission for permission in asked):
            raise invalid("permissions", "Wildcards are not allowed.")
        return pb.TestIamPermissionsResponse(permissions=[one for one in asked if one.partition(".")[0] in _APIS])

    # Cloud Billing

    def billing(self, caller: Caller, request: billing_pb2.GetBillingInfoRequest) -> billing_pb2.ProjectBillingInfo:
        project = self.find(caller, request.project)
        return billing_pb2.ProjectBillingInfo(
            name=f"projects/{project.id}/billingInfo",
            projectId=project.id,
            billingAccountName=_BILLING_ACCOUNT,
            billingEnabled=True,
        )


def _project(found: identity_pb2.Project) -> pb.Project:
    return pb.Project(
        projectNumber=found.number,
        projectId=found.id,
        lifecycleState="ACTIVE",
        name=found.display_name,
        createTime=found.created,
    )
