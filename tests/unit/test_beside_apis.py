"""Projects, services, billing and short-lived credentials, as Google's APIs beside Compute Engine tell of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import time_machine

from auth_service.project_filter import parse
from auth_service.service_accounts import Caller
from auth_service.service_usage import SERVICES
from gstack.auth.cloudbilling.v1 import billing_pb2
from gstack.auth.iamcredentials.v1 import credentials_pb2
from gstack.auth.resourcemanager.v1 import projects_pb2
from gstack.auth.serviceusage.v1 import services_pb2
from gstack.auth.v1 import iam_pb2
from gstack.kernel.accounts import default_service_account, project_of
from gstack.kernel.errors import ApiError
from simulator.world import Account, Project
from tests.auth import BASE, CLOUD, COMPUTE, EXCHANGE, Auth
from tests.conftest import Cloud
from translator_service.gce.naming import number
from translator_service.scope import Environment

# What gcloud takes for a project, without domains.
GCLOUD = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
JWT_TYPE = "urn:ietf:params:oauth:token-type:access_token"


def refused(code: int, call: Callable[[], Any], words: str = "") -> ApiError:
    with pytest.raises(ApiError) as raised:
        call()
    assert raised.value.code == code and words in raised.value.message, raised.value
    return raised.value


# Projects


def listed(auth: Auth, name: str = "demo", **asked: Any) -> projects_pb2.ListProjectsResponse:
    return auth.projects.list(auth.caller(name), projects_pb2.ListProjectsRequest(**asked))


def test_a_project_is_told_as_google_tells_one(auth: Auth) -> None:
    found = auth.projects.get(auth.caller(), projects_pb2.GetProjectRequest(projectId="demo"))
    assert (found.projectId, found.name, found.lifecycleState) == ("demo", "demo", "ACTIVE")
    assert found.projectNumber > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000[+-]\d\d:\d\d", found.createTime)
    for name in (str(found.projectNumber), "demo"):
        assert auth.projects.get(auth.caller(), projects_pb2.GetProjectRequest(projectId=name)) == found
    assert found in listed(auth).projects
    ancestry = auth.projects.get_ancestry(auth.caller(), projects_pb2.GetAncestryRequest(projectId="demo"))
    assert [(one.resourceId.type, one.resourceId.id) for one in ancestry.ancestor] == [("project", "demo")]


def test_nobody_is_told_whether_another_tenant_has_a_project(auth: Auth) -> None:
    """The answer for one that there is and for one that there is not differ by the name alone, for every method."""
    caller = auth.caller("ian")
    assert [one.projectId for one in listed(auth, "ian").projects] == ["ian-example-org"]

    def ask(name: str) -> list[tuple[int, str, str]]:
        calls: list[Callable[[], Any]] = [
            lambda: auth.projects.get(caller, projects_pb2.GetProjectRequest(projectId=name)),
            lambda: auth.projects.get_ancestry(caller, projects_pb2.GetAncestryRequest(projectId=name)),
            lambda: auth.projects.get_iam_policy(caller, projects_pb2.GetIamPolicyRequest(resource=name)),
            lambda: auth.projects.test_iam_permissions(caller, projects_pb2.TestIamPermissionsRequest(resource=name)),
            lambda: auth.projects.billing(caller, billing_pb2.GetBillingInfoRequest(project=name)),
            lambda: auth.usage.get(caller, services_pb2.GetServiceRequest(project=name, service="x.googleapis.com")),
            lambda: auth.usage.list(caller, services_pb2.ListServicesRequest(project=name)),
            lambda: auth.usage.batch_get(caller, services_pb2.BatchGetServicesRequest(project=name)),
            lambda: auth.usage.enable(caller, services_pb2.EnableServiceRequest(project=name)),
            lambda: auth.usage.batch_enable(caller, services_pb2.BatchEnableServicesRequest(project=name)),
        ]
        errors = [refused(403, call) for call in calls]
        return [(error.code, error.reason, error.message.replace(name, "NAME")) for error in errors]

    # Demo has projects of these names and number.
    demo = next(one for one in listed(auth).projects if one.projectId == "demo")
    assert ask("demo") == ask("webshop") == ask(str(demo.projectNumber)) == ask("nowhere") == ask("12345")


@pytest.mark.parametrize("naming", ["rfc1035", "verbatim"])
def test_a_project_has_an_id_that_gcloud_takes(
    auth: Auth, environment: Environment, simulated: Cloud, naming: str
) -> None:
    """`ian-ianduffy-ie` for the account `ian@ianduffy.ie`, whatever CloudStack's name and our naming are."""
    environment.settings.naming = naming  # type: ignore[assignment]
    world = simulated.app.world
    ian = next(row for row in world.all(Account) if row.name.startswith("ian"))
    ian.name = "ian@ianduffy.ie"
    hidden = world.add(Account, name="PrjAcct-shop-x", domain=ian.domain)
    hidden.project = world.add(Project, name="Web Shop!", display_text="", account=hidden, owner=ian, members=[])
    found = listed(auth, "ian").projects
    assert {one.name for one in found} == {"ian@ianduffy.ie", "Web Shop!"}
    assert "ian-ianduffy-ie" in [one.projectId for one in found]
    for one in found:
        assert GCLOUD.fullmatch(one.projectId), one
        for name in (one.projectId, one.name, str(one.projectNumber)):
            told = auth.projects.get(auth.caller("ian"), projects_pb2.GetProjectRequest(projectId=name))
            assert told == one


