"""structlog on stdout: one JSON object a line, with the request id of the request in hand.

Values under names that hold secrets are replaced, whoever logs them. A line that cannot be written is lost: no request
fails for it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

_SECRET_WORDS = ("secret", "password", "token", "authorization", "signature", "api_key", "apikey", "credential")


# Not filtered by the level that the operator sets for other lines.
_audit = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "***"
    return event


def audit(event: str, **fields: Any) -> None:
    """A line of the audit log: who (subject) did what (event), from where (remote_address), with which result.

    It is told from other lines by `"log": "audit"`. Never a secret, whatever its name.
    """
    _audit.info(event, log="audit", **fields)


class _Output:
    """A file for lines, without a buffer: each is written at once, and whole where the system lets it."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        left = text.encode(errors="backslashreplace")
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            # A full disk, or nobody who reads any more.
            pass

    def flush(self) -> None:
        """Nothing waits."""


def configure(service: str, level: str = "info", form: str = "json") -> None:
    """Set up logging of this process; the standard library's loggers come out in the same form."""

    def named(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    shared: list[Any] = [
        named,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    final: Any = structlog.dev.ConsoleRenderer() if form == "text" else structlog.processors.JSONRenderer()
    output = _Output(sys.stdout.fileno())
    structlog.configure(
        processors=[*shared, final],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, output)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(cast(TextIO, output))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(getattr(logging, level.upper()), logging.WARNING))
