"""Turns answers and documents into HTML; every value from outside is escaped by Jinja."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from app.retrieval.types import Passage

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, **values: Any) -> str:
    """Render one template."""
    return _templates.get_template(template).render(**values)


@dataclass(frozen=True, slots=True)
class Source:
    """A cited passage as the page shows it."""

    filename: str
    where: str
    quote: str
    href: str


@dataclass(frozen=True, slots=True)
class Part:
    """A passage inside its document."""

    ordinal: int
    heading: str
    page: int | None
    text: Markup
    cited: bool


def link(store_id: str, file_id: str, ordinal: Any, quoted: str = "") -> str:
    """The address of a passage inside its document."""
    marked = f"&quote={quote(quoted[:400])}" if quoted else ""
    return f"/ui/documents/{quote(store_id)}/{quote(file_id)}?at={ordinal}{marked}#p{ordinal}"


def where(item: dict[str, Any]) -> str:
    """The page or section of a citation or a search result."""
    if item.get("page"):
        return f"page {item['page']}"
    return str(item.get("section") or "")


def _cite(number: int) -> Markup:
    return Markup('<sup><a href="#source-%d">[%d]</a></sup>') % (number, number)


def cite_marks(text: str, annotations: Sequence[dict[str, Any]]) -> Markup:
    """The text with a numbered link behind each cited place."""
    out, last = Markup(), 0
    places = sorted((int(a["index"]), n) for n, a in enumerate(annotations, 1))
    for index, number in places:
        index = max(last, min(index, len(text)))
        out += escape(text[last:index]) + _cite(number)
        last = index
    return out + escape(text[last:])


def result(store_id: str, response: dict[str, Any], request_id: str) -> str:
    """The finished answer with its sources and the passages that were found."""
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
    return page(
        "result.html",
        answer=cite_marks(text, annotations),
        grounded=metadata.get("ostiary_grounded") != "false",
        degraded=metadata.get("ostiary_degraded"),
        citations=[
            Source(
                a["filename"],
                where(a),
                a.get("quote") or "",
                link(store_id, a["file_id"], a.get("ordinal", 0), a.get("quote") or ""),
            )
            for a in annotations
        ],
        hits=[
            {
                "filename": h["filename"],
                "where": where(h),
                "score": h["score"],
                "text": h["text"],
                "href": link(store_id, h["file_id"], h.get("ordinal", 0)),
            }
            for h in hits
        ],
        request_id=request_id,
    )


def document(
    filename: str, passages: Sequence[Passage], texts: Sequence[str], at: int, quoted: str
) -> str:
    """A whole document, its texts screened, with the cited passage marked."""
    parts, heading = [], ""
    for passage, text in zip(passages, texts, strict=True):
        section = passage.section or ""
        parts.append(
            Part(
                passage.ordinal,
                section if section != heading else "",
                passage.page,
                _mark(text, quoted if passage.ordinal == at else ""),
                passage.ordinal == at,
            )
        )
        heading = section
    return page("document.html", filename=filename, parts=parts)


def _mark(text: str, quoted: str) -> Markup:
    start = text.find(quoted) if quoted else -1
    if start < 0:
        return escape(text)
    end = start + len(quoted)
    return escape(text[:start]) + Markup("<mark>%s</mark>") % text[start:end] + escape(text[end:])
