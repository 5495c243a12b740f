"""Who may ask for tokens: the programs that Google's tools are, and everybody's own CloudStack keys.

A client whose id is a CloudStack API key and whose secret is the secret key acts for that key's user (as gstack 1.x had
it). The tools' own ids are public: their secrets are printed in their sources, so a person signs in.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from auth_service.store import Credential

# Redirects that only show the code: gcutil's, and the pages of gcloud for a browser on another machine.
SHOWN_CODE = (
    "urn:ietf:wg:oauth:2.0:oob",
    "urn:ietf:wg:oauth:2.0:oob:auto",
    "https://sdk.cloud.google.com/authcode.html",
    "https://sdk.cloud.google.com/applicationdefaultauthcode.html",
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Client id -> name for the login page. gcutil and gcloud share one.
_TOOLS = {
    "32555940559.apps.googleusercontent.com": "Google Cloud SDK",
    "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com": "Google Auth Library",
}
# gcutil is older than PKCE; it can only be served without.
_WITHOUT_PKCE = frozenset(("32555940559.apps.googleusercontent.com",))


@dataclass
class Client:
    """A client of the OAuth server, as oauthlib reads it. credential: set when the client itself is a user's keys."""

    client_id: str
    name: str
    credential: Credential | None = None

    @property
    def needs_pkce(self) -> bool:
        return self.credential is None and self.client_id not in _WITHOUT_PKCE


def tool(client_id: str) -> Client | None:
    name = _TOOLS.get(client_id)
    return Client(client_id, name) if name else None


def may_redirect(uri: str) -> bool:
    """Loopback with any port (RFC 8252), or one of the pages that show the code."""
    if uri in SHOWN_CODE:
        return True
    try:
        parts = urlsplit(uri)
        return parts.scheme == "http" and parts.hostname in _LOOPBACK and not parts.username and not parts.fragment
    except ValueError:
        return False
