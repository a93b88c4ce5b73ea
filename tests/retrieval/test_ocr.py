"""Reading pictures of text."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import pytest

import app.retrieval.parsers.ocr as ocr
from app.retrieval.parsing import Block, DocumentError, read_here
from tests.conftest import package
from tests.retrieval.documents import drawn_pdf


@pytest.fixture(scope="module")
def picture() -> Any:
    """A picture of two lines of text, as a PDF viewer shows them."""
    import pypdfium2

    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica", 24)
        canvas.drawString(20, 760, "The keeper opens")
        canvas.drawString(20, 720, "the door at noon.")

    page = pypdfium2.PdfDocument(drawn_pdf(draw))[0]
    return page.render(scale=1.5).to_pil().crop((0, 0, 450, 150))


def read(tmp_path: Path, content: bytes, filename: str) -> list[Block]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return read_here(path, filename)


def encoded(picture: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_a_picture_of_text_is_read_without_the_network(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("rapidocr")

    def refuse(*_: object) -> None:
        raise AssertionError("OCR reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(ocr, "_engine", None)
    blocks = read(tmp_path, encoded(picture, "PNG"), "a.png")
    assert [(b.page, b.text) for b in blocks] == [(1, "The keeper opens the door at noon.")]


def test_each_frame_of_a_tiff_is_a_page(tmp_path: Path, picture: Any) -> None:
    package("rapidocr")
    content = encoded(picture, "TIFF", save_all=True, append_images=[picture])
    pages = [b.page for b in read(tmp_path, content, "a.tiff")]
    assert pages == [1, 2]


def test_a_scanned_page_of_a_pdf_is_read(tmp_path: Path, picture: Any) -> None:
    package("rapidocr")
    from reportlab.lib.utils import ImageReader

    def draw(canvas: Any) -> None:
        canvas.drawImage(ImageReader(picture), 6, 500, 600, 200)
        canvas.drawImage(ImageReader(picture.crop((440, 100, 450, 150))), 0, 0, 612, 480)

    blocks = read(tmp_path, drawn_pdf(draw), "a.pdf")
    assert "keeper opens" in " ".join(b.text for b in blocks)
    assert blocks[0].page == 1


def test_a_picture_without_the_extra_says_what_to_install(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr, "available", lambda: False)
    with pytest.raises(DocumentError) as error:
        read(tmp_path, encoded(picture, "PNG"), "a.png")
    assert error.value.code == "ocr_missing"
    assert "pip install 'ostiary[ocr]'" in error.value.message


def test_a_picture_of_too_many_pixels_is_refused(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocr, "MAX_PIXELS", 1000)
    monkeypatch.setattr(ocr, "available", lambda: True)
    with pytest.raises(DocumentError) as error:
        read(tmp_path, encoded(picture, "PNG"), "a.png")
    assert error.value.code == "too_large"
