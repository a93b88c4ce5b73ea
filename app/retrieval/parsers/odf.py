"""Reads OpenDocument text and spreadsheets from the XML that they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.retrieval.parsers.archive import check_archive
from app.retrieval.parsers.block import Block, DocumentError, Kind, Outline, corrupt, table
from app.retrieval.parsers.listing import Listing
from app.retrieval.parsers.sheets import CellBudget

MAX_REPEATS = 200  # of one row or cell that has words; spreadsheets repeat empty ones endlessly
ROWS_A_BLOCK = 40
_NS = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_TEXT, _TABLE, _OFFICE = _NS % "text", _NS % "table", _NS % "office"
_UNSEEN = frozenset(
    f"{_TEXT}{name}" for name in ("tracked-changes", "note", "table-of-content", "bookmark")
) | {f"{_OFFICE}annotation", f"{_OFFICE}annotation-end"}


def parse_odf(path: Path, filename: str) -> list[Block]:
    """Return headings, text, lists and tables of an ``.odt`` or the sheets of an ``.ods``.

    Raises:
        DocumentError: ``zip_bomb``, ``encrypted_file``, ``corrupt_file``, ``too_large``.
    """
    from lxml import etree

    what, remedy = "OpenDocument file", "Save it again and upload that copy."
    check_archive(path, filename, what, "OpenDocument")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        with zipfile.ZipFile(path) as archive:
            if b"encryption-data" in archive.read("META-INF/manifest.xml"):
                raise DocumentError(
                    "encrypted_file",
                    f"'{filename}' is protected by a password. Remove the password and upload "
                    "it again.",
                )
            root = etree.fromstring(archive.read("content.xml"), parser)
        return _Reader(filename).read(root)
    except (KeyError, etree.XMLSyntaxError, RecursionError, zipfile.BadZipFile) as error:
        raise corrupt(filename, what, remedy) from error


class _Reader:
    """One pass over the body of a document."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.listing = Listing()
        self.budget = CellBudget(filename)

    def read(self, root: Any) -> list[Block]:
        for body in root.iter(f"{_OFFICE}text", f"{_OFFICE}spreadsheet"):
            for child in body:
                self._node(child, body.tag == f"{_OFFICE}spreadsheet")
        return self.blocks

    def _node(self, node: Any, sheet: bool) -> None:
        if node.tag in _UNSEEN or not isinstance(node.tag, str):
            return
        if node.tag == f"{_TEXT}h":
            title = " ".join(_shown(node).split())
            if title:
                self.outline.enter(_count(node, f"{_TEXT}outline-level", 1, 10), title)
                self._emit(title, "heading")
        elif node.tag == f"{_TEXT}p":
            if self.listing.open:
                self.listing.add(_shown(node))
            else:
                self._emit(_shown(node), "text")
        elif node.tag == f"{_TEXT}list":
            self.listing.enter()
            for item in node:
                self.listing.item()
                for child in item:
                    self._node(child, sheet)
            self.listing.leave()
            if not self.listing.open:
                self._emit(self.listing.take(), "list")
        elif node.tag == f"{_TABLE}table":
            self._table(node, sheet)
        else:
            for child in node:
                self._node(child, sheet)

    def _table(self, node: Any, sheet: bool) -> None:
        if self.listing.open:
            self._emit(self.listing.take(), "list")
        name = node.get(f"{_TABLE}name")
        rows = list(self._rows(node))
        if sheet and rows and name:
            self.outline.enter(1, name)
            self._emit(name, "heading")
        for start in range(1, max(len(rows), 2), ROWS_A_BLOCK):
            part = [*rows[:1], *rows[start : start + ROWS_A_BLOCK]]
            self.blocks.append(table(part, None, self.outline.path))

    def _rows(self, node: Any) -> Iterator[list[str]]:
        for row in node.iter(f"{_TABLE}table-row"):
            cells: list[str] = []
            for cell in row:
                if cell.tag not in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
                    continue
                text = " ".join(" ".join(_shown(p) for p in cell.iter(f"{_TEXT}p")).split())
                repeated = _count(cell, f"{_TABLE}number-columns-repeated", 1, MAX_REPEATS)
                cells += [text] * repeated
            times = _count(row, f"{_TABLE}number-rows-repeated", 1, MAX_REPEATS)
            for _ in range(times if any(cells) else 0):
                self.budget.spend(len(cells))
                yield cells

    def _emit(self, text: str, kind: Kind) -> None:
        if text.strip():
            self.blocks.append(Block(text, None, self.outline.path, kind))


def _count(node: Any, name: str, least: int, most: int) -> int:
    try:
        return max(least, min(int(node.get(name, least)), most))
    except ValueError:
        return least


def _shown(node: Any) -> str:
    """Return the words of a paragraph; blanks, tabs and line breaks are elements of their own."""
    parts = [node.text or ""]
    for child in node:
        if child.tag == f"{_TEXT}s":
            parts.append(" " * _count(child, f"{_TEXT}c", 1, 100))
        elif child.tag in (f"{_TEXT}tab", f"{_TEXT}line-break"):
            parts.append(" ")
        elif isinstance(child.tag, str) and child.tag not in _UNSEEN:
            parts.append(_shown(child))
        parts.append(child.tail or "")
    return "".join(parts)
