"""`gstack health`: whether the service of this container or host is well, for those who can only run a command.

`gstack await`: an upgrade that starts all at once comes to the services one after the other.
"""

from __future__ import annotations

import time

import click

from gstack.kernel.sealing import KeyFileError
from gstack.kernel.settings import Settings, local_address

_SECONDS = 5.0
_PAUSE_SECONDS = 2.0


def is_well(service: str, settings: Settings, simulator_listen: str) -> bool:
    """gRPC health of translator and auth; gateway and simulator answer HTTP."""
    # Not with the command's other parts: a gateway's metrics must not be imported before it says where they are kept.
    from gstack.kernel import rpc
    from gstack.kernel.tls import Tls

    if service == "gateway":
        return _answers(
            f"{'https' if settings.gateway_tls_cert else 'http'}://{local_address(settings.gateway_listen)}"
        )
    if service == "simulator":
        return _answers(f"http://{local_address(simulator_listen)}")
    listen = settings.translator_listen if service == "translator" else settings.auth_listen
    return rpc.healthy(local_address(listen), service, Tls.of(settings), _SECONDS)


def _answers(address: str) -> bool:
    import requests

    session = requests.Session()
    session.trust_env = False
    try:
        # Our own process on this machine: whose certificate it is does not matter.
        return session.get(f"{address}/healthz", timeout=_SECONDS, verify=False).ok
    except requests.RequestException:
        return False


@click.command("health")
@click.argument("service", type=click.Choice(["gateway", "translator", "auth", "simulator"]))
@click.option("--listen", default="127.0.0.1:5003", show_default=True, help="Address of a simulator.")
def command(service: str, listen: str) -> None:
    """Ask a service of this machine how it is; status 1 when it is not well."""
    from gstack.cli import _settings

    try:
        well = is_well(service, _settings(), listen)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{service}: {'well' if well else 'not well'}")
    raise SystemExit(0 if well else 1)


@click.command("await")
@click.argument("services", nargs=-1, required=True, type=click.Choice(["translator", "auth"]))
@click.option("--seconds", default=900.0, show_default=True, help="How long, before it goes on without.")
def await_command(services: tuple[str, ...], seconds: float) -> None:
    """Wait until all replicas of SERVICES that answer are of this release, and one does.

    Ends well in any case: releases that follow each other work together, and an upgrade that does not end must not keep
    others from starting.
    """
    from gstack.cli import _settings
    from gstack.kernel import rpc, trust

    settings, until = _settings(), time.monotonic() + seconds
    try:
        known = trust.of(settings)
    except (KeyFileError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for service in services:
        target = settings.translator_target if service == "translator" else settings.auth_target
        said = ""
        while True:
            same, other = rpc.releases(target, service, known)
            if (text := f"{service}: {same} of this release, {other} of another") != said:
                click.echo(text)
                said = text
            if same and not other:
                break
            if time.monotonic() > until:
                click.echo(f"{service}: going on without")
                break
            time.sleep(_PAUSE_SECONDS)
