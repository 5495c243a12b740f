"""HTTP/1.1 on one event loop: what is slow, silent or too large costs neither a thread nor memory without bound.

llhttp (`httptools`) parses; here is what it leaves open: bounds and deadlines. A request goes to a thread when all of
it is there, and its answer is sent by the loop, so that a thread is held by work only, never by a client.

    head     in `head_seconds` from its first byte, in bounds of bytes and of fields
    body     in the bounds of its path, after `head_seconds` at `rate` bytes a second on average
    answer   taken by the client at that rate as well
    pause    between two requests at most `idle_seconds`, for the first one `head_seconds`

Where there are too many connections the one that has been silent longest goes; where too many bytes are held, the one
that moves them most slowly. Probes have threads of their own, and those who ask the same at a time get one answer.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
import structlog

from gstack.kernel import metrics

log = structlog.get_logger()

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
# (status, message, path) to (headers, body): a refusal in the words of the API. path: "" when it is not known yet.
Refuse = Callable[[int, str, str], tuple[dict[str, str], bytes]]

MAX_LINE = 16 * 1024
MAX_HEAD = 64 * 1024
MAX_FIELDS = 100
# Requests that a client sends before it has the answer to the first.
_AHEAD = 16
_SWEEP_SECONDS = 0.25
# What is not all there when the server stops gets so long.
_LAST_SECONDS = 3.0
# Bodies and answers below this are not worth to be given up for memory.
_SMALL = 16 * 1024
# As many as there are probes that may have to wait for a service that is away.
_PROBE_THREADS = 12
_MALFORMED = "The request is malformed."


@dataclass(frozen=True)
class Limits:
    """body: path to bytes. connections: of this process. held: bytes of bodies and unsent answers together."""

    head_seconds: float
    idle_seconds: float
    rate: int
    connections: int
    held: int
    body: Callable[[str], int]


class Threads:
    """Threads that nobody waits for at the end of the process: what is still in hand then had its time."""

    def __init__(self, count: int, name: str):
        self._queue: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def run(self, work: Callable[..., None], *arguments: Any) -> None:
        self._queue.put((work, arguments))

    def _run(self) -> None:
        while True:
            work, arguments = self._queue.get()
            try:
                work(*arguments)
            except RuntimeError:
                # The loop has ended, and with it whoever asked.
                return


class _Refused(Exception):
    """What a client sends is out of bounds."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class _Asked:
    """A whole request."""

    method: str
    path: str
    environ: Environ
    keep_alive: bool


