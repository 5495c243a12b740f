"""Request signatures as CloudStack checks them (ApiServer.verifyRequest)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote


def sign(parameters: Mapping[str, str], secret: str) -> str:
    """The base64 HMAC-SHA1 over all parameters but `signature`, encoded as Java's URLEncoder does."""
    pairs = (
        # URLEncoder leaves * raw and encodes ~; quote does it the other way round.
        f"{name}={quote(value, safe='*').replace('~', '%7E')}"
        for name, value in sorted(parameters.items())
        if name != "signature"
    )
    digest = hmac.new(secret.encode(), "&".join(pairs).lower().encode(), hashlib.sha1)
    return base64.b64encode(digest.digest()).decode()


def expired(expires: str, now: datetime) -> bool:
    """Whether a `signatureVersion=3` request is too old; an unreadable date counts as expired."""
    for layout in ("%Y-%m-%dT%H:%M:%S%z",):
        try:
            return datetime.strptime(expires.replace("Z", "+0000"), layout) < now.astimezone(UTC)
        except ValueError:
            continue
    return True
