"""The CloudStack client against a simulated cloud and its faults, and against servers that are worse."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.app import Fault, _unescape
from simulator.families.machines import machines
from simulator.world import ServiceOffering, Template, VirtualMachine, Zone
from tests.conftest import Cloud
from tests.waits import LONG, until
from translator_service.cloudstack import client as client_module
from translator_service.cloudstack.client import Answer, Client, Endpoint, Keys, parse
from translator_service.cloudstack.errors import CloudStackError, MaybeDone, Unreachable, to_api_error

KEYS = Keys("demo-api-key", "demo-secret-key")
EMPTY = b'{"listzonesresponse":{}}'


@pytest.fixture
def endpoint(simulated: Cloud) -> Iterator[Endpoint]:
    made = Endpoint(simulated.url, connections=8, timeout=LONG)
    yield made
    made.close()


@pytest.fixture
def client(endpoint: Endpoint) -> Client:
    return Client(endpoint, KEYS)


class Server:
    """Takes requests as they come; `answers` says for each what to send: bytes, or None to hang up without a word."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []  # method, query, form
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def client(self, timeout: float = 5.0) -> Client:
        return Client(Endpoint(f"http://127.0.0.1:{self.port}/client/api", timeout=timeout), KEYS)

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                method, target, _ = reader.readline().decode().split(" ")
                length = 0
                while line := reader.readline().strip():
                    name, _, value = line.decode().partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                form = dict(parse_qsl(reader.read(length).decode(), keep_blank_values=True))
                query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
                self.requests.append((method, query, form))
                answer = self.answers.pop(0) if self.answers else http(EMPTY)
                if answer is not None:
                    connection.sendall(answer)


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


# What is sent


def test_reads_are_get_and_writes_are_post_that_expire(server: Server) -> None:
    client = server.client()
    client.read("listZones", name="a b~*[ü]")
    client.write("stopVirtualMachine", id="1", **{"details[0].k": "v"})
    (method, query, form), (write_method, write_query, write_form) = server.requests
    assert (method, form) == ("GET", {})
    assert query["name"] == "a b~*[ü]"
    assert query["response"] == "json" and query["apikey"] == "demo-api-key"
    assert "expires" not in query
    assert (write_method, write_query) == ("POST", {})
    assert write_form["signatureversion"] == "3" and write_form["details[0].k"] == "v"
    assert write_form["expires"].endswith("+0000")


def test_a_long_read_is_a_post_without_expiry(server: Server) -> None:
    server.client().read("listVirtualMachines", ids=",".join(["x" * 36] * 200))
    method, query, form = server.requests[0]
    assert (method, query) == ("POST", {})
    assert len(form["ids"]) > 7000 and "expires" not in form


def test_a_long_read_is_answered(client: Client) -> None:
    with pytest.raises(CloudStackError) as raised:
        client.read("listVirtualMachines", ids=",".join(["00000000-0000-4000-8000-000000000000"] * 200))
    assert raised.value.code == 431


def test_a_project_is_named_unless_the_call_names_another(server: Server) -> None:
    client = server.client()
    client.project_id = "p"
    client.read("listZones")
    client.read("listZones", projectid="q")
    client.write("x", {"projectid": "-1"})
    assert [(query | form)["projectid"] for _, query, form in server.requests] == ["p", "q", "-1"]


@given(values=st.dictionaries(st.sampled_from(["name", "keyword", "tags[0].value"]), st.text(), max_size=3))
@settings(max_examples=50, deadline=None)
def test_signatures_hold_for_any_value(cloud_server: Cloud, values: dict[str, str]) -> None:
    endpoint = Endpoint(cloud_server.url, connections=1, timeout=LONG)
    try:
        Client(endpoint, KEYS).read("listZones", values)
    except CloudStackError as error:
        assert error.code != 401, error  # 530 is for what its database cannot compare
    finally:
        endpoint.close()


@pytest.mark.parametrize("keys", [Keys("demo-api-key", "wrong"), Keys("nobody", "demo-secret-key")])
@pytest.mark.parametrize("write", [False, True])
def test_wrong_keys_are_401(endpoint: Endpoint, keys: Keys, write: bool) -> None:
    client = Client(endpoint, keys)
    with pytest.raises(CloudStackError) as raised:
        (client.write if write else client.read)("listZones")
    assert raised.value.code == 401
    assert to_api_error(raised.value).code == 401


