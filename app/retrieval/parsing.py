"""Reads a document of any supported format into blocks with page and section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.retrieval.parsers.block import Block, DocumentError, clean

__all__ = ["SUPPORTED", "Block", "DocumentError", "parse"]


def _pdf(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.pdf import parse_pdf

    return parse_pdf(path, filename)


def _docx(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.office import parse_docx

    return parse_docx(path, filename)


def _html(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.markup import parse_html

    return parse_html(path.read_bytes(), filename)


def _markdown(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.markup import parse_markdown

    return parse_markdown(path.read_bytes(), filename)


def _text(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.plain import parse_text

    return parse_text(path.read_bytes(), filename)


def _csv(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.data import parse_csv

    return parse_csv(path.read_bytes(), filename)


def _json(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.data import parse_json

    return parse_json(path.read_bytes(), filename)


_PARSERS: dict[str, Callable[[Path, str], list[Block]]] = {
    ".pdf": _pdf,
    ".docx": _docx,
    ".html": _html,
    ".htm": _html,
    ".md": _markdown,
    ".markdown": _markdown,
    ".rst": _text,
    ".txt": _text,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
}
SUPPORTED = tuple(_PARSERS)


def parse(path: Path, filename: str) -> list[Block]:
    """Parse the file at ``path``; the format is told by the suffix of ``filename``.

    Raises:
        DocumentError: codes ``unsupported_file``, ``encrypted_pdf``, ``corrupt_file``,
            ``zip_bomb``, ``empty_document`` and ``too_many_pages``.
    """
    suffix = Path(filename).suffix.lower()
    parser = _PARSERS.get(suffix)
    if parser is None:
        raise DocumentError(
            "unsupported_file",
            f"'{filename}' cannot be read: {suffix or 'a file without an extension'} is not "
            f"supported. Convert it to one of {', '.join(SUPPORTED)} and upload it again.",
        )
    blocks = [replace(block, text=clean(block.text)) for block in parser(path, filename)]
    blocks = [block for block in blocks if block.text]
    if not blocks:
        hint = "If it is a scan, run OCR on it first." if suffix == ".pdf" else "Add text to it."
        raise DocumentError("empty_document", f"'{filename}' holds no text. {hint}")
    return blocks
