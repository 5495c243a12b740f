"""The gateway process: gunicorn with threads around the Flask application."""

from __future__ import annotations

from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from gateway.web import create_app
from gstack.kernel import logs
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
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        logs.configure("gateway", self._settings.log_level, self._settings.log_format)
        # In the worker, after the fork: gRPC channels do not survive one.
        return create_app(self._settings)


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    _Server(settings).run()
