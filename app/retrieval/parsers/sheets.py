"""Reads Excel files: each sheet is a section, its rows a table under its first row."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.retrieval.parsers.archive import check_archive
from app.retrieval.parsers.block import Block, DocumentError, Outline, corrupt, table

MAX_CELLS = 2_000_000  # of one file, empty ones before a full one included
MAX_ROWS = 1_048_576  # of one sheet, Excel's own limit
ROWS_A_BLOCK = 40
_WHAT = "Excel workbook"
_MIDNIGHT = datetime.time()


def parse_xlsx(path: Path, filename: str) -> list[Block]:
    """Return the sheets that are not hidden; formulas give the values they last had.

    Raises:
        DocumentError: ``zip_bomb``, ``encrypted_file``, ``corrupt_file``, ``too_large``.
    """
    from openpyxl import load_workbook

    check_archive(path, filename, _WHAT, ".xlsx")
    try:
        # An open file, because openpyxl judges a path by its suffix, and stored files have none.
        with path.open("rb") as file:
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            blocks: list[Block] = []
            budget = CellBudget(filename)
            for sheet in book.worksheets:
                if sheet.sheet_state == "visible":
                    blocks.extend(_sheet(sheet, budget))
            return blocks
    except DocumentError:
        raise
    except Exception as error:  # openpyxl meets malformed input with errors of many types
        raise corrupt(filename, _WHAT, "Save it again as .xlsx and upload that copy.") from error


class CellBudget:
    """Counts cells over all sheets: a file of some KB can declare 17 billion of them."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.left = MAX_CELLS

    def spend(self, cells: int) -> None:
        self.left -= cells
        if self.left < 0:
            raise DocumentError(
                "too_large",
                f"'{self.filename}' has more than {MAX_CELLS:,} cells. Split it, or save its "
                "sheets as CSV, and upload the parts.",
            )


def _sheet(sheet: Any, budget: CellBudget) -> Iterator[Block]:
    """Yield a sheet's tables; an empty row ends a table, and the next has its own header."""
    outline = Outline()
    section = outline.enter(1, sheet.title)
    sheet.reset_dimensions()  # what a file declares as its size is not to be trusted
    title = Block(sheet.title, None, section, "heading")
    for number, rows in enumerate(_tables(sheet, budget)):
        if number == 0:
            yield title
        # A single cell above a row of several is the table's title, not its header.
        while len(rows) > 1 and _full(rows[0]) == 1 < _full(rows[1]):
            yield Block(" ".join(rows.pop(0)).strip(), None, section, "text")
        header, body = rows[0], rows[1:]
        if not body:
            yield Block(" | ".join(filter(None, header)), None, section, "text")
        for start in range(0, len(body), ROWS_A_BLOCK):
            yield table([header, *body[start : start + ROWS_A_BLOCK]], None, section)


def _tables(sheet: Any, budget: CellBudget) -> Iterator[list[list[str]]]:
    rows: list[list[str]] = []
    for row in sheet.iter_rows(values_only=True, max_row=MAX_ROWS):
        budget.spend(len(row) + 1)
        cells = [_shown(value) for value in row]
        if any(cells):
            rows.append(cells)
        elif rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _full(row: list[str]) -> int:
    return sum(map(bool, row))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == _MIDNIGHT else value.isoformat(" ")
    return str(value)
