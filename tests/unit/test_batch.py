"""The wire format of `POST /batch/compute/v1`, as gcloud and the Google libraries write and read it."""

from __future__ import annotations

import email
import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import batch
from gateway.api import Request, Response
from gateway.batch import MAX_PARTS, Batch, split
from gateway.tokens import Principal
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings
from tests.waits import LONG

BOUNDARY = "===============7330845974216740156=="


class Users:
    """`Bearer <user>` is good, unless the user is bad."""

    def principal(self, authorization: str, base: str, address: str) -> Principal:
        user = authorization.removeprefix("Bearer ")
        if user in ("", "bad"):
            raise ApiError(401, "bad token")
        return Principal(user, user, b"", frozenset(), 0.0)


class Echo:
    """Answers with what it was asked; `/fail` is 404."""

    settings = Settings(max_body=1_000_000)

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.threads: set[int] = set()
        self.tokens = Users()

    def handle(self, request: Request) -> Response:
        self.requests.append(request)
        self.threads.add(threading.get_ident())
        status = 404 if request.path.endswith("/fail") else 200
        return Response(status, json.dumps({"path": request.path, "query": request.query}).encode())


@pytest.fixture
def echo() -> Echo:
    return Echo()


def part(request: str, number: int = 1, headers: str = "", body: str = "") -> str:
    return (
        "Content-Type: application/http\nMIME-Version: 1.0\nContent-Transfer-Encoding: binary\n"
        f"Content-ID: <0a1b-2c3d+{number}>\n\n{request}\n{headers}\n{body}\n"
    )


def outer(parts: list[str], ends: str = "\n", **headers: str) -> Request:
    text = "".join(f"--{BOUNDARY}\n{one}" for one in parts) + f"--{BOUNDARY}--\n"
    named = {
        "authorization": "Bearer outer",
        "user-agent": "google-cloud-sdk gcloud/528.0.0",
        "content-type": f'multipart/mixed; boundary="{BOUNDARY}"',
        "x-other": "not passed on",
        **headers,
    }
    return Request("POST", "/batch/compute/v1", "", named, text.replace("\n", ends).encode(), "http://gw:5000")


def answers(response: Response) -> list[tuple[str, str, Any]]:
    """(Content-ID, status line, JSON) of every part, read as a client does."""
    whole = email.message_from_bytes(
        f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode() + response.body
    )
    found = []
    for one in whole.get_payload():
        assert one.get_content_type() == "application/http"
        head, _, body = one.get_payload().partition("\r\n\r\n")
        status, _, headers = head.partition("\r\n")
        length = int(email.message_from_string(headers)["Content-Length"])
        found.append((one.get("Content-ID", ""), status, json.loads(body[:length])))
    return found


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_parts_are_answered_in_their_order(echo: Echo, ends: str) -> None:
    response = Batch(echo).handle(
        outer(
            [
                part("GET /compute/v1/projects/p/zones/z/instances?alt=json HTTP/1.1", 1, "accept: */*\n"),
                part("GET /compute/v1/projects/p/fail?alt=json HTTP/1.1", 2),
                part("DELETE /compute/v1/projects/p/zones/z/disks/d HTTP/1.1", 3),
            ],
            ends,
        )
    )
    assert response.status == 200
    assert answers(response) == [
        (
            "<response-0a1b-2c3d+1>",
            "HTTP/1.1 200 OK",
            {"path": "/compute/v1/projects/p/zones/z/instances", "query": "alt=json"},
        ),
        (
            "<response-0a1b-2c3d+2>",
            "HTTP/1.1 404 Not Found",
            {"path": "/compute/v1/projects/p/fail", "query": "alt=json"},
        ),
        ("<response-0a1b-2c3d+3>", "HTTP/1.1 200 OK", {"path": "/compute/v1/projects/p/zones/z/disks/d", "query": ""}),
    ]
    assert sorted(request.method for request in echo.requests) == ["DELETE", "GET", "GET"]


