"""Reads reStructuredText with docutils, without running what a document asks to be run.

Nothing is included from other files, no raw HTML passes, and no transform is applied: what a
directive or role of Sphinx or of a project's own would do is unknown here, so its words are kept.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError, Kind, Outline, decode, table
from app.retrieval.parsers.listing import Listing


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TAB = 8
_DIRECTIVE = re.compile(r"^\s*(?:\|[^|\n]+\|\s+)?\.\. (?:\|[^|\n]+\| )?([\w:+.-]+)::", re.MULTILINE)
_ROLE = re.compile(r":([\w:+.-]+):`|`:([\w:+.-]+):")
_TARGET = re.compile(r"^(.*\S)\s*<[^<>]+>$", re.DOTALL)
_CODE = _words(
    "code code-block sourcecode parsed-literal console doctest testcode testoutput prompt "
    "literal highlight-block ipython productionlist"
)
# Their words are for tools, or are found elsewhere; ``role`` would outlive the document.
_DROPPED = _words(
    "toctree contents sectnum index meta highlight module currentmodule py:module "
    "py:currentmodule default-domain default-role role image figure include literalinclude raw "
    "graphviz sectionauthor codeauthor title date target-notes header footer automodule autoclass "
    "autofunction automethod tabularcolumns"
)
_VERSIONS = {
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
    "versionremoved": "Removed in version",
}
_ADMONITIONS = _words("admonition note warning tip hint important caution danger error attention")
_UNSEEN = _words(
    "system_message comment target substitution_definition problematic pending raw label"
)
_MOST_NAMES = 5_000  # directives, and roles, of one document that are learnt

_tables = threading.Lock()


def parse_rst(data: bytes, filename: str) -> list[Block]:
    """Return headings, text, lists, literal blocks and tables.

    Raises:
        DocumentError: ``corrupt_file`` when the bytes are not text or nest too deeply.
    """
    text = decode(data, filename)
    try:
        return _Walk().read(_parsed(text))
    except RecursionError as error:
        raise DocumentError(
            "corrupt_file", f"'{filename}' nests too deeply. Flatten its lists and quotes."
        ) from error


def _parsed(text: str) -> Any:
    from docutils.frontend import get_default_settings
    from docutils.parsers.rst import Parser
    from docutils.utils import new_document

    settings = get_default_settings(Parser)
    settings.file_insertion_enabled = False
    settings.raw_enabled = False
    settings.report_level, settings.halt_level = 5, 6  # a flawed document is read as far as it goes
    settings.warning_stream = False
    settings.syntax_highlight = "none"
    settings.tab_width = _TAB
    settings.line_length_limit = 1_000_000
    document = new_document("upload", settings)
    with _names_of(text):
        Parser().parse(text, document)
    return document


@contextmanager
def _names_of(text: str) -> Iterator[None]:
    """Let docutils know the directives and roles of ``text``, and forget them afterwards.

    It keeps one table of each for the whole process, which a document could otherwise fill or
    change for the next one: hence the lock, and the copies that are put back.
    """
    from docutils.parsers.rst import directives, roles
    from docutils.parsers.rst.languages import en

    directive = _directive()
    with _tables:
        tables = (directives._directives, roles._roles, roles._role_registry)
        kept = [dict(entries) for entries in tables]
        try:
            names = {name.lower() for name in _DIRECTIVE.findall(text)} | _DROPPED
            for name in sorted(names)[:_MOST_NAMES]:
                if name in _DROPPED or name in _CODE or name not in en.directives:
                    directives.register_directive(name, directive)
            used = {(a or b).lower() for a, b in _ROLE.findall(text)} | {"raw"}
            for name in sorted(used)[:_MOST_NAMES]:
                if name not in en.roles or name == "raw":
                    roles.register_local_role(name, _role)
            yield
        finally:
            for entries, before in zip(tables, kept, strict=True):
                entries.clear()
                entries.update(before)


def _directive() -> type[Any]:
    """Make the class that stands for every directive that docutils does not know."""
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives

    class Words(Directive):  # type: ignore[misc]
        """Keeps the argument and the content of a directive, whatever it is for."""

        optional_arguments = 1_000
        final_argument_whitespace = True
        has_content = True

        def run(self) -> list[nodes.Node]:
            name = self.name.lower()
            if name in _DROPPED:
                return []
            code = "\n".join(self.content)
            if name in _CODE:
                return [nodes.literal_block(code, code)]
            made: list[nodes.Node] = []
            # ``.. setting:: DEBUG``, ``.. method:: filter(...)``: names worth finding.
            argument = " ".join(" ".join(self.arguments).split())
            if name in _VERSIONS:
                number, _, rest = argument.partition(" ")
                argument = f"{_VERSIONS[name]} {number}: {rest}".rstrip(": ")
                inline, _ = self.state.inline_text(argument, self.lineno)
                made.append(nodes.paragraph(argument, "", *inline))
            elif argument:
                made.append(nodes.paragraph(argument, argument))
            box = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, box)
            return [*made, *box.children]

    class Options(dict[str, Any]):
        """Accepts every option of a directive."""

        def __getitem__(self, name: str) -> Any:
            return directives.unchanged

        def __bool__(self) -> bool:
            return True

    Words.option_spec = Options()
    return Words


def _role(
    name: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Any,
    options: Any = None,
    content: Any = None,
) -> tuple[list[Any], list[Any]]:
    """Show the words of a role that docutils does not know, as Sphinx shows them."""
    from docutils import nodes

    words = text.replace("\x00", "")  # docutils marks escapes so
    if match := _TARGET.match(words):
        words = match.group(1)
    elif words.startswith("~"):
        words = words[1:].rsplit(".", 1)[-1]
    else:
        words = words.removeprefix("!")
    return ([] if name == "raw" else [nodes.inline(rawtext, words)]), []


class _Walk:
    """One pass over the tree of a document."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.blocks: list[Block] = []
        self.listing = Listing()

    def read(self, document: Any) -> list[Block]:
        self._children(document, 1)
        self._end_list()
        return self.blocks

    def _children(self, node: Any, level: int) -> None:
        for child in node.children:
            self._node(child, level)

    def _node(self, node: Any, level: int) -> None:
        name = type(node).__name__
        if name == "section":
            self._children(node, level + 1)
        elif name in ("title", "rubric"):
            self._title(node, level)
        elif name in ("literal_block", "doctest_block", "math_block"):
            self._end_list()
            self._emit(node.astext(), "code")
        elif name == "table":
            self._end_list()
            self._table(node, level)
        elif name in ("bullet_list", "enumerated_list"):
            self._list(node, level)
        elif name in ("definition_list_item", "field", "option_list_item"):
            self._pair(node, level)
        elif name in ("paragraph", "line", "attribution", "subtitle", "caption"):
            self._words(_shown(node))
        elif name in _ADMONITIONS:
            self._admonition(node, name, level)
        elif name not in _UNSEEN:
            self._children(node, level)

    def _title(self, node: Any, level: int) -> None:
        self._end_list()
        title = " ".join(_shown(node).split())
        if not title:
            return
        if type(node.parent).__name__ == "section":
            self.outline.enter(level - 1, title)
            self._emit(title, "heading")
        else:  # of a table, sidebar, topic or admonition
            self._emit(title, "text")

    def _list(self, node: Any, level: int) -> None:
        ordered = type(node).__name__ == "enumerated_list"
        self.listing.enter(int(node.get("start", 1)) if ordered else None)
        for item in node.children:
            self.listing.item()
            self._children(item, level)
        self.listing.leave()
        if not self.listing.open:
            self._end_list()

    def _pair(self, node: Any, level: int) -> None:
        """A term and its definition are one text where the definition is one paragraph."""
        term = ", ".join(" ".join(_shown(c).split()) for c in node.children[:-1])
        body = node.children[-1] if node.children else None
        inner = [c for c in body.children if type(c).__name__ not in _UNSEEN] if body else []
        if len(inner) == 1 and type(inner[0]).__name__ == "paragraph":
            self._words(f"{term}: {_shown(inner[0])}")
            return
        self._words(term)
        if body is not None:
            self._children(body, level)

    def _admonition(self, node: Any, name: str, level: int) -> None:
        label = "" if name == "admonition" else name.capitalize()
        first = node.children[0] if node.children else None
        if label and first is not None and type(first).__name__ == "paragraph":
            self._words(f"{label}: {_shown(first)}")
            for child in node.children[1:]:
                self._node(child, level)
        else:
            self._children(node, level)

    def _table(self, node: Any, level: int) -> None:
        for title in (c for c in node.children if type(c).__name__ == "title"):
            self._title(title, level)
        rows: list[list[str]] = []
        header = 0
        for group in node.findall(lambda n: type(n).__name__ in ("thead", "tbody")):
            for row in (r for r in group.children if type(r).__name__ == "row"):
                cells: list[str] = []
                for entry in row.children:
                    cells += [_shown(entry), *[""] * int(entry.get("morecols", 0))]
                rows.append(cells)
                header += type(group).__name__ == "thead"
        self.blocks.append(table(rows, None, self.outline.path, header))

    def _words(self, text: str) -> None:
        text = " ".join(text.split())
        if self.listing.open:
            self.listing.add(text)
        else:
            self._emit(text, "text")

    def _end_list(self) -> None:
        self._emit(self.listing.take(), "list")

    def _emit(self, text: str, kind: Kind) -> None:
        if text.strip():
            self.blocks.append(Block(text, None, self.outline.path, kind))


def _shown(node: Any) -> str:
    """Return the words of a node that a reader sees."""
    parts = []
    stack = [node]
    while stack:
        item = stack.pop()
        name = type(item).__name__
        if name == "Text":
            parts.append(str(item))
        elif name == "image":
            parts.append(item.get("alt", ""))
        elif name not in _UNSEEN:
            if name in ("paragraph", "list_item", "line") and parts:
                parts.append(" ")
            stack.extend(reversed(item.children))
    return "".join(parts)
