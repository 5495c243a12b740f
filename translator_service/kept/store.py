"""What CloudStack cannot hold: operations, firewall intents, project metadata, heartbeats. In one SQL database.

Plain functions over SQLAlchemy Core; SQLite by default, PostgreSQL for replicas. Times are seconds since the epoch.
`owner` is the key of a project (see scope.Project.key): rows of one are never shown to another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from cachetools import LRUCache
from sqlalchemy.exc import IntegrityError

from gstack.kernel.database import open_database

MIGRATIONS = "translator_service.kept.migrations"

_RUNNING_SECONDS = 0.5
# Rows of a long answer that are held at a time.
_ROWS = 200
# Of all owners together, in memory: some 200 bytes each.
_RUNNING_ROWS = 50_000
# Any number that is ours: translators give out turns one at a time.
_TURN_LOCK = 0x6773747475726E
# Until an operation that was given to nobody in particular is given out once more.
_HANDED_OUT = 30.0

metadata = sa.MetaData()

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(80), unique=True, nullable=False),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("project", sa.String(255), nullable=False),
    sa.Column("scope", sa.String(255), nullable=False),  # "zones/z", "regions/r", "global"
    sa.Column("type", sa.String(80), nullable=False),  # GCE's operationType
    sa.Column("target", sa.String(512), nullable=False),  # path below the project
    sa.Column("target_id", sa.String(20), nullable=False, default=""),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("handler", sa.String(80), nullable=False, default=""),
    sa.Column("payload", sa.LargeBinary, nullable=False, default=b""),  # sealed
    sa.Column("status", sa.String(8), nullable=False),  # PENDING, RUNNING, DONE
    sa.Column("progress", sa.Integer, nullable=False, default=0),
    sa.Column("inserted", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("error", sa.JSON),  # {"code", "message", "status", "reason"}
    sa.Column("warnings", sa.JSON),  # [{"code", "message", "data"}]
    sa.Column("request_id", sa.String(64)),  # the client's requestId, None without one
    sa.Column("request_hash", sa.String(64), nullable=False, default=""),
    sa.Column("executions", sa.Integer, nullable=False, default=0),
    sa.Column("executor", sa.String(80)),  # the translator that carries it out, None while nobody does
    sa.Column("due", sa.Float),  # when somebody is to go on with it
    # What an insert is to make, sealed, as long as CloudStack does not show it.
    sa.Column("preview", sa.LargeBinary),
    sa.Column("group_id", sa.String(80), nullable=False, server_default=""),  # of the operations of one request
    sa.Index("operations_by_owner", "owner", "status"),
    sa.UniqueConstraint("owner", "request_id"),
)
sa.Index(
    "operations_unfinished",
    operations.c.owner,
    operations.c.target,
    operations.c.sequence,
    sqlite_where=operations.c.status != "DONE",
    postgresql_where=operations.c.status != "DONE",
)

# What an operation takes turns on besides its target, while it is not done.
turns = sa.Table(
    "turns",
    metadata,
    sa.Column("operation", sa.String(80), primary_key=True),
    sa.Column("target", sa.String(512), primary_key=True),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Index("turns_by_target", "owner", "target"),
)

firewalls = sa.Table(
    "firewalls",
    metadata,
    sa.Column("owner", sa.String(80), primary_key=True),
    sa.Column("name", sa.String(80), primary_key=True),
    sa.Column("network", sa.String(255), nullable=False),  # GCE name of the network
    sa.Column("rule", sa.LargeBinary, nullable=False),  # serialized gstack.compute.v1.Firewall
    sa.Column("created", sa.Float, nullable=False),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("owner", sa.String(80), primary_key=True),
    sa.Column("kind", sa.String(40), primary_key=True),  # "project-metadata", "instance-metadata", ...
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
)

heartbeats = sa.Table(
    "heartbeats",
    metadata,
    sa.Column("executor", sa.String(80), primary_key=True),
    sa.Column("beat", sa.Float, nullable=False),
)


class Duplicate(Exception):
    """The row exists already."""


class Store:
    def __init__(self, engine: sa.Engine):
        self.engine = engine
        # What `running` answered: owner -> (state of _changes, when, rows). Any change of ours makes it stale at once.
        self._changes = 0
        self._running: LRUCache[str, tuple[int, float, list[tuple[str, str]]]] = LRUCache(
            _RUNNING_ROWS, getsizeof=lambda known: 1 + len(known[2])
        )
        self._lock = threading.Lock()

    # Operations

    def add_operation(self, *, also: Collection[str] = (), **values: Any) -> None:
        """also: what it takes turns on besides its target. Raises Duplicate when the owner used this request id."""
        try:
            with self.engine.begin() as connection:
                connection.execute(operations.insert().values(**values))
                _add_turns(connection, values["owner"], values["name"], also)
        except IntegrityError:
            raise Duplicate(values["name"]) from None
        self._changes += 1

    def operation(self, owner: str, name: str) -> sa.RowMapping | None:
        query = operations.select().where(operations.c.name == name, operations.c.owner == owner)
        return self._one(query)

    def operation_by_name(self, name: str) -> sa.RowMapping | None:
        return self._one(operations.select().where(operations.c.name == name))

    def operation_by_request(self, owner: str, request_id: str) -> sa.RowMapping | None:
        query = operations.select().where(operations.c.owner == owner, operations.c.request_id == request_id)
        return self._one(query)

    def list_operations(self, owner: str, scope: str | None, since: float) -> Iterator[sa.RowMapping]:
        """Without their payloads. There may be very many: they are read as they are gone through."""
        columns = [column for column in operations.c if column not in (operations.c.payload, operations.c.preview)]
        query = sa.select(*columns).where(operations.c.owner == owner, operations.c.inserted >= since)
        if scope is not None:
            query = query.where(operations.c.scope == scope)
        with self.engine.connect() as connection:
            found = connection.execute(query.order_by(operations.c.sequence).execution_options(yield_per=_ROWS))
            yield from found.mappings()

    def running(self, owner: str) -> list[tuple[str, str]]:
        """(target, type) of operations that are not done; those of other translators at most half a second late."""
        with self._lock:
            known = self._running.get(owner)
        if known is not None and known[0] == self._changes and time.monotonic() - known[1] < _RUNNING_SECONDS:
            return known[2]
        changes = self._changes
        query = sa.select(operations.c.target, operations.c.type).where(
            operations.c.owner == owner, operations.c.status != "DONE"
        )
        with self.engine.connect() as connection:
            rows = [(row[0], row[1]) for row in connection.execute(query)]
        if len(rows) < _RUNNING_ROWS:
            with self._lock:
                self._running[owner] = (changes, time.monotonic(), rows)
        return rows

    def awaited(self, owner: str, where: str, since: float) -> list[tuple[str, str, bytes]]:
        """(target, name, preview) of inserts whose thing is not there yet, the oldest first.

        where: a scope as `zones/z`, a target, "" for all.

        Never an old answer: what was accepted by any translator is there for all.
        """
        query = sa.select(operations.c.target, operations.c.name, operations.c.preview).where(
            operations.c.owner == owner,
            operations.c.status != "DONE",
            operations.c.preview.is_not(None),
            operations.c.inserted >= since,
        )
        if where:
            query = query.where((operations.c.scope == where) | (operations.c.target == where))
        with self.engine.connect() as connection:
            return [
                (row[0], row[1], bytes(row[2])) for row in connection.execute(query.order_by(operations.c.sequence))
            ]

    def is_busy(self, owner: str, target: str) -> bool:
        """Whether an operation on the target is not done; never an old answer."""
        query = sa.select(sa.literal(1)).where(
            operations.c.owner == owner, operations.c.target == target, operations.c.status != "DONE"
        )
        with self.engine.connect() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def retarget(self, owner: str, before: str, after: str) -> None:
        """The target has another name: what is not done on it, or waits for its turn, is on that."""
        query = operations.update().where(
            operations.c.owner == owner, operations.c.target == before, operations.c.status != "DONE"
        )
        besides = turns.update().where(turns.c.owner == owner, turns.c.target == before)
        with self.engine.begin() as connection:
            connection.execute(query.values(target=after))
            connection.execute(besides.values(target=after))
        self._changes += 1

    def unfinished(self) -> tuple[int, float]:
        """How many operations are not done, and the age in seconds of the oldest (0 without any)."""
        query = sa.select(sa.func.count(), sa.func.min(operations.c.inserted)).where(operations.c.status != "DONE")
        with self.engine.connect() as connection:
            count, oldest = connection.execute(query).one()
        return count, time.time() - oldest if oldest is not None else 0.0

    def unfinished_of(self, owner: str) -> int:
        """How many operations of the owner are not done."""
        query = sa.select(sa.func.count()).where(operations.c.owner == owner, operations.c.status != "DONE")
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    # Turns: which operation may run, and who runs it

    def claim(self, executor: str, free: int, per_owner: int) -> list[str]:
        """Give this executor up to `free` operations whose turn it is; returns their names.

        Operations on one target take turns in the order of their submission; one with several gets all at once, so
        none waits with a turn that another waits for. An owner has at most `per_owner` at work, and no more than there
        are places left: the last places are for those who have none. What was begun before is due (`claim_due`).
        """
        waiting = sa.select(sa.literal(1)).where(operations.c.status == "PENDING").limit(1)
        with self.engine.connect() as connection:
            if connection.execute(waiting).first() is None:
                return []
        with self._one_at_a_time() as connection:
            names: list[str] = []
            begun: list[str] = []
            for name, executions, rank in connection.execute(_ready(min(per_owner, free), free)).all():
                if rank > min(per_owner, free - len(names) - len(begun)):
                    break
                (begun if executions else names).append(name)
            now = time.time()
            fresh = {"status": "RUNNING", "executor": executor, "started": sa.func.coalesce(operations.c.started, now)}
            again = {"status": "RUNNING", "due": now}
            for some, values in ((names, fresh), (begun, again)):
                if some:
                    connection.execute(operations.update().where(operations.c.name.in_(some)).values(values))
        if names or begun:
            self._changes += 1
        return names

    def claim_due(self, limit: int) -> list[str]:
        """Names of up to `limit` operations that nobody carries out and that are due; for a while they are due no more.

        Whoever begins them becomes their executor.
        """
        now = time.time()
        nobodys = (operations.c.status == "RUNNING", operations.c.executor.is_(None), operations.c.due <= now)
        query = sa.select(operations.c.name).where(*nobodys).order_by(operations.c.due).limit(limit)
        with self.engine.connect() as connection:
            if connection.execute(query).first() is None:
                return []
        with self._one_at_a_time() as connection:
            names = [row[0] for row in connection.execute(query)]
            if names:
                later = operations.update().where(operations.c.name.in_(names))
                connection.execute(later.values(due=now + _HANDED_OUT))
        return names

    def claimed(self, executor: str) -> set[str]:
        """Names of the operations that this executor is to carry out."""
        query = sa.select(operations.c.name).where(operations.c.status == "RUNNING", operations.c.executor == executor)
        with self.engine.connect() as connection:
            return {row[0] for row in connection.execute(query)}

    def park(self, names: Collection[str], executor: str, due: float) -> None:
        """Operations that the executor leaves, to be gone on with by anybody from `due` on."""
        query = operations.update().where(
            operations.c.name.in_(names), operations.c.status == "RUNNING", operations.c.executor == executor
        )
        with self.engine.begin() as connection:
            connection.execute(query.values(executor=None, due=due))

    def queue_again(self, name: str, executor: str, also: Collection[str]) -> None:
        """An operation that the executor leaves until its turn on these has come too."""
        query = operations.update().where(
            operations.c.name == name, operations.c.status == "RUNNING", operations.c.executor == executor
        )
        with self.engine.begin() as connection:
            owner = connection.execute(
                query.values(status="PENDING", executor=None, due=None).returning(operations.c.owner)
            ).scalar()
            if owner is not None:
                connection.execute(turns.delete().where(turns.c.operation == name))
                _add_turns(connection, owner, name, also)
        self._changes += 1

    def turns_of(self, name: str) -> set[str]:
        """What an operation takes turns on."""
        own = sa.select(operations.c.target).where(operations.c.name == name)
        besides = sa.select(turns.c.target).where(turns.c.operation == name)
        with self.engine.connect() as connection:
            return {row[0] for row in connection.execute(sa.union(own, besides))}

    def park_of_dead(self, since: float) -> list[str]:
        """Free the operations of executors whose last heartbeat is older than `since`; returns their names."""
        living = sa.select(heartbeats.c.executor).where(heartbeats.c.beat >= since)
        query = (
            operations.update()
            .where(
                operations.c.status == "RUNNING",
                operations.c.executor.is_not(None),
                operations.c.executor.not_in(living),
            )
            .values(executor=None, due=time.time())
            .returning(operations.c.name)
        )
        with self.engine.begin() as connection:
            return [row[0] for row in connection.execute(query)]

    def begin_execution(self, name: str, executor: str) -> int:
        """This executor carries the operation out from now on; returns how often it was begun."""
        query = (
            operations.update()
            .where(operations.c.name == name)
            .values(executions=operations.c.executions + 1, executor=executor, due=None, status="RUNNING")
            .returning(operations.c.executions)
        )
        with self.engine.begin() as connection:
            found = int(connection.execute(query).scalar_one())
        self._changes += 1
        return found

    def over(self, names: Collection[str], before: float) -> list[str]:
        """Those of these operations that ended before a time, or that are not there any more."""
        query = sa.select(operations.c.name).where(
            operations.c.name.in_(names), (operations.c.status != "DONE") | (operations.c.ended >= before)
        )
        with self.engine.connect() as connection:
            needed = {row[0] for row in connection.execute(query)}
        return [name for name in names if name not in needed]

    @contextmanager
    def _one_at_a_time(self) -> Iterator[sa.Connection]:
        """A transaction that no other one of these runs beside, in all translators."""
        with self.engine.connect() as connection, connection.begin():
            if self.engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TURN_LOCK})
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def update_operation(self, name: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(operations.update().where(operations.c.name == name).values(**values))
        self._changes += 1

    def end_operation(self, name: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(operations.update().where(operations.c.name == name).values(status="DONE", **values))
            connection.execute(turns.delete().where(turns.c.operation == name))
        self._changes += 1

    def delete_operation(self, owner: str, name: str) -> bool:
        query = operations.delete().where(
            operations.c.owner == owner, operations.c.name == name, operations.c.status == "DONE"
        )
        with self.engine.begin() as connection:
            return connection.execute(query).rowcount > 0

    def purge_operations(self, before: float) -> int:
        query = operations.delete().where(operations.c.status == "DONE", operations.c.ended < before)
        with self.engine.begin() as connection:
            return connection.execute(query).rowcount

    # Firewalls

    def firewall(self, owner: str, name: str) -> sa.RowMapping | None:
        return self._one(firewalls.select().where(firewalls.c.owner == owner, firewalls.c.name == name))

    def list_firewalls(self, owner: str) -> Sequence[sa.RowMapping]:
        return self._all(firewalls.select().where(firewalls.c.owner == owner).order_by(firewalls.c.name))

    def add_firewall(self, owner: str, name: str, network: str, rule: bytes) -> None:
        """Raises Duplicate."""
        try:
            with self.engine.begin() as connection:
                values = {"owner": owner, "name": name, "network": network, "rule": rule, "created": time.time()}
                connection.execute(firewalls.insert().values(**values))
        except IntegrityError:
            raise Duplicate(name) from None

    def delete_firewall(self, owner: str, name: str) -> bool:
        query = firewalls.delete().where(firewalls.c.owner == owner, firewalls.c.name == name)
        with self.engine.begin() as connection:
            return connection.execute(query).rowcount > 0

    # Documents

    def document(self, owner: str, kind: str, name: str) -> bytes | None:
        key = (documents.c.owner == owner, documents.c.kind == kind, documents.c.name == name)
        row = self._one(sa.select(documents.c.content).where(*key))
        return bytes(row["content"]) if row else None

    def documents(self, owner: str, kind: str) -> dict[str, bytes]:
        """All documents of a kind by name."""
        query = sa.select(documents.c.name, documents.c.content)
        rows = self._all(query.where(documents.c.owner == owner, documents.c.kind == kind))
        return {row["name"]: bytes(row["content"]) for row in rows}

    def put_document(self, owner: str, kind: str, name: str, content: bytes, expected: bytes | None) -> bool:
        """Replace the document if it still is `expected` (None: absent); False when another writer was first."""
        key = (documents.c.owner == owner, documents.c.kind == kind, documents.c.name == name)
        with self.engine.begin() as connection:
            if expected is None:
                try:
                    with connection.begin_nested():
                        values = {"owner": owner, "kind": kind, "name": name, "content": content}
                        connection.execute(documents.insert().values(**values, updated=time.time()))
                except IntegrityError:
                    return False
                return True
            query = documents.update().where(*key, documents.c.content == expected)
            return connection.execute(query.values(content=content, updated=time.time())).rowcount > 0

    def delete_document(self, owner: str, kind: str, name: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                documents.delete().where(documents.c.owner == owner, documents.c.kind == kind, documents.c.name == name)
            )

    def trim_documents(self, owner: str, kind: str, most: int) -> None:
        """Leave so many of an owner's documents of a kind, those that changed last."""
        own = (documents.c.owner == owner, documents.c.kind == kind)
        newest = sa.select(documents.c.name).where(*own).order_by(documents.c.updated.desc()).limit(most)
        with self.engine.begin() as connection:
            connection.execute(documents.delete().where(*own, documents.c.name.not_in(newest)))

    def purge_documents(self, kind: str, before: float) -> None:
        """Those of a kind that did not change since, of all owners."""
        with self.engine.begin() as connection:
            connection.execute(documents.delete().where(documents.c.kind == kind, documents.c.updated < before))

    # Heartbeats

    def beat(self, executor: str) -> None:
        with self.engine.begin() as connection:
            done = connection.execute(
                heartbeats.update().where(heartbeats.c.executor == executor).values(beat=time.time())
            )
            if done.rowcount == 0:
                connection.execute(heartbeats.insert().values(executor=executor, beat=time.time()))

    def forget_heartbeats(self, before: float) -> None:
        with self.engine.begin() as connection:
            connection.execute(heartbeats.delete().where(heartbeats.c.beat < before))

    def _one(self, query: Any) -> sa.RowMapping | None:
        with self.engine.connect() as connection:
            return connection.execute(query).mappings().first()

    def _all(self, query: Any) -> Sequence[sa.RowMapping]:
        with self.engine.connect() as connection:
            return connection.execute(query).mappings().all()


