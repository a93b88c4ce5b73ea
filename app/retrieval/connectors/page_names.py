"""The file names of web pages: a page's address, with the ending of what it holds."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import unquote

from yarl import URL

from app.retrieval.connectors.base import NO_NAME
from app.retrieval.parsing import SUPPORTED

_LONGEST = 150  # characters
_HTML = (".html", ".htm", ".xhtml")
_OFFICE = "application/vnd.openxmlformats-officedocument."
_ENDINGS = {
    "text/html": ".html",
    "application/xhtml+xml": ".xhtml",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "message/rfc822": ".eml",
    f"{_OFFICE}wordprocessingml.document": ".docx",
    f"{_OFFICE}presentationml.presentation": ".pptx",
    f"{_OFFICE}spreadsheetml.sheet": ".xlsx",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/tiff": ".tiff",
    "image/webp": ".webp",
}


def page_name(url: URL, kind: str | None = None) -> str:
    """The last part of a page's path, else its host; ``kind`` is its media type if known.

    It gets an ending unless it has one that fits: of HTML where nothing else is known.
    """
    parts = [unquote(part) for part in url.raw_path.split("/") if part]
    name = NO_NAME.sub(" ", parts[-1] if parts else url.host or "")[-_LONGEST:].strip(" .")
    name = name or "page"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUPPORTED and fits(name, kind):
        return name
    return name + _ENDINGS.get(kind or "", ".html")


def fits(name: str, kind: str | None) -> bool:
    """Whether a file of this name may hold what a server calls by this media type.

    HTML and other formats are told apart: a page that asks to sign in is often given in the
    place of a document.
    """
    if kind not in _ENDINGS:
        return True
    is_html = PurePosixPath(name).suffix.lower() in _HTML
    return is_html == (_ENDINGS[kind] in _HTML)