def test_lists_of_projects_are_filtered_and_paged(auth: Auth) -> None:
    def names(**asked: Any) -> list[str]:
        return [one.projectId for one in listed(auth, **asked).projects]

    assert names() == ["demo", "webshop"]
    # What gcloud sends.
    assert names(filter="lifecycleState:ACTIVE") == ["demo", "webshop"]
    assert names(filter='lifecycleState:ACTIVE AND (id="web*")') == ["webshop"]
    assert names(filter="projectId:demo OR name:web*") == ["demo", "webshop"]
    assert names(filter="id:demo name:web*") == []
    assert names(filter="-id:demo") == names(filter="NOT id:demo") == names(filter="id!=demo") == ["webshop"]
    assert names(filter="ID:DEMO") == ["demo"]
    assert names(filter="lifecycleState:DELETE_REQUESTED") == names(filter="labels.env:test") == []
    assert names(filter="(id:demo OR id:x) AND (lifecycleState:ACTIVE)") == ["demo"]
    assert names(filter="id:[dw]*") == names(filter="id:dem?") == []
    first = listed(auth, pageSize=1)
    assert [one.projectId for one in first.projects] == ["demo"] and first.nextPageToken
    rest = listed(auth, pageSize=1, pageToken=first.nextPageToken)
    assert [one.projectId for one in rest.projects] == ["webshop"] and not rest.nextPageToken
    refused(400, lambda: listed(auth, pageSize=-1), "pageSize")


@pytest.mark.parametrize(
    "text",
    ["(", ")", "AND", "demo", "id:", "colour:red", "id:demo OR", "(id:demo", "id:demo)", "id:x" * 300, "(" * 400, '"',
     "NOT " * 200 + "id:x"],
)  # fmt: skip
def test_what_is_no_filter_is_refused(text: str) -> None:
    assert refused(400, lambda: parse(text)).location == "filter"


def test_policies_and_permissions_are_those_of_an_owner(auth: Auth) -> None:
    caller = auth.caller()
    request = projects_pb2.GetIamPolicyRequest(resource="demo")
    policy = auth.projects.get_iam_policy(caller, request)
    assert [(one.role, list(one.members)) for one in policy.bindings] == [("roles/owner", [f"user:{caller.subject}"])]
    assert policy.etag and policy.version == 1
    request.getIamPolicyRequest.options.requestedPolicyVersion = 2
    refused(400, lambda: auth.projects.get_iam_policy(caller, request), "requestedPolicyVersion")

    asked = projects_pb2.TestIamPermissionsRequest(resource="demo")
    asked.testIamPermissionsRequest.permissions.extend(["compute.instances.get", "storage.buckets.get"])
    assert list(auth.projects.test_iam_permissions(caller, asked).permissions) == ["compute.instances.get"]
    asked.testIamPermissionsRequest.permissions.append("compute.*")
    refused(400, lambda: auth.projects.test_iam_permissions(caller, asked), "Wildcards")
    asked.testIamPermissionsRequest.permissions[:] = ["compute.instances.get"] * 101
    refused(400, lambda: auth.projects.test_iam_permissions(caller, asked), "at most 100")


