"""Browsers in which somebody is signed in."""

from __future__ import annotations

import time

import sqlalchemy as sa

from auth_service.store.base import Part, digest
from auth_service.store.credentials import Credential, ids_of, opened
from auth_service.store.tables import credentials, sessions

# Of one user; the oldest go.
_MAX_SESSIONS = 50


class Sessions(Part):
    def add(self, session: str, credential: Credential, seconds: float) -> None:
        row = {"hash": digest(session), "credential_id": credential.id, "expires": time.time() + seconds}
        own = sa.select(sessions.c.hash).where(sessions.c.credential_id.in_(ids_of(credential)))
        old = own.order_by(sessions.c.expires.desc()).offset(_MAX_SESSIONS)
        self._change(sessions.insert().values(row), sessions.delete().where(sessions.c.hash.in_(old)))

    def find(self, session: str) -> Credential | None:
        query = (
            sa.select(*credentials.c)
            .join(sessions, sessions.c.credential_id == credentials.c.id)
            .where(sessions.c.hash == digest(session), sessions.c.expires > time.time())
        )
        row = self._first(query)
        return opened(self._keyring, row) if row else None

    def end(self, session: str) -> None:
        self._change(sessions.delete().where(sessions.c.hash == digest(session)))

    def end_all(self, owner: Credential) -> None:
        self._change(sessions.delete().where(sessions.c.credential_id.in_(ids_of(owner))))
