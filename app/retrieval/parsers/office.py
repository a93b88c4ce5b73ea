"""Reads Word files, after proving that the archive is safe to unpack."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError, Outline

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
MAX_RATIO = 100
MAX_ENTRIES = 10_000
# Below this size a high ratio harms nobody: short XML compresses very well.
RATIO_FLOOR_BYTES = 1024 * 1024
_HEADING = re.compile(r"^heading (\d)$", re.IGNORECASE)


def check_archive(path: Path, filename: str) -> None:
    """Refuse an archive that would unpack to far more than it weighs.

    The sizes the archive declares are checked first, then every entry is unpacked in small
    pieces and counted, because declared sizes can lie.

    Raises:
        DocumentError: ``zip_bomb`` or ``corrupt_file``.
    """
    limit = min(MAX_UNPACKED_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * path.stat().st_size))
    bomb = DocumentError(
        "zip_bomb",
        f"'{filename}' unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB or over {MAX_RATIO} "
        "times its size. Remove embedded media or save a fresh copy, and upload that.",
    )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            declared = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or declared > limit:
                raise bomb
            actual = 0
            for entry in entries:
                with archive.open(entry) as stream:
                    while piece := stream.read(1 << 16):
                        actual += len(piece)
                        if actual > limit:
                            raise bomb
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise _corrupt(filename) from error
    except Exception as error:
        if isinstance(error, DocumentError):
            raise
        raise _corrupt(filename) from error  # zlib.error and other unpacking failures


def parse_docx(path: Path, filename: str) -> list[Block]:
    """Return paragraphs, headings and tables in reading order.

    Raises:
        DocumentError: ``zip_bomb`` or ``corrupt_file``.
    """
    from docx import Document

    check_archive(path, filename)
    try:
        document = Document(str(path))
        return _read(document)
    except Exception as error:  # python-docx meets malformed input with errors of many types
        raise _corrupt(filename) from error


def _corrupt(filename: str) -> DocumentError:
    return DocumentError(
        "corrupt_file",
        f"'{filename}' is not a readable Word document. Remove any password, save it again as "
        ".docx and upload that copy.",
    )


def _read(document: Any) -> list[Block]:
    from docx.table import Table

    outline = Outline()
    blocks: list[Block] = []
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            blocks.append(Block(_table(item), None, outline.path, "table"))
            continue
        text = item.text.strip()
        if not text:
            continue
        level = _heading_level(item)
        if level is None:
            blocks.append(Block(text, None, outline.path, "text"))
        else:
            blocks.append(Block(text, None, outline.enter(level, text), "heading"))
    return blocks


def _heading_level(paragraph: Any) -> int | None:
    name = (paragraph.style.name or "") if paragraph.style is not None else ""
    if name.lower() == "title":
        return 1
    match = _HEADING.match(name)
    return int(match.group(1)) + 1 if match else None


def _table(table: Any) -> str:
    lines = []
    for row in table.rows:
        cells: list[str] = []
        previous = None
        for cell in row.cells:
            if cell._tc is previous:  # a merged cell is listed once for each column it spans
                continue
            previous = cell._tc
            nested = [_table(inner) for inner in cell.tables]
            cells.append(" ".join(" ".join([cell.text, *nested]).split()))
        lines.append(" | ".join(cells))
    return "\n".join(lines)
