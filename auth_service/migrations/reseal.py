"""Credentials that the foundation sealed with the master key itself get a data key of their own."""

from __future__ import annotations

import sqlalchemy as sa
import structlog

from gstack.kernel.sealing import Keyring, SealError, key_id_of

log = structlog.get_logger()

# As they are at this revision, whatever the store's tables become.
_credentials = sa.table(
    "credentials",
    *(sa.column(name, sa.String) for name in ("id", "account_id", "key_id")),
    sa.column("keys", sa.LargeBinary),
)
_tokens = sa.table("tokens", sa.column("credential_id", sa.String))


def reseal_credentials(connection: sa.Connection, keyring: Keyring) -> None:
    """Seal every credential without a key id anew, in the connection's transaction.

    What no key of the ring opens is deleted with its tokens: its user signs in again.
    """
    lost = 0
    for row in connection.execute(_credentials.select().where(_credentials.c.key_id == "")).all():
        try:
            plain = keyring.open_unnamed(row.keys, f"credentials/{row.id}")
        except SealError:
            lost += 1
            connection.execute(_tokens.delete().where(_tokens.c.credential_id == row.id))
            connection.execute(_credentials.delete().where(_credentials.c.id == row.id))
            continue
        sealed = keyring.seal_record(plain, f"credentials/{row.id}/{row.account_id}")
        values = {"keys": sealed, "key_id": key_id_of(sealed)}
        connection.execute(_credentials.update().where(_credentials.c.id == row.id).values(values))
    if lost:
        log.warning("sealed_rows_lost", table="credentials", rows=lost)
