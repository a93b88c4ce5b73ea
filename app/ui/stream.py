"""An answer on its way to the page: events whose data are fragments of HTML."""

from __future__ import annotations

from collections.abc import AsyncIterator

from markupsafe import escape

from app.errors import OstiaryError
from app.gateway.call import Call
from app.llm.response_events import Event, Events
from app.ui import render


async def fragments(
    call: Call, store_id: str, events: Events, pairs: AsyncIterator[Event]
) -> AsyncIterator[bytes]:
    """Yield ``text`` as it comes, then one ``result`` or ``problem``.

    The call is settled before the last event is given out. An answer that breaks off ends
    with what was shown, marked as incomplete: never with a half that looks whole.
    """
    try:
        async for kind, value in pairs:
            if kind == "response.output_text.delta":
                yield event("text", str(escape(value["delta"])))
            elif kind in ("response.completed", "response.incomplete"):
                last = event("result", render.result(store_id, value["response"], call.request_id))
                await call.settle(200, last)
                yield last
    except OstiaryError as error:
        call.error_code = error.code
        await call.settle(error.status)
        if events.answer:
            shown = render.result(store_id, events.response, call.request_id, broke=error.message)
            yield event("result", shown)
        else:
            told = render.problem(error.message, error.status, error.code, call.request_id)
            yield event("problem", told)


def event(kind: str, html: str) -> bytes:
    """One server-sent event."""
    lines = "".join(f"data: {line}\n" for line in html.split("\n"))
    return f"event: {kind}\n{lines}\n".encode()
