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

_DATABASE = "gstack"


@click.command("secrets")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--database-host", default="postgres", show_default=True, help="Host of the PostgreSQL in its address.")
@click.option(
    "--database-url",
    envvar="GSTACK_DATABASE_URL",
    help="Address of a PostgreSQL that exists: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
)
@click.option("--owner", type=int, help="Uid (and gid) that the services' files are given to: 10001 for containers.")
@click.option(
    "--kubernetes", metavar="NAME", help="Print Secrets NAME-auth, NAME-translator… for `kubectl apply -f -`."
)
def command(
    folder: Path, database_host: str, database_url: str | None, owner: int | None, kubernetes: str | None
) -> None:
    """Make keys, certificates and the database's password for a deployment in FOLDER, which keeps what it has.

    Run it again to renew certificates that end within 30 days, and to bring a changed sealing key to translators.
    Keep a copy of FOLDER: without auth/master.key nothing that is stored can be read.
    """
    _make(folder, database_host, database_url)
    if owner is not None:
        _give(folder, owner)
    if kubernetes is not None:
        click.echo(json.dumps(_manifests(folder, kubernetes), indent=2))
    else:
        click.echo(f"{folder} holds the secrets of auth, translator, gateway and postgres. Keep a copy of it.")


def _make(folder: Path, database_host: str, database_url: str | None) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    issue_all(folder)
    auth, translator, postgres = (folder / name for name in ("auth", "translator", "postgres"))
    sealing.create_key(auth / "master.key")
    sealing.create_key(auth / "sealing.key")
    write(translator / "sealing.key", (auth / "sealing.key").read_bytes(), 0o600)
    # The database's image reads it as a user of its own; the folder around it is closed.
    postgres.mkdir(mode=0o755, exist_ok=True)
    password = postgres / "password"
    if not password.exists():
        write(password, secrets.token_urlsafe(24).encode(), 0o644)
    own = f"postgresql+psycopg://{_DATABASE}:{password.read_text()}@{database_host}/{_DATABASE}"
    for path in (auth / "gstack_auth_database_url", translator / "gstack_database_url"):
        if database_url or not path.exists():
            write(path, (database_url or own).encode(), 0o600)


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
