from __future__ import annotations

import pytest

from gstack.compute.v1 import licenses_pb2 as pb
from gstack.kernel.errors import ApiError
from tests.conftest import Cloud, OpenScope
from tests.unit.made import ask
from translator_service.rpc import METHODS


@pytest.mark.parametrize("project", ["demo", "debian-cloud"])
def test_get(scope_for: OpenScope, simulated: Cloud, project: str) -> None:
    scope = scope_for(project, public_projects=METHODS["Licenses.Get"].public_projects)
    found = ask(scope, "Licenses.Get", pb.GetLicenseRequest(project=project, license="debian-12-bookworm"))
    link = f"https://www.googleapis.com/compute/v1/projects/{project}/global/licenses/debian-12-bookworm"
    assert (found.kind, found.name, found.selfLink) == ("compute#license", "debian-12-bookworm", link)
    assert found.HasField("chargesUseFee") and not found.chargesUseFee
    assert found.id > 0
    assert not simulated.calls


def test_another_tenant(scope_for: OpenScope) -> None:
    with pytest.raises(ApiError) as error:
        scope_for("other", public_projects=METHODS["Licenses.Get"].public_projects)
    assert error.value.code == 404
