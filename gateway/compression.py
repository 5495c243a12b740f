"""Bodies that clients compress: Java's and .NET's libraries do so with every one, also with an empty one.

A body counts as what it is when it is read: the bounds of plain bodies hold for what comes out, and no more is made.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

from werkzeug.wsgi import get_input_stream

from gstack.kernel.errors import ApiError

# Window and header of zlib, by name; None for bytes as they are.
_WINDOWS = {"": None, "identity": None, "gzip": 31, "x-gzip": 31, "deflate": 15}


def inflated(body: bytes, encoding: str, most: int, ending: bytes = b"") -> bytes:
    """The body itself, at most so many bytes.

    encoding: the header Content-Encoding. ending: characters that may follow the stream. Raises 400 for what is not one
    whole stream, 413 for more bytes, 415 for another encoding.
    """
    if not body:
        return body
    name = encoding.strip().lower()
    if name not in _WINDOWS:
        known = ", ".join(name for name in _WINDOWS if name)
        raise ApiError(415, f"Content-Encoding '{name[:40]}' is not supported. Use one of {known}.")
    window = _WINDOWS[name]
    if window is None:
        return body
    stream = zlib.decompressobj(window)
    try:
        found = stream.decompress(body, most + 1)
    except zlib.error:
        raise ApiError(400, f"The request body is not in {name}, as its Content-Encoding says.", "invalid") from None
    if len(found) > most:
        raise ApiError(413, f"Request payload size exceeds the limit: {most} bytes.")
    if not stream.eof or stream.unused_data.strip(ending):
        what = "has more than one stream" if stream.eof else "ends too early"
        raise ApiError(400, f"The request body in {name} {what}.", "invalid")
    return found


def inflate(environ: dict[str, Any], most: int) -> None:
    """Makes the body of a WSGI request a plain one, before anybody has read it. Raises as `inflated`."""
    if encoding := environ.pop("HTTP_CONTENT_ENCODING", ""):
        body = inflated(get_input_stream(environ).read(), encoding, most)
        environ |= {"wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True}
