"""The `gstack` command. Services are imported by the command that starts them, so that each stays quick to start."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from gstack import __version__
from gstack.cli import certs, db, health, keys, secrets
from gstack.kernel.sealing import KeyFileError
from gstack.kernel.settings import Settings

TOOLS = ("gcutil", "gcloud", "python", "libcloud", "terraform", "ansible", "packer", "go", "node", "java")
# What a service has to finish its work in, when the one that started it was killed.
_GRACE_SECONDS = 20.0


def _settings(**overrides: Any) -> Settings:
    """Settings from environment and file, with the command line on top. Ends the program with a text when invalid."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = [f"  GSTACK_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()]
        raise click.ClickException("invalid settings:\n" + "\n".join(lines)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _serve(service: str, main: Callable[[Settings], None], settings: Settings) -> None:
    from gstack.kernel import logs, process

    os.umask(0o077)
    process.share_arenas()
    process.end_with_parent(_GRACE_SECONDS)
    logs.configure(service, settings.log_level, settings.log_format)
    try:
        main(settings)
    except (KeyFileError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gstack", message="%(prog)s %(version)s")
def main() -> None:
    """A Google Compute Engine API in front of Apache CloudStack."""


main.add_command(keys.group)
main.add_command(db.group)
main.add_command(certs.command)
main.add_command(secrets.command)
main.add_command(health.command)
main.add_command(health.await_command)


@main.command()
@click.option("--demo", is_flag=True, help="Simulate a CloudStack with a ready account.")
@click.option("--cloudstack", metavar="URL", help="API address of a CloudStack: https://HOST/client/api")
@click.option("--port", default=5000, show_default=True, help="Port of the endpoint.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the endpoint.")
@click.option("--tls", is_flag=True, help="Serve HTTPS with a certificate made by a CA of our own.")
def up(demo: bool, cloudstack: str | None, port: int, host: str, tls: bool) -> None:
    """Start all services on this machine."""
    from gstack.cli.up import run

    sys.exit(run(_settings(cloudstack_url=cloudstack), demo=demo, host=host, port=port, tls=tls))


def _share_metrics() -> None:
    """A folder for the numbers of the gateway's processes. The metrics library looks for it when it is imported."""
    folder, master = tempfile.mkdtemp(prefix="gstack-metrics-"), os.getpid()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    # Workers end too, and must leave it.
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == master else None)


@main.command()
def gateway() -> None:
    """Start the REST gateway."""
    settings = _settings()
    if settings.gateway_metrics_listen:
        _share_metrics()
    from gateway.server import main as start

    _serve("gateway", start, settings)


@main.command()
def translator() -> None:
    """Start a translator."""
    from translator_service.service import main as start

    _serve("translator", start, _settings())


@main.command()
def auth() -> None:
    """Start the auth service."""
    from auth_service.service import main as start

    _serve("auth", start, _settings())


@main.command()
@click.option(
    "--cloud", "cloud_file", type=click.Path(exists=True, dir_okay=False), help="Cloud file; the demo without."
)
@click.option("--listen", default="127.0.0.1:5003", show_default=True, help="Address of the API.")
def simulator(cloud_file: str | None, listen: str) -> None:
    """Start a simulated CloudStack."""
    from simulator.server import main as start

    _serve("simulator", lambda _: start(listen, cloud_file), _settings())


@main.command()
@click.argument("tool", type=click.Choice(TOOLS))
@click.option("--endpoint", default="http://127.0.0.1:5000", show_default=True, help="Address of the gateway.")
@click.option("--project", default="demo", show_default=True, help="Project.")
@click.option("--api-key", envvar="GSTACK_CLIENT_API_KEY", help="API key; asked for when absent.")
@click.option("--secret-key", envvar="GSTACK_CLIENT_SECRET_KEY", help="Secret key; asked for when absent.")
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Where to write; the tool's own place."
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CA (PEM) of an https endpoint; that of `gstack up --tls` when absent. Not for public ones.",
)
def client(
    tool: str,
    endpoint: str,
    project: str,
    api_key: str | None,
    secret_key: str | None,
    directory: Path | None,
    ca: Path | None,
) -> None:
    """Write the configuration files of a client and say how to use them."""
    from gstack.cli.client import write

    api_key = api_key or click.prompt("API key", hide_input=True)
    secret_key = secret_key or click.prompt("Secret key", hide_input=True)
    state = _settings().state_dir
    known = [state / "ca.pem", state / "demo" / "ca.pem"]
    click.echo(write(tool, endpoint.rstrip("/"), project, api_key, secret_key, directory, ca, known))


@main.command()
@click.option("--cloudstack", metavar="URL", help="API address of the CloudStack; the configured one when absent.")
@click.option("--endpoint", default=None, help="Address of a gateway to check too.")
@click.option("--api-key", envvar="GSTACK_CLIENT_API_KEY", help="API key; asked for when absent.")
@click.option("--secret-key", envvar="GSTACK_CLIENT_SECRET_KEY", help="Secret key; asked for when absent.")
def doctor(cloudstack: str | None, endpoint: str | None, api_key: str | None, secret_key: str | None) -> None:
    """Check a CloudStack and this set-up, and say what to mend."""
    from gstack.cli.doctor import check
    from gstack.kernel import logs

    settings = _settings(cloudstack_url=cloudstack)
    # What goes wrong is in the lines of the checks, for people.
    logs.configure("doctor", "error", "text")
    if not settings.cloudstack_url:
        raise click.ClickException("no CloudStack: give --cloudstack URL or set GSTACK_CLOUDSTACK_URL")
    api_key = api_key or click.prompt("API key", hide_input=True)
    secret_key = secret_key or click.prompt("Secret key", hide_input=True)
    sys.exit(0 if check(settings, api_key, secret_key, endpoint) else 1)


if __name__ == "__main__":
    main()
