"""The one exception that becomes Google's error envelope, and how it crosses gRPC.

A service raises `ApiError`; the gRPC server puts it into the trailing metadata `gstack-error-bin`; the gateway reads it
back with `from_rpc` and writes the JSON envelope. Reasons and statuses are those of Google's JSON APIs.
"""

from __future__ import annotations

from typing import Any

import grpc

from gstack.api import error_pb2

METADATA_KEY = "gstack-error-bin"

# Reason of a failure before which nothing was done: nobody behind the service that says so has seen the request.
NOT_TRIED = "notTried"

_REASONS = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    405: "httpMethodNotAllowed",
    409: "alreadyExists",
    412: "conditionNotMet",
    413: "uploadTooLarge",
    415: "unsupportedMediaType",
    429: "rateLimitExceeded",
    500: "backendError",
    501: "notImplemented",
    503: "backendError",
    504: "backendError",
}

_GRPC = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    # Not UNAVAILABLE: that is for a service that is not there, and channels ask the next one at once. A service that
    # says itself that something behind it is away must not be asked five times over.
    503: grpc.StatusCode.ABORTED,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# What a status without our metadata means: it comes from gRPC itself (no server, deadline, overload).
_FROM_GRPC = {
    grpc.StatusCode.UNAVAILABLE: (503, "The service is unavailable. Try again."),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "The request took too long."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (503, "The service is overloaded. Try again."),
    grpc.StatusCode.UNIMPLEMENTED: (501, "The method is not implemented."),
}

# Bytes. Both may quote what a client sent, and travel in headers of gRPC, which have 8 kB together, in two spellings.
_MAX_MESSAGE = 1500
_MAX_LOCATION = 300


def _short(text: str, limit: int) -> str:
    if len(text) <= limit // 4:
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    # What is wrong with a value stands behind it.
    head, tail = encoded[: limit * 3 // 4], encoded[-limit // 4 :]
    return f"{head.decode('utf-8', 'ignore')}...{tail.decode('utf-8', 'ignore')}"


class ApiError(Exception):
    """An error answer.

    code: HTTP status. reason: machine-readable cause, by default the usual one of the status. location: the field or
    parameter at fault. retry_after: seconds. The message is shown to the client: no secrets, no internal ids.
    """

    def __init__(self, code: int, message: str, reason: str = "", location: str = "", retry_after: int = 0):
        message, location = _short(message, _MAX_MESSAGE), _short(location, _MAX_LOCATION)
        super().__init__(code, message, reason, location, retry_after)
        self.code = code
        self.message = message
        self.reason = reason or _REASONS.get(code, "backendError")
        self.location = location
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    def envelope(self, canonical_status: bool = False) -> dict[str, Any]:
        """Google's JSON envelope: `{"error": {"code", "message", "errors": [...]}}`, with `status` if asked for."""
        item = {"domain": "global", "reason": self.reason, "message": self.message}
        if self.location:
            item |= {"locationType": "parameter", "location": self.location}
        if self.code == 401:
            item |= {"locationType": "header", "location": "Authorization"}
        error: dict[str, Any] = {"code": self.code, "message": self.message, "errors": [item]}
        if canonical_status:
            error["status"] = "UNAVAILABLE" if self.code == 503 else self.grpc_status().name
        return {"error": error}

    def grpc_status(self) -> grpc.StatusCode:
        return _GRPC.get(self.code, grpc.StatusCode.INTERNAL)

    def to_metadata(self) -> tuple[str, bytes]:
        error = error_pb2.Error(
            code=self.code,
            message=self.message,
            reason=self.reason,
            location=self.location,
            retry_after=self.retry_after,
        )
        return METADATA_KEY, error.SerializeToString()


def from_rpc(failure: grpc.RpcError) -> ApiError:
    """The ApiError a service raised, or what gRPC's own status means."""
    metadata: Any = failure.trailing_metadata()
    for key, value in metadata or ():
        if key == METADATA_KEY:
            error = error_pb2.Error.FromString(value)
            return ApiError(error.code, error.message, error.reason, error.location, error.retry_after)
    code, message = _FROM_GRPC.get(failure.code(), (500, "Internal error."))
    return ApiError(code, message, retry_after=1 if code == 503 else 0)


def invalid(field: str, message: str) -> ApiError:
    """400 for a field's value, in Google's words: `Invalid value for field 'resource.name': ...`."""
    return ApiError(400, f"Invalid value for field '{field}': {message}", "invalid", field)


def required(field: str) -> ApiError:
    return ApiError(400, f"Required field '{field}' not specified", "required", field)


def not_found(resource: str) -> ApiError:
    """404 for `projects/p/zones/z/instances/i`."""
    return ApiError(404, f"The resource '{resource}' was not found", "notFound")


def already_exists(resource: str) -> ApiError:
    return ApiError(409, f"The resource '{resource}' already exists", "alreadyExists")


def unsupported(field: str, why: str) -> ApiError:
    """400 for something that GCE has and a CloudStack zone cannot do."""
    return ApiError(400, f"Invalid value for field '{field}': {why}", "unsupportedOperation", field)


def not_offered(method: str, advice: str = "", why: str = "") -> ApiError:
    """400 for a method that GCE has and we do not. No 5xx, which clients repeat. why: how the sentence goes on; advice:
    what else there is to do."""
    return ApiError(400, f"Method {method} is not offered here{f': {why}' if why else '.'}{advice}", "notSupported")
