"""Request signatures of the CloudStack API (ApiServer.verifyRequest).

Sorted parameters, values encoded as Java's URLEncoder does with `+` as `%20`, all lower-cased, HMAC-SHA1, base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote, urlencode


def encode(value: str) -> str:
    """Java's URLEncoder with `%20` for a blank: raw are letters, digits and `. - * _` only."""
    return quote(value, safe="*").replace("~", "%7E")


def sign(parameters: Mapping[str, str], secret: str) -> str:
    text = "&".join(f"{name}={encode(value)}" for name, value in sorted(parameters.items())).lower()
    # Not hmac.digest: that one gives the interpreter lock away, and getting it back costs more than the hash.
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


def signed_query(parameters: Mapping[str, str], secret: str) -> str:
    """The form-encoded parameters with their signature, for a query string or a form body."""
    return urlencode({**parameters, "signature": sign(parameters, secret)})
