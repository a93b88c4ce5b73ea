"""Reading Word, PowerPoint, Excel and OpenDocument files."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import app.retrieval.parsers.sheets as sheets
import app.retrieval.parsers.slides as slides
from app.retrieval.parsing import Block, DocumentError, read_here
from tests.retrieval.documents import zipped

OFFICE = [".docx", ".pptx", ".xlsx", ".odt", ".ods"]


def read(tmp_path: Path, filename: str, content: bytes) -> list[Block]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return read_here(path, filename)


def refusal(tmp_path: Path, filename: str, content: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as error:
        read(tmp_path, filename, content)
    assert filename in error.value.message
    return error.value


def saved(document: Any) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


# -- Word ---------------------------------------------------------------------------------


def test_word_lists_nest_and_merged_cells_are_written_once(tmp_path: Path) -> None:
    from docx import Document

    document = Document()
    document.add_paragraph("Bring:")
    document.add_paragraph("a key", style="List Bullet")
    document.add_paragraph("or card", style="List Bullet 2")
    document.add_paragraph("knock", style="List Number")
    grid = document.add_table(rows=2, cols=3)
    grid.cell(0, 0).merge(grid.cell(0, 1)).text = "Door"
    grid.cell(0, 2).text = "Fee"
    for column, text in enumerate(("North", "Ada", "12")):
        grid.cell(1, column).text = text
    assert [(b.kind, b.text) for b in read(tmp_path, "a.docx", saved(document))] == [
        ("text", "Bring:"),
        ("list", "- a key\n  - or card\n- knock"),
        ("table", "Door |  | Fee\nNorth | Ada | 12"),
    ]


# -- PowerPoint ---------------------------------------------------------------------------


def make_pptx() -> bytes:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    show = Presentation()
    first = show.slides.add_slide(show.slide_layouts[1])
    first.shapes.title.text = "The doors"
    frame = first.placeholders[1].text_frame
    frame.text = "North"
    inner = frame.add_paragraph()
    inner.text, inner.level = "with a key", 1
    first.notes_slide.notes_text_frame.text = "Say who keeps it."
    second = show.slides.add_slide(show.slide_layouts[5])
    second.shapes.title.text = "Fees"
    low = second.shapes.add_textbox(Inches(1), Inches(6), Inches(3), Inches(1))
    low.text_frame.text = "Below the table."
    grid = second.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for row, values in enumerate([("Door", "Fee"), ("North", "12")]):
        for column, value in enumerate(values):
            grid.cell(row, column).text = value
    data = CategoryChartData()
    data.categories = ["2024", "2025"]
    data.add_series("Callers", (10, 12.5))
    place = (Inches(1), Inches(6.5), Inches(4), Inches(2))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data)
    hidden = show.slides.add_slide(show.slide_layouts[5])
    hidden.shapes.title.text = "Hidden"
    hidden._element.set("show", "0")
    return saved(show)


def test_slides_are_pages_with_titles_lists_tables_charts_and_notes(tmp_path: Path) -> None:
    assert read(tmp_path, "a.pptx", make_pptx()) == [
        Block("The doors", 1, "The doors", "heading"),
        Block("- North\n  - with a key", 1, "The doors", "list"),
        Block("Notes: Say who keeps it.", 1, "The doors", "text"),
        Block("Fees", 2, "Fees", "heading"),
        Block("Door | Fee\nNorth | 12", 2, "Fees", "table", 1),
        Block("Below the table.", 2, "Fees", "text"),
        Block("| Callers\n2024 | 10\n2025 | 12.5", 2, "Fees", "table", 1),
    ]


def test_too_many_slides_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "MAX_SLIDES", 2)
    assert refusal(tmp_path, "a.pptx", make_pptx()).code == "too_many_pages"


# -- Excel --------------------------------------------------------------------------------


def make_xlsx(fill: Callable[[Any], None]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    fill(book)
    return saved(book)


def test_sheets_are_sections_and_their_rows_stand_under_a_header(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        sheet = book.active
        sheet.title = "Fees"
        sheet.append(["Fees of the doors"])
        sheet.append(["Door", "Since", "Fee", "Open"])
        sheet.append(["North", datetime.datetime(2024, 5, 1), 12.5, True])
        sheet.append(["South", datetime.datetime(2024, 5, 1, 8, 30), 7, None])
        sheet.append([])
        sheet.append(["Keeper", "Shift"])
        sheet.append(["Ada", "night"])
        book.create_sheet("Empty")
        hidden = book.create_sheet("Hidden")
        hidden.append(["secret"])
        hidden.sheet_state = "hidden"

    assert read(tmp_path, "a.xlsx", make_xlsx(fill)) == [
        Block("Fees", None, "Fees", "heading"),
        Block("Fees of the doors", None, "Fees", "text"),
        Block(
            "Door | Since | Fee | Open\nNorth | 2024-05-01 | 12.5 | TRUE\n"
            "South | 2024-05-01 08:30:00 | 7 |",
            None,
            "Fees",
            "table",
            1,
        ),
        Block("Keeper | Shift\nAda | night", None, "Fees", "table", 1),
    ]


def test_a_long_sheet_names_its_columns_in_every_block(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        book.active.append(["Number", "Square"])
        for i in range(200):
            book.active.append([i, i * i])

    tables = [b for b in read(tmp_path, "a.xlsx", make_xlsx(fill)) if b.kind == "table"]
    assert len(tables) == 5
    assert all(b.text.startswith("Number | Square\n") for b in tables)
    rows = [line for b in tables for line in b.text.split("\n")[1:]]
    assert rows == [f"{i} | {i * i}" for i in range(200)]


def test_a_formula_shows_the_value_it_last_had(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        book.active.append(["Fee", "Sum"])
        book.active.append([12, "=A2*2"])

    content = make_xlsx(fill)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = "xl/worksheets/sheet1.xml"
    # openpyxl writes no values of formulas, as Excel does
    entries[name] = re.sub(rb"</f><v ?/?>(</v>)?", b"</f><v>24</v>", entries[name])
    assert read(tmp_path, "a.xlsx", zipped(entries))[-1].text == "Fee | Sum\n12 | 24"


def test_a_sheet_of_too_many_cells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "MAX_CELLS", 100)

    def fill(book: Any) -> None:
        book.active["ZZ50"] = "far away"

    assert refusal(tmp_path, "a.xlsx", make_xlsx(fill)).code == "too_large"


def test_a_sheet_that_declares_billions_of_cells_is_read_at_once(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        book.active["A1"] = "first"
        book.active["XFD1048576"] = "last"

    with pytest.raises(DocumentError) as error:
        blocks = read(tmp_path, "a.xlsx", make_xlsx(fill))
        raise DocumentError("read", str(len(blocks)))
    assert error.value.code in ("read", "too_large")


# -- OpenDocument -------------------------------------------------------------------------

NAMESPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "table")
)
MANIFEST = {"META-INF/manifest.xml": b"<manifest/>"}


def odf(body: str, manifest: bytes = MANIFEST["META-INF/manifest.xml"]) -> bytes:
    content = f"<office:document-content {NAMESPACES}><office:body>{body}</office:body>"
    xml = f"{content}</office:document-content>".encode()
    return zipped({"content.xml": xml, "META-INF/manifest.xml": manifest})


def test_opendocument_text_keeps_headings_lists_and_tables(tmp_path: Path) -> None:
    body = """<office:text>
    <text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>
    <text:h text:outline-level="1">Doors</text:h>
    <text:p>The<text:s text:c="1"/>north<text:tab/>door<text:note><text:p>x</text:p></text:note>.
    </text:p>
    <text:list><text:list-item><text:p>a key</text:p><text:list><text:list-item>
    <text:p>or card</text:p></text:list-item></text:list></text:list-item></text:list>
    <table:table><table:table-row><table:table-cell><text:p>Door</text:p></table:table-cell>
    <table:table-cell><text:p>Fee</text:p></table:table-cell></table:table-row>
    <table:table-row><table:table-cell><text:p>North</text:p></table:table-cell>
    <table:table-cell><text:p>12</text:p></table:table-cell></table:table-row></table:table>
    </office:text>"""
    blocks = read(tmp_path, "a.odt", odf(body))
    assert [(b.kind, " ".join(b.text.split())) for b in blocks] == [
        ("heading", "Doors"),
        ("text", "The north door."),
        ("list", "- a key - or card"),
        ("table", "Door | Fee North | 12"),
    ]
    assert {b.section for b in blocks} == {"Doors"}


def test_opendocument_sheets_are_sections_and_endless_repeats_end(tmp_path: Path) -> None:
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    rows = "".join(
        f"<table:table-row>{cell.format(a)}{cell.format(b)}</table:table-row>"
        for a, b in (("Door", "Fee"), ("North", "12"))
    )
    empty = (
        '<table:table-row table:number-rows-repeated="1048576">'
        '<table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    )
    body = f'<table:table table:name="Fees">{rows}{empty}</table:table>'
    blocks = read(tmp_path, "a.ods", odf(f"<office:spreadsheet>{body}</office:spreadsheet>"))
    assert blocks == [
        Block("Fees", None, "Fees", "heading"),
        Block("Door | Fee\nNorth | 12", None, "Fees", "table", 1),
    ]


def test_opendocument_reads_no_entities(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    xml = (
        f'<!DOCTYPE x [<!ENTITY s SYSTEM "file://{secret}">]><office:document-content {NAMESPACES}>'
        "<office:body><office:text><text:p>kept &s;</text:p></office:text></office:body>"
        "</office:document-content>"
    ).encode()
    try:
        blocks = read(tmp_path, "a.odt", zipped({"content.xml": xml, **MANIFEST}))
        assert "secret words" not in " ".join(b.text for b in blocks)
    except DocumentError as error:
        assert error.code == "corrupt_file"


def test_an_encrypted_opendocument_file_is_refused(tmp_path: Path) -> None:
    content = odf("", b"<manifest><encryption-data/></manifest>")
    assert refusal(tmp_path, "a.odt", content).code == "encrypted_file"


# -- refusals of all ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", OFFICE)
def test_a_password_and_an_older_format_are_told_apart(tmp_path: Path, suffix: str) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)
    locked = ole + "EncryptedPackage".encode("utf-16-le") + bytes(2000)
    assert refusal(tmp_path, f"a{suffix}", locked).code == "encrypted_file"
    error = refusal(tmp_path, f"a{suffix}", ole)
    assert error.code == "corrupt_file"
    assert "older format" in error.message


@pytest.mark.parametrize("suffix", OFFICE)
def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, suffix: str) -> None:
    assert refusal(tmp_path, f"a{suffix}", zipped({"x.xml": bytes(30_000_000)})).code == "zip_bomb"


def test_an_empty_presentation_and_workbook_say_that_they_hold_no_text(tmp_path: Path) -> None:
    from pptx import Presentation

    assert refusal(tmp_path, "a.pptx", saved(Presentation())).code == "empty_document"
    assert refusal(tmp_path, "a.xlsx", make_xlsx(lambda book: None)).code == "empty_document"