def _add_turns(connection: sa.Connection, owner: str, operation: str, also: Collection[str]) -> None:
    if also:
        connection.execute(
            turns.insert(), [{"operation": operation, "target": target, "owner": owner} for target in sorted(set(also))]
        )


def _blocked() -> sa.ColumnElement[bool]:
    """Whether another operation goes before one on something that both take turns on. Each part has its index."""
    earlier, own, others = operations.alias(), turns.alias(), turns.alias()
    goes_before = (
        earlier.c.owner == operations.c.owner,
        earlier.c.status != "DONE",
        # A running one that was submitted later has had its turn, when the earlier one was not written yet.
        (earlier.c.sequence < operations.c.sequence) | (earlier.c.status == "RUNNING"),
        earlier.c.sequence != operations.c.sequence,
    )
    of_own, of_others = own.c.operation == operations.c.name, others.c.operation == earlier.c.name
    of_owner = others.c.owner == operations.c.owner
    return sa.or_(
        sa.exists().where(earlier.c.target == operations.c.target, *goes_before),
        sa.exists().where(of_own, earlier.c.target == own.c.target, *goes_before),
        sa.exists().where(of_owner, others.c.target == operations.c.target, of_others, *goes_before),
        sa.exists().where(of_own, of_owner, others.c.target == own.c.target, of_others, *goes_before),
    )


