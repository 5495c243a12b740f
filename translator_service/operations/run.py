"""An operation at work: what its handler may do, step by step.

A handler is a function of a `Run`, registered by name. Each step is kept with its result, so that after a crash another
translator goes on where the first was. A step that changes CloudStack is a job with an id made from the operation and
the step, so a repeated step finds its job instead of starting a second one.

What cannot be found out now (CloudStack or the database is away, a job runs on) is no failure: `Parked` leaves the
operation as it is, and any translator goes on with it later. Meanwhile it holds no thread.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from dbos import DBOS

from gstack.kernel.database import AWAY
from translator_service.cloudstack import jobs
from translator_service.cloudstack.client import Answer, Client, all_rows
from translator_service.cloudstack.errors import TRY_LATER, CloudStackError, Unfinished, Unreachable
from translator_service.kept import tags
from translator_service.kept.store import Store
from translator_service.scope import Scope

log = structlog.get_logger()

T = TypeVar("T")

_NAMESPACE = uuid.UUID("6f2f6c1e-54ab-5d0c-9d9d-6a3f0f1c2b7e")
# How long what is away is waited for in one go.
_PATIENCE = 10.0
# Until an operation is gone on with.
_LATER = 15.0
# Jobs of one step that run side by side.
_SIDE_BY_SIDE = 32


class OperationError(Exception):
    """Ends an operation with an error of our own. code: as in `error.errors[].code`; status: HTTP."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status


class Parked(BaseException):
    """Leaves the operation as it is, to be gone on with after so many seconds.

    Not an Exception: what undoes its work when it fails must not take this for a failure, nor must DBOS.
    """

    def __init__(self, reason: str, seconds: float | None = None):
        super().__init__(reason)
        self.reason = reason
        self.seconds = _LATER if seconds is None else seconds


class Queued(Parked):
    """Leaves the operation until its turn on these things has come too; it keeps its place in the order."""

    def __init__(self, also: Collection[str]):
        super().__init__(f"its turn on {', '.join(sorted(also))}", 0.0)
        self.also = also


@contextmanager
def parking(what: str) -> Iterator[None]:
    """Whatever says only that something cannot be found out, or done, now raises Parked."""
    try:
        yield
    except Unreachable as error:
        raise Parked(f"{what}: {error}") from None
    except CloudStackError as error:
        if error.code not in TRY_LATER:
            raise
        raise Parked(f"{what}: CloudStack answers {error.code}") from None
    except AWAY:
        raise Parked(f"{what}: database") from None


class ParkingClient(Client):
    """CloudStack as operations ask it between their steps."""

    def read(self, command: str, parameters: dict[str, str] | None = None, /, **more: str) -> Answer:
        self.deadline = time.monotonic() + self.endpoint.timeout
        with parking(command):
            return super().read(command, parameters, **more)


