"""Labels and network tags: what GCE takes."""

from __future__ import annotations

import pytest

from gstack.kernel.errors import ApiError
from translator_service.gce.labels import check_labels, check_tags


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"env": "prod", "a_b-1": "", "x" * 63: "9" * 63},
        {"équipe": "zürich", "owner": "日本", "ключ": "значение", "अ": "١٢", "ß": "-_"},
        {"é" * 63: "ü" * 63},
        {"日" * 42: "日" * 42},
        {"\U00020000": "\U0001d7d8"},
        {f"k{number}": "v" for number in range(64)},
    ],
)
def test_labels(labels: dict[str, str]) -> None:
    assert check_labels(labels, "resource.labels") == labels


@pytest.mark.parametrize(
    "label",
    [
        ("", "a"), ("A", "a"), ("É", "a"), ("1a", "a"), ("_a", "a"), ("-a", "a"), ("a b", "a"), ("a.b", "a"),
        ("a/b", "a"), ("x" * 64, "a"), ("日" * 43, "a"), ("a", "Upper"), ("a", "ZÜRICH"), ("a", "a b"), ("a", "a:b"),
        ("a", "x" * 64), ("a", "日" * 43), ("a", "\U0001f600"), ("a", "a\n"), ("a\n", "a"), ("a", "e\u0301"),
    ],
)  # fmt: skip
def test_labels_that_gce_refuses(label: tuple[str, str]) -> None:
    with pytest.raises(ApiError) as error:
        check_labels(dict([label]), "resource.labels")
    assert (error.value.code, error.value.location) == (400, f"resource.labels.{label[0]}")


def test_at_most_64_labels_and_tags() -> None:
    for check in (
        lambda: check_labels({f"k{number}": "v" for number in range(65)}, "f"),
        lambda: check_tags([f"t{number}" for number in range(65)], "f"),
    ):
        with pytest.raises(ApiError) as error:
            check()
        assert (error.value.code, error.value.location) == (400, "f")


def test_tags() -> None:
    assert check_tags(["web", "a" * 63, "web", "b-1"], "f") == ["a" * 63, "b-1", "web"]
    assert len(check_tags([f"t{number}" for number in range(64)], "f")) == 64


@pytest.mark.parametrize("tag", ["", "A", "1a", "a-", "a_b", "é", "a" * 64, "a b"])
def test_tags_that_gce_refuses(tag: str) -> None:
    with pytest.raises(ApiError) as error:
        check_tags(["ok", tag], "f")
    assert (error.value.code, error.value.location) == (400, "f[1]")
