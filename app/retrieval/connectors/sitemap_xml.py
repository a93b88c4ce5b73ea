"""Reads a sitemap or an index of sitemaps, which may be hostile."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

LONGEST_ADDRESS = 2048  # characters, as sitemaps.org says
_LONGEST_DATE = 64
_DEEPEST = 32  # elements within each other
_ENTRIES = {"urlset": "url", "sitemapindex": "sitemap"}


@dataclass(frozen=True, slots=True)
class Entry:
    """An address, and when it was changed, as written there; empty: not said."""

    address: str
    changed: str


@dataclass(frozen=True, slots=True)
class Sitemap:
    """The entries of a sitemap, or of an index of sitemaps."""

    is_index: bool
    entries: list[Entry]


def unpacked(body: bytes, max_bytes: int) -> bytes:
    """The bytes of a sitemap, which may be packed with gzip.

    Raises:
        ValueError: they are more than ``max_bytes``, or damaged.
    """
    if body[:2] == b"\x1f\x8b":
        unpacking = zlib.decompressobj(31)
        try:
            body = unpacking.decompress(body, max_bytes + 1)
        except zlib.error as error:
            raise ValueError("it is damaged") from error
        if len(body) <= max_bytes and not unpacking.eof:
            raise ValueError("it is cut off")
        if unpacking.unused_data.strip(b"\0"):  # which may be the rest of it
            raise ValueError("it is packed in several pieces")
    if len(body) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return body


def parse_sitemap(body: bytes) -> Sitemap:
    """The entries of a sitemap; what other vocabularies add to them is passed over.

    Raises:
        ValueError: it is no sitemap, or declares a document type.
    """
    reading = _Reading()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reading.doctype
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.text
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise ValueError("it is no XML") from error
    return Sitemap(reading.entry == "sitemap", reading.entries)


class _Reading:
    """Where the parser is in a sitemap: root, entry, field."""

    def __init__(self) -> None:
        self.entry = ""  # the name of an entry in this kind of sitemap
        self.entries: list[Entry] = []
        self._space = ""
        self._path: list[str] = []
        self._fields: dict[str, str] = {}

    def doctype(self, *_: object) -> NoReturn:
        raise ValueError("it declares a document type, which no sitemap needs")

    def start(self, name: str, _: object) -> None:
        space, _, local = name.rpartition(" ")
        if not self._path:
            if local not in _ENTRIES:
                raise ValueError("it is no sitemap")
            self._space, self.entry = space, _ENTRIES[local]
        if len(self._path) == _DEEPEST:
            raise ValueError("it nests too deep")
        self._path.append(local if space == self._space else name)
        if self._path[1:] == [self.entry]:
            self._fields = {}

    def text(self, text: str) -> None:
        if len(self._path) == 3 and self._path[1] == self.entry:
            before = self._fields.get(self._path[2], "")
            if len(before) <= LONGEST_ADDRESS:
                self._fields[self._path[2]] = before + text

    def end(self, _: str) -> None:
        if self._path[1:] == [self.entry]:
            address = self._fields.get("loc", "").strip()
            if 0 < len(address) <= LONGEST_ADDRESS:
                changed = self._fields.get("lastmod", "").strip()
                self.entries.append(Entry(address, changed[:_LONGEST_DATE]))
        self._path.pop()
