"""Turns the lines of a document's pages into headings, paragraphs, lists, code and tables."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from app.retrieval.parsers.block import Block, Outline, table
from app.retrieval.parsers.layout import Grid, Line

_MARGIN = 0.12  # of the page's height: where running heads stand
_REPEATED = 3  # pages that show a line make it a running head
_LARGER = 1.12  # times the size of the text makes a heading
_LONGEST_HEADING = 180  # characters
_MOST_LEVELS = 5
_DIGITS = re.compile(r"\d+")
_NUMBERING = re.compile(
    r"^\s*(?:(?:chapter|appendix|part|section)\s+)?(?:[A-Z]|\d{1,3})(?:\.\d{1,3})*[.:]?\s+", re.I
)
_PAGE_NUMBER = re.compile(
    r"^[\W_]*(?:page|seite|p\.)?\s*(?:\d{1,5}|[ivxlc]{1,7})(?:\s*(?:/|of|von)\s*\d{1,5})?[\W_]*$",
    re.IGNORECASE,
)
_ITEM = re.compile(r"^(?:[•‣◦▪●○■□–*·-]|\(?(?:\d{1,3}|[a-z])[.)])\s+(?=\S)", re.IGNORECASE)
_BULLET = re.compile(r"^[•‣◦▪●○■□–*·-]\s+")
_SENTENCE_END = (".", "!", "?", ":", ";", "。")


@dataclass(slots=True)
class Page:
    """One page in reading order; ``width`` and ``height`` in the unit of its lines."""

    number: int
    width: float
    height: float
    items: list[Line | Grid]


def compose(pages: list[Page], bookmarks: dict[int, list[tuple[int, str]]]) -> list[Block]:
    """Return the blocks of ``pages``.

    Running heads, feet and page numbers are left out. Sections come from ``bookmarks`` (page
    number → (level, title)) where there are any, else from the sizes of the type.
    """
    _drop_running(pages)
    return _Composer(_sizes(pages), bookmarks).read(pages)


def _drop_running(pages: list[Page]) -> None:
    """Remove what stands in the margin of at least three pages, digits apart."""
    seen: dict[tuple[str, bool], dict[int, int | None]] = defaultdict(dict)
    for page in pages:
        for line in page.items:
            if isinstance(line, Line) and (where := _in_margin(line, page)) is not None:
                seen[(_DIGITS.sub("#", line.text), where)][page.number] = _counted(line)
    for page in pages:
        page.items = [item for item in page.items if not _runs(item, page, seen, len(pages))]


def _in_margin(line: Line, page: Page) -> bool | None:
    """Return True in the head of a page, False in its foot, None between."""
    if line.bottom < _MARGIN * page.height:
        return True
    return False if line.top > (1 - _MARGIN) * page.height else None


def _counted(line: Line) -> int | None:
    """Return the number at the end or the start of a line, where a page number stands."""
    found = re.search(r"(\d{1,6})\W*$", line.text) or re.match(r"\W*(\d{1,6})", line.text)
    return int(found.group(1)) if found else None


def _runs(
    item: Line | Grid,
    page: Page,
    seen: dict[tuple[str, bool], dict[int, int | None]],
    pages: int,
) -> bool:
    if not isinstance(item, Line) or (where := _in_margin(item, page)) is None:
        return False
    if pages > 1 and _PAGE_NUMBER.match(item.text):
        return True
    others = seen[(_DIGITS.sub("#", item.text), where)]
    near = [number for number in others if 0 < abs(number - page.number) <= 4]
    if len(others) >= _REPEATED:
        return bool(near)
    own = others[page.number]
    return any(  # two pages are enough where the number in the line grows with the page's
        own is not None
        and (count := others[number]) is not None
        and count - own == number - page.number
        for number in near
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The size of most of the text, and the larger ones from the largest, as heading levels."""

    text: float
    levels: list[float]

    def level(self, line: Line) -> int | None:
        """Return the level of a heading, 1 the top, None for text."""
        if sum(letter.isalpha() for letter in line.text) < 2 or len(line.text) > _LONGEST_HEADING:
            return None
        if line.size >= _LARGER * self.text:
            nearest = min(self.levels, key=lambda size: abs(size - line.size))
            return min(self.levels.index(nearest) + 1, _MOST_LEVELS)
        if line.bold and not line.mono and line.size >= 0.95 * self.text and _titled(line):
            return min(len(self.levels) + 1, _MOST_LEVELS + 1)
        return None


