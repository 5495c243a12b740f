"""What goes wrong between us and a CloudStack, and the one table that makes GCE errors of it.

CloudStackError      an error answer, of a request or inside a finished job
Unreachable          no usable answer: refused, timed out, HTML, truncated, not what the command answers
  MaybeDone          ... and the request may have been carried out
  Unfinished         nothing is known yet of what was begun: to be asked again later
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gstack.kernel.errors import ApiError


@dataclass(frozen=True)
class Meaning:
    """status and reason for an HTTP answer, code for `Operation.error.errors[].code`; show: the text may be shown."""

    status: int
    reason: str
    code: str
    message: str
    show: bool = False


_QUOTA = Meaning(403, "quotaExceeded", "QUOTA_EXCEEDED", "A quota of the project is exceeded.")
_EXHAUSTED = Meaning(
    503,
    "resourcePoolExhausted",
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "The zone does not have enough resources available to fulfill the request.",
)
# CloudStack's error code -> what a GCE client is told. Sources: ApiErrorCode, and the recorded answers of 4.22, which
# use 530 for much that is the caller's fault, and detailed texts inside jobs.
MEANINGS = {
    400: Meaning(400, "badRequest", "INVALID_USAGE", "The request is malformed."),
    401: Meaning(401, "authError", "UNAUTHORIZED", "Invalid Credentials"),
    405: Meaning(500, "backendError", "INTERNAL_ERROR", "Internal error."),
    429: Meaning(429, "rateLimitExceeded", "RATE_LIMIT_EXCEEDED", "Rate limit exceeded. Try again later."),
    430: Meaning(400, "invalid", "INVALID_USAGE", "The request has an invalid value."),
    431: Meaning(400, "invalid", "INVALID_USAGE", "The request has an invalid value.", show=True),
    432: Meaning(403, "forbidden", "PERMISSION_DENIED", "The account's role does not permit this."),
    503: Meaning(503, "backendError", "SERVICE_UNAVAILABLE", "The service is in maintenance. Try again later."),
    511: Meaning(401, "authError", "UNAUTHORIZED", "A second factor is needed."),
    530: Meaning(500, "backendError", "INTERNAL_ERROR", "Internal error."),
    531: Meaning(403, "forbidden", "PERMISSION_DENIED", "Permission to the resource is denied."),
    532: _QUOTA,
    533: _EXHAUSTED,
    534: Meaning(503, "backendError", "RESOURCE_NOT_READY", "A resource of the zone is unavailable. Try again later."),
    535: _QUOTA,
    536: Meaning(
        400,
        "resourceInUseByAnotherResource",
        "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
        "The resource is in use by another resource.",
    ),
    537: Meaning(409, "conflict", "RESOURCE_CONFLICT", "The rule conflicts with another one."),
}
# Limits and a lack of capacity come with any of these, as the place where they are found wants it (recordings,
# Surprises 21, 43 and 115); then the text tells.
_TELLING = (430, 431, 530, 532, 533, 535)
_LIMIT = re.compile(r"maximum [a-z ]{1,40}type\s*=?\s*'([a-z_]+)'.*exceeded", re.IGNORECASE | re.DOTALL)
_MOST = re.compile(r"Resource Limit = (?:\([^)]*\) )?(\d+)")
_NO_ROOM = re.compile(
    r"Unable to create a deployment for VM|No destination found for a deployment|due to insufficient capacity"
)
# CloudStack's type of resource -> GCE's metric, and how many of CloudStack's units are one of GCE's. Disks as such and
# memory have none in GCE.
METRICS = {
    "user_vm": ("INSTANCES", 1),
    "cpu": ("CPUS", 1),
    "memory": ("MEMORY_MB", 1),
    "volume": ("DISKS", 1),
    "primary_storage": ("DISKS_TOTAL_GB", 1024**3),
    "secondary_storage": ("STORAGE_TOTAL_GB", 1024**3),
    "snapshot": ("SNAPSHOTS", 1),
    "template": ("IMAGES", 1),
    "public_ip": ("IN_USE_ADDRESSES", 1),
    "network": ("NETWORKS", 1),
    "vpc": ("NETWORKS", 1),
    "gpu": ("GPUS", 1),
}
# As much as the start of a text says what it is about.
_LOOKED_AT = 2000
# These say that nothing was done, and that it may be tried again.
TRY_LATER = (429, 503)
# What a list answers to the id of nothing, or of somebody else's (recordings, Surprises 33 and n 61).
NO_SUCH_ROW = (431, 531)
_UNKNOWN = Meaning(500, "backendError", "INTERNAL_ERROR", "Internal error.")

# Texts carry uuids that change with each call, internal numbers and JSON of internal objects.
_INTERNAL = re.compile(
    r"\[[^\]]*\]|\{[^}]*\}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\bid[ =:]*\d+", re.IGNORECASE
)


class CloudStackError(Exception):
    """An error answer: CloudStack's `errorcode`, its class number and its text (never shown as it is)."""

    def __init__(self, code: int, text: str, class_code: int = 0):
        super().__init__(code, text, class_code)
        self.code = code
        self.text = text
        self.class_code = class_code
        # Id of what a failed create command left behind.
        self.entity: str | None = None

    def __str__(self) -> str:
        return f"CloudStack {self.code}: {self.text}"

    @property
    def meaning(self) -> Meaning:
        told = _told(self.text[:_LOOKED_AT]) if self.code in _TELLING else None
        return told or MEANINGS.get(self.code, _UNKNOWN)

    @property
    def message(self) -> str:
        meaning = self.meaning
        if not meaning.show or _INTERNAL.search(self.text) or "CloudStack" in self.text:
            return meaning.message
        return self.text


def _told(text: str) -> Meaning | None:
    """What the text alone says of a limit or of capacity.

    The limits are those of the account over all regions, so another region would not help.
    """
    if _NO_ROOM.search(text):
        return _EXHAUSTED
    found = _LIMIT.search(text)
    if found is None:
        return None
    metric, unit = METRICS.get(found[1].lower(), ("", 1))
    if not metric:
        return _QUOTA
    most = _MOST.search(text)
    limit = f"  Limit: {int(most[1]) / unit:.1f} globally." if most else ""
    return replace(_QUOTA, message=f"Quota '{metric}' exceeded.{limit}")


class Unreachable(Exception):
    """CloudStack gave no usable answer and the request was not carried out, or only reads."""


class MaybeDone(Unreachable):
    """CloudStack gave no usable answer to a request that changes something."""


class Unfinished(Unreachable):
    """What was begun is not known to be over."""


def to_api_error(error: CloudStackError | Unreachable) -> ApiError:
    if isinstance(error, Unreachable):
        return ApiError(503, "The service is unavailable. Try again later.", "backendError", retry_after=5)
    meaning = error.meaning
    return ApiError(meaning.status, error.message, meaning.reason, retry_after=1 if meaning.status in (429, 503) else 0)
