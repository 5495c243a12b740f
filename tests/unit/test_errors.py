"""The one exception, its envelope, its way over gRPC, and what CloudStack's errors become."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstack.kernel import errors
from gstack.kernel.errors import METADATA_KEY, ApiError, from_rpc
from tests.conftest import recorded
from translator_service.cloudstack.errors import MEANINGS, CloudStackError, MaybeDone, Unreachable, to_api_error


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, metadata: tuple | None = ()):
        self._code, self._metadata = code, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> tuple | None:
        return self._metadata


@given(
    st.sampled_from([400, 401, 403, 404, 409, 412, 413, 429, 500, 501, 503, 504]),
    st.text(),
    st.sampled_from(["", "invalid", "quotaExceeded"]),
    st.text(max_size=20),
    st.integers(0, 3600),
)
@settings(max_examples=100)
def test_an_error_crosses_grpc_whole(code: int, message: str, reason: str, location: str, retry_after: int) -> None:
    error = ApiError(code, message, reason, location, retry_after)
    key, value = error.to_metadata()
    assert key == METADATA_KEY and key.endswith("-bin")
    arrived = from_rpc(Failure(error.grpc_status(), (("other", "x"), (key, value))))
    assert vars(arrived) == vars(error)
    assert arrived.envelope() == error.envelope()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.UNKNOWN, 500),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.CANCELLED, 500),
    ],
)
@pytest.mark.parametrize("metadata", [None, (), (("x", "y"),)])
def test_what_grpc_itself_says(status: grpc.StatusCode, code: int, metadata: tuple | None) -> None:
    error = from_rpc(Failure(status, metadata))
    assert error.code == code
    assert bool(error.retry_after) == (code == 503)


def test_the_envelope() -> None:
    assert ApiError(404, "gone").envelope() == {
        "error": {
            "code": 404,
            "message": "gone",
            "errors": [{"domain": "global", "reason": "notFound", "message": "gone"}],
        }
    }
    item = ApiError(400, "m", location="resource.name").envelope()["error"]["errors"][0]
    assert (item["locationType"], item["location"]) == ("parameter", "resource.name")
    assert ApiError(401, "m").envelope()["error"]["errors"][0]["location"] == "Authorization"


@pytest.mark.parametrize(
    ("error", "code", "reason", "location"),
    [
        (errors.invalid("resource.name", "no"), 400, "invalid", "resource.name"),
        (errors.required("resource.name"), 400, "required", "resource.name"),
        (errors.not_found("projects/p"), 404, "notFound", ""),
        (errors.already_exists("projects/p"), 409, "alreadyExists", ""),
        (errors.unsupported("resource.denied", "no"), 400, "unsupportedOperation", "resource.denied"),
        (ApiError(418, "?"), 418, "backendError", ""),
    ],
)
def test_reasons(error: ApiError, code: int, reason: str, location: str) -> None:
    assert (error.code, error.reason, error.location) == (code, reason, location)
    assert str(error).startswith(f"{code} {reason}: ")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (401, 401, "authError"),
        (429, 429, "rateLimitExceeded"),
        (431, 400, "invalid"),
        (530, 500, "backendError"),
        (531, 403, "forbidden"),
        (533, 503, "resourcePoolExhausted"),
        (535, 403, "quotaExceeded"),
        (536, 400, "resourceInUseByAnotherResource"),
        (999, 500, "backendError"),
    ],
)
def test_the_clouds_errors(code: int, status: int, reason: str) -> None:
    error = to_api_error(CloudStackError(code, "internal text"))
    assert (error.code, error.reason) == (status, reason)
    assert bool(error.retry_after) == (status in (429, 503))


@pytest.mark.parametrize("code", [*MEANINGS, 0, 999])
@pytest.mark.parametrize(
    "text",
    [
        "CloudStack failed",
        "Unable to find VM 1f3b0f64-9b5c-4d0e-8f57-000000000001",
        'Cannot use [{"id": 7}]',
        "Account {accountId: 3} is denied",
        "job id=17",
    ],
)
def test_internal_texts_are_not_shown(code: int, text: str) -> None:
    assert text not in to_api_error(CloudStackError(code, text)).message
    assert "CloudStack" not in to_api_error(CloudStackError(code, text)).message


def test_a_plain_text_about_a_parameter_is_shown() -> None:
    assert to_api_error(CloudStackError(431, "The size is too small.")).message == "The size is too small."
    assert to_api_error(CloudStackError(530, "The size is too small.")).message == "Internal error."


@pytest.mark.parametrize("error", [Unreachable("x"), MaybeDone("x")])
def test_a_cloud_that_is_away(error: Unreachable) -> None:
    found = to_api_error(error)
    assert (found.code, found.retry_after > 0) == (503, True)
    assert "CloudStack" not in found.message


# Limits and capacity


def recorded_error(file: str, name: str) -> CloudStackError:
    """The error of a recorded answer, of a request or in a finished job."""
    body = next(iter(recorded(file, name)["body"].values()))
    found = body.get("jobresult", body)
    return CloudStackError(found["errorcode"], found["errortext"], found.get("cserrorcode", 0))


# Numbers are those of the recorded accounts: three volumes, 20 CPUs.
@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("b-errors", "createVolume up to the limit 4", "Quota 'DISKS' exceeded.  Limit: 3.0 globally."),
        ("b-errors", "deploy over the memory/cpu limit", "Quota 'CPUS' exceeded.  Limit: 20.0 globally."),
    ],
)
def test_recorded_limits(file: str, name: str, message: str) -> None:
    error = recorded_error(file, name)
    assert (error.meaning.code, error.meaning.status, error.message) == ("QUOTA_EXCEEDED", 403, message)
    told = to_api_error(error)
    assert (told.code, told.reason, told.message) == (403, "quotaExceeded", message)


def over(kind: str, whose: str = "Account", limit: str = "2") -> str:
    """CloudStack's text, as recorded."""
    named = {"Account": "Account Name = mallory in Domain Id = 2", "Project": "Project Name = p in Domain Id = 2"}
    return (
        f"Maximum amount of resources of Type = '{kind}', tag = 'null' for {named.get(whose, 'Domain Id = 2')} is "
        f"exceeded: {whose} Resource Limit = {limit}, Current {whose} Resource Amount = 2, Current {whose} Resource "
        "Reservation = 0, Requested Resource Amount = 1."
    )