def test_a_part_inherits_who_asks_and_nothing_else(echo: Echo) -> None:
    Batch(echo).handle(outer([part("GET /a HTTP/1.1", 1, "Host: gw\nX-Own: 1\n"), part("GET /b HTTP/1.1", 2)]))
    by_path = {request.path: request for request in echo.requests}
    assert by_path["/a"].headers["authorization"] == "Bearer outer"
    assert by_path["/a"].headers["user-agent"].startswith("google-cloud-sdk")
    assert by_path["/a"].headers["x-own"] == "1"
    assert "x-other" not in by_path["/a"].headers
    assert "x-own" not in by_path["/b"].headers
    assert by_path["/a"].base == "http://gw:5000"
    assert by_path["/a"].id != by_path["/b"].id


def test_a_parts_own_token_wins(echo: Echo) -> None:
    Batch(echo).handle(outer([part("GET /a HTTP/1.1", 1, "Authorization: Bearer inner\n")]))
    assert echo.requests[0].headers["authorization"] == "Bearer inner"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_bodies_arrive_whole(echo: Echo, ends: str) -> None:
    body = {"name": "i", "description": "zürich 😀", "labels": {"a": "b"}}
    text = json.dumps(body, ensure_ascii=False)
    headers = f"content-type: application/json\ncontent-length: {len(text.encode())}\n"
    Batch(echo).handle(outer([part("POST /compute/v1/projects/p/x HTTP/1.1", 1, headers, text)], ends))
    assert json.loads(echo.requests[0].body) == body


def test_a_url_may_hold_raw_blanks(echo: Echo) -> None:
    Batch(echo).handle(
        outer(
            [
                part("GET /compute/v1/projects/p/global/images/My Image v1?filter=name eq x HTTP/1.1"),
                part("GET /no version"),
            ]
        )
    )
    paths = {(request.path, request.query) for request in echo.requests}
    assert paths == {("/compute/v1/projects/p/global/images/My Image v1", "filter=name eq x"), ("/no version", "")}


def test_an_absolute_url_of_a_part(echo: Echo) -> None:
    Batch(echo).handle(outer([part("GET https://www.googleapis.com/compute/v1/projects/p?alt=json HTTP/1.1")]))
    assert (echo.requests[0].path, echo.requests[0].query) == ("/compute/v1/projects/p", "alt=json")


@pytest.mark.parametrize("identity", ["ünï", "日本", "a+b c", "x/y?z&w", "%41", 'a"b;c', "g1@mydomain.com", "a<b>c"])
def test_a_content_id_goes_back_as_it_came(echo: Echo, identity: str) -> None:
    response = Batch(echo).handle(outer([part("GET /a HTTP/1.1").replace("0a1b-2c3d+1", identity)]))
    assert response.status == 200
    assert f"\r\nContent-ID: <response-{identity}>\r\n".encode() in response.body


def _compressed(encoding: str, content: bytes, request: str = "POST /a HTTP/1.1", length: bool = True) -> bytes:
    head = f"Content-Type: application/http\r\nContent-ID: <1>\r\n\r\n{request}\r\nContent-Encoding: {encoding}\r\n"
    size = f"Content-Length: {len(content)}\r\n" if length else ""
    return f"--{BOUNDARY}\r\n{head}{size}\r\n".encode() + content + b"\r\n"


