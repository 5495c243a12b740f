"""Operations as durable workflows (DBOS), so that after a crash any translator goes on and nothing is done twice.

A mutation checks what can be refused at once, then `submit`s: one row in the store. From then on

    submit    the row, PENDING; 429 for an owner with too many that are not done
    claim     a translator with a free place takes an operation whose turn it is on its target, and on what else it
              takes turns on, and whose owner has not too many at work: RUNNING. Until then it holds nothing but its row
    run       a workflow with the row's name runs the registered handler with a `Run`, whose methods are the steps
    park      what cannot be found out now is left, without a thread, to be gone on with later (see run.Parked)
    take over what a translator that died, or stops, had in hand is gone on with by any other
    end       DONE, with the error if there was one
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from http import HTTPStatus
from typing import Any, cast

import orjson
import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus
from google.protobuf.message import Message

from gstack.compute.v1 import operations_pb2 as pb
from gstack.kernel import tracing
from gstack.kernel.database import AWAY, with_patience
from gstack.kernel.errors import ApiError, invalid
from gstack.kernel.sealing import SealError
from gstack.kernel.waits import Waits
from translator_service.cloudstack.errors import CloudStackError
from translator_service.kept import passwords
from translator_service.kept.store import Duplicate, Store
from translator_service.operations.render import TRANSPORT, operation
from translator_service.operations.run import (
    HANDLERS,
    OperationError,
    Parked,
    ParkingClient,
    PatientStore,
    Queued,
    Run,
    parking,
)
from translator_service.operations.serializer import JsonSerializer, forbid_pickle
from translator_service.scope import Caller, Environment, Scope, scope_of

log = structlog.get_logger()

RETENTION = 14 * 24 * 3600.0
WAIT_LIMIT = 120.0
_PURPOSE = "operation"
_PREVIEW = "preview"
_BEAT = 2.0
_STALE = 10.0
# How often other translators' operations are looked for; those of this one wake it.
_LOOK = 0.5
# CloudStack forgets its jobs after a day (`job.expire.minutes`): what is not known then never will be.
_FORGOTTEN = 24 * 3600.0
# Workflows that are looked at, and deleted, at a time.
_PURGED = 500
# `wait` holds a thread; beyond this many it answers at once, as the method's contract permits. One owner has at most
# a quarter of them.
_MAX_WAITERS = 32


# Submitting


def replay(scope: Scope, request: Message, transport_id: str = "") -> pb.Operation | None:
    """The operation an earlier request with the same requestId began, if there was one. Raises 400 for a bad one.

    As with GCE the id stands for the request whatever its body says: one to the same method and place with another body
    is not looked into (Google's sample of request ids counts on it).

    transport_id: the gateway's id of a request without a requestId. When a translator dies with the answer in
    its hands, gRPC asks the next one, and the work must not be done, or refused as done, a second time.
    """
    if "requestId" not in request.DESCRIPTOR.fields_by_name:
        return None
    place = type(request)()
    place.CopyFrom(request)
    for field, _ in request.ListFields():
        if field.message_type:
            place.ClearField(field.name)
    scope.request_hash = hashlib.sha256(
        type(place).__name__.encode() + place.SerializeToString(deterministic=True)
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
    """The operation of this request id. Raises 400 when a request to another method or place used it."""
    row = scope.store.operation_by_request(scope.project.key, scope.request_id or "")
    if row and row["request_hash"] != scope.request_hash:
        raise invalid("requestId", f"'{scope.request_id}'. It was used for another request.")
    return row


def check_room(scope: Scope, others: int = 0) -> None:
    """Raises 429 when no more of the project's operations can be under way. others: that the one is to begin."""
    limit = scope.environment.settings.operations_unfinished
    if scope.store.unfinished_of(scope.project.key) + others >= limit:
        text = f"Quota 'CONCURRENT_OPERATIONS_PER_PROJECT' exceeded. Limit: {limit} operations that are not done."
        raise ApiError(429, text, "rateLimitExceeded", retry_after=5)


def _is_uuid(text: str) -> bool:
    try:
        return uuid.UUID(text).int != 0
    except ValueError:
        return False


def submit(
    scope: Scope,
    *,
    type: str,
    target: str,
    handler: str,
    payload: dict[str, Any],
    target_id: int = 0,
    preview: dict[str, Any] | None = None,
    group: str = "",
    also: Collection[str] = (),
) -> pb.Operation:
    """Begin an operation. target: path below the project, as `zones/z/instances/i`, which also tells its scope; what
    comes behind a `#` only tells it apart from others, which it takes no turns with.

    preview: of what an insert makes, for `awaited`. group: id of the operations of one request. also: what it takes
    turns on besides its target, paths like it. Raises 429 when too many of the project's operations are not done.
    """
    check_room(scope)
    name = _insert(scope, type, target, target_id, handler, payload, preview, group, also)
    row = scope.store.operation_by_name(name)
    assert row is not None
    if _engine is not None:
        _engine.wake()
    return operation(row, scope.links)


def finished(scope: Scope, *, type: str, target: str, target_id: int = 0) -> pb.Operation:
    """An operation whose work is already done: answers DONE at once and stays readable."""
    name = _insert(scope, type, target, target_id, "", {})
    row = scope.store.operation_by_name(name)
    assert row is not None
    return operation(row, scope.links)


def awaited(scope: Scope, where: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(target, operation, preview) of inserts that are not done, whose thing CloudStack need not show yet.

    where: a scope as `zones/z`, a target, "" for all. One that nobody went on with until CloudStack forgot its jobs is
    left out.
    """
    found = []
    for target, name, sealed in scope.store.awaited(scope.project.key, where, time.time() - _FORGOTTEN):
        try:
            found.append((target, name, orjson.loads(scope.environment.sealer.open(sealed, f"{_PREVIEW}/{name}"))))
        except SealError:
            # The key is lost. Whoever takes the operation up says so.
            continue
    return found


def _insert(
    scope: Scope,
    type: str,
    target: str,
    target_id: int,
    handler: str,
    payload: dict[str, Any],
    preview: dict[str, Any] | None = None,
    group: str = "",
    also: Collection[str] = (),
) -> str:
    now = time.time()
    name = f"operation-{int(now * 1000)}-{secrets.token_hex(7)[:13]}-{secrets.token_hex(4)}-{secrets.token_hex(4)}"
    parts = target.partition("#")[0].split("/")
    done = not handler
    sealed = b""
    if handler:
        content = {
            "payload": payload,
            "caller": scope.caller.to_dict(),
            "link_base": scope.links.base,
            "request": tracing.headers(),
        }
        sealed = scope.environment.sealer.seal(orjson.dumps(content), f"{_PURPOSE}/{name}")
    shown = scope.environment.sealer.seal(orjson.dumps(preview), f"{_PREVIEW}/{name}") if preview else None
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
            preview=shown,
            group_id=group,
            also=also,
            warnings=scope.warnings or None,
        )
    except Duplicate:
        row = _of_request(scope)
        if row is None:
            raise
        return str(row["name"])
    log.info("operation", name=name, type=type, target=target, project=scope.project.name, subject=scope.caller.subject)
    return name


# Running


_engine: Engine | None = None


@DBOS.workflow(name="run_operation")
def run_operation(name: str) -> None:
    """The one workflow. DBOS calls it by its name, with its stored arguments only."""
    assert _engine is not None
    _engine.run(name)


class Engine:
    """DBOS in this process, the places for operations at work, the heartbeat, and the take-over of what others left."""

    def __init__(self, environment: Environment, executor: str):
        """executor: name of this translator, the same after a restart and no other's."""
        global _engine  # noqa: PLW0603 - see run_operation
        settings = environment.settings
        self.executor = executor
        self._places = settings.operations_at_once
        self._per_owner = settings.operations_per_project
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        # What is carried out here, and of that what was begun and has no thread yet.
        self._in_hand: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._threads: list[threading.Thread] = []
        self.use(environment)
        forbid_pickle()
        url = with_patience(settings.workflows_database()).render_as_string(hide_password=False)
        config: DBOSConfig = {
            "name": "gstack",
            "system_database_url": url.replace("postgresql+psycopg://", "postgresql://"),
            # Another one at each start, so that DBOS takes up nothing by itself: the store says what is whose.
            "executor_id": f"{executor}#{secrets.token_hex(4)}",
            # Workflows outlive a release: the handler's name and payload are the contract, not the source's hash.
            "application_version": "2",
            "log_level": "ERROR",
            # Twice the places: what is gone on with may come here whoever found it.
            "max_executor_threads": 2 * self._places,
            "use_listen_notify": False,
            "sys_db_pool_size": max(settings.database_connections // 2, 2),
            # As the other connections (see gstack.kernel.database).
            "db_engine_kwargs": {"pool_use_lifo": True},
            "serializer": JsonSerializer(),
        }
        os.environ.setdefault("DBOS__CLOUD", "false")
        DBOS(config=config)
        _engine = self

    def use(self, environment: Environment) -> None:
        """Carry out the operations of this environment's store."""
        store = cast(Store, PatientStore(environment.store, self._stopping))
        self._plain, self._environment = environment.store, replace(environment, store=store)

    def start(self) -> None:
        self._plain.beat(self.executor)
        # Of the process before this one.
        self._plain.park(self._plain.claimed(self.executor), self.executor, time.time())
        DBOS.launch()
        for name, work in (("turns", self._give_turns), ("operations", self._watch)):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """What is at work is left to other translators at its next wait."""
        self._stopping.set()
        self._woken.set()
        for thread in self._threads:
            thread.join(5)
        DBOS.destroy(workflow_completion_timeout_sec=5)

    def wake(self) -> None:
        """There may be an operation whose turn has come."""
        self._woken.set()

    # Turns

    def _give_turns(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(_LOOK)
            self._woken.clear()
            began = time.monotonic()
            try:
                self._begin_ready()
            except AWAY as error:
                log.warning("database_awaited", reason=type(error).__name__)
                self._stopping.wait(1.0)
            except Exception:
                log.exception("operations_turns")
                self._stopping.wait(1.0)
            # At most half of the time goes into looking, however many operations wait.
            self._stopping.wait(min(time.monotonic() - began, 1.0))

    def _begin_ready(self) -> None:
        with self._lock:
            free = self._places - sum(self._in_hand.values())
        if free <= 0:
            return
        due = self._plain.claim_due(free)
        for name in due:
            self._go_on(name)
        for name in self._plain.claim(self.executor, free - len(due), self._per_owner) if free > len(due) else ():
            self._begin(name)

    def _begin(self, name: str) -> None:
        with self._lock:
            self._in_hand[name] += 1
            self._begun.add(name)
        try:
            with SetWorkflowID(name):
                DBOS.start_workflow(run_operation, name)
        except BaseException:
            # The watch finds it among those that are claimed and not in hand.
            self._begun.discard(name)
            self._put_down(name)
            raise

    def _go_on(self, name: str) -> None:
        """With an operation that was begun before."""
        found: WorkflowStatus | None = DBOS.get_workflow_status(name)
        if found is None:
            self._plain.begin_execution(name, self.executor)
            self._begin(name)
        elif found.status in ("SUCCESS", "ERROR"):
            log.error("operation_lost", name=name)
            self._end(self._environment.store, name, _INTERNAL_ERROR)
        else:
            DBOS.resume_workflow(name)

    def _put_down(self, name: str) -> None:
        with self._lock:
            self._in_hand[name] -= 1
            if self._in_hand[name] <= 0:
                del self._in_hand[name]
        self.wake()

    # Work

    def run(self, name: str) -> None:
        """Carry out an operation whose turn it is, and record how it ended."""
        with self._lock:
            if name in self._begun:
                self._begun.discard(name)
            else:
                self._in_hand[name] += 1
        try:
            self._run(name)
        except Exception as error:
            # DBOS would take it for the end of the workflow.
            log.exception("operation_interrupted", name=name)
            raise Parked(type(error).__name__) from None
        finally:
            self._put_down(name)

    def _run(self, name: str) -> None:
        environment = self._environment
        try:
            row = environment.store.operation_by_name(name)
            if row is None or row["status"] == "DONE":
                return
            first = environment.store.begin_execution(name, self.executor) == 1
            self._end(environment.store, name, self._carry_out(environment, row, first))
        except Parked as parked:
            log.info("operation_parked", name=name, reason=parked.reason)
            self._park(name, parked)
            raise

    def _park(self, name: str, parked: Parked) -> None:
        due = time.time() + parked.seconds * random.uniform(0.7, 1.3)  # noqa: S311 - spreads them
        try:
            if isinstance(parked, Queued):
                self._plain.queue_again(name, self.executor, parked.also)
            else:
                self._plain.park([name], self.executor, due)
        except AWAY:
            # The watch does it when the database is back.
            log.warning("operation_not_parked", name=name)

    def _end(self, store: Store, name: str, error: dict[str, Any] | None) -> None:
        store.end_operation(name, progress=100, ended=time.time(), error=error, payload=b"", preview=None, due=None)

    def _carry_out(self, environment: Environment, row: sa.RowMapping, first: bool) -> dict[str, Any] | None:
        """The error that the operation ends with, None if it succeeds."""
        name = row["name"]
        try:
            content = orjson.loads(environment.sealer.open(row["payload"], f"{_PURPOSE}/{name}"))
            caller = Caller.of(content["caller"])
        except (SealError, KeyError):
            # The key is lost, or a release before left it. Nobody can go on with it, and what comes after it must not
            # wait for ever.
            log.error("operation_unreadable", name=name, type=row["type"], target=row["target"])
            return _INTERNAL_ERROR
        request = content.get("request", {})
        with tracing.request(row["handler"], request.get(tracing.REQUEST_ID, ""), request.get(tracing.TRACEPARENT, "")):
            return self._handle(environment, row, caller, content, first)

    def _handle(
        self, environment: Environment, row: sa.RowMapping, caller: Caller, content: dict[str, Any], first: bool
    ) -> dict[str, Any] | None:
        about = {"name": row["name"], "type": row["type"], "target": row["target"]}
        try:
            with parking(row["handler"]):
                scope = scope_of(environment, caller, row["project"], content["link_base"])
                scope.client = ParkingClient(scope.client.endpoint, caller.keys, scope.project.id)
                HANDLERS[row["handler"]](Run(row["name"], scope, content["payload"], first, self._stopping))
            log.info("operation_done", **about)
            return None
        except Parked:
            if time.time() - row["inserted"] < _FORGOTTEN:
                raise
            log.error("operation_outcome_unknown", **about)
            return _UNKNOWN
        except (CloudStackError, OperationError, ApiError) as failure:
            log.warning("operation_failed", **about, error=str(failure))
            return describe(failure)
        except Exception:
            log.exception("operation_crashed", **about)
            return _INTERNAL_ERROR

    # Take-over

    def _watch(self) -> None:
        purge_at = 0.0
        while not self._stopping.wait(_BEAT):
            try:
                self._plain.beat(self.executor)
                self._take_over()
                if time.monotonic() > purge_at:
                    purge_at = time.monotonic() + 60
                    self._purge()
            except AWAY as error:
                log.warning("database_awaited", reason=type(error).__name__)
            except Exception:
                log.exception("operations_watch")

    def _take_over(self) -> None:
        for name in self._plain.park_of_dead(time.time() - _STALE):
            log.warning("operation_taken_over", name=name)
        claimed = self._plain.claimed(self.executor)
        with self._lock:
            dropped = claimed - self._in_hand.keys()
        if dropped:
            # Begun while the database went away.
            self._plain.park(dropped, self.executor, time.time())
        self.wake()

    def _purge(self) -> None:
        """Steps of operations that are over, which hold what CloudStack answered; operations after their time."""
        needed, listed = 0, _PURGED
        while listed == _PURGED and not self._stopping.is_set():
            found = DBOS.list_workflows(limit=_PURGED, offset=needed, load_input=False, load_output=False)
            over = self._plain.over([one.workflow_id for one in found], time.time() - 60)
            if over:
                DBOS.delete_workflows(over)
            listed = len(found)
            needed += listed - len(over)
        self._plain.purge_operations(time.time() - RETENTION)
        passwords.purge(self._plain)
        self._plain.forget_heartbeats(time.time() - 24 * 3600)


_INTERNAL_ERROR = {
    "code": "INTERNAL_ERROR",
    "message": "Internal error.",
    "status": 500,
    "http_message": "INTERNAL SERVER ERROR",
}


def describe(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, CloudStackError):
        code, message, status = failure.meaning.code, failure.message, failure.meaning.status
    elif isinstance(failure, OperationError):
        code, message, status = failure.code, failure.message, failure.status
    elif isinstance(failure, ApiError):
        code = _REASONS.get(failure.reason) or _CODES.get(failure.code, "INTERNAL_ERROR")
        message, status = failure.message, failure.code
    else:
        return _INTERNAL_ERROR
    try:
        phrase = HTTPStatus(status).phrase.upper()
    except ValueError:
        phrase = "ERROR"
    return {"code": code, "message": message, "status": status, "http_message": phrase}


# What an answer says at once has a code of its own in an operation.
_REASONS = {
    "quotaExceeded": "QUOTA_EXCEEDED",
    "resourceInUseByAnotherResource": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
    "resourceNotReady": "RESOURCE_NOT_READY",
}

_CODES = {
    400: "INVALID_USAGE",
    401: "UNAUTHORIZED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_NOT_FOUND",
    409: "RESOURCE_ALREADY_EXISTS",
    412: "CONDITION_NOT_MET",
    503: "SERVICE_UNAVAILABLE",
}

_UNKNOWN = {
    "code": "INTERNAL_ERROR",
    "message": "CloudStack did not say for a day how this ended. Look at the resource itself.",
    "status": 500,
    "http_message": "INTERNAL SERVER ERROR",
}


_waiters = Waits(_MAX_WAITERS, _MAX_WAITERS // 4)


def wait(scope: Scope, name: str) -> None:
    """Return when the operation is done, after two minutes, or shortly before the caller goes, or when it has gone."""
    until = min(time.monotonic() + WAIT_LIMIT, scope.client.deadline - 1.0)
    with _waiters.place(scope.project.key) as there_is_one:
        pause = 0.02
        while there_is_one and time.monotonic() < until and scope.is_wanted():
            row = scope.store.operation(scope.project.key, name)
            if row is None or row["status"] == "DONE":
                return
            time.sleep(pause)
            pause = min(pause * 1.3, 0.25)
