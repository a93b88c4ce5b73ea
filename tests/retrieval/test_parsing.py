"""Reading documents of every supported format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import app.retrieval.parsers.pdf as pdf
from app.retrieval.parsing import SUPPORTED, Block, DocumentError, read_here
from tests.retrieval.documents import make_docx, make_pdf, zipped


def read(tmp_path: Path, filename: str, content: str | bytes) -> list[Block]:
    path = tmp_path / "upload"  # the stored name says nothing; the format is the filename's
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_here(path, filename)


def refusal(tmp_path: Path, filename: str, content: str | bytes) -> DocumentError:
    with pytest.raises(DocumentError) as error:
        read(tmp_path, filename, content)
    assert filename in error.value.message
    return error.value


def texts(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks]


# -- PDF ----------------------------------------------------------------------------------


def test_pdf_text_knows_its_page(tmp_path: Path) -> None:
    blocks = read(tmp_path, "a.pdf", make_pdf([["First page exam-", "ple."], ["Second page."]]))
    assert [(b.page, b.text) for b in blocks] == [(1, "First page example."), (2, "Second page.")]


def test_pdf_bookmarks_become_sections(tmp_path: Path) -> None:
    pages = [["Before.", "Refunds", "Paid in days."], ["Still refunds.", "Shipping", "By sea."]]
    blocks = read(tmp_path, "a.pdf", make_pdf(pages, [("Refunds", 0), ("Shipping", 1)]))
    assert [(b.section, b.kind, b.text) for b in blocks] == [
        (None, "text", "Before."),
        ("Refunds", "heading", "Refunds"),
        ("Refunds", "text", "Paid in days."),
        ("Refunds", "text", "Still refunds."),
        ("Shipping", "heading", "Shipping"),
        ("Shipping", "text", "By sea."),
    ]


def test_a_pdf_with_a_password_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "a.pdf", make_pdf([["Secret."]], password="x"))
    assert error.code == "encrypted_pdf"
    assert "Remove the password" in error.message


def test_a_pdf_that_opens_with_an_empty_password_is_read(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.pdf", make_pdf([["Open."]], password=""))) == ["Open."]


def test_a_pdf_without_text_asks_for_ocr(tmp_path: Path) -> None:
    error = refusal(tmp_path, "scan.pdf", make_pdf([[]]))
    assert error.code == "empty_document"
    assert "OCR" in error.message


def test_a_pdf_with_too_many_pages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    assert refusal(tmp_path, "a.pdf", make_pdf([["x"]] * 3)).code == "too_many_pages"


# -- Word ---------------------------------------------------------------------------------


def test_word_headings_and_tables_keep_their_place(tmp_path: Path) -> None:
    assert read(tmp_path, "a.docx", make_docx()) == [
        Block("Handbook", None, "Handbook", "heading"),
        Block("Welcome.", None, "Handbook", "text"),
        Block("Leave", None, "Handbook > Leave", "heading"),
        Block("Kind | Days\nHoliday | 30", None, "Handbook > Leave", "table", 1),
        Block("Ask your lead.", None, "Handbook > Leave", "text"),
    ]


def test_a_word_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = zipped({"word/document.xml": bytes(30_000_000)})
    assert len(bomb) < 100_000
    assert refusal(tmp_path, "a.docx", bomb).code == "zip_bomb"


def test_a_word_file_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    honest = bytearray(zipped({"word/document.xml": bytes(30_000_000)}))
    real, small = (30_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    lying = bytes(honest).replace(real, small)
    assert refusal(tmp_path, "a.docx", lying).code in ("zip_bomb", "corrupt_file")


# -- HTML and Markdown --------------------------------------------------------------------


def test_html_keeps_headings_code_and_tables_and_drops_the_chrome(tmp_path: Path) -> None:
    page = """<!doctype html><title>T</title><nav>Menu</nav><script>evil()</script>
    <main><h1>Guide</h1><p>Read <b>this</b> first.<h2>Run ¶</h2>
    <pre>make up
  --fast</pre><ul><li>One<li>Two</ul>after
    <table><tr><th>Port<th>Use<tr><td>80<td>web</table></main><footer>Bye</footer>"""
    assert read(tmp_path, "a.html", page) == [
        Block("Guide", None, "Guide", "heading"),
        Block("Read this first.", None, "Guide", "text"),
        Block("Run", None, "Guide > Run", "heading"),
        Block("make up\n  --fast", None, "Guide > Run", "code"),
        Block("- One\n- Two", None, "Guide > Run", "list"),
        Block("after", None, "Guide > Run", "text"),
        Block("Port | Use\n80 | web", None, "Guide > Run", "table", 1),
    ]


def test_html_in_another_charset_is_decoded(tmp_path: Path) -> None:
    page = '<meta charset="iso-8859-1"><p>Zürich'.encode("latin-1")
    assert texts(read(tmp_path, "a.htm", page)) == ["Zürich"]
    assert texts(read(tmp_path, "a.htm", "<p>Zürich €")) == ["Zürich €"]


def test_html_prefers_the_main_part_and_drops_what_stands_beside_it(tmp_path: Path) -> None:
    page = """<header>Logo</header><aside>Related</aside><div role="search">Find</div>
    <p>Cookies</p><main><header><h1>Fees</h1></header><p hidden>no</p>
    <p style="display: none">no</p><p>Twelve.</p><aside>Also read</aside></main><p>Legal</p>"""
    assert texts(read(tmp_path, "a.html", page)) == ["Fees", "Twelve."]
    beside = "<header>Logo</header><nav>Menu</nav><p>Words.</p><footer>Legal</footer>"
    assert texts(read(tmp_path, "a.html", beside)) == ["Words."]


def test_html_lists_terms_and_spanning_cells_keep_their_meaning(tmp_path: Path) -> None:
    page = """<p>Bring:</p><ol start=3><li>a key<ul><li>or card</ul><li><p>a name</p></ol>
    <dl><dt>Keeper<dd>Lets you in.<dt>Fee<dd><p>Twelve.</p></dl>
    <table><thead><tr><th>Door<th colspan=2>Keepers<tr><th><th>day<th>night</thead>
    <tr><td rowspan=2>North<td>Ada<td>Bo<tr><td>Cy<td>Di</table>
    <table><tr><td><h2>Laid out</h2><p>Words<td>More</table>"""
    assert [(b.kind, b.text, b.header) for b in read(tmp_path, "a.html", page)] == [
        ("text", "Bring:", 0),
        ("list", "3. a key\n  - or card\n4. a name", 0),
        ("text", "Keeper: Lets you in.", 0),
        ("text", "Fee: Twelve.", 0),
        ("table", "Door | Keepers |\n | day | night\nNorth | Ada | Bo\nNorth | Cy | Di", 2),
        ("heading", "Laid out", 0),
        ("text", "Words", 0),
        ("text", "More", 0),
    ]


def test_html_spans_cannot_multiply_without_end(tmp_path: Path) -> None:
    row = "<tr>" + f"<td rowspan=1000 colspan=1000>{'x' * 100}" * 20
    blocks = read(tmp_path, "a.html", "<table>" + row * 300 + "</table>")
    assert sum(len(b.text) for b in blocks) < 10_000_000


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("<meta charset=iso-8859-1>", "cp1252"),
        ('<meta http-equiv=x content="text/html; charset=windows-1251">', "cp1251"),
        ('<?xml version="1.0" encoding="shift_jis"?>', "shift_jis"),
        ("<meta charset=no-such>", "cp1252"),
        ("", "utf-16"),
        ("", "utf-8-sig"),
        ("", "cp1252"),
    ],
)
def test_html_charsets_are_recognised(tmp_path: Path, head: str, encoding: str) -> None:
    words = {"cp1251": "Ключ", "shift_jis": "鍵は北"}.get(encoding, "Schlüssel – 12 €")
    assert texts(read(tmp_path, "a.html", f"{head}<p>{words}".encode(encoding))) == [words]


def test_deeply_nested_html_does_not_crash(tmp_path: Path) -> None:
    try:
        assert "word" in " ".join(texts(read(tmp_path, "a.html", "<div>" * 20_000 + "word")))
    except DocumentError as error:
        assert error.code in ("corrupt_file", "empty_document")


def test_markdown_keeps_its_structure(tmp_path: Path) -> None:
    page = """# Guide