def _ready(per_owner: int, limit: int) -> sa.Select[Any]:
    """(name, how often it was begun, rank) of operations that may run, best first. Rank: how many its owner has at work
    with it and with those of its own that go before it; who has least comes first."""
    at_work = (
        sa.select(operations.c.owner, sa.func.count().label("count"))
        # Behind a `#`: what only waits for operations of its own, which must not wait for it.
        .where(operations.c.status == "RUNNING", operations.c.target.not_like("%#%"))
        .group_by(operations.c.owner)
        .subquery()
    )
    position = sa.func.row_number().over(partition_by=operations.c.owner, order_by=operations.c.sequence)
    rank = position + sa.func.coalesce(at_work.c.count, 0)
    heads = (
        sa.select(operations.c.name, operations.c.executions, operations.c.sequence, rank.label("rank"))
        .outerjoin(at_work, at_work.c.owner == operations.c.owner)
        .where(operations.c.status == "PENDING", ~_blocked())
        .subquery()
    )
    return (
        sa.select(heads.c.name, heads.c.executions, heads.c.rank)
        .where(heads.c.rank <= per_owner)
        .order_by(heads.c.rank, heads.c.sequence)
        .limit(limit)
    )


def open_store(url: str, **options: Any) -> Store:
    """Connect and bring the tables up to date. options: of `open_database`."""
    return Store(open_database(url, MIGRATIONS, **options))
