"""The decoder of server-sent events, over every way of cutting a stream into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.llm.sse import EventDecoder

LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8)


@given(
    events=st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(1, 7), max_size=60),
)
def test_events_come_out_whole_wherever_the_bytes_were_cut(
    events: list[list[str]], ending: str, cuts: list[int]
) -> None:
    written = "".join(
        ": comment" + ending + "".join(f"data: {line}{ending}" for line in lines) + ending
        for lines in events
    ).encode()
    decoder, found = EventDecoder(), []
    for cut in cuts:
        found += decoder.feed(written[:cut])
        written = written[cut:]
    found += decoder.feed(written) + decoder.close()
    assert [event.decode() for event in found] == ["\n".join(lines) for lines in events]
