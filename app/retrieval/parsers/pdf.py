"""Reads PDF files page by page, with sections from the bookmarks."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError, Outline

MAX_PAGES = 5000
_HYPHEN_BREAK = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")


def parse_pdf(path: Path, filename: str) -> list[Block]:
    """Return one block a paragraph, with its page number counted from 1.

    Raises:
        DocumentError: ``encrypted_pdf``, ``corrupt_file`` or ``too_many_pages``.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        with path.open("rb") as file:
            reader = PdfReader(file)
            # Many PDFs only restrict printing: they open with an empty password.
            if reader.is_encrypted and not reader.decrypt(""):
                raise _encrypted(filename)
            if len(reader.pages) > MAX_PAGES:
                raise DocumentError(
                    "too_many_pages",
                    f"'{filename}' has {len(reader.pages)} pages; at most {MAX_PAGES} are read. "
                    "Split it and upload the parts.",
                )
            return _read_pages(reader)
    except DocumentError:
        raise
    except (FileNotDecryptedError, DependencyError) as error:
        raise _encrypted(filename) from error
    except Exception as error:  # pypdf meets malformed input with errors of many types
        raise DocumentError(
            "corrupt_file",
            f"'{filename}' is not a readable PDF. Open it in a viewer, save it again as PDF and "
            "upload that copy.",
        ) from error


def _encrypted(filename: str) -> DocumentError:
    return DocumentError(
        "encrypted_pdf",
        f"'{filename}' is protected by a password. Remove the password and upload it again.",
    )


def _read_pages(reader: Any) -> list[Block]:
    bookmarks = _bookmarks(reader)
    outline = Outline()
    blocks: list[Block] = []
    for number, page in enumerate(reader.pages, start=1):
        pending = bookmarks.get(number, [])
        paragraph: list[str] = []

        def flush(page_number: int = number, lines: list[str] = paragraph) -> None:
            text = _HYPHEN_BREAK.sub("", "\n".join(lines))
            for part in _PARAGRAPH_BREAK.split(text):
                joined = " ".join(part.split())
                if joined:
                    blocks.append(Block(joined, page_number, outline.path, "text"))
            lines.clear()

        for line in (page.extract_text() or "").splitlines():
            found = next((b for b in pending if _same(line, b[1])), None)
            if found:
                flush()
                pending = pending[pending.index(found) + 1 :]
                section = outline.enter(*found)
                blocks.append(Block(" ".join(line.split()), number, section, "heading"))
            else:
                paragraph.append(line)
        flush()
        for level, title in pending:  # the bookmark's words differ from the page's
            outline.enter(level, title)
    return blocks


def _bookmarks(reader: Any) -> dict[int, list[tuple[int, str]]]:
    """Return page number → (level, title) in reading order; empty where there are none."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    try:
        stack: list[tuple[int, Any]] = [(1, entry) for entry in reversed(reader.outline)]
        while stack:
            level, entry = stack.pop()
            if isinstance(entry, list):
                stack.extend((level + 1, child) for child in reversed(entry))
                continue
            page = reader.get_destination_page_number(entry)
            if page is not None and page >= 0 and entry.title:
                found[page + 1].append((level, str(entry.title)))
    except Exception:  # broken bookmarks must not cost the reader the text
        return {}
    return found


def _same(line: str, title: str) -> bool:
    return "".join(line.split()).casefold() == "".join(title.split()).casefold()
