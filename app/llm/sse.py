"""Decodes server-sent events from bytes, however these were split on the way."""

from __future__ import annotations


class EventDecoder:
    """Turns pieces of a byte stream into the data of whole events (WHATWG HTML, section 9.2).

    Works on bytes, so a character split between two pieces stays whole.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece and return the data of each event it completes."""
        text = self._tail + piece
        held = b""
        if b"\r" in text:
            if text.endswith(b"\r"):  # its line feed may come with the next piece
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._tail = lines.pop() + held
        return [event for line in lines if (event := self._take(line)) is not None]

    def close(self) -> list[bytes]:
        """Return what the stream's last, unended event held."""
        rest = self.feed(b"\n\n") if self._tail or self._data else []
        self._tail = b""
        return rest

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            if not self._data:
                return None
            event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            self._data = []
            return event
        if line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        if line.startswith(b"data:"):
            value = line[5:]
            self._data.append(value[1:] if value.startswith(b" ") else value)
        elif line == b"data":
            self._data.append(b"")
        return None  # comments, event names, ids and retry times say nothing here