# What goes wrong


def failed(call: Callable[[], Any]) -> Exception:
    with pytest.raises((CloudStackError, Unreachable)) as raised:
        call()
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert "demo-api-key" not in shown and "demo-secret-key" not in shown
    return raised.value


def test_an_error_answer(simulated: Cloud, client: Client) -> None:
    simulated.app.faults.append(Fault("status", "listZones", status=431, text="No such thing"))
    error = failed(lambda: client.read("listZones"))
    assert isinstance(error, CloudStackError)
    assert (error.code, error.text) == (431, "No such thing")
    assert simulated.app.calls["listZones"] == 1


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("fault", [Fault("html", status=502), Fault("html", status=503)])
def test_a_proxys_page(simulated: Cloud, client: Client, fault: Fault, write: bool) -> None:
    simulated.app.faults.append(Fault(**vars(fault)))
    error = failed(lambda: (client.write if write else client.read)("listZones"))
    assert type(error) is (MaybeDone if write else Unreachable)
    assert to_api_error(error).code == 503


def test_a_page_that_forbids_was_not_carried_out(simulated: Cloud, client: Client) -> None:
    simulated.app.faults.append(Fault("html", status=404))
    assert type(failed(lambda: client.write("listZones"))) is Unreachable


@pytest.mark.parametrize(("status", "code"), [(414, 431), (413, 431), (401, 401), (405, 405)])
def test_pages_with_a_meaning(simulated: Cloud, client: Client, status: int, code: int) -> None:
    simulated.app.faults.append(Fault("html", status=status))
    error = failed(lambda: client.read("listZones"))
    assert isinstance(error, CloudStackError) and error.code == code


@pytest.mark.parametrize("write", [False, True])
def test_half_an_answer(simulated: Cloud, client: Client, write: bool) -> None:
    simulated.app.faults.append(Fault("truncated", "listZones"))
    error = failed(lambda: (client.write if write else client.read)("listZones").items)
    assert type(error) is (MaybeDone if write else Unreachable)


@pytest.mark.parametrize("write", [False, True])
def test_a_wait_ends_with_the_callers_deadline(simulated: Cloud, client: Client, write: bool) -> None:
    client.read("listZones")
    simulated.app.faults.append(Fault("hang", "listZones"))
    client.deadline = time.monotonic() + 2
    error = failed(lambda: (client.write if write else client.read)("listZones"))
    assert type(error) is (MaybeDone if write else Unreachable)


def test_no_request_is_sent_after_the_deadline(simulated: Cloud, client: Client) -> None:
    client.deadline = time.monotonic() - 1
    assert type(failed(lambda: client.write("listZones"))) is Unreachable
    assert simulated.app.calls["listZones"] == 0


def test_a_dropped_write_may_be_done_and_is_sent_once(simulated: Cloud, client: Client) -> None:
    simulated.app.faults.append(Fault("drop", "listZones"))
    assert type(failed(lambda: client.write("listZones"))) is MaybeDone
    assert simulated.app.calls["listZones"] == 1


TORN = [None, http(EMPTY, length=len(EMPTY) + 10), b"nonsense\r\n\r\n"]


@pytest.mark.parametrize("torn", TORN)
def test_a_read_is_tried_twice_when_the_connection_breaks(server: Server, torn: bytes | None) -> None:
    server.answers = [torn]
    assert server.client().read("listZones").items == []
    assert len(server.requests) == 2


@pytest.mark.parametrize("torn", TORN)
def test_a_read_is_not_tried_three_times(server: Server, torn: bytes | None) -> None:
    server.answers = [torn] * 3
    assert type(failed(lambda: server.client().read("listZones"))) is Unreachable
    assert len(server.requests) == 2


@pytest.mark.parametrize("torn", TORN)
def test_a_write_is_sent_once(server: Server, torn: bytes | None) -> None:
    server.answers = [torn]
    assert type(failed(lambda: server.client().write("startVirtualMachine", id="1"))) is MaybeDone
    assert len(server.requests) == 1


