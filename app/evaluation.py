"""How well a running gateway finds, cites and declines, measured over its REST API.

Questions come from a JSONL file, one object a line: ours (``question``, ``files``,
``answerable``), or a judged set as `app/retrieval/quality/judged.py` reads it, whose relevant
documents are the pages that may be cited and whose lines with ``"answerable": false`` are to be
declined. Bare identifiers (``"kind": "identifier"``) are searches, not questions: left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.client import ApiError, Client
from app.errors import BadRequest, NotFound
from app.retrieval.quality.judged import load, read_objects
from app.search_evaluation import find_judged

QUESTIONS = Path(__file__).parent / "samples" / "questions.jsonl"
TOP = 5
AT_ONCE = 2  # questions in flight; the embedded model server has two cores
DRAWS = 10_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One question; ``files`` are the names of the pages that answer it, () for none."""

    id: str
    question: str
    files: tuple[str, ...]
    answerable: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What the gateway did with one question; an ``error`` counts as a failure of it."""

    id: str
    question: str
    answerable: bool
    files: tuple[str, ...]
    found: tuple[str, ...]
    cited: tuple[str, ...]
    declined: bool
    degraded: bool
    answer: str
    error: str | None = None

    @property
    def retrieved(self) -> bool:
        """An acceptable page is among the first five passages."""
        return hit_at(self.found, self.files, TOP)

    @property
    def correct(self) -> bool:
        """Answered, with at least one citation of an acceptable page."""
        return not self.declined and hit_at(self.cited, self.files, len(self.cited))


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in 0..1 with the bounds of its 95 % interval; None where nothing was counted."""

    name: str
    hits: int
    total: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """All rates and the rows that they were counted from."""

    model: str
    rates: tuple[Rate, ...]
    rows: tuple[Row, ...]

    def as_json(self) -> str:
        """The whole report, with one object per question."""
        rows = [{**asdict(r), "retrieved": r.retrieved, "correct": r.correct} for r in self.rows]
        body = {"model": self.model, "rates": [asdict(r) for r in self.rates], "rows": rows}
        return json.dumps(body, ensure_ascii=False, indent=1) + "\n"

    def as_markdown(self) -> str:
        """A table of the rates, then what spoils them."""
        lines = ["| measure | count | share | 95 % interval |", "| --- | --- | --- | --- |"]
        for r in self.rates:
            share = "–" if r.value is None else f"{r.value:.1%}"
            span = "–" if r.low is None or r.high is None else f"{r.low:.1%} to {r.high:.1%}"
            lines.append(f"| {r.name} | {r.hits} of {r.total} | {share} | {span} |")
        failed = [r.id for r in self.rows if r.error]
        degraded = sum(r.degraded for r in self.rows)
        if failed:
            lines += ["", f"{len(failed)} questions ended in an error: {', '.join(failed)}."]
        if degraded:
            lines += ["", f"{degraded} answers came without the model server (degraded)."]
        return "\n".join(lines) + "\n"


def load_questions(path: Path = QUESTIONS) -> list[Question]:
    """Read questions from a JSONL file, those with an answer first.

    Raises:
        BadRequest: there is no such file, or a line is malformed.
    """
    found = [
        Question(q.id, q.text, tuple(dict.fromkeys(j.file for j in q.judged if j.grade)), True)
        for q in load(path)
        if q.kind != "identifier"
    ]
    for place, item in read_objects(path) if path.is_file() else ():
        if item.get("answerable") is False:
            if not isinstance(item.get("question"), str):
                raise BadRequest(f"{place} has no 'question'.")
            found.append(Question(str(item.get("id") or place), item["question"], (), False))
    return found


def hit_at(results: Sequence[str], files: Sequence[str], k: int) -> bool:
    """Whether one of ``files`` is among the first ``k`` of ``results``, names best first."""
    return not set(files).isdisjoint(results[:k])


