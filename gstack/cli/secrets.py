"""`gstack secrets`: everything secret that a deployment needs, made once, in one folder for each service."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

import click

from gstack.cli.certs import SERVICES, issue_all, write
from gstack.kernel import sealing

# What each has to know of the database, by the name of the setting's file.
_URLS = {"auth": "gstack_auth_database_url", "translator": "gstack_database_url"}


@click.command("secrets")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--database-host",
    default="postgres",
    show_default=True,
    help="Host of the PostgreSQL in which databases.sql makes a database and a user for each service.",
)
@click.option(
    "--database-url",
    help="Address of the translators' database, if it is another one: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
)
@click.option("--auth-database-url", help="Address of auth's database. Its user is not that of the translators.")
@click.option("--owner", type=int, help="Uid (and gid) that the services' files are given to: 10001 for containers.")
@click.option(
    "--kubernetes", metavar="NAME", help="Print Secrets NAME-auth, NAME-translator… for `kubectl apply -f -`."
)
def command(
    folder: Path,
    database_host: str,
    database_url: str | None,
    auth_database_url: str | None,
    owner: int | None,
    kubernetes: str | None,
) -> None:
    """Make keys, certificates and the databases' passwords for a deployment in FOLDER, which keeps what it has.

    Run it again to renew certificates that end within 30 days, and to bring changed keys from auth's folder to the
    others. Keep a copy of FOLDER: without auth/master.key nothing that is stored can be read.
    """
    _make(folder, database_host, _told(folder, {"auth": auth_database_url, "translator": database_url}))
    if owner is not None:
        _give(folder, owner)
    if kubernetes is not None:
        click.echo(json.dumps(_manifests(folder, kubernetes), indent=2))
    else:
        click.echo(f"{folder} holds the secrets of auth, translator, gateway and postgres. Keep a copy of it.")


def _told(folder: Path, urls: dict[str, str | None]) -> dict[str, str]:
    """The addresses that were given; ends the program when they would let a service read the other's tables."""
    told = {service: url for service, url in urls.items() if url}
    # Slow to import, and seldom needed.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    users = {}
    for service, file in _URLS.items():
        path = folder / service / file
        text = told.get(service) or (path.read_text() if path.exists() else "")
        if told and not text:
            raise click.UsageError("give both --database-url and --auth-database-url, each with a user of its own")
        try:
            found = make_url(text) if text else None
        except ArgumentError:
            raise click.UsageError("an address is postgresql+psycopg://USER:PASSWORD@HOST/DATABASE") from None
        if found is not None and found.get_backend_name() == "postgresql":
            users[service] = (found.host, found.port, found.username)
    if len(users) != len(set(users.values())):
        raise click.UsageError("auth and translators need a database user each: one for both reads all that is stored")
    return told


def _make(folder: Path, database_host: str, urls: dict[str, str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    issue_all(folder)
    auth, translator, gateway, postgres = (folder / name for name in ("auth", "translator", "gateway", "postgres"))
    for name in ("master", "sealing", "services"):
        sealing.create_key(auth / f"{name}.key")
    write(translator / "sealing.key", (auth / "sealing.key").read_bytes(), 0o600)
    for other in (translator, gateway):
        write(other / "services.key", (auth / "services.key").read_bytes(), 0o600)
    # The database's image reads these as a user of its own; the folder around them is closed.
    postgres.mkdir(mode=0o755, exist_ok=True)
    for name in ("password", *_URLS):
        if not (postgres / name).exists():
            write(postgres / name, secrets.token_urlsafe(24).encode(), 0o644)
    for service, file in _URLS.items():
        path, user = folder / service / file, f"gstack_{service}"
        own = f"postgresql+psycopg://{user}:{(postgres / service).read_text()}@{database_host}/{user}"
        if service in urls or not path.exists():
            write(path, (urls.get(service) or own).encode(), 0o600)


def _give(folder: Path, owner: int) -> None:
    for service in SERVICES:
        for path in (folder / service, *(folder / service).iterdir()):
            os.chown(path, owner, owner)


def _manifests(folder: Path, name: str) -> dict[str, object]:
    secrets = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-{part}"},
            "type": "Opaque",
            "data": {
                path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted((folder / part).iterdir())
            },
        }
        for part in (*SERVICES, "postgres")
    ]
    return {"apiVersion": "v1", "kind": "List", "items": secrets}
