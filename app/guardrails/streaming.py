"""Screening of a stream: text goes out as soon as no entity can still be growing in it."""

from __future__ import annotations

from collections.abc import Callable

from app.guardrails.segments import closed_prefix, closed_sentences

Screen = Callable[[str], str]


class StreamScreen:
    """Holds back the part of a stream that may be the beginning of an entity.

    Text is released at the cuts of :mod:`app.guardrails.segments`, which no entity crosses,
    so the pieces screened one by one give what the whole text gives. With names in the
    policy the cuts are sentence ends.
    """

    def __init__(self, screen: Screen, by_sentence: bool) -> None:
        self._screen = screen
        self._closed = closed_sentences if by_sentence else closed_prefix
        self._held = ""

    def feed(self, chunk: str) -> str:
        """Take a piece of the stream and return what may go out now.

        Raises:
            GuardrailViolation: the policy blocks what was found.
        """
        self._held += chunk
        cut = self._closed(self._held)
        if cut == 0:
            return ""
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._screen(ready)

    def finish(self) -> str:
        """Return what was still held; the stream has ended."""
        ready, self._held = self._held, ""
        return self._screen(ready) if ready else ""