def bootstrap_interval(outcomes: Sequence[bool]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a share.

    Args:
        outcomes: at least one success or failure; with all alike the interval has no width,
            which says that few questions were asked, not that the share is certain.

    Returns:
        The lower and the upper bound, each in 0..1; the same for the same outcomes.

    Raises:
        ValueError: ``outcomes`` is empty.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    n = len(outcomes)
    if n == 0:
        raise ValueError("outcomes is empty; an interval needs at least one outcome.")
    # n draws with replacement from 0/1 outcomes are one binomial draw of their sum.
    draws = np.random.default_rng(SEED).binomial(n, sum(outcomes) / n, DRAWS) / n
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def rate(name: str, outcomes: Sequence[bool]) -> Rate:
    """The share of successes and its interval."""
    if not outcomes:
        return Rate(name, 0, 0, None, None, None)
    hits = sum(outcomes)
    return Rate(name, hits, len(outcomes), hits / len(outcomes), *bootstrap_interval(outcomes))


def score_retrieval(rows: Sequence[Row], k: int = TOP) -> Rate:
    """The share of answerable questions with an acceptable page in the first ``k`` passages."""
    found = [hit_at(r.found, r.files, k) for r in rows if r.answerable]
    return rate(f"right page in the top {k}", found)


def score(rows: Sequence[Row]) -> tuple[Rate, ...]:
    """Every rate of the report.

    A declined question counts against the first citation rate and is left out of the second.
    """
    retrieved = [r for r in rows if r.answerable and r.retrieved]
    answered = [r for r in retrieved if not r.declined]
    return (
        score_retrieval(rows),
        rate("correct citation, of those retrieved", [r.correct for r in retrieved]),
        rate("correct citation, of those retrieved and answered", [r.correct for r in answered]),
        rate("unanswerable declined", [r.declined for r in rows if not r.answerable]),
        rate("answerable refused", [r.declined for r in rows if r.answerable]),
    )


async def evaluate(
    base_url: str,
    api_key: str,
    vector_store_id: str,
    questions: Sequence[Question],
    model: str,
) -> Report:
    """Ask a running gateway every question and score what it does.

    Raises:
        aiohttp.ClientError: the gateway does not answer at all.
    """
    async with Client(base_url, api_key) as client:
        return await ask_all(client, vector_store_id, questions, model)


async def ask_all(
    client: Client, vector_store_id: str, questions: Sequence[Question], model: str
) -> Report:
    """Ask every question through an open client and score what the gateway does."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> Row:
        async with gate:
            return await ask(client, vector_store_id, question, model)

    rows = tuple(await asyncio.gather(*(one(q) for q in questions)))
    return Report(model, score(rows), rows)


async def ask(client: Client, vector_store_id: str, question: Question, model: str) -> Row:
    """Search for one question, then have it answered."""
    found: tuple[str, ...] = ()
    response: dict[str, Any] = {}
    error: str | None = None
    try:
        page = await client.call(
            "POST",
            f"v1/vector_stores/{vector_store_id}/search",
            {"query": question.question, "max_num_results": TOP},
        )
        found = tuple(str(hit["filename"]) for hit in page["data"])
        response = await client.ask(vector_store_id, question.question, model)
        if response.get("status") not in (None, "completed", "incomplete"):
            error = f"The response ended as {response['status']}."
    except ApiError as refused:
        error = str(refused)
    text, cited = read_answer(response)
    metadata = response.get("metadata") or {}
    return Row(
        id=question.id,
        question=question.question,
        answerable=question.answerable,
        files=question.files,
        found=found,
        cited=cited,
        # An error is never a decline: the gateway must say itself that it does not know.
        declined=error is None and metadata.get("ostiary_grounded") == "false",
        degraded="ostiary_degraded" in metadata,
        answer=text,
        error=error,
    )


def read_answer(response: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The text of a response and the names of the files it cites, in order, once each."""
    parts = [
        part
        for item in response.get("output", ())
        if item["type"] == "message"
        for part in item["content"]
    ]
    notes = [note for part in parts for note in part.get("annotations") or ()]
    cited = [n["filename"] for n in notes if n["type"] == "file_citation"]
    return "".join(p.get("text", "") for p in parts), tuple(dict.fromkeys(cited))


async def run(
    client: Client,
    model: str,
    store: str,
    judged: Path,
    output: Path | None,
    say: Callable[[str], None],
) -> Report:
    """Ask a gateway every question of a file; print the table, write the rows as JSON.

    Args:
        store: the id (``vs_…``) or the name of a vector store.
        judged: a JSONL file, or the name of a shipped judged set.

    Raises:
        BadRequest: the file is missing or malformed.
        NotFound: there is no store of that name, or nothing is in it.
        ApiError: the gateway refuses to tell of the store.
        aiohttp.ClientError: the gateway does not answer.
    """
    questions = load_questions(find_judged(judged))
    async with client:
        store_id = await client.store_id(store)
        held = store_id and await client.call("GET", f"v1/vector_stores/{store_id}")
        if not held or not held["file_counts"]["completed"]:
            remedy = "Run `ostiary up` for the sample knowledge base, or ingest files into it."
            raise NotFound("vector store with documents", store, remedy=remedy)
        say(f"Asking {len(questions)} questions.")
        report = await ask_all(client, held["id"], questions, model)
    say(report.as_markdown())
    if output is not None:
        await asyncio.to_thread(output.write_text, report.as_json(), "utf-8")
        say(f"Every question's outcome: {output}")
    return report
