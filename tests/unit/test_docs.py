"""Pages that follow from the code are up to date."""

from __future__ import annotations

import re

import pytest

from gateway.snippets import snippets
from gstack.cli import TOOLS, main
from gstack.cli.docs import PAGES, ROOT, VALUES_SCHEMA, chart_schema
from gstack.kernel.contract import bodies, leaves, method_id, services
from gstack.kernel.settings import Settings

README = ROOT / "README.md"


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_its_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run `make docs`"


def test_the_charts_values_know_the_settings() -> None:
    assert VALUES_SCHEMA.read_text() == chart_schema(), "run `make docs`"


def test_every_setting_and_every_method_has_its_line() -> None:
    configuration, mapping = PAGES["configuration.md"](), PAGES["mapping.md"]()
    for name in Settings.model_fields:
        assert f"| `GSTACK_{name.upper()}` |" in configuration
    for service in services():
        for method in service.methods:
            assert f"| `{method_id(method).removeprefix('compute.')}` |" in mapping


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_whole(name: str) -> None:
    """A bar or a line end in a text would break its row."""
    rows = [line for line in PAGES[name]().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_every_leaf_of_a_body_has_its_line() -> None:
    page = PAGES["fields.md"]()
    for name, (descriptor, _) in bodies().items():
        part = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `([^`]+)`", part, re.MULTILINE) == [path for path, _ in leaves(descriptor)]


@pytest.mark.skipif(not README.exists(), reason="there is no README yet")
def test_the_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^\s*(?:\$ )?(?:\S*/)?gstack ([a-z]+)(.*)$", README.read_text(), re.MULTILINE)
    commands += re.findall(r"`gstack ([a-z]+)([^`]*)`", README.read_text())
    assert commands
    for name, rest in commands:
        assert name in main.commands, f"gstack {name}"
        known = {option for parameter in main.commands[name].params for option in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest.partition("#")[0]):
            assert option in known, f"gstack {name} {option}"


def test_every_client_is_on_the_page_and_in_the_docs() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    shown = " ".join(snippet.title.lower() for snippet in snippets("https://gce.example.org"))
    for tool in TOOLS:
        assert f"\n## {tool}\n" in page and f"| [{tool}](#{tool}) |" in page
        assert tool in shown
