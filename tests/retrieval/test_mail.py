"""Reading e-mail with its attachments."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

import app.retrieval.parsers.mail as mail
from app.retrieval.parsing import Block, DocumentError, read_here
from tests.retrieval.documents import report_pdf


def read(tmp_path: Path, content: bytes, filename: str = "a.eml") -> list[Block]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return read_here(path, filename)


def letter(subject: str = "Über the door", body: str = "First.\n\nSecond.") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Ada <ada@example.org>"
    message["To"] = "Bo <bo@example.org>, Cy <cy@example.org>"
    message["Date"] = "Tue, 24 Nov 2026 10:00:00 +0000"
    message["Subject"] = subject
    message.set_content(body)
    return message


def test_a_letter_is_its_headers_and_its_paragraphs(tmp_path: Path) -> None:
    assert read(tmp_path, letter().as_bytes()) == [
        Block("Über the door", None, "Über the door", "heading"),
        Block(
            "From: Ada <ada@example.org>\nTo: Bo <bo@example.org>, Cy <cy@example.org>\n"
            "Date: Tue, 24 Nov 2026 10:00:00 +0000\nSubject: Über the door",
            None,
            "Über the door",
            "table",
        ),
        Block("First.", None, "Über the door", "text"),
        Block("Second.", None, "Über the door", "text"),
    ]


def test_html_is_read_where_there_is_no_plain_form(tmp_path: Path) -> None:
    message = letter(body=" ")
    message.add_alternative("<h1>Fees</h1><p>Twelve.</p>", subtype="html")
    blocks = read(tmp_path, message.as_bytes())
    assert [(b.section, b.text) for b in blocks[2:]] == [
        ("Über the door > Fees", "Fees"),
        ("Über the door > Fees", "Twelve."),
    ]
    both = letter(body="Plain words.")
    both.add_alternative("<p>Rich words.</p>", subtype="html")
    assert [b.text for b in read(tmp_path, both.as_bytes())[2:]] == ["Plain words."]


def test_attachments_are_read_by_their_own_parsers_and_unknown_ones_are_named(
    tmp_path: Path,
) -> None:
    message = letter()
    message.add_attachment(
        report_pdf(1), maintype="application", subtype="pdf", filename="report.pdf"
    )
    message.add_attachment(
        b"\x00\x01", maintype="application", subtype="octet-stream", filename="../../tool.exe"
    )
    inner = letter("The inner one", "Inner words.")
    inner.add_attachment(b"a,b\n1,2\n", maintype="text", subtype="csv", filename="fees.csv")
    message.add_attachment(inner)
    blocks = read(tmp_path, message.as_bytes())
    assert "Attachments: report.pdf, .._.._tool.exe, The inner one" in blocks[1].text
    chapter = "Über the door > report.pdf > The Keepers of the Door > Chapter A"
    assert any(b.section == chapter and b.page == 1 and b.kind == "table" for b in blocks)
    row = next(b for b in blocks if b.text == "a: 1\nb: 2")
    assert row.section == "Über the door > The inner one > fees.csv"


def test_messages_within_messages_end_at_a_depth(tmp_path: Path) -> None:
    message = letter("depth 0")
    for depth in range(1, 12):
        outer = letter(f"depth {depth}")
        outer.add_attachment(message)
        message = outer
    headings = [b.text for b in read(tmp_path, message.as_bytes()) if b.kind == "heading"]
    assert headings == [f"depth {depth}" for depth in range(11, 6, -1)]


def test_too_much_attached_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAX_ATTACHED_BYTES", 1000)
    message = letter()
    message.add_attachment(b"x" * 2000, maintype="text", subtype="plain", filename="a.txt")
    with pytest.raises(DocumentError) as error:
        read(tmp_path, message.as_bytes())
    assert error.value.code == "too_large"


@pytest.mark.parametrize(
    ("charset", "declared"),
    [("iso-8859-1", "iso-8859-1"), ("utf-8", "no-such"), ("cp1252", "utf-8"), ("koi8-r", "koi8-r")],
)
def test_bodies_in_any_charset_are_decoded(tmp_path: Path, charset: str, declared: str) -> None:
    words = "Ключ" if charset == "koi8-r" else "Schlüssel"
    head = f"Subject: x\nContent-Type: text/plain; charset={declared}\n\n".encode()
    assert read(tmp_path, head + words.encode(charset))[-1].text == words


def test_a_mailbox_is_its_messages_and_their_number_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = b"".join(
        b"From ada@example.org Tue Nov 24 10:00:00 2026\n"
        + letter(f"Letter {i}").as_bytes().replace(b"\r\n", b"\n")
        + b"\n\n"
        for i in range(3)
    )
    blocks = read(tmp_path, box, "a.mbox")
    assert [b.text for b in blocks if b.kind == "heading"] == ["Letter 0", "Letter 1", "Letter 2"]
    monkeypatch.setattr(mail, "MAX_MESSAGES", 2)
    with pytest.raises(DocumentError) as error:
        read(tmp_path, box, "a.mbox")
    assert error.value.code == "too_many_pages"


def test_a_letter_of_endless_headers_is_read_in_no_time(tmp_path: Path) -> None:
    head = b"Subject: x\nTo: " + b"a@example.org, (((" * 100_000 + b"\n\nWords."
    blocks = read(tmp_path, head)
    assert blocks[-1].text == "Words."
    assert len(blocks[1].text) < 3000


def test_parts_within_parts_without_end_do_not_crash(tmp_path: Path) -> None:
    parts = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(3000)
    )
    try:
        assert read(tmp_path, b"Subject: x\n" + parts + b"\n\nWords.")
    except DocumentError as error:
        assert error.code == "corrupt_file"
