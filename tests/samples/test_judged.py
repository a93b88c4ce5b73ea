"""Every judged question rests on a passage that its document really holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.evaluation import load_questions
from app.retrieval.parsing import parse
from app.retrieval.quality.judged import load
from app.retrieval.quality.matching import words
from app.samples import cwe_list, django_docs, postgresql_docs
from app.samples.django_docs import SamplesUnavailable
from app.search_evaluation import SHIPPED
from tests.conftest import missing

NAMES = ("django", "cwe", "postgresql")
Documents = Callable[[str], dict[str, Path]]


def lines(name: str) -> list[dict[str, Any]]:
    text = (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory, django_manual: Path) -> Documents:
    """Paths of a set's documents by name, fetched once with the real pip and apt."""
    folder = tmp_path_factory.mktemp("judged")

    @cache
    def of(name: str) -> dict[str, Path]:
        if name == "django":
            return {django_docs.relative_name(p): p for p in django_docs.fetch(django_manual)}
        if name == "cwe":
            return {p.name: p for p in cwe_list.fetch(folder)}
        try:
            return {p.name: p for p in postgresql_docs.fetch(folder)}
        except SamplesUnavailable:
            missing("the PostgreSQL manual", "apt-get install postgresql-doc-15")
            raise

    return of


@pytest.mark.parametrize("name", NAMES)
def test_a_set_has_150_questions_of_three_kinds(name: str) -> None:
    queries = load(SHIPPED / f"{name}.jsonl")
    assert len(queries) == 150
    assert len({words(q.text) for q in queries}) == 150
    kinds = [q.kind for q in queries]
    assert set(kinds) == {"paraphrase", "typo", "identifier"}
    for kind in ("typo", "identifier"):
        assert 0.1 <= kinds.count(kind) / 150 <= 0.2, kind
    assert (SHIPPED / f"{name}.jsonl").stat().st_size < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_a_set_has_25_questions_that_are_to_be_declined(name: str) -> None:
    asked = [item for item in lines(name) if item.get("answerable") is False]
    assert len({words(item["question"]) for item in asked}) == 25
    assert all(item["judged"] == [] and item["kind"] == "unanswerable" for item in asked)
    found = load_questions(SHIPPED / f"{name}.jsonl")
    assert sum(not q.answerable for q in found) == 25
    assert (
        sum(q.answerable for q in found) == sum(i["kind"] != "identifier" for i in lines(name)) - 25
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_quote_is_in_its_document(name: str, documents: Documents) -> None:
    paths = documents(name)

    @cache
    def text_of(file: str) -> str:
        return words("\n".join(block.text for block in parse(paths[file], file)))

    absent = [
        (item["id"], judged["file"], judged["quote"])
        for item in lines(name)
        for judged in item["judged"]
        if f" {words(judged['quote'])} " not in f" {text_of(judged['file'])} "
    ]
    assert absent == []


@pytest.mark.parametrize("name", NAMES)
def test_no_question_is_a_sentence_of_its_document(name: str, documents: Documents) -> None:
    paths = documents(name)
    for item in lines(name):
        if item["kind"] in ("identifier", "unanswerable") or len(item["question"].split()) < 4:
            continue  # a name stands there as it is
        file = item["judged"][0]["file"]
        text = words(paths[file].read_text(encoding="utf-8"))
        assert words(item["question"]) not in text, item["id"]


def test_without_pip_and_apt_the_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SamplesUnavailable, match="pip"):
        cwe_list.fetch(tmp_path, python=str(tmp_path / "no-python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgresql_docs, "INSTALLED", tmp_path / "usr" / "share" / "doc")
    with pytest.raises(SamplesUnavailable, match="apt"):
        postgresql_docs.fetch(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == []
