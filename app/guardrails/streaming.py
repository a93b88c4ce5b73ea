"""Screening of a stream: text goes out as soon as no entity can still be growing in it."""

from __future__ import annotations

from collections.abc import Callable

from app.guardrails.context import REACH
from app.guardrails.replies import ReplyScreen
from app.guardrails.restoring import Cover
from app.guardrails.segments import CONTEXT, Find, cuts, windows

Screen = Callable[[str, int], str]  # of a text, and where in it the part to screen begins
KEPT = max(CONTEXT, REACH)  # characters that have gone out and are still looked at


class StreamScreen:
    """Holds back the part of a stream that may be the beginning of an entity.

    Text is released at the cuts of :mod:`app.guardrails.segments`, which no entity crosses
    and which do not depend on how the stream came in pieces, so the pieces screened one by
    one give what the whole text gives. With names in the policy the cuts are sentence ends.
    Where ``holds`` is false, nothing is looked for and every piece goes out as it comes.
    Surrogates are covered before ``screen`` sees the text, and it gives their values back.
    ``attacks`` are taken out between the two.
    """

    def __init__(
        self,
        screen: Screen,
        find: Find,
        by_sentence: bool,
        *,
        holds: bool = True,
        cover: Cover | None = None,
        attacks: ReplyScreen | None = None,
    ) -> None:
        self._screen = screen
        self._find = find
        self.by_sentence = by_sentence
        self._holds, self._cover = holds, cover
        self.attacks = attacks
        self._ends = windows if by_sentence else cuts
        self._text = ""  # what is held, after a little context that has gone out
        self._out = 0  # how much of it has gone out

    def feed(self, chunk: str) -> str:
        """Take a piece of the stream and return what may go out now.

        Raises:
            GuardrailViolation: the policy blocks what was found.
        """
        if self._cover is not None:
            chunk = self._cover.feed(chunk)
        if self.attacks is not None:
            chunk = self.attacks.feed(chunk)
        if not self._holds:
            return self._screen(chunk, 0)
        self._text += chunk
        return self._release(final=False)

    def finish(self) -> str:
        """Return what was still held; the stream has ended.

        Raises:
            GuardrailViolation: the policy blocks what was found.
        """
        rest = "" if self._cover is None else self._cover.finish()
        if self.attacks is not None:
            rest = self.attacks.finish(rest)
        if not self._holds:
            return self._screen(rest, 0) if rest else ""
        self._text += rest
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        text, start = self._text, self._out
        ends = list(self._ends(text, start, self._find, final=final))
        if not ends:
            return ""
        if not self.by_sentence:
            ends = ends[-1:]  # where all may go out at once, it is screened at once
        parts = []
        for end in ends:
            parts.append(self._screen(text[:end], start))
            start = end
        forget = max(0, start - KEPT)
        self._text, self._out = text[forget:], start - forget
        return "".join(parts)


class TriedStream(StreamScreen):
    """A screen whose text a dry run takes too, as it came."""

    take: Callable[[str], None]

    def feed(self, chunk: str) -> str:
        """As :meth:`StreamScreen.feed`."""
        self.take(chunk)
        return super().feed(chunk)
