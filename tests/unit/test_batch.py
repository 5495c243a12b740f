"""The wire format of `POST /batch/compute/v1`, as gcloud and the Google libraries write and read it."""

from __future__ import annotations

import email
import json
import threading
from typing import Any

import pytest

from gateway.api import Request, Response
from gateway.batch import MAX_PARTS, Batch
from gstack.kernel.settings import Settings

BOUNDARY = "===============7330845974216740156=="


class Echo:
    """Answers with what it was asked; `/fail` is 404."""

    settings = Settings(max_body=1_000_000)

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.threads: set[int] = set()

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