@pytest.mark.parametrize("write", [False, True])
def test_a_refused_connection_did_nothing(write: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = Client(Endpoint(f"http://127.0.0.1:{port}/client/api"), KEYS)
    error = failed(lambda: (client.write if write else client.read)("listZones"))
    assert type(error) is Unreachable


def test_keys_are_in_no_text(endpoint: Endpoint, client: Client) -> None:
    for thing in (KEYS, client, endpoint):
        assert "demo-api-key" not in repr(thing) + str(thing)
        assert "demo-secret-key" not in repr(thing) + str(thing)


def test_outcomes_are_observed(simulated: Cloud) -> None:
    seen: list[tuple[str, str]] = []
    endpoint = Endpoint(
        simulated.url, timeout=LONG, observe=lambda command, outcome, _: seen.append((command, outcome))
    )
    client = Client(endpoint, KEYS)
    client.read("listZones")
    simulated.app.faults.append(Fault("status", "listZones", status=530))
    failed(lambda: client.read("listZones"))
    client.deadline = time.monotonic() + 1
    simulated.app.faults.append(Fault("hang", "listZones"))
    failed(lambda: client.read("listZones"))
    endpoint.close()
    assert seen == [("listZones", "ok"), ("listZones", "530"), ("listZones", "unreachable")]


# What is read


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"r":{"a":"x"}}', {"a": "x"}),
        (b'{"r":{"a":"x\x01\ty"}}', {"a": "x\x01\ty"}),
        (b'{"r":{"a":"x\ny"}}', {"a": "x\ny"}),
        (rb'{"r":{"a":"C:\dir"}}', {"a": "C:\\dir"}),
        (rb'{"r":{"a":"\A \u12"}}', {"a": "\\A \\u12"}),
        (
            rb'{"r":{"a":"\q","b":"C:\\dir","c":"\\","d":"\"\u00e9\n"}}',
            {"a": "\\q", "b": "C:\\dir", "c": "\\", "d": '"é\n'},
        ),
        (b'{"r":{"a":"\x01","b":"C:\\\\dir"}}', {"a": "\x01", "b": "C:\\dir"}),
        (b'{"r":{"a":"\xff"}}', {"a": "\ufffd"}),
    ],
)
def test_json_is_read_leniently(raw: bytes, expected: dict[str, str]) -> None:
    assert Answer(raw).body == expected


@given(st.text())
@settings(max_examples=150)
def test_what_the_cloud_makes_of_a_text_is_read_or_refused(text: str) -> None:
    raw = _unescape(orjson.dumps({"r": {"a": text, "b": "x\\y"}}))
    try:
        body = Answer(raw).body
    except Unreachable:
        assert '"' in text or "\\" in text
    else:
        if "\\" not in text:
            assert body == {"a": text, "b": "x\\y"}


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"[]", b"1", b'{"a":', b"{}", b'{"a":1}', b'{"a":{},"b":{}}', b"[" * 9999]
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(Unreachable):
        _ = Answer(raw).body


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_any_bytes_are_an_object_or_unreachable(raw: bytes) -> None:
    try:
        assert isinstance(parse(raw), dict)
    except Unreachable:
        pass


def test_what_is_inside_an_answer() -> None:
    rows = Answer(b'{"listx":{"count":7,"x":[{"id":"1"}]}}')
    assert (rows.count, rows.items) == (7, [{"id": "1"}])
    empty = Answer(b'{"listx":{}}')
    assert (empty.count, empty.items, empty.one()) == (0, [], {})
    assert Answer(b'{"createx":{"volume":{"id":"2"}}}').one() == {"id": "2"}


# Lists


def add_machines(cloud: Cloud, count: int) -> None:
    world = cloud.app.world
    user = world.users_by_key["demo-api-key"]
    for number in range(count):
        row = world.add(
            VirtualMachine,
            name=f"web-{number:04}",
            display_name=f"web-{number:04}",
            account=user.account,
            user=user,
            zone=world.all(Zone)[0],
            template=world.all(Template)[0],
            offering=world.all(ServiceOffering)[0],
            cpu_number=1,
            cpu_speed=1000,
            memory=512,
            state="Running",
        )
        machines(world).put(row)


@pytest.mark.parametrize(("page_size", "calls"), [(500, 3), (20, 60)])
def test_all_pages_of_a_list(simulated: Cloud, client: Client, page_size: int, calls: int) -> None:
    add_machines(simulated, 1200)
    simulated.app.world.settings.page_size = page_size
    pages = client.read_all("listVirtualMachines", details="min")
    names = [row["name"] for page in pages for row in page.items]
    assert sorted(names) == [f"web-{number:04}" for number in range(1200)]
    assert simulated.app.calls["listVirtualMachines"] == len(pages) == calls


