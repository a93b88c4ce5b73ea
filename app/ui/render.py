"""Turns answers and documents into HTML; every value from outside is escaped by Jinja."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from app.retrieval.types import Passage

if TYPE_CHECKING:
    from jinja2 import Environment

# What went wrong, in a few words; the error's own message says what to do.
TITLES = {
    "guardrail_violation": "Refused by the guardrails",
    "invalid_request": "This cannot be done",
    "budget_exceeded": "The budget is spent",
    "rate_limit_exceeded": "Too many requests",
    "not_found": "Not found",
    "expired": "This knowledge base has expired",
    "insufficient_scope": "Not allowed",
    "tenant_unavailable": "Not allowed",
    "cross_site": "Not allowed",
    "llm_unavailable": "The language model is not available",
}
LEAST_REPEATED = 20  # characters; fewer may be alike by chance


@dataclass(frozen=True, slots=True)
class Source:
    """A cited passage as the page shows it."""

    filename: str
    where: str
    quote: str
    href: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A passage inside its document."""

    ordinal: int
    heading: str
    page: int | None
    text: Markup
    cited: bool


@dataclass(frozen=True, slots=True)
class Words:
    """Cited words by their place in the screened passage, with a checksum.

    The checksum tells when the passage is no longer the one that was cited: then other
    words would stand in the place.
    """

    start: int
    end: int
    check: str

    @classmethod
    def find(cls, quoted: str, text: str) -> Words | None:
        """Where ``quoted`` stands in ``text``; None when a mask changed the one or the other."""
        start = text.find(quoted) if quoted else -1
        return None if start < 0 else cls(start, start + len(quoted), _checksum(quoted))

    def stand_in(self, text: str) -> bool:
        """Whether these are still the words that were cited."""
        words = text[self.start : self.end]
        return self.start < self.end <= len(text) and _checksum(words) == self.check


def _checksum(words: str) -> str:
    return f"{zlib.crc32(words.encode()):08x}"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(template: str, **values: Any) -> str:
    """Render one template."""
    return _templates().get_template(template).render(**values)


def problem(message: str, status: int, code: str, request_id: str = "") -> Markup:
    """What went wrong and what to do, as a fragment."""
    title = TITLES.get(code, "You are signed out" if status == 401 else "This did not work")
    told = page("problem.html", title=title, message=message, status=status, request_id=request_id)
    return Markup(told)  # noqa: S704 (rendered above)


def link(store_id: str, file_id: str, ordinal: int, words: Words | None = None) -> str:
    """The address of a passage inside its document."""
    place: dict[str, Any] = {"at": ordinal}
    if words is not None:
        place |= {"start": words.start, "end": words.end, "check": words.check}
    path = f"/ui/documents/{quote(store_id, safe='')}/{quote(file_id, safe='')}"
    return f"{path}?{urlencode(place)}#cited"


def where(item: dict[str, Any]) -> str:
    """The page and section of a citation or a search result."""
    page_number, section = item.get("page"), str(item.get("section") or "")
    return " · ".join(
        part for part in (f"page {page_number}" if page_number else "", section) if part
    )


def _cite(number: int) -> Markup:
    shown = Markup('<sup><a href="#source-{0}" aria-label="Source {0}">{0}</a></sup>')
    return shown.format(number)


def cite_marks(text: str, annotations: Sequence[dict[str, Any]]) -> Markup:
    """The text with a numbered link behind each cited place."""
    out, last = Markup(), 0
    places = sorted((int(a["index"]), n) for n, a in enumerate(annotations, 1))
    for index, number in places:
        index = max(last, min(index, len(text)))
        out += escape(text[last:index]) + _cite(number)
        last = index
    return out + escape(text[last:])


def result(store_id: str, response: dict[str, Any], request_id: str, broke: str = "") -> str:
    """The answer with its sources and the passages that were found.

    ``broke`` says why it is not whole.
    """
    text = ""
    annotations: list[dict[str, Any]] = []
    hits: list[dict[str, Any]] = []
    for item in response["output"]:
        if item["type"] == "message":
            for part in item["content"]:
                text += part.get("text", "")
                annotations += part.get("annotations", [])
        elif item["type"] == "file_search_call":
            hits = item.get("results") or []
    metadata = response.get("metadata") or {}
    found = {(h["file_id"], h["ordinal"]): h for h in hits}
    if response["status"] == "incomplete":
        broke = "The answer reached its longest length."
    return page(
        "result.html",
        answer=cite_marks(text, annotations),
        broke=broke,
        grounded=metadata.get("ostiary_grounded") != "false",
        degraded=metadata.get("ostiary_degraded"),
        relevance=metadata.get("ostiary_relevance"),
        citations=[
            _source(store_id, a, found.get((a["file_id"], a["ordinal"]))) for a in annotations
        ],
        hits=[
            {
                "filename": h["filename"],
                "where": where(h),
                "score": h["score"],
                "text": h["text"],
                "href": link(store_id, h["file_id"], h["ordinal"]),
            }
            for h in hits
        ],
        model=response["model"],
        request_id=request_id,
    )


def _source(store_id: str, note: dict[str, Any], hit: dict[str, Any] | None) -> Source:
    quoted = note.get("quote") or ""
    words = Words.find(quoted, hit["text"]) if hit is not None else None
    href = link(store_id, note["file_id"], note["ordinal"], words)
    return Source(note["filename"], where(note), quoted, href, hit["score"] if hit else None)


def document(
    filename: str,
    passages: Sequence[Passage],
    texts: Sequence[str],
    at: int | None,
    words: Words | None,
) -> str:
    """A whole document, its texts screened, with the cited words or their passage marked."""
    parts: list[Part] = []
    heading, before = "", ""
    for passage, text in zip(passages, texts, strict=True):
        section = passage.section or ""
        cited = passage.ordinal == at
        if cited and words is not None and words.stand_in(text):
            shown, cited = _mark(text, words), False  # the words carry the mark
        else:
            shown = escape(text if cited else _without_repeat(before, text))
        parts.append(
            Part(
                passage.ordinal,
                section if section != heading else "",
                passage.page,
                shown,
                cited,
            )
        )
        heading, before = section, text
    found = at in {p.ordinal for p in passages}
    return page("document.html", filename=filename, parts=parts, at=at, found=found)


def _without_repeat(before: str, text: str) -> str:
    """The text without the paragraphs that the chunker repeats from the passage before."""
    size = text.rfind("\n\n", LEAST_REPEATED, len(before) + 2)
    while size >= LEAST_REPEATED:
        if before.endswith(text[:size]):
            return text[size + 2 :]
        size = text.rfind("\n\n", LEAST_REPEATED, size)
    return text


def _mark(text: str, words: Words) -> Markup:
    marked = Markup('<mark id="cited" tabindex="-1">%s</mark>') % text[words.start : words.end]
    return escape(text[: words.start]) + marked + escape(text[words.end :])
