"""The pages for people in a real browser: Debian's Chromium, driven by playwright, without JavaScript but for copying.

Each is looked at in both themes, on a desk and on a phone. The `chromium` package is installed by the test where it is
missing; that needs root.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.clients.conftest import Stack
from tests.packages import install

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser")]

SDK = "32555940559.apps.googleusercontent.com"
OOB = "urn:ietf:wg:oauth:2.0:oob"
GOOGLE = "https://www.googleapis.com/auth/"
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_LOOKS: tuple[tuple[Any, int], ...] = (("light", 1100), ("dark", 1100), ("light", 390), ("dark", 390), ("dark", 320))

# Each with a set-up on the front page.
CLIENTS = (
    "A token for curl", "gcloud", "gcutil", "Terraform", "Application default credentials",
    "google-cloud-compute (Python)", "libcloud", "Ansible", "Packer", "Go", "Node.js", "Java",
)  # fmt: skip

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        install("chromium")
        path = shutil.which("chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield opened
        opened.close()


@pytest.fixture(params=_LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def look(request: pytest.FixtureRequest) -> tuple[Any, int]:
    found: tuple[Any, int] = request.param
    return found


@pytest.fixture
def open_page(stack: Stack, browser: Browser) -> Iterator[Open]:
    """Opens a path in a browser of its own, which forgets everything afterwards; complaints of the browser fail."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def make(path: str, theme: Any = "light", width: int = 1100, scripted: bool = False) -> Page:
        size: Any = {"width": width, "height": 800}
        contexts.append(browser.new_context(color_scheme=theme, viewport=size, java_script_enabled=scripted))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(stack.url + path)
        return page

    yield make
    for context in contexts:
        context.close()
    # The console tells of every answer that is an error too; those are what the tests are about. And the tests type
    # before a page has put the focus where it belongs.
    known = ("Failed to load resource", "Autofocus processing was blocked")
    assert [text for text in problems if not text.startswith(known)] == []


def fits(page: Page, width: int) -> None:
    """No horizontal scrolling, one heading, a language, a name for every field."""
    assert page.locator("h1").count() == 1
    assert page.locator("html[lang]").count() == 1
    for field in page.locator("input:not([type=hidden]), select").all():
        assert field.evaluate("field => field.labels.length > 0"), field.get_attribute("name")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def enter(page: Page) -> None:
    with page.expect_navigation():
        page.keyboard.press("Enter")


def sign_in(page: Page, name: str = "demo") -> None:
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Sign in").click()


def authorization(**more: str) -> str:
    scope = f"openid {GOOGLE}userinfo.email {GOOGLE}compute {GOOGLE}appengine.admin"
    query = {"response_type": "code", "client_id": SDK, "redirect_uri": OOB, "scope": scope}
    return f"/oauth2/auth?{urlencode(query | more)}"


def test_front_page(stack: Stack, open_page: Open, look: tuple[Any, int]) -> None:
    page = open_page("/", *look)
    assert page.get_by_role("heading", name="Compute Engine API").is_visible()
    assert f"{stack.url}/compute/v1/" in page.inner_text("main")
    for client in CLIENTS:
        assert page.get_by_role("heading", name=client, exact=True).is_visible()
    # There is nothing to press where nothing could happen.
    assert page.get_by_role("button", name="Copy").count() == 0
    assert page.locator(".up").first.inner_text() == "up"
    fits(page, look[1])


