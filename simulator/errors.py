"""The errors of a CloudStack API: a status (which is also the `errorcode`), an exception class number and a text."""

from __future__ import annotations

from typing import Any

# cserrorcode of the exception classes that a client meets (CSExceptionErrorCode).
CLOUD_RUNTIME = 4250
INVALID_PARAMETER = 4350
NETWORK_RULE_CONFLICT = 4360
PERMISSION_DENIED = 4365
RESOURCE_ALLOCATION = 4370
SERVER_API = 9999

INTERNAL_TEXT = "Internal error executing command, please contact your system administrator"


class ApiError(Exception):
    """An error answer. `top_key` overrides the envelope's `<command>response`."""

    def __init__(self, status: int, text: str, cserrorcode: int | None = SERVER_API, top_key: str | None = None):
        super().__init__(text)
        self.status = status
        self.text = text
        self.cserrorcode = cserrorcode
        self.top_key = top_key
        self.uuids: list[dict[str, str]] = []

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"uuidList": self.uuids, "errorcode": self.status}
        if self.cserrorcode is not None:
            body["cserrorcode"] = self.cserrorcode
        body["errortext"] = self.text
        return body


def invalid(text: str) -> ApiError:
    """431 of a business rule (InvalidParameterValueException)."""
    return ApiError(431, text, INVALID_PARAMETER)


def no_such_entity(command: str, parameter: str, value: str) -> ApiError:
    return ApiError(
        431,
        f"Unable to execute API command {command.lower()} due to invalid value. Invalid parameter {parameter} "
        f"value={value} due to incorrect long value format, or entity does not exist or due to incorrect "
        "parameter annotation for the field in api cmd class.",
    )


def internal(text: str = INTERNAL_TEXT, cserrorcode: int = CLOUD_RUNTIME) -> ApiError:
    return ApiError(530, text, cserrorcode)


def denied(text: str = "Caller does not have permission to operate with provided resource.") -> ApiError:
    return ApiError(531, text, PERMISSION_DENIED)


def unauthorized() -> ApiError:
    text = "unable to verify user credentials and/or request signature"
    return ApiError(401, text, None)


def throttled() -> ApiError:
    """429 of the API limit plugin (RequestLimitException)."""
    return ApiError(429, "The given user has reached his/her account api limit, please retry after 500 ms.", 4510)


def second_factor() -> ApiError:
    return ApiError(511, "User authentication is not completed because 2FA verification is not done", None)


def unavailable_command(command: str) -> ApiError:
    text = f"The API [{command}] does not exist or is not available for the account"
    return ApiError(432, text, SERVER_API, "errorresponse")
