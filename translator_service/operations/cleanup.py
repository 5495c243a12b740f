"""Taking away what an operation made, or what is not needed any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from translator_service.operations.run import Run

log = structlog.get_logger()


def clear_away(run: Run, parts: Sequence[tuple[str, Callable[[], object]]]) -> None:
    """Each of (what it is, what takes it away), whatever becomes of the rest; what stays is told as a warning."""
    for what, take_away in parts:
        try:
            take_away()
        except Exception as error:
            log.warning("cleanup_failed", name=run.name, what=what, error=str(error))
            run.warn("CLEANUP_FAILED", f"{what} could not be taken away again.")
