"""Service accounts and the hosts of their addresses."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from auth_service.store.base import Part, digest
from auth_service.store.tables import service_account_hosts, service_account_keys, service_accounts, tokens


class ServiceAccounts(Part):
    def add(self, **values: Any) -> bool:
        """False when the owner has one of this name in the project."""
        try:
            self._change(service_accounts.insert().values(**values))
        except IntegrityError:
            return False
        return True

    def of(self, owner: str, project_key: str | None = None) -> list[sa.RowMapping]:
        """The owner's, by e-mail address; of one project or of all."""
        query = service_accounts.select().where(service_accounts.c.owner == owner)
        if project_key is not None:
            query = query.where(service_accounts.c.project_key == project_key)
        return self._all(query.order_by(service_accounts.c.email))

    def host(self, owner: str, project_key: str, name: str) -> str:
        """What stands before `.iam.gserviceaccount.com` in addresses of this owner's accounts in this project.

        It is the project's name (at most 100 characters), with a suffix if that is another's.
        """
        suffix = digest(f"{owner} {project_key}").hex()
        row = {"owner": owner, "project_key": project_key}
        for host in (name, f"{name}-{suffix[:8]}", f"{name}-{suffix}"):
            insert = self._insert(service_account_hosts).values(host=host, **row).on_conflict_do_nothing()
            query = service_account_hosts.select().where(service_account_hosts.c.host == host)
            with self._engine.begin() as connection:
                connection.execute(insert)
                found = connection.execute(query).mappings().one()
            if (found["owner"], found["project_key"]) == (owner, project_key):
                break
        return host

    def change(self, identity: str, **values: Any) -> None:
        statements: list[sa.UpdateBase] = [
            service_accounts.update().where(service_accounts.c.id == identity).values(**values)
        ]
        if values.get("disabled"):
            statements.append(_tokens_of(identity))
        self._change(*statements)

    def delete(self, identity: str) -> None:
        self._change(
            _tokens_of(identity),
            service_account_keys.delete().where(service_account_keys.c.service_account_id == identity),
            service_accounts.delete().where(service_accounts.c.id == identity),
        )


def _tokens_of(identity: str) -> sa.Delete:
    keys = sa.select(service_account_keys.c.id).where(service_account_keys.c.service_account_id == identity)
    return tokens.delete().where(sa.or_(tokens.c.service_account == identity, tokens.c.service_account_key.in_(keys)))
