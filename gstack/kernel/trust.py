"""How services know each other: by certificates (see tls) or, where they have none, by a secret that they share.

The secret is for one machine, or for a network that nobody listens on: it goes with every call. It is made of a ring of
keys like the others (see sealing), so it is changed like the others, while services run.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from gstack.kernel.sealing import Keyring, create_key
from gstack.kernel.settings import Settings
from gstack.kernel.tls import Tls

# Its name in gRPC metadata.
SECRET = "x-services-secret-bin"
_USE = b"calls between services"


class Secret:
    """What a caller shows, and what a server knows callers by."""

    def __init__(self, path: Path):
        """Raises KeyFileError."""
        self._ring = Keyring(path)

    def shown(self) -> tuple[str, bytes]:
        """An entry of a call's metadata."""
        return SECRET, self._ring.derive(_USE)[0]

    def knows(self, secret: bytes) -> bool:
        return any(hmac.compare_digest(known, secret) for known in self._ring.derive(_USE))


Trust = Tls | Secret


def of(settings: Settings) -> Trust:
    """What this service shows to the others, and asks of them. Raises ValueError, OSError or KeyFileError."""
    tls = Tls.of(settings)
    if tls is not None:
        return tls
    path = settings.services_key_path()
    if settings.services_key_file is None:
        # Services of one machine and one folder: the first of them makes it.
        create_key(path)
    return Secret(path)
