"""Operations as durable workflows (DBOS), so that after a crash any translator goes on and nothing is done twice.

A mutation checks what can be refused at once, then `submit`s: an operation row and a workflow with the row's name. The
workflow runs the registered handler with a `Run`, whose methods are the steps. A step that changes CloudStack is a job
with an id made from the operation and the step, so a repeated step finds its job instead of starting a second one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, cast

import orjson
import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID
from google.protobuf.message import Message

from gstack.compute.v1 import operations_pb2 as pb
from gstack.kernel import tracing
from gstack.kernel.errors import ApiError, invalid
from gstack.kernel.sealing import SealError
from translator_service.cloudstack import jobs
from translator_service.cloudstack.client import Client
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.operations.render import TRANSPORT, operation
from translator_service.scope import Environment, Scope, open_scope
from translator_service.store import Duplicate, Store

log = structlog.get_logger()

T = TypeVar("T")

RETENTION = 14 * 24 * 3600.0
WAIT_LIMIT = 120.0
_NAMESPACE = uuid.UUID("6f2f6c1e-54ab-5d0c-9d9d-6a3f0f1c2b7e")
_PURPOSE = "operation"
_BEAT = 2.0
_STALE = 10.0
_DATABASE_PATIENCE = 15 * 60.0
# `wait` holds a thread; beyond this many it answers at once, as the method's contract permits.
_MAX_WAITERS = 32

HANDLERS: dict[str, Callable[[Run], None]] = {}


def handler(name: str) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register the work of a kind of operation, such as "instances.insert"."""

    def register(function: Callable[[Run], None]) -> Callable[[Run], None]:
        HANDLERS[name] = function
        return function

    return register


