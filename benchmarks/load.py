"""A small keep-alive HTTP client for measuring: cheap enough not to be what is measured."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from urllib.parse import urlencode


@dataclass
class Result:
    """Durations in seconds of the requests that answered 200, and how many did not."""

    seconds: list[float] = field(default_factory=list)
    failures: int = 0
    elapsed: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.elapsed if self.elapsed else 0.0

    @property
    def median_ms(self) -> float:
        return statistics.median(self.seconds) * 1000 if self.seconds else float("nan")

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else float("nan")


async def _client(host: str, port: int, requests: Iterator[bytes], until: float, result: Result) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=64 * 1024 * 1024)
    try:
        while time.monotonic() < until:
            started = time.monotonic()
            writer.write(next(requests))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            if head.split(b" ", 2)[1] == b"200":
                result.seconds.append(time.monotonic() - started)
            else:
                result.failures += 1
    finally:
        writer.close()


def run(host: str, port: int, request: bytes | Iterator[bytes], *, clients: int, seconds: float) -> Result:
    """Send the same request again and again, or one after another, from several connections for some seconds."""
    requests = repeat(request) if isinstance(request, bytes) else request

    async def main() -> Result:
        result = Result()
        started = time.monotonic()
        until = started + seconds
        await asyncio.gather(*(_client(host, port, requests, until, result) for _ in range(clients)))
        result.elapsed = time.monotonic() - started
        return result

    return asyncio.run(main())


def post_form(host: str, port: int, path: str, form: dict[str, str]) -> bytes:
    """The bytes of a POST request."""
    body = urlencode(form).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/x-www-form-urlencoded"]
    return ("\r\n".join(lines) + f"\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


def get(host: str, port: int, path: str, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a GET request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