@pytest.mark.parametrize(
    ("look", "is_secure"),
    [(("light", 1100), True), (("dark", 375), False)],
    ids=["with a clipboard", "over plain http"],
)
def test_each_set_up_is_copied_by_a_button(open_page: Open, look: tuple[Any, int], is_secure: bool) -> None:
    """Chromium holds the page's policy against its script, too."""
    page = open_page("/", *look, scripted=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not is_secure:
        page.evaluate("navigator.clipboard.writeText = undefined")
    buttons = page.get_by_role("button", name="Copy")
    assert buttons.count() == page.locator("pre").count() == len(CLIENTS)
    fits(page, look[1])
    for client in ("gcloud", "Java"):
        page.evaluate("document.activeElement.blur()")
        button = page.get_by_role("button", name=f"Copy {client}", exact=True)
        # From the text before it, as somebody without a mouse comes to it.
        button.locator("xpath=preceding::*[@tabindex][1]").focus()
        page.keyboard.press("Tab")
        assert button.evaluate("button => button === document.activeElement")
        page.keyboard.press("Enter")
        page.get_by_text(f"{client}: Copied", exact=True).wait_for(state="attached")
        shown = page.get_by_label(client, exact=True).inner_text()
        assert page.evaluate("navigator.clipboard.readText()") == shown and len(shown) > 50


def test_sign_in_agree_and_copy_the_code(stack: Stack, open_page: Open, look: tuple[Any, int]) -> None:
    page = open_page(authorization(), *look)
    assert "Google Cloud SDK" in page.inner_text("main")
    page.get_by_label("User name").fill("demo")
    page.get_by_label("Password").fill("not it")
    enter(page)
    assert "is wrong" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("User name").input_value() == "demo"
    assert page.get_by_label("Password").input_value() == ""
    fits(page, look[1])
    page.get_by_label("Password").fill("demo")
    enter(page)

    assert page.get_by_role("heading", name="Google Cloud SDK wants to use your cloud account").is_visible()
    told = page.inner_text("main")
    assert "demo@example.org" in told
    assert "See, create, change and delete your machines, disks, networks and firewall rules" in told
    assert "See your name and e-mail address" in told
    assert "1 permission that has no effect here" in told
    assert page.get_by_role("button", name="Deny").is_visible()
    fits(page, look[1])
    page.get_by_role("button", name="Allow").click()

    code = page.get_by_label("Code").inner_text()
    fits(page, look[1])
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": OOB, "client_id": SDK}
    reply = requests.post(f"{stack.url}/oauth2/token", form, timeout=30)
    assert reply.status_code == 200, reply.text


def test_a_program_on_this_machine_gets_the_answer(open_page: Open) -> None:
    """Chromium holds the page's form-action policy against the redirect that follows the form."""
    page = open_page(authorization(redirect_uri="http://localhost:9/callback", state="s t"))
    sign_in(page)
    consent = page.url
    for button, name in (("Deny", "error"), ("Allow", "code")):
        page.goto(consent)
        # Nobody listens there: the browser is done when it says so.
        with (
            page.expect_request(lambda request: request.url.startswith("http://localhost:9/")) as sent,
            page.expect_event("framenavigated", lambda frame: frame.url.startswith("chrome-error:")),
        ):
            page.get_by_role("button", name=button).click(no_wait_after=True)
        found = parse_qs(urlsplit(sent.value.url).query)
        assert found["state"] == ["s t"] and name in found


def test_another_account(open_page: Open) -> None:
    page = open_page(authorization())
    sign_in(page)
    page.get_by_role("button", name="Use another account").click()
    sign_in(page, "ian")
    assert "ian@example.org" in page.inner_text("main")


def test_a_device_is_let_in(stack: Stack, open_page: Open, look: tuple[Any, int]) -> None:
    asked = requests.post(
        f"{stack.url}/oauth2/device/code", {"client_id": SDK, "scope": f"{GOOGLE}compute.readonly"}, timeout=30
    ).json()
    page = open_page("/device", *look)
    sign_in(page)
    page.get_by_label("Code").fill("BCDF-GHJK")
    enter(page)
    assert "no such code" in page.get_by_role("alert").inner_text()
    fits(page, look[1])
    page.get_by_label("Code").fill(asked["user_code"].lower().replace("-", " "))
    enter(page)
    assert asked["user_code"] in page.inner_text("main")
    assert "but change nothing" in page.inner_text("main")
    fits(page, look[1])
    page.get_by_role("button", name="Allow").click()
    assert "Your device is signed in" in page.inner_text("main")
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": asked["device_code"],
        "client_id": SDK,
    }
    assert requests.post(f"{stack.url}/oauth2/token", form, timeout=30).status_code == 200


def test_the_link_of_a_device_fills_in_its_code(stack: Stack, open_page: Open) -> None:
    asked = requests.post(f"{stack.url}/oauth2/device/code", {"client_id": SDK}, timeout=30).json()
    page = open_page(asked["verification_uri_complete"].removeprefix(stack.url))
    sign_in(page)
    assert page.get_by_label("Code").input_value() == asked["user_code"]


