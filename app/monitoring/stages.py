"""The parts of a call whose seconds are counted, and traced where the call is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from app.gateway.call import Call
    from app.monitoring.tracing import Value

Screened = Literal["screen_input", "screen_output", "screen_passages", "screen_stream"]
Retrieved = Literal["embed", "search", "read", "rerank"]
Stage = Literal[Screened, Retrieved, "queue"]


@contextmanager
def stage(call: Call, name: Stage, attributes: Mapping[str, Value] | None = None) -> Iterator[None]:
    """A part of a call, until the block ends.

    Args:
        attributes: of its span; ids, names and numbers, never a text of the call.
    """
    began = time.perf_counter()
    span = None if call.trace is None else call.trace.begin(name, attributes or {})
    try:
        yield
    except BaseException as error:
        if span is not None:
            span.failed(error)
        raise
    finally:
        took(call, name, time.perf_counter() - began)
        if span is not None:
            span.end()


def took(call: Call, name: Stage, seconds: float) -> None:
    """Count seconds of a part that is too short to be traced each time."""
    call.seconds[name] = call.seconds.get(name, 0.0) + seconds
