"""What the client tests share: bodies, a raw client, the batch wire format, and Google's schemas as a validator."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import requests

from simulator.signature import sign
from tests.clients.conftest import API_KEY, PROJECT, SECRET_KEY, Stack
from tests.waits import until

DEBIAN = "global/images/linux-debian-12-64-bit"
# Zone, network: one with security groups, one with isolated networks.
SECURITY_GROUPS, ISOLATED = ("ch-gv2", "default"), ("ch-zh-1", "net-a")
KINDS_OF_ZONE = (SECURITY_GROUPS, ISOLATED)
REVEALING = ("cloudstack", "traceback", "<html", "grpc", "sqlalchemy", "demo-secret-key")


def machine(name: str, zone: str = "ch-gv2", network: str = "default", **more: Any) -> dict[str, Any]:
    """An instance as small as a client may send it, with an external address."""
    return {
        "name": name,
        "machineType": f"zones/{zone}/machineTypes/micro",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": DEBIAN}}],
        "networkInterfaces": [{"network": f"global/networks/{network}", "accessConfigs": [{"name": "nat"}]}],
    } | more


def cloud(
    stack: Stack,
    command: str,
    http: requests.Session | None = None,
    keys: tuple[str, str] = (API_KEY, SECRET_KEY),
    **parameters: str,
) -> dict[str, Any]:
    """What stands behind gstack, asked directly, by default as the demo account; jobs are waited for."""
    asked = parameters | {"command": command, "apiKey": keys[0], "response": "json"}
    url = stack.environment["GSTACK_CLOUDSTACK_URL"]
    reply = (http or requests.Session()).post(url, asked | {"signature": sign(asked, keys[1])}, timeout=30)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = next(iter(reply.json().values()))
    if "jobid" not in answer or command == "queryAsyncJobResult":
        return answer

    def finished() -> dict[str, Any] | None:
        job = cloud(stack, "queryAsyncJobResult", http, keys, jobid=answer["jobid"])
        return job if job["jobstatus"] else None

    job = until(finished)
    assert job["jobstatus"] == 1, job
    return dict(job["jobresult"])


def refused(reply: requests.Response, status: int, *words: str, revealing: Sequence[str] = REVEALING) -> dict[str, Any]:
    """The error of an answer, after a look at the envelope and for what must not be seen from outside."""
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"].startswith("application/json"), reply.headers
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == status
    assert error["errors"][0]["reason"]
    assert error["errors"][0]["domain"]
    assert error["errors"][0]["message"] == error["message"]
    for word in words:
        assert word in error["message"], error
    for word in revealing:
        assert word not in reply.text.lower(), reply.text
    return error


class Session:
    """A client that nobody wrote a library for: its own User-Agent, one connection, a token of its own."""

    def __init__(self, stack: Stack, user_agent: str):
        self.base = stack.url
        self.project = f"{stack.url}/compute/v1/projects/{PROJECT}"
        self.http = requests.Session()
        self.http.headers.update({"User-Agent": user_agent, "Authorization": f"Bearer {stack.token()}"})

    def send(self, method: str, url: str, payload: Any = None, **options: Any) -> requests.Response:
        url = url if url.startswith("http") else self.project + url
        return self.http.request(method, url, json=payload, timeout=150, **options)

    def ask(self, method: str, url: str, payload: Any = None, **options: Any) -> Any:
        reply = self.send(method, url, payload, **options)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def batch(self, parts: Sequence[tuple[str, str, Any]], *, newline: str = "\n") -> list[tuple[int, Any]]:
        """The multipart body of gcloud: paths relative to the host, no identity but outside; answers by Content-ID."""
        lines: list[str] = []
        for number, (method, path, payload) in enumerate(parts):
            text = "" if payload is None else json.dumps(payload)
            lines += ["--===============7330845974216740156==", "Content-Type: application/http", "MIME-Version: 1.0"]
            lines += [
                "Content-Transfer-Encoding: binary",
                f"Content-ID: <b29c5de2-0db4-490b-b421-6a51b598bd22+{number}>",
            ]
            lines += ["", f"{method} {path} HTTP/1.1", "content-type: application/json", "accept: application/json"]
            lines += ["Host: compute.googleapis.com", f"content-length: {len(text)}", "", text]
        lines += ["--===============7330845974216740156==--", ""]
        boundary = '"===============7330845974216740156=="'
        reply = self.http.post(
            f"{self.base}/batch/compute/v1",
            newline.join(lines).encode(),
            headers={"content-type": f"multipart/mixed; boundary={boundary}"},
            timeout=180,
        )
        assert reply.status_code == 200, reply.text
        assert reply.headers["Content-Type"].startswith("multipart/mixed; boundary=")
        return _parts(reply, len(parts))


def _parts(reply: requests.Response, count: int) -> list[tuple[int, Any]]:
    boundary = reply.headers["Content-Type"].partition("boundary=")[2].strip('"')
    found: dict[int, tuple[int, Any]] = {}
    for part in re.split(rf"\r?\n?--{re.escape(boundary)}(?:--)?\r?\n?", reply.text):
        if not part.strip():
            continue
        outer, inner, content = re.split(r"\r?\n\r?\n", part, maxsplit=2)
        identity = re.search(r"(?im)^content-id: (<[^\r\n]*\+(\d+)[^\r\n]*>)", outer)
        assert identity, outer
        version, status, reason = inner.splitlines()[0].split(" ", 2)
        assert version.startswith("HTTP/1.1")
        assert reason
        found[int(identity[2])] = (int(status), json.loads(content))
    return [found[number] for number in range(count)]


# Google's schemas


@cache
def google() -> dict[str, Any]:
    document = resources.files("googleapiclient.discovery_cache.documents").joinpath("compute.v1.json")
    return dict(json.loads(document.read_text()))


def google_methods() -> dict[str, dict[str, Any]]:
    """Method id -> method of Google's own discovery document."""
    return {
        method["id"]: method for resource in google()["resources"].values() for method in resource["methods"].values()
    }