def test_pages_are_read_side_by_side(simulated: Cloud, client: Client) -> None:
    add_machines(simulated, 120)
    simulated.app.world.settings.page_size = 40
    # The first says how many there are; the others are all asked for before one of them is answered.
    simulated.app.faults += [Fault("hang", "listVirtualMachines", seconds=0.0)]
    simulated.app.faults += [Fault("hang", "listVirtualMachines", count=2)]
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(client.read_all, "listVirtualMachines")
        until(lambda: simulated.app.calls["listVirtualMachines"] == 3)
        simulated.let_go()
        assert len(found.result(LONG)) == 3


def test_several_lists_at_once_come_in_their_order(simulated: Cloud, client: Client) -> None:
    add_machines(simulated, 30)
    simulated.app.world.settings.page_size = 20
    found = client.read_all_many([("listVirtualMachines", {}), ("listZones", {}), ("listVolumes", {})])
    assert [sum(len(page.items) for page in pages) for pages in found] == [30, 2, 0]


def test_a_page_that_fails_fails_the_list(simulated: Cloud, client: Client) -> None:
    add_machines(simulated, 60)
    simulated.app.world.settings.page_size = 20
    client.read("listZones")
    simulated.app.faults.append(Fault("status", "listVirtualMachines", status=531, count=1))
    assert isinstance(failed(lambda: client.read_all("listVirtualMachines")), CloudStackError)


# A name and a password


def test_a_login_fetches_the_keys(endpoint: Endpoint) -> None:
    found = endpoint.login("demo", "demo", "", time.monotonic() + LONG)
    assert (found["apikey"], found["secretkey"]) == ("demo-api-key", "demo-secret-key")
    with pytest.raises(CloudStackError) as raised:
        endpoint.login("demo", "wrong", "", time.monotonic() + LONG)
    assert raised.value.code == 531
    assert "wrong" not in str(raised.value)


# Answers that say too much of themselves


class Liar:
    """A CloudStack with pages of two rows, which says that there are more."""

    def __init__(self, count: int, page: Callable[[int], list[dict[str, str]]]):
        self.asked: list[int] = []
        self.pool = ThreadPoolExecutor(4)
        self._count, self._page = count, page

    def call(self, keys: Keys, command: str, parameters: dict[str, str], **_: Any) -> Answer:
        number = int(parameters.get("page", "1"))
        self.asked.append(number)
        return Answer(orjson.dumps({"r": {"count": self._count, "x": self._page(number)}}), "listThings")


@pytest.mark.parametrize(
    "page",
    [
        lambda number: [{"id": "1"}, {"id": "2"}],
        lambda number: [{"id": "1"}, {"id": "2"}] if number == 1 else [],
    ],
    ids=["the same again", "nothing more"],
)
def test_c1_a_count_is_believed_no_further_than_there_are_rows(page: Callable[[int], list[dict[str, str]]]) -> None:
    cloud = Liar(1900, page)
    pages = Client(cast(Endpoint, cloud), KEYS).read_all("listThings")
    assert [row["id"] for answer in pages for row in answer.items] == ["1", "2"]
    assert len(cloud.asked) < 20


def test_c1_a_count_beyond_all_bounds_is_no_answer() -> None:
    cloud = Liar(1_000_000, lambda number: [{"id": "1"}, {"id": "2"}])
    with pytest.raises(Unreachable, match="listThings"):
        Client(cast(Endpoint, cloud), KEYS).read_all("listThings")
    assert cloud.asked == [1]


def test_c1_many_pages_are_all_read() -> None:
    cloud = Liar(90, lambda number: [{"id": f"{number}-1"}, {"id": f"{number}-2"}])
    pages = Client(cast(Endpoint, cloud), KEYS).read_all("listThings")
    assert len(pages) == 45 and sorted(cloud.asked) == list(range(1, 46))


def test_c1_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, simulated: Cloud) -> None:
    monkeypatch.setattr(client_module, "_MAX_ANSWER", 1000)
    endpoint = Endpoint(simulated.url, connections=2, timeout=LONG)
    with pytest.raises(Unreachable):
        Client(endpoint, KEYS).read("listTemplates", templatefilter="executable")
    endpoint.close()
