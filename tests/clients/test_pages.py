"""The pages for people in a real browser: Debian's Chromium, driven by playwright, in both themes and at phone width.

The `chromium` package is installed by the test where it is missing; that needs root.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from playwright.sync_api import Browser, sync_playwright

from tests.clients.conftest import Stack
from tests.packages import install

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("browser")]

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_LOOKS: tuple[tuple[Any, int], ...] = (("light", 1100), ("dark", 1100), ("light", 390), ("dark", 390))


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


@pytest.mark.parametrize(("theme", "width"), _LOOKS)
def test_front_page(stack: Stack, browser: Browser, theme: Any, width: int) -> None:
    page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 800})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(stack.url + "/")
    assert page.get_by_role("heading", name="Compute Engine API").is_visible()
    assert f"{stack.url}/compute/v1/" in page.inner_text("main")
    for client in ("gcloud", "gcutil", "google-cloud-compute (Python)", "libcloud", "Terraform"):
        assert page.get_by_role("heading", name=client, exact=True).is_visible()
    assert page.inner_text(".up") == "up"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert problems == []
    page.close()


@pytest.mark.parametrize(("theme", "width"), _LOOKS)
def test_sign_in_and_copy_the_code(stack: Stack, browser: Browser, theme: Any, width: int) -> None:
    query = {
        "response_type": "code",
        "client_id": "32555940559.apps.googleusercontent.com",
        "redirect_uri": "urn:ietf:wg:oauth:2.0:oob",
    }
    page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 800})
    page.goto(f"{stack.url}/oauth2/auth?{urlencode(query)}")
    page.get_by_label("User name").fill("demo")
    page.get_by_label("Password").fill("not it")
    page.get_by_role("button", name="Sign in and allow").click()
    assert "is wrong" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("User name").input_value() == "demo"
    assert page.get_by_label("Password").input_value() == ""
    page.get_by_label("Password").fill("demo")
    page.keyboard.press("Enter")
    code = page.get_by_label("Code").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": query["redirect_uri"]}
    reply = requests.post(f"{stack.url}/oauth2/token", {**form, "client_id": query["client_id"]}, timeout=30)
    assert reply.status_code == 200, reply.text
    page.close()


def test_pages_cannot_be_framed_and_run_no_script(stack: Stack) -> None:
    reply = requests.get(stack.url + "/", timeout=30)
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert "<script" not in reply.text
