"""`gstack db`: the databases' schemas, for whoever brings them up to date before new replicas start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True)
class _Database:
    service: str
    url: str
    migrations: str
    open: Callable[[], sa.Engine]


@click.group("db")
def group() -> None:
    """Bring the schemas of the databases up to date, or compare them with this release.

    Services do it at their start by themselves.
    """


_service = click.option("--service", type=click.Choice(["auth", "translator"]), help="One of the two databases.")


@group.command()
@_service
@click.option("--wait", type=float, default=0.0, metavar="SECONDS", help="Wait so long for a database to answer.")
def upgrade(service: str | None, wait: float) -> None:
    """Bring the schemas up to date. Safe to repeat, and to run while services of the release before work."""
    import sqlalchemy as sa

    from gstack.kernel.database import schema_state
    from gstack.kernel.sealing import KeyFileError

    until = time.monotonic() + wait
    for database in _databases(service):
        while True:
            try:
                engine = database.open()
                break
            except sa.exc.OperationalError as error:
                if time.monotonic() > until:
                    raise click.ClickException(f"{database.service}: {_text(error)}") from None
                time.sleep(1.0)
            except (KeyFileError, OSError, sa.exc.SQLAlchemyError) as error:
                raise click.ClickException(f"{database.service}: {_text(error)}") from None
        click.echo(f"{database.service}: schema {schema_state(engine, database.migrations)[0]}")
        engine.dispose()


@group.command()
@_service
def check(service: str | None) -> None:
    """Compare the schemas with this release; status 1 when one is older."""
    old = False
    for database in _databases(service):
        current, head = _state(database)
        if current == head:
            said = f"schema {current}, as this release"
        elif current is None or current < head:
            said, old = f"schema {current or 'none'}, this release has {head}: `gstack db upgrade`", True
        else:
            said = f"schema {current}, newer than this release ({head}), which works on it"
        click.echo(f"{database.service}: {said}")
    if old:
        raise SystemExit(1)


def _state(database: _Database) -> tuple[str | None, str]:
    import sqlalchemy as sa

    from gstack.kernel.database import schema_state

    url = sa.make_url(database.url)
    # Connecting would make the file, for the wrong user perhaps; one in memory has the same schema: none.
    missing = url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()
    engine = sa.create_engine("sqlite://" if missing else url)
    try:
        return schema_state(engine, database.migrations)
    except sa.exc.SQLAlchemyError as error:
        raise click.ClickException(f"{database.service}: {_text(error)}") from None
    finally:
        engine.dispose()


def _databases(service: str | None) -> list[_Database]:
    """Of that service, or of all."""
    from gstack.cli import _settings as read
    from gstack.kernel.database import open_database
    from gstack.kernel.sealing import Keyring

    settings = read()
    auth, translator = "auth_service.migrations", "translator_service.kept.migrations"
    urls = settings.auth_database(), settings.translator_database()

    def open_auth() -> sa.Engine:
        return open_database(urls[0], auth, keyring=Keyring(settings.master_key_path()))

    both = [
        _Database("auth", urls[0], auth, open_auth),
        _Database("translator", urls[1], translator, lambda: open_database(urls[1], translator)),
    ]
    return [one for one in both if service in (None, one.service)]


def _text(error: Exception) -> str:
    """Without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error).strip()
