"""Counting by words gives the tokenizer's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.parsers.block import clean
from pipelines.embeddings.counting import WordCounter, counter

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WORDS = st.lists(
    st.one_of(
        ANY_TEXT,
        st.sampled_from(
            ["[SEP]", "[MASK] ", "don't", "naïve", "e\u0301", "中文", "\u00a0", "x\x85y"]
        ),
        st.text("ab \t\n\u2028\u3000\u200b.-", max_size=20),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def model() -> OnnxEmbedder:
    return OnnxEmbedder(packaged_bge_dir(), threads=1)


@pytest.fixture(scope="module")
def by_words(model: OnnxEmbedder) -> WordCounter:
    found = counter(model.model_dir, model.count_tokens)
    assert isinstance(found, WordCounter)
    return found


@settings(max_examples=400, deadline=None)
@given(words=WORDS)
def test_any_text_has_as_many_tokens_by_words(
    model: OnnxEmbedder, by_words: WordCounter, words: list[str]
) -> None:
    text = clean(" ".join(words))
    assert by_words(text) == model.count_tokens(text)


def test_a_tokenizer_that_looks_over_spaces_is_asked_for_the_whole(tmp_path: Path) -> None:
    told = {"normalizer": None, "pre_tokenizer": {"type": "Metaspace"}, "model": {"type": "BPE"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    asked: list[str] = []
    count = counter(tmp_path, lambda text: len(asked) if asked.append(text) else len(text))
    assert count("a b") == 3 and count("a b") == 3
    assert asked == ["a b"]