class Server:
    """The connections of a process, and the threads that answer them."""

    def __init__(
        self,
        app: Wsgi,
        limits: Limits,
        threads: int,
        *,
        refuse: Refuse,
        is_probe: Callable[[str], bool],
        leaving: Callable[[], bool] = lambda: False,
    ):
        """Call it on the loop that serves. leaving: clients are told to make no more requests on their connection."""
        self.limits = limits
        self.refuse = refuse
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        # Those that have no whole head yet, in the order in which they began to be silent.
        self.quiet: dict[Connection, None] = {}
        self.held = 0
        self.base: Environ = {}
        self.stop_at = float("inf")
        self.date = ""
        self._app = app
        self._leaving = leaving
        self._is_probe = is_probe
        self._threads = Threads(threads, "request")
        self._probes = Threads(_PROBE_THREADS, "probe")
        self._probing: dict[tuple[str, str], list[Connection]] = {}
        self._listeners: list[asyncio.AbstractServer] = []
        self._sweep()

    # Life

    async def listen(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        for one in sockets:
            options: dict[str, Any] = {"sock": one, "ssl": tls, "backlog": 2048}
            if tls is not None:
                options |= {"ssl_handshake_timeout": self.limits.head_seconds, "ssl_shutdown_timeout": 1.0}
            if one.family == socket.AF_UNIX:
                self._listeners.append(await self.loop.create_unix_server(self._connection, **options))
                host, port = "localhost", 0
            else:
                self._listeners.append(await self.loop.create_server(self._connection, **options))
                host, port = one.getsockname()[:2]
            self.base = {
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "https" if tls else "http",
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": True,
                "wsgi.multiprocess": True,
                "wsgi.run_once": False,
                "wsgi.input_terminated": True,
                "SCRIPT_NAME": "",
                "SERVER_NAME": host,
                "SERVER_PORT": str(port),
            }

    def _connection(self) -> Connection:
        return Connection(self)

    async def stop(self, grace: float) -> None:
        """Take no more connections and requests, answer what is in hand. After `grace` seconds nothing is left."""
        for one in self._listeners:
            one.close()
        self.stop_at = self.loop.time()
        for connection in list(self.connections):
            connection.leave()
        while self.connections and self.loop.time() < self.stop_at + grace:
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()

    @property
    def leaving(self) -> bool:
        return self.stop_at != float("inf") or self._leaving()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            if connection.is_late(now):
                connection.give_up()
        metrics.HTTP_CONNECTIONS.set(len(self.connections))
        self.date = formatdate(usegmt=True)
        self.loop.call_later(min(_SWEEP_SECONDS, self.limits.head_seconds / 4), self._sweep)

    # Bounds

    def add(self, connection: Connection) -> bool:
        """Whether there is a place for it."""
        if len(self.connections) >= self.limits.connections:
            metrics.HTTP_REFUSED.labels("connections").inc()
            longest = next(iter(self.quiet), None)
            if longest is None:
                return False
            longest.transport.abort()
            self.forget(longest)
        self.connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.quiet.pop(connection, None)

    def hold(self, size: int) -> None:
        self.held += size
        if self.held > self.limits.held:
            now = self.loop.time()
            moving = [one for one in self.connections if one.is_moving and one.holds > _SMALL]
            if moving:
                metrics.HTTP_REFUSED.labels("memory").inc()
                min(moving, key=lambda one: one.speed(now)).give_up()

    # Work

    def ask(self, connection: Connection, asked: _Asked) -> None:
        if asked.method not in ("GET", "HEAD") or not self._is_probe(asked.path):
            self._threads.run(self._work, connection, asked.environ)
            return
        key = (asked.method, asked.path)
        # What one of those who ask says about itself must not change the answer for the others.
        own = [name for name in asked.environ if name.startswith("HTTP_")]
        for name in own:
            del asked.environ[name]
        waiting = self._probing.get(key)
        if waiting is not None:
            waiting.append(connection)
            return
        self._probing[key] = [connection]
        self._probes.run(self._probe, key, asked.environ)

    def _work(self, connection: Connection, environ: Environ) -> None:
        """In a thread, as the next one."""
        answer = self._answer(environ)
        self.loop.call_soon_threadsafe(connection.answer, *answer)

    def _probe(self, key: tuple[str, str], environ: Environ) -> None:
        answer = self._answer(environ)

        def tell() -> None:
            for connection in self._probing.pop(key):
                connection.answer(*answer)

        self.loop.call_soon_threadsafe(tell)

    def _answer(self, environ: Environ) -> tuple[bytes, bytes]:
        """Head, without its end, and body."""
        found: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            found[:] = [status, headers]

        try:
            chunks = self._app(environ, start)
            try:
                body = b"".join(chunks)
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
            status, headers = found
            return _head(status, headers), b"" if environ["REQUEST_METHOD"] == "HEAD" else body
        except Exception:
            log.exception("unexpected_error")
            return self.refusal(500, "Internal error.")

    def refusal(self, status: int, message: str, path: str = "") -> tuple[bytes, bytes]:
        headers, body = self.refuse(status, message, path)
        pairs = [*headers.items(), ("Content-Length", str(len(body)))]
        return _head(f"{status} {HTTPStatus(status).phrase}", pairs), body


def _head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status}\r\n{lines}".encode("latin-1")