def _titled(line: Line) -> bool:
    """Tell whether a bold line reads as a title, not as a stressed sentence."""
    short = line.x1 - line.x0 < 0.9 * (line.right - line.left) or len(line.text) < 60
    return short and not line.text.endswith((".", ",", ";", ":")) and not _BULLET.match(line.text)


def _sizes(pages: list[Page]) -> _Sizes:
    letters: Counter[float] = Counter()
    bold: Counter[bool] = Counter()
    for page in pages:
        for line in page.items:
            if isinstance(line, Line):
                letters[round(line.size * 2) / 2] += len(line.text)
                bold[line.bold] += len(line.text)
    if not letters:
        return _Sizes(1.0, [])
    text = max(letters, key=lambda size: (letters[size], -size))
    larger = sorted((s for s in letters if s >= _LARGER * text), reverse=True)
    levels: list[float] = []
    for size in larger:
        if not levels or levels[-1] - size > 0.04 * levels[-1]:
            levels.append(size)
    return _Sizes(text, levels or [text])


class _Composer:
    """One pass over the lines; holds the paragraph, list, code or heading being read."""

    def __init__(self, sizes: _Sizes, bookmarks: dict[int, list[tuple[int, str]]]) -> None:
        self.sizes = sizes
        self.bookmarks = bookmarks
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.held: list[Line] = []
        self.kind = "text"
        self.level = 0
        self.page = 0

    def read(self, pages: list[Page]) -> list[Block]:
        for page in pages:
            self.page = page.number
            pending = list(self.bookmarks.get(page.number, []))
            leading = _leading(page)
            for item in page.items:
                if isinstance(item, Grid):
                    self._flush()
                    self.blocks.append(table(item.rows, page.number, self.outline.path))
                    continue
                found = next((b for b in pending if _same(item.text, b[1])), None)
                if found:
                    self._flush()
                    pending = pending[pending.index(found) + 1 :]
                    self.outline.enter(*found)
                    self._emit(" ".join(item.text.split()), "heading")
                else:
                    self._line(item, leading)
            self._flush()
            for bookmark in pending:  # the bookmark's words differ from the page's
                self.outline.enter(*bookmark)
        return list(_joined(self.blocks))

    def _line(self, line: Line, leading: float) -> None:
        level = None if self.bookmarks else self.sizes.level(line)
        if level is not None:
            kind = "heading"
        elif line.mono:
            kind = "code"
        elif _ITEM.match(line.text) and self._lists(line):
            kind = "list"
        else:
            kind = "text"
        if self.held:
            last = self.held[-1]
            apart = line.top - last.top > 1.35 * leading or line.top < last.top
            if self.kind == "list" and kind == "text" and not apart and line.x0 > self.held[0].x0:
                kind = "list"  # the item goes on below its first line
            new = kind != self.kind or (level or 0) != self.level
            if kind == "text":
                new = new or apart or _indented(line, last)
            elif kind == "heading":
                new = new or line.top - last.top > 2.0 * line.size or line.top < last.top
            elif kind == "code":
                new = new or line.top - last.top > 3.0 * leading or line.top < last.top
            if new:
                self._flush()
        self.kind, self.level = kind, level or 0
        self.held.append(line)

    def _lists(self, line: Line) -> bool:
        """A number or letter begins an item where a line starts, not where a sentence wraps."""
        if _BULLET.match(line.text) or not self.held or self.kind == "list":
            return True
        return line.x0 > line.left + 1 or self.held[-1].text.endswith(_SENTENCE_END)

    def _flush(self) -> None:
        lines, self.held = self.held, []
        if not lines:
            return
        if self.kind == "heading":
            title = _prose(lines)
            self.outline.enter(self.level, title)
            self._emit(title, "heading")
        elif self.kind == "code":
            self._emit(_code(lines), "code")
        elif self.kind == "list":
            self._emit(_list(lines), "list")
        else:
            self._emit(_prose(lines), "text")

    def _emit(self, text: str, kind: str) -> None:
        if text.strip():
            block = Block(text, self.page, self.outline.path, "text")
            self.blocks.append(replace(block, kind=kind))  # type: ignore[arg-type]