def _decimal(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: bool(re.fullmatch(r"-?\d{1,20}", value)) and low <= int(value) <= high


def _time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _base64(value: str) -> bool:
    # Clients in Python decode with either alphabet, and all of them need the padding.
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        return False
    return bool(value)


_FORMATS: dict[str, Callable[[Any], bool]] = {
    "int64": _decimal(-(2**63), 2**63 - 1),
    "uint64": _decimal(0, 2**64 - 1),
    "int32": lambda value: -(2**31) <= value < 2**31,
    "uint32": lambda value: 0 <= value < 2**32,
    "double": math.isfinite,
    "float": math.isfinite,
    "byte": _base64,
    "date-time": _time,
}
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float), "any": (object,),
}  # fmt: skip


def differences(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """Where a value is not what Google's schema says: type, format, enum, unknown field, null."""
    if "$ref" in schema:
        schema = google()["schemas"][schema["$ref"]]
    kind = schema.get("type", "any")
    if kind == "object":
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no object"]
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        found: list[str] = []
        for name, item in value.items():
            below = known.get(name, more)
            found += [f"{path}.{name}: unknown"] if below is None else differences(item, below, f"{path}.{name}")
        return found
    if kind == "array":
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [
            text for index, item in enumerate(value) for text in differences(item, schema["items"], f"{path}[{index}]")
        ]
    if not isinstance(value, _PYTHON[kind]) or (isinstance(value, bool) and kind not in ("boolean", "any")):
        return [f"{path}: {value!r} is no {kind}"]
    form = schema.get("format", "")
    # Google declares times as plain strings; clients parse them nevertheless.
    if path.endswith(("Timestamp", ".insertTime", ".startTime", ".endTime")):
        form = "date-time"
    if not _FORMATS.get(form, lambda _: True)(value):
        return [f"{path}: {value!r} is no {form}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    return []


def check_schema(value: Any, schema: str) -> None:
    assert differences(value, {"$ref": schema}, schema) == []
