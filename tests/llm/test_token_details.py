"""What is told of tokens never runs ahead of their text, nor past what was masked."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.llm.token_details import TokenDetails, drop

Words = st.lists(st.text("ab @.", min_size=1, max_size=4), min_size=1, max_size=12)


def chat_chunk(words: list[str]) -> dict[str, Any]:
    return {"logprobs": {"content": [{"token": w, "logprob": -1.0} for w in words]}}


def told_of(choice: dict[str, Any]) -> list[str]:
    told = choice.get("logprobs") or {}
    return [e["token"] for e in told.get("content", ())] + list(told.get("tokens", ()))


@given(Words, st.data())
def test_tokens_are_told_in_order_once_their_text_is_out(
    words: list[str], data: st.DataObject
) -> None:
    details, seen, held, out = TokenDetails(), [], "", ""
    for word in words:
        held += word
        cut = data.draw(st.integers(0, len(held)))
        passed, held = held[:cut], held[cut:]
        out += passed
        choice = chat_chunk([word])
        details.take(choice, word, passed)
        seen += told_of(choice)
        assert out.startswith("".join(seen))
    last: dict[str, Any] = {}
    details.finish(last, held)
    assert seen + told_of(last) == words


@given(Words, st.integers(0, 11))
def test_after_a_masked_text_nothing_more_is_told(words: list[str], where: int) -> None:
    masked = where % len(words)
    details, seen = TokenDetails(), []
    for number, word in enumerate(words):
        choice = {**chat_chunk([word]), "token_ids": [number]}
        details.take(choice, word, "<MASK>" if number == masked else word)
        seen += told_of(choice)
        assert "token_ids" not in choice
    last: dict[str, Any] = {}
    details.finish(last, "")
    assert seen == words[:masked]
    assert last == {}


def test_ids_come_with_the_end_of_an_unchanged_text() -> None:
    details = TokenDetails()
    details.take({"token_ids": [1, 2]}, "ab", "")
    choice = {"token_ids": [3], "logprobs": None}
    details.take(choice, "c", "ab")
    last: dict[str, Any] = {}
    details.finish(last, "c")
    assert last == {"token_ids": [1, 2, 3]}


def test_a_mask_in_the_last_words_takes_their_tokens_along() -> None:
    details = TokenDetails()
    choice = chat_chunk(["so ", "jo@x.org"])
    details.take(choice, "so jo@x.org", "so ")
    assert told_of(choice) == ["so "]
    last: dict[str, Any] = {}
    details.finish(last, "<EMAIL_ADDRESS>")
    assert last == {}


def test_a_completion_keeps_its_own_shape() -> None:
    details = TokenDetails()
    given_ = {"tokens": ["a", "b"], "token_logprobs": [-1, -2], "text_offset": [0, 1]}
    choice: dict[str, Any] = {"logprobs": given_}
    details.take(choice, "ab", "a")
    assert choice["logprobs"] == {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": None,
                                  "text_offset": [0]}  # fmt: skip
    last: dict[str, Any] = {"logprobs": None}
    details.finish(last, "b")
    assert last["logprobs"]["tokens"] == ["b"]
    assert last["logprobs"]["token_logprobs"] == [-2]


def test_a_changed_reply_loses_what_was_told() -> None:
    choice = {**chat_chunk(["a"]), "token_ids": [1], "text": "x"}
    drop(choice)
    assert choice == {"logprobs": None, "text": "x"}
