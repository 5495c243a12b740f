"""A small keep-alive HTTP client for measuring: cheap enough not to be what is measured."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field


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


async def _client(host: str, port: int, request: bytes, until: float, result: Result) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=64 * 1024 * 1024)
    try:
        while time.monotonic() < until:
            started = time.monotonic()
            writer.write(request)
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


def run(host: str, port: int, request: bytes, *, clients: int, seconds: float) -> Result:
    """Send the same request again and again from several connections for some seconds."""

    async def main() -> Result:
        result = Result()
        started = time.monotonic()
        until = started + seconds
        await asyncio.gather(*(_client(host, port, request, until, result) for _ in range(clients)))
        result.elapsed = time.monotonic() - started
        return result

    return asyncio.run(main())


def get(host: str, port: int, path: str, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a GET request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
