"""The blocks of prompts, and who read them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.llm.affinity import BLOCK, MOST_BLOCKS, Prefixes, blocks_of

Text = st.text("abc \n", max_size=3 * BLOCK)


def chat(*turns: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": turn} for turn in turns]}


@given(Text, Text)
def test_prompts_share_the_blocks_of_what_they_begin_alike_with(start: str, end: str) -> None:
    short, long = blocks_of({"prompt": start}), blocks_of({"prompt": start + end})
    assert long[: len(short)] == short
    assert len(long) == len(start + end) // BLOCK


def test_a_conversation_goes_on_with_its_own_blocks_and_no_others() -> None:
    first = chat("x" * 2000)
    assert blocks_of(chat("x" * 2000, "and then?"))[:3] == blocks_of(first)[:3]
    assert not set(blocks_of(chat("y" + "x" * 1999))) & set(blocks_of(first))
    assert blocks_of(chat("short")) == []
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 2000}]}]}
    assert blocks_of(parts) == blocks_of(first)
    assert len(blocks_of({"prompt": "z" * BLOCK * 100})) == MOST_BLOCKS


def test_the_server_with_the_longest_beginning_comes_first() -> None:
    prefixes, blocks = Prefixes(), blocks_of({"prompt": "x" * 4 * BLOCK})
    prefixes.note(blocks[:2], "old")
    prefixes.note(blocks[:1], "older")
    assert prefixes.warmest(blocks) == ["old", "older"]
    assert prefixes.warmest(blocks_of({"prompt": "y" * 4 * BLOCK})) == []


def test_what_was_not_used_for_long_goes_first() -> None:
    prefixes = Prefixes(kept=3)
    one, two = (blocks_of({"prompt": c * 2 * BLOCK}) for c in "ab")
    prefixes.note(one, "s")
    prefixes.note(two, "t")
    assert prefixes.warmest(one[:1]) == []
    assert prefixes.warmest(one) == ["s"] and prefixes.warmest(two) == ["t"]
