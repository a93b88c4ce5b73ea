"""Makes the documents that the parser tests read, with the tools that people make them with."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

WORDS = str.split(
    "the keeper of the door lets each caller in by name and writes down what was asked and what "
    "was answered so that nobody has to guess later why a thing was said or who had paid for it"
)


def prose(words: int, mark: str) -> str:
    """Return a sentence-like text in which every tenth word is numbered."""
    made = [f"{mark}{i // 10}" if i % 10 == 0 else WORDS[i % len(WORDS)] for i in range(words)]
    made[0] = made[0].capitalize()
    return " ".join(made) + "."


def report_pdf(pages: int = 4, password: str | None = None) -> bytes:
    """A paper: title, two columns a page, headings by size, a ruled table, running head, foot."""
    from reportlab.lib import colors, pagesizes, styles
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.platypus import (
        BaseDocTemplate,
        Frame,
        FrameBreak,
        NextPageTemplate,
        PageTemplate,
        Paragraph,
        Preformatted,
        Table,
        TableStyle,
    )

    width, height = pagesizes.A4
    sheet = styles.getSampleStyleSheet()
    body = styles.ParagraphStyle(
        "b", fontName="Times-Roman", fontSize=10, leading=12, spaceAfter=6, alignment=4
    )
    big = styles.ParagraphStyle("h1", fontName="Helvetica-Bold", fontSize=14, leading=18)
    title = styles.ParagraphStyle("t", fontName="Helvetica-Bold", fontSize=22, leading=26)

    def furniture(canvas: Any, document: Any) -> None:
        canvas.setFont("Times-Roman", 9)
        canvas.drawString(60, height - 40, f"Annual report of the keepers, part {document.page}")
        canvas.drawCentredString(width / 2, 30, f"Page {document.page}")

    out = io.BytesIO()
    column = (width - 140) / 2
    whole = Frame(60, height - 120, width - 120, 60, 0, 0, 0, 0)
    first = [Frame(60, 60, column, height - 190), Frame(80 + column, 60, column, height - 190)]
    later = [Frame(60, 60, column, height - 120), Frame(80 + column, 60, column, height - 120)]
    encryption = StandardEncryption(password, strength=128) if password else None
    document = BaseDocTemplate(out, pagesize=(width, height), encrypt=encryption)
    document.addPageTemplates(
        [
            PageTemplate("first", [whole, *first], onPage=furniture),
            PageTemplate("later", later, onPage=furniture),
        ]
    )
    story: list[Any] = [Paragraph("The Keepers of the Door", title), FrameBreak()]
    story.append(NextPageTemplate("later"))
    for page in range(pages):
        story.append(Paragraph(f"Chapter {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[page % 26]}", big))
        story.append(Paragraph(prose(150, f"left{page}x"), body))
        if page == 0:
            cells = [["Door", "Keeper", "Fee"], ["North", "Ada", "12"], ["South", "Bo", "7"]]
            grid = TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black)])
            story.append(Table(cells, style=grid))
            code = "def knock(door):\n    return door.open()"
            story.append(Preformatted(code, sheet["Code"]))
            items = ("first the north door", "then the south door")
            story.extend(Paragraph(f"• {item}", body) for item in items)
        story.append(FrameBreak())
        story.append(Paragraph(prose(150, f"right{page}x"), body))
        if page < pages - 1:
            story.append(FrameBreak())
    document.build(story)
    return out.getvalue()


def drawn_pdf(draw: Callable[[Any], None], pages: int = 1) -> bytes:
    """A PDF whose pages ``draw`` paints on a reportlab canvas of 612 x 792 points."""
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(612, 792))
    for _ in range(pages):
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    """An archive of ``entries``, compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def make_pdf(
    pages: list[list[str]], bookmarks: list[tuple[str, int]] = (), password: str | None = None
) -> bytes:
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    reference = writer._add_object(font)
    for lines in pages:
        page = writer.add_blank_page(width=612, height=792)
        fonts = DictionaryObject({NameObject("/F1"): reference})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    for title, page_number in bookmarks:
        writer.add_outline_item(title=title, page_number=page_number)
    if password is not None:
        writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def make_docx() -> bytes:
    from docx import Document

    document = Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("Welcome.")
    document.add_heading("Leave", 1)
    table = document.add_table(rows=2, cols=2)
    for row, values in enumerate([("Kind", "Days"), ("Holiday", "30")]):
        for column, value in enumerate(values):
            table.cell(row, column).text = value
    document.add_paragraph("Ask your lead.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