@pytest.mark.parametrize("code", [430, 431, 530, 532, 535])
@pytest.mark.parametrize("whose", ["Account", "Project", "Domain"])
@pytest.mark.parametrize(
    ("kind", "limit", "metric", "shown"),
    [
        ("user_vm", "2", "INSTANCES", "2.0"),
        ("cpu", "40", "CPUS", "40.0"),
        ("memory", "8192", "MEMORY_MB", "8192.0"),
        ("primary_storage", "(200.00 GB) 214748364800", "DISKS_TOTAL_GB", "200.0"),
        ("secondary_storage", "(1.50 GB) 1610612736", "STORAGE_TOTAL_GB", "1.5"),
        ("snapshot", "1", "SNAPSHOTS", "1.0"),
        ("template", "0", "IMAGES", "0.0"),
        ("public_ip", "2", "IN_USE_ADDRESSES", "2.0"),
        ("network", "3", "NETWORKS", "3.0"),
    ],
)
def test_every_refusal_for_a_limit_names_it(
    code: int, whose: str, kind: str, limit: str, metric: str, shown: str
) -> None:
    """A bigger offering over the account's limit is 530 in the job (recordings, Surprises 115)."""
    error = CloudStackError(code, over(kind, whose, limit))
    assert (error.meaning.status, error.meaning.reason, error.meaning.code) == (403, "quotaExceeded", "QUOTA_EXCEEDED")
    assert error.message == f"Quota '{metric}' exceeded.  Limit: {shown} globally."


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        # Releases before 4.11.
        (
            535,
            "Maximum number of resources of type 'volume' for account name=ian in domain id=2 has been exceeded.",
            "Quota 'DISKS' exceeded.",
        ),
        (535, over("hovercraft"), "A quota of the project is exceeded."),
        (532, "No more of it.", "A quota of the project is exceeded."),
        (535, "", "A quota of the project is exceeded."),
    ],
)
def test_a_limit_without_a_number(code: int, text: str, message: str) -> None:
    error = CloudStackError(code, text)
    assert (error.meaning.code, error.message) == ("QUOTA_EXCEEDED", message)


@pytest.mark.parametrize(
    "text",
    [
        "The specified VM already has the maximum number of data disks (6) attached. Please specify another VM.",
        "User data has exceeded configurable max length: 32768",
        "Maximum " * 400,
    ],
)
def test_what_is_no_limit_of_the_account(text: str) -> None:
    assert CloudStackError(431, text).meaning.status == 400


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (533, "No destination found for a deployment for VM instance"),
        (533, "Insufficient address capacity"),
        (530, "Unable to create a deployment for VM instance {"),
        (530, "Unable to start a VM [db6c6c47-ae34-48b0-a3d6-3464bfc79d15] due to insufficient capacity."),
    ],
)
def test_a_lack_of_capacity(code: int, text: str) -> None:
    error = CloudStackError(code, text)
    assert (error.meaning.status, error.meaning.code) == (503, "ZONE_RESOURCE_POOL_EXHAUSTED")
    assert error.message == "The zone does not have enough resources available to fulfill the request."


def test_a_recorded_lack_of_capacity() -> None:
    error = recorded_error("c-instances", "deployVirtualMachine that fits on no host (job finished)")
    assert error.meaning.code == "ZONE_RESOURCE_POOL_EXHAUSTED"
