"""The gateway process: gunicorn keeps the workers; each serves HTTP from a loop of its own (see connections)."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import ssl
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import requests
import structlog
import uvloop
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from gateway.api import error_response
from gateway.connections import Limits, Server
from gateway.limits import SPARE_THREADS
from gateway.oauth import PATHS as OAUTH_PATHS
from gateway.oauth import too_large
from gateway.web import CHECKS, body_limit, create_app, is_probe
from gstack.kernel import logs, metrics, tracing
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings, local_address

log = structlog.get_logger()

_GRACE_SECONDS = 30
# A worker ends by itself before it is killed.
_WORKER_GRACE_SECONDS = _GRACE_SECONDS - 2.0
_TICK_SECONDS = 0.5
# Files, besides those of clients: channels, logs, metrics.
_OWN_FILES = 200


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings):
        self.settings = settings
        self.certificate = Certificate(settings.gateway_tls_cert, settings.gateway_tls_key)
        # Seen by the workers, which are forked later: 1 when this gateway was told to stop.
        self.draining = mmap.mmap(-1, 1)
        super().__init__()

    def run(self) -> None:
        _Arbiter(self, self.draining, self.settings.gateway_drain_seconds).run()

    def load_config(self) -> None:
        settings = self.settings
        options: dict[str, Any] = {
            "bind": settings.gateway_listen,
            "workers": settings.gateway_workers,
            "worker_class": _Worker,
            # The loop of a worker answers within milliseconds, or something is wrong with it.
            "timeout": 60,
            "graceful_timeout": _GRACE_SECONDS,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
        }
        if settings.gateway_metrics_listen:
            options |= {"when_ready": self._serve_metrics, "child_exit": _forget}
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def _serve_metrics(self, _: Any) -> None:
        """In the master, which outlives its workers. It makes no gRPC channel: those do not survive a fork."""
        metrics.serve(self.settings.gateway_metrics_listen, {name: partial(self._ask, name) for name in CHECKS})

    def _ask(self, name: str) -> bool:
        """What a worker says."""
        settings = self.settings
        scheme = "https" if settings.gateway_tls_cert else "http"
        session = requests.Session()
        session.trust_env = False
        try:
            # Our own worker on this machine: whose certificate it is does not matter.
            address = f"{scheme}://{local_address(settings.gateway_listen)}/readyz/{name}"
            return session.get(address, timeout=5, verify=False).status_code == 200
        except requests.RequestException:
            return False

    def load(self) -> Any:
        logs.configure("gateway", self.settings.log_level, self.settings.log_format)
        # In the worker, after the fork: gRPC channels do not survive one.
        tracing.configure("gateway")
        return create_app(self.settings, self.is_draining)

    def is_draining(self) -> bool:
        return self.draining[0] == 1


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Goes on serving for a while after SIGTERM, so that balancers learn that it goes before it is gone."""

    def __init__(self, app: _Application, draining: mmap.mmap, seconds: float):
        self._draining = draining
        self._seconds = seconds
        self._stop_at = float("inf")
        super().__init__(app)

    def handle_term(self) -> None:
        if self._draining[0] or not self._seconds:
            super().handle_term()
        self._draining[0] = 1
        self._stop_at = time.monotonic() + self._seconds

    def manage_workers(self) -> None:
        """Called about once a second."""
        if time.monotonic() > self._stop_at:
            super().handle_term()
        super().manage_workers()


class _Worker(Worker):  # type: ignore[misc]
    """A process that serves. Its own threads are daemons: none of them can keep it from ending."""

    app: _Application

    def run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, os._exit, 0)
        settings = self.app.settings
        tls = self.app.certificate
        server = Server(
            self.wsgi,
            Limits(
                head_seconds=settings.gateway_head_seconds,
                idle_seconds=settings.gateway_idle_seconds,
                rate=settings.gateway_bytes_per_second,
                connections=min(settings.gateway_connections, _files() - _OWN_FILES),
                held=settings.gateway_held_bytes,
                body=partial(body_limit, settings),
            ),
            settings.gateway_threads + SPARE_THREADS,
            refuse=_refuse,
            is_probe=is_probe,
            leaving=self.app.is_draining,
        )
        await server.listen([one.sock for one in self.sockets], tls.context)
        # SIGTERM may have come before the loop could hear it; without a parent nobody would ever send it.
        while self.alive and os.getppid() == self.ppid and not told.is_set():
            self.notify()
            tls.renew()
            try:
                await asyncio.wait_for(told.wait(), _TICK_SECONDS)
            except TimeoutError:
                continue
        await server.stop(_WORKER_GRACE_SECONDS)


class Certificate:
    """What clients are shown, read again when the files change. context: None without files."""

    def __init__(self, cert: Path | None, key: Path | None):
        """In the master, so that all workers share it. Raises OSError for files that cannot be used."""
        self.context: ssl.SSLContext | None = None
        self._paths = (cert, key) if cert and key else None
        if self._paths is not None:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.context.set_alpn_protocols(["http/1.1"])
            self._seen = self._look()
            self.context.load_cert_chain(*self._paths)

    def renew(self) -> None:
        if self.context is None or self._paths is None:
            return
        try:
            found = self._look()
            if found != self._seen:
                # Handshakes from now on; a pair that does not fit leaves the old one, and is tried again.
                self.context.load_cert_chain(*self._paths)
                self._seen = found
                log.info("certificate_renewed", service="clients")
        except OSError as error:
            log.warning("certificate_unreadable", reason=str(error))

    def _look(self) -> list[tuple[int, int]]:
        assert self._paths is not None
        return [(found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in self._paths)]


def _files() -> int:
    """As many files as this process may open, from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def _refuse(status: int, message: str, path: str) -> tuple[dict[str, str], bytes]:
    answer = too_large() if status == 413 and path in OAUTH_PATHS else error_response(ApiError(status, message))
    return answer.headers, answer.body


def _forget(_: Any, worker: Any) -> None:
    metrics.forget_process(worker.pid)


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    metrics.about("gateway")
    _Application(settings).run()
