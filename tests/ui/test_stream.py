"""What a streamed answer gives the page when something fails on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.errors import GuardrailViolation, OstiaryError, Unavailable
from app.gateway.call import Call
from app.llm.response_events import Event, Events
from app.llm.responses_types import ResponsesRequest
from app.ui.stream import fragments


class Desk:
    """Settles calls, and can refuse to."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.settled: list[tuple[int, bytes]] = []
        self.call = Call("call_1", "call_1", "page", "POST /ui/ask", settler=self._settle)

    async def _settle(self, call: Call, status: int, tail: bytes) -> None:
        self.settled.append((status, tail))
        if self.refuses:
            raise Unavailable("The audit log cannot be written.", code="audit_unavailable")


async def told(events: Events, text: str, error: OstiaryError | None) -> AsyncIterator[Event]:
    for pair in events.begin():
        yield pair
    if text:
        for pair in (*events.begin_text(), *events.text(text)):
            yield pair
    if error is not None:
        raise error
    for pair in events.end_text():
        yield pair
    yield events.end("completed")


async def page_of(desk: Desk, text: str, error: OstiaryError | None = None) -> list[str]:
    events = Events(ResponsesRequest(model="m", input="Why?"))
    pairs = fragments(desk.call, "vs_1", events, told(events, text, error))
    return [wire.decode() async for wire in pairs]


async def test_an_answer_is_settled_once_with_its_last_event() -> None:
    desk = Desk()
    begun, last = await page_of(desk, "Because <b>.")
    assert begun == "event: text\ndata: Because &lt;b&gt;.\n\n"
    assert last.startswith("event: result\n") and "incomplete" not in last
    assert desk.settled == [(200, last.encode())]


async def test_an_answer_that_breaks_off_is_told_as_incomplete_and_settled_once() -> None:
    desk = Desk()
    refusal = GuardrailViolation("strict", "output", {"US_SSN": 1})
    _, last = await page_of(desk, "Because", refusal)
    assert last.startswith("event: result\n")
    assert "This answer is incomplete." in last and "US_SSN (1)" in last and "Because" in last
    assert desk.settled == [(400, b"")]
    assert desk.call.error_code == "guardrail_violation"


async def test_a_failure_before_the_first_word_is_a_problem_and_no_answer() -> None:
    desk = Desk()
    (only,) = await page_of(desk, "", Unavailable("Down. Try again."))
    assert only.startswith("event: problem\n") and "Down. Try again." in only
    assert [status for status, _ in desk.settled] == [503]


async def test_an_answer_that_was_not_audited_is_not_told_as_whole() -> None:
    desk = Desk(refuses=True)
    _, last = await page_of(desk, "Because.")
    assert "This answer is incomplete." in last
    assert len(desk.settled) == 1


async def test_a_failure_that_was_not_audited_is_left_to_the_corridor() -> None:
    with pytest.raises(Unavailable, match="audit"):
        await page_of(Desk(refuses=True), "Because", Unavailable("Down."))
