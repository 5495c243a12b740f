"""The CloudStack client: one pooled HTTP session an endpoint, and a thin view of it for one account.

JSON always. Reads are GET and are tried once more when the connection breaks; what changes something is POST with
`signatureVersion=3` and `expires`, sent once. Waits end with the caller's deadline. What comes back is bounded in
bytes, pages and time, whatever it says of itself.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

import orjson
import requests
import structlog
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from gstack.kernel import tracing
from translator_service.cloudstack import rows
from translator_service.cloudstack.circuit import Circuit
from translator_service.cloudstack.errors import NO_SUCH_ROW, CloudStackError, MaybeDone, Unreachable
from translator_service.cloudstack.pace import Pace
from translator_service.cloudstack.rows import Row
from translator_service.cloudstack.signing import signed_query

log = structlog.get_logger()

_EXPIRES = timedelta(minutes=10)
# Longer ones go as POST: the server's limit for a request line with headers is 8 kB.
_MAX_QUERY = 4000
# One page of 500 machines takes about 1 MB.
_MAX_ANSWER = 64 << 20
_CHUNK = 1 << 18
# The most pages of one list, and how many are asked for side by side: a `count` is only believed so far.
_MAX_PAGES = 1000
_WAVE = 16
# How long a call may be held up by the account's own limit, and how often it is tried when CloudStack says 429.
_HELD_UP = 2.0
_LIMIT_TRIES = 3
# A session has to be ended even when the deadline of what it was for is over.
_LOGOUT_SECONDS = 5.0
# Good escapes are matched too, so that the second half of `\\` is not taken for a beginning.
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?')

Call = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Keys:
    """An account's API key and secret key."""

    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class Answer:
    """One answer to `command`: `raw` bytes as received, parsed and checked (see rows) when somebody looks inside."""

    def __init__(self, raw: bytes, command: str = ""):
        self.raw = raw
        self.command = command

    @cached_property
    def body(self) -> dict[str, Any]:
        """What stands under the only top-level key; the key's name deviates for several commands."""
        document = parse(self.raw)
        if len(document) != 1 or not isinstance(inner := next(iter(document.values())), dict):
            raise self.unexpected("its envelope")
        return inner

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """The rows of a list. Raises Unreachable for one that is not as it must be."""
        return rows.many(self.command, self.body)

    @property
    def count(self) -> int:
        rows = self.items
        return int(self.body.get("count", len(rows)))

    def one(self) -> dict[str, Any]:
        """The object of a synchronous command: `{"volume": {...}}` without its key."""
        return rows.one(self.command, self.body)

    def unexpected(self, what: str) -> Unreachable:
        """what: the part of the answer that is not as it must be."""
        return Unreachable(f"{self.command}: {what} is not as it must be")


def all_rows(answers: Iterable[Answer]) -> list[Row]:
    """The rows of the pages of a list."""
    return [row for answer in answers for row in answer.items]


def parse(raw: bytes) -> dict[str, Any]:
    """CloudStack's JSON, leniently: it may hold raw control characters and broken escapes. Raises Unreachable."""
    try:
        document = orjson.loads(raw)
    except ValueError:
        try:
            text = _ESCAPE.sub(lambda match: "\\\\" if match[0] == "\\" else match[0], raw.decode("utf-8", "replace"))
            document = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            raise Unreachable("answer is not JSON") from None
    if not isinstance(document, dict):
        raise Unreachable("answer is not a JSON object")
    return document


