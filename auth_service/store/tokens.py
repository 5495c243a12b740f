"""Codes, access tokens and refresh tokens; those of one login are a family."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from auth_service.store.base import Part, digest
from auth_service.store.credentials import OWNER_COLUMNS, Credential, ids_of, owner_of
from auth_service.store.service_account_keys import KEY_COLUMNS, ServiceKey, key_of
from auth_service.store.tables import credentials, service_account_keys, service_accounts, tokens

# Of a user; those that were not used for longest go. As many as Google keeps refresh tokens of a user.
_MAX_GRANTS = 100
# Defaults of a row of `tokens`, so that rows of all kinds go into one statement.
_TOKEN: dict[str, Any] = {
    "redirect_uri": "",
    "challenge": "",
    "used": None,
    "nonce": "",
    "remote_address": "",
    "service_account_key": None,
    "parent": None,
    "service_account": None,
}


class Tokens(Part):
    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """rows: the columns of `tokens`, with the token itself as `token` instead of `hash`."""
        now = time.time()
        values = [{**_TOKEN, "created": now, **row, "hash": digest(row["token"])} for row in rows]
        for row in values:
            del row["token"]
        with self._engine.begin() as connection:
            connection.execute(tokens.insert(), values)

    def find(self, token: str, kind: str) -> sa.RowMapping | None:
        """A token that is not expired; codes and refresh tokens also when used, so that their reuse can be told."""
        query = tokens.select().where(
            tokens.c.hash == digest(token), tokens.c.kind == kind, tokens.c.expires > time.time()
        )
        return self._first(query)

    def bearer(self, token: str) -> tuple[sa.RowMapping, Credential, ServiceKey | None] | None:
        """An access token with its owner and, if it is a service account's, that account's key: one query."""
        query = (
            sa.select(
                tokens.c.scopes,
                tokens.c.expires,
                tokens.c.client_id,
                tokens.c.created,
                tokens.c.hash,
                tokens.c.family,
            )
            .add_columns(*OWNER_COLUMNS)
            .add_columns(*KEY_COLUMNS)
            .join(credentials, credentials.c.id == tokens.c.credential_id)
            .outerjoin(service_account_keys, service_account_keys.c.id == tokens.c.service_account_key)
            .outerjoin(
                service_accounts,
                service_accounts.c.id
                == sa.func.coalesce(service_account_keys.c.service_account_id, tokens.c.service_account),
            )
            .where(
                tokens.c.hash == digest(token),
                tokens.c.kind == "access",
                tokens.c.expires > time.time(),
                # A token whose key or account is gone has lost its limits with it.
                sa.or_(
                    sa.and_(tokens.c.service_account_key.is_(None), tokens.c.service_account.is_(None)),
                    service_accounts.c.id.is_not(None),
                ),
            )
        )
        row = self._first(query)
        if row is None:
            return None
        owner = owner_of(self._keyring, row)
        return row, owner, key_of(row, owner) if row["account_id"] else None

    def use(self, token: str, again_within: float = 0.0) -> bool:
        """Mark a code or a refresh token as used; False when it was used before, by whichever replica.

        again_within: seconds after its first use in which another one is no theft but a retry.
        """
        now = time.time()
        fresh = tokens.update().where(tokens.c.hash == digest(token), tokens.c.used.is_(None)).values(used=now)
        with self._engine.begin() as connection:
            if connection.execute(fresh).rowcount == 1:
                return True
            used = connection.execute(sa.select(tokens.c.used).where(tokens.c.hash == digest(token))).scalar()
        return used is not None and now - used < again_within

    def prolong(self, token: str, expires: float) -> None:
        """A refresh token that is not rotated lives on while it is used."""
        self._change(tokens.update().where(tokens.c.hash == digest(token)).values(expires=expires, used=time.time()))

    def revoke(self, token: str) -> str | None:
        """Forget the token and all that came from the same login. Returns the id of that family.

        Of an exchanged token only itself and what it was exchanged for: who was given less cannot end the login.
        """
        query = sa.select(tokens.c.family, tokens.c.parent).where(tokens.c.hash == digest(token))
        with self._engine.begin() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            if row.parent is None:
                ended: Any = tokens.c.family == row.family
            else:
                tree = sa.select(tokens.c.hash).where(tokens.c.hash == digest(token)).cte("tree", recursive=True)
                tree = tree.union(sa.select(tokens.c.hash).join(tree, tokens.c.parent == tree.c.hash))
                ended = tokens.c.hash.in_(sa.select(tree.c.hash))
            connection.execute(tokens.delete().where(ended))
        return str(row.family)

    def revoke_family(self, family: str) -> None:
        self._change(tokens.delete().where(tokens.c.family == family))

    def grants(self, owner: Credential) -> list[sa.RowMapping]:
        """Logins of programs that can still go on: family, client_id, scopes, created, last_used, remote_address."""
        query = (
            sa.select(
                tokens.c.family,
                tokens.c.client_id,
                sa.func.max(tokens.c.scopes).label("scopes"),
                sa.func.min(tokens.c.created).label("created"),
                sa.func.max(sa.func.coalesce(tokens.c.used, tokens.c.created)).label("last_used"),
                sa.func.min(tokens.c.remote_address).label("remote_address"),
            )
            .where(
                tokens.c.credential_id.in_(ids_of(owner)), tokens.c.kind == "refresh", tokens.c.expires > time.time()
            )
            .group_by(tokens.c.family, tokens.c.client_id)
            .order_by(sa.desc("last_used"))
        )
        return self._all(query)

    def end_old_grants(self, owner: Credential) -> None:
        """So many logins of programs live on; those that were not used for longest end."""
        for grant in self.grants(owner)[_MAX_GRANTS:]:
            self.revoke_family(grant["family"])

    def owns_family(self, owner: Credential, family: str) -> bool:
        return any(grant["family"] == family for grant in self.grants(owner))
