"""`make collection NAME=routers`: the proto and the module of a collection, as far as Google's document tells them.

Names, types, paths and enums come from the discovery document of compute v1; comments, and what becomes of each field,
are for who writes the collection. Nothing that is there already is overwritten.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from gstack.kernel.contract import COMPUTE, file_set
from tests.contract.documents import google

ROOT = Path(__file__).parents[2]
_PARAMETERS = "/compute/v1/projects/{project}/"
_LISTS = {"zone": "ListInZoneRequest", "region": "ListInRegionRequest", "": "ListRequest"}
_SCALARS = {
    ("string", None): "string",
    ("string", "byte"): "bytes",
    ("string", "int64"): "optional int64",
    ("string", "uint64"): "optional uint64",
    ("boolean", None): "optional bool",
    ("integer", "int32"): "optional int32",
    ("integer", "uint32"): "optional uint32",
    ("number", "double"): "optional double",
    ("number", "float"): "optional float",
}


class Skeleton:
    """document: Google's; collection: its name there, as `snapshots`."""

    def __init__(self, document: dict[str, Any], collection: str):
        self._schemas: dict[str, Any] = document["schemas"]
        self._methods: dict[str, Any] = document["resources"][collection]["methods"]
        self.collection = collection
        self.service = _upper(collection)
        self.file = re.sub(r"(?<!^)(?=[A-Z])", "_", collection).lower()
        # Messages that are in other protos: name -> file.
        self._known = {
            message.name: file.name
            for file in file_set().file
            if file.package == COMPUTE and not file.name.endswith(f"/{self.file}.proto")
            for message in file.message_type
        }
        self._imports = {"google/api/annotations.proto", "gstack/api/field.proto"}
        self._messages: dict[str, str] = {}

    def proto(self) -> str:
        rpcs = [self._rpc(name, method) for name, method in sorted(self._methods.items())]
        imports = "\n".join(f'import "{one}";' for one in sorted(self._imports))
        return (
            f'//\nsyntax = "proto3";\n\npackage {COMPUTE};\n\n{imports}\n\n'
            f"// compute.{self.collection}\nservice {self.service} {{\n"
            + "\n".join(rpcs)
            + "}\n\n"
            + "\n".join(self._messages.values())
        )

    def _rpc(self, name: str, method: dict[str, Any]) -> str:
        verb, path = method["httpMethod"].lower(), "/compute/v1/" + method["flatPath"]
        body = method.get("request", {}).get("$ref", "")
        field = "body" if "resource" in method["parameters"] else "resource"
        rule = f'{verb}: "{path}"' + (f' body: "{field}"' if body else "")
        request = self._request(name, method, body, field)
        response = method.get("response", {}).get("$ref", "")
        if response:
            self._message(response)
        else:
            response = request.removesuffix("Request") + "Response"
            self._messages[response] = f"//\nmessage {response} {{}}\n"
        return (
            f"  //\n  rpc {_upper(name)}({request}) returns ({response}) {{\n"
            f"    option (google.api.http) = {{ {rule} }};\n  }}\n"
        )

    def _request(self, name: str, method: dict[str, Any], body: str, field: str) -> str:
        parameters = method["parameters"]
        if name in ("list", "aggregatedList") and not body:
            level = next((one for one in ("zone", "region") if one in parameters), "")
            return self._use("AggregatedListRequest" if name == "aggregatedList" else _LISTS[level])
        item = self._methods.get("get", method)["response"]["$ref"]
        request = f"{_upper(name)}{item}Request"
        ordered = [*method.get("parameterOrder", ()), *sorted(set(parameters) - set(method.get("parameterOrder", ())))]
        lines = [self._field(one, parameters[one], number) for number, one in enumerate(ordered, 1)]
        if body:
            self._message(body)
            lines.append(f"  //\n  {body} {field} = {len(lines) + 1};\n")
        self._messages[request] = f"//\nmessage {request} {{\n{''.join(lines)}}}\n"
        return request

    def _use(self, message: str) -> str:
        self._imports.add(self._known[message])
        return message

    def _message(self, name: str) -> None:
        if name in self._known:
            self._use(name)
        elif name not in self._messages:
            self._messages[name] = ""
            self._messages[name] = self._define(name, self._schemas[name])

    def _define(self, name: str, schema: dict[str, Any], indent: str = "") -> str:
        fields = []
        for number, (field, value) in enumerate(schema.get("properties", {}).items(), 1):
            inner = value.get("items", value.get("additionalProperties", value))
            if "properties" in inner and (name.endswith("List") or field == "warning"):
                self._use("Warning")
            elif "properties" in inner:
                fields.append(self._define(_upper(field), inner, indent + "  "))
            fields.append(self._field(field, value, number, indent))
        return f"{indent}//\n{indent}message {name} {{\n{''.join(fields)}{indent}}}\n"

    def _field(self, name: str, value: dict[str, Any], number: int, indent: str = "") -> str:
        options = [f'(gstack.api.enum) = "{one}"' for one in value.get("enum", ()) if "UNSPECIFIED" not in one]
        if value.get("description", "").lower().replace("[", "").startswith("output only"):
            options = ["(gstack.api.use) = OUTPUT"]
        shown = f" [{', '.join(options)}]" if options else ""
        if len(shown) > 80:
            shown = f" [\n{indent}    " + f",\n{indent}    ".join(options) + f"\n{indent}  ]"
        return f"{indent}  //\n{indent}  {self._type(name, value)} {name} = {number}{shown};\n"

    def _type(self, name: str, value: dict[str, Any]) -> str:
        if value.get("repeated") or value.get("type") == "array":
            inner = value.get("items", {**value, "repeated": False})
            return f"repeated {self._type(name, inner).removeprefix('optional ')}"
        if "additionalProperties" in value:
            return f"map<string, {self._type(name, value['additionalProperties']).removeprefix('optional ')}>"
        if "$ref" in value:
            self._message(value["$ref"])
            return str(value["$ref"])
        if value.get("type") == "object":
            return "Warning" if name == "warning" else _upper(name)
        kind, form = value.get("type", "string"), value.get("format")
        return _SCALARS.get((kind, form)) or _SCALARS[kind, None]

    def module(self) -> str:
        item = self._methods["get"]["response"]["$ref"]
        level = next((one for one in ("zone", "region") if one in self._methods["get"]["parameters"]), "")
        place = {"zone": "zone: Zone", "region": "region: str", "": "place: None"}[level]
        places = {"zone": "zone: Zone | None", "region": "region: str | None", "": "place: None"}[level]
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", item).lower()
        zone = "from translator_service.places import Zone\n" if level == "zone" else ""
        return f'''"""{self.service}: """

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import {self.file}_pb2 as pb
from translator_service.cloudstack.rows import Row
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
{zone}from translator_service.scope import Scope


def to_{snake}(scope: Scope, name: str, row: Row) -> pb.{item}:
    """A row of """
    return pb.{item}(
        kind="compute#{item[0].lower()}{item[1:]}",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=name,
    )


def _find(scope: Scope, {place}, name: str) -> Reading[Message]:
    """Raises 404."""
    raise NotImplementedError


def _read(scope: Scope, {places}) -> Reading[Items]:
    raise NotImplementedError


gets("{self.service}", _find, calls=())
lists("{self.service}", _read, calls=())
'''


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make collection")
    parser.add_argument("name", help="of the collection in Google's document, as snapshots or backendServices")
    skeleton = Skeleton(google(), parser.parse_args().name)
    for folder, ending, text in (
        ("protos/gstack/compute/v1", "proto", skeleton.proto()),
        ("translator_service/resources", "py", skeleton.module()),
    ):
        path = ROOT / folder / f"{skeleton.file}.{ending}"
        if path.exists():
            raise SystemExit(f"{path} is there already")
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
