"""The evaluation counts what it says it counts, and runs against a real gateway."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.client import Client
from app.evaluation import (
    Report,
    Row,
    bootstrap_interval,
    evaluate,
    hit_at,
    load_questions,
    rate,
    read_answer,
    score,
    score_retrieval,
)
from app.samples import django_docs
from tests.conftest import Gateway

GOOD = Row("q1", "How?", True, ("a.txt",), ("b.txt", "a.txt"), ("a.txt",), False, False, "So.")
NONE = Row("q2", "Why?", False, (), ("b.txt",), (), True, False, "I do not know.")


def test_a_page_counts_only_within_the_first_k() -> None:
    assert hit_at(["b.txt", "a.txt"], ["a.txt"], 2)
    assert not hit_at(["b.txt", "a.txt"], ["a.txt"], 1)
    assert not hit_at(["b.txt"], [], 5)
    assert not hit_at([], ["a.txt"], 5)


def test_retrieval_is_scored_on_answerable_questions_only() -> None:
    missed = replace(GOOD, found=("b.txt",))
    assert (score_retrieval([GOOD, missed, NONE]).hits, score_retrieval([GOOD, NONE]).total) == (
        1,
        1,
    )


def test_a_declined_question_counts_against_only_the_first_citation_rate() -> None:
    refused = replace(GOOD, declined=True, cited=())
    found = {r.name: (r.hits, r.total) for r in score([GOOD, refused, NONE])}
    assert found == {
        "right page in the top 5": (2, 2),
        "correct citation, of those retrieved": (1, 2),
        "correct citation, of those retrieved and answered": (1, 1),
        "unanswerable declined": (1, 1),
        "answerable refused": (1, 2),
    }


def test_a_citation_of_another_page_is_not_correct() -> None:
    assert not replace(GOOD, cited=("b.txt",)).correct
    assert replace(GOOD, cited=("b.txt", "a.txt")).correct
    assert not replace(GOOD, declined=True).correct


def test_the_interval_holds_the_share_and_narrows_with_more_outcomes() -> None:
    few = bootstrap_interval([True] * 8 + [False] * 2)
    many = bootstrap_interval([True] * 800 + [False] * 200)
    assert 0 <= few[0] < 0.8 < few[1] <= 1
    # the normal approximation is good at n = 1000
    assert many == pytest.approx((0.8 - 0.0248, 0.8 + 0.0248), abs=0.003)
    assert bootstrap_interval([True] * 8 + [False] * 2) == few
    with pytest.raises(ValueError, match="empty"):
        bootstrap_interval([])


def test_a_rate_of_nothing_has_no_value() -> None:
    assert rate("nothing", []).value is None
    assert "| nothing | 0 of 0 | – | – |" in Report("m", (rate("nothing", []),), ()).as_markdown()


def test_citations_are_read_once_each() -> None:
    note = {"type": "file_citation", "filename": "topics/cache.txt"}
    other = {"type": "url_citation", "url": "x"}
    text = {"type": "output_text", "text": "Five minutes.", "annotations": [note, note, other]}
    output = [{"type": "file_search_call"}, {"type": "message", "content": [text]}]
    assert read_answer({"output": output}) == ("Five minutes.", ("topics/cache.txt",))
    assert read_answer({}) == ("", ())


def test_the_report_keeps_every_row_and_names_failures() -> None:
    rows = (GOOD, replace(NONE, declined=False, error="boom"), replace(GOOD, degraded=True))
    report = Report("m", score(rows), rows)
    body = json.loads(report.as_json())
    assert [r["correct"] for r in body["rows"]] == [True, False, True]
    assert "1 questions ended in an error: q2." in report.as_markdown()
    assert "1 answers came without the model server" in report.as_markdown()


def test_the_evaluation_questions_load() -> None:
    assert sum(q.answerable for q in load_questions()) == 45


async def test_a_real_gateway_is_asked_and_scored(gateway: Gateway, django_manual: Path) -> None:
    pages = django_docs.fetch(django_manual)
    wanted = {"topics/signing.txt", "ref/contrib/humanize.txt", "faq/general.txt"}
    chosen: list[tuple[Path, str]] = [
        (p, name) for p in pages if (name := django_docs.relative_name(p)) in wanted
    ]
    async with Client(gateway.url, gateway.key) as client:
        store, _ = await client.ensure_store("evaluation-test")
        ids = [await client.upload(path, name) for path, name in chosen]
        done = await client.wait_batch(store, await client.add_batch(store, ids))
    assert done["file_counts"]["completed"] == len(wanted)
    questions = [q for q in load_questions() if q.id in {"q26", "q28", "q54"}]
    report = await evaluate(gateway.url, gateway.key, store, questions, "stub")
    assert [r.error for r in report.rows] == [None] * 3
    assert report.rates[0].hits == report.rates[0].total == 2
    egg = report.rows[-1]
    assert egg.declined and not egg.cited
