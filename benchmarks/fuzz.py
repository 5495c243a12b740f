"""`make fuzz`: requests made up from the discovery document that is served, against running services.

    python -m benchmarks.fuzz [--count 50000] [--seed 1] [--threads 4]

Methods, paths, queries and bodies come from the document: plausible ones and broken ones, alone and in batches, and
forms for the OAuth endpoints. It starts a gstack with a simulated CloudStack on free ports of this machine, sends so
many requests, and prints how they were answered. The exit status is 1 if one had a 5xx or no answer. A request is made
from the seed and its number, so that it can be made again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from gstack.kernel.contract import method_id, services
from tests.clients.conftest import Stack, run_stack

# What tends to break things, as text.
ODD = (
    "", " ", "0", "-1", "1e400", "NaN", "null", "true", "\0", "a\0b", "\x1f5", "\x7f", "a\nb", "\r\n", "é", "😀",
    "\u202e", "%00", "%ff", "%2500", "%", "..", "../..", "//", "a/b", "?", "#", "*", "'", '"', "\\", "<b>", "${x}",
    "{secret}", "; --", "x" * 64, "x" * 300, "A_b", "18446744073709551616", "9" * 26, "xn--zzzz", "٣", "global", "self",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 1.5, 1e300, 500, 501)
NAMES = {
    "project": ("demo",) * 20 + ("ian@example.org", "debian-cloud", "nobody"),
    "zone": ("ch-gv2", "ch-zh-1") * 5 + ("nowhere",),
    "region": ("ch", "ch-zh"),
    "alt": ("json", "xml"),
    "prettyPrint": ("false", "perhaps"),
    "family": ("debian-12", "linux-debian-12-64-bit"),
    "image": ("linux-debian-12-64-bit", "debian-12"),
    "machineType": ("micro", "e2-micro", "n2-standard-2"),
    "diskType": ("pd-ssd", "pd-standard"),
    "network": ("default", "net-a"),
    "subnetwork": ("default", "net-a"),
    "port": ("1", "9"),
    "maxResults": ("1", "5", "500", "0"),
    "filter": ("name eq a.*", "(name = x) OR (id > 1)", "labels.a:*", "status != RUNNING", "-x"),
    "orderBy": ("name", "creationTimestamp desc", "nope"),
    "pageToken": ("nope", "AAAA.BBBB"),
    "fields": ("items(name)", "id", "*", "items(", "a/b/c"),
    "requestId": ("c6f9c5f0-0000-4000-8000-000000000001", "nope"),
}
OWN_NAMES = ("fuzz-1", "fuzz-2", "fuzz-3")
LINKS = {
    "machineType": "zones/ch-gv2/machineTypes/micro",
    "network": "global/networks/default",
    "subnetwork": "regions/ch/subnetworks/default",
    "sourceImage": "projects/debian-cloud/global/images/family/debian-12",
    "type": "zones/ch-gv2/diskTypes/pd-ssd",
    "source": "zones/ch-gv2/disks/fuzz-1",
    "IPProtocol": "tcp",
    "sourceRanges": "10.0.0.0/8",
    "ports": "22",
    "natIP": "192.0.2.7",
    "networkIP": "10.1.1.9",
}
# Bodies that are carried out, to be changed in places.
GOOD: dict[str, dict[str, Any]] = {
    "compute.instances.insert": {
        "machineType": "zones/ch-gv2/machineTypes/micro",
        "disks": [{"boot": True, "initializeParams": {"sourceImage": LINKS["sourceImage"]}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    },
    "compute.firewalls.insert": {"allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "sourceRanges": ["10.0.0.0/8"]},
    "compute.disks.insert": {"sizeGb": "10", "type": LINKS["type"]},
}
FORMS = ("/oauth2/token", "/oauth2/revoke", "/oauth2/introspect", "/oauth2/device/code", "/oauth2/tokeninfo", "/login")
FIELDS = (
    "grant_type",
    "client_id",
    "client_secret",
    "token",
    "assertion",
    "scope",
    "code",
    "refresh_token",
    "username",
)
GRANTS = ("client_credentials", "refresh_token", "authorization_code", "urn:ietf:params:oauth:grant-type:jwt-bearer")
_MOST_SHOWN = 20
_DEEP = 4


@dataclass
class Question:
    kind: str  # id of the method, or what else it is
    verb: str
    url: str  # below the endpoint
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Maker:
    """Makes questions from a discovery document."""

    def __init__(self, document: dict[str, Any], seed: int):
        self._schemas = document["schemas"]
        self._base = document["basePath"]
        self._seed = seed
        ours = {method_id(method) for service in services() for method in service.methods}
        found = [one for part in document["resources"].values() for one in part["methods"].values()]
        # Of those that are only refused by name a few will do.
        self._methods = [one for number, one in enumerate(found) if one["id"] in ours or number % 50 == 0]

    def make(self, number: int) -> Question:
        dice = random.Random(f"{self._seed}/{number}")
        chance = dice.random()
        if chance < 0.04:
            return self._batch(dice)
        return self._form(dice) if chance < 0.10 else self._call(dice)

    def _call(self, dice: random.Random) -> Question:
        method = dice.choice(self._methods)
        path, query = method["path"], []
        for name, parameter in method["parameters"].items():
            if parameter["location"] == "path":
                path = path.replace(f"{{{name}}}", self._escaped(dice, self._name(dice, name)))
            elif dice.random() < 0.15:
                query.append((name, self._name(dice, name)))
        for name in ("fields", "prettyPrint", "alt", "key", "nonsense"):
            if dice.random() < 0.05:
                query.append((name, self._name(dice, name)))
        text = "&".join(f"{name}={self._escaped(dice, value)}" for name, value in query)
        url = self._base + path + (f"?{text}" if text else "")
        headers = {"Accept-Encoding": dice.choice(("identity", "gzip"))}
        if dice.random() < 0.02:
            headers["X-HTTP-Method-Override"] = dice.choice(("GET", "DELETE", "BREW", "é".encode().decode("latin-1")))
        if dice.random() < 0.02:
            headers["Host"] = dice.choice(("xn--zzzz", "a..b", "gw:99999999", "[::1]"))
        if dice.random() < 0.02:
            headers["Authorization"] = dice.choice(("", "Bearer", "Bearer x", "Basic eA==", "Bearer " + "x" * 4000))
        return Question(method["id"], method["httpMethod"], url, self._body(dice, method), headers)

    def _body(self, dice: random.Random, method: dict[str, Any]) -> bytes | None:
        if "request" not in method:
            return dice.choice((None,) * 9 + (b"{}", b"\xff", b"["))
        chance = dice.random()
        if chance < 0.04:
            return dice.choice((b"", b"null", b"[]", b"{", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"a":' * 2000, b"{}\0"))
        kind = method["request"]["$ref"]
        if method["id"] in GOOD and chance < 0.7:
            value: Any = {"name": dice.choice(OWN_NAMES), **GOOD[method["id"]]}
            for key, one in dice.sample(list(self._schemas[kind]["properties"].items()), dice.choice((0, 0, 1, 2))):
                value[key] = self._value(dice, one, key, 1)
        else:
            value = self._value(dice, {"$ref": kind}, "", 0)
        text = json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        if chance < 0.08 and text:
            at = dice.randrange(len(text))
            text = text[:at] + dice.choice((b"", b"\0", b'"', b",", b"}", b"\xff")) + text[at + 1 :]
        return text

    def _value(self, dice: random.Random, schema: dict[str, Any], name: str, depth: int) -> Any:
        if dice.random() < 0.015:
            return dice.choice((None, True, [], {}, [None], {"a": 1}, *NUMBERS, *ODD, "x" * 100_000))
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"]]
        kind = schema.get("type")
        if kind == "array":
            return [self._value(dice, schema["items"], name, depth + 1) for _ in range(dice.choice((0, 1, 1, 2)))]
        if kind == "object":
            if more := schema.get("additionalProperties"):
                return {dice.choice((*OWN_NAMES, *ODD)): self._value(dice, more, name, depth + 1)}
            likely = dice.choice((0.0, 0.1, 0.3))
            return {
                key: self._value(dice, one, key, depth + 1)
                for key, one in schema.get("properties", {}).items()
                if depth < _DEEP and dice.random() < (0.9 if key in ("name", *LINKS) else likely)
            }
        if kind == "boolean":
            return dice.choice((True, False, "true", "maybe"))
        if kind in ("integer", "number"):
            return dice.choice((1, 1, 10, *NUMBERS))
        if schema.get("format") in ("int64", "uint64"):
            return dice.choice(("1", 10, "10", *NUMBERS, *ODD))
        return dice.choice(schema["enum"]) if "enum" in schema else self._name(dice, name)

    def _name(self, dice: random.Random, name: str) -> str:
        chance = dice.random()
        if chance < 0.05:
            return dice.choice(ODD)
        if chance < 0.06:
            return "".join(chr(dice.choice((dice.randrange(128), dice.randrange(0xD800)))) for _ in range(12))
        known = (*NAMES.get(name, ()), *((LINKS[name],) if name in LINKS else ()))
        return dice.choice(known) if known and chance < 0.9 else dice.choice(OWN_NAMES)

    def _escaped(self, dice: random.Random, text: str) -> str:
        safe = "/%?#" if dice.random() < 0.03 else ""
        return urllib.parse.quote(text, safe=safe) or "x"

    def _batch(self, dice: random.Random) -> Question:
        parts = []
        for number in range(dice.choice((1, 2, 5, 20))):
            one = self._call(dice)
            content_id = dice.choice(
                (f"<a+{number}>", f"<a+{number}>", f"<a+{number}>", "<ü>", "", "<a\tb>", "x" * 2000)
            )
            body = (one.body or b"").decode("latin-1")
            parts.append(
                f"--b\r\nContent-Type: application/http\r\nContent-ID: {content_id}\r\n\r\n"
                f"{one.verb} {one.url} HTTP/1.1\r\n{dice.choice(('', 'accept: */*'))}\r\n\r\n{body}\r\n"
            )
        text = ("".join(parts) + "--b--\r\n").encode("latin-1", "replace")
        if dice.random() < 0.2:
            at = dice.randrange(len(text))
            text = text[:at] + dice.choice((b"", b"\0", b"\r", b"\n", b"--b")) + text[at + 3 :]
        kind = dice.choice(("multipart/mixed; boundary=b",) * 8 + ("multipart/mixed", "multipart/mixed; boundary="))
        return Question("batch", "POST", "/batch/compute/v1", text, {"Content-Type": kind})

    def _form(self, dice: random.Random) -> Question:
        chosen = dice.sample(FIELDS, dice.randrange(len(FIELDS)))
        pairs = [(name, dice.choice((*GRANTS, "demo-api-key", "demo-secret-key", *ODD))) for name in chosen]
        body = urllib.parse.urlencode(pairs).encode()
        if dice.random() < 0.1:
            body = dice.choice((b"&" * 1000, b"a=%ff", b"\xff", body * 20, b"x" * 50_000))
        kind = dice.choice(("application/x-www-form-urlencoded",) * 6 + ("application/json", "multipart/form-data", ""))
        return Question("form", "POST", dice.choice(FORMS), body, {"Content-Type": kind, "Authorization": ""})


@dataclass
class Outcome:
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by what was asked and class of status
    faults: list[str] = field(default_factory=list)


def run(stack: Stack, count: int, seed: int, threads: int, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Send so many requests. The stack must be on this machine; what is in its cloud gets changed."""
    document = requests.get(f"{stack.url}/discovery/v1/apis/compute/v1/rest", timeout=30).json()
    maker, outcome, lock = Maker(document, seed), Outcome(), threading.Lock()
    token, local = stack.token(), threading.local()

    def send(number: int) -> None:
        question = maker.make(number)
        if not hasattr(local, "http"):
            local.http = requests.Session()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | question.headers
        seen, text = "none", ""
        try:
            prepared = requests.Request(question.verb, stack.url, headers, data=question.body).prepare()
            # As it is: the library would mend it.
            prepared.url = stack.url + question.url
            reply = local.http.send(prepared, timeout=180, allow_redirects=False)
            seen, text = f"{reply.status_code // 100}xx", reply.text
            if question.kind == "batch" and "\r\nHTTP/1.1 50" in text:
                seen = "5xx"
        except requests.RequestException as error:
            text = repr(error)
        with lock:
            outcome.answers[question.kind, seen] += 1
            if seen in ("5xx", "none"):
                outcome.faults.append(
                    f"number {number}: {question.verb} {question.url[:300]}\n    {(question.body or b'')[:300]!r}\n"
                    f"    {question.headers}\n    {text[:600]}"
                )

    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(send, range(count)), 1):
            if done % 1000 == 0:
                tell(f"{done} requests, {len(outcome.faults)} faults")
    return outcome


