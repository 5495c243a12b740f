"""Passwords that people type, and how many wrong ones CloudStack gets to see.

CloudStack disables a user, API keys and all, after a few wrong passwords in a row (`incorrect.login.attempts.allowed`,
5). So not so many are passed on, whoever tries them and from wherever, until a right one has set CloudStack's count
back. What is left of them is kept for browsers in which the user signed in before: a stranger who guesses keeps the
owner out of browsers that nobody knows, not out of those, and API keys are not asked for a password.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from auth_service.store.auth_store import AuthStore
from auth_service.store.base import digest
from auth_service.store.credentials import Credential
from auth_service.store.logins import Outcome
from gstack.kernel import sealing
from gstack.kernel.errors import NOT_TRIED, ApiError
from gstack.kernel.settings import Settings

ATTEMPTS = "loginAttempts"
DEVICE_SECONDS = 365 * 24 * 3600
_DEVICE = "device"
# People whom a browser knows; the last to sign in stay.
_DEVICE_OWNERS = 8
_MAX_DEVICE = 4096
# Errors that come after the password was found right.
_RIGHT = ("secondFactor", "noKeys")
_TOO_MANY = (
    "Too many wrong passwords were tried for this name; a few more and the cloud would disable the user. Sign in with "
    "an API key, or in a browser in which you have signed in before."
)


class Logins:
    def __init__(self, store: AuthStore, sealer: sealing.Keyring, settings: Settings):
        self._store = store
        self._sealer = sealer
        self._most = settings.login_attempts
        # Of them may come from browsers that nobody knows.
        self._strangers = max(settings.login_attempts * 3 // 4, 1)

    def attempt(self, name: str, known: bool, ask: Callable[[], Credential]) -> Credential:
        """What `ask` answers, which asks CloudStack. Raises its ApiErrors, and 401 with reason `loginAttempts`.

        name: of `name_of`. known: whether this browser knows the user.
        """
        if not self._store.logins.begin(name, self._most if known else self._strangers):
            raise ApiError(401, _TOO_MANY, ATTEMPTS)
        # An answer that never came may have been a no.
        outcome: Outcome = "wrong"
        owner = None
        try:
            credential = ask()
            outcome, owner = "right", credential.owner
        except ApiError as error:
            if error.reason in _RIGHT:
                outcome = "right"
            elif error.reason == NOT_TRIED:
                outcome = "not tried"
            raise
        finally:
            self._store.logins.end(name, outcome, owner)
        return credential

    def is_known(self, device: str, name: str) -> bool:
        """Whether the user of this name has signed in here before. device: what `remember` gave this browser."""
        owners = self._owners(device)
        owner = self._store.logins.owner(name) if owners else None
        return owner is not None and _short(owner) in owners

    def remember(self, device: str, credential: Credential) -> str:
        """`device` with one more user, for a cookie."""
        own = _short(credential.owner)
        owners = [own, *(other for other in self._owners(device) if other != own)][:_DEVICE_OWNERS]
        return self._sealer.seal_message({"owners": owners}, _DEVICE, DEVICE_SECONDS).hex()

    def _owners(self, device: str) -> list[str]:
        try:
            found: list[str] = self._sealer.open_message(bytes.fromhex(device[:_MAX_DEVICE]), _DEVICE)["owners"]
        except (sealing.SealError, ValueError):
            return []
        return found


def name_of(username: str, domain: str) -> str:
    """One for all spellings of a user's name: hex, which tells nobody's name."""
    path = "/".join(_folded(part) for part in path_of(domain))
    return _short(f"{path}/{_folded(username)}")


def path_of(domain: str) -> list[str]:
    """The names of a domain's path, below ROOT. `""`, `/`, `//`, `ROOT` and `/ROOT/` are all the root."""
    parts = [part for part in (part.strip() for part in domain.split("/")) if part]
    return parts[1:] if parts and parts[0].upper() == "ROOT" else parts


def _short(text: str) -> str:
    return digest(text).hex()[:32]


def _folded(text: str) -> str:
    """CloudStack's database takes names for the same that differ in case, accents, blanks and invisible characters.

    A little more than that is the same here: that only makes two users share a count.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(_letter(one) for one in plain).replace("ss", "s")


def _letter(one: str) -> str:
    if one.isascii():
        return one if one.isprintable() and one != " " else ""
    if unicodedata.category(one)[0] not in "LN":
        return ""
    # Such as `LATIN SMALL LETTER O WITH STROKE`.
    latin = re.match(r"LATIN SMALL (?:LETTER|LIGATURE) (\w+)", unicodedata.name(one, ""))
    if latin is None:
        return one
    return {"DOTLESS": "i", "ETH": "d", "THORN": "th"}.get(latin[1], latin[1].lower())