class OperationError(Exception):
    """Ends an operation with an error of our own. code: as in `error.errors[].code`; status: HTTP."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status


@dataclass
class Run:
    """An operation at work: its scope, its payload, and the steps a handler may take.

    Step names must be unique within the operation and the same on every execution; what a handler decides on must come
    from the payload or from the results of steps.
    """

    name: str
    scope: Scope
    payload: dict[str, Any]
    first: bool

    def job_id(self, step: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self.name}/{step}"))

    def step(self, step: str, function: Callable[[], T]) -> T:
        """Any work whose result must be the same after a restart; it may run again if it was interrupted."""
        return DBOS.run_step({"name": step}, function)

    def look(self, step: str, function: Callable[[Scope], T]) -> T:
        """Any questions, and what follows. `function` gets a scope with a client of its own; it may run again."""
        return self.step(step, lambda: _patiently(lambda: function(replace(self.scope, client=self.client()))))

    def read(self, step: str, command: str, /, **parameters: str) -> list[dict[str, Any]]:
        """All rows of a list command."""

        def work() -> list[dict[str, Any]]:
            answers = _patiently(lambda: self.client().read_all(command, **parameters))
            return [row for answer in answers for row in answer.items]

        return self.step(step, work)

    def call(self, step: str, command: str, /, **parameters: str) -> dict[str, Any]:
        """A synchronous command that is harmless when repeated. Returns its object."""
        return self.step(
            step, lambda: _without_secrets(_patiently(lambda: self.client().write(command, parameters).one()))
        )

    def job(self, step: str, command: str, /, **parameters: str) -> dict[str, Any]:
        """An asynchronous command to its end. Returns `jobresult` with `id` of a new entity."""
        return self.jobs(step, [(step, command, parameters)])[0]

    def jobs(self, step: str, calls: Sequence[tuple[str, str, dict[str, str]]]) -> list[dict[str, Any]]:
        """Several asynchronous commands side by side: (key, command, parameters), keys unique within the operation."""
        maybe_submitted = not self.first

        def one(call: tuple[str, str, dict[str, str]]) -> dict[str, Any]:
            key, command, parameters = call
            client = self.client()
            return _without_secrets(
                jobs.run(client, self.job_id(key), command, parameters, maybe_submitted=maybe_submitted)
            )

        def work() -> list[dict[str, Any]]:
            if len(calls) == 1:
                return [one(calls[0])]
            futures = [_pool.submit(copy_context().run, partial(one, call)) for call in calls]
            # One may fail: what the others do has to be over before anybody looks at the outcome.
            wait_for(futures)
            return [future.result() for future in futures]

        return self.step(step, work)

    def progress(self, percent: int) -> None:
        self.scope.store.update_operation(self.name, progress=percent)

    def warn(self, code: str, message: str) -> None:
        row = self.scope.store.operation_by_name(self.name)
        warnings = [*((row and row["warnings"]) or ()), {"code": code, "message": message}]
        self.scope.store.update_operation(self.name, warnings=warnings)

    def set_target_id(self, target_id: int) -> None:
        self.scope.store.update_operation(self.name, target_id=str(target_id))

    def client(self) -> Client:
        """CloudStack for one step, with a deadline of its own."""
        shared = self.scope.client
        until = time.monotonic() + self.scope.environment.settings.cloudstack_timeout
        return Client(shared.endpoint, shared.keys, shared.project_id, until)


def _patiently(work: Callable[[], T]) -> T:
    """Try again while CloudStack is away; what is done here may be done twice."""
    until = time.monotonic() + 300
    while True:
        try:
            return work()
        except Unreachable:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


class _PatientStore:
    """The store for operations, who wait for a database that is away: nobody waits for them."""

    def __init__(self, store: Store):
        self._store = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            until = time.monotonic() + _DATABASE_PATIENCE
            while True:
                try:
                    return found(*arguments, **options)
                except sa.exc.OperationalError as error:
                    if time.monotonic() > until:
                        raise
                    log.warning("database_awaited", reason=type(error.orig).__name__)
                    time.sleep(1.0)

        return call


def _without_secrets(result: dict[str, Any]) -> dict[str, Any]:
    """Passwords of new machines appear in job results; they are neither kept nor passed on."""
    return {
        key: _without_secrets(value) if isinstance(value, dict) else value
        for key, value in result.items()
        if key not in ("password", "privatekey")
    }


# Jobs that run side by side wait here, not in the threads that requests need.
_pool = ThreadPoolExecutor(64, thread_name_prefix="jobs")


# Submitting


def replay(scope: Scope, request: Message, transport_id: str = "") -> pb.Operation | None:
    """The operation an earlier request with the same requestId began, if there was one. Raises 400 for a bad one.

    transport_id: the gateway's id of a request without a requestId. When a translator dies with the answer in
    its hands, gRPC asks the next one, and the work must not be done, or refused as done, a second time.
    """
    if "requestId" not in request.DESCRIPTOR.fields_by_name:
        return None
    scope.request_hash = hashlib.sha256(
        type(request).__name__.encode() + request.SerializeToString(deterministic=True)
    ).hexdigest()
    request_id: str = request.requestId  # type: ignore[attr-defined]
    if not request_id and transport_id:
        request_id = f"{TRANSPORT}{transport_id}"
    elif not request_id:
        return None
    elif not _is_uuid(request_id):
        raise invalid("requestId", f"'{request_id}'. Must be a valid UUID other than the zero UUID.")
    scope.request_id = request_id
    row = _of_request(scope)
    return operation(row, scope.links) if row else None


def _of_request(scope: Scope) -> sa.RowMapping | None:
    """The operation of this request id. Raises 400 when another request used it."""
    row = scope.store.operation_by_request(scope.project.key, scope.request_id or "")
    if row and row["request_hash"] != scope.request_hash:
        raise invalid("requestId", f"'{scope.request_id}'. It was used for another request.")
    return row


def _is_uuid(text: str) -> bool:
    try:
        return uuid.UUID(text).int != 0
    except ValueError:
        return False


def submit(
    scope: Scope, *, type: str, target: str, handler: str, payload: dict[str, Any], target_id: int = 0
) -> pb.Operation:
    """Begin an operation. target: path below the project, as `zones/z/instances/i`, which also tells its scope."""
    name = _insert(scope, type, target, target_id, handler, payload)
    row = scope.store.operation_by_name(name)
    assert row is not None
    if row["executions"] == 0 and row["handler"]:
        start(name)
    return operation(row, scope.links)


def finished(scope: Scope, *, type: str, target: str, target_id: int = 0) -> pb.Operation:
    """An operation whose work is already done: answers DONE at once and stays readable."""
    name = _insert(scope, type, target, target_id, "", {})
    row = scope.store.operation_by_name(name)
    assert row is not None
    return operation(row, scope.links)


def _insert(scope: Scope, type: str, target: str, target_id: int, handler: str, payload: dict[str, Any]) -> str:
    now = time.time()
    name = f"operation-{int(now * 1000)}-{secrets.token_hex(7)[:13]}-{secrets.token_hex(4)}-{secrets.token_hex(4)}"
    parts = target.split("/")
    done = not handler
    sealed = b""
    if handler:
        content = {
            "payload": payload,
            "credential": scope.caller.credential.hex(),
            "link_base": scope.links.base,
            "request": tracing.headers(),
        }
        sealed = scope.environment.sealer.seal(orjson.dumps(content), f"{_PURPOSE}/{name}")
    try:
        scope.store.add_operation(
            name=name,
            owner=scope.project.key,
            project=scope.project.name,
            scope="/".join(parts[:2]) if parts[0] in ("zones", "regions") else "global",
            type=type,
            target=target,
            target_id=str(target_id) if target_id else "",
            subject=scope.caller.subject,
            handler=handler,
            payload=sealed,
            status="DONE" if done else "PENDING",
            progress=100 if done else 0,
            inserted=now,
            started=now if done else None,
            ended=now if done else None,
            request_id=scope.request_id,
            request_hash=scope.request_hash,
        )
    except Duplicate:
        row = _of_request(scope)
        if row is None:
            raise
        return str(row["name"])
    log.info("operation", name=name, type=type, target=target, project=scope.project.name, subject=scope.caller.subject)
    return name


# Running

_environment: Environment | None = None


def start(name: str) -> None:
    with SetWorkflowID(name):
        DBOS.start_workflow(run_operation, name)


@DBOS.workflow(name="run_operation")
def run_operation(name: str) -> None:
    """The one workflow: waits for its turn on the target, runs the handler, records the outcome."""
    environment = _environment
    assert environment is not None
    row = environment.store.operation_by_name(name)
    if row is None or row["status"] == "DONE":
        return
    executions = environment.store.begin_execution(name)
    try:
        content = orjson.loads(environment.sealer.open(row["payload"], f"{_PURPOSE}/{name}"))
    except SealError:
        # The key is lost. Nobody can go on with it, and what comes after it must not wait for ever.
        log.error("operation_unreadable", name=name, type=row["type"], target=row["target"])
        _end(environment, name, _INTERNAL_ERROR)
        return
    came_with = content.get("request", {})
    with tracing.request(row["handler"], came_with.get(tracing.REQUEST_ID, ""), came_with.get(tracing.TRACEPARENT, "")):
        _end(environment, name, _carry_out(environment, row, content, executions == 1))


def _end(environment: Environment, name: str, error: dict[str, Any] | None) -> None:
    environment.store.update_operation(name, status="DONE", progress=100, ended=time.time(), error=error, payload=b"")


def _carry_out(
    environment: Environment, row: sa.RowMapping, content: dict[str, Any], first: bool
) -> dict[str, Any] | None:
    """The error that the operation ends with, None if it succeeds."""
    name = row["name"]
    try:
        scope = _patiently(
            lambda: open_scope(environment, bytes.fromhex(content["credential"]), row["project"], content["link_base"])
        )
        pause = 0.05
        while environment.store.is_blocked(row["owner"], row["target"], row["sequence"]):
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        HANDLERS[row["handler"]](Run(name, scope, content["payload"], first))
        log.info("operation_done", name=name, type=row["type"], target=row["target"])
        return None
    except (CloudStackError, OperationError, ApiError, Unreachable) as failure:
        log.warning("operation_failed", name=name, type=row["type"], target=row["target"], error=str(failure))
        return _describe(failure)
    except Exception:
        log.exception("operation_crashed", name=name, type=row["type"], target=row["target"])
        return _INTERNAL_ERROR


_INTERNAL_ERROR = {
    "code": "INTERNAL_ERROR",
    "message": "Internal error.",
    "status": 500,
    "http_message": "INTERNAL SERVER ERROR",
}


def _describe(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, CloudStackError):
        code, message, status = failure.meaning.code, failure.message, failure.meaning.status
    elif isinstance(failure, OperationError):
        code, message, status = failure.code, failure.message, failure.status
    elif isinstance(failure, ApiError):
        code, message, status = _CODES.get(failure.code, "INTERNAL_ERROR"), failure.message, failure.code
    else:
        code, message, status = "SERVICE_UNAVAILABLE", "The service is unavailable. Try again later.", 503
    try:
        phrase = HTTPStatus(status).phrase.upper()
    except ValueError:
        phrase = "ERROR"
    return {"code": code, "message": message, "status": status, "http_message": phrase}


_CODES = {
    400: "INVALID_USAGE",
    401: "UNAUTHORIZED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_NOT_FOUND",
    409: "RESOURCE_ALREADY_EXISTS",
    412: "CONDITION_NOT_MET",
    503: "SERVICE_UNAVAILABLE",
}


class Engine:
    """DBOS in this process, the heartbeat, and the take-over of operations that dead translators left."""

    def __init__(self, environment: Environment, executor: str, threads: int = 64):
        global _environment  # noqa: PLW0603 - DBOS calls the workflow by name, with its stored arguments only
        _environment = replace(environment, store=cast(Store, _PatientStore(environment.store)))
        self.environment = environment
        self.executor = executor
        self._stop = threading.Event()
        settings = environment.settings
        url = settings.database_url or f"sqlite:///{settings.state_file('workflows.sqlite')}"
        config: DBOSConfig = {
            "name": "gstack",
            "system_database_url": url.replace("postgresql+psycopg://", "postgresql://"),
            "executor_id": executor,
            # Workflows outlive a release: the handler's name and payload are the contract, not the source's hash.
            "application_version": "2",
            "log_level": "ERROR",
            "max_executor_threads": threads,
            "use_listen_notify": False,
            "sys_db_pool_size": max(settings.database_connections // 2, 2),
        }
        os.environ.setdefault("DBOS__CLOUD", "false")
        DBOS(config=config)

    def start(self) -> None:
        self.environment.store.beat(self.executor)
        DBOS.launch()
        self._start_orphans()
        threading.Thread(target=self._watch, name="operations", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        DBOS.destroy(workflow_completion_timeout_sec=5)

    def _start_orphans(self) -> None:
        """Operations whose row was written but whose workflow never began."""
        for row in self.environment.store.unstarted(time.time() - _STALE):
            if DBOS.get_workflow_status(row) is None:
                start(row)

    def _watch(self) -> None:
        purge_at = 0.0
        while not self._stop.wait(_BEAT):
            try:
                self.environment.store.beat(self.executor)
                self._take_over()
                if time.monotonic() > purge_at:
                    purge_at = time.monotonic() + 3600
                    self.environment.store.purge_operations(time.time() - RETENTION)
                    self.environment.store.forget_heartbeats(time.time() - 24 * 3600)
            except Exception:
                log.exception("operations_watch")

    def _take_over(self) -> None:
        living = self.environment.store.living(time.time() - _STALE)
        for workflow in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False):
            if workflow.executor_id not in living and workflow.executor_id != self.executor:
                log.warning("operation_taken_over", name=workflow.workflow_id, from_executor=workflow.executor_id)
                DBOS.resume_workflow(workflow.workflow_id)
        self._start_orphans()


_waiters = threading.BoundedSemaphore(_MAX_WAITERS)


def wait(scope: Scope, name: str) -> None:
    """Return when the operation is done, after two minutes, or shortly before the caller goes, or when it has gone."""
    until = min(time.monotonic() + WAIT_LIMIT, scope.client.deadline - 1.0)
    if not _waiters.acquire(blocking=False):
        return
    try:
        pause = 0.02
        while time.monotonic() < until and scope.is_wanted():
            row = scope.store.operation(scope.project.key, name)
            if row is None or row["status"] == "DONE":
                return
            time.sleep(pause)
            pause = min(pause * 1.3, 0.25)
    finally:
        _waiters.release()