def test_billing_is_enabled(auth: Auth) -> None:
    found = auth.projects.billing(auth.caller(), billing_pb2.GetBillingInfoRequest(project="demo"))
    assert (found.name, found.projectId, found.billingEnabled) == ("projects/demo/billingInfo", "demo", True)
    assert found.billingAccountName.startswith("billingAccounts/")


# Services


def test_what_is_served_is_enabled(auth: Auth) -> None:
    caller = auth.caller()
    found = auth.usage.get(caller, services_pb2.GetServiceRequest(project="demo", service="compute.googleapis.com"))
    numbered = listed(auth).projects[0].projectNumber
    assert (found.state, found.name) == ("ENABLED", f"projects/{numbered}/services/compute.googleapis.com")
    assert (found.parent, found.config.name) == (f"projects/{numbered}", "compute.googleapis.com")
    other = auth.usage.get(caller, services_pb2.GetServiceRequest(project="demo", service="storage.googleapis.com"))
    assert other.state == "DISABLED"
    absent = services_pb2.GetServiceRequest(project="demo", service="no service")
    refused(404, lambda: auth.usage.get(caller, absent))


def test_services_are_listed(auth: Auth) -> None:
    def names(**asked: Any) -> list[str]:
        reply = auth.usage.list(auth.caller(), services_pb2.ListServicesRequest(project="demo", **asked))
        return [one.config.name for one in reply.services]

    assert names() == names(filter="state:ENABLED") == list(SERVICES)
    assert names(filter="state:DISABLED") == []
    refused(400, lambda: names(filter="state:RED"), "filter")
    refused(400, lambda: names(pageSize=-1), "pageSize")
    reply = auth.usage.list(auth.caller(), services_pb2.ListServicesRequest(project="demo", pageSize=2))
    assert names(pageToken=reply.nextPageToken) == list(SERVICES)[2:]


def test_several_services_are_asked_for(auth: Auth) -> None:
    asked = services_pb2.BatchGetServicesRequest(project="demo")
    refused(400, lambda: auth.usage.batch_get(auth.caller(), asked), "names")
    asked.names.extend(f"projects/demo/services/{name}.googleapis.com" for name in ("compute", "storage"))
    found = auth.usage.batch_get(auth.caller(), asked)
    assert [one.state for one in found.services] == ["ENABLED", "DISABLED"]
    for name in ("projects/other/services/compute.googleapis.com", "compute.googleapis.com"):
        asked.names[0] = name
        refused(400, lambda: auth.usage.batch_get(auth.caller(), asked), "names")
    asked.names[:] = ["projects/demo/services/compute.googleapis.com"] * 31
    refused(400, lambda: auth.usage.batch_get(auth.caller(), asked), "names")


def test_enabling_is_done_at_once_or_refused(auth: Auth) -> None:
    caller = auth.caller()
    asked = services_pb2.EnableServiceRequest(project="demo", service="compute.googleapis.com")
    done = auth.usage.enable(caller, asked)
    assert done.done and done.response.service.state == "ENABLED"
    operation = services_pb2.GetOperationRequest(operation=done.name.partition("/")[2])
    assert auth.usage.operation(caller, operation).done
    refused(404, lambda: auth.usage.operation(caller, services_pb2.GetOperationRequest(operation="x")))
    asked.service = "storage.googleapis.com"
    refused(400, lambda: auth.usage.enable(caller, asked), "storage.googleapis.com")

    several = services_pb2.BatchEnableServicesRequest(project="demo")
    refused(400, lambda: auth.usage.batch_enable(caller, several), "serviceIds")
    several.batchEnableServicesRequest.serviceIds.extend(["compute.googleapis.com", "iam.googleapis.com"])
    made = auth.usage.batch_enable(caller, several)
    assert made.done and [one.state for one in made.response.services] == ["ENABLED", "ENABLED"]
    several.batchEnableServicesRequest.serviceIds.append("storage.googleapis.com")
    refused(400, lambda: auth.usage.batch_enable(caller, several), "storage.googleapis.com")


# The default service account


def accounts_of(auth: Auth, caller: Caller, project: str) -> list[iam_pb2.ServiceAccount]:
    return list(auth.accounts.list(caller, iam_pb2.ListServiceAccountsRequest(project=project)).accounts)


