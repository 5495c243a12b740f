"""The one exception, its envelope, its way over gRPC, and what CloudStack's errors become."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstack.kernel import errors
from gstack.kernel.errors import METADATA_KEY, ApiError, from_rpc
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
