"""What the pages decide by themselves: where a login leads, what scopes mean in words, what an error looks like.

The auth service is played where the real one cannot easily be brought to say something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import flask
import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway
from gateway.api import Request
from gateway.oauth import Issuer
from gateway.pages import add_pages, form_source, own_page, permissions, shown_code, when
from gstack.auth.v1 import pages_pb2, pages_pb2_grpc
from gstack.kernel.errors import ApiError
from gstack.kernel.rpc import guarded
from gstack.kernel.settings import Settings

GOOGLE = "https://www.googleapis.com/auth/"


@pytest.mark.parametrize("target", ["/", "/keys", "/device?user_code=BCDF-GHJK", "/o/oauth2/auth?a=b&c=%20d"])
def test_a_login_leads_to_pages_of_ours(target: str) -> None:
    assert own_page(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "//evil.example/",
        "/\\evil.example",
        "/keys/../x",
        "https://evil.example/keys",
        "/keys\r\nSet-Cookie: a=b",
        "/logout",
        "/compute/v1/",
        "keys",
        "/keys#x",
        "/ keys",
    ],
)
def test_and_nowhere_else(target: str) -> None:
    assert own_page(target) == "/keys"


@given(st.text(max_size=80) | st.builds("{}{}".format, st.sampled_from(["/", "//", "/keys", "/device"]), st.text()))
@settings(max_examples=400)
def test_whatever_is_asked_for(target: str) -> None:
    found = own_page(target)
    parts = urlsplit(found)
    assert found.startswith("/") and not found.startswith("//")
    assert not parts.netloc and not parts.scheme
    assert found.isprintable() and found.isascii() and " " not in found


def test_scopes_in_plain_words() -> None:
    said, others = permissions([f"{GOOGLE}compute.readonly", "openid", f"{GOOGLE}userinfo.email"])
    assert said == [
        "See your machines, disks, networks and firewall rules, but change nothing",
        "See your name and e-mail address",
    ]
    assert others == []
    said, others = permissions([f"{GOOGLE}compute", f"{GOOGLE}cloud-platform", f"{GOOGLE}bigquery", "x"])
    assert len(said) == 1 and "service accounts" in said[0]
    assert others == [f"{GOOGLE}bigquery", "x"]


@given(st.lists(st.text(max_size=30)))
def test_every_scope_is_told(scopes: list[str]) -> None:
    said, others = permissions(scopes)
    assert set(others) <= set(scopes)
    assert bool(said or others) == bool(scopes)


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("", ""),
        ("http://localhost:8085", "http://localhost:8085"),
        ("http://[::1]:8085", "http:"),
        ("http://x; script-src *", ""),
        ("http://x;y", ""),
    ],
)
def test_a_policy_cannot_be_widened_by_an_origin(origin: str, source: str) -> None:
    assert form_source(origin) == source


def test_times_and_codes() -> None:
    assert (when(0), when(1795442700)) == ("never", "2026-11-23 14:05")
    assert shown_code(" bcdf ghjk") == "BCDF-GHJK"


class Auth(pages_pb2_grpc.PagesServicer):
    """Answers every method with what the test puts here: a message, or an ApiError."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        if not name[0].isupper():
            return super().__getattribute__(name)

        def answer(_: Any, __: Any) -> Any:
            found = self.answers[name]
            if isinstance(found, ApiError):
                raise found
            return found

        return guarded(answer, name)


class Site:
    """The pages, with a browser that keeps cookies; `base` is what clients know them by."""

    def __init__(self, auth: Auth, target: str) -> None:
        self.auth = auth
        self.base = "http://localhost"
        app = flask.Flask(gateway.__name__, template_folder=str(Path(gateway.__file__).parent / "templates"))
        add_pages(
            app,
            grpc.insecure_channel(target),
            base=lambda: self.base,
            issuer=Issuer(Settings()),
            health=lambda: {"auth": True},
            incoming=lambda: Request(
                flask.request.method, flask.request.path, flask.request.query_string.decode(), {}, b"", self.base
            ),
        )
        self.browser = app.test_client()

    def get(self, path: str) -> Any:
        return self.browser.get(path, base_url=self.base)

    def post(self, path: str, **form: str) -> Any:
        """Posts a form as the login page has it."""
        token = re.search(r'name="csrf" value="([^"]+)"', self.get("/login").text)
        assert token
        return self.browser.post(path, data={"csrf": token[1], **form}, base_url=self.base)

    def sign_in(self, **form: str) -> Any:
        self.auth.answers["SignIn"] = pages_pb2.SignInResponse(session="s" * 43, seconds=60)
        return self.post("/login", username="demo", password="demo", **form)


