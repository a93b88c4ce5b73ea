"""What is logged and traced while a call is under way is the call's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.gateway.call import Call, current_call

if TYPE_CHECKING:
    from app.monitoring.tracing import Tracing


@contextmanager
def following(
    call: Call,
    tracing: Tracing | None,
    traceparent: bytes | None = None,
    status: Callable[[], int | None] = lambda: None,
) -> Iterator[None]:
    """Log and trace for this call until the block ends.

    Args:
        traceparent: the caller's W3C header.
        status: of the reply, asked at the end.
    """
    around = current_call.get()
    current_call.set(call)
    if tracing is not None:
        call.trace = tracing.begin(call, traceparent)
    try:
        yield
    finally:
        current_call.set(around)
        if call.trace is not None:
            call.trace.end(call, status())
