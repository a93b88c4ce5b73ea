"""Cuts a document's blocks into passages of bounded size along its structure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from app.errors import BadRequest
from app.retrieval.parsers.block import SECTION_SEPARATOR, Block

_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+")
# A section below this part of a passage is too small to answer anything alone.
_TINY_PART = 8
# What is repeated above each part of a table or list may take this part of a passage.
_REPEATED_PART = 3
# Tokenizers count an endless word (a hex dump) as one unknown token; this bounds its length.
_MOST_CHARACTERS_A_TOKEN = 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage-to-be: ``page`` is where it starts, ``ordinal`` its place from 0."""

    text: str
    page: int | None
    section: str | None
    ordinal: int


def chunk(
    blocks: list[Block],
    max_tokens: int = 256,
    overlap_tokens: int = 32,
    count: Callable[[str], int] = lambda text: len(text.split()),
) -> list[Chunk]:
    """Cut ``blocks`` into chunks of at most ``max_tokens``, as ``count`` measures them.

    A chunk stays within one section, except that tiny neighbouring sections are joined; code,
    tables and lists stay whole when they fit, and with the line that leads into them. A table
    that must be cut repeats its header, a list its lead line. Prose that continues in the next
    chunk of its section repeats up to ``overlap_tokens`` of its end there. Only a single
    character that counts for more than ``max_tokens`` can exceed the bound.

    Raises:
        BadRequest: the sizes make no sense together.
    """
    if max_tokens < 1:
        raise BadRequest(
            f"max_chunk_size_tokens is {max_tokens}; give at least 1.",
            param="chunking_strategy.static.max_chunk_size_tokens",
        )
    if not 0 <= overlap_tokens <= max_tokens // 2:
        raise BadRequest(
            f"chunk_overlap_tokens is {overlap_tokens}; give 0 to {max_tokens // 2}, half of "
            "max_chunk_size_tokens.",
            param="chunking_strategy.static.chunk_overlap_tokens",
        )

    def measure(text: str) -> int:
        return max(count(text), len(text) // _MOST_CHARACTERS_A_TOKEN)

    made: list[Chunk] = []
    for section in _sections(_led(blocks, max_tokens, measure), max_tokens, measure):
        for text, page, label in _pack(section, max_tokens, overlap_tokens, measure):
            made.append(Chunk(text, page, label, len(made)))
    return made


def _led(blocks: list[Block], max_tokens: int, count: Callable[[str], int]) -> list[Block]:
    """Join a line that ends in a colon with the list, table or code that it leads into."""
    made: list[Block] = []
    for block in blocks:
        lead = made[-1] if made else None
        if (
            lead is not None
            and lead.kind == "text"
            and lead.text.endswith((":", "："))
            and block.kind in ("list", "table", "code")
            and lead.section == block.section
            and count(lead.text) <= max_tokens // _REPEATED_PART
        ):
            line = " ".join(lead.text.split())
            code = block.kind == "code"
            text = f"{line}\n\n{block.text}" if code else f"{line}\n{block.text}"
            # Beside its lead, code or a table that fits alone must not become too large.
            if block.kind == "list" or count(text) <= max_tokens or count(block.text) > max_tokens:
                header = 0 if code else block.header + 1
                made[-1] = replace(block, text=text, page=lead.page, header=header)
                continue
        made.append(block)
    return made


def _sections(
    blocks: list[Block], max_tokens: int, count: Callable[[str], int]
) -> Iterator[list[Block]]:
    """Yield runs of blocks that may share chunks: one section, or a tiny one and the next."""
    tiny = max(1, max_tokens // _TINY_PART)
    run: list[Block] = []
    for group in _runs(blocks):
        if run:
            size = sum(count(block.text) for block in run)
            if size > tiny or not _related(run[-1].section, group[0].section):
                yield run
                run = []
        run = [*run, *group]
    if run:
        yield run


def _runs(blocks: list[Block]) -> Iterator[list[Block]]:
    run: list[Block] = []
    for block in blocks:
        if run and block.section != run[0].section:
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def _path(section: str | None) -> list[str]:
    return section.split(SECTION_SEPARATOR) if section else []


def _related(first: str | None, second: str | None) -> bool:
    """Tell whether two sections lie under one heading; the text before any heading fits all."""
    return not first or _path(first)[:1] == _path(second)[:1]


def _label(sections: list[str | None]) -> str | None:
    """Name what a chunk spans: the deepest section, or what stands above several siblings."""
    path: list[str] = []
    most: int | None = None  # where siblings parted, none of them names the whole
    for section in sections:
        other = _path(section)[:most]
        same = 0
        while same < min(len(path), len(other)) and path[same] == other[same]:
            same += 1
        if same == len(path):
            path = other
        elif same < len(other):
            path, most = path[:same], same
    return SECTION_SEPARATOR.join(path) or None


def _pack(
    blocks: list[Block], max_tokens: int, overlap_tokens: int, count: Callable[[str], int]
) -> Iterator[tuple[str, int | None, str | None]]:
    """Fill chunks greedily; yield (text, page where it starts, section)."""
    held = ""
    page: int | None = None
    sections: list[str | None] = []
    bare = True  # ``held`` has nothing but headings
    for block in blocks:
        heading = block.kind == "heading"
        for piece in _pieces(block, max_tokens, count):
            joined = f"{held}\n\n{piece}" if held else piece
            if held and count(joined) > max_tokens:
                # A heading alone is no passage: the section path of what follows names it.
                if not (bare and _named(held, block.section)):
                    yield held, page, _label(sections)
                prose = block.kind == "text" and not bare
                tail = _tail(held, overlap_tokens, count) if prose else ""
                joined = f"{tail}\n\n{piece}" if tail else piece
                if count(joined) > max_tokens:
                    joined = piece
                held, sections, bare = "", [], True
            if not held:
                page = block.page
            held = joined
            bare = bare and heading
            sections.append(block.section)
    if held:
        yield held, page, _label(sections)


def _named(headings: str, section: str | None) -> bool:
    titles = set(_path(section))
    return all(" ".join(line.split()) in titles for line in headings.split("\n\n"))


def _tail(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """Return the longest run of whole words at the end of ``text`` within ``tokens``."""
    if tokens == 0:
        return ""
    words = list(re.finditer(r"\S+", text))
    low, high = 0, len(words)  # the number of words that fit is found by bisection
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[words[-middle].start() :]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[words[-low].start() :] if 0 < low < len(words) else ""


def _pieces(block: Block, max_tokens: int, count: Callable[[str], int]) -> Iterator[str]:
    """Yield the block whole if it fits, else along lines or sentences, words, characters."""
    if count(block.text) <= max_tokens:
        yield block.text
        return
    if block.kind in ("heading", "text"):
        yield from _join(_SENTENCE_END.split(block.text), " ", max_tokens, count)
        return
    lines = block.text.split("\n")
    head = "\n".join(lines[: block.header])
    if not head or len(lines) == block.header or count(head) > max_tokens // _REPEATED_PART:
        yield from _join(lines, "\n", max_tokens, count)
        return
    for part in _join(
        lines[block.header :], "\n", max_tokens, lambda text: count(f"{head}\n{text}")
    ):
        yield f"{head}\n{part}"


def _join(
    parts: list[str], separator: str, max_tokens: int, count: Callable[[str], int]
) -> Iterator[str]:
    """Fill pieces with ``parts`` up to ``max_tokens``, cutting a part that is too large."""
    parts = [part for part in parts if part.strip()]
    start = 0
    while start < len(parts):
        taken = _fitting(parts, start, separator, max_tokens, count)
        if taken:
            yield separator.join(parts[start : start + taken])
            start += taken
            continue
        part = parts[start].strip()
        start += 1
        if len(words := part.split()) > 1:
            yield from _join(words, " ", max_tokens, count)
        elif len(part) > 1:
            middle = len(part) // 2
            yield from _join([part[:middle], part[middle:]], "", max_tokens, count)
        else:
            yield part


def _fitting(
    parts: list[str], start: int, separator: str, max_tokens: int, count: Callable[[str], int]
) -> int:
    """Return how many parts from ``start`` fit together, with few calls of ``count``."""

    def fits(n: int) -> bool:
        return count(separator.join(parts[start : start + n])) <= max_tokens

    left = len(parts) - start
    low, high = 0, 1
    while high <= left and fits(high):
        low, high = high, high * 2
    high = min(high, left + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
