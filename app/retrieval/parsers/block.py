"""The pieces a parsed document is made of, and the refusals a document can meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from app.errors import Unprocessable

Kind = Literal["heading", "text", "code", "table", "list"]
SECTION_SEPARATOR = " > "

# Control characters and lone surrogates break SQL stores and tokenizers alike.
_UNSTORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Block:
    """One paragraph, heading, code sample, table or list.

    ``page`` counts from 1; ``section`` is a path like ``A > B``. The first ``header`` lines of
    ``text`` name the columns of a table: they are repeated when it has to be cut.
    """

    text: str
    page: int | None
    section: str | None
    kind: Kind
    header: int = 0


class DocumentError(Unprocessable):
    """A document that cannot be read; the message tells its owner what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)


class Outline:
    """The headings above the current place in a document."""

    def __init__(self) -> None:
        self._titles: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> str | None:
        """Open a section at ``level`` (1 is the top) and return its path."""
        while self._titles and self._titles[-1][0] >= level:
            self._titles.pop()
        self._titles.append((level, " ".join(title.split())))
        return self.path

    @property
    def path(self) -> str | None:
        return SECTION_SEPARATOR.join(title for _, title in self._titles) or None


def table(rows: list[list[str]], page: int | None, section: str | None, header: int = 1) -> Block:
    """Make a block of rows of cells, one line a row, the first ``header`` of them its head.

    Rows and columns without any text are left out. ``text`` is empty when nothing is left.
    """
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    used = sorted({i for row in rows for i, cell in enumerate(row) if cell})
    lines = [" | ".join(row[i] if i < len(row) else "" for i in used) for row in rows if any(row)]
    header -= sum(not any(row) for row in rows[:header])
    return Block("\n".join(lines), page, section, "table", min(header, max(0, len(lines) - 1)))


def corrupt(filename: str, what: str, remedy: str) -> DocumentError:
    """The refusal of a file that is not what its name says."""
    return DocumentError("corrupt_file", f"'{filename}' is not a readable {what}. {remedy}")


def clean(text: str) -> str:
    """Remove what no store can hold and trailing space, keep line structure."""
    text = _UNSTORABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n ")


def decode(data: bytes, filename: str) -> str:
    """Decode a text file: UTF-8, UTF-16 with its mark, else Windows-1252.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\x00" in data:
        raise DocumentError(
            "corrupt_file",
            f"'{filename}' holds binary data, not text. Upload it under its real extension, "
            "or save it as UTF-8 text.",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
