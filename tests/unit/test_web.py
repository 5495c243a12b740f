"""The Flask application without a server: hosts, forms, and what is no request of the API."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from werkzeug.test import create_environ, run_wsgi_app

from gateway.compression import inflated
from gateway.web import body_limit, create_app, is_host, is_probe
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings

# Nobody listens there, and nothing that is tried here asks anybody.
SETTINGS = Settings(translator_target="127.0.0.1:1", auth_target="127.0.0.1:1", proxies=1)


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app(SETTINGS).test_client()


_ODD = "ax-n.:[]019_%@/ \xe9,"
hosts = st.text(max_size=20) | st.text(_ODD, max_size=90) | st.text(_ODD, max_size=24).map("xn--{}".format)


@given(hosts, st.booleans())
@example("xn--zzzz", False)
@example("xn--a" * 60, True)
@settings(max_examples=300)
def test_e_any_host_leads_to_an_answer_or_400(client: FlaskClient, host: str, is_forwarded: bool) -> None:
    text = host.encode("utf-8", "replace").decode("latin-1")
    for path in ("/discovery/v1/apis", "/compute/v1/projects/p/zones"):
        # Not by the client, which has itself no answer to all of them.
        environ = create_environ(path) | {"HTTP_X_FORWARDED_HOST" if is_forwarded else "HTTP_HOST": text}
        chunks, status, headers = run_wsgi_app(client.application, environ, buffered=True)
        assert status[:3] in ("200", "400", "401")
        assert headers["Content-Type"].startswith("application/json")
        if text and not is_forwarded and status[:3] == "200":
            assert is_host(text)
            assert text.removesuffix(":80") in b"".join(chunks).decode()


@pytest.mark.parametrize("scheme", ["javascript", "ftp"])
def test_a_proxy_that_says_nonsense(client: FlaskClient, scheme: str) -> None:
    assert client.get("/discovery/v1/apis", headers={"X-Forwarded-Proto": scheme}).status_code == 400


def test_c1_what_takes_forms_takes_small_ones(client: FlaskClient) -> None:
    form = "application/x-www-form-urlencoded"
    for path in ("/oauth2/token", "/v1/token", "/login", "/device"):
        large = 20_000 if "token" in path else 70_000
        assert client.post(path, data=b"a=" + b"x" * large, content_type=form).status_code == 413
        if "token" not in path:
            assert client.post(path, data=b"a&" * 200, content_type=form).status_code == 400
        assert client.post(path, data=b"a=%00", content_type=form).status_code == 400
        assert client.post(path + "?a=%07", data=b"", content_type=form).status_code == 400


API = "/compute/v1/projects/p/zones/z/instances"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def _posted(client: FlaskClient, path: str, body: bytes, encoding: str) -> tuple[int, Any]:
    headers = {"Content-Encoding": encoding, **({} if path.startswith("/compute") else FORM)}
    reply = client.post(path, data=body, headers=headers)
    if reply.status_code == 415:
        assert reply.headers["Accept-Encoding"] == "gzip, deflate"
    return reply.status_code, reply.json


@pytest.mark.parametrize("path", [API, "/v1/projects/p/serviceAccounts"])
def test_compressed_bodies_of_the_apis(client: FlaskClient, path: str) -> None:
    """Without a token, whole bodies get as far as 401."""
    good = gzip.compress(b"{}")
    for body, encoding, status in (
        (good, "gzip", 401),
        (good, " GZip ", 401),
        (good, "x-gzip", 401),
        (zlib.compress(b"{}"), "deflate", 401),
        (b"{}", "identity", 401),
        (b"", "gzip", 401),
        (gzip.compress(b""), "gzip", 401),
        (good[:-1], "gzip", 400),
        (good[:12], "gzip", 400),
        (good + b"\0", "gzip", 400),
        (good + good, "gzip", 400),
        (b"{}", "gzip", 400),
        (good, "deflate", 400),
        (good, "br", 415),
        (good, "gzip, gzip", 415),
        (gzip.compress(b"x" * (SETTINGS.max_body + 1)), "gzip", 413),
    ):
        found, answer = _posted(client, path, body, encoding)
        assert (found, answer["error"]["code"], status) == (status, status, found), (body[:20], encoding)


def test_compressed_forms(client: FlaskClient) -> None:
    good = gzip.compress(b"grant_type=client_credentials")
    for body, encoding, status in (
        # Nobody is there to answer it.
        (good, "gzip", 503),
        (good[:-1], "gzip", 400),
        (good, "br", 415),
        (gzip.compress(b"a=" + b"x" * 20_000), "gzip", 413),
        (gzip.compress(b"a=" + b"x" * 2_000_000), "gzip", 413),
    ):
        found, answer = _posted(client, "/oauth2/token", body, encoding)
        assert found == status
        assert status == 503 or answer["error"] == "invalid_request", answer
    assert _posted(client, "/login", gzip.compress(b"a=%00"), "gzip")[0] == 400
    assert _posted(client, "/login", gzip.compress(b"a=" + b"x" * 70_000), "gzip")[0] == 413


def test_c1_a_bomb_costs_no_more_than_its_bound() -> None:
    bomb = gzip.compress(b"\0" * 200_000_000)
    tracemalloc.start()
    with pytest.raises(ApiError) as raised:
        inflated(bomb, "gzip", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (raised.value.code, peak < 4_000_000) == (413, True)
    assert inflated(gzip.compress(b"x" * 1000), "gzip", 1000) == b"x" * 1000


def test_a_long_query_may_come_compressed(client: FlaskClient) -> None:
    headers = {"X-HTTP-Method-Override": "GET", "Content-Encoding": "gzip", **FORM}
    assert client.post(API, data=gzip.compress(b"filter=name+eq+x"), headers=headers).status_code == 401
    assert client.post(API, data=gzip.compress(b"filter=%00"), headers=headers).status_code == 400


def test_bounds_by_path() -> None:
    for path in ("/compute/v1/projects/p/zones/z/instances", "/batch", "/batch/compute/v1", "/v1/projects/p/x"):
        assert body_limit(SETTINGS, path) == SETTINGS.max_body
    for path in ("/", "/v1/token", "/oauth2/token", "/login", "/computer", "//compute/v1"):
        assert body_limit(SETTINGS, path) <= 64 * 1024
    assert [path for path in ("/healthz", "/readyz", "/readyz/auth", "/healthz/x", "/") if not is_probe(path)] == [
        "/healthz/x",
        "/",
    ]


@given(st.text(max_size=4000), st.text(max_size=400))
@settings(max_examples=60)
@example("\U0001f600" * 4000, "\U0001f600" * 400)
@example("x" * 100_000, "y" * 100_000)
def test_e_errors_fit_into_the_headers_of_grpc(message: str, location: str) -> None:
    error = ApiError(400, message, location=location)
    # Percent-encoded in one header, in base64 in the other; 8 kB is what gRPC takes.
    assert 3 * len(error.message.encode()) + 4 / 3 * len(error.to_metadata()[1]) < 8000
    # What is cut out of a long one is its middle.
    assert error.message[:250] == message[:250] and error.message[-80:] == message[-80:]
