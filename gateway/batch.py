"""`POST /batch/compute/v1`: several requests in one multipart body, run side by side, answered in their order."""

from __future__ import annotations

import email
import email.policy
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http import HTTPStatus
from urllib.parse import urlsplit

from gateway.api import Api, Request, Response, error_response
from gstack.kernel.errors import ApiError

MAX_PARTS = 1000
_SIDE_BY_SIDE = 16
# A part inherits the outer request's identity, nothing else.
_INHERITED = ("authorization", "user-agent")


class Batch:
    def __init__(self, api: Api):
        self._api = api
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="batch")

    def handle(self, outer: Request) -> Response:
        try:
            if len(outer.body) > self._api.settings.max_body:
                raise ApiError(413, f"Request payload size exceeds the limit: {self._api.settings.max_body} bytes.")
            parts = _split(outer)
            requests = [_request(outer, part) for part in parts]
        except ApiError as error:
            return error_response(error)
        answers = list(self._pool.map(self._api.handle, requests))
        boundary = f"batch_{uuid.uuid4().hex}"
        chunks = [
            _part(boundary, part.get("Content-ID", ""), answer) for part, answer in zip(parts, answers, strict=True)
        ]
        body = b"".join(chunks) + f"--{boundary}--\r\n".encode()
        return Response(200, body, {"Content-Type": f"multipart/mixed; boundary={boundary}"})


def _split(outer: Request) -> list[Message]:
    content_type = outer.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/mixed") or "boundary=" not in content_type:
        raise ApiError(400, "Failed to parse batch request: the body must be multipart/mixed.", "badRequest")
    whole = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + outer.body, policy=email.policy.compat32
    )
    parts = whole.get_payload()
    if not isinstance(parts, list) or not parts:
        raise ApiError(400, "Failed to parse batch request: it has no parts.", "badRequest")
    if len(parts) > MAX_PARTS:
        raise ApiError(400, f"The batch request has {len(parts)} parts; at most {MAX_PARTS} are allowed.", "badRequest")
    return [part for part in parts if isinstance(part, Message)]


def _request(outer: Request, part: Message) -> Request:
    raw = part.get_payload(decode=True)
    text = raw if isinstance(raw, bytes) else b""
    head, _, rest = text.replace(b"\r\n", b"\n").lstrip(b"\n").partition(b"\n")
    words = head.decode("latin-1").split(" ")
    if len(words) < 2:
        raise ApiError(400, "Failed to parse batch request: a part holds no HTTP request.", "badRequest")
    # Names in a URL of a part may hold raw blanks (gcloud does not escape image names).
    target = " ".join(words[1:-1]) if words[-1].startswith("HTTP/") else " ".join(words[1:])
    inner = email.message_from_bytes(rest)
    payload = inner.get_payload(decode=True)
    headers = {name: outer.headers[name] for name in _INHERITED if name in outer.headers}
    headers |= {name.lower(): str(value) for name, value in inner.items()}
    try:
        url = urlsplit(target)
    except ValueError:
        raise ApiError(400, "Failed to parse batch request: the URL of a part is malformed.", "badRequest") from None
    return Request(
        method=words[0].upper(),
        path=url.path,
        query=url.query,
        headers=headers,
        body=payload.strip() if isinstance(payload, bytes) else b"",
        base=outer.base,
        address=outer.address,
        id=f"{outer.id}-{uuid.uuid4().hex[:8]}",
        traceparent=outer.traceparent,
    )


def _part(boundary: str, content_id: str, answer: Response) -> bytes:
    """gcloud wants `<response-ID+N>` and a status line of three words."""
    inner = content_id.strip().removeprefix("<").removesuffix(">")
    phrase = HTTPStatus(answer.status).phrase
    lines = [f"--{boundary}", "Content-Type: application/http"]
    if inner:
        lines.append(f"Content-ID: <response-{inner}>")
    lines += ["", f"HTTP/1.1 {answer.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"Content-Length: {len(answer.body)}", "", ""]
    return "\r\n".join(lines).encode() + answer.body + b"\r\n"
