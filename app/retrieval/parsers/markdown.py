"""Reads Markdown, keeping headings, lists, code and tables apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from app.retrieval.parsers.block import Block, DocumentError, Kind, Outline, decode, table
from app.retrieval.parsers.html import parse_html
from app.retrieval.parsers.listing import Listing

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def parse_markdown(data: bytes, filename: str) -> list[Block]:
    """Return the blocks of a CommonMark document with tables.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text or nest too deeply.
    """
    from markdown_it import MarkdownIt

    text = decode(data, filename).replace("\r\n", "\n")
    front = _FRONT_MATTER.match(text)
    blocks = []
    if front:  # left in, CommonMark would read its last line as a heading
        text = text[front.end() :]
        blocks.append(Block(front.group(1), None, None, "table"))
    try:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
    except RecursionError as error:
        raise DocumentError(
            "corrupt_file", f"'{filename}' nests too deeply. Flatten its lists and quotes."
        ) from error
    return [*blocks, *_Document(filename).read(tokens)]


class _Document:
    """One pass over the tokens of a document."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.listing = Listing()
        self.rows: list[list[str]] | None = None  # of the table that is being read
        self.heading = 0

    def read(self, tokens: list[Token]) -> list[Block]:
        for token in tokens:
            self._token(token)
        self._emit(self.listing.take(), "list")
        return self.blocks

    def _token(self, token: Token) -> None:
        if token.type == "heading_open":
            self._emit(self.listing.take(), "list")
            self.heading = int(token.tag[1:])
        elif token.type == "heading_close":
            self.heading = 0
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            start = token.attrGet("start")
            ordered = token.type == "ordered_list_open"
            self.listing.enter(int(1 if start is None else start) if ordered else None)
        elif token.type == "list_item_open":
            self.listing.item()
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            self.listing.leave()
            if not self.listing.open:
                self._emit(self.listing.take(), "list")
        elif token.type == "table_open":
            self.rows = []
        elif token.type == "tr_open" and self.rows is not None:
            self.rows.append([])
        elif token.type == "table_close" and self.rows is not None:
            self._emit(self.listing.take(), "list")
            self.blocks.append(table(self.rows, None, self.outline.path))
            self.rows = None
        elif token.type == "inline":
            self._words(_inline(token))
        elif token.type in ("fence", "code_block"):
            self._emit(self.listing.take(), "list")
            self._emit(token.content, "code")
        elif token.type == "html_block" and token.content.strip():
            self._emit(self.listing.take(), "list")
            for block in parse_html(token.content.encode(errors="replace"), self.filename):
                self._emit(block.text, block.kind)

    def _words(self, text: str) -> None:
        if self.rows is not None:
            self.rows[-1].append(text)
        elif self.heading and text.strip():
            self.outline.enter(self.heading, text)
            self._emit(text, "heading")
        elif self.listing.open:
            self.listing.add(text)
        else:
            self._emit(text, "text")

    def _emit(self, text: str, kind: Kind) -> None:
        if text.strip():
            self.blocks.append(Block(text, None, self.outline.path, kind))


def _inline(token: Token) -> str:
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts).strip()
