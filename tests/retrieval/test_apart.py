"""Reading documents in a process of their own."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import app.retrieval.parsers.apart as apart
from app.retrieval.parsing import DocumentError, parse, read_here
from tests.retrieval.documents import report_pdf


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    apart.end_idle()
    yield
    apart.end_idle()


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(report_pdf(2))
    return path


def bomb(path: Path, unpacked: int) -> Path:
    """A PDF whose one page unpacks to that many bytes."""
    from pypdf import PdfWriter
    from pypdf.generic import NameObject, StreamObject

    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    stream = StreamObject()
    stream._data = zlib.compress(bytes(32) + b" " * unpacked, 9)
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    page[NameObject("/Contents")] = writer._add_object(stream)
    writer.write(path)
    return path


def test_a_document_read_apart_is_read_as_here(report: Path) -> None:
    assert parse(report, "a.pdf") == read_here(report, "a.pdf")


def test_a_refusal_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"no pdf")
    with pytest.raises(DocumentError) as error:
        parse(path, "a.pdf")
    assert error.value.code == "corrupt_file"
    assert error.value.message.startswith("'a.pdf' is not a readable PDF")


def test_a_document_that_wants_too_much_memory_is_refused_and_the_next_is_read(
    tmp_path: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "MEMORY_BYTES", 500 * 2**20)
    with pytest.raises(DocumentError) as error:
        parse(bomb(tmp_path / "bomb", 400_000_000), "bomb.pdf")
    assert error.value.code == "too_large"
    assert parse(report, "a.pdf")


def test_a_document_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "MAX_SECONDS", 0.01)
    monkeypatch.setattr(apart, "MAX_OCR_SECONDS", 0.01)
    path = tmp_path / "upload"
    path.write_bytes(report_pdf(10))
    with pytest.raises(DocumentError) as error:
        parse(path, "a.pdf")
    assert error.value.code == "too_large"
    assert "minutes" in error.value.message
    assert not apart._idle


def test_a_reader_that_was_killed_is_replaced(report: Path) -> None:
    parse(report, "a.pdf")
    process = apart._idle[0].process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert parse(report, "a.pdf")


def test_a_reader_is_used_again_and_ended_when_idle(report: Path) -> None:
    parse(report, "a.pdf")
    process = apart._idle[0].process
    parse(report, "a.pdf")
    assert [child.process.pid for child in apart._idle] == [process.pid]
    apart.end_idle()
    assert process.poll() is not None


def test_a_reader_is_told_no_secret(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTIARY_SECRET_FOR_THE_TEST", "hush")
    parse(report, "a.pdf")
    told = Path(f"/proc/{apart._idle[0].process.pid}/environ")
    if not told.exists():
        pytest.skip("no /proc on this system")
    assert b"hush" not in told.read_bytes()


def test_several_threads_may_ask_at_once(report: Path) -> None:
    alone = read_here(report, "a.pdf")
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda _: parse(report, "a.pdf"), range(10))) == [alone] * 10
    assert len(apart._idle) <= apart.AT_ONCE