@pytest.fixture
def site() -> Iterator[Site]:
    auth = Auth()
    server = grpc.server(ThreadPoolExecutor(2))
    pages_pb2_grpc.add_PagesServicer_to_server(auth, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Site(auth, f"127.0.0.1:{port}")
    server.stop(0)


def test_a_login_is_not_led_away(site: Site) -> None:
    for target, led in (("/device?user_code=X", "/device?user_code=X"), ("//evil.example/", "/keys")):
        answer = site.sign_in(next=target)
        assert (answer.status_code, answer.headers["Location"]) == (303, led)
    page = site.get("/login?next=" + quote("https://evil.example/keys"))
    assert 'name="next" value="/keys"' in page.text


@pytest.mark.parametrize(("seconds", "told"), [(20, "a minute"), (61, "2 minutes"), (7201, "3 hours")])
def test_a_limit_says_how_long_to_wait(site: Site, seconds: int, told: str) -> None:
    site.auth.answers["SignIn"] = ApiError(429, "Too many.", retry_after=seconds)
    answer = site.post("/login", username="demo", password="demo")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, str(seconds))
    assert f"Wait {told}" in answer.text


@pytest.mark.parametrize("code", [503, 504])
def test_a_service_that_is_away_is_a_page(site: Site, code: int) -> None:
    site.sign_in()
    site.auth.answers["Overview"] = ApiError(code, "Away.")
    answer = site.get("/keys")
    assert answer.status_code == 503
    assert answer.mimetype == "text/html" and "Try again in a moment" in answer.text
    # The front page is there to show what does not work.
    assert site.get("/").status_code == 200


def test_a_session_that_is_over_leads_to_the_login(site: Site) -> None:
    site.sign_in()
    over = ApiError(401, "Sign in again.")
    site.auth.answers |= dict.fromkeys(("Overview", "DeleteKey", "FindDevice", "Decide"), over)
    assert site.get("/keys").headers["Location"] == "/login?next=%2Fkeys"
    assert site.post("/keys/delete", id="x").headers["Location"] == "/login?next=%2Fkeys"
    assert site.post("/device", user_code="x").headers["Location"] == "/login?next=%2Fdevice"
    answer = site.post("/oauth2/consent", ticket="x", decision="allow")
    assert (answer.status_code, "Location" in answer.headers) == (401, False)


def test_a_device_without_a_login_keeps_its_code(site: Site) -> None:
    assert site.get("/device?user_code=BCDF-GHJK").headers["Location"] == (
        "/login?next=%2Fdevice%3Fuser_code%3DBCDF-GHJK"
    )


def test_too_many_keys_are_told_beside_the_keys(site: Site) -> None:
    site.sign_in()
    site.auth.answers["Overview"] = pages_pb2.OverviewResponse(keys=[pages_pb2.Key(id="k1", service_account="a@b")])
    site.auth.answers["CreateKey"] = ApiError(429, "A service account has at most 10 keys.", "quotaExceeded")
    answer = site.post("/keys", account_id="backup", days="0")
    assert answer.status_code == 400
    assert "at most 10 keys" in answer.text and "k1" in answer.text and 'value="backup"' in answer.text


def test_answers_that_no_form_of_ours_gives(site: Site) -> None:
    site.sign_in()
    assert site.post("/keys", account_id="backup", days="1").status_code == 400
    assert site.post("/oauth2/consent", ticket="x", decision="maybe").status_code == 400


def test_texts_of_others_are_shown_as_text(site: Site) -> None:
    site.auth.answers["Authorize"] = pages_pb2.AuthorizeResponse(client_name="<b>x</b>")
    page = site.get("/oauth2/auth?state=" + quote('"><script>'))
    assert "<b>x</b>" not in page.text and "&lt;b&gt;x" in page.text
    assert "<script" not in page.text


def test_a15_cookies_over_https_belong_to_the_host_alone(site: Site) -> None:
    site.base = "https://compute.example"
    page, answer = site.get("/login"), site.sign_in()
    for found, name, site_rule in ((page, "csrf", "Strict"), (answer, "session", "Lax")):
        cookie = found.headers["Set-Cookie"]
        assert cookie.startswith(f"__Host-gstack_{name}=")
        assert {"Secure", "HttpOnly", "Path=/", f"SameSite={site_rule}"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


def test_a15_redirects_and_refusals_are_not_kept(site: Site) -> None:
    for answer in (site.sign_in(), site.get("/device"), site.browser.post("/logout"), site.get("/login")):
        assert (answer.headers["Cache-Control"], answer.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_a15_only_the_consent_page_lets_a_form_lead_elsewhere(site: Site) -> None:
    consent = pages_pb2.Consent(ticket="t", client_name="c", redirect_origin="http://localhost:8085")
    site.auth.answers["Authorize"] = pages_pb2.AuthorizeResponse(consent=consent)
    assert "form-action 'self' http://localhost:8085;" in site.get("/oauth2/auth").headers["Content-Security-Policy"]
    assert "8085" not in site.get("/login").headers["Content-Security-Policy"]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_and_borders_can_be_told_from_their_ground(theme: int) -> None:
    """WCAG AA: 4.5 for text, 3 for the borders of fields."""
    style = (Path(gateway.__file__).parent / "templates" / "base.html").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", re.findall(r":root \{([^}]*)\}", style)[theme]))
    pairs = [(text, ground) for text in ("ink", "soft", "accent", "good", "bad") for ground in ("ground", "card")]
    pairs += [("on-accent", "accent"), ("on-bad", "bad"), ("bad", "bad-ground"), ("ink", "warn-ground")]
    for needed, checked in ((4.5, pairs), (3.0, [("edge", "ground"), ("edge", "card")])):
        for one, other in checked:
            light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= needed, (one, other)
