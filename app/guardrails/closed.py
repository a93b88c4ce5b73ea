"""What happens when a guardrail cannot work: nothing passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import OstiaryError, Unavailable

log = logging.getLogger("ostiary.guardrails")


@contextmanager
def failing_closed() -> Iterator[None]:
    """Refuse the call when the block fails in a way that was not meant for the caller."""
    try:
        yield
    except OstiaryError:
        raise
    except Exception as error:
        log.error("guardrails failed: %s", type(error).__name__)
        raise Unavailable(
            "The guardrails cannot work at the moment, so the call was refused. Try again; if "
            "it keeps failing, tell the operator.",
            code="guardrail_unavailable",
        ) from error