def test_make_a_key_use_it_delete_it(stack: Stack, open_page: Open, look: tuple[Any, int], tmp_path: Path) -> None:
    name = f"page-{look[0]}-{look[1]}"
    page = open_page("/keys", *look)
    sign_in(page)
    page.get_by_label("Name").fill("x")
    page.locator("form[action='/keys']").evaluate("form => form.noValidate = true")
    page.get_by_role("button", name="Make a key").click()
    assert "accountId" in page.get_by_role("alert").inner_text()
    fits(page, look[1])
    page.get_by_label("Name").fill(name)
    page.get_by_label("Read only").check()
    page.get_by_label("Expires").select_option("30")
    page.get_by_role("button", name="Make a key").click()

    assert "shown once" in page.inner_text("main")
    fits(page, look[1])
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    file = tmp_path / "key.json"
    download.value.save_as(file)
    key = json.loads(file.read_text())
    assert download.value.suggested_filename == f"{name}-{key['private_key_id'][:12]}.json"
    scopes = [f"{GOOGLE}compute"]
    session = AuthorizedSession(service_account.Credentials.from_service_account_file(str(file), scopes=scopes))
    assert session.get(f"{stack.api}/zones").status_code == 200
    assert session.post(f"{stack.api}/global/firewalls", json={"name": "x"}).status_code == 403

    page.get_by_role("link", name="Back to Keys and access").click()
    row = page.locator("main").inner_text()
    assert key["private_key_id"] in row and key["client_email"] in row
    assert time.strftime("%Y-%m-%d", time.gmtime()) in row
    fits(page, look[1])
    # The file is not there to be fetched again.
    assert key["private_key"].splitlines()[3] not in page.content()
    card = page.locator("form[action='/keys/delete']").filter(
        has=page.locator(f"input[value='{key['private_key_id']}']")
    )
    card.evaluate("form => { for (const one of document.querySelectorAll('details')) one.open = true }")
    card.get_by_role("button").click()
    assert key["private_key_id"] not in page.inner_text("main")
    fresh = AuthorizedSession(service_account.Credentials.from_service_account_file(str(file), scopes=scopes))
    with pytest.raises(Exception, match="invalid_grant"):
        fresh.get(f"{stack.api}/zones")


def test_end_the_access_of_a_program_and_sign_out(stack: Stack, open_page: Open) -> None:
    page = open_page(authorization())
    sign_in(page, "ian")
    page.get_by_role("button", name="Allow").click()
    form = {"code": page.get_by_label("Code").inner_text(), "redirect_uri": OOB, "client_id": SDK}
    token = requests.post(f"{stack.url}/oauth2/token", {"grant_type": "authorization_code", **form}, timeout=30).json()
    page.goto(f"{stack.url}/keys")
    assert "Google Cloud SDK" in page.inner_text("main")
    ending = page.locator("form[action='/grants/delete']").first
    ending.evaluate("form => { for (const one of document.querySelectorAll('details')) one.open = true }")
    ending.get_by_role("button").click()
    assert page.locator("form[action='/grants/delete']").count() == 0
    form = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": SDK}
    assert requests.post(f"{stack.url}/oauth2/token", form, timeout=30).json()["error"] == "invalid_grant"
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.goto(f"{stack.url}/keys")
    assert page.get_by_role("heading", name="Sign in").is_visible()


def test_a_user_without_keys_is_asked(open_page: Open) -> None:
    page = open_page("/keys")
    assert page.get_by_label("Make API keys for my user").count() == 0
    sign_in(page, "nokeys")
    assert "no API keys" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("Make API keys for my user").is_visible()


@pytest.mark.parametrize(
    "path", ["/", "/login", "/keys", "/device", authorization(), authorization(redirect_uri="x:y")]
)
def test_a15_headers_of_pages(stack: Stack, path: str) -> None:
    reply = requests.get(stack.url + path, timeout=30)
    policy = reply.headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert part in policy
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert " style=" not in reply.text and "unsafe" not in policy
    # What the front page copies is on it; where people type or see secrets, nothing runs.
    scripts = re.findall(r"<script[^>]*>", reply.text)
    nonces = re.findall(r"script-src 'nonce-([^']+)'", policy)
    assert scripts == [f'<script nonce="{nonce}">' for nonce in nonces]
    assert len(nonces) == (path == "/") and not re.search(r'\son[a-z]+="', reply.text)


def test_sign_out_on_every_browser(stack: Stack, open_page: Open) -> None:
    here, elsewhere = open_page("/keys"), open_page("/keys")
    for page in (here, elsewhere):
        sign_in(page, "ian")
        assert page.get_by_role("heading", name="Keys and access").is_visible()
    here.get_by_role("button", name="Sign out on every browser").click()
    elsewhere.goto(f"{stack.url}/keys")
    for page in (here, elsewhere):
        assert page.get_by_role("heading", name="Sign in").is_visible()
