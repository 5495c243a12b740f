"""What the pages decide by themselves: where a login leads, what scopes mean in words."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pages import form_source, own_page, permissions, shown_code, when

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
