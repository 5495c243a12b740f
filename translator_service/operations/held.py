"""A name is one thing's, also while several operations are about to make one of that name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gstack.kernel.errors import already_exists
from translator_service.operations.run import Run


@contextmanager
def held(run: Run, kind: str, key: str, resource: str) -> Iterator[None]:
    """Nobody else makes this meanwhile. Raises 409 when another operation is about to.

    kind: of the documents in the store. resource: as errors name it.
    """
    store, owner, claim = run.scope.store, run.scope.project.key, run.name.encode()
    if not store.put_document(owner, kind, key, claim, expected=None):
        known = store.document(owner, kind, key)
        if known != claim:
            holder = store.operation(owner, known.decode()) if known else None
            if (holder and holder["status"] != "DONE") or not store.put_document(owner, kind, key, claim, known):
                raise already_exists(resource)
    try:
        yield
    except Exception:
        store.delete_document(owner, kind, key)
        raise
    store.delete_document(owner, kind, key)