Some *bold* `code` and a [link](http://x).

## Run

```sh
make up
```

| a | b |
|---|---|
| 1 | 2 |

- item one
"""
    assert read(tmp_path, "a.md", page) == [
        Block("Guide", None, "Guide", "heading"),
        Block("Some bold code and a link.", None, "Guide", "text"),
        Block("Run", None, "Guide > Run", "heading"),
        Block("make up", None, "Guide > Run", "code"),
        Block("a | b\n1 | 2", None, "Guide > Run", "table", 1),
        Block("- item one", None, "Guide > Run", "list"),
    ]


def test_markdown_lists_nest_and_front_matter_is_no_heading(tmp_path: Path) -> None:
    page = "---\ntitle: Doors\n---\n\nBring:\n\n2. a key\n   - or card\n3. a name\n\n   or two\n"
    assert [(b.kind, b.text) for b in read(tmp_path, "a.md", page)] == [
        ("table", "title: Doors"),
        ("text", "Bring:"),
        ("list", "2. a key\n  - or card\n3. a name\n  or two"),
    ]


# -- plain text and reStructuredText ------------------------------------------------------

RST = """\
.. _guide:

=====
Guide
=====

.. toctree::
   :maxdepth: 2

   hidden

Use :class:`~django.db.models.Model` or :meth:`save() <Model.save>`, see ``x`` and
`the site <https://example.org>`_ in *this* **way**. ``*args`` stay.

.. note::

    Mind the :setting:`DEBUG` gap.

Run
===

Do this::

    make up
      --fast

.. code-block:: python
    :linenos:

    import os

.. method:: QuerySet.filter(*args, **kwargs)

    Filters.

=====  =====
Name   Use
=====  =====
a      ``b``

c      d
=====  =====

Deeper
------

>>> 1 + 1
2

End.
"""


@pytest.mark.parametrize("filename", ["a.rst", "a.txt"])
def test_rst_is_read_as_its_reader_sees_it(tmp_path: Path, filename: str) -> None:
    run = "Guide > Run"
    exact = filename == "a.rst"  # a .txt that only looks like RST is read line by line
    note = [Block("Note: Mind the DEBUG gap.", None, "Guide", "text")]
    loose = [Block(t, None, "Guide", "text") for t in ("Note", "Mind the DEBUG gap.")]
    grid = Block("Name | Use\na | b\nc | d", None, run, "table", 1)
    lines = Block("Name   Use\na      b\nc      d", None, run, "table")
    assert read(tmp_path, filename, RST) == [
        Block("Guide", None, "Guide", "heading"),
        Block(
            "Use Model or save(), see x and the site in this way. *args stay.",
            None,
            "Guide",
            "text",
        ),
        *(note if exact else loose),
        Block("Run", None, run, "heading"),
        Block("Do this:", None, run, "text"),
        Block("make up\n  --fast", None, run, "code"),
        Block("import os", None, run, "code"),
        Block("QuerySet.filter(*args, **kwargs)", None, run, "text"),
        Block("Filters.", None, run, "text"),
        grid if exact else lines,
        Block("Deeper", None, "Guide > Run > Deeper", "heading"),
        Block(">>> 1 + 1\n2", None, "Guide > Run > Deeper", "code"),
        Block("End.", None, "Guide > Run > Deeper", "text"),
    ]


def test_rst_lists_terms_and_grid_tables_keep_their_structure(tmp_path: Path) -> None:
    page = """\
Ways in
=======

1. North door

   - with a key
   - with a card

2. South door

Keeper
    Lets callers in.

:fee: twelve

+-------+-----------+
| Door  | Keeper    |
+=======+===========+
| North | Ada, who  |
|       | has a key |
+-------+-----------+

.. versionadded:: 2.0
   The south door.
"""
    assert [(b.kind, b.text) for b in read(tmp_path, "a.rst", page)] == [
        ("heading", "Ways in"),
        ("list", "1. North door\n  - with a key\n  - with a card\n2. South door"),
        ("text", "Keeper: Lets callers in."),
        ("text", "fee: twelve"),
        ("table", "Door | Keeper\nNorth | Ada, who has a key"),
        ("text", "Added in version 2.0: The south door."),
    ]


def test_rst_reads_no_other_file_and_changes_nothing_for_the_next_document(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    page = f"""
.. include:: {secret}
.. literalinclude:: {secret}
.. csv-table::
   :file: {secret}
.. raw:: html
   :file: {secret}
.. role:: door(raw)
   :format: html
.. default-role:: door

:raw:`<b>` `plain` :door:`kept`
"""
    first = " ".join(texts(read(tmp_path, "a.rst", page)))
    assert "secret words" not in first
    assert "kept" in first
    assert texts(read(tmp_path, "b.rst", "`plain` and :door:`x`")) == ["plain and x"]


def test_plain_text_is_cut_at_blank_lines_and_its_marks_are_left_alone(tmp_path: Path) -> None:
    blocks = read(tmp_path, "a.txt", "One *two*\nthree.\r\n\r\n  Four `five`.\n")
    assert texts(blocks) == ["One *two*\nthree.", "Four `five`."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_encodings_are_recognised(tmp_path: Path, encoding: str) -> None:
    assert texts(read(tmp_path, "a.txt", "Größe – fünf".encode(encoding))) == ["Größe – fünf"]


def test_what_no_store_can_hold_is_removed(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.txt", "a\x01b\x7fc")) == ["abc"]
    assert texts(read(tmp_path, "a.json", '["x\\u0000y\\ud800z"]')) == ["xyz"]


# -- CSV and JSON -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")]
)
def test_csv_rows_name_their_columns(tmp_path: Path, filename: str, separator: str) -> None:
    rows = [["name", "note"], ["Ada", '"a, b; c"'], ["", ""], ["Bo", "", "extra"]]
    content = "\n".join(separator.join(row) for row in rows)
    blocks = read(tmp_path, filename, content)
    assert texts(blocks) == ["name: Ada\nnote: a, b; c", "name: Bo\ncolumn 3: extra"]


def test_json_is_flattened_to_paths(tmp_path: Path) -> None:
    value = {"user": {"name": "Ada", "tags": ["x", "y"]}, "active": True, "none": None}
    assert texts(read(tmp_path, "a.json", json.dumps(value))) == [
        "user.name: Ada\nuser.tags[0]: x\nuser.tags[1]: y",
        "active: true",
    ]
    assert texts(read(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')) == ["a: 1", "a: 2"]


# -- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize("filename", ["a.exe", "a", "a.doc", "a.pdf.zip"])
def test_an_unknown_format_is_refused_with_what_would_do(tmp_path: Path, filename: str) -> None:
    error = refusal(tmp_path, filename, "x")
    assert error.code == "unsupported_file"
    assert ".docx" in error.message


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("a.pdf", b"not a pdf"),
        ("a.pdf", make_pdf([["x"]])[:200]),
        ("a.docx", b"PK\x03\x04 broken"),
        ("a.docx", b"plain"),
        ("a.docx", zipped({"other.xml": b"<a/>"})),
        ("a.pptx", zipped({"other.xml": b"<a/>"})),
        ("a.xlsx", zipped({"other.xml": b"<a/>"})),
        ("a.odt", zipped({"content.xml": b"<a/>"})),
        ("a.ods", b"plain"),
        ("a.png", b"\x89PNG\r\n\x1a\n broken"),
        ("a.eml", b"no header at all, but words\n\n" * 9),
        ("a.mbox", b"no mailbox"),
        ("a.txt", b"\x00\x01\x02"),
        ("a.html", b"\x89PNG\x00\x00"),
        ("a.json", b"{"),
        ("a.json", b"[" * 100_000),
        ("a.jsonl", b'{"a": 1}\n{'),
        ("a.csv", b'a,b\n"' + b"x" * 200_000),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, filename: str, content: bytes) -> None:
    assert refusal(tmp_path, filename, content).code == "corrupt_file"


def test_a_broken_json_line_is_named(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "a.jsonl", '{"a": 1}\n{').message


TEXTUAL = [".html", ".md", ".rst", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".eml", ".mbox"]


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    assert refusal(tmp_path, f"a{suffix}", b" \n").code == "empty_document"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(suffix=st.sampled_from(SUPPORTED), content=st.binary(max_size=300))
def test_no_bytes_end_in_anything_but_blocks_or_a_refusal(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    try:
        assert read(tmp_path, f"a{suffix}", content)
    except DocumentError as error:
        assert error.code in ("corrupt_file", "empty_document")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    suffix=st.sampled_from([".rst", ".txt", ".md", ".html", ".csv", ".eml", ".mbox"]),
    content=st.text(alphabet="ab =-`*:.|+<>/#\n\t ", max_size=300),
)
def test_any_markup_is_read_without_a_crash(tmp_path: Path, suffix: str, content: str) -> None:
    try:
        assert read(tmp_path, f"a{suffix}", content)
    except DocumentError as error:
        assert error.code in ("corrupt_file", "empty_document")
