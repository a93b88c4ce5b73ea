"""Reads e-mail: headers, the body, and attachments by the parsers of their own formats."""

from __future__ import annotations

import mailbox
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email import message_from_binary_file, message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Any

from app.retrieval.parsers.block import (
    SECTION_SEPARATOR,
    Block,
    DocumentError,
    Outline,
    corrupt,
)
from app.retrieval.parsers.html import parse_html

MAX_DEPTH = 4  # messages within messages
MAX_ATTACHMENTS = 200  # of one file, those of attached messages included
MAX_ATTACHED_BYTES = 200 * 1024 * 1024
MAX_MESSAGES = 20_000  # of one mailbox
MAX_PARTS = 2_000  # of one message
_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_LONGEST_HEADER = 2_000  # characters: lists of receivers can be endless

Parse = Callable[[Path, str], list[Block]]


@dataclass(slots=True)
class _Reader:
    """What is left of the limits, over a message and all that is attached to it."""

    filename: str
    parse: Parse
    attachments: int = field(default_factory=lambda: MAX_ATTACHMENTS)
    bytes: int = field(default_factory=lambda: MAX_ATTACHED_BYTES)


def parse_eml(path: Path, filename: str, parse: Parse) -> list[Block]:
    """Return the blocks of a message; ``parse`` reads its attachments.

    An attachment that cannot be read is named and does not cost its message.

    Raises:
        DocumentError: ``corrupt_file``, ``too_large``.
    """
    refused = corrupt(filename, "e-mail", "Save the message again as .eml and upload that.")
    try:
        with path.open("rb") as file:
            message = message_from_binary_file(file)
        if not message.keys():
            if path.stat().st_size < 64 and not path.read_bytes().strip():
                return []
            raise refused
        return list(_message(message, _Reader(filename, parse), 0, None))
    except RecursionError as error:  # parts within parts without end
        raise refused from error


def parse_mbox(path: Path, filename: str, parse: Parse) -> list[Block]:
    """Return the blocks of all messages of a mailbox, each a section.

    Raises:
        DocumentError: ``corrupt_file``, ``too_large``, ``too_many_pages``.
    """
    refused = corrupt(filename, "mailbox", "Export it again as mbox and upload that.")
    box = mailbox.mbox(path, factory=None, create=False)
    try:
        keys = list(box.keys())
        if not keys and path.stat().st_size > 0 and path.read_bytes().strip():
            raise refused
        if len(keys) > MAX_MESSAGES:
            raise DocumentError(
                "too_many_pages",
                f"'{filename}' has {len(keys)} messages; at most {MAX_MESSAGES} are read. Split "
                "it and upload the parts.",
            )
        reader = _Reader(filename, parse)
        blocks: list[Block] = []
        for key in keys:
            message = message_from_bytes(box.get_bytes(key))
            blocks.extend(_message(message, reader, 0, None))
        return blocks
    except RecursionError as error:
        raise refused from error
    finally:
        box.close()


def _message(
    message: Message[Any, Any], reader: _Reader, depth: int, above: str | None
) -> Iterator[Block]:
    subject = _header(message, "Subject") or "(no subject)"
    outline = Outline()
    section = outline.enter(1, subject)
    section = SECTION_SEPARATOR.join(filter(None, (above, section)))
    yield Block(subject, None, section, "heading")
    lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    bodies, attached = _parts(message)
    if attached:
        lines.append("Attachments: " + ", ".join(_name(part) for part in attached))
    yield Block("\n".join(lines), None, section, "table")
    for body in bodies:
        for block in _body(body, reader.filename):
            yield replace(block, section=_under(section, block.section))
    for part in attached:
        yield from _attachment(part, reader, depth, section)


def _under(section: str | None, inner: str | None) -> str | None:
    return SECTION_SEPARATOR.join(filter(None, (section, inner))) or None


def _header(message: Message[Any, Any], name: str) -> str:
    return " ".join(_words(message.get(name, "")).split())[:_LONGEST_HEADER]


def _words(value: Any) -> str:
    """Decode the words of a header (RFC 2047); those that cannot be are shown as they are."""
    try:
        return str(make_header(decode_header(value)))
    except (LookupError, ValueError, HeaderParseError):
        return str(value)


