"""Widens search hits to the text around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from app.retrieval.types import Passage

# Passages of a file whose ordinals lie in first..last, both included, in their order. Ordinals
# that do not exist are left out.
Fetch = Callable[[str, int, int], Awaitable[Sequence[Passage]]]

_FETCHED = 8  # ordinals read at once on each side of a section whose ends are not known
_MOST_OVERLAP = 2000  # characters that the end of one passage and the start of the next share
_LEAST_OVERLAP = 3  # words; less may stand there by chance, and does no harm twice


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring passages of one file as one text.

    ``hits`` holds the positions of the hits inside, best first; ``passages`` are in the order
    of the document, and what two of them share at their border stands in ``text`` once.
    """

    hits: tuple[int, ...]
    passages: tuple[Passage, ...]
    text: str

    @property
    def file_id(self) -> str:
        return self.passages[0].file_id


async def widen(
    hits: Sequence[Passage],
    fetch: Fetch,
    count: Callable[[str], int],
    by: Literal["neighbours", "section"] = "neighbours",
    reach: int = 1,
    max_tokens: int = 512,
) -> list[Window]:
    """Widen each hit to its neighbours or its section, and merge what meets.

    A hit grows outward, the passage after it first, then the one before, and so on, until
    the next one would exceed ``max_tokens`` or is missing. By ``section`` it stays inside
    passages with the same section; one without a section does not grow. Windows that share
    a passage or follow each other become one, so no passage is returned twice; such a window
    may hold as many times ``max_tokens`` as it has hits.

    Args:
        hits: best first; repeated ones count once.
        fetch: reads passages of a file.
        count: the number of tokens of a text.
        reach: by ``neighbours``, how many passages on each side.
        max_tokens: of each hit with what is added to it; a hit alone may be larger.

    Returns:
        The windows, in the order of the best hit in each.

    Raises:
        ValueError: ``reach`` is negative, ``max_tokens`` is below 1, or ``by`` is neither.
    """
    if reach < 0 or max_tokens < 1:
        raise ValueError(f"need reach >= 0 and max_tokens >= 1, got {reach} and {max_tokens}")
    if by not in ("neighbours", "section"):
        raise ValueError(f"by must be 'neighbours' or 'section', got {by!r}")
    files: dict[str, _File] = {}
    reached: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for position, hit in enumerate(hits):
        if hit.file_id not in files:
            mine = [other for other in hits if other.file_id == hit.file_id]
            files[hit.file_id] = _File(hit.file_id, fetch, mine)
        file = files[hit.file_id]
        for ordinal in await _grown(hit, file, count, by, reach, max_tokens):
            reached[hit.file_id][ordinal].add(position)
    windows = []
    for file_id, ordinals in reached.items():
        for run in _runs(sorted(ordinals), files[file_id], by):
            passages = tuple(files[file_id].known[ordinal] for ordinal in run)
            inside = {p for ordinal in run for p in ordinals[ordinal]}
            windows.append(Window(tuple(sorted(inside)), passages, joined(passages)))
    return sorted(windows, key=lambda window: window.hits[0])


class _File:
    """What has been read of one file."""

    def __init__(self, file_id: str, fetch: Fetch, hits: Sequence[Passage]) -> None:
        self._file_id, self._fetch = file_id, fetch
        self._asked = {hit.ordinal for hit in hits}
        self.known = {hit.ordinal: hit for hit in hits}

    async def at(self, ordinal: int, first: int, last: int) -> Passage | None:
        """The passage with this ordinal; reads ``first`` to ``last`` if it was not read."""
        if ordinal < 0:
            return None
        if ordinal not in self._asked:
            first = max(0, first)
            for passage in await self._fetch(self._file_id, first, last):
                self.known.setdefault(passage.ordinal, passage)
            self._asked.update(range(first, last + 1))
        return self.known.get(ordinal)


