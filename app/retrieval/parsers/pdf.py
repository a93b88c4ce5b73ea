"""Reads PDF files page by page: columns in order, tables as tables, sections from headings."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError
from app.retrieval.parsers.layout import Grid, Line, read_order
from app.retrieval.parsers.pages import Page, compose

MAX_PAGES = 5000
MAX_SCANNED_PAGES = 200  # OCR takes seconds a page
MAX_CHARACTERS = 50_000_000  # of one document
_SCAN_LETTERS = 25  # a scanned page may carry a stamp or a page number as text
_SCAN_IMAGE = 0.5  # of the page that a scan covers at least
_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_SECURITY_ERROR = 5  # FPDF_ERR_SECURITY: an unknown kind of encryption
_OCR_SCALE = 150 / 72  # pixels a point: 150 dpi
_OCR_PIXELS = 2500  # of the longer side at most

# PDFium keeps global state: one thread at a time may be inside it, whatever the document.
_pdfium = threading.Lock()


def parse_pdf(path: Path, filename: str) -> list[Block]:
    """Return the blocks of a PDF with their page number counted from 1.

    A scanned page is read by OCR where the ``ocr`` extra is installed, else it is left out.

    Raises:
        DocumentError: ``encrypted_pdf``, ``corrupt_file``, ``too_many_pages``, ``too_large``.
    """
    import pypdfium2

    try:
        with _document(path, filename) as document:
            return _read(document, filename)
    except DocumentError:
        raise
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) in (_PASSWORD_ERROR, _SECURITY_ERROR):
            raise DocumentError(
                "encrypted_pdf",
                f"'{filename}' is protected by a password. Remove the password and upload it "
                "again.",
            ) from error
        raise _corrupt(filename) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise _corrupt(filename) from error


def _corrupt(filename: str) -> DocumentError:
    return DocumentError(
        "corrupt_file",
        f"'{filename}' is not a readable PDF. Open it in a viewer, save it again as PDF and "
        "upload that copy.",
    )


@contextmanager
def _document(path: Path, filename: str) -> Iterator[Any]:
    import pypdfium2

    with _pdfium:
        document = pypdfium2.PdfDocument(path)
    try:
        if len(document) > MAX_PAGES:
            raise DocumentError(
                "too_many_pages",
                f"'{filename}' has {len(document)} pages; at most {MAX_PAGES} are read. "
                "Split it and upload the parts.",
            )
        yield document
    finally:
        with _pdfium:
            document.close()


def _read(document: Any, filename: str) -> list[Block]:
    from app.retrieval.parsers import ocr

    pages = []
    letters = scans = 0
    for number in range(1, len(document) + 1):
        page, image = _page(document, number, ocr.available())
        if image is not None:
            scans += 1
            if scans > MAX_SCANNED_PAGES:
                raise DocumentError(
                    "too_many_pages",
                    f"'{filename}' has more than {MAX_SCANNED_PAGES} scanned pages. Run OCR on "
                    "it first, or split it and upload the parts.",
                )
            height, width = image.shape[:2]
            page = Page(number, width, height, read_order(ocr.read_image(image)))
        letters += sum(len(item.text) for item in page.items if isinstance(item, Line))
        if letters > MAX_CHARACTERS:
            raise DocumentError(
                "too_large",
                f"'{filename}' holds more than {MAX_CHARACTERS // 10**6} million characters. "
                "Split it and upload the parts.",
            )
        pages.append(page)
    return compose(pages, _bookmarks(document))


def _page(document: Any, number: int, ocr: bool) -> tuple[Page, Any]:
    """Return a page, and its picture where it is a scan and ``ocr`` can read it."""
    from app.retrieval.parsers.pdf_page import extract

    with _pdfium:
        page = document[number - 1]
        try:
            contents = extract(page)
            scanned = contents[0].image >= _SCAN_IMAGE and _few(contents)
            image = _picture(page) if scanned and ocr else None
        finally:
            page.close()
    items: list[Line | Grid] = []
    for content in contents:
        items += read_order(content.spans, content.rules)
    return Page(number, contents[0].width, contents[0].height, items), image


def _few(contents: list[Any]) -> bool:
    return sum(len(s.text) for c in contents for s in c.spans) < _SCAN_LETTERS


def _picture(page: Any) -> Any:
    """Return the page as it is seen: uint8 array of shape (height, width, 3)."""
    longer = max(page.get_size())
    scale = min(_OCR_SCALE, _OCR_PIXELS / max(longer, 1.0))
    bitmap = page.render(scale=scale)
    try:
        return bitmap.to_numpy()[:, :, :3].copy()
    finally:
        bitmap.close()


def _bookmarks(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Return page number → (level, title) in reading order; empty where there are none."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    with _pdfium:
        try:
            for entry in document.get_toc(max_depth=10):
                target = entry.get_dest()
                index = target.get_index() if target else None
                title = entry.get_title().strip()
                if index is not None and title:
                    found[index + 1].append((entry.level + 1, title))
        except Exception:  # broken bookmarks must not cost the reader the text
            return {}
    return dict(found)
