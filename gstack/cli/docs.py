"""Generates what follows from the code, for `make docs`: pages of docs/, and the settings in the schema of the
chart's values."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from gstack.kernel.contract import bodies, comment, leaves, method_id, services
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
    from gateway.others import absent_collections
    from translator_service import resources
    from translator_service.rpc import METHODS

    resources.load()
    lines = [
        "# Mapping: GCE methods and CloudStack calls",
        "",
        "Generated from the protos and `translator_service/resources/`; `make docs` writes it anew.",
        "Every other method of compute v1 is 400 with its name. A CloudStack can have nothing of these collections, so",
        "their lists are empty:",
        *textwrap.wrap(", ".join(f"`{one}`" for one in sorted(absent_collections())) + ".", 118),
        "",
        "| GCE method | what it does | CloudStack calls | differences from GCE |",
        "|---|---|---|---|",
    ]
    for service in services():
        for descriptor in service.methods:
            method = METHODS.get(f"{service.name}.{descriptor.name}")
            name = method_id(descriptor).removeprefix("compute.")
            calls = ", ".join(f"`{call}`" for call in method.calls) if method else "not offered"
            lines.append(f"| `{name}` | {comment(descriptor)} | {calls} | {method.differences if method else ''} |")
    return "\n".join(lines) + "\n"


_USES = {
    "HONOURED": "honoured",
    "KEPT": "kept",
    "OUTPUT": "looked over: the server says it",
    "NOTHING": "changes nothing",
    "REFUSED": "refused",
}


def fields() -> str:
    """What becomes of each field of a request's body."""
    lines = [
        "# Fields: what becomes of what a client sends",
        "",
        "Generated from the protos; `make docs` writes it anew.",
        "",
        "Every field that a body may have in compute v1 is here. *Honoured*: it has its effect, or is refused for its",
        "value. *Kept*: it has no effect on CloudStack and comes back as it was put in. *Refused*: 400 with the path",
        "of the field and the reason. What says nothing (null, false, 0, empty texts, lists and objects, also nested,",
        "and GCE's own default values) is refused nowhere: it is looked over, or kept with the rest of its block. In a",
        "PATCH null takes a field, a list or a map away. A name that GCE does not have either is 400 `Cannot find",
        "field`.",
    ]
    for name, (descriptor, methods) in bodies().items():
        lines += ["", f"## {name}", "", f"Body of {', '.join(f'`{one}`' for one in methods)}.", ""]
        lines += ["| field | what becomes of it | why | says nothing |", "|---|---|---|---|"]
        for path, found in leaves(descriptor):
            unset = ", ".join(f"`{value}`" for value in found.unset)
            lines.append(f"| `{path}` | {_USES[found.use]} | {found.why} | {unset} |")
    return "\n".join(lines) + "\n"


def chart_schema() -> str:
    """`values.schema.json`, its last definition written anew: which settings `config` may have, and of what kind."""
    known = {}
    for name, about in Settings.model_json_schema()["properties"].items():
        if not name.endswith("database_url") and about.get("format") != "password":
            known[f"GSTACK_{name.upper()}"] = _kind(about)
    secret = {"pattern": "_DATABASE_URL$|^GSTACK_PAGE_TOKEN_KEY$|^OTEL_.*_HEADERS$"}
    others = {"^OTEL_[A-Z0-9_]+$": {"type": ["string", "integer", "number", "boolean"]}}
    lines = [
        '    "settings": {',
        '      "type": "object",',
        '      "propertyNames": {',
        f'        "not": {json.dumps(secret)},',
        '        "description": "Secret settings are files: see secrets"',
        "      },",
        f'      "patternProperties": {json.dumps(others)},',
        '      "additionalProperties": false,',
        '      "properties": {',
        ",\n".join(f'        "{name}": {json.dumps(kind)}' for name, kind in known.items()),
        "      }",
        "    }",
        "  }",
        "}",
        "",
    ]
    before, mark, _ = VALUES_SCHEMA.read_text().partition(lines[0])
    assert mark, VALUES_SCHEMA
    return before + "\n".join(lines)


def _kind(about: dict[str, Any]) -> dict[str, Any]:
    """What a value in YAML may be: numbers and booleans come as such, or as text."""
    bounds: dict[str, Any] = {key: about[key] for key in ("minimum", "exclusiveMinimum") if key in about}
    match about.get("type"):
        case "integer":
            return {"type": ["integer", "string"], "pattern": "^[0-9]+$", **bounds}
        case "number":
            return {"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?$", **bounds}
        case "boolean":
            return {"enum": [True, False, "true", "false"]}
    return {"enum": about["enum"]} if "enum" in about else {"type": "string"}


VALUES_SCHEMA = ROOT / "deploy" / "helm" / "gstack" / "values.schema.json"
PAGES = {"configuration.md": configuration, "fields.md": fields, "mapping.md": mapping}


def main() -> None:
    for name, make in PAGES.items():
        (ROOT / "docs" / name).write_text(make())
        sys.stdout.write(f"docs/{name}\n")
    VALUES_SCHEMA.write_text(chart_schema())


if __name__ == "__main__":
    main()
