"""A person with a browser that knows forms and cookies, and nothing of JavaScript."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import requests

from tests.clients.conftest import PROJECT, Stack


class Person:
    def __init__(self, stack: Stack, username: str = "demo", password: str = "demo", **typed: str):
        """typed: more fields of the login form; `api_key` and `secret_key` go without a user name."""
        self._stack = stack
        self.typed = {"username": "" if typed.get("api_key") else username, "password": password, **typed}
        self.browser = requests.Session()

    def get(self, path: str) -> requests.Response:
        return self.browser.get(urljoin(self._stack.url, path), timeout=30, allow_redirects=False)

    def submit(self, page: requests.Response, action: str, **typed: str) -> requests.Response:
        """Fill in the page's form with this action and send it."""
        found = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', page.text, re.S)
        assert found, page.text
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found[0]))
        form = {name: html.unescape(value) for name, value in hidden.items()} | typed
        return self.browser.post(self._stack.url + action, form, timeout=30, allow_redirects=False)

    def sign_in(self, page: requests.Response) -> requests.Response:
        """The answer to the login form."""
        return self.submit(page, "/login", **self.typed)

    def visit(self, path: str) -> requests.Response:
        """A page for people, signed in on the way if need be."""
        page = self.get(path)
        while page.status_code == 303:
            page = self.get(page.headers["Location"])
        if 'action="/login"' in page.text:
            answer = self.sign_in(page)
            assert answer.status_code == 303, answer.text
            page = self.get(answer.headers["Location"])
        return page

    def agree(self, address: str, decision: str = "allow") -> requests.Response:
        """Open what a program shows (host and scheme are ours), sign in, decide; returns what comes then."""
        parts = urlsplit(address)
        page = self.visit(f"{parts.path}?{parts.query}")
        return self.submit(page, "/oauth2/consent", decision=decision)

    def authorize(self, decision: str = "allow", **query: str) -> requests.Response:
        return self.agree(f"/oauth2/auth?{urlencode(query)}", decision)

    def code(self, address: str) -> str:
        """The code that the page shows to be copied."""
        page = self.agree(address)
        found = re.search(r'<output id="code"[^>]*>([^<]+)</output>', page.text)
        assert found, page.text
        return html.unescape(found[1])

    def key(self, account_id: str = "canaries", project: str = PROJECT) -> dict[str, Any]:
        """The key file of a service account, made on the page."""
        made = self.submit(self.visit("/keys"), "/keys", account_id=account_id, project=project, days="0")
        found = re.search(r'href="data:application/json;base64,([^"]+)"', made.text)
        assert found, made.text
        key: dict[str, Any] = json.loads(base64.b64decode(found[1]))
        return key
