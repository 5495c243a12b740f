"""Replays recorded exchanges against the simulator and reports where the two differ.

`python -m tests.contract.replay c` prints the differences of recordings/c-instances.json.

Ids and addresses differ between the two installations, so each answer teaches recorded -> simulated pairs, and later
requests are translated. Compared are: HTTP status, top-level key, key sets and JSON types at every depth, error codes,
and the values of `state`, `jobstatus` and everything called name (with numbers and uuids blurred).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from simulator import signature
from simulator.app import Simulator
from simulator.commands import HANDLERS
from simulator.world import Job
from tests.contract import recorded_cloud as cloud
from tests.contract.differences import ALLOWED, REPLAYED, SKIPPED_COMMANDS, WAITS
from tests.contract.preludes import PRELUDES

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_IP = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b(?!/)")
_CUT = re.compile(r"(.*?)(?:\.\.\.|…) ?\((\d+) characters\)$", re.DOTALL)
_EXACT = {"state", "allocationstate", "jobstatus", "errorcode", "cserrorcode"}
_NOT_NAMES = {"managementservername", "hostname", "instancename"}
# Lists of which world and recording hold exactly the same rows.
_COUNTED = {
    "listZones", "listServiceOfferings", "listDiskOfferings", "listTemplates", "listIsos", "listProjects", "listUsers",
    "listAccounts", "listResourceLimits", "listProjectAccounts", "listOsCategories", "listHypervisors", "listRegions",
}  # fmt: skip
_SETTINGS = {"allow.user.view.destroyed.vm": "view_destroyed", "allow.user.expunge.recover.vm": "user_may_expunge"}
STEP = 0.05  # seconds of the fake clock
LIMIT = 120.0


class UnsupportedCommand(Exception):
    """The simulator has no handler for a command that a prelude needs."""


@dataclass
class Answer:
    status: int
    body: Any  # parsed JSON, or text
    content_type: str


@dataclass
class Mismatch:
    index: int
    name: str
    what: list[str]

    def __str__(self) -> str:
        return f"#{self.index} {self.name}\n" + "\n".join(f"      {line}" for line in self.what)


@dataclass
class Report:
    mismatches: list[Mismatch] = field(default_factory=list)
    allowed_unused: list[str] = field(default_factory=list)
    compared: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        lines = [str(mismatch) for mismatch in self.mismatches]
        lines += [f"allowed difference does not occur: {name}" for name in self.allowed_unused]
        lines.append(f"{self.compared} compared, {self.skipped} skipped, {len(self.mismatches)} differ")
        return "\n".join(lines)


class Replay:
    """One recording against one fresh world."""

    def __init__(self, name: str):
        self.name = name
        self.world, self.clock = cloud.build(with_net_a=name not in ("c", "u"))
        self.app = Simulator(self.world)
        self.ids: dict[str, str] = {}
        self.likely_ids = cloud.known_ids(self.world)  # until an answer says otherwise
        self.skipped_jobs: set[str] = set()
        self.last_pending = ""

    # Talking to the simulator

    def send(self, method: str, path: str, query: str = "", body: bytes = b"", content_type: str = "") -> Answer:
        """One request through the ASGI interface, without an event loop: nothing in it waits."""
        sent: list[dict[str, Any]] = []
        headers = [(b"content-type", content_type.encode())] if content_type else []
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        _finish(self.app(scope, receive, send))
        raw = b"".join(message.get("body", b"") for message in sent)
        answer_headers = dict(sent[0].get("headers", []))
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = raw.decode()
        return Answer(sent[0]["status"], parsed, answer_headers.get(b"content-type", b"").decode())

    def request(self, who: str, method: str, parameters: dict[str, str], path: str = "/client/api") -> Answer:
        """A properly signed request."""
        api_key, secret = cloud.KEYS[who]
        encoded = urlencode(signed(parameters, api_key, secret))
        if method == "POST":
            return self.send(method, path, body=encoded.encode(), content_type="application/x-www-form-urlencoded")
        return self.send(method, path, encoded)

    def call(self, command: str, who: str = "user", **parameters: str) -> Any:
        """For preludes: the body of a successful command, a job's result when there is a job."""
        if command not in HANDLERS:
            raise UnsupportedCommand(command)
        answer = self.request(who, "POST", {"command": command, "response": "json", **parameters})
        assert answer.status == 200, (command, parameters, answer.body)
        (body,) = answer.body.values()
        if "jobid" not in body:
            return body
        self.wait_for_job(body["jobid"])
        job = self.world.find(Job, body["jobid"])
        assert job is not None and job.status == 1, (command, parameters, job and job.result)
        return body

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds
        self.world.tick()

    def wait_for_job(self, job_id: str) -> None:
        for _ in range(int(LIMIT / STEP)):
            job = self.world.find(Job, job_id)
            if job is None or job.status != 0:
                return
            self.advance(STEP)

    # Replaying

    def run(self) -> Report:
        report = Report()
        allowed = dict(ALLOWED.get(self.name, {}))
        unused = set(allowed)
        try:
            for prelude in PRELUDES.get(self.name, []):
                prelude(self)
        except Exception as error:  # the rest is worth seeing nevertheless
            report.mismatches.append(Mismatch(-1, "prelude", [f"{error!r} ({_where(error)})"]))
        for index, exchange in enumerate(cloud.recording(self.name)[: REPLAYED.get(self.name)]):
            if self._skips(exchange):
                report.skipped += 1
                continue
            try:
                what = self._exchange(exchange)
            except Exception as error:  # a crash of the simulator is a difference like others
                what = [f"{type(error).__name__}: {error} ({_where(error)})"]
            report.compared += 1
            if what and exchange["name"] in allowed:
                unused.discard(exchange["name"])
            elif what:
                report.mismatches.append(Mismatch(index, exchange["name"], what))
        report.allowed_unused = sorted(unused)
        return report

    def _skips(self, exchange: dict[str, Any]) -> bool:
        command = exchange["params"].get("command", "")
        if command == "queryAsyncJobResult" and exchange["params"].get("jobid") in self.skipped_jobs:
            return True
        if command == "updateConfiguration" and exchange["as"] == "admin":
            setting = _SETTINGS[exchange["params"]["name"]]
            setattr(self.world.settings, setting, exchange["params"]["value"] == "true")
            return True
        if command not in SKIPPED_COMMANDS:
            return False
        if isinstance(exchange["body"], dict):
            (body,) = exchange["body"].values()
            self.skipped_jobs.add(body.get("jobid", ""))
        return True

    def _exchange(self, exchange: dict[str, Any]) -> list[str]:
        name: str = exchange["name"]
        self.advance(WAITS.get((self.name, name), 0.001))
        if name.endswith("(job finished)"):
            self.wait_for_job(self.ids.get(exchange["params"]["jobid"], exchange["params"]["jobid"]))
        answer = self._ask(exchange)
        if match := re.search(r": list\w+ while state=([\w ]+)$", name):
            for _ in range(int(LIMIT / STEP)):
                if _states(answer.body) == match[1]:
                    break
                self.advance(STEP)
                answer = self._ask(exchange)
        what: list[str] = []
        if answer.status != exchange["status"]:
            what.append(f"status {answer.status}, recorded {exchange['status']}: {str(answer.body)[:300]}")
        elif isinstance(exchange["body"], dict) and isinstance(answer.body, dict):
            made = not exchange["params"].get("command", "list").startswith("list")
            self._learn(exchange["body"], answer.body, overwrite=made)
            self._compare("", exchange["body"], answer.body, what)
            if exchange["params"].get("command") in _COUNTED:
                self._compare_counts(exchange["body"], answer.body, what)
        elif _kind(exchange["body"]) != _kind(answer.body):
            what.append(f"body is {_kind(answer.body)}, recorded {_kind(exchange['body'])}: {str(answer.body)[:200]}")
        elif _markup(exchange["body"]) != _markup(answer.body):
            what.append(f"body {str(answer.body)[:100]!r}, recorded {str(exchange['body'])[:100]!r}")
        return what

    def _ask(self, exchange: dict[str, Any]) -> Answer:
        by_hand = BY_HAND.get(exchange["name"]) if self.name == "b" else None
        parameters = {key: self._translate(key, value) for key, value in exchange["params"].items()}
        if by_hand:
            return by_hand(self, exchange["method"], parameters)
        return self.request(exchange["as"], exchange["method"], parameters, exchange.get("path", "/client/api"))

    def _translate(self, key: str, value: str) -> str:
        if match := _CUT.match(value):
            # Runs of one letter, or of its base64: what stands at the end goes on.
            length = int(match[2])
            value = (match[1] + match[1][-4:] * (length // 4))[:length]
        if key.lower() == "customjobid":
            return value
        return _IP.sub(self._simulated, _UUID.sub(self._simulated, value))

    def _simulated(self, match: re.Match[str]) -> str:
        found = self._known(match[0].lower())
        if found is None:
            return match[0]
        return found.upper() if match[0] != match[0].lower() else found

    def _known(self, recorded: str) -> str | None:
        return self.ids.get(recorded) or self.likely_ids.get(recorded)

    # Comparing

    def _learn(self, recorded: Any, simulated: Any, overwrite: bool) -> None:
        """Remember pairs of ids and addresses that stand in the same place."""
        if isinstance(recorded, dict) and isinstance(simulated, dict):
            for key, value in recorded.items():
                if key in simulated:
                    self._learn(value, simulated[key], overwrite)
        elif isinstance(recorded, list) and isinstance(simulated, list):
            for left, right in self._pairs(recorded, simulated):
                self._learn(left, right, overwrite)
        elif isinstance(recorded, str) and isinstance(simulated, str):
            same_form = any(form.fullmatch(recorded) and form.fullmatch(simulated) for form in (_UUID, _IP))
            if same_form and (overwrite or recorded.lower() not in self.ids):
                self.ids[recorded.lower()] = simulated

    def _pairs(self, recorded: list[Any], simulated: list[Any]) -> list[tuple[Any, Any]]:
        """Rows of two lists that mean the same thing: by known id, else by a name both have once, else by place."""
        if not all(isinstance(row, dict) for row in (*recorded, *simulated)):
            return list(zip(recorded, simulated, strict=False))
        pairs, left, right = [], list(recorded), list(simulated)
        for key in ("id", "name", "ipaddress", "key", "networkid"):
            for row in list(left):
                wanted = self._known(str(row.get(key)).lower()) or row.get(key)
                same = [other for other in right if wanted is not None and other.get(key) == wanted]
                if len(same) == 1 and (key == "id" or sum(other.get(key) == row[key] for other in left) == 1):
                    pairs.append((row, same[0]))
                    left.remove(row)
                    right.remove(same[0])
        only_one = len(left) == len(right) == 1 and "name" not in left[0]
        if not pairs or only_one:
            pairs += zip(left, right, strict=False)
        return pairs

    def _compare_counts(self, recorded: dict[str, Any], simulated: dict[str, Any], what: list[str]) -> None:
        counts = [next(iter(body.values())).get("count") for body in (recorded, simulated)]
        if counts[0] != counts[1]:
            what.append(f"count is {counts[1]}, recorded {counts[0]}")

    def _compare(self, path: str, recorded: Any, simulated: Any, what: list[str]) -> None:
        if _kind(recorded) != _kind(simulated):
            what.append(f"{path}: is {simulated!r:.80}, recorded {recorded!r:.80}")
        elif isinstance(recorded, dict):
            if missing := sorted(recorded.keys() - simulated.keys()):
                what.append(f"{path}: keys missing: {', '.join(missing)}")
            if extra := sorted(simulated.keys() - recorded.keys()):
                what.append(f"{path}: keys too many: {', '.join(extra)}" + _error_text(simulated))
            for key, value in recorded.items():
                if key in simulated:
                    self._compare(f"{path}.{key}" if path else key, value, simulated[key], what)
        elif isinstance(recorded, list):
            if bool(recorded) != bool(simulated):
                what.append(
                    f"{path}: {len(simulated)} rows, recorded {len(recorded)}: {(simulated or recorded)!r:.150}"
                )
            for left, right in self._pairs(recorded, simulated):
                self._compare(path + "[]", left, right, what)
        elif _compared_value(path.rpartition(".")[2], recorded) != _compared_value(path.rpartition(".")[2], simulated):
            what.append(f"{path}: is {simulated!r:.100}, recorded {recorded!r:.100}")


def signed(parameters: dict[str, str], api_key: str, secret: str, key_name: str = "apikey") -> dict[str, str]:
    complete = {**parameters, key_name: api_key}
    return {**complete, "signature": signature.sign(complete, secret)}


def _finish(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("the simulator waited for something")


def _states(body: Any) -> str:
    """The state of the first row of a list answer, "none" without rows."""
    if not isinstance(body, dict):
        return ""
    (inner,) = body.values()
    rows = [value for value in inner.values() if isinstance(value, list)]
    return str(rows[0][0].get("state", rows[0][0].get("status"))) if rows and rows[0] else "none"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def _markup(text: Any) -> str:
    """What an HTML or XML or broken JSON body starts with, all of another text."""
    match = re.match(r"<[!?]?\w+|\{", str(text))
    return match[0].lower() if match else str(text)


def _error_text(body: dict[str, Any]) -> str:
    return f" ({body['errortext']:.200})" if "errortext" in body else ""


def _compared_value(key: str, value: Any) -> Any:
    if key in _EXACT:
        return value
    if key.endswith("name") and key not in _NOT_NAMES and isinstance(value, str):
        return re.sub(r"\d+", "#", _UUID.sub("U", value))
    return None


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""


# The requests of b-errors that no client library makes.

ByHand = Callable[[Replay, str, dict[str, str]], Answer]


def _unsigned(extra: Callable[[dict[str, str]], dict[str, str]]) -> ByHand:
    def ask(replay: Replay, method: str, parameters: dict[str, str]) -> Answer:
        return replay.send(method, "/client/api", urlencode(extra(parameters)))

    return ask


def _query_and_body(replay: Replay, method: str, parameters: dict[str, str]) -> Answer:
    query = {"command": "listZones", "response": "json", "name": "CH-GV2"}
    body = urlencode({"name": "Sandbox-simulator"}).encode()
    form = "application/x-www-form-urlencoded"
    return replay.send("POST", "/client/api", urlencode(signed(query, *cloud.KEYS["user"])), body, form)


def _json_body(replay: Replay, method: str, parameters: dict[str, str]) -> Answer:
    body = signed({"command": "listZones", "response": "json"}, *cloud.KEYS["user"])
    return replay.send("POST", "/client/api", "", json.dumps(body).encode(), "application/json")


def _other_case(parameters: dict[str, str]) -> dict[str, str]:
    sent = signed(parameters, *cloud.KEYS["user"])
    return {{"apikey": "apiKey", "signature": "Signature"}.get(key, key): value for key, value in sent.items()}


def _login(replay: Replay, method: str, parameters: dict[str, str]) -> Answer:
    encoded = urlencode(parameters)
    if method == "GET":
        return replay.send(method, "/client/api", encoded)
    return replay.send(method, "/client/api", "", encoded.encode(), "application/x-www-form-urlencoded")


_KEY, _SECRET = cloud.KEYS["user"]
BY_HAND: dict[str, ByHand] = {
    "wrong signature": _unsigned(lambda p: signed(p, _KEY, _SECRET) | {"signature": "d3Jvbmc="}),
    "signature of other parameters": _unsigned(lambda p: signed(p | {"name": "CH-GV2"}, _KEY, _SECRET) | p),
    "wrong secret": _unsigned(lambda p: signed(p, _KEY, "wrong")),
    "unknown api key": _unsigned(lambda p: signed(p, "NO-SUCH-KEY", _SECRET)),
    "no signature": _unsigned(lambda p: p | {"apikey": _KEY}),
    "no api key and no signature": _unsigned(lambda p: p),
    "no command": _unsigned(lambda p: signed({"response": "json"}, _KEY, _SECRET)),
    "empty request": _unsigned(lambda p: {}),
    "signature parameter in other case": _unsigned(_other_case),
    "apiKey in camel case": _unsigned(lambda p: signed(p, _KEY, _SECRET, "apiKey")),
    "POST with query and body": _query_and_body,
    "POST with JSON body": _json_body,
    "login by GET": _login,
    "login wrong password": _login,
}


def main() -> int:
    differ = 0
    for name in sys.argv[1:]:
        report = Replay(name).run()
        print(f"== {name}\n{report}")
        differ += len(report.mismatches)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