def _batch_of(*parts: bytes) -> Request:
    request = outer([])
    request.body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return request


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
def test_parts_may_be_compressed(echo: Echo, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    # Of all kinds of ends, also those that look like blanks.
    bodies = [f'{{"a": "{"x" * count}"}}'.encode() for count in range(40)]
    parts = [_compressed(encoding, pack(body), length=number % 2 == 0) for number, body in enumerate(bodies)]
    parts.append(_compressed("gzip", b""))
    response = Batch(echo).handle(_batch_of(*parts))
    assert {status for _, status, _ in answers(response)} == {"HTTP/1.1 200 OK"}
    assert sorted(one.body for one in echo.requests) == sorted([*bodies, b""])
    assert not any("content-encoding" in one.headers for one in echo.requests)


def test_a_part_that_cannot_be_read_is_its_own_fault(echo: Echo) -> None:
    good = gzip.compress(b"{}")
    parts = [good, good[:-3], b"no gzip", good + good, good + b"x"]
    response = Batch(echo).handle(_batch_of(*(_compressed("gzip", one) for one in parts), _compressed("br", good)))
    found = [(status.split()[1], body.get("error", {}).get("code")) for _, status, body in answers(response)]
    assert found == [("200", None), ("400", 400), ("400", 400), ("400", 400), ("400", 400), ("415", 415)]
    assert len(echo.requests) == 1


def test_c1_parts_have_the_bounds_of_one_body_together(echo: Echo) -> None:
    large = gzip.compress(b" " * 600_000)
    assert Batch(echo).handle(_batch_of(_compressed("gzip", large))).status == 200
    echo.requests.clear()
    tracemalloc.start()
    assert Batch(echo).handle(_batch_of(*[_compressed("gzip", gzip.compress(b" " * 50_000_000))] * 900)).status == 413
    assert Batch(echo).handle(_batch_of(*[_compressed("gzip", large)] * 900)).status == 413
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000 and not echo.requests


def test_a_part_without_content_id(echo: Echo) -> None:
    response = Batch(echo).handle(outer(["Content-Type: application/http\n\nGET /a HTTP/1.1\n\n"]))
    assert [one[0] for one in answers(response)] == [""]


def test_a_thousand_parts_but_not_one_more(echo: Echo) -> None:
    parts = [part(f"GET /n/{number} HTTP/1.1", number) for number in range(MAX_PARTS)]
    found = answers(Batch(echo).handle(outer(parts)))
    assert [one[2]["path"] for one in found] == [f"/n/{number}" for number in range(MAX_PARTS)]
    assert len(echo.threads) > 1
    response = Batch(echo).handle(outer([*parts, part("GET /one-more HTTP/1.1")]))
    assert response.status == 400
    assert b"1001 parts" in response.body
    assert len(echo.requests) == MAX_PARTS


@pytest.mark.parametrize(
    "request_",
    [
        outer([], **{"content-type": "application/json"}),
        outer([part("GET /a HTTP/1.1")], **{"content-type": "multipart/mixed"}),
        outer([part("GET /a HTTP/1.1")], **{"content-type": "multipart/mixed; boundary=other"}),
        outer([]),
        outer([part("nonsense")]),
        outer([part("")]),
        outer(
            [part("GET /a HTTP/1.1"), "Content-Type: multipart/mixed; boundary=x\n\n--x\n\nGET /b HTTP/1.1\n--x--\n"]
        ),
        outer([part("GET /a HTTP/1.1"), part("GET /b HTTP/1.1").replace("<0a1b", "<\x07")]),
        outer([part("GET /a HTTP/1.1"), part("GET /b HTTP/1.1").replace("0a1b", "x" * 2000)]),
        outer([part("GET /a HTTP/1.1", 1, "no colon\n")]),
        outer([part("GET /a HTTP/1.1", 1, "X: y\n" * 100)]),
        outer([part("GET /a HTTP/1.1", 1, f"X: {'y' * 40_000}\n")]),
        outer([part("GET /a HTTP/1.1", n, f"Authorization: Bearer u{n}\n") for n in range(20)]),
        outer([part("GET http://[x/y HTTP/1.1")]),
    ],
)
def test_what_is_no_batch(echo: Echo, request_: Request) -> None:
    response = Batch(echo).handle(request_)
    assert response.status == 400
    assert json.loads(response.body)["error"]["errors"][0]["reason"] == "badRequest"
    assert not echo.requests


def test_a_batch_that_is_too_large(echo: Echo) -> None:
    assert Batch(echo).handle(outer([part("POST /a HTTP/1.1", 1, "", "x" * 1_000_000)])).status == 413


def test_e_nested_multiparts_are_not_followed(echo: Echo) -> None:
    text = part("GET /a HTTP/1.1")
    for depth in range(3000):
        text = f"Content-Type: multipart/mixed; boundary=b{depth}\n\n--b{depth}\n{text}--b{depth}--\n"
    assert Batch(echo).handle(outer([text])).status == 400


def test_c1_parts_are_counted_before_they_are_read(echo: Echo) -> None:
    request = outer([f"\nGET /{number} HTTP/1.1\n" for number in range(10_000)])
    tracemalloc.start()
    response = Batch(echo).handle(request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (response.status, b"10000 parts" in response.body) == (400, True)
    assert peak < 200_000


def test_c1_answers_of_a_batch_are_bounded(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_ANSWERS", 1000)
    found = answers(Batch(echo).handle(outer([part(f"GET /{number} HTTP/1.1", number) for number in range(200)])))
    statuses = [status.split()[1] for _, status, _ in found]
    assert set(statuses) == {"200", "403"} and len(echo.requests) < 60
    assert found[-1][2]["error"]["errors"][0]["reason"] == "responseTooLarge"


def test_a_batch_without_a_good_token_is_refused_as_a_whole(echo: Echo) -> None:
    response = Batch(echo).handle(outer([part("GET /a HTTP/1.1")], authorization="Bearer bad"))
    assert (response.status, echo.requests) == (401, [])
    mixed = [part("GET /a HTTP/1.1", 1, "Authorization: Bearer bad\n"), part("GET /b HTTP/1.1", 2)]
    assert Batch(echo).handle(outer(mixed)).status == 200


def test_parts_do_not_wait_for_operations(echo: Echo) -> None:
    Batch(echo).handle(outer([part("POST /wait HTTP/1.1")]))
    assert [request.may_wait for request in echo.requests] == [False]


class Blocking(Echo):
    """Requests below `/slow` are answered when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.running = threading.Event(), threading.Semaphore(0)

    def handle(self, request: Request) -> Response:
        if request.path.startswith("/slow"):
            self.running.release()
            assert self.go.wait(LONG)
        return super().handle(request)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_b3_one_users_batches_do_not_hold_up_anothers() -> None:
    api = Blocking()
    batches = Batch(api)
    slow = outer([part(f"GET /slow/{number} HTTP/1.1", number) for number in range(100)], authorization="Bearer ian")
    taken = [in_thread(lambda: batches.handle(slow)) for _ in range(3)]
    # A thread of each batch, and ian's share of the helpers: not all of them.
    for _ in range(3 + 8):
        assert api.running.acquire(timeout=LONG)
    quick = outer([part(f"GET /n/{number} HTTP/1.1", number) for number in range(50)], authorization="Bearer eve")
    thread, found = in_thread(lambda: batches.handle(quick))
    thread.join(LONG)
    assert found and len(answers(found[0])) == 50
    assert not api.running.acquire(blocking=False)
    api.go.set()
    for thread, found in taken:
        thread.join(LONG)
        assert len(answers(found[0])) == 100


lines = st.sampled_from(
    ["--b", "--b--", "Content-Type: application/http", "Content-Type: multipart/mixed; boundary=b", "Content-ID: <1>",
     "Content-ID: <\xfc>", "", "GET /compute/v1/projects/p/zones HTTP/1.1", "POST http://[ HTTP/1.1", "\x00",
     "Content-Transfer-Encoding: base64", "Content-Transfer-Encoding: quoted-printable", "x: y", " folded", "{}"]
) | st.text(max_size=12)  # fmt: skip


@given(st.lists(lines, max_size=30), st.sampled_from(["\r\n", "\n", "\r"]), st.sampled_from(["b", '"b"', "", "c;x"]))
@example(["--b", "Content-ID: <\xfc>", "", "GET /a HTTP/1.1", "--b--"], "\r\n", "b")
@settings(max_examples=300)
def test_e_any_body_is_a_batch_or_400(body: list[str], ends: str, boundary: str) -> None:
    request = outer([], **{"content-type": f"multipart/mixed; boundary={boundary}"})
    request.body = ends.join(body).encode("utf-8", "surrogatepass")
    try:
        parts = split(request, 1_000_000)
    except ApiError as error:
        assert error.code == 400
    else:
        assert 0 < len(parts) <= body.count("--b") + 20
    echo = Echo()
    response = Batch(echo).handle(request)
    assert response.status in (200, 400)
    assert response.status == 200 or not echo.requests
