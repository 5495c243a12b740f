"""Fixtures: a simulated CloudStack on a real port, and a translator's scope on it."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import sqlalchemy as sa
import uvicorn
from dbos import _dbos as dbos_module

from gstack.kernel.database import sqlite_file
from gstack.kernel.sealing import Keyring
from gstack.kernel.settings import Settings
from simulator import cloud
from simulator.app import Simulator
from tests.auth import Auth
from tests.waits import LONG, until
from translator_service import resources
from translator_service.cloudstack import jobs
from translator_service.cloudstack.client import Endpoint
from translator_service.gce.names_file import NameMap
from translator_service.gce.paging import Pager
from translator_service.kept.store import open_store
from translator_service.operations import engine as engine_module
from translator_service.operations.run import Run, handler
from translator_service.scope import Caller, Environment, Scope, scope_of

RECORDINGS = Path(__file__).parent / "recordings"
LINK_BASE = "https://www.googleapis.com/compute/v1"

resources.load()

# What a test proves does not depend on how busy the machine is.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What all the modules have made stays: looking for garbage in it again and again takes as long as many tests."""
    gc.collect()
    gc.freeze()


@sa.event.listens_for(sa.Engine, "connect")
def _without_waiting_for_the_disk(connection: Any, _: Any) -> None:
    """No test cuts the power: what SQLite has written is there, also when its process is killed."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def recorded(file: str, name: str, *, index: int = 0) -> dict[str, Any]:
    """One recorded exchange by file stem and name."""
    exchanges = json.loads((RECORDINGS / f"{file}.json").read_text())["exchanges"]
    return [exchange for exchange in exchanges if exchange["name"] == name][index]


def recorded_rows(file: str, name: str) -> list[dict[str, Any]]:
    """The rows of a recorded list answer."""
    body = next(iter(recorded(file, name)["body"].values()))
    return next((value for value in body.values() if isinstance(value, list)), [])


class Cloud:
    """The demo cloud, quick, served over HTTP from a thread of this process; `reset` makes a new one."""

    def __init__(self) -> None:
        self.app: Simulator
        self.reset()
        self._socket = socket.create_server(("127.0.0.1", 0))
        # Inherited by the connections; without it the second packet of a request waits 40 ms for an acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/client/api"
        config = uvicorn.Config(self._serve, interface="asgi3", log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._socket])), daemon=True)
        self._thread.start()
        until(lambda: self._server.started, pause=0.01)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    def reset(self) -> None:
        description = cloud.read(None)
        description["settings"] = {"job_seconds": {"": 0.02}}
        self.app = Simulator(cloud.build(description))

    @property
    def calls(self) -> dict[str, int]:
        """CloudStack commands since the last reset, without job polling."""
        return {name: count for name, count in self.app.calls.items() if name != "queryAsyncJobResult"}

    def let_go(self) -> None:
        """What hangs goes on."""
        requests.delete(self.url.replace("/client/api", "/simulator/faults"), timeout=LONG)

    def stop(self) -> None:
        # It does not wait for what hangs.
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(LONG)


@pytest.fixture(scope="session")
def cloud_server() -> Iterator[Cloud]:
    server = Cloud()
    yield server
    server.stop()


@pytest.fixture
def simulated(cloud_server: Cloud) -> Cloud:
    """A fresh demo cloud."""
    cloud_server.reset()
    return cloud_server


@pytest.fixture
def quick_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the simulated cloud take 20 ms, so asking for them more seldom would only be waiting."""
    monkeypatch.setattr(jobs, "_PAUSES", (0.02,) * 100)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the translator: a copy is there at once, its migrations take longer than most tests."""
    found = tmp_path_factory.mktemp("migrated") / "translator.sqlite"
    # The last connection that closes leaves all in the one file.
    open_store(f"sqlite:///{found}").engine.dispose()
    return found


@pytest.fixture
def environment(simulated: Cloud, tmp_path: Path, _migrated: Path) -> Iterator[Environment]:
    settings = Settings(state_dir=tmp_path, cloudstack_url=simulated.url)
    file = sqlite_file(settings.translator_database())
    assert file is not None
    shutil.copyfile(_migrated, file)
    made = Environment(
        settings=settings,
        endpoint=Endpoint(simulated.url, connections=8, timeout=LONG),
        store=open_store(settings.translator_database()),
        sealer=Keyring.of(b"k" * 32),
        names=NameMap(),
        pager=Pager(b"page key"),
    )
    yield made
    made.endpoint.close()
    made.store.engine.dispose()


OpenScope = Callable[..., Scope]


@pytest.fixture
def scope_for(environment: Environment) -> OpenScope:
    """Open scopes: `scope_for("demo", account="demo")`; keys are `<account>-api-key` and `<account>-secret-key`."""

    def make(project: str = "demo", account: str = "demo", **options: Any) -> Scope:
        # A test may take as long as it takes on a busy machine.
        options.setdefault("deadline", time.monotonic() + 3600)
        return scope_of(environment, Caller.of(environment_user(account)), project, LINK_BASE, **options)

    def environment_user(account: str) -> dict[str, str]:
        user = account.partition("@")[0]
        return {
            "api_key": f"{user}-api-key",
            "secret_key": f"{user}-secret-key",
            "account_id": f"00000000-0000-4000-8000-{user.encode().hex():0>12}",
            "account_name": account,
            "subject": f"{user}@example.org",
            "key": user,
        }

    return make


@pytest.fixture
def scope(scope_for: OpenScope) -> Scope:
    """The demo account's scope on a fresh demo cloud."""
    return scope_for()


