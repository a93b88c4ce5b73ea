"""Reading PDF pages as a person reads them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.retrieval.parsers.pdf as pdf
from app.retrieval.parsers.layout import Grid, Rule, Span, read_order
from app.retrieval.parsing import Block, DocumentError, read_here
from tests.retrieval.documents import drawn_pdf, report_pdf


def read(tmp_path: Path, content: bytes) -> list[Block]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return read_here(path, "a.pdf")


def texts(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks]


def test_a_report_is_read_by_columns_with_sections_tables_lists_and_code(tmp_path: Path) -> None:
    blocks = read(tmp_path, report_pdf(4))
    title = "The Keepers of the Door"
    assert [(b.page, b.section, b.kind) for b in blocks[:7]] == [
        (1, title, "heading"),
        (1, f"{title} > Chapter A", "heading"),
        (1, f"{title} > Chapter A", "text"),
        (1, f"{title} > Chapter A", "table"),
        (1, f"{title} > Chapter A", "code"),
        (1, f"{title} > Chapter A", "list"),
        (1, f"{title} > Chapter A", "text"),
    ]
    assert texts(blocks)[3:6] == [
        "Door | Keeper | Fee\nNorth | Ada | 12\nSouth | Bo | 7",
        "def knock(door):\n    return door.open()",
        "- first the north door\n- then the south door",
    ]
    assert blocks[3].header == 1
    left, right = blocks[2].text, blocks[6].text
    assert left.startswith("Left0x0") and left.endswith(".") and "ight0x" not in left
    assert right.startswith("Right0x0") and right.endswith(".") and "eft0x" not in right
    assert [b.page for b in blocks if b.kind == "heading"] == [1, 1, 2, 3, 4]


def test_running_heads_feet_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    everything = " ".join(texts(read(tmp_path, report_pdf(4))))
    assert "Annual report" not in everything
    assert "Page 2" not in everything


def test_columns_are_read_one_after_the_other_whatever_the_order_in_the_file(
    tmp_path: Path,
) -> None:
    lines = [(x, 700 - 14 * i, f"{side} column line {i:02} goes on") for i in range(20)
             for x, side in ((60, "first"), (230, "middle"), (400, "third"))]  # fmt: skip
    random.Random(7).shuffle(lines)

    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica", 11)
        for x, y, text in lines:
            canvas.drawString(x, y, text)
        canvas.drawString(
            60, 730, "A line above all columns that is as wide as all of them together"
        )

    whole = " ".join(texts(read(tmp_path, drawn_pdf(draw))))
    assert whole.startswith("A line above all")
    places = [whole.index(f"{side} column line {i:02}") for side in ("first", "middle", "third")
              for i in range(20)]  # fmt: skip
    assert places == sorted(places)


def test_words_broken_at_line_ends_are_joined_and_ligatures_are_letters(tmp_path: Path) -> None:
    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica", 11)
        for i, line in enumerate(
            ["The of\ufb01ce keeps every docu-", "ment of the well-", "Known."]
        ):
            canvas.drawString(60, 700 - 14 * i, line.replace("\ufb01", "fi"))

    assert texts(read(tmp_path, drawn_pdf(draw))) == [
        "The office keeps every document of the well- Known."
    ]


def test_a_table_without_lines_is_a_table_where_its_cells_stand_in_columns(tmp_path: Path) -> None:
    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica", 11)
        canvas.drawString(60, 730, "The fees of this year are these, as the keepers agreed:")
        rows = [("Door", "Keeper", "Fee"), ("North", "Ada", "12"), ("South", "Bo", "7")]
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                canvas.drawString(60 + 120 * x, 700 - 16 * y, cell)

    blocks = read(tmp_path, drawn_pdf(draw))
    assert blocks[-1].kind == "table"
    assert blocks[-1].text == "Door | Keeper | Fee\nNorth | Ada | 12\nSouth | Bo | 7"


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_page_is_read_upright(tmp_path: Path, turn: int) -> None:
    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica", 11)
        canvas.translate(306, 396)
        canvas.rotate(turn)
        for i in range(3):
            canvas.drawString(-200, 100 - 14 * i, f"line {i} of a page that was turned")

    assert texts(read(tmp_path, drawn_pdf(draw))) == [
        " ".join(f"line {i} of a page that was turned" for i in range(3))
    ]


def test_a_sentence_that_a_page_breaks_is_one_paragraph_on_its_first_page(tmp_path: Path) -> None:
    halves = iter(["The keeper opened the", "door at noon."])

    def draw(canvas: Any) -> None:
        canvas.drawString(60, 400, next(halves))

    blocks = read(tmp_path, drawn_pdf(draw, pages=2))
    assert [(b.page, b.text) for b in blocks] == [(1, "The keeper opened the door at noon.")]


def test_a_contents_page_keeps_titles_beside_their_numbers(tmp_path: Path) -> None:
    def draw(canvas: Any) -> None:
        for i in range(8):
            canvas.drawString(60, 700 - 16 * i, f"Chapter about door {i} " + ". " * 30)
            canvas.drawRightString(550, 700 - 16 * i, str(10 + i))

    whole = " ".join(texts(read(tmp_path, drawn_pdf(draw))))
    assert "Chapter about door 3 | 13" in whole or "Chapter about door 3 13" in whole


def test_a_document_of_too_many_characters_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 500)
    with pytest.raises(DocumentError) as error:
        read(tmp_path, report_pdf(1))
    assert error.value.code == "too_large"


def test_threads_may_read_pdfs_at_the_same_time(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.pdf" for i in range(4)]
    for i, path in enumerate(paths):
        path.write_bytes(report_pdf(i + 1))
    alone = [read_here(path, "a.pdf") for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda path: read_here(path, "a.pdf"), paths * 3)) == alone * 3


def test_a_damaged_file_ends_in_text_or_a_refusal(tmp_path: Path) -> None:
    good, chance = report_pdf(2), random.Random(3)
    for _ in range(60):
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 40)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            assert read(tmp_path, bytes(broken[: chance.randrange(200, len(broken))]))
        except DocumentError as error:
            assert error.code in ("corrupt_file", "empty_document", "encrypted_pdf")


PLACES = st.floats(-50, 900, allow_nan=False)
SPANS = st.lists(
    st.builds(
        lambda text, x, y, width, size: Span(text, x, y, x + width, y + size, size),
        st.text(alphabet="abc. ", min_size=1, max_size=40).filter(str.strip),
        PLACES,
        PLACES,
        st.floats(1, 500),
        st.floats(4, 40),
    ),
    max_size=40,
)
RULES = st.lists(
    st.builds(
        lambda x, y, length, level: Rule(x, y, x + length * level, y + length * (1 - level)),
        PLACES,
        PLACES,
        st.floats(0, 600),
        st.integers(0, 1),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(SPANS, RULES)
def test_no_arrangement_of_words_loses_or_doubles_a_letter(spans: list[Span], rules: list[Rule]):
    found: list[str] = []
    for item in read_order(spans, rules):
        found += [c for row in item.rows for c in row] if isinstance(item, Grid) else [item.text]
    letters = sorted("".join(found).replace(" ", "").replace(".", ""))
    assert letters == sorted("".join(s.text for s in spans).replace(" ", "").replace(".", ""))
