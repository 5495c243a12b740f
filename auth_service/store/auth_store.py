"""The store as a whole: its parts, and the end of what is over."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from auth_service.store.base import Database
from auth_service.store.counters import Counters
from auth_service.store.credentials import Credentials
from auth_service.store.devices import Devices
from auth_service.store.logins import Logins
from auth_service.store.sealed import Sealed
from auth_service.store.service_account_keys import ServiceAccountKeys
from auth_service.store.service_accounts import ServiceAccounts
from auth_service.store.sessions import Sessions
from auth_service.store.signing_keys import SigningKeys
from auth_service.store.tables import assertions, devices, limits, logins, sessions, tokens
from auth_service.store.tokens import Tokens
from gstack.kernel.sealing import Keyring

_EXPIRING = (tokens, sessions, devices, assertions, limits)
_PURGE_BATCH = 5_000
# Wrong passwords are remembered for long, because CloudStack does not forget them either. Beyond the number the oldest
# go: somebody who makes up that many names has tried as many.
_LOGIN_SECONDS = 365 * 24 * 3600.0
_MAX_LOGINS = 1_000_000


class AuthStore:
    def __init__(self, url: str, keyring: Keyring, **options: Any):
        """options: of `open_database`."""
        database = Database(url, keyring, **options)
        self.engine = database.engine
        self.credentials = Credentials(database)
        self.tokens = Tokens(database)
        self.sessions = Sessions(database)
        self.devices = Devices(database)
        self.service_accounts = ServiceAccounts(database)
        self.service_account_keys = ServiceAccountKeys(database)
        self.counters = Counters(database)
        self.logins = Logins(database)
        self.signing_keys = SigningKeys(database)
        self.sealed = Sealed(database)

    def purge(self) -> None:
        """Forget what is over."""
        now = time.time()
        for table in _EXPIRING:
            self._purge(table, table.c.expires < now)
        self._purge(logins, logins.c.tried < now - _LOGIN_SECONDS)
        newest = sa.select(logins.c.tried).order_by(logins.c.tried.desc()).offset(_MAX_LOGINS).limit(1)
        self._purge(logins, logins.c.tried < newest.scalar_subquery())

    def _purge(self, table: sa.Table, over: Any) -> None:
        """A part at a time: nobody waits for a million rows."""
        key = next(iter(table.primary_key))
        while True:
            with self.engine.begin() as connection:
                rows = sa.select(key).where(over).limit(_PURGE_BATCH).scalar_subquery()
                if connection.execute(table.delete().where(key.in_(rows))).rowcount < _PURGE_BATCH:
                    return
