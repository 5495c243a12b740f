"""`gstack up`: all services on this machine, as processes of this one; ends them all on Ctrl-C or when one dies."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import click
from cryptography import x509

from gstack.cli.certs import Authority
from gstack.kernel.sealing import create_key
from gstack.kernel.settings import Settings

_START_SECONDS = 60.0
_STOP_SECONDS = 25.0
_GOOGLE = ("www.googleapis.com", "compute.googleapis.com", "accounts.google.com", "oauth2.googleapis.com")


def run(settings: Settings, *, demo: bool, host: str, port: int, tls: bool) -> int:
    """Start, wait until ready, serve until a signal. Returns the exit status."""
    if demo == bool(settings.cloudstack_url):
        raise click.UsageError("give either --demo or --cloudstack URL")
    if demo:
        settings = settings.model_copy(update={"state_dir": settings.state_file("demo")})
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        why = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise click.ClickException(f"cannot listen on {host}:{port}: {why}; try --port") from None
    for path in (settings.sealing_key_path(), settings.master_key_path()):
        create_key(path)
    if demo:
        # The simulated cloud begins empty; what was remembered about its machines would be wrong.
        for path in (*settings.state_dir.glob("translator.sqlite*"), *settings.state_dir.glob("workflows.sqlite*")):
            path.unlink()
    scheme = "https" if tls else "http"
    ports = _free_ports(3)
    environment = {
        **os.environ,
        "GSTACK_STATE_DIR": str(settings.state_dir),
        "GSTACK_GATEWAY_LISTEN": f"{host}:{port}",
        "GSTACK_TRANSLATOR_LISTEN": f"127.0.0.1:{ports[0]}",
        "GSTACK_TRANSLATOR_TARGET": f"127.0.0.1:{ports[0]}",
        "GSTACK_AUTH_LISTEN": f"127.0.0.1:{ports[1]}",
        "GSTACK_AUTH_TARGET": f"127.0.0.1:{ports[1]}",
        "GSTACK_EXECUTOR_ID": settings.executor_id or "up",
        "GSTACK_CLOUDSTACK_URL": f"http://127.0.0.1:{ports[2]}/client/api" if demo else settings.cloudstack_url,
        # Nobody balances here: Ctrl-C means now.
        "GSTACK_GATEWAY_DRAIN_SECONDS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if tls:
        environment |= _certificate(settings, host)
    names = ["auth", "translator", "gateway"]
    commands = {name: [sys.executable, "-m", "gstack.cli", name] for name in names}
    if demo:
        names = ["simulator", *names]
        commands["simulator"] = [*commands["auth"][:-1], "simulator", "--listen", f"127.0.0.1:{ports[2]}"]
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log_folder = settings.state_file("log")
    log_folder.mkdir(mode=0o700, exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            with (log_folder / f"{name}.log").open("ab") as log:
                processes[name] = subprocess.Popen(  # noqa: S603 - our own command
                    commands[name], env=environment, stdout=log, stderr=log, start_new_session=True
                )
        click.echo(f"Starting {', '.join(names)} (logs in {log_folder}) ", nl=False)
        url = f"{scheme}://{host}:{port}"
        if not _wait_ready(url, processes, stop):
            if not stop.is_set():
                _complain(processes, log_folder)
                return 1
            return 0
        click.echo(" ready.\n")
        click.echo(_welcome(url, demo, Path(environment["GSTACK_CA_FILE"]) if tls else None))
        while not stop.wait(0.5):
            if any(process.poll() is not None for process in processes.values()):
                _complain(processes, log_folder)
                return 1
        click.echo("\nStopping.")
        return 0
    finally:
        _stop(processes)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_ready(url: str, processes: dict[str, subprocess.Popen[bytes]], stop: threading.Event) -> bool:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and not stop.is_set():
        if any(process.poll() is not None for process in processes.values()):
            return False
        if _ready(url):
            return True
        click.echo(".", nl=False)
        stop.wait(0.3)
    return False


def _ready(url: str) -> bool:
    parts = urlsplit(url)
    try:
        if parts.scheme == "https":
            # The certificate is the one just made; only the answer matters here.
            context = ssl._create_unverified_context()  # noqa: S323
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.netloc, timeout=3, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=3)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _complain(processes: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    click.echo()
    dead = [name for name, process in processes.items() if process.poll() is not None]
    for name in dead:
        lines = (folder / f"{name}.log").read_text(errors="replace").splitlines()[-8:]
        click.echo(f"{name} ended with status {processes[name].returncode}:\n  " + "\n  ".join(lines), err=True)
    if not dead:
        click.echo(f"not ready after {_START_SECONDS:.0f} seconds; see {folder}", err=True)


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """The gateway first, so that what it waits for can still be answered."""
    until = time.monotonic() + _STOP_SECONDS
    for process in reversed(processes.values()):
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _welcome(url: str, demo: bool, ca: Path | None) -> str:
    project, api_key, secret_key = (
        ("demo", "demo-api-key", "demo-secret-key") if demo else ("PROJECT", "API_KEY", "SECRET_KEY")
    )
    keys = f" --api-key {api_key} --secret-key {secret_key}" if demo else ""
    flags = f"--endpoint {url} --project {project}{keys}"
    lines = [
        f"Endpoint   {url}/compute/v1/      (a page for people: {url}/)",
        f"Project    {project}"
        + ("          user demo, password demo" if demo else "          your account's name, or a project's"),
        f"Keys       {api_key} / {secret_key}      (key files: {url}/keys)",
    ]
    if ca:
        lines.append(f"CA         {ca}")
    insecure = f" --cacert {ca}" if ca else ""
    lines += [
        "",
        "Try it with curl:",
        f"  TOKEN=$(curl -s{insecure} {url}/oauth2/token -d grant_type=client_credentials \\",
        f"      -d client_id={api_key} -d client_secret={secret_key} | "
        "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])')",
        f'  curl{insecure} -H "Authorization: Bearer $TOKEN" {url}/compute/v1/projects/{project}/zones',
        "",
        "Or write the configuration of a client:",
        f"  gstack client gcloud {flags}",
        f"  gstack client gcutil {flags}",
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def _certificate(settings: Settings, host: str) -> dict[str, str]:
    """A private CA and a certificate for this host, kept in the state folder."""
    ca_file, cert_file, key_file = (settings.state_file(name) for name in ("ca.pem", "tls.pem", "tls.key"))
    # Google's hosts too: clients with fixed addresses are led here by /etc/hosts or a proxy.
    names: list[x509.GeneralName] = [_name(one) for one in dict.fromkeys((host, "127.0.0.1", "localhost", *_GOOGLE))]
    authority = Authority(ca_file, settings.state_file("ca.key"), f"gstack CA of {socket.gethostname()}")
    authority.issue(cert_file, key_file, names)
    return {
        "GSTACK_GATEWAY_TLS_CERT": str(cert_file),
        "GSTACK_GATEWAY_TLS_KEY": str(key_file),
        "GSTACK_CA_FILE": str(ca_file),
    }


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