class Endpoint:
    """One CloudStack, shared by all accounts. `observe(command, outcome, seconds)` feeds the metrics."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 128,
        timeout: float = 60.0,
        ca: str | None = None,
        observe: Callable[[str, str, float], None] = lambda *_: None,
    ):
        self.url = url
        self.timeout = timeout
        self._verify: bool | str = ca or True
        self._observe = observe
        self._circuit = Circuit()
        self._pace = Pace()
        self._adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections, pool_block=True)
        self.pool = ThreadPoolExecutor(connections, thread_name_prefix="cloudstack")

    def close(self) -> None:
        self.pool.shutdown(wait=False)
        self._adapter.close()

    def call(self, keys: Keys, command: str, parameters: dict[str, str], *, write: bool, deadline: float) -> Answer:
        """One command. deadline: `time.monotonic()` seconds. Raises CloudStackError, Unreachable or MaybeDone."""
        query = {**parameters, "command": command, "response": "json", "apikey": keys.api_key}
        if write:
            expires = datetime.now(UTC) + _EXPIRES
            query |= {"signatureversion": "3", "expires": expires.strftime("%Y-%m-%dT%H:%M:%S+0000")}
        encoded = signed_query(query, keys.secret_key)
        self._circuit.check()
        until = min(deadline, time.monotonic() + _HELD_UP)
        with tracing.call(f"cloudstack {command}", command=command):
            for _ in range(_LIMIT_TRIES):
                if not self._pace.wait(keys.api_key, until):
                    break
                try:
                    return self._tried(command, encoded, write, deadline)
                except CloudStackError as error:
                    # Nothing was done: a write may be sent again, too.
                    if error.code != 429:
                        raise
                    self._pace.refused(keys.api_key)
        raise CloudStackError(429, "the account's API limit is reached")

    def _tried(self, command: str, encoded: str, write: bool, deadline: float) -> Answer:
        attempts = 1 if write else 2
        started = time.monotonic()

        def unreachable(*, timed_out: bool) -> None:
            seconds = time.monotonic() - started
            self._circuit.failed(seconds, timed_out=timed_out)
            self._told(command, "unreachable", seconds)

        for attempt in range(1, attempts + 1):
            try:
                status, raw = self._send(encoded, write or len(encoded) > _MAX_QUERY, deadline)
                break
            except requests.ConnectTimeout:
                unreachable(timed_out=True)
                raise Unreachable("connect timeout") from None
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if attempt == attempts:
                    unreachable(timed_out=False)
                    refused = "Connection refused" in str(error) or "NewConnectionError" in str(error)
                    raise (MaybeDone if write and not refused else Unreachable)("connection failed") from None
            except requests.RequestException:
                unreachable(timed_out=True)
                raise (MaybeDone if write else Unreachable)("no answer in time") from None
        seconds = time.monotonic() - started
        if status == 200:
            self._circuit.answered()
            self._told(command, "ok", seconds)
            return _written(raw, command) if write else Answer(raw, command)
        self._told(command, str(status), seconds)
        failure = _error(status, raw, write)
        if isinstance(failure, Unreachable):
            self._circuit.failed(seconds, timed_out=False)
        else:
            self._circuit.answered()
        raise failure

    def _told(self, command: str, outcome: str, seconds: float) -> None:
        self._observe(command, outcome, seconds)
        tracing.note(outcome=outcome)
        log.debug("cloudstack_call", command=command, outcome=outcome, seconds=round(seconds, 4))

    def login(
        self, username: str, password: str, domain: str, deadline: float, *, register_keys: bool = False
    ) -> dict[str, Any]:
        """Who a name and password are, with `apikey` and `secretkey` if the user has keys, as `login` and `getUserKeys`
        answer. The session that this takes is ended in every case.

        register_keys: make keys for a user without. Raises CloudStackError: 531 for a wrong name or password, 511 for a
        user whose second factor is not verified. Raises MaybeDone when CloudStack may have seen the password.
        """
        self._circuit.check()
        session = _Session(self._adapter, self._verify, self.url, lambda: self._timeout(deadline))
        try:
            person = session.open(username, password, domain)
            if _is_true(person.get("is2faenabled")) and not _is_true(person.get("is2faverified")):
                raise CloudStackError(511, "two-factor authentication is not verified")
            found = session.keys()
            # One of the two alone is reason enough to leave the user's keys as they are.
            if register_keys and not found.get("apikey") and not found.get("secretkey"):
                session.register_keys(deadline)
                found = session.keys()
        except requests.RequestException as error:
            # Neither the request, which holds the password, nor what hangs on the exception goes further.
            unseen = isinstance(error, requests.ConnectTimeout) or "NewConnectionError" in str(error)
            raise (MaybeDone if session.answered or not unseen else Unreachable)("login failed") from None
        except Unreachable as error:
            raise (MaybeDone if session.answered else Unreachable)(str(error)) from None
        finally:
            session.close()
        return {**person, **found}

    def _timeout(self, deadline: float) -> tuple[float, float]:
        left = min(deadline - time.monotonic(), self.timeout)
        if left <= 0:
            raise Unreachable("deadline exceeded")
        return (min(left, 5.0), left)

    def _send(self, encoded: str, post: bool, deadline: float) -> tuple[int, bytes]:
        # A request prepared by hand and sent by the adapter costs a third of Session.request.
        request = requests.PreparedRequest()
        request.method = "POST" if post else "GET"
        request.url = self.url if post else f"{self.url}?{encoded}"
        # Proxies before CloudStack may log the ids; it does not mind them itself.
        request.headers = CaseInsensitiveDict({"Accept": "application/json", **tracing.headers()})
        request.hooks = {}
        if post:
            request.body = encoded
            request.headers["Content-Type"] = "application/x-www-form-urlencoded"
            request.headers["Content-Length"] = str(len(encoded))
        reply = self._adapter.send(request, timeout=self._timeout(deadline), verify=self._verify)
        return reply.status_code, _content(reply, deadline)


class _Session:
    """A person's session: cookies, and a key in each request. All of it is POST: URLs are logged on the way."""

    def __init__(self, adapter: HTTPAdapter, verify: bool | str, url: str, timeout: Callable[[], tuple[float, float]]):
        self._http = requests.Session()
        # Neither proxies nor a netrc of the environment: the way is the one that signed requests go.
        self._http.trust_env = False
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, adapter)
        self._verify = verify
        self._url = url
        self._timeout = timeout
        self._key = ""
        self._user = ""
        self.answered = False

    def open(self, username: str, password: str, domain: str) -> dict[str, Any]:
        """The answer of `login`. domain: path, "" for the root domain."""
        who = {"username": username, "password": password}
        person = self._call("login", {**who, "domain": domain} if domain else who).body
        try:
            self._key, self._user = str(person["sessionkey"]), str(person["userid"])
        except KeyError:
            raise Unreachable("unexpected answer to a login") from None
        return person

    def keys(self) -> dict[str, Any]:
        """The answer of `getUserKeys`, without `apikey` and `secretkey` for a user who has none. Anything that is not
        that answer is an error: keys might be made because of it."""
        found = self._call("getUserKeys", {"id": self._user}).body.get("userkeys")
        if not isinstance(found, dict):
            raise Unreachable("unexpected answer to a question for keys")
        return found

    def register_keys(self, deadline: float) -> None:
        """Make a pair of keys: at once in CloudStack 4.22, by a job since 4.23."""
        job = self._call("registerUserKeys", {"id": self._user}).body.get("jobid")
        pause = 0.1
        while job is not None:
            state = self._call("queryAsyncJobResult", {"jobid": str(job)}).body
            if state.get("jobstatus") == 1:
                return
            if state.get("jobstatus") != 0:
                raise CloudStackError(530, "the job that makes keys failed")
            time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
            pause = min(pause * 2, 1.0)

    def close(self) -> None:
        """Log out, if there is something to log out from; what came before counts, not whether this succeeds."""
        if not self._key:
            return
        try:
            self._post("logout", {}, (_LOGOUT_SECONDS, _LOGOUT_SECONDS)).close()
        except requests.RequestException as error:
            log.warning("cloudstack_logout_failed", error=type(error).__name__)

    def _call(self, command: str, parameters: dict[str, str]) -> Answer:
        timeout = self._timeout()
        reply = self._post(command, parameters, timeout)
        content = _content(reply, time.monotonic() + timeout[1])
        if reply.status_code != 200:
            raise _error(reply.status_code, content, False)
        return Answer(content, command)

    def _post(self, command: str, parameters: dict[str, str], timeout: tuple[float, float]) -> requests.Response:
        form = {**parameters, "command": command, "response": "json"}
        if self._key:
            form["sessionkey"] = self._key
        reply = self._http.post(
            self._url, form, timeout=timeout, verify=self._verify, allow_redirects=False, stream=True
        )
        self.answered = True
        return reply


