"""Reads HTML pages: what a reader sees, without the page's furniture."""

from __future__ import annotations

import codecs
import re
from typing import Any

from app.retrieval.parsers.block import Block, Kind, Outline, decode, table
from app.retrieval.parsers.listing import Listing


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Not "head": the parser leaves HTML5 elements there when a page omits <body>.
_SKIPPED = _words(
    """
    title script style noscript template nav footer aside svg iframe button select option
    canvas audio video object embed dialog datalist
    """
)
_SKIPPED_ROLES = _words("navigation banner contentinfo complementary search menu dialog alert")
_BLOCKS = _words(
    """
    address article aside blockquote body br caption dd div dl dt fieldset figcaption figure form
    h1 h2 h3 h4 h5 h6 header hr html li main ol p pre section summary details table tbody td
    tfoot th thead tr ul
    """
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LAID_OUT = _words("table pre ul ol dl blockquote h1 h2 h3 h4 h5 h6")  # no cell of data has them
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_CHARSET = re.compile(
    rb"<(?:meta|\?xml)\s[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)"
)
_CHARSET_WITHIN = 4096  # bytes; browsers look no further than 1,024
MAX_SPAN = 1000  # columns or rows one cell may take, as in the HTML standard
MAX_SPANNED = 1_000_000  # characters and cells a table may gain by its spans: they multiply


def parse_html(data: bytes, filename: str) -> list[Block]:
    """Return the blocks of a page, without navigation, asides, scripts and footers.

    Where the page marks its ``main`` part or its only ``article``, the rest is left out.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text.
    """
    from lxml import etree, html

    text = _decoded(data, filename)
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root = html.document_fromstring(text.encode("utf-8", errors="replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        return []
    return _Page().walk(_main(root))


def _decoded(data: bytes, filename: str) -> str:
    """Decode by mark, then UTF-8 where the bytes allow it, then the page's own charset."""
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            declared = _CHARSET.search(data[:_CHARSET_WITHIN].lower())
            name = declared.group(1).decode() if declared else "cp1252"
            # Browsers read these two as Windows-1252, and so do the pages that name them.
            name = "cp1252" if name in ("iso-8859-1", "us-ascii", "ascii", "latin1") else name
            try:
                if b"\x00" not in data:
                    return data.decode(name, errors="replace")
            except (LookupError, ValueError):
                pass
    return decode(data, filename)


def _main(root: Any) -> Any:
    """Return the part of the page that it calls its main one, or all of it."""
    for path in (".//main|.//*[@role='main']", ".//article"):
        found = [n for n in root.xpath(path) if not n.xpath("ancestor::main|ancestor::article")]
        if len(found) == 1 and "".join(found[0].itertext()).strip():
            return found[0]
    return root


class _Page:
    """One walk over a page; what is skipped or read whole is not entered."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.words: list[str] = []
        self.listing = Listing()
        self.term = ""  # a <dt> that waits for its <dd>

    def walk(self, root: Any) -> list[Block]:
        from lxml import etree

        walker = etree.iterwalk(root, events=("start", "end"))
        for event, node in walker:
            tag = node.tag if isinstance(node.tag, str) else ""
            if event == "end":
                self._leave(tag)
                if node is not root:
                    self.words.append(node.tail or "")
            elif node is not root and _skipped(node, tag):
                if tag in _BLOCKS:
                    self._flush()
                walker.skip_subtree()
            elif self._whole(node, tag):
                walker.skip_subtree()
            else:
                self._enter(node, tag)
        self._flush()
        self._end_list()
        self._end_term()
        return self.blocks

    def _enter(self, node: Any, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush()
        if tag in ("ul", "ol"):
            self.listing.enter(_number(node.get("start"), 1) if tag == "ol" else None)
        elif tag == "li":
            if not self.listing.open:
                self.listing.enter()  # an item outside any list, as browsers show it
            self.listing.item()
        elif tag == "dt":
            self._end_term()
        self.words.append(node.text or "")
        if tag == "img" and node.get("alt"):
            self.words.append(f" {node.get('alt')} ")

    def _leave(self, tag: str) -> None:
        if tag == "dt":
            self.term, self.words = " ".join("".join(self.words).split()), []
        if tag in _BLOCKS:
            self._flush()
        if tag in ("ul", "ol") and self.listing.open:
            self.listing.leave()
            if not self.listing.open:
                self._end_list()
        elif tag == "dl":
            self._end_term()

    def _whole(self, node: Any, tag: str) -> bool:
        """Read a heading, code or a table of data at once; tell whether ``node`` is one."""
        if tag in _HEADINGS:
            self._interrupt()
            title = " ".join("".join(node.itertext()).replace("¶", " ").split())
            if title:
                self.outline.enter(_HEADINGS[tag], title)
                self._emit(title, "heading")
        elif tag == "pre":
            self._interrupt()
            self._emit("".join(node.itertext()), "code")
        elif tag == "table" and not _is_layout(node):
            self._interrupt()
            rows, header = _rows(node)
            self.blocks.append(table(rows, None, self.outline.path, header))
        else:
            return False
        return True

    def _interrupt(self) -> None:
        self._flush()
        self._end_list()
        self._end_term()

    def _emit(self, text: str, kind: Kind) -> None:
        if text.strip():
            self.blocks.append(Block(text, None, self.outline.path, kind))

    def _flush(self) -> None:
        text = " ".join("".join(self.words).split())
        self.words.clear()
        if not text:
            return
        if self.term:
            text, self.term = f"{self.term}: {text}", ""
        if self.listing.open:
            self.listing.add(text)
        else:
            self._emit(text, "text")

    def _end_list(self) -> None:
        self._emit(self.listing.take(), "list")

    def _end_term(self) -> None:
        term, self.term = self.term, ""
        if self.listing.open:
            self.listing.add(term)
        else:
            self._emit(term, "text")


def _skipped(node: Any, tag: str) -> bool:
    if tag in _SKIPPED or node.get("role") in _SKIPPED_ROLES:
        return True
    if node.get("hidden") is not None or node.get("aria-hidden") == "true":
        return True
    if _INVISIBLE.search(node.get("style") or ""):
        return True
    # The banner of the whole page; one inside an article, or with the title, has words to keep.
    return tag == "header" and node.getparent().tag == "body" and node.find(".//h1") is None


def _is_layout(node: Any) -> bool:
    """Tell a table that arranges the page from one that holds data."""
    if node.get("role") in ("presentation", "none"):
        return True
    return any(child is not node for child in node.iter(*_LAID_OUT))


def _number(text: str | None, default: int) -> int:
    try:
        return max(0, min(int(text or ""), MAX_SPAN * MAX_SPAN))
    except ValueError:
        return default


def _rows(node: Any) -> tuple[list[list[str]], int]:
    """Return the cells, those that span rows repeated in each, and the number of header rows."""
    rows: list[list[str]] = []
    header = 0
    spare = MAX_SPANNED
    above: dict[int, tuple[int, str]] = {}  # column → (rows left, text) of a cell from above
    for row in node.iter("tr"):
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        made: list[str] = []
        going, above = above, {}
        for cell in [*cells, None]:
            while len(made) in going:
                left, text = going.pop(len(made))
                spare -= len(text) + 1
                if left > 1 and spare > 0:
                    above[len(made)] = (left - 1, text)
                made.append(text)
            if cell is None:
                break
            text = " ".join("".join(cell.itertext()).split())
            span = min(_number(cell.get("rowspan"), 1), MAX_SPAN)
            if span > 1:
                above[len(made)] = (span - 1, text)
            wide = min(_number(cell.get("colspan"), 1), MAX_SPAN) if spare > 0 else 1
            spare -= wide - 1
            made.extend([text, *[""] * (wide - 1)])
        named = bool(cells) and (
            row.getparent().tag == "thead" or all(cell.tag == "th" for cell in cells)
        )
        if named and header == len(rows):
            header += any(made)
        if any(made):
            rows.append(made)
    return rows, header
