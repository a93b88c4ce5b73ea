"""Reads Word files: headings, lists and tables in reading order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from app.retrieval.parsers.archive import check_archive
from app.retrieval.parsers.block import Block, DocumentError, Outline, corrupt, table
from app.retrieval.parsers.listing import Listing

_HEADING = re.compile(r"^heading (\d)$", re.IGNORECASE)
_LIST_STYLE = re.compile(r"^list (bullet|number|paragraph|continue)?\s*(\d?)$", re.IGNORECASE)
_WHAT = "Word document"
_NUMBERED = ("decimal", "Roman", "Letter")


def parse_docx(path: Path, filename: str) -> list[Block]:
    """Return paragraphs, headings, lists and tables in reading order.

    Raises:
        DocumentError: ``zip_bomb``, ``encrypted_file`` or ``corrupt_file``.
    """
    from docx import Document

    check_archive(path, filename, _WHAT, ".docx")
    try:
        return _Reader(Document(str(path))).read()
    except DocumentError:
        raise
    except Exception as error:  # python-docx meets malformed input with errors of many types
        raise corrupt(filename, _WHAT, "Save it again as .docx and upload that copy.") from error


class _Reader:
    """One pass over the body; holds the list that is being read."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.listing = Listing()
        self.depth = 0
        self._names: dict[str | None, str] = {}  # a look-up of a style reads all styles

    def read(self) -> list[Block]:
        from docx.table import Table

        for item in self.document.iter_inner_content():
            if isinstance(item, Table):
                self._end_list()
                self.blocks.append(table(_rows(item), None, self.outline.path))
            elif item.text.strip():
                self._paragraph(item, item.text.strip())
        self._end_list()
        return self.blocks

    def _paragraph(self, paragraph: Any, text: str) -> None:
        key = paragraph._p.style
        if key not in self._names:
            self._names[key] = (paragraph.style.name or "") if paragraph.style is not None else ""
        style = self._names[key]
        level = _heading_level(style)
        item = None if level else _list_level(paragraph, style)
        if item is not None:
            depth, numbered = item
            while self.depth > depth + 1:
                self._leave()
            while self.depth < depth + 1:
                self.listing.enter(1 if numbered else None)
                self.depth += 1
            self.listing.item()
            self.listing.add(text)
            return
        self._end_list()
        if level:
            self.blocks.append(Block(text, None, self.outline.enter(level, text), "heading"))
        else:
            self.blocks.append(Block(text, None, self.outline.path, "text"))

    def _leave(self) -> None:
        self.listing.leave()
        self.depth -= 1

    def _end_list(self) -> None:
        while self.depth:
            self._leave()
        if text := self.listing.take():
            self.blocks.append(Block(text, None, self.outline.path, "list"))


def _heading_level(style: str) -> int | None:
    if style.lower() == "title":
        return 1
    match = _HEADING.match(style)
    return int(match.group(1)) + 1 if match else None


def _list_level(paragraph: Any, style: str) -> tuple[int, bool] | None:
    """Return (depth from 0, whether numbered) of a list item, None for other paragraphs."""
    properties = paragraph._p.pPr
    numbering = properties.numPr if properties is not None else None
    styled = _LIST_STYLE.match(style)
    if numbering is not None and numbering.numId is not None:
        level = numbering.ilvl.val if numbering.ilvl is not None else 0
        if numbering.numId.val == 0:  # numbering of the style, switched off here
            return None
        return min(int(level), 8), _numbered(paragraph, numbering.numId.val, level)
    if styled and (styled.group(1) or "").lower() in ("bullet", "number"):
        depth = int(styled.group(2) or 1) - 1
        return min(depth, 8), styled.group(1).lower() == "number"
    return None


def _numbered(paragraph: Any, number: int, level: int) -> bool:
    """Tell whether the list definition counts at ``level``, or shows bullets."""
    try:
        numbering = paragraph.part.numbering_part.element
    except (KeyError, NotImplementedError):
        return False
    path = (
        f"w:abstractNum[@w:abstractNumId=../w:num[@w:numId='{int(number)}']/w:abstractNumId/@w:val]"
        f"/w:lvl[@w:ilvl='{int(level)}']/w:numFmt/@w:val"
    )
    formats = numbering.xpath(path)
    return bool(formats) and any(kind in formats[0] for kind in _NUMBERED)


def _rows(grid: Any) -> list[list[str]]:
    rows = []
    for row in grid.rows:
        cells: list[str] = []
        previous = None
        for cell in row.cells:
            if cell._tc is previous:  # a merged cell is listed once for each column it spans
                cells.append("")
                continue
            previous = cell._tc
            nested = [" ".join(part) for inner in cell.tables for part in _rows(inner)]
            cells.append(" ".join([cell.text, *nested]))
        rows.append(cells)
    return rows
