"""What ties together log lines, calls and spans of one request: its id, and a trace as W3C Trace Context has it.

The trace id is the caller's, if the request came with a `traceparent`. Both ids are in every log line, and go with
every gRPC call and every call of CloudStack. Spans are exported where the extra `otel` is installed and the environment
names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`, as OpenTelemetry defines it); without, this costs a few microseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from structlog.contextvars import bound_contextvars, get_contextvars

# Names in headers and in gRPC metadata.
TRACEPARENT = "traceparent"
REQUEST_ID = "x-request-id"

_FORM = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_tracer: Any = None
_current: ContextVar[str] = ContextVar("traceparent", default="")


def configure(service: str) -> None:
    """Export spans, if the environment asks for it. Call it in the process that works, after a fork.

    Raises ValueError when the extra is not installed.
    """
    global _tracer  # noqa: PLW0603 - one exporter a process
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT is set: traces need `pip install gstack[otel]`") from None
    provider = TracerProvider(resource=Resource.create({"service.name": f"gstack-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("gstack")


@contextmanager
def request(name: str, request_id: str, traceparent: str = "") -> Iterator[None]:
    """The work of a service for one request. traceparent: the caller's, if it sent one."""
    parent = traceparent if _FORM.fullmatch(traceparent) else ""
    with _span(name, "SERVER", parent, {}) as own, bound_contextvars(request_id=request_id, trace_id=own[3:35]):
        yield


@contextmanager
def call(name: str, **attributes: str) -> Iterator[None]:
    """A call of another system, within `request`."""
    if _tracer is None:
        # Nobody would see a span of its own: what is called gets that of the request.
        yield
        return
    with _span(name, "CLIENT", _current.get(), attributes):
        yield


def note(name: str = "", **attributes: str | int) -> None:
    """A better name and attributes for the span in hand: methods, statuses, numbers, never what a customer sent."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        span = get_current_span()
        span.set_attributes(attributes)
        if name:
            span.update_name(name)


def headers() -> dict[str, str]:
    """What goes with a call of another service: the ids of the request in hand."""
    found = {REQUEST_ID: get_contextvars().get("request_id"), TRACEPARENT: _current.get()}
    return {name: value for name, value in found.items() if value}


@contextmanager
def _span(name: str, kind: str, parent: str, attributes: dict[str, str]) -> Iterator[str]:
    """Yields its `traceparent`. What fails is told by `note`: an exception may say what a customer sent."""
    if _tracer is None:
        own = f"00-{parent[3:35] or os.urandom(16).hex()}-{os.urandom(8).hex()}-{parent[-2:] or '00'}"
        with _as_current(own):
            yield own
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}) if parent else None
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with _tracer.start_as_current_span(name, context, kind=SpanKind[kind], attributes=attributes, **quiet) as span:
        made = span.get_span_context()
        own = f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags:02x}"
        with _as_current(own):
            yield own


@contextmanager
def _as_current(traceparent: str) -> Iterator[None]:
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)