async def _grown(
    hit: Passage,
    file: _File,
    count: Callable[[str], int],
    by: Literal["neighbours", "section"],
    reach: int,
    max_tokens: int,
) -> range:
    """The ordinals that a hit widens to."""
    low = high = hit.ordinal
    left = max_tokens - count(hit.text)
    sides = [1, -1] if by == "neighbours" or hit.section else []
    while sides and left > 0:
        for side in list(sides):
            ordinal = high + 1 if side > 0 else low - 1
            if by == "neighbours":
                far = abs(ordinal - hit.ordinal) > reach
                first, last = hit.ordinal - reach, hit.ordinal + reach
            else:
                far = False
                first, last = ordinal, ordinal + side * (_FETCHED - 1)
            near = None if far else await file.at(ordinal, min(first, last), max(first, last))
            size = max(1, count(near.text)) if near is not None else 0
            outside = near is None or (by == "section" and near.section != hit.section)
            if outside or size > left:
                sides.remove(side)
                continue
            left -= size
            low, high = min(low, ordinal), max(high, ordinal)
    return range(low, high + 1)


def _runs(
    ordinals: Sequence[int], file: _File, by: Literal["neighbours", "section"]
) -> list[list[int]]:
    """Split ordinals where one is missing or, by section, where the section changes."""
    runs: list[list[int]] = []
    for ordinal in ordinals:
        follows = bool(runs) and runs[-1][-1] == ordinal - 1
        if follows and by == "section":
            follows = file.known[ordinal].section == file.known[ordinal - 1].section
        if follows:
            runs[-1].append(ordinal)
        else:
            runs.append([ordinal])
    return runs


def joined(passages: Sequence[Passage]) -> str:
    """Return the text of neighbouring passages in order, with what they repeat only once.

    A passage may begin with the last words of the one before (three or more), or with the
    header of the table (the lead of the list) that it continues.
    """
    text = ""
    before = ""
    for passage in passages:
        rest = _without_repeat(before, passage.text)
        text = f"{text}{_separator(text, passage.text, rest)}{rest}" if rest else text
        before = passage.text
    return text


def _separator(text: str, whole: str, rest: str) -> str:
    if not text:
        return ""
    cut = whole[: len(whole) - len(rest)]
    spaces = cut[len(cut.rstrip()) :]  # what stood between the repeated part and the rest
    return spaces if cut.strip() and spaces else "\n\n"


def _without_repeat(before: str, text: str) -> str:
    """``text`` without the part of its start that ``before`` ends or also starts with."""
    shared = _same_head(before, text) or _overlap(before, text)
    return text[shared:].lstrip()


def _overlap(before: str, text: str) -> int:
    """The length of the longest end of ``before``, in whole words, that ``text`` starts with."""
    tail = before[-_MOST_OVERLAP:]
    head = text[: len(tail)]
    # The failure function of Knuth, Morris and Pratt over head + separator + tail.
    both = f"{head}\0{tail}"
    reach = [0] * len(both)
    for i in range(1, len(both)):
        k = reach[i - 1]
        while k and both[i] != both[k]:
            k = reach[k - 1]
        reach[i] = k + 1 if both[i] == both[k] else 0
    size = reach[-1] if both else 0
    while size and not _repeats(before, text, size):
        size = reach[size - 1]
    return size


def _repeats(before: str, text: str, size: int) -> bool:
    """Whether so many characters are whole words, and too many for chance."""
    if len(text[:size].split()) < _LEAST_OVERLAP:
        return False
    starts = len(before) == size or before[-size - 1].isspace()
    ends = len(text) == size or text[size].isspace()
    return starts and ends


def _same_head(before: str, text: str) -> int:
    """The length of the lines that both texts start with: a table's header, a list's lead."""
    size = 0
    for mine, theirs in zip(text.splitlines(True), before.splitlines(True), strict=False):
        if mine != theirs:
            break
        size += len(mine)
    return size