def _leading(page: Page) -> float:
    """Return the usual distance from one line to the next."""
    lines = [item for item in page.items if isinstance(item, Line)]
    steps = [b.top - a.top for a, b in pairwise(lines)]
    sizes = [line.bottom - line.top for line in lines] or [12.0]
    near = [step for step in steps if 0.5 * median(sizes) < step < 2.5 * median(sizes)]
    # The lower quarter: on a page of short paragraphs half the steps may be between them.
    return sorted(near)[len(near) // 4] if near else 1.2 * median(sizes)


def _indented(line: Line, last: Line) -> bool:
    """Tell a first line that is set in, after a line at the column's edge that ended early."""
    inset = line.x0 - line.left > 0.8 * line.size and last.x0 - last.left < 0.5 * line.size
    return inset and line.x0 - line.left < 6 * line.size


def _prose(lines: list[Line]) -> str:
    text = ""
    for line in lines:
        text = _continued(text, line.text) if text else line.text
    return " ".join(text.split())


def _continued(text: str, more: str) -> str:
    """Join two lines; a word that was broken by a hyphen becomes whole."""
    if text.endswith("-") and text[-2:-1].isalpha() and more[:1].islower():
        return text[:-1] + more
    return f"{text} {more}"


def _code(lines: list[Line]) -> str:
    """Keep lines and indentation: characters of a fixed width tell the columns."""
    widths = [(line.x1 - line.x0) / len(line.text) for line in lines if len(line.text) > 1]
    width = median(widths) if widths else 6.0
    left = min(line.x0 for line in lines)
    return "\n".join(
        " " * min(max(round((line.x0 - left) / max(width, 1.0)), 0), 80) + line.text
        for line in lines
    )


def _list(lines: list[Line]) -> str:
    items: list[str] = []
    left = min(line.x0 for line in lines)
    for line in lines:
        if _ITEM.match(line.text):
            text = _BULLET.sub("- ", line.text)
            items.append(("  " if line.x0 - left > 0.7 * line.size else "") + text)
        elif items:
            items[-1] = _continued(items[-1], line.text)
        else:
            items.append(line.text)
    return "\n".join(items)


def _joined(blocks: list[Block]) -> Iterator[Block]:
    """Join a paragraph that a column or page broke in the middle of a sentence."""
    held: Block | None = None
    for block in blocks:
        if (
            held is not None
            and held.kind == block.kind == "text"
            and held.section == block.section
            and not held.text.endswith(_SENTENCE_END)
            and block.text[:1].islower()
        ):
            held = replace(held, text=_continued(held.text, block.text))
            continue
        if held is not None:
            yield held
        held = block
    if held is not None:
        yield held


def _same(line: str, title: str) -> bool:
    """Tell whether a line is a bookmark's title; either may lack the other's number."""
    one, two = ("".join(text.split()).casefold() for text in (line, title))
    if one == two:
        return True
    one, two = ("".join(_NUMBERING.sub("", text).split()).casefold() for text in (line, title))
    return bool(one) and one == two
