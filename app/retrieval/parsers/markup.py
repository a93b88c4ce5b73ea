"""Reads HTML and Markdown, keeping headings, code and tables apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.retrieval.parsers.block import Block, DocumentError, Kind, Outline, decode

if TYPE_CHECKING:
    from markdown_it.token import Token


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Not "head": the parser leaves HTML5 elements there when a page omits <body>.
_SKIPPED = _words(
    """
    title script style noscript template nav footer svg iframe button select option
    """
)
_BLOCKS = _words(
    """
    address article aside blockquote body br dd div dl dt fieldset figcaption figure form h1
    h2 h3 h4 h5 h6 header hr html li main ol p pre section summary details table ul
    """
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def parse_html(data: bytes, filename: str) -> list[Block]:
    """Return the blocks of a page, without navigation, scripts and footers.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text.
    """
    from lxml import etree, html

    decode(data, filename)
    try:
        data.decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = None  # let lxml read the page's own charset
    try:
        root = html.document_fromstring(
            data, parser=html.HTMLParser(encoding=encoding, remove_comments=True, remove_pis=True)
        )
    except (etree.ParserError, etree.XMLSyntaxError):
        return []
    return _walk(root)


def _walk(root: Any) -> list[Block]:
    from lxml import etree

    outline = Outline()
    blocks: list[Block] = []
    words: list[str] = []

    def flush() -> None:
        text = " ".join("".join(words).split())
        words.clear()
        if text:
            blocks.append(Block(text, None, outline.path, "text"))

    def emit(text: str, kind: Kind) -> None:
        blocks.append(Block(text, None, outline.path, kind))

    walker = etree.iterwalk(root, events=("start", "end"))
    for event, node in walker:
        tag = node.tag if isinstance(node.tag, str) else ""
        whole = tag in _HEADINGS or tag in ("pre", "table")
        skipped = tag in _SKIPPED or node.get("role") == "navigation"
        if event == "start":
            if tag in _BLOCKS:
                flush()
            if skipped or whole:
                walker.skip_subtree()
            if tag in _HEADINGS and not skipped:
                title = " ".join("".join(node.itertext()).replace("¶", " ").split())
                if title:
                    outline.enter(_HEADINGS[tag], title)
                    emit(title, "heading")
            elif tag == "pre" and not skipped:
                emit("".join(node.itertext()), "code")
            elif tag == "table" and not skipped:
                emit(_html_table(node), "table")
            elif not skipped:
                words.append(node.text or "")
        else:
            if tag in _BLOCKS:
                flush()
            words.append(node.tail or "")
    flush()
    return blocks


def _html_table(table: Any) -> str:
    rows = []
    for row in table.iter("tr"):
        cells = [
            " ".join("".join(cell.itertext()).split())
            for cell in row
            if isinstance(cell.tag, str) and cell.tag in ("td", "th")
        ]
        if any(cells):
            rows.append(" | ".join(cells))
    return "\n".join(rows)


def parse_markdown(data: bytes, filename: str) -> list[Block]:
    """Return the blocks of a CommonMark document with tables.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text or nest too deeply.
    """
    from markdown_it import MarkdownIt

    text = decode(data, filename)
    try:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
    except RecursionError as error:
        raise DocumentError(
            "corrupt_file", f"'{filename}' nests too deeply. Flatten its lists and quotes."
        ) from error
    outline = Outline()
    blocks: list[Block] = []
    rows: list[list[str]] = []
    heading = 0
    in_table = False
    for token in tokens:
        if token.type == "heading_open":
            heading = int(token.tag[1:])
        elif token.type == "heading_close":
            heading = 0
        elif token.type == "table_open":
            in_table, rows = True, []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "table_close":
            in_table = False
            text = "\n".join(" | ".join(row) for row in rows)
            blocks.append(Block(text, None, outline.path, "table"))
        elif token.type == "inline":
            text = _inline(token)
            if in_table:
                rows[-1].append(text)
            elif heading and text.strip():
                blocks.append(Block(text, None, outline.enter(heading, text), "heading"))
            else:
                blocks.append(Block(text, None, outline.path, "text"))
        elif token.type in ("fence", "code_block"):
            blocks.append(Block(token.content, None, outline.path, "code"))
        elif token.type == "html_block":
            inner = parse_html(token.content.encode(), filename) if token.content.strip() else []
            blocks.extend(Block(b.text, None, outline.path, b.kind) for b in inner)
    return blocks


def _inline(token: Token) -> str:
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts).strip()