_IDLE, _HEAD, _BODY, _WORK, _SEND, _LINGER = range(6)


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: Server):
        self._server = server
        self._limits = server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._state = _IDLE
        # When this state began, and how long a silent client may stay in it.
        self._since = server.loop.time()
        self._patience = server.limits.head_seconds
        self._ahead: deque[_Asked] = deque()
        self._unread = b""
        # Of the request that is being read, which may be ahead of the one in hand.
        self._stage = _IDLE
        self._is_last = False
        self._is_half_closed = False
        self._moved = 0  # bytes of the body in hand that came
        self._sending = 0  # bytes of the answer in hand
        self.holds = 0  # bytes held for it
        self._head_bytes = 0
        self._fields = 0
        self._path = ""
        self._remote: tuple[str, str] = ("", "")

    # From the transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self._server.add(self):
            transport.abort()
            return
        self._server.quiet[self] = None
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._remote = (peer[0], str(peer[1]))
        transport.set_write_buffer_limits(0)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.forget(self)
        self._release()
        self._is_last = True
        self._ahead.clear()

    def eof_received(self) -> bool:
        """A client may close its side and still wait for the answer."""
        self._is_half_closed = True
        return self._state in (_WORK, _SEND)

    def data_received(self, data: bytes) -> None:
        if self._state in (_WORK, _SEND):
            # The next request has its turn when this one is answered.
            self._unread += data
            self.transport.pause_reading()
        elif self._state != _LINGER:
            self._feed(data)

    def resume_writing(self) -> None:
        if self._state == _SEND:
            self._sent()

    # From the parser

    def on_message_begin(self) -> None:
        if len(self._ahead) > _AHEAD:
            raise _Refused(400, "Too many requests are sent ahead.")
        self._stage = _HEAD
        self._head_bytes = self._fields = self._moved = 0
        self._url = b""
        self._path = ""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > MAX_LINE:
            raise _Refused(414, "The request URL is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of trailers too, which count and say nothing."""
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > MAX_FIELDS or self._head_bytes > MAX_HEAD:
            raise _Refused(431, "The request has too many header fields, or they are too large.")
        if self._stage == _BODY or b"_" in name:
            # In an environment `X_Forwarded_For` would be the same as what only proxies of ours may say.
            return
        if b"\0" in value or b"\r" in value or b"\n" in value:
            raise _Refused(400, _MALFORMED)
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        if key == "HTTP_HOST" and key in self._headers:
            raise _Refused(400, _MALFORMED)
        self._headers[key] = f"{self._headers[key]},{text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        server, headers = self._server, self._headers
        target, _, query = self._url.decode("latin-1").partition("?")
        if "://" in target[:10]:
            target = "/" + target.partition("://")[2].partition("/")[2]
        if not target.startswith("/") or "#" in target:
            raise _Refused(400, _MALFORMED)
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1") or (version == "1.1" and "HTTP_HOST" not in headers):
            raise _Refused(400, _MALFORMED)
        self._path = target
        coding = headers.pop("HTTP_TRANSFER_ENCODING", "")
        if coding and (coding.lower() != "chunked" or version == "1.0"):
            raise _Refused(400, "Only the transfer coding `chunked` is known.")
        length = headers.pop("HTTP_CONTENT_LENGTH", "0")
        limit = self._limits.body(target)
        if int(length) > limit:
            raise _Refused(413, f"Request payload size exceeds the limit: {limit} bytes.")
        self._most = limit
        self._environ: Environ = {
            **server.base,
            **headers,
            "REQUEST_METHOD": self._parser.get_method().decode("latin-1"),
            "RAW_URI": self._url.decode("latin-1"),
            "PATH_INFO": unquote_to_bytes(target).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": f"HTTP/{version}",
            "REMOTE_ADDR": self._remote[0],
            "REMOTE_PORT": self._remote[1],
        }
        if "HTTP_CONTENT_TYPE" in headers:
            self._environ["CONTENT_TYPE"] = self._environ.pop("HTTP_CONTENT_TYPE")
        self._stage = _BODY
        if self._state not in (_WORK, _SEND):
            self._enter(_BODY)
            if headers.get("HTTP_EXPECT", "").lower() == "100-continue" and (coding or length != "0"):
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if self._state == _LINGER:
            return
        self._body += data
        self._moved += len(data)
        if self._moved > self._most:
            raise _Refused(413, f"Request payload size exceeds the limit: {self._most} bytes.")
        self.holds += len(data)
        self._server.hold(len(data))

    def on_message_complete(self) -> None:
        self._stage = _IDLE
        if self._state == _LINGER:
            return
        environ = self._environ
        environ["CONTENT_LENGTH"] = str(len(self._body))
        environ["wsgi.input"] = BytesIO(self._body)
        self._body = bytearray()
        asked = _Asked(environ["REQUEST_METHOD"], self._path, environ, self._parser.should_keep_alive())
        if self._state in (_WORK, _SEND):
            self._ahead.append(asked)
        else:
            self._ask(asked)

    # Steps

    def _enter(self, state: int, patience: float = 0.0) -> None:
        self._state = state
        self._since = self._server.loop.time()
        self._patience = patience or self._limits.head_seconds
        if state in (_IDLE, _LINGER):
            self._server.quiet[self] = None
        elif state != _HEAD:
            self._server.quiet.pop(self, None)

    def _feed(self, data: bytes) -> None:
        if self._state == _IDLE:
            self._enter(_HEAD)
            self._arrived = 0
        self._arrived += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Nothing else is spoken here: the request is answered, and what follows is HTTP/1.1 as before.
            self._parser = httptools.HttpRequestParser(self)
            if self._state == _HEAD:
                self._refuse(405, "The request method is inappropriate for the URL.")
            elif rest := data[upgrade.args[0] :]:
                self.data_received(rest)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(405, "The request method is not known.")
        except httptools.HttpParserError as error:
            refused = error.__context__
            if isinstance(refused, _Refused):
                self._refuse(refused.status, refused.message)
            else:
                self._refuse(400, _MALFORMED)
        else:
            if self._state == _HEAD and self._arrived > MAX_HEAD + MAX_LINE:
                self._refuse(431, "The head of the request is too large.")

    def _ask(self, asked: _Asked) -> None:
        self._enter(_WORK)
        self._keep_alive = asked.keep_alive
        self._is_old = asked.environ["SERVER_PROTOCOL"] == "HTTP/1.0"
        self._server.ask(self, asked)

    def answer(self, head: bytes, body: bytes) -> None:
        if self._state != _WORK or self.transport.is_closing():
            return
        self._release()
        server = self._server
        has_more = bool(self._ahead or self._unread)
        self._is_last |= not self._keep_alive or server.leaving or (self._is_half_closed and not has_more)
        kept = b"Connection: close\r\n" if self._is_last else b"Connection: keep-alive\r\n" if self._is_old else b""
        head = b"%b%bDate: %b\r\n\r\n" % (head, kept, server.date.encode())
        self._sending = len(head) + len(body)
        self._enter(_SEND)
        if len(body) < _SMALL:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        if self.transport.get_write_buffer_size():
            self.holds = self._sending
            server.hold(self.holds)
        else:
            self._sent()

    def _sent(self) -> None:
        self._release()
        if self._is_last:
            self.transport.close()
        elif self._ahead:
            self._ask(self._ahead.popleft())
        else:
            self._enter(self._stage, self._limits.idle_seconds if self._stage == _IDLE else 0.0)
            if self._unread:
                data, self._unread = self._unread, b""
                self.transport.resume_reading()
                self._feed(data)
            if self._is_half_closed and self._state in (_IDLE, _HEAD, _BODY):
                self.transport.close()

    def _release(self) -> None:
        self._server.held -= self.holds
        self.holds = 0

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close; what the client is still sending is let go by, or the answer would be lost."""
        metrics.HTTP_REFUSED.labels("slow" if status == 408 else "malformed").inc()
        if self._state in (_WORK, _SEND):
            self._is_last = True
            return
        self._body = bytearray()
        self._release()
        head, body = self._server.refusal(status, message, self._path)
        self.transport.write(b"%bConnection: close\r\n\r\n%b" % (head, body))
        self._enter(_LINGER, 1.0 if status == 408 else 0.0)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # Deadlines

    @property
    def is_moving(self) -> bool:
        """Whether bytes of it are on their way."""
        return self._state in (_BODY, _SEND)

    def speed(self, now: float) -> float:
        """Bytes a second of the body or the answer in hand."""
        return self._progress() / (now - self._since + 0.1)

    def _progress(self) -> int:
        if self._state == _BODY:
            return self._moved
        return self._sending - self.transport.get_write_buffer_size() if self._state == _SEND else 0

    def is_late(self, now: float) -> bool:
        if self._state == _WORK:
            return False
        if now > self._server.stop_at + _LAST_SECONDS and self._state != _SEND:
            return True
        return now - self._since > self._patience + self._progress() / self._limits.rate

    def give_up(self) -> None:
        if self._state in (_HEAD, _BODY) and not self.transport.is_closing():
            self._refuse(408, "The request did not arrive in time.")
        else:
            metrics.HTTP_REFUSED.labels("slow").inc()
            self.transport.abort()

    def leave(self) -> None:
        """The server stops."""
        if self._state == _IDLE:
            self.transport.close()