def _content(reply: requests.Response, deadline: float) -> bytes:
    """The whole body; a server that sends too much, or too slowly, is not listened to."""
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := reply.raw.read1(_CHUNK, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > _MAX_ANSWER or time.monotonic() > deadline:
                reply.close()
                raise requests.Timeout
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(type(error).__name__) from None
    reply.raw.release_conn()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_true(value: Any) -> bool:
    """`login` writes its flags as texts."""
    return str(value).lower() == "true"


def _written(raw: bytes, command: str) -> Answer:
    """The answer to a write, which must be readable: a torn one does not say what was done."""
    answer = Answer(raw, command)
    try:
        _ = answer.body
    except Unreachable as error:
        raise MaybeDone(str(error)) from None
    return answer


def _error(status: int, raw: bytes, write: bool) -> Exception:
    try:
        body = Answer(raw).body
        return CloudStackError(int(body["errorcode"]), str(body.get("errortext", "")), int(body.get("cserrorcode", 0)))
    except (Unreachable, KeyError, ValueError, TypeError):
        pass
    if status in (414, 413, 431):
        return CloudStackError(431, "the request is too large")
    if status in (401, 405):
        return CloudStackError(status, "refused")
    log.warning("cloudstack_unreadable_answer", status=status, size=len(raw))
    return (MaybeDone if write and status >= 500 else Unreachable)(f"status {status} without an error object")


@dataclass
class Client:
    """An endpoint as one account, or one of its projects, sees it, until a deadline."""

    endpoint: Endpoint
    keys: Keys
    project_id: str | None = None
    deadline: float = field(default_factory=lambda: time.monotonic() + 60)

    def read(self, command: str, parameters: dict[str, str] | None = None, /, **more: str) -> Answer:
        return self.endpoint.call(
            self.keys, command, self._owned({**(parameters or {}), **more}), write=False, deadline=self.deadline
        )

    def write(self, command: str, parameters: dict[str, str] | None = None, /, **more: str) -> Answer:
        return self.endpoint.call(
            self.keys, command, self._owned({**(parameters or {}), **more}), write=True, deadline=self.deadline
        )

    def rows_of_id(self, command: str, identity: str, /, **parameters: str) -> list[Row]:
        """What a list has of this uuid: nothing of what is gone, or somebody else's."""
        try:
            return self.read(command, id=identity, **parameters).items
        except CloudStackError as error:
            if error.code not in NO_SUCH_ROW:
                raise
            return []

    def read_many(self, calls: Sequence[Call]) -> list[Answer]:
        """Several reads side by side, answers in the order of the calls; the first failure is raised."""
        if len(calls) == 1:
            return [self.read(*calls[0])]
        # With the ids of the request in hand.
        rest = [self.endpoint.pool.submit(copy_context().run, partial(self.read, *call)) for call in calls[1:]]
        first = self.read(*calls[0])
        return [first, *(future.result() for future in rest)]

    def read_all(self, command: str, /, **parameters: str) -> list[Answer]:
        """All pages of a list."""
        return self.read_all_many([(command, parameters)])[0]

    def read_all_many(self, calls: Sequence[Call]) -> list[list[Answer]]:
        """All pages of several lists. The first calls, side by side, tell the page sizes; so do the others run."""
        firsts = self.read_many(calls)
        found = [[first] for first in firsts]
        open_lists = [position for position, first in enumerate(firsts) if _last_page(first) > 1]
        while open_lists:
            wave: list[tuple[int, Call]] = []
            for position in open_lists:
                pages, (command, parameters) = found[position], calls[position]
                size, last = len(pages[0].items), _last_page(pages[0])
                # Few side by side, since a page that shows the list to be over makes the rest needless.
                for page in range(len(pages) + 1, min(last, len(pages) + _WAVE) + 1):
                    wave.append((position, (command, {**parameters, "page": str(page), "pagesize": str(size)})))
            over = set()
            for (position, _), answer in zip(wave, self.read_many([call for _, call in wave]), strict=True):
                pages = found[position]
                if position in over or not answer.items or answer.items[0] == pages[-1].items[0]:
                    over.add(position)
                    continue
                pages.append(answer)
            open_lists = [
                position
                for position in open_lists
                if position not in over and len(found[position]) < _last_page(found[position][0])
            ]
        return found

    def _owned(self, parameters: dict[str, str]) -> dict[str, str]:
        if self.project_id and "projectid" not in parameters:
            parameters["projectid"] = self.project_id
        return parameters


def _last_page(first: Answer) -> int:
    size = len(first.items)
    last = -(-first.count // size) if size else 1
    if last > _MAX_PAGES:
        raise first.unexpected("its count")
    return last
