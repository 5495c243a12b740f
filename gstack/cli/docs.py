"""Generates the pages of docs/ that follow from the code: configuration.md and mapping.md. `make docs` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from gstack.kernel.contract import comment, method_id, services
from gstack.kernel.settings import Settings

ROOT = Path(__file__).parents[2]


def configuration() -> str:
    """A table of all settings."""
    lines = [
        "# Configuration",
        "",
        "Generated from `gstack/kernel/settings.py`; `make docs` writes it anew.",
        "",
        "Each setting is an environment variable, or a lower-case key without `GSTACK_` in the TOML file that",
        "`GSTACK_CONFIG` names. The environment wins. Times are in seconds, sizes in bytes.",
        "",
        "What must not stand in an environment may be a file: `GSTACK_SECRETS_DIR` names a folder in which a file",
        "`gstack_database_url`, for example, holds the value of `GSTACK_DATABASE_URL`. Files of keys and certificates",
        "have settings of their own below. Traces go to the OpenTelemetry collector that `OTEL_EXPORTER_OTLP_ENDPOINT`",
        "names, if the extra `otel` is installed; OpenTelemetry's other variables hold too.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ("", None) or "secret" in str(type(field.default)).lower() else field.default
        if name == "state_dir":
            default = "~/.local/state/gstack"
        lines.append(f"| `GSTACK_{name.upper()}` | {f'`{default}`' if default != '' else ''} | {field.description} |")
    return "\n".join(lines) + "\n"


def mapping() -> str:
    """The coverage table: each method, the CloudStack calls behind it, what differs from GCE."""
    from translator_service import resources
    from translator_service.rpc import METHODS

    resources.load()
    lines = [
        "# Mapping: GCE methods and CloudStack calls",
        "",
        "Generated from the protos and `translator_service/resources/`; `make docs` writes it anew.",
        "Every other method of compute v1 answers 501 with its name.",
        "",
        "| GCE method | what it does | CloudStack calls | differences from GCE |",
        "|---|---|---|---|",
    ]
    for service in services():
        for descriptor in service.methods:
            method = METHODS.get(f"{service.name}.{descriptor.name}")
            name = method_id(descriptor).removeprefix("compute.")
            calls = ", ".join(f"`{call}`" for call in method.calls) if method else "not implemented"
            lines.append(f"| `{name}` | {comment(descriptor)} | {calls} | {method.differences if method else ''} |")
    return "\n".join(lines) + "\n"


PAGES = {"configuration.md": configuration, "mapping.md": mapping}


def main() -> None:
    for name, make in PAGES.items():
        (ROOT / "docs" / name).write_text(make())
        sys.stdout.write(f"docs/{name}\n")


if __name__ == "__main__":
    main()
