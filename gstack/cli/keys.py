"""`gstack keys`: rotate the keys that encrypt what is stored (master) and what services tell each other (sealing), and
those by which services without certificates know each other (services)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gstack.kernel import sealing
from gstack.kernel.sealing import Key, KeyFileError, Keyring
from gstack.kernel.settings import Settings

if TYPE_CHECKING:
    from auth_service.store.auth_store import AuthStore

# A staged key must have reached every replica: the file is looked at each 5 seconds, and may first have to be copied.
_STAGED_SECONDS = 120.0
# A replica that has not seen the promotion yet may still write a record with the old key.
_PROMOTED_SECONDS = 10.0
# Sealed values live in operations that are not done, and operations end within a day.
_SEALED_SECONDS = 24 * 3600.0


_ring = click.option(
    "--ring",
    type=click.Choice(["master", "sealing", "services"]),
    default="master",
    show_default=True,
    help="Which keys.",
)
_now = click.option("--now", is_flag=True, help="Do not wait for other machines and unfinished operations.")


@click.group("keys")
def group() -> None:
    """Make and rotate the keys that encrypt.

    To rotate: stage, two minutes later promote, then rewrap, then retire. Services go on meanwhile.
    """


@group.command()
@_ring
def init(ring: str) -> None:
    """Make a key file with one new key."""
    path = _path(_settings(), ring)
    if path.exists():
        raise click.ClickException(f"{path} exists already; to change the key: `gstack keys stage --ring {ring}`")
    _written(lambda: sealing.create_key(path), path)
    click.echo(f"{_read(path)[0].id} is the primary key of {path}. Keep a copy where this machine's backups are not.")


@group.command()
@_ring
def stage(ring: str) -> None:
    """Add the next key, which opens but does not seal yet."""
    path = _path(_settings(), ring)
    known = _read(path)
    if any(key.state == "staged" for key in known):
        raise click.ClickException(f"a key is staged already: `gstack keys promote --ring {ring}` makes it primary")
    added = sealing.new_key("staged")
    _written(lambda: sealing.replace_ring(path, [*known, added]), path)
    click.echo(
        f"{added.id} is staged. When {path} is the same on all machines, and not before {_STAGED_SECONDS:.0f} seconds: "
        f"`gstack keys promote --ring {ring}`."
    )


@group.command()
@_ring
@_now
def promote(ring: str, now: bool) -> None:
    """Make the staged key primary, and the primary key secondary."""
    path = _path(_settings(), ring)
    known = _read(path)
    if not any(key.state == "staged" for key in known):
        raise click.ClickException(f"no key is staged: `gstack keys stage --ring {ring}`")
    age = _age(path)
    if age < _STAGED_SECONDS and not now:
        raise click.ClickException(
            f"{path} was changed {age:.0f} seconds ago, and every replica must have read the staged key first; "
            f"try again in {_STAGED_SECONDS - age:.0f} seconds, or add --now if all have"
        )
    changed = [replace(key, state="primary" if key.state == "staged" else "secondary") for key in known]
    _written(lambda: sealing.replace_ring(path, changed), path)
    after = {
        "master": "Now `gstack keys rewrap`.",
        "sealing": "A day later `gstack keys retire --ring sealing`.",
        "services": f"When {path} is the same on all machines, `gstack keys retire --ring services`.",
    }
    click.echo(f"{next(key.id for key in changed if key.state == 'primary')} is primary. {after[ring]}")


@group.command()
@_ring
@_now
def retire(ring: str, now: bool) -> None:
    """Remove the secondary keys, which nothing may need any more."""
    settings = _settings()
    path = _path(settings, ring)
    known = _read(path)
    old = [key.id for key in known if key.state == "secondary"]
    if not old:
        click.echo("No secondary key.")
        return
    age = _age(path)
    if ring == "sealing" and age < _SEALED_SECONDS and not now:
        raise click.ClickException(
            f"{path} was changed {_hours(age)} ago, and operations of up to a day may hold what the old key sealed; "
            f"try again in {_hours(_SEALED_SECONDS - age)}, or add --now if no operation is running"
        )
    if ring == "services" and age < _STAGED_SECONDS and not now:
        raise click.ClickException(
            f"{path} was changed {age:.0f} seconds ago, and every replica must show the new key first; try again in "
            f"{_STAGED_SECONDS - age:.0f} seconds, or add --now if all do"
        )
    if ring == "master":
        if not now:
            time.sleep(max(_PROMOTED_SECONDS - age, 0.0))
        use = _use(settings)
        if needed := sum(use.get(one, 0) for one in old):
            raise click.ClickException(f"{needed} records still need a secondary key: `gstack keys rewrap`")
    _written(lambda: sealing.replace_ring(path, [key for key in known if key.state != "secondary"]), path)
    click.echo(f"Removed {', '.join(old)}. What backups of before hold needs it still.")


@group.command()
@_ring
def rewrap(ring: str) -> None:
    """Encrypt the key of every stored record with the primary key."""
    if ring != "master":
        raise click.ClickException(f"nothing is stored under the {ring} keys for long; there is nothing to rewrap")
    settings = _settings()
    done = left = 0
    with _store(settings) as store:
        while store and (count := store.sealed.rewrap()):
            done += count
        primary = next(key.id for key in _read(_path(settings, ring)) if key.state == "primary")
        if store:
            left = sum(count for one, count in store.sealed.use().items() if one != primary)
    click.echo(f"{done} records rewrapped with {primary}, {left} left.")
    if left:
        raise click.ClickException(
            "services changed records meanwhile: run it again. What stays does not open: its key is lost (`gstack keys "
            "forget`), or it was damaged"
        )


@group.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(yes: bool) -> None:
    """Delete what master keys sealed that are lost; its users sign in again, and their service accounts go on then."""
    settings = _settings()
    path = _path(settings, "master")
    known = {key.id for key in _read(path)}
    lost = {one: count for one, count in _use(settings).items() if one not in known}
    if not lost:
        click.echo(f"Every record opens with a key of {path}.")
        return
    if not yes:
        click.confirm(f"Delete {sum(lost.values())} records of {', '.join(lost)}, which is not in {path}?", abort=True)
    with _store(settings) as store:
        click.echo(f"{store.sealed.forget(lost) if store else 0} records deleted.")


@group.command()
@_ring
def status(ring: str) -> None:
    """Show the keys, and how many records need each."""
    settings = _settings()
    path = _path(settings, ring)
    known = {key.id: str(key.state) for key in _read(path)}
    use = _use(settings) if ring == "master" else {}
    known |= {one: "missing: these records cannot be read" for one in use if one not in known}
    click.echo(str(path))
    for one, state in known.items():
        click.echo(f"{one}  {state}" + (f"  {use.get(one, 0)} records" if ring == "master" else ""))


def _settings() -> Settings:
    from gstack.cli import _settings as read

    return read()


def _path(settings: Settings, ring: str) -> Path:
    if ring == "services":
        return settings.services_key_path()
    return settings.master_key_path() if ring == "master" else settings.sealing_key_path()


@contextmanager
def _store(settings: Settings) -> Iterator[AuthStore | None]:
    """The auth service's database; None while there is none. Ends the program with a text when it cannot be used."""
    import sqlalchemy as sa

    from auth_service.store.auth_store import AuthStore

    url = sa.make_url(settings.auth_database())
    # A database that this command made might belong to another user than the service's.
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        yield None
        return
    try:
        store = AuthStore(settings.auth_database(), Keyring(settings.master_key_path()))
        try:
            yield store
        finally:
            store.engine.dispose()
    except (KeyFileError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except sa.exc.OperationalError as error:
        raise click.ClickException(f"database of the auth service: {error.orig}") from None


def _use(settings: Settings) -> dict[str, int]:
    """Id of a master key -> records under it."""
    with _store(settings) as store:
        return store.sealed.use() if store else {}


def _read(path: Path) -> list[Key]:
    try:
        return sealing.read_ring(path)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None


def _written(write: Callable[[], None], path: Path) -> None:
    try:
        write()
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _age(path: Path) -> float:
    """Seconds since the file was changed."""
    return max(time.time() - path.stat().st_mtime, 0.0)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"
