"""The gateway process: gunicorn with threads around the Flask application."""

from __future__ import annotations

import mmap
import time
from functools import partial
from typing import Any

import requests
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from gateway.limits import SPARE_THREADS
from gateway.web import CHECKS, create_app
from gstack.kernel import logs, metrics, tracing
from gstack.kernel.settings import Settings, local_address


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings):
        self._settings = settings
        # Seen by the workers, which are forked later: 1 when this gateway was told to stop.
        self.draining = mmap.mmap(-1, 1)
        super().__init__()

    def run(self) -> None:
        _Arbiter(self, self.draining, self._settings.gateway_drain_seconds).run()

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": settings.gateway_listen,
            "workers": settings.gateway_workers,
            "worker_class": "gthread",
            "threads": settings.gateway_threads + SPARE_THREADS,
            "keepalive": 75,
            "timeout": 300,
            "graceful_timeout": 30,
            "accesslog": None,
            "loglevel": "warning",
            "limit_request_line": 16384,
            "control_socket_disable": True,
        }
        if settings.gateway_tls_cert and settings.gateway_tls_key:
            options |= {"certfile": str(settings.gateway_tls_cert), "keyfile": str(settings.gateway_tls_key)}
        if settings.gateway_metrics_listen:
            options |= {"when_ready": self._serve_metrics, "child_exit": _forget}
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def _serve_metrics(self, _: Any) -> None:
        """In the master, which outlives its workers. It makes no gRPC channel: those do not survive a fork."""
        metrics.serve(self._settings.gateway_metrics_listen, {name: partial(self._ask, name) for name in CHECKS})

    def _ask(self, name: str) -> bool:
        """What a worker says."""
        settings = self._settings
        scheme = "https" if settings.gateway_tls_cert else "http"
        session = requests.Session()
        session.trust_env = False
        try:
            # Our own worker on this machine: whose certificate it is does not matter.
            address = f"{scheme}://{local_address(settings.gateway_listen)}/readyz/{name}"
            return session.get(address, timeout=5, verify=False).status_code == 200
        except requests.RequestException:
            return False

    def load(self) -> Flask:
        logs.configure("gateway", self._settings.log_level, self._settings.log_format)
        # In the worker, after the fork: gRPC channels do not survive one.
        tracing.configure("gateway")
        return create_app(self._settings, lambda: self.draining[0] == 1)


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Goes on serving for a while after SIGTERM, so that balancers learn that it goes before it is gone."""

    def __init__(self, app: _Server, draining: mmap.mmap, seconds: float):
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


def _forget(_: Any, worker: Any) -> None:
    metrics.forget_process(worker.pid)


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    metrics.about("gateway")
    _Server(settings).run()