def test_every_project_has_a_default_service_account(auth: Auth) -> None:
    demo = next(one for one in listed(auth).projects if one.projectId == "demo")
    email = default_service_account(demo.projectNumber)
    assert email == f"{demo.projectNumber}-compute@developer.gserviceaccount.com"
    caller = auth.caller()
    [found] = accounts_of(auth, caller, "demo")
    assert (found.email, found.projectId) == (email, "demo")
    for project in ("demo", "-"):
        asked = iam_pb2.GetServiceAccountRequest(project=project, account=email)
        assert auth.accounts.get(caller, asked) == found
    # Another project's is another one, and one of nobody's is none.
    elsewhere = iam_pb2.GetServiceAccountRequest(project="webshop", account=email)
    refused(404, lambda: auth.accounts.get(caller, elsewhere))
    nobody = iam_pb2.GetServiceAccountRequest(project="-", account=default_service_account(12345))
    refused(404, lambda: auth.accounts.get(caller, nobody))
    ians = iam_pb2.GetServiceAccountRequest(project="-", account=email)
    refused(404, lambda: auth.accounts.get(auth.caller("ian"), ians))
    refused(400, lambda: auth.accounts.delete(caller, iam_pb2.DeleteServiceAccountRequest(project="-", account=email)))


@pytest.mark.parametrize(
    "address",
    [
        "robot-1@demo.iam.gserviceaccount.com",
        "x-compute@developer.gserviceaccount.com",
        "0-compute@developer.gserviceaccount.com",
        "1-compute@developer.gserviceaccount.com.example.org",
    ],
)
def test_other_addresses_are_of_no_project(address: str) -> None:
    assert project_of(address) == ""
    assert project_of(default_service_account(number("demo"))) == str(number("demo"))


def test_members_of_a_project_have_its_default_account_with_their_own_keys(auth: Auth, simulated: Cloud) -> None:
    world = simulated.app.world
    ian = next(row for row in world.all(Account) if row.name.startswith("ian"))
    next(row for row in world.all(Project) if row.name == "webshop").members.append(ian)
    [first], [second] = (accounts_of(auth, auth.caller(name), "webshop") for name in ("demo", "ian"))
    assert first.email == second.email and first.uniqueId != second.uniqueId
    tokens = [impersonated(auth, name, first.email)["token"] for name in ("demo", "ian")]
    keys = [auth.principal(token).key for token in tokens]
    assert keys == [auth.caller(name).owner for name in ("demo", "ian")]


# Short-lived credentials


def impersonated(auth: Auth, name: str, account: str, project: str = "-", **body: Any) -> dict[str, Any]:
    """body: more of it; the answer as a dict."""
    request = credentials_pb2.GenerateAccessTokenRequest(project=project, account=account)
    for field, value in {"scope": [CLOUD], **body}.items():
        if isinstance(value, list):
            getattr(request.generateAccessTokenRequest, field).extend(value)
        else:
            setattr(request.generateAccessTokenRequest, field, value)
    reply = auth.impersonation.access_token(auth.caller(name), request)
    return {"token": reply.accessToken, "ends": reply.expireTime}


@pytest.fixture
def robot(auth: Auth) -> str:
    """The address of a service account of demo's."""
    return str(auth.key_file()["client_email"])


def test_a_token_of_an_own_service_account(auth: Auth, robot: str) -> None:
    made = impersonated(auth, "demo", robot, scope=[COMPUTE])
    found = auth.principal(made["token"])
    assert (found.active, found.subject, list(found.scopes)) == (True, robot, [COMPUTE])
    assert abs(found.expires_at - time.time() - 3600) < 60
    # It is the account's project alone, as with the account's own keys.
    demo = next(one for one in listed(auth).projects if one.projectId == "demo")
    limited = auth.sealer.open_message(found.credential, "credential")["projects"]
    found_project = auth.people.project(found.key, found.credential, "demo")
    assert limited == [found_project.key] and found_project.number == demo.projectNumber
    refused(404, lambda: auth.people.project(found.key, found.credential, "webshop"))


