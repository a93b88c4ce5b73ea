"""Reads PowerPoint files: each slide is a page with its title, text, tables and notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.retrieval.parsers.archive import check_archive
from app.retrieval.parsers.block import Block, DocumentError, Outline, corrupt, table
from app.retrieval.parsers.listing import Listing

MAX_SLIDES = 5000
_DEEPEST_GROUP = 8
_WHAT = "PowerPoint file"


def parse_pptx(path: Path, filename: str) -> list[Block]:
    """Return the blocks of a presentation; the slide's number, from 1, is the page.

    Hidden slides are left out: their authors took them away from the audience.

    Raises:
        DocumentError: ``zip_bomb``, ``encrypted_file``, ``corrupt_file``, ``too_many_pages``.
    """
    from pptx import Presentation

    check_archive(path, filename, _WHAT, ".pptx")
    try:
        slides = Presentation(str(path)).slides
        if len(slides) > MAX_SLIDES:
            raise DocumentError(
                "too_many_pages",
                f"'{filename}' has {len(slides)} slides; at most {MAX_SLIDES} are read. Split it "
                "and upload the parts.",
            )
        blocks: list[Block] = []
        for number, slide in enumerate(slides, start=1):
            if slide._element.get("show") not in ("0", "false"):
                blocks.extend(_slide(slide, number))
        return blocks
    except DocumentError:
        raise
    except Exception as error:  # python-pptx meets malformed input with errors of many types
        raise corrupt(filename, _WHAT, "Save it again as .pptx and upload that copy.") from error


def _slide(slide: Any, number: int) -> Iterator[Block]:
    outline = Outline()
    title = slide.shapes.title
    words = " ".join(title.text_frame.text.split()) if title is not None else ""
    if words:
        yield Block(words, number, outline.enter(1, words), "heading")
    for shape in _ordered(slide.shapes, 0):
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape, number, outline.path)
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
        for part in frame.text.split("\n"):
            if part.strip():
                yield Block(f"Notes: {part.strip()}", number, outline.path, "text")


def _ordered(shapes: Any, depth: int) -> Iterator[Any]:
    """Yield shapes from the top, then from the left, those of a group together."""
    for shape in sorted(shapes, key=lambda s: (s.top or 0, s.left or 0)):
        if shape.shape_type is not None and shape.shape_type.name == "GROUP":
            if depth < _DEEPEST_GROUP:
                yield from _ordered(shape.shapes, depth + 1)
        else:
            yield shape


def _shape(shape: Any, number: int, section: str | None) -> Iterator[Block]:
    if getattr(shape, "has_table", False):
        rows = [[cell.text for cell in row.cells] for row in shape.table.rows]
        yield table(rows, number, section)
    elif getattr(shape, "has_chart", False):
        yield table(_chart(shape.chart), number, section)
    elif shape.has_text_frame:
        yield from _text(shape, number, section)


def _chart(chart: Any) -> list[list[str]]:
    """Return a chart as the table behind it: categories down, series across."""
    if not len(chart.plots):
        return []
    plot = chart.plots[0]
    series = list(plot.series)
    title = chart.chart_title.text_frame.text if chart.has_title else ""
    rows = [[title, *[str(s.name or "") for s in series]]]
    for i, category in enumerate(plot.categories):
        values = [s.values[i] if i < len(s.values) else None for s in series]
        rows.append([str(category), *["" if v is None else f"{v:g}" for v in values]])
    return rows


def _text(shape: Any, number: int, section: str | None) -> Iterator[Block]:
    """Yield a text box as prose where it is one paragraph, else as a list by its levels."""
    if shape.is_placeholder and shape.placeholder_format.type is not None:
        name = shape.placeholder_format.type.name
        if name in ("SLIDE_NUMBER", "DATE", "FOOTER", "HEADER"):
            return
    paragraphs = [p for p in shape.text_frame.paragraphs if p.text.strip()]
    if len(paragraphs) == 1:
        yield Block(paragraphs[0].text, number, section, "text")
    elif paragraphs:
        listing = Listing()
        depth = 0
        for paragraph in paragraphs:
            while depth > paragraph.level + 1:
                listing.leave()
                depth -= 1
            while depth < paragraph.level + 1:
                listing.enter()
                depth += 1
            listing.item()
            listing.add(paragraph.text)
        yield Block(listing.take(), number, section, "list")
