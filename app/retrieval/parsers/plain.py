"""Reads plain text and reStructuredText without executing any of its directives."""

from __future__ import annotations

import re

from app.retrieval.parsers.block import Block, Kind, Outline, decode

_UNDERLINE = re.compile(r"^([=\-~^\"'#*+`.:_<>])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^\s*\.\. (?P<name>[\w:+-]+)::\s*(?P<argument>.*)$")
_EXPLICIT = re.compile(r"^\s*\.\.(\s|$)")
_OPTION = re.compile(r"^\s+:[\w-]+:(\s|$)")
_TABLE_RULE = re.compile(r"^\s*(=+( +=+)+|\+[-=+]+\+)\s*$")

_CODE = frozenset(("code-block", "code", "sourcecode", "parsed-literal", "console", "doctest"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DROPPED = _words(
    """
    toctree contents index meta highlight module currentmodule default-domain image figure
    include literalinclude raw role graphviz sectionauthor
    """
)
_ADMONITIONS = _words(
    """
    admonition note warning tip hint important caution danger error attention seealso
    versionadded versionchanged deprecated
    """
)

_LITERAL = re.compile(r"``(.+?)``")
_ROLE = re.compile(r":[\w:+.-]+:`([^`]+)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?")
_REFERENCE = re.compile(r"`([^`]+)`_{0,2}")
_STRONG = re.compile(r"(?<![\w*])\*{1,2}(?=\S)([^*\n]+?)(?<=\S)\*{1,2}(?![\w*])")
_TARGET = re.compile(r"^(.*\S)\s*<[^<>]+>$", re.DOTALL)


def parse_text(data: bytes, filename: str) -> list[Block]:
    """Return the blocks of an ``.rst`` file, or of a ``.txt`` one, plain or with RST headings.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text.
    """
    lines = decode(data, filename).replace("\r\n", "\n").replace("\r", "\n").expandtabs(8)
    rows = lines.split("\n")
    if filename.lower().endswith(".rst") or any(_title_at(rows, i) for i in range(len(rows))):
        return _Rst(rows).read()
    parts = re.split(r"\n\s*\n", lines)
    return [Block(part, None, None, "text") for part in parts if part.strip()]


def clean_inline(text: str) -> str:
    """Replace inline RST markup by the words a reader sees."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match.group(1))
        return f"\x00{len(kept) - 1}\x00"

    text = _LITERAL.sub(keep, text)  # literals are exempt from every later rule
    text = _ROLE.sub(lambda match: _role_text(match.group(1)), text)
    text = _LINK.sub(r"\1", text)
    text = _REFERENCE.sub(r"\1", text)
    text = _STRONG.sub(r"\1", text)
    return re.sub(r"\x00(\d+)\x00", lambda match: kept[int(match.group(1))], text)


def _role_text(content: str) -> str:
    match = _TARGET.match(content)
    if match:
        return match.group(1)
    if content.startswith("~"):
        return content[1:].rsplit(".", 1)[-1]
    return content.removeprefix("!")


def _title_at(rows: list[str], i: int) -> tuple[str, str, int] | None:
    """Return (title, style, lines taken) when a heading starts at line ``i``."""
    first = rows[i]
    if (not first.strip() or first[0] == " ") and not _UNDERLINE.match(first):
        return None
    after_blank = i == 0 or not rows[i - 1].strip()
    over = _UNDERLINE.match(first)
    if over:
        if not after_blank or i + 2 >= len(rows) or _UNDERLINE.match(rows[i + 1]):
            return None
        title, under = rows[i + 1].strip(), _UNDERLINE.match(rows[i + 2])
        closed = under and under.group(1) == over.group(1)
        long_enough = len(rows[i + 2].rstrip()) >= len(title)
        return (title, over.group(1) * 2, 3) if title and closed and long_enough else None
    if i + 1 >= len(rows) or _EXPLICIT.match(first):
        return None
    under = _UNDERLINE.match(rows[i + 1])
    title = first.strip()
    alone = after_blank or _EXPLICIT.match(rows[i - 1])
    if under and alone and len(rows[i + 1].rstrip()) >= len(title):
        return title, under.group(1), 2
    return None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Rst:
    """A line reader: indentation matters for code, not for prose."""

    def __init__(self, rows: list[str]) -> None:
        self.rows = rows
        self.at = 0
        self.outline = Outline()
        self.styles: list[str] = []
        self.blocks: list[Block] = []

    def read(self) -> list[Block]:
        while self.at < len(self.rows):
            line = self.rows[self.at]
            title = _title_at(self.rows, self.at)
            if title:
                self._heading(*title)
            elif not line.strip() or _UNDERLINE.match(line):
                self.at += 1
            elif _TABLE_RULE.match(line):
                self._table()
            elif _EXPLICIT.match(line):
                self._explicit(line)
            elif line.lstrip().startswith(">>>"):
                self._emit("\n".join(self._until_blank()), "code")
            else:
                self._paragraph()
        return self.blocks

    def _emit(self, text: str, kind: Kind) -> None:
        if text.strip():
            self.blocks.append(Block(text, None, self.outline.path, kind))

    def _heading(self, title: str, style: str, taken: int) -> None:
        if style not in self.styles:
            self.styles.append(style)
        text = clean_inline(title)
        self.outline.enter(self.styles.index(style) + 1, text)
        self._emit(text, "heading")
        self.at += taken

    def _until_blank(self) -> list[str]:
        start = self.at
        while self.at < len(self.rows) and self.rows[self.at].strip():
            self.at += 1
        return self.rows[start : self.at]

    def _indented(self, indent: int) -> list[str]:
        """Take the lines indented deeper than ``indent``, without their common indent."""
        start = self.at
        while self.at < len(self.rows):
            line = self.rows[self.at]
            if line.strip() and _indent(line) <= indent:
                break
            self.at += 1
        taken = self.rows[start : self.at]
        margin = min((_indent(line) for line in taken if line.strip()), default=0)
        return [line[margin:] for line in taken]

    def _table(self) -> None:
        """A table ends at the first blank line after a closing rule."""
        start, end = self.at, None
        rules = 0
        for i in range(start, len(self.rows) + 1):
            if i == len(self.rows) or not self.rows[i].strip():
                if rules > 1 and _TABLE_RULE.match(self.rows[i - 1]):
                    end = i
                    break
            elif _TABLE_RULE.match(self.rows[i]):
                rules += 1
        if end is None:
            taken = self._until_blank()
        else:
            taken, self.at = self.rows[start:end], end
        rows = [row.strip() for row in taken if row.strip() and not _TABLE_RULE.match(row)]
        self._emit("\n".join(clean_inline(row) for row in rows), "table")

    def _explicit(self, line: str) -> None:
        indent = _indent(line)
        match = _DIRECTIVE.match(line)
        self.at += 1
        if match is None:
            # A link target, footnote or comment; only a footnote has words for a reader.
            body = [line.strip(), *self._indented(indent)]
            note = re.match(r"^\.\. \[([^\]]+)\]\s+", body[0])
            if note:
                words = " ".join([body[0][note.end() :], *body[1:]])
                self._emit(clean_inline(" ".join(words.split())), "text")
            return
        name, argument = match.group("name"), match.group("argument").strip()
        if name in _DROPPED:
            self._indented(indent)
            return
        while self.at < len(self.rows) and _OPTION.match(self.rows[self.at]):
            self.at += 1
        if name in _CODE:
            self._emit("\n".join(self._indented(indent)), "code")
        elif name in _ADMONITIONS:
            label = "" if name == "admonition" else name.capitalize()
            self._emit(": ".join(part for part in (label, clean_inline(argument)) if part), "text")
        else:
            # ``.. setting:: DEBUG``, ``.. method:: QuerySet.filter(...)``: names worth finding.
            self._emit(argument, "text")

    def _paragraph(self) -> None:
        rows: list[str] = []
        while self.at < len(self.rows) and self.rows[self.at].strip():
            if rows and (_DIRECTIVE.match(self.rows[self.at]) or _title_at(self.rows, self.at)):
                break
            rows.append(self.rows[self.at])
            self.at += 1
        text = " ".join(" ".join(rows).split())
        literal = text.endswith("::")
        if literal:
            text = text.removesuffix("::").rstrip() if text.endswith(" ::") else text[:-1]
        self._emit(clean_inline(text) if text != ":" else "", "text")
        if literal:
            self._emit("\n".join(self._indented(_indent(rows[-1]))), "code")