def test_tokens_end_when_they_were_asked_to(auth: Auth, robot: str) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        made = impersonated(auth, "demo", robot, lifetime="60s")
        assert made["ends"] == "2027-01-15T08:01:00Z"
        assert auth.principal(made["token"]).active
        clock.shift(59)
        assert auth.principal(made["token"]).active
        clock.shift(2)
        assert not auth.principal(made["token"]).active


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"lifetime": "3601s"}, "lifetime"),
        ({"lifetime": "0s"}, "lifetime"),
        ({"lifetime": "60"}, "lifetime"),
        ({"lifetime": "-1s"}, "lifetime"),
        ({"scope": []}, "scope"),
        ({"scope": ["\x01"]}, "scope"),
        ({"scope": ["a"] * 51}, "scope"),
        ({"delegates": ["x"] * 5}, "delegates"),
        ({"delegates": ["a/b/c"]}, "delegates"),
    ],
)
def test_what_is_wrong_is_named(auth: Auth, robot: str, body: dict[str, Any], field: str) -> None:
    assert refused(400, lambda: impersonated(auth, "demo", robot, **body)).location == field


def test_an_account_of_somebody_else_is_as_one_that_there_is_not(auth: Auth, robot: str) -> None:
    [default] = [one.email for one in accounts_of(auth, auth.caller(), "demo") if project_of(one.email)]
    absent = "nobody-1@demo.iam.gserviceaccount.com"
    unknown = default_service_account(12345)
    [own] = [one.email for one in accounts_of(auth, auth.caller("ian"), "ian-example-org")]
    assert impersonated(auth, "ian", own)["token"]

    def said(name: str, account: str, **more: Any) -> str:
        return str(refused(403, lambda: impersonated(auth, name, account, **more)))

    told = {said("ian", one) for one in (robot, default, absent, unknown)}
    told |= {said("demo", absent), said("demo", unknown)}
    told |= {said("ian", robot, project="demo"), said("ian", own, delegates=[robot])}
    assert len(told) == 1 and "(or it may not exist)" in told.pop()


@pytest.mark.parametrize("end", ["disable", "delete"])
def test_tokens_end_with_their_account(auth: Auth, robot: str, end: str) -> None:
    token = impersonated(auth, "demo", robot)["token"]
    child = auth.token(EXCHANGE, subject_token=token, subject_token_type=JWT_TYPE)["access_token"]
    found = auth.principal(child)
    # What it is exchanged for is limited as it is.
    assert (found.subject, len(auth.sealer.open_message(found.credential, "credential")["projects"])) == (robot, 1)
    if end == "disable":
        asked = iam_pb2.DisableServiceAccountRequest(project="-", account=robot)
        auth.accounts.disable(auth.caller(), asked)
        refused(400, lambda: impersonated(auth, "demo", robot), "disabled")
    else:
        auth.accounts.delete(auth.caller(), iam_pb2.DeleteServiceAccountRequest(project="-", account=robot))
        refused(403, lambda: impersonated(auth, "demo", robot))
    assert not auth.principal(token).active and not auth.principal(child).active


def test_who_is_limited_to_other_projects_gets_no_token(auth: Auth, robot: str) -> None:
    elsewhere = auth.principal(
        impersonated(auth, "demo", accounts_of(auth, auth.caller(), "webshop")[0].email)["token"]
    )
    caller = Caller(elsewhere.key, auth.caller().credential_id, elsewhere.subject, elsewhere.credential)
    request = credentials_pb2.GenerateAccessTokenRequest(project="-", account=robot)
    request.generateAccessTokenRequest.scope.append(CLOUD)
    refused(403, lambda: auth.impersonation.access_token(caller, request))


def test_an_id_token_of_an_own_service_account(auth: Auth, robot: str) -> None:
    request = credentials_pb2.GenerateIdTokenRequest(project="-", account=robot)
    refused(400, lambda: auth.impersonation.id_token(auth.caller(), BASE, request), "audience")
    body = request.generateIdTokenRequest
    body.audience = "https://app.example.org"

    def claims() -> dict[str, Any]:
        reply = auth.impersonation.id_token(auth.caller(), BASE, request)
        return jwt.decode(reply.token, options={"verify_signature": False})

    assert (claims()["iss"], claims()["aud"]) == (BASE, body.audience) and "email" not in claims()
    body.includeEmail = True
    assert (claims()["email"], claims()["email_verified"]) == (robot, True)
    refused(403, lambda: auth.impersonation.id_token(auth.caller("ian"), BASE, request))
    body.audience = "x" * 256
    refused(400, lambda: auth.impersonation.id_token(auth.caller(), BASE, request), "audience")
