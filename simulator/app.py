"""The HTTP edge: one ASGI application that answers as a CloudStack management server does.

The life of a request: path and size -> parameters (query over form) -> delay and faults -> clock tick -> login or
signature -> command -> JSON. Beside `/client/api` there is a small control API for tests below `/simulator/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import orjson

from simulator import errors, families, signature, xml
from simulator.commands import HANDLERS, SPECS, execute
from simulator.errors import ApiError
from simulator.families.accounts import SESSION_SECONDS, WITHOUT_SIGNATURE
from simulator.families.jobs import finish, restart
from simulator.world import User, World

families.load()

JSON_TYPE = b"application/json; charset=UTF-8"
MAX_REQUEST_LINE = 8192
HTML_ERROR = "<html><head><title>Error {0} {1}</title></head><body><h2>HTTP ERROR {0} {1}</h2></body></html>"

_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class Fault:
    """Something that goes wrong for the next `count` calls of `command` ("" is any command).

    kind: "status" (answer `status` with CloudStack's envelope and `text`), "html" (a proxy's error page), "truncated"
    (half of the real answer), "mangled" (rows without ids, texts where there are objects), "hang" (no answer for
    `seconds`, or until faults are deleted), "drop" (work done, connection closed without answer).
    """

    kind: str
    command: str = ""
    status: int = 530
    text: str = errors.INTERNAL_TEXT
    count: int = 1
    seconds: float = 3600.0


@dataclass
class Simulator:
    """The ASGI application. `calls` counts commands since the start or the last reset, for tests."""

    world: World
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    _no_faults: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        body = await _body(receive)
        if path.startswith("/simulator/"):
            await _answer(send, *self._control(scope["method"], path, body))
        elif path == "/client/api" or path.startswith("/client/api/"):
            await self._api(scope, body, send)
        elif path == "/healthz":
            await _answer(send, 200, b'{"status": "ok"}\n')
        else:
            await _answer(send, 404, HTML_ERROR.format(404, "Not Found").encode(), b"text/html;charset=iso-8859-1")

    async def _api(self, scope: Scope, body: bytes, send: Send) -> None:
        method: str = scope["method"]
        if len(scope["path"]) + len(scope["query_string"]) > MAX_REQUEST_LINE:
            await _answer(send, 414, b"<h1>Bad Message 414</h1><pre>reason: URI Too Long</pre>", b"text/html")
            return
        if method == "OPTIONS":
            await _answer(send, 200, b"", None, [(b"allow", b"GET, HEAD, POST, TRACE, OPTIONS")])
            return
        if method not in ("GET", "HEAD", "POST"):
            await _answer(send, 405, b"", None)
            return
        if len(body) > self.world.settings.max_body:
            await _answer(send, 404, HTML_ERROR.format(404, "Not Found").encode(), b"text/html;charset=iso-8859-1")
            return
        headers = dict(scope["headers"])
        form = body if headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded") else b""
        parameters = _parse(form) | _parse(scope["query_string"])
        name = parameters.get("command", "")
        self.calls[name] += 1

        delays = self.world.settings.delays
        if seconds := delays.get(name, delays.get("", 0.0)):
            await asyncio.sleep(seconds)
        fault = self._take_fault(name)
        if fault and fault.kind == "hang":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._no_faults.wait(), fault.seconds)
        if fault and fault.kind == "html":
            await _answer(send, fault.status, HTML_ERROR.format(fault.status, "Proxy Error").encode(), b"text/html")
            return
        if fault and fault.kind == "status":
            error = ApiError(fault.status, fault.text)
            await _answer(send, fault.status, orjson.dumps({f"{name.lower()}response": error.body()}))
            return
        if name == "login" and method != "POST":
            # A bare text under the name of JSON, as recorded.
            await _answer(send, 405, b"Please use HTTP POST to authenticate using this API")
            return
        status, answer = self.answer(method, dict(parameters))
        if fault and fault.kind == "mangled":
            answer = _mangled(answer)
        if fault and fault.kind == "drop":
            # A promised body that never comes: the server closes the connection, where an exception alone would be 500.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
            return
        if method == "HEAD":
            await _answer(send, status, b"")
            return
        if parameters.get("response", "").lower() != "json":
            await _answer(send, status, xml.render(answer, self.world.settings.version), b"text/xml; charset=UTF-8")
            return
        encoded = _unescape(orjson.dumps(answer))
        await _answer(send, status, encoded[: len(encoded) // 2] if fault and fault.kind == "truncated" else encoded)

    def answer(self, method: str, parameters: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and body for one set of parameters, signature included; takes the caller's out of `parameters`."""
        self.world.tick()
        name = parameters.get("command", "")
        # Without a command the key is the text "null", but not in XML, as recorded.
        unknown_key = "errorresponse" if name or "response" not in parameters else "null"
        try:
            if name in WITHOUT_SIGNATURE:
                return 200, WITHOUT_SIGNATURE[name](self.world, parameters)
            user = self.authenticate(parameters)
            if self.world.throttled(user.account):
                raise errors.throttled()
            if name not in HANDLERS:
                if name in SPECS:
                    raise errors.unavailable_command(name)
                raise errors.unauthorized()
            return 200, execute(self.world, user, name, parameters, method)
        except ApiError as error:
            key = SPECS[name]["response_key"] if name in SPECS else unknown_key
            return error.status, {error.top_key or key: error.body()}

    def authenticate(self, parameters: dict[str, str]) -> User:
        folded = {key.lower(): value for key, value in parameters.items()}
        if "apikey" not in folded and "sessionkey" in folded:
            user = self._user_of_session(folded["sessionkey"])
            _remove(parameters, ("sessionkey", "response", "command"))
            return user
        found = self.world.users_by_key.get(folded.get("apikey", ""))
        if found is None or not found.enabled:
            raise errors.unauthorized()
        if folded.get("signatureversion") == "3" and signature.expired(
            folded.get("expires", ""), datetime.fromtimestamp(self.world.now, UTC)
        ):
            raise errors.unauthorized()
        signed = {key: value for key, value in parameters.items() if key.lower() != "signature"}
        expected = signature.sign(signed, found.secret_key)
        if not hmac.compare_digest(expected.encode(), folded.get("signature", "").encode()):
            raise errors.unauthorized()
        _remove(parameters, ("apikey", "signature", "signatureversion", "expires", "response", "command"))
        return found

    def _user_of_session(self, key: str) -> User:
        """A session stands for its user until 30 idle minutes have passed; CloudStack asks for the cookie as well."""
        user, expires = self.world.sessions.get(key, (None, 0.0))
        if user is None or not user.enabled or expires < self.world.now:
            raise errors.unauthorized()
        self.world.sessions[key] = (user, self.world.now + SESSION_SECONDS)
        if user.two_factor:
            raise errors.second_factor()
        return user

    def _take_fault(self, name: str) -> Fault | None:
        for fault in self.faults:
            if fault.command in ("", name):
                fault.count -= 1
                if fault.count <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _control(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """`GET` or `DELETE calls`, `POST` or `DELETE faults`, `PATCH settings`, `POST restart`, `POST finish`."""
        what = path.removeprefix("/simulator/")
        if what == "calls":
            counted = dict(self.calls)
            if method == "DELETE":
                self.calls.clear()
            return 200, orjson.dumps(counted)
        if what == "faults":
            if method == "DELETE":
                self.faults.clear()
                # Those that hang go on; those that come later do not.
                self._no_faults.set()
                self._no_faults = asyncio.Event()
            else:
                self.faults.append(Fault(**json.loads(body)))
            return 200, b"{}"
        if what == "restart" and method == "POST":
            restart(self.world, told=bool(json.loads(body or b"{}").get("told", True)))
            return 200, b"{}"
        if what == "finish" and method == "POST":
            finish(self.world)
            return 200, b"{}"
        if what == "settings" and method == "PATCH":
            for key, value in json.loads(body).items():
                setattr(self.world.settings, key, value)
            return 200, b"{}"
        return 404, b"{}"


def _mangled(value: Any) -> Any:
    """The same answer, inside of which nothing is as it must be."""
    if isinstance(value, list):
        return [_mangled(one) for one in value]
    if isinstance(value, dict):
        return {key: _mangled(one) for key, one in value.items() if key not in ("id", "jobid", "jobstatus")}
    return [value]


def _unescape(encoded: bytes) -> bytes:
    """CloudStack replaces every `\\uXXXX` of its answers, even one that a user wrote: the JSON is broken then."""
    if b"\\u" not in encoded:
        return encoded
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)).encode(errors="replace"), encoded)


def _remove(parameters: dict[str, str], names: tuple[str, ...]) -> None:
    for key in [key for key in parameters if key.lower() in names]:
        del parameters[key]


def _parse(encoded: bytes) -> dict[str, str]:
    return dict(parse_qsl(encoded.decode("latin-1"), keep_blank_values=True, encoding="utf-8"))


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes | None = JSON_TYPE,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [*(headers or []), (b"content-length", str(len(body)).encode())]
    if content_type:
        headers.append((b"content-type", content_type))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
