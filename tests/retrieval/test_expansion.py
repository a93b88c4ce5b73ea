"""Hits widened to the text around them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.retrieval.chunking import chunk
from app.retrieval.expansion import Window, joined, widen
from app.retrieval.parsers.block import Block
from app.retrieval.types import Passage


def _count(text: str) -> int:
    return len(text.split())


def _passage(
    ordinal: int, text: str = "", section: str | None = None, file_id: str = "file-1"
) -> Passage:
    text = text or f"text{ordinal} of{ordinal} passage{ordinal}"
    return Passage(f"{file_id}/{ordinal}", file_id, "a.md", ordinal, text, None, section, {})


class Library:
    """Documents in memory, and what was read of them."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = passages
        self.reads: list[tuple[str, int, int]] = []

    async def fetch(self, file_id: str, first: int, last: int) -> Sequence[Passage]:
        self.reads.append((file_id, first, last))
        return [p for p in self.passages if p.file_id == file_id and first <= p.ordinal <= last]


def _ordinals(windows: list[Window]) -> list[list[int]]:
    return [[p.ordinal for p in window.passages] for window in windows]


async def test_a_hit_gets_its_neighbours_in_one_read() -> None:
    library = Library(*(_passage(i) for i in range(9)))
    found = await widen([library.passages[4]], library.fetch, _count, reach=2)
    assert _ordinals(found) == [[2, 3, 4, 5, 6]]
    assert library.reads == [("file-1", 2, 6)]
    assert found[0].text == "\n\n".join(p.text for p in library.passages[2:7])
    assert found[0].hits == (0,)


async def test_the_start_and_end_of_a_document_bound_a_window() -> None:
    library = Library(*(_passage(i) for i in range(3)))
    found = await widen([library.passages[0]], library.fetch, _count, reach=5)
    assert _ordinals(found) == [[0, 1, 2]]
    assert library.reads == [("file-1", 0, 5)]


async def test_windows_that_meet_become_one_at_the_place_of_the_better_hit() -> None:
    library = Library(*(_passage(i) for i in range(20)))
    hits = [library.passages[i] for i in (12, 3, 5, 18)]
    found = await widen(hits, library.fetch, _count)
    assert _ordinals(found) == [[11, 12, 13], [2, 3, 4, 5, 6], [17, 18, 19]]
    assert [window.hits for window in found] == [(0,), (1, 2), (3,)]


async def test_the_same_ordinal_of_two_files_stays_apart() -> None:
    library = Library(_passage(0), _passage(1), _passage(0, file_id="file-2"))
    found = await widen([library.passages[0], library.passages[2]], library.fetch, _count)
    assert [(w.file_id, [p.ordinal for p in w.passages]) for w in found] == [
        ("file-1", [0, 1]),
        ("file-2", [0]),
    ]


async def test_a_section_is_returned_whole_and_never_its_neighbour() -> None:
    names = ["A"] * 3 + ["B"] * 20 + ["C"] * 3
    library = Library(*(_passage(i, section=name) for i, name in enumerate(names)))
    found = await widen([library.passages[9]], library.fetch, _count, by="section")
    assert _ordinals(found) == [list(range(3, 23))]
    beside = [library.passages[2], library.passages[3]]
    found = await widen(beside, library.fetch, _count, by="section")
    assert _ordinals(found) == [[0, 1, 2], list(range(3, 23))]


async def test_a_hit_without_a_section_stays_alone_by_section() -> None:
    library = Library(*(_passage(i) for i in range(3)))
    found = await widen([library.passages[1]], library.fetch, _count, by="section")
    assert _ordinals(found) == [[1]]


async def test_a_window_stops_at_its_token_limit() -> None:
    library = Library(*(_passage(i, section="A") for i in range(50)))  # 3 tokens each
    found = await widen([library.passages[20]], library.fetch, _count, by="section", max_tokens=14)
    assert _ordinals(found) == [[19, 20, 21, 22]]
    found = await widen([library.passages[20]], library.fetch, _count, max_tokens=1)
    assert _ordinals(found) == [[20]]


