"""What a model server tells of single tokens, given out no sooner than the tokens' text.

Log probabilities and token ids spell the answer out a second time: where the guardrails change
the text, what is told of its tokens must not go out.
"""

from __future__ import annotations

from collections import deque
from typing import Any

TEXT_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")  # of completions


def drop(choice: dict[str, Any]) -> None:
    """Take what is told of tokens out of a choice whose text the guardrails changed."""
    if choice.get("logprobs") is not None:
        choice["logprobs"] = None
    choice.pop("token_ids", None)


class TokenDetails:
    """Log probabilities and ids of one streamed text's tokens.

    They are held until the text of their tokens is out, and forgotten for good once it went out
    other than it came in. Ids, which tell no lengths, are held to the end.
    """

    def __init__(self) -> None:
        self._raw = ""  # came in and is not out yet
        self._passed = self._received = 0  # characters out; characters of the tokens taken
        self._held: deque[tuple[int, Any]] = deque()  # end of the token's text; what is told
        self._ids: list[int] = []
        self._changed = False

    def take(self, choice: dict[str, Any], given: str, passed: str) -> None:
        """Exchange what a chunk tells of tokens for what may be told now.

        Args:
            choice: of the chunk; changed in place.
            given: the text that came in with it.
            passed: the text that goes out with it.
        """
        told = choice.pop("logprobs", None)
        self._ids += choice.pop("token_ids", None) or ()
        self._raw += given
        if not self._raw.startswith(passed):
            self._changed = True
            self._held.clear()
            self._ids.clear()
        self._raw = self._raw[len(passed) :]
        self._passed += len(passed)
        for entry in _entries(told):
            self._received += len(str(entry.get("token") or ""))
            if not self._changed:
                self._held.append((self._received, entry))
        ready = []
        while self._held and self._held[0][0] <= self._passed:
            ready.append(self._held.popleft()[1])
        _put(choice, ready)

    def finish(self, choice: dict[str, Any], rest: str) -> None:
        """Add what is still held to the last chunk, which gives out ``rest``."""
        if self._changed or self._raw != rest:
            self._held.clear()
            self._ids.clear()
            return
        _put(choice, [entry for _, entry in self._held])
        self._held.clear()
        if self._ids:
            choice["token_ids"] = self._ids


def _entries(told: Any) -> list[dict[str, Any]]:
    """One object a token, of a chat's or of a completion's log probabilities."""
    if not isinstance(told, dict):
        return []
    if isinstance(told.get("content"), list):
        return [e for e in told["content"] if isinstance(e, dict)]
    lists = {name: told[name] for name in TEXT_LISTS if isinstance(told.get(name), list)}
    return [
        {"token": token, **{n: v[place] for n, v in lists.items() if place < len(v)}}
        for place, token in enumerate(lists.get("tokens", ()))
    ]


def _put(choice: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    if not entries:
        return
    told = choice.setdefault("logprobs", None) or {}
    if "tokens" in entries[0]:
        for name in TEXT_LISTS:
            more = [e[name] for e in entries if name in e]
            told[name] = [*told.get(name, ()), *more] if more else told.get(name)
    else:
        told["content"] = [*told.get("content", ()), *entries]
    choice["logprobs"] = told
