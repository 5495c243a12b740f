"""`POST /batch/compute/v1`: several requests in one multipart body, run side by side, answered in their order.

Everything is read and checked before the first part is carried out. A batch's own thread works through its parts;
helpers, of which users have equal shares, join it. So a batch goes on whatever others ask for.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from gateway.api import Api, Request, Response, error_response
from gateway.compression import inflated
from gstack.kernel.errors import ApiError

MAX_PARTS = 1000
# Bytes of answers in one batch; parts that are not begun by then are refused.
MAX_ANSWERS = 64 * 1024 * 1024
_MAX_HEAD = 32 * 1024
_MAX_FIELDS = 50
_MAX_CONTENT_ID = 1024
# Of different users: each has to be asked for.
_MAX_TOKENS = 16
_HELPERS = 16
_HELPERS_PER_USER = 8
# A part inherits the outer request's identity, nothing else.
_INHERITED = ("authorization", "user-agent")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
# It goes back as it came, whatever alphabet it is in.
_CONTROL = re.compile("[\\x00-\\x1f\\x7f]")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


@dataclass
class Part:
    """refusal: of a part whose body cannot be read."""

    content_id: str
    request: Request
    refusal: ApiError | None = None


class _Work:
    """The parts of a batch, on their way from `todo` to `answers`."""

    def __init__(self, owner: str, parts: list[Part], handle: Callable[[Request], Response]):
        self.owner = owner
        self.answers: dict[int, Response] = {}
        self._handle = handle
        self._todo = deque(enumerate(parts))
        self._left = len(parts)
        self._size = 0
        self._lock = threading.Lock()
        self._done = threading.Event()

    @property
    def is_begun(self) -> bool:
        """Whether nothing is left to take."""
        return not self._todo

    def step(self) -> bool:
        """Carry out one part; False when there is none."""
        try:
            number, part = self._todo.popleft()
        except IndexError:
            return False
        refusal = part.refusal or (_too_large() if self._size >= MAX_ANSWERS else None)
        answer = error_response(refusal) if refusal else self._handle(part.request)
        with self._lock:
            self.answers[number] = answer
            self._size += len(answer.body)
            self._left -= 1
            if not self._left:
                self._done.set()
        return True

    def finish(self) -> None:
        while self.step():
            pass
        self._done.wait()


class Helpers:
    """Threads that take parts of batches, from one user after the other, a bounded number of each."""

    def __init__(self, count: int, per_user: int):
        self._per_user = per_user
        self._waiting: dict[str, deque[_Work]] = {}  # by user; the first is next
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()
        for number in range(count):
            threading.Thread(target=self._run, name=f"batch-{number}", daemon=True).start()

    def join(self, work: _Work) -> None:
        with self._changed:
            self._waiting.setdefault(work.owner, deque()).append(work)
            self._changed.notify(self._per_user)

    def _run(self) -> None:
        while True:
            with self._changed:
                while (work := self._next()) is None:
                    self._changed.wait()
                self._running[work.owner] += 1
            work.step()
            with self._changed:
                self._running[work.owner] -= 1
                if not self._running[work.owner]:
                    del self._running[work.owner]
                self._changed.notify()

    def _next(self) -> _Work | None:
        for owner in list(self._waiting):
            works = self._waiting[owner]
            while works and works[0].is_begun:
                works.popleft()
            if not works:
                del self._waiting[owner]
            elif self._running[owner] < self._per_user:
                self._waiting[owner] = self._waiting.pop(owner)
                works.rotate(-1)
                return works[-1]
        return None


class Batch:
    def __init__(self, api: Api):
        self._api = api
        self._helpers = Helpers(_HELPERS, _HELPERS_PER_USER)

    def handle(self, outer: Request) -> Response:
        try:
            most = self._api.settings.max_body
            if len(outer.body) > most:
                raise ApiError(413, f"Request payload size exceeds the limit: {most} bytes.")
            parts = split(outer, most)
            work = _Work(self._owner(parts), parts, self._api.handle)
        except ApiError as error:
            return error_response(error)
        if len(parts) > 1:
            self._helpers.join(work)
        work.finish()
        boundary = f"batch_{uuid.uuid4().hex}"
        chunks = [_part(boundary, part.content_id, work.answers[number]) for number, part in enumerate(parts)]
        body = b"".join(chunks) + f"--{boundary}--\r\n".encode()
        return Response(200, body, {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _owner(self, parts: list[Part]) -> str:
        """Whose share of the helpers it uses. Raises 401 when no token in it is good."""
        tokens = {part.request.headers.get("authorization", ""): part.request for part in parts}
        if len(tokens) > _MAX_TOKENS:
            raise _malformed(f"it has the tokens of more than {_MAX_TOKENS} users.")
        refusal: ApiError | None = None
        for token, request in tokens.items():
            try:
                return self._api.tokens.principal(token, request.base, request.address).key
            except ApiError as error:
                refusal = error
        assert refusal is not None
        raise refusal


def split(outer: Request, most: int) -> list[Part]:
    """Parts of a batch, all of them well-formed; their compressed bodies together have at most so many bytes.

    Raises 400 and 413.
    """
    content_type = outer.headers.get("content-type", "")
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/mixed") or found is None:
        raise _malformed("the body must be multipart/mixed.")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1")
    # One more than parts.
    count = outer.body.count(b"\n" + delimiter) + outer.body.startswith(delimiter) - 1
    if count > MAX_PARTS:
        raise ApiError(400, f"The batch request has {count} parts; at most {MAX_PARTS} are allowed.", "badRequest")
    pieces = re.split(rb"(?:\A|\r?\n)" + re.escape(delimiter) + rb"(--)?[ \t]*(?=\r?\n|\Z)", outer.body)
    # Pieces and what stood after their delimiter (`--` ends the last part) take turns.
    texts = []
    for ending, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if ending is not None:
            break
        texts.append(text.removeprefix(b"\r").removeprefix(b"\n"))
    if not texts:
        raise _malformed("it has no parts.")
    parts = [_read(outer, text) for text in texts]
    for part in parts:
        most -= _inflate(part, most)
    return parts


def _inflate(part: Part, most: int) -> int:
    """Bytes that came out of a compressed body. What is wrong with it is the answer to its part; 413 is raised."""
    request = part.request
    encoding = request.headers.pop("content-encoding", "")
    if not encoding:
        return 0
    try:
        request.body = inflated(request.body, encoding, most, ending=b"\r\n")
        return len(request.body)
    except ApiError as error:
        if error.code == 413:
            raise
        part.refusal = error
        return 0


def _malformed(why: str) -> ApiError:
    return ApiError(400, f"Failed to parse batch request: {why}", "badRequest")


def _too_large() -> ApiError:
    text = f"The answers before this one have {MAX_ANSWERS} bytes. Ask for fewer things in a batch."
    return ApiError(403, text, "responseTooLarge")


def _read(outer: Request, text: bytes) -> Part:
    headers, content = _message(text)
    kind = headers.get("content-type", "application/http").lower()
    if not kind.startswith("application/http"):
        raise _malformed("a part is not application/http.")
    content_id = headers.get("content-id", "").strip()
    if len(content_id) > _MAX_CONTENT_ID or _CONTROL.search(content_id):
        raise _malformed(f"a Content-ID must be at most {_MAX_CONTENT_ID} bytes without control characters.")
    content = _decoded(headers.get("content-transfer-encoding", "").strip().lower(), content).lstrip(b"\r\n")
    line, _, rest = content.partition(b"\n")
    words = line.rstrip(b"\r").decode("latin-1").split(" ")
    if len(words) < 2 or not words[0].isalpha():
        raise _malformed("a part holds no HTTP request.")
    # Names in a URL of a part may hold raw blanks (gcloud does not escape image names).
    target = " ".join(words[1:-1]) if words[-1].startswith("HTTP/") else " ".join(words[1:])
    own, body = _message(rest)
    try:
        url = urlsplit(target)
    except ValueError:
        raise _malformed("the URL of a part is malformed.") from None
    inherited = {name: outer.headers[name] for name in _INHERITED if name in outer.headers}
    request = Request(
        method=words[0].upper(),
        path=url.path,
        query=url.query,
        headers=inherited | own,
        body=body if "content-encoding" in own else body.strip(),
        base=outer.base,
        address=outer.address,
        id=f"{outer.id}-{uuid.uuid4().hex[:8]}",
        traceparent=outer.traceparent,
        may_wait=False,
    )
    return Part(content_id, request)


def _message(text: bytes) -> tuple[dict[str, str], bytes]:
    """Header fields, by names in lower case, and what follows the blank line."""
    if text.startswith((b"\n", b"\r\n")):
        return {}, text.partition(b"\n")[2]
    end = _BLANK_LINE.search(text)
    head, body = (text[: end.start()], text[end.end() :]) if end else (text, b"")
    if len(head) > _MAX_HEAD or head.count(b"\n") >= _MAX_FIELDS:
        raise _malformed("a part has too many header fields, or they are too large.")
    headers: dict[str, str] = {}
    name = ""
    for line in head.decode("latin-1").split("\n"):
        if name and line.startswith((" ", "\t")):
            headers[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not line.strip():
            continue
        if not colon or not name:
            raise _malformed("a part has a malformed header field.")
        headers[name] = value.strip()
    return headers, body


def _decoded(encoding: str, content: bytes) -> bytes:
    if encoding == "quoted-printable":
        return quopri.decodestring(content)
    if encoding != "base64":
        return content
    try:
        return base64.b64decode(content)
    except binascii.Error:
        raise _malformed("a part is not in base64.") from None


def _part(boundary: str, content_id: str, answer: Response) -> bytes:
    """gcloud wants `<response-ID+N>` and a status line of three words."""
    inner = content_id.removeprefix("<").removesuffix(">")
    lines = [f"--{boundary}", "Content-Type: application/http"]
    if inner:
        lines.append(f"Content-ID: <response-{inner}>")
    lines += ["", f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"Content-Length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + answer.body + b"\r\n"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