async def test_a_missing_passage_ends_a_window() -> None:
    library = Library(*(_passage(i) for i in (0, 1, 2, 4, 5)))
    found = await widen([library.passages[2]], library.fetch, _count, reach=3)
    assert _ordinals(found) == [[0, 1, 2]]


async def test_no_hits_read_nothing() -> None:
    library = Library()
    assert await widen([], library.fetch, _count) == []
    assert library.reads == []


async def test_bounds_that_make_no_sense_are_refused() -> None:
    library = Library()
    for reach, most in ((-1, 5), (1, 0)):
        with pytest.raises(ValueError, match="reach"):
            await widen([], library.fetch, _count, reach=reach, max_tokens=most)


def test_the_words_that_a_passage_repeats_stand_once() -> None:
    one = _passage(0, "Refunds are paid within fourteen days of the return.")
    two = _passage(1, "days of the return.\n\nThey go to the card that was used.")
    assert joined([one, two]) == (
        "Refunds are paid within fourteen days of the return.\n\nThey go to the card that was used."
    )


def test_a_table_that_goes_on_keeps_one_header() -> None:
    one = _passage(0, "| country | days |\n| --- | --- |\n| Norway | 14 |")
    two = _passage(1, "| country | days |\n| --- | --- |\n| Sweden | 10 |")
    assert joined([one, two]).count("country") == 1
    assert joined([one, two]).endswith("| Norway | 14 |\n| Sweden | 10 |")


def test_half_a_word_is_no_overlap() -> None:
    assert joined([_passage(0, "see the art"), _passage(1, "artist at work")]) == (
        "see the art\n\nartist at work"
    )


def test_a_word_that_ends_one_passage_and_starts_the_next_is_chance() -> None:
    assert joined([_passage(0, "Use SQLite"), _passage(1, "SQLite locks")]).count("SQLite") == 2


@given(st.integers(1, 400), st.integers(4, 40), st.data())
def test_a_cut_document_joined_again_is_the_document(
    length: int, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.sampled_from([0, *range(3, size // 2 + 1)]))
    ends = data.draw(st.sets(st.integers(0, length - 1), max_size=40))
    text = " ".join(f"w{i}." if i in ends else f"w{i}" for i in range(length))
    chunks = chunk([Block(text, "text", None, None)], size, overlap)
    passages = [_passage(c.ordinal, c.text) for c in chunks]
    assert joined(passages).split() == text.split()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("AABC"), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), max_size=6),
    st.sampled_from(["neighbours", "section"]),
    st.integers(0, 4),
    st.integers(1, 40),
)
async def test_no_passage_is_returned_twice_and_every_hit_once(
    sections: list[str], chosen: list[int], by: str, reach: int, most: int
) -> None:
    names = sorted(sections)
    library = Library(*(_passage(i, section=name) for i, name in enumerate(names)))
    hits = [library.passages[i % len(names)] for i in chosen]
    found = await widen(hits, library.fetch, _count, by, reach, most)  # type: ignore[arg-type]
    returned = [p.ordinal for window in found for p in window.passages]
    assert len(returned) == len(set(returned))
    assert sorted(p for window in found for p in window.hits) == list(range(len(hits)))
    assert [window.hits[0] for window in found] == sorted(window.hits[0] for window in found)
    for window in found:
        ordinals = [p.ordinal for p in window.passages]
        assert ordinals == list(range(ordinals[0], ordinals[-1] + 1))
        assert all(hits[p].ordinal in ordinals for p in window.hits)
        distinct = {hits[p].ordinal for p in window.hits}
        assert _count(window.text) <= max(most, 3) * len(distinct)
        if by == "section":
            assert len({p.section for p in window.passages}) == 1
