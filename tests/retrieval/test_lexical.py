"""The word index."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Unavailable
from app.retrieval.lexical import LexicalIndex

ROWS = [
    ("p1", "f1", "Refunds", "Refunds are paid within fourteen days."),
    ("p2", "f1", "Shipping", "We are shipping parcels to Zürich."),
    ("p3", "f2", None, "The running costs of select_related() queries."),
]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    index = LexicalIndex.open(tmp_path_factory.mktemp("words"))
    index.add(ROWS)
    index.commit()
    return index


def ids(found: list[tuple[str, float]]) -> list[str]:
    return [id_ for id_, _ in found]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("refund", "p1"),
        ("ship a parcel", "p2"),
        ("zurich", "p2"),
        ("RUN COST", "p3"),
        ("select_related", "p3"),
    ],
)
def test_words_are_found_by_their_stem(shelf: LexicalIndex, query: str, first: str) -> None:
    found = shelf.search(query, 3)
    assert found[0][0] == first
    assert found[0][1] > 0


def test_search_stays_within_the_given_files(shelf: LexicalIndex) -> None:
    every = dict(shelf.search("refund queries", 5))
    assert set(every) == {"p1", "p3"}
    assert dict(shelf.search("refund queries", 5, {"f2"})) == {"p3": pytest.approx(every["p3"])}
    assert shelf.search("refund", 5, set()) == []


def test_a_query_of_common_words_only_still_searches(shelf: LexicalIndex) -> None:
    assert set(ids(shelf.search("are", 5))) == {"p1", "p2"}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=st.text(max_size=200))
def test_no_query_text_raises(shelf: LexicalIndex, query: str) -> None:
    shelf.search(query, 3)


@pytest.mark.parametrize(
    "query", ["", "   ", '"', "a AND (b OR", "text:[* TO", "~!@#$^&*()\\", "a" * 9000]
)
def test_query_syntax_means_nothing(shelf: LexicalIndex, query: str) -> None:
    assert shelf.search(query, 3) == [] or ids(shelf.search(query, 3))


def test_rows_are_found_only_after_commit_and_survive_reopening(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    assert index.search("refund", 3) == []
    index.commit()
    assert LexicalIndex.open(tmp_path).count == 3
    assert ids(LexicalIndex.open(tmp_path).search("refund", 3)) == ["p1"]


def test_adding_a_passage_again_replaces_it(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    index.add([("p1", "f1", None, "Exchange instead.")])
    index.commit()
    assert index.count == 3
    assert index.search("refund", 3) == []
    assert ids(index.search("exchange", 3)) == ["p1"]


def test_a_deleted_file_is_not_found(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    index.commit()
    index.delete_file("f1")
    index.commit()
    assert index.count == 1
    assert index.search("refund parcels", 3) == []


def test_closing_drops_what_was_not_committed(tmp_path: Path) -> None:
    with LexicalIndex.open(tmp_path) as index:
        index.add(ROWS)
    assert LexicalIndex.open(tmp_path).count == 0


def test_a_second_writer_is_told_to_wait_and_may_write_after_commit(tmp_path: Path) -> None:
    first, second = LexicalIndex.open(tmp_path), LexicalIndex.open(tmp_path)
    first.add(ROWS[:1])
    with pytest.raises(Unavailable, match="Another process"):
        second.add(ROWS[1:])
    first.commit()
    second.add(ROWS[1:])
    second.commit()
    assert LexicalIndex.open(tmp_path).count == 3


def test_searches_run_while_rows_are_added(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path)
    index.add(ROWS)
    index.commit()
    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(index.search, "refund", 3) for _ in range(200)]
        for i in range(20):
            index.add([(f"x{i}", "f9", None, "Something else entirely.")])
            index.commit()
        assert all(ids(search.result()) == ["p1"] for search in searches)
    assert index.count == 23
