"""Who may ask for tokens: the programs that Google's tools are, and everybody's own CloudStack keys.

A client whose id is a CloudStack API key and whose secret is the secret key acts for that key's user (as gstack 1.x had
it). The tools' own ids are public: their secrets are printed in their sources, so a person signs in.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from auth_service.store.base import digest
from auth_service.store.credentials import Credential

# Redirects that only show the code: gcutil's, and the pages of gcloud for a browser on another machine.
SHOWN_CODE = (
    "urn:ietf:wg:oauth:2.0:oob",
    "urn:ietf:wg:oauth:2.0:oob:auto",
    "https://sdk.cloud.google.com/authcode.html",
    "https://sdk.cloud.google.com/applicationdefaultauthcode.html",
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# gcutil's and gcloud's, which share it. It is the only public client that may come without PKCE: gcutil knows none.
SDK = "32555940559.apps.googleusercontent.com"
# Application default credentials: a file with a refresh token that many processes read and none writes back.
_FILES = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
_SERVICE_ACCOUNT = (".iam.gserviceaccount.com", "@developer.gserviceaccount.com")
_TOOLS = {SDK: "Google Cloud SDK", _FILES: "Google Auth Library"}


@dataclass
class Client:
    """A client of the OAuth server, as oauthlib reads it. credential: set when the client itself is a user's keys."""

    client_id: str
    name: str
    credential: Credential | None = None

    @property
    def kept_id(self) -> str:
        return kept(self.client_id)

    @property
    def is_public(self) -> bool:
        return self.client_id in _TOOLS

    @property
    def rotates(self) -> bool:
        """Whether each refresh gives a new refresh token and ends the old one.

        Not where a file holds it for many processes: the second one would look like a thief. Nor for keys, which are
        their own proof.
        """
        return self.credential is None and self.client_id != _FILES


def tool(client_id: str) -> Client | None:
    name = _TOOLS.get(client_id)
    return Client(client_id, name) if name else None


def kept(client_id: str) -> str:
    """How a client id is stored: one that may be an API key only as its hash."""
    if client_id in _TOOLS or client_id.endswith(_SERVICE_ACCOUNT):
        return client_id
    return f"sha256:{digest(client_id).hex()}"


def is_told(kept_id: str) -> bool:
    """Whether a stored client id may be shown to others."""
    return not kept_id.startswith("sha256:")


def name_of(client_id: str) -> str:
    """For people. An API key cannot be told from a typing error before its secret comes: shown as what it is."""
    return _TOOLS.get(client_id, "A program with its own client id")


def may_redirect(uri: str) -> bool:
    """Loopback with any port (RFC 8252), or one of the pages that show the code."""
    if uri in SHOWN_CODE:
        return True
    try:
        parts = urlsplit(uri)
        # Reading the port refuses what is not a number.
        return (
            parts.scheme == "http"
            and parts.hostname in _LOOPBACK
            and parts.username is None
            and not parts.fragment
            and parts.port != 0
        )
    except ValueError:
        return False