class _Told(engine_module.Engine):
    """Says when an operation has come to its end, so that nobody looks again and again."""

    def __init__(self, environment: Environment, executor: str):
        super().__init__(environment, executor)
        self.ended = threading.Condition()

    def start(self) -> None:
        super().start()
        # DBOS looks for what is gone on with once a second: every crash in a test would wait for that.
        queue = dbos_module._get_dbos_instance()._registry.get_internal_queue()
        assert queue._polling_interval_sec == 1.0
        queue._polling_interval_sec = 0.06

    def _end(self, *arguments: Any) -> None:
        super()._end(*arguments)
        with self.ended:
            self.ended.notify_all()


@pytest.fixture(scope="session")
def _workflows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Environment], threading.Condition]]:
    """DBOS is one a process: it is launched once, and each test's environment is put under it."""
    started: list[_Told] = []

    def use(environment: Environment) -> threading.Condition:
        if not started:
            folder = tmp_path_factory.mktemp("workflows")
            settings = environment.settings.model_copy(update={"state_dir": folder})
            first = Environment(**{**vars(environment), "settings": settings})
            started.append(_Told(first, "tests"))
            started[0].start()
        started[0].use(environment)
        return started[0].ended

    yield use
    for one in started:
        one.stop()


@pytest.fixture
def operations(
    environment: Environment, _workflows: Callable[[Environment], threading.Condition]
) -> Callable[[Scope, Any], Any]:
    """Runs operations for real; call it with a scope and an Operation to get the finished row."""
    ended = _workflows(environment)

    def finish(scope: Scope, operation: Any) -> Any:
        row: Any = None

        def done() -> bool:
            nonlocal row
            row = environment.store.operation_by_name(operation.name)
            return row is not None and row["status"] == "DONE"

        end = time.monotonic() + LONG
        with ended:
            while not done():
                assert time.monotonic() < end, f"waited in vain: {row}"
                # An engine of the test's own tells nobody.
                ended.wait(0.2)
        return row

    return finish


@pytest.fixture
def auth(environment: Environment, tmp_path: Path) -> Iterator[Auth]:
    """The auth service in this process, its users those of a fresh demo cloud."""
    made = Auth(environment, tmp_path)
    yield made
    made.close()


class Hold:
    """Operations that are at work on something until they are let go."""

    def __init__(self) -> None:
        self._free = threading.Event()

    def on(self, scope: Scope, target: str) -> Any:
        """target: in the zone ch-zh-1, as `disks/data-1`."""
        target = f"zones/ch-zh-1/{target}"
        return engine_module.submit(scope, type="x", target=target, handler="tests.hold", payload={})

    def until_turns_were_given(self, scope: Scope) -> None:
        """Return when what could begin before this was asked has begun."""
        sent = engine_module.submit(scope, type="x", target="", handler="tests.nothing", payload={})
        until(lambda: (row := scope.store.operation_by_name(sent.name)) is not None and row["status"] == "DONE")

    def wait(self) -> None:
        assert self._free.wait(LONG)

    def let_go(self) -> None:
        self._free.set()


_HOLD = Hold()


@handler("tests.hold")
def _hold(run: Run) -> None:
    _HOLD.wait()


@handler("tests.nothing")
def _nothing(run: Run) -> None:
    pass


@pytest.fixture
def hold() -> Iterator[Hold]:
    _HOLD.__init__()  # type: ignore[misc]
    yield _HOLD
    _HOLD.let_go()
