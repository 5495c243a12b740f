"""The translator process: environment, methods, operations, identity, in this order."""

from __future__ import annotations

import socket

import sqlalchemy as sa
import structlog
from cachetools import TTLCache, cached

from gstack.kernel import database, metrics, tracing, trust
from gstack.kernel.rpc import Server
from gstack.kernel.sealing import Keyring
from gstack.kernel.settings import Settings
from translator_service import identity, resources
from translator_service.cloudstack.catalog import Catalog
from translator_service.cloudstack.client import Endpoint
from translator_service.gce import names_file as mapping
from translator_service.gce.paging import Pager
from translator_service.gce.replies import Replies
from translator_service.kept.store import Store, open_store
from translator_service.operations.engine import Engine
from translator_service.rpc import add_services
from translator_service.scope import Environment

log = structlog.get_logger()


def environment(settings: Settings) -> Environment:
    """Raises KeyFileError or ValueError with a text for the operator."""
    if not settings.cloudstack_url:
        raise ValueError("GSTACK_CLOUDSTACK_URL is not set: the address of a CloudStack API, https://HOST/client/api")
    keyring = Keyring(settings.sealing_key_path())
    page_key = settings.page_token_key.get_secret_value().encode()
    return Environment(
        settings=settings,
        endpoint=Endpoint(
            settings.cloudstack_url,
            connections=settings.cloudstack_connections,
            timeout=settings.cloudstack_timeout,
            ca=str(settings.cloudstack_ca) if settings.cloudstack_ca else None,
            observe=_observe,
        ),
        store=open_store(settings.translator_database(), connections=settings.database_connections),
        sealer=keyring,
        names=mapping.load(settings.names_file),
        pager=Pager(page_key or (lambda: keyring.derive(b"page tokens"))),
        catalog=Catalog(settings.catalog_cache_bytes),
        replies=Replies(settings.reply_cache_bytes),
    )


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    tracing.configure("translator")
    metrics.about("translator")
    shared = environment(settings)
    resources.load()
    server = Server(settings.translator_threads, trust.of(settings), settings.connection_age, settings.grpc_reflection)
    add_services(server, shared)
    identity.add_service(server, shared)
    # The engine opens it by itself, and says less when that fails.
    workflows = database.sqlite_file(settings.workflows_database())
    if workflows is not None:
        database.prepare_file(workflows)
    engine = Engine(shared, settings.executor_id or f"{socket.gethostname()}/{settings.translator_listen}")
    engine.start()
    if settings.translator_metrics_listen:
        _measure(shared.store)
        metrics.serve(
            settings.translator_metrics_listen,
            {"grpc": lambda: server.is_serving, "database": lambda: database.answers(shared.store.engine)},
        )
    server.run(settings.translator_listen, stops=[engine.stop, shared.endpoint.close])


def _observe(command: str, outcome: str, seconds: float) -> None:
    metrics.CLOUDSTACK_SECONDS.labels(command, outcome).observe(seconds)


def _measure(store: Store) -> None:
    """Asked whenever Prometheus asks."""

    def unfinished() -> tuple[float, float]:
        try:
            return store.unfinished()
        except sa.exc.SQLAlchemyError:
            # The database's own metric says what is wrong.
            return float("nan"), float("nan")

    # Both are asked for in one scrape.
    known = cached(TTLCache(1, 0.1))(unfinished)
    metrics.OPERATIONS_UNFINISHED.set_function(lambda: known()[0])
    metrics.OPERATIONS_OLDEST.set_function(lambda: known()[1])
    database.measure(store.engine)
