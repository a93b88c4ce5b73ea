"""The sample pages are complete and every sample question is supported by its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.samples import django_docs

SAMPLES = Path(django_docs.__file__).parent
QUESTIONS = SAMPLES / "questions.jsonl"
CALIBRATION = SAMPLES / "calibration.jsonl"


def flat(text: str) -> str:
    return " ".join(text.split())


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]{3,}", text.casefold()))


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def pages(django_manual: Path) -> dict[str, Path]:
    """The pages by name."""
    return {django_docs.relative_name(path): path for path in django_docs.fetch(django_manual)}


@pytest.fixture(scope="session")
def questions() -> list[dict[str, Any]]:
    return load(QUESTIONS)


@pytest.fixture(scope="session")
def calibration() -> list[dict[str, Any]]:
    return load(CALIBRATION)


def test_the_manual_has_all_its_pages(pages: dict[str, Path]) -> None:
    assert len(pages) == 236
    assert "topics/http/sessions.txt" in pages
    assert {name.split("/")[0] for name in pages} == {
        "faq",
        "howto",
        "intro",
        "misc",
        "ref",
        "topics",
    }
    for path in pages.values():
        assert len(path.read_text(encoding="utf-8")) >= django_docs.MIN_CHARS


def test_a_second_fetch_needs_no_package_index(
    django_manual: Path, pages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert django_docs.fetch(django_manual) == sorted(pages.values())
    assert [path.name for path in django_manual.iterdir()] == [django_docs.FOLDER]


@pytest.mark.slow
def test_a_copy_without_its_marker_is_replaced(tmp_path: Path, pages: dict[str, Path]) -> None:
    half = tmp_path / django_docs.FOLDER / "topics" / "half.txt"
    half.parent.mkdir(parents=True)
    half.write_text("left by a fetch that was killed", encoding="utf-8")
    names = {django_docs.relative_name(path) for path in django_docs.fetch(tmp_path)}
    assert names == set(pages)


def test_without_a_package_index_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(django_docs.SamplesUnavailable, match="PIP_INDEX_URL"):
        django_docs.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_outside_the_manual_has_no_name() -> None:
    with pytest.raises(ValueError, match="fetch"):
        django_docs.relative_name(Path("elsewhere") / "page.txt")


def test_there_are_45_answerable_and_15_unanswerable_questions(
    questions: list[dict[str, Any]],
) -> None:
    assert len(questions) == 60
    assert sum(q["answerable"] for q in questions) == 45
    fields = {"id", "question", "answer", "files", "quote", "answerable"}
    for q in questions:
        assert set(q) == fields
        assert q["question"].strip() and q["answer"].strip()
        assert bool(q["files"]) == bool(q["quote"]) == q["answerable"]


def test_ids_and_questions_are_unique(questions: list[dict[str, Any]]) -> None:
    assert [q["id"] for q in questions] == [f"q{n:02d}" for n in range(1, 61)]
    assert len({flat(q["question"]).casefold() for q in questions}) == 60


def test_the_answers_are_spread_over_the_manual(questions: list[dict[str, Any]]) -> None:
    assert len({q["files"][0] for q in questions if q["answerable"]}) >= 30


def test_every_quote_is_in_its_page(
    questions: list[dict[str, Any]], pages: dict[str, Path]
) -> None:
    for q in questions:
        assert set(q["files"]) <= set(pages), q["id"]
        if q["answerable"]:
            page = pages[q["files"][0]].read_text(encoding="utf-8")
            assert flat(q["quote"]) in flat(page), q["id"]


def test_no_question_is_copied_from_the_manual(
    questions: list[dict[str, Any]], pages: dict[str, Path]
) -> None:
    manual = flat(" ".join(p.read_text(encoding="utf-8") for p in pages.values())).casefold()
    for q in questions:
        assert flat(q["question"]).casefold() not in manual, q["id"]


def test_an_interpreter_that_cannot_start_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(django_docs.SamplesUnavailable, match="could not be started"):
        django_docs.fetch(tmp_path, python=str(tmp_path / "no-python"))


def test_calibration_has_enough_questions_of_both_kinds(calibration: list[dict[str, Any]]) -> None:
    assert len({q["id"] for q in calibration}) == len(calibration)
    assert len({flat(q["question"]).casefold() for q in calibration}) == len(calibration)
    assert sum(q["answerable"] for q in calibration) >= 30
    assert sum(not q["answerable"] for q in calibration) >= 20


def test_every_calibration_quote_is_in_its_page(
    calibration: list[dict[str, Any]], pages: dict[str, Path]
) -> None:
    for q in calibration:
        assert bool(q["files"]) == bool(q["quote"]) == q["answerable"], q["id"]
        assert q["answer"].strip() and set(q["files"]) <= set(pages), q["id"]
        if q["answerable"]:
            page = pages[q["files"][0]].read_text(encoding="utf-8")
            assert flat(q["quote"]) in flat(page), q["id"]


def test_calibration_and_evaluation_share_no_question(
    questions: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> None:
    asked = {flat(q["question"]).casefold() for q in questions}
    assert asked.isdisjoint(flat(q["question"]).casefold() for q in calibration)


def test_calibration_and_evaluation_rest_on_no_common_sentence(
    questions: list[dict[str, Any]], calibration: list[dict[str, Any]]
) -> None:
    held_out = [(q["id"], flat(q["quote"])) for q in questions if q["answerable"]]
    for c in calibration:
        for name, quote in held_out if c["answerable"] else []:
            known = flat(c["quote"])
            assert known not in quote and quote not in known, (c["id"], name)


def test_calibration_and_evaluation_ask_for_no_common_foreign_thing(
    questions: list[dict[str, Any]],
    calibration: list[dict[str, Any]],
    pages: dict[str, Path],
) -> None:
    """What makes a question unanswerable (Celery, JWT) must not be known from calibration."""
    manual = words(" ".join(p.read_text(encoding="utf-8") for p in pages.values()))
    foreign = [
        set[str]().union(*(words(q["question"]) for q in items if not q["answerable"])) - manual
        for items in (questions, calibration)
    ]
    assert foreign[0].isdisjoint(foreign[1])
