"""Reads a document of any supported format into blocks with page and section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.retrieval.parsers.block import Block, DocumentError, clean

__all__ = ["SUPPORTED", "Block", "DocumentError", "parse", "read_here"]

MAX_TEXT_BYTES = 64 * 2**20  # of a format that is held in memory as a whole
MAX_ARCHIVE_BYTES = 256 * 2**20  # of a mailbox, read message by message, or a zipped document
MAX_PDF_BYTES = 512 * 2**20
MAX_PICTURE_BYTES = 128 * 2**20


def _pdf(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.pdf import parse_pdf

    return parse_pdf(path, filename)


def _docx(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.word import parse_docx

    return parse_docx(path, filename)


def _pptx(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.slides import parse_pptx

    return parse_pptx(path, filename)


def _xlsx(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.sheets import parse_xlsx

    return parse_xlsx(path, filename)


def _odf(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.odf import parse_odf

    return parse_odf(path, filename)


def _eml(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.mail import parse_eml

    return parse_eml(path, filename, read_here)


def _mbox(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.mail import parse_mbox

    return parse_mbox(path, filename, read_here)


def _picture(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.ocr import parse_image

    return parse_image(path, filename)


def _html(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.html import parse_html

    return parse_html(path.read_bytes(), filename)


def _markdown(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.markdown import parse_markdown

    return parse_markdown(path.read_bytes(), filename)


def _rst(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.rst import parse_rst

    return parse_rst(path.read_bytes(), filename)


def _text(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.plain import parse_text

    return parse_text(path.read_bytes(), filename)


def _csv(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.data import parse_csv

    return parse_csv(path.read_bytes(), filename)


def _json(path: Path, filename: str) -> list[Block]:
    from app.retrieval.parsers.data import parse_json

    return parse_json(path.read_bytes(), filename)


_Parser = Callable[[Path, str], list[Block]]
_FORMATS: list[tuple[_Parser, int, tuple[str, ...]]] = [
    (_pdf, MAX_PDF_BYTES, (".pdf",)),
    (_docx, MAX_ARCHIVE_BYTES, (".docx",)),
    (_pptx, MAX_ARCHIVE_BYTES, (".pptx",)),
    (_xlsx, MAX_ARCHIVE_BYTES, (".xlsx", ".xlsm")),
    (_odf, MAX_ARCHIVE_BYTES, (".odt", ".ods")),
    (_html, MAX_TEXT_BYTES, (".html", ".htm", ".xhtml")),
    (_markdown, MAX_TEXT_BYTES, (".md", ".markdown")),
    (_rst, MAX_TEXT_BYTES, (".rst",)),
    (_text, MAX_TEXT_BYTES, (".txt",)),
    (_csv, MAX_TEXT_BYTES, (".csv", ".tsv")),
    (_json, MAX_TEXT_BYTES, (".json", ".jsonl", ".ndjson")),
    (_eml, MAX_TEXT_BYTES, (".eml",)),
    (_mbox, MAX_ARCHIVE_BYTES, (".mbox",)),
    (_picture, MAX_PICTURE_BYTES, (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")),
]
_PARSERS = {suffix: (parser, most) for parser, most, suffixes in _FORMATS for suffix in suffixes}
SUPPORTED = tuple(_PARSERS)


# Small and plain formats are read in the gateway's own process, without native code.
_TRUSTED = (_markdown, _rst, _text, _csv, _json)


def parse(path: Path, filename: str) -> list[Block]:
    """Parse the file at ``path``; the format is told by the suffix of ``filename``.

    All but plain text formats are read in a process of their own, which a document can use up
    or crash without harm to this one.

    Raises:
        DocumentError: codes ``unsupported_file``, ``encrypted_pdf``, ``encrypted_file``,
            ``corrupt_file``, ``zip_bomb``, ``empty_document``, ``too_many_pages``, ``too_large``
            and ``ocr_missing``.
    """
    parser = _checked(path, filename)
    if parser in _TRUSTED:
        return read_here(path, filename)
    from app.retrieval.parsers.apart import parse_apart
    from app.retrieval.parsers.ocr import available

    return parse_apart(path, filename, ocr=parser in (_pdf, _picture) and available())


def _checked(path: Path, filename: str) -> _Parser:
    """Return the parser of a file that is not too large for it."""
    suffix = Path(filename).suffix.lower()
    if suffix not in _PARSERS:
        raise DocumentError(
            "unsupported_file",
            f"'{filename}' cannot be read: {suffix or 'a file without an extension'} is not "
            f"supported. Convert it to one of {', '.join(SUPPORTED)} and upload it again.",
        )
    parser, most = _PARSERS[suffix]
    size = path.stat().st_size
    if size > most:
        raise DocumentError(
            "too_large",
            f"'{filename}' has {size / 2**20:.0f} MB; of {suffix} files at most "
            f"{most // 2**20} MB are read. Split it and upload the parts.",
        )
    return parser


def read_here(path: Path, filename: str) -> list[Block]:
    """Parse the file at ``path`` in this process, as `parse` does in another.

    Raises:
        DocumentError: as `parse`.
    """
    parser = _checked(path, filename)
    blocks = [replace(block, text=clean(block.text)) for block in parser(path, filename)]
    blocks = [block for block in blocks if block.text]
    if not blocks:
        raise DocumentError("empty_document", f"'{filename}' holds no text. {_hint(parser)}")
    return blocks


def _hint(parser: _Parser) -> str:
    if parser is _pdf:
        from app.retrieval.parsers.ocr import available

        if not available():
            return (
                "If it is a scan, run OCR on it first, or `pip install 'ostiary[ocr]'` on the "
                "server."
            )
        return "If it is a scan, OCR found no words on it; scan it again at 300 dpi."
    return "Scan it at 300 dpi." if parser is _picture else "Add text to it."
