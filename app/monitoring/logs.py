"""The lines that the gateway logs: as text or JSON, each with the ids of its call."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson

from app.gateway.call import Call, current_call

access = logging.getLogger("ostiary.access")
OTHERS = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "dbos",
)  # loggers with handlers of their own
ACCESS = ("door", "route", "status", "seconds", "cost_usd")  # fields of an access line
LONGEST = 16_384  # characters of a message or a stack


def configure(level: str, form: str) -> None:
    """Log everything to standard error in one form; libraries' own handlers are taken away."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])  # unless the host has its own
    for name in OTHERS:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.propagate = True
    # it adds a handler again where it finds none
    logging.getLogger("dbos").addHandler(logging.NullHandler())


def log_access(call: Call, status: int, seconds: float) -> None:
    """One line of a call that is over; never a word of what was sent or answered."""
    if not access.isEnabledFor(logging.INFO):
        return
    told = (call.door, call.route, status, round(seconds, 6), call.cost_usd)
    extra = dict(zip(ACCESS, told, strict=True))
    access.info("%s %d", call.route, status, extra={**extra, "call": call})


def _call_of(record: logging.LogRecord) -> Call | None:
    found: Call | None = getattr(record, "call", None) or current_call.get()
    return found


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
        }
        call = _call_of(record)
        if call is not None:
            line |= {
                "request_id": call.request_id,
                "call_id": call.id,
                "tenant": call.tenant_id,
            }
            if call.trace is not None:
                line["trace_id"] = call.trace.trace_id
        if record.name == access.name:
            line |= {name: getattr(record, name, None) for name in ACCESS}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["stack"] = self.formatException(record.exc_info)[-LONGEST:]
        # a name with a lone surrogate is no UTF-8
        line["message"] = line["message"].encode("utf-8", "replace").decode()
        if "stack" in line:
            line["stack"] = line["stack"].encode("utf-8", "replace").decode()
        return orjson.dumps(line).decode()


class TextLines(logging.Formatter):
    """A line for people; the call's request id stands at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line before any stack."""
        line = super().formatMessage(record)
        if record.name == access.name:
            seconds, cost = getattr(record, "seconds", 0.0), getattr(record, "cost_usd", 0.0)
            line += f" in {1e3 * seconds:.1f} ms for {cost:.9f} USD"
        call = _call_of(record)
        if call is not None and "request_id=" not in line:
            line += f" request_id={call.request_id}"
        return line