@dataclass
class Run:
    """The steps a handler may take, with its scope and its payload.

    Step names must be unique within the operation and the same on every execution; what a handler decides on must come
    from the payload or from the results of steps.
    """

    name: str
    scope: Scope
    payload: dict[str, Any]
    first: bool
    # Set when this translator stops.
    stopping: threading.Event = field(default_factory=threading.Event)

    def job_id(self, step: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self.name}/{step}"))

    def step(self, step: str, function: Callable[[], T]) -> T:
        """Any work whose result must be the same after a restart; it may run again if it was interrupted.

        The result is kept as JSON.
        """

        def work() -> T:
            with parking(step):
                return function()

        # What is recorded of a step is only what has become of it.
        with parking(step):
            return DBOS.run_step({"name": step}, work)

    def look(self, step: str, function: Callable[[Scope], T]) -> T:
        """Any questions, and what follows. `function` gets a scope with a client of its own; it may run again."""
        return self.step(step, lambda: self.patiently(lambda: function(replace(self.scope, client=self.client()))))

    def read(self, step: str, command: str, /, **parameters: str) -> list[dict[str, Any]]:
        """All rows of a list command."""

        def work() -> list[dict[str, Any]]:
            answers = self.patiently(lambda: self.client().read_all(command, **parameters))
            return all_rows(answers)

        return self.step(step, work)

    def call(self, step: str, command: str, /, **parameters: str) -> dict[str, Any]:
        """A synchronous command that is harmless when repeated. Returns its object."""
        return self.step(
            step, lambda: _without_secrets(self.patiently(lambda: self.client().write(command, parameters).one()))
        )

    def job(self, step: str, command: str, /, **parameters: str) -> dict[str, Any]:
        """An asynchronous command to its end. Returns `jobresult` with `id` of a new entity."""
        return self.jobs(step, [(step, command, parameters)])[0]

    def jobs(self, step: str, calls: Sequence[tuple[str, str, dict[str, str]]]) -> list[dict[str, Any]]:
        """Several asynchronous commands side by side: (key, command, parameters), keys unique within the operation."""

        def one(call: tuple[str, str, dict[str, str]]) -> dict[str, Any]:
            key, command, parameters = call
            return self.follow(key, command, **parameters)

        def work() -> list[dict[str, Any]]:
            if len(calls) == 1:
                return [one(calls[0])]
            with ThreadPoolExecutor(min(len(calls), _SIDE_BY_SIDE), thread_name_prefix="jobs") as pool:
                futures = [pool.submit(copy_context().run, partial(one, call)) for call in calls]
                # One may fail: what the others do has to be over before anybody looks at the outcome.
                wait_for(futures)
            # What is not known goes before what failed: the step is not over yet.
            errors = [error for future in futures if (error := future.exception()) is not None]
            if errors:
                raise next((one for one in errors if isinstance(one, Parked | Unreachable)), errors[0])
            return [future.result() for future in futures]

        return self.step(step, work)

    def together(self, step: str, branches: Mapping[str, Callable[[], T]]) -> dict[str, T | CloudStackError]:
        """Chains of jobs side by side (see `follow`), each to its own end: its result, or its error."""

        def work() -> dict[str, Any]:
            with ThreadPoolExecutor(len(branches), thread_name_prefix="jobs") as pool:
                futures = {key: pool.submit(copy_context().run, branch) for key, branch in branches.items()}
                wait_for(futures.values())
            found: dict[str, Any] = {}
            for key, future in futures.items():
                error = future.exception()
                if isinstance(error, CloudStackError):
                    found[key] = {"error": error.args, "entity": error.entity}
                else:
                    found[key] = {"result": future.result()}
            return found

        return {key: _outcome(value) for key, value in self.step(step, work).items()}

    def follow(
        self, key: str, command: str, begun: Callable[[str], None] = lambda entity: None, /, **parameters: str
    ) -> dict[str, Any]:
        """An asynchronous command to its end, as a part of a step; key: unique within the operation.

        begun: is told the id of a create command's new entity before the wait.
        """
        found = jobs.run(
            self.client(),
            self.job_id(key),
            command,
            parameters,
            maybe_submitted=not self.first,
            pause=self.pause,
            begun=begun,
        )
        self._keep_password(command, parameters, found)
        return _without_secrets(found)

    def _keep_password(self, command: str, parameters: dict[str, str], result: dict[str, Any]) -> None:
        """CloudStack shows the password of a machine only in the result of the job that made it; it goes with it."""
        kept, machine = self.scope.passwords, result.get("virtualmachine") or {}
        if machine.get("password") and machine.get("id"):
            kept.keep(machine["id"], str(machine["password"]))
        elif command == "destroyVirtualMachine":
            kept.forget(parameters["id"])

    def follow_with(
        self, key: str, command: str, beside: Callable[[str], None], /, **parameters: str
    ) -> dict[str, Any]:
        """The same for a create command, with other work meanwhile; `beside` in its result says whether that was done.

        beside: is given the id of the new entity. It is work that may be done twice, and what becomes of it does not
        become of the command.
        """
        futures: list[Future[None]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="jobs") as pool:
            found = self.follow(
                key,
                command,
                lambda entity: futures.append(pool.submit(copy_context().run, beside, entity)),
                **parameters,
            )
        failures = [future.exception() for future in futures]
        if any(failures):
            log.warning("beside_failed", name=self.name, step=key, reason=str(failures[-1]))
        return {**found, "beside": bool(failures) and failures[-1] is None}

    def tag(self, key: str, kind: str, identity: str, values: dict[str, str]) -> None:
        """Give something in CloudStack resource tags; kind: its `resourcetype`.

        A part of a step that may be done twice, as what is done beside a create command is.
        """
        parameters = {"resourceids": identity, "resourcetype": kind, **tags.parameters(values)}
        jobs.run(self.client(), self.job_id(key), "createTags", parameters, maybe_submitted=True, pause=self.pause)

    def progress(self, percent: int) -> None:
        self.scope.store.update_operation(self.name, progress=percent)

    def warn(self, code: str, message: str) -> None:
        """Once, however often the handler comes here."""
        row = self.scope.store.operation_by_name(self.name)
        there = list((row and row["warnings"]) or ())
        if (warning := {"code": code, "message": message}) not in there:
            self.scope.store.update_operation(self.name, warnings=[*there, warning])

    def set_target_id(self, target_id: int, **also: Any) -> None:
        """also: other columns of the operation that change with it."""
        self.scope.store.update_operation(self.name, target_id=str(target_id), **also)

    def forget_preview(self) -> None:
        """What this insert was to make is not coming."""
        self.scope.store.update_operation(self.name, preview=None)

    def take_turns(self, *targets: str) -> None:
        """Go on only when it is the operation's turn on these things besides its target, which nobody knew of at its
        submit. Raises Queued: to be asked before anything is changed, in the step that finds out what they are."""
        if not self.scope.store.turns_of(self.name).issuperset(targets):
            raise Queued(targets)

    def client(self) -> Client:
        """CloudStack for one step, with a deadline of its own."""
        shared = self.scope.client
        until = time.monotonic() + self.scope.environment.settings.cloudstack_timeout
        return Client(shared.endpoint, shared.keys, shared.project_id, until)

    def pause(self, seconds: float) -> None:
        """Every wait of an operation: when the translator stops, another one goes on at once."""
        if self.stopping.wait(seconds):
            raise Parked("the translator stops", 0.0)

    def patiently(self, work: Callable[[], T]) -> T:
        """Try again for a while when CloudStack is away, or wants to be asked later: what is done here may be done
        twice. Raises Unreachable."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return work()
            except Unfinished:
                raise
            except Unreachable:
                if time.monotonic() > until:
                    raise
            except CloudStackError as error:
                if error.code not in TRY_LATER:
                    raise
                if time.monotonic() > until:
                    raise Unreachable(f"CloudStack answers {error.code}") from None
            self.pause(1.0)


class PatientStore:
    """The store as operations see it: a database that is away for a moment is waited for, then they are parked."""

    def __init__(self, store: Store, stopping: threading.Event):
        self._store = store
        self._stopping = stopping

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            until = time.monotonic() + _PATIENCE
            while True:
                try:
                    return found(*arguments, **options)
                except AWAY as error:
                    log.warning("database_awaited", reason=type(error).__name__)
                    if time.monotonic() > until or self._stopping.wait(1.0):
                        raise Parked("database") from None

        return call


HANDLERS: dict[str, Callable[[Run], None]] = {}


def handler(name: str) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register the work of a kind of operation, such as "instances.insert"."""

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        HANDLERS[name] = function
        return function

    return register


def _outcome(kept: dict[str, Any]) -> Any:
    """A result as it is, or the error."""
    if "error" not in kept:
        return kept["result"]
    error = CloudStackError(*kept["error"])
    error.entity = kept["entity"]
    return error


def _without_secrets(result: dict[str, Any]) -> dict[str, Any]:
    """Passwords of new machines appear in job results; steps are recorded, and go on, without them."""
    return {
        key: _without_secrets(value) if isinstance(value, dict) else value
        for key, value in result.items()
        if key not in ("password", "privatekey")
    }
