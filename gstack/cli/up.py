"""`gstack up`: all services on this machine, as processes of this one; ends them all on Ctrl-C or when one dies.

They end with this one too, however it goes (see `end_with_parent`), and hold its folder until the last of them has.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import ipaddress
import os
import shlex
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import click
from cryptography import x509

from gstack.cli import TOOLS
from gstack.cli.certs import Authority
from gstack.kernel.process import LIFELINE, StopSignals
from gstack.kernel.sealing import create_key
from gstack.kernel.settings import Settings

_START_SECONDS = 60.0
_STOP_SECONDS = 25.0
# Of each service are kept: this much, and the two files before it.
_LOG_BYTES = 10 * 1024 * 1024
_LOG_FILES = 3
_GOOGLE = ("www.googleapis.com", "compute.googleapis.com", "accounts.google.com", "oauth2.googleapis.com")


def run(settings: Settings, *, demo: bool, host: str, port: int, tls: bool) -> int:
    """Start, wait until ready, serve until a signal. Returns the exit status."""
    if demo == bool(settings.cloudstack_url):
        raise click.UsageError("give either --demo or --cloudstack URL")
    if demo:
        settings = settings.model_copy(update={"state_dir": settings.state_file("demo")})
    os.umask(0o077)
    with _folder_of_ours(settings.state_file("lock")) as lock:
        return _run(settings, lock, demo=demo, host=host, port=port, tls=tls)


def _run(settings: Settings, lock: int, *, demo: bool, host: str, port: int, tls: bool) -> int:
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
    # The other end is this process's alone.
    lifeline, _ = os.pipe()
    environment = {
        **os.environ,
        LIFELINE: str(lifeline),
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
    signals = StopSignals()
    log_folder = settings.state_file("log")
    log_folder.mkdir(mode=0o700, exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    logs: list[_Log] = []
    try:
        for name in names:
            log = _Log(log_folder / f"{name}.log")
            logs.append(log)
            processes[name] = subprocess.Popen(  # noqa: S603 - our own command
                commands[name], env=environment, stdout=log.writing, stderr=log.writing, start_new_session=True,
                pass_fds=(lifeline, lock),
            )  # fmt: skip
            os.close(log.writing)
        click.echo(f"Starting {', '.join(names)} (logs in {log_folder}) ", nl=False)
        url = f"{scheme}://{host}:{port}"
        if not _wait_ready(url, processes, signals):
            if not signals.told:
                _complain(processes, logs)
                return 1
            return 0
        click.echo(" ready.\n")
        click.echo(_welcome(url, demo, Path(environment["GSTACK_CA_FILE"]) if tls else None))
        while not signals.wait(0.5):
            if any(process.poll() is not None for process in processes.values()):
                _complain(processes, logs)
                return 1
        click.echo("\nStopping.")
        return 0
    finally:
        _stop(processes)
        for log in logs:
            log.close()


@contextmanager
def _folder_of_ours(path: Path) -> Iterator[int]:
    """The descriptor of a lock that only one `gstack up` can have. Its services inherit it: one that was killed leaves
    the folder to them until they have ended."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until = time.monotonic() + _STOP_SECONDS + 5
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            if _lives(holder):
                raise click.ClickException(
                    f"{path.parent} is in use by another `gstack up`, process {holder}: stop that one, or name another "
                    "folder in GSTACK_STATE_DIR"
                )
            if time.monotonic() > until:
                raise click.ClickException(
                    f"{path.parent} is in use by services of process {holder}, which is gone, and they do not end: "
                    "end them, or name another folder in GSTACK_STATE_DIR"
                )
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


class _Log:
    """What a service says, in a file of bounded size, and in those before it: `auth.log`, `auth.log.1`...

    The service and its children write to a pipe, so that none of them minds a full disk: lines are lost then, no more.
    """

    def __init__(self, path: Path):
        self.path = path
        self._reading, self.writing = os.pipe()
        self._file: int | None = None
        self._size = 0
        self._thread = threading.Thread(target=self._copy, name=path.name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for what a service that has ended still said."""
        self._thread.join(2)

    def tail(self, lines: int) -> list[str]:
        """Of a service that has ended."""
        self.close()
        return self.path.read_text(errors="replace").splitlines()[-lines:] if self.path.exists() else []

    def _copy(self) -> None:
        while chunk := os.read(self._reading, 64 * 1024):
            try:
                self._keep(chunk)
            except OSError:
                if self._file is not None:
                    os.close(self._file)
                    self._file = None
        os.close(self._reading)

    def _keep(self, chunk: bytes) -> None:
        file = self._open() if self._file is None else self._file
        if self._size + len(chunk) > _LOG_BYTES:
            os.close(file)
            self._file = None
            for number in reversed(range(1, _LOG_FILES)):
                with suppress(FileNotFoundError):
                    self._past(number - 1).replace(self._past(number))
            file = self._open()
        self._size += os.write(file, chunk)

    def _open(self) -> int:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._file).st_size
        return self._file

    def _past(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_ready(url: str, processes: dict[str, subprocess.Popen[bytes]], signals: StopSignals) -> bool:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and not signals.told:
        if any(process.poll() is not None for process in processes.values()):
            return False
        if _ready(url):
            return True
        click.echo(".", nl=False)
        signals.wait(0.3)
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


def _complain(processes: dict[str, subprocess.Popen[bytes]], logs: list[_Log]) -> None:
    click.echo()
    dead = [name for name, process in processes.items() if process.poll() is not None]
    for name in dead:
        lines = next(log for log in logs if log.path.stem == name).tail(8)
        click.echo(f"{name} ended with status {processes[name].returncode}:\n  " + "\n  ".join(lines), err=True)
    if not dead:
        click.echo(f"not ready after {_START_SECONDS:.0f} seconds; see {logs[0].path.parent}", err=True)


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
    trust = f" --ca {shlex.quote(str(ca))}" if ca else ""
    flags = f"--endpoint {url} --project {project}{trust}{keys}"
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
        f"  (also for {', '.join(tool for tool in TOOLS if tool not in ('gcloud', 'gcutil'))})",
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