def _parts(
    message: Message[Any, Any],
) -> tuple[list[Message[Any, Any]], list[Message[Any, Any]]]:
    """Return the parts that are the body, and the attachments; one form of each alternative."""
    bodies: list[Message[Any, Any]] = []
    attached: list[Message[Any, Any]] = []
    stack = [message]
    seen = 0
    while stack and seen < MAX_PARTS:
        part = stack.pop()
        seen += 1
        kind = part.get_content_type()
        if kind == "multipart/alternative":
            stack.extend(_chosen(part))
        elif part.is_multipart() and kind != "message/rfc822":
            stack.extend(reversed(_children(part)))
        elif kind == "message/rfc822" or part.get_filename() or _set_apart(part):
            if not _inline_picture(part):
                attached.append(part)
        elif kind in ("text/plain", "text/html"):
            bodies.append(part)
    return bodies, attached


def _children(part: Message[Any, Any]) -> list[Message[Any, Any]]:
    payload = part.get_payload()
    return [p for p in payload if isinstance(p, Message)] if isinstance(payload, list) else []


def _chosen(part: Message[Any, Any]) -> list[Message[Any, Any]]:
    """Choose the plain form of a body where it has words, else the last: the richest."""
    children = _children(part)
    for child in children:
        if child.get_content_type() == "text/plain" and _text(child).strip():
            return [child]
    return children[-1:]


def _set_apart(part: Message[Any, Any]) -> bool:
    return part.get_content_disposition() == "attachment"


def _inline_picture(part: Message[Any, Any]) -> bool:
    """A logo or a tracking dot that the HTML body shows is no document."""
    shown = part.get_content_disposition() == "inline" or part.get("Content-ID") is not None
    return part.get_content_maintype() == "image" and shown


def _text(part: Message[Any, Any]) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    charset = part.get_content_charset()
    for name in (charset, "utf-8"):
        try:
            if name:
                return data.decode(name)
        except (LookupError, ValueError):
            continue
    return data.decode("cp1252", errors="replace")


def _body(part: Message[Any, Any], filename: str) -> list[Block]:
    text = _text(part)
    if part.get_content_type() == "text/html":
        return parse_html(text.replace("\x00", "").encode("utf-8", errors="replace"), filename)
    parts = text.replace("\r\n", "\n").split("\n\n")
    return [Block(p.strip("\n"), None, None, "text") for p in parts if p.strip()]


def _name(part: Message[Any, Any]) -> str:
    if part.get_content_type() == "message/rfc822":
        inner = _children(part)
        return (_header(inner[0], "Subject") if inner else "") or "(message)"
    name = _words(part.get_filename() or "") or f"unnamed {part.get_content_type()}"
    return " ".join(str(name).replace("/", "_").replace("\\", "_").split())[:200]


def _attachment(
    part: Message[Any, Any], reader: _Reader, depth: int, section: str | None
) -> Iterator[Block]:
    reader.attachments -= 1
    if reader.attachments < 0 or depth >= MAX_DEPTH:
        return  # it is named in the headers above
    if part.get_content_type() == "message/rfc822":
        for inner in _children(part)[:1]:
            yield from _message(inner, reader, depth + 1, section)
        return
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes) or not data:
        return
    reader.bytes -= len(data)
    if reader.bytes < 0:
        raise DocumentError(
            "too_large",
            f"'{reader.filename}' has more than {MAX_ATTACHED_BYTES // 2**20} MB of attachments. "
            "Save them apart and upload them as files.",
        )
    name = _name(part)
    with tempfile.TemporaryDirectory(prefix="ostiary-mail-") as folder:
        path = Path(folder) / "attachment"
        path.write_bytes(data)
        try:
            blocks = _read(path, name, reader, depth)
        except DocumentError:
            return  # unknown formats and pictures are common in mail; the name stays
    outline = Outline()
    yield Block(name, None, _under(section, outline.enter(1, name)), "heading")
    for block in blocks:
        yield replace(block, section=_under(_under(section, name), block.section))


def _read(path: Path, name: str, reader: _Reader, depth: int) -> list[Block]:
    """Read an attachment; an .eml within shares the limits of the message around it."""
    suffix = Path(name).suffix.lower()
    if suffix == ".mbox":
        raise DocumentError("unsupported_file", "A mailbox within a message is not read.")
    if suffix != ".eml":
        return reader.parse(path, name)
    with path.open("rb") as file:
        inner = message_from_binary_file(file)
    return list(_message(inner, reader, depth + 1, None))
