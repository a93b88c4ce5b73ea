"""Cutting documents into passages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.retrieval.chunking import chunk
from app.retrieval.parsing import Block

WORDS = st.text(alphabet="abc.é-", min_size=1, max_size=30)
TEXTS = st.lists(WORDS, min_size=1, max_size=60).map(" ".join)
LINES = st.lists(TEXTS, min_size=1, max_size=4).map("\n".join)
BLOCKS = st.lists(
    st.builds(
        Block,
        text=LINES,
        page=st.none() | st.integers(1, 9),
        section=st.sampled_from([None, "A", "A > B", "A > B > C", "A > D", "E"]),
        kind=st.sampled_from(["text", "code", "table", "list", "heading"]),
    ),
    max_size=12,
)
HEADED = st.lists(
    st.builds(
        Block,
        text=LINES | TEXTS.map(lambda text: f"{text}:"),
        page=st.none(),
        section=st.sampled_from([None, "A"]),
        kind=st.sampled_from(["text", "code", "table", "list"]),
        header=st.integers(0, 2),
    ),
    max_size=12,
)


def words(text: str) -> int:
    return len(text.split())


def characters(text: str) -> int:
    return len(text)


def squeezed(texts: list[str]) -> str:
    return "".join("".join(text.split()) for text in texts)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.integers(1, 80), st.sampled_from([words, characters]))
def test_chunks_are_bounded_and_hold_every_character_in_order(blocks, size, count) -> None:
    made = chunk(blocks, size, 0, count)
    assert [piece.ordinal for piece in made] == list(range(len(made)))
    assert all(count(piece.text) <= size for piece in made)
    assert squeezed([piece.text for piece in made]) == squeezed([block.text for block in blocks])


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.integers(2, 80), st.sampled_from([words, characters]))
def test_overlap_keeps_bounds_and_loses_no_character(blocks, size, count) -> None:
    made = chunk(blocks, size, size // 2, count)
    assert all(count(piece.text) <= size for piece in made)
    rest = iter(squeezed([piece.text for piece in made]))
    assert all(letter in rest for letter in squeezed([block.text for block in blocks]))


@settings(max_examples=150, deadline=None)
@given(HEADED, st.integers(1, 80), st.sampled_from([words, characters]))
def test_repeated_headers_keep_bounds_and_lose_no_character(blocks, size, count) -> None:
    made = chunk(blocks, size, 0, count)
    assert all(count(piece.text) <= size for piece in made)
    rest = iter(squeezed([piece.text for piece in made]))
    assert all(letter in rest for letter in squeezed([block.text for block in blocks]))
    assert made == chunk(blocks, size, 0, count)


def prose(n: int, section: str | None = "A", page: int | None = None, mark: str = "w") -> Block:
    return Block(" ".join(f"{mark}{i}" for i in range(n)), page, section, "text")


def test_sections_are_not_mixed() -> None:
    made = chunk([prose(40, "A"), prose(40, "B", mark="v")], 100, 0, words)
    assert [(piece.section, words(piece.text)) for piece in made] == [("A", 40), ("B", 40)]


def test_a_tiny_section_joins_its_neighbour_under_the_same_heading() -> None:
    made = chunk([prose(3, "A > B"), prose(40, "A > C", mark="v")], 100, 0, words)
    assert [(piece.section, words(piece.text)) for piece in made] == [("A", 43)]


def test_a_lone_heading_joins_the_section_below_it() -> None:
    title = Block("Guide", None, "Guide", "heading")
    made = chunk([title, prose(80, "Guide > Start")], 100, 0, words)
    assert [piece.section for piece in made] == ["Guide > Start"]
    assert made[0].text.startswith("Guide\n\nw0")


def test_a_heading_with_no_room_beside_its_code_lives_on_in_the_section_only() -> None:
    title = Block("Guide", None, "Guide", "heading")
    code = Block("\n".join(f"call {i}" for i in range(50)), None, "Guide", "code")
    made = chunk([title, code], 100, 0, words)
    assert [(piece.section, piece.text) for piece in made] == [("Guide", code.text)]


def test_later_chunks_after_a_tiny_section_keep_their_own_section() -> None:
    made = chunk([prose(3, "A > B"), prose(200, "A > C", mark="v")], 50, 0, words)
    assert made[-1].section == "A > C"


def test_code_that_fits_stays_whole_even_where_prose_would_be_cut() -> None:
    code = Block("\n".join(f"line {i}" for i in range(20)), None, "A", "code")
    made = chunk([prose(30), code], 50, 10, words)
    assert made[1].text == code.text


def test_code_that_does_not_fit_is_cut_between_lines() -> None:
    code = Block("\n".join(f"call {i}" for i in range(40)), None, "A", "code")
    made = chunk([code], 50, 0, words)
    assert all(line.startswith("call ") for piece in made for line in piece.text.split("\n"))


def test_a_table_that_must_be_cut_repeats_its_header() -> None:
    rows = "\n".join(f"row{i} | a | b" for i in range(30))
    grid = Block(f"name | x | y\n{rows}", None, "A", "table", 1)
    made = chunk([prose(20), grid], 40, 10, words)
    tables = [piece.text for piece in made if "row" in piece.text]
    assert len(tables) > 1
    assert all(text.startswith("name | x | y\nrow") for text in tables)
    assert "\n".join(text.split("\n", 1)[1] for text in tables) == rows


def test_a_header_that_would_fill_the_passage_is_not_repeated() -> None:
    head = " | ".join(f"column{i}" for i in range(20))
    grid = Block(head + "\n" + "\n".join(f"row{i} a b" for i in range(30)), None, "A", "table", 1)
    made = chunk([grid], 45, 0, words)
    assert sum("column0" in piece.text for piece in made) == 1


def test_a_list_stays_with_the_line_that_leads_into_it() -> None:
    lead = Block("Bring these things:", None, "A", "text")
    items = Block("\n".join(f"- thing {i}" for i in range(10)), None, "A", "list")
    made = chunk([prose(30), lead, items], 40, 0, words)
    assert made[1].text == f"{lead.text}\n{items.text}"


def test_a_long_list_repeats_the_line_that_leads_into_it() -> None:
    lead = Block("Bring these things:", None, "A", "text")
    items = Block("\n".join(f"- thing {i}" for i in range(40)), None, "A", "list")
    made = chunk([lead, items], 40, 0, words)
    assert len(made) > 2
    assert all(piece.text.startswith("Bring these things:\n- thing") for piece in made)


def test_code_that_fits_alone_is_not_cut_for_its_lead() -> None:
    lead = Block("Run this:", None, "A", "text")
    code = Block("\n".join(f"call {i}" for i in range(20)), None, "A", "code")
    assert chunk([lead, code], 40, 0, words)[1].text == code.text
    assert chunk([lead, code], 42, 0, words)[0].text == f"{lead.text}\n\n{code.text}"


def test_prose_is_cut_between_sentences() -> None:
    text = " ".join(f"Sentence number {i} ends here." for i in range(20))
    made = chunk([Block(text, None, "A", "text")], 24, 0, words)
    assert all(piece.text.endswith("here.") for piece in made)


def test_continued_prose_repeats_the_end_of_the_chunk_before() -> None:
    made = chunk([prose(40), prose(40, mark="v")], 50, 10, words)
    assert made[1].text.split()[:10] == [f"w{i}" for i in range(30, 40)]


def test_a_section_begins_without_words_of_the_section_before() -> None:
    made = chunk([prose(60, "A"), prose(60, "B", mark="v")], 50, 20, words)
    first_of_b = next(piece for piece in made if piece.section == "B")
    assert "w" not in first_of_b.text


def test_a_chunk_tells_the_page_where_its_new_words_start() -> None:
    made = chunk([prose(40, page=1), prose(40, page=2, mark="v")], 50, 10, words)
    assert [piece.page for piece in made] == [1, 2]


def test_an_endless_word_is_cut_though_it_counts_as_one_token() -> None:
    made = chunk([Block("f" * 100_000, None, None, "text")], 100, 0, words)
    assert all(len(piece.text) <= 2100 for piece in made)
    assert squeezed([piece.text for piece in made]) == "f" * 100_000


def test_a_long_text_without_sentences_is_cut_with_few_counts() -> None:
    calls = 0

    def counted(text: str) -> int:
        nonlocal calls
        calls += 1
        return words(text)

    made = chunk([prose(20_000)], 200, 20, counted)
    assert len(made) <= 112
    assert calls < 30 * len(made)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (100, 51), (100, -1)])
def test_senseless_sizes_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(BadRequest):
        chunk([], size, overlap, words)