def table(outcome: Outcome) -> str:
    columns = ("2xx", "3xx", "4xx", "5xx", "none")
    groups: Counter[tuple[str, str]] = Counter()
    for (kind, seen), number in outcome.answers.items():
        groups[kind.split(".")[1] if "." in kind else kind, seen] += number
        groups["all", seen] += number
    names = sorted({kind for kind, _ in groups} - {"all"})
    lines = [f"{'':24}" + "".join(f"{column:>8}" for column in columns)]
    lines += [f"{name:24}" + "".join(f"{groups[name, column]:8}" for column in columns) for name in (*names, "all")]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Send made-up requests to a gstack of its own.")
    parser.add_argument("--count", type=int, default=5000, help="requests (default 5000)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="another seed makes other requests")
    parser.add_argument("--threads", type=int, default=4, help="requests at a time (default 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gstack-fuzz-") as folder:
        for stack in run_stack(Path(folder)):
            stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.0}})
            found = run(stack, options.count, options.seed, options.threads, lambda text: print(text, file=sys.stderr))
    print(f"seed {options.seed}, {options.count} requests\n\n{table(found)}")
    for fault in found.faults[:_MOST_SHOWN]:
        print(f"\n{fault}")
    if len(found.faults) > _MOST_SHOWN:
        print(f"\nand {len(found.faults) - _MOST_SHOWN} more")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
