"""The gateway process: gunicorn with threads around the Flask application."""

from __future__ import annotations

from typing import Any

import requests
from flask import Flask
from gunicorn.app.base import BaseApplication

from gateway.web import create_app
from gstack.kernel import logs, metrics
from gstack.kernel.settings import Settings


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings):
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": settings.gateway_listen,
            "workers": settings.gateway_workers,
            "worker_class": "gthread",
            "threads": settings.gateway_threads,
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
        metrics.serve(self._settings.gateway_metrics_listen, self._ready)

    def _ready(self) -> dict[str, bool]:
        """What a worker says."""
        settings = self._settings
        scheme = "https" if settings.gateway_tls_cert else "http"
        host, _, port = settings.gateway_listen.rpartition(":")
        everywhere = host in ("0.0.0.0", "[::]", "")  # noqa: S104 - compared, not listened on
        session = requests.Session()
        session.trust_env = False
        try:
            # Our own worker on this machine: whose certificate it is does not matter.
            address = f"{scheme}://{'127.0.0.1' if everywhere else host}:{port}/readyz"
            found: dict[str, bool] = session.get(address, timeout=5, verify=False).json()["services"]
        except (requests.RequestException, ValueError, KeyError):
            return {"gateway": False}
        return found

    def load(self) -> Flask:
        logs.configure("gateway", self._settings.log_level, self._settings.log_format)
        # In the worker, after the fork: gRPC channels do not survive one.
        return create_app(self._settings)


def _forget(_: Any, worker: Any) -> None:
    metrics.forget_process(worker.pid)


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    _Server(settings).run()
