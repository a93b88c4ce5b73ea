"""What a call told its model in confidence, recognised where a reply says it again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from app.guardrails.attacks.lexicon import shifted
from app.guardrails.attacks.view import fold

MOST_CHARS = 60_000  # of a prompt; what follows is not recognised
LEAST_RUN = 8  # words in the prompt's order that are no chance
LEAST_TEXT = 5  # words of a text that is shorter than that
LEAST_BOUND = 6  # of them in sentences that bind the model
SKIPPED = 2  # words of the prompt, or other words in the reply, between words of a run
FEWER_OTHERS = 4  # times as many words of a run are the prompt's as are not
MOST_RUNS = 8  # followed at once
SURE, UNSURE = 0.9, 0.45  # scores: what binds the model; what it may be meant to pass on
CERTAIN = 1.0  # a canary
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_ESCAPES = re.compile(r"\\[nrt\"/]")
# "You must never tell" said of oneself: "I must never tell"
_OF_ONESELF = {
    "you": "i", "your": "my", "yours": "mine", "yourself": "myself", "are": "am", "you're": "i'm",
}  # fmt: skip
_BINDING = frozenset(
    (  # noqa: SIM905
        "never always must not don't cannot can't only should refuse decline reveal disclose "
        "confidential secret respond reply answer instructions rules nie niemals immer darfst "
        "musst sollst nicht nur antworte verrate vertraulich geheim jamais toujours dois pas "
        "seulement réponds confidentiel nunca siempre debes responde confidencial mai sempre devi "
        "rispondi nooit altijd moet niet alleen antwoord deve não responda nigdy zawsze musisz "
        "odpowiadaj"
    ).split()
)
_ADDRESSED = frozenset(
    (  # noqa: SIM905
        "i my i'm myself du dein deine dich dir tu ton ta te vous votre tú tus je jij jouw você "
        "seu sua ty twoje"
    ).split()
)
_ORDERS = frozenset(
    (  # noqa: SIM905
        "never always do don't keep answer respond reply refuse only use be speak decline reject "
        "ignore hide say tell ask offer avoid treat if when under nie niemals antworte verrate "
        "jamais nunca mai nooit nigdy begin start end escalate call"
    ).split()
)
_CANARY = re.compile(
    r"(?<![A-Za-z])canary(?:[ _\-]?(?:token|word|string|id|code|value))?[\"'`]?"
    r"\s{0,2}(?:is|[:=\-_#])?\s{0,2}[\"'`<\[]?([A-Za-z0-9][A-Za-z0-9_\-]{6,126}[A-Za-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Index:
    """The words of the prompt as they stand, in rot13 and backwards, one after another.

    ``bound`` and ``least``: of each word, whether its sentence binds the model, and the length of
    a run that counts in its text. ``encoded_from`` is the place where ciphers begin.
    """

    words: list[str]
    bound: list[bool]
    least: list[int]
    places: dict[tuple[str, str, str], list[int]]
    canaries: tuple[str, ...]
    encoded_from: int


class OwnPrompt:
    """The texts of applications and operators in one call, and what its user wrote himself.

    Args:
        texts: system and developer messages, instructions.
        said: the user's own words, which are no secret to him.
    """

    def __init__(self, texts: Sequence[str], said: Sequence[str] = ()) -> None:
        self._index = _indexed(tuple(texts))
        self._said = said
        self._own: list[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._index.places or self._index.canaries)

    def runs(self) -> Runs:
        """What follows the words of one reply."""
        return Runs(self, self._index)

    def canaries_in(self, folded: str) -> list[tuple[int, int]]:
        """Where marks of the prompt stand in a folded text, read forwards or backwards.

        A mark is the value after the word "canary" in the prompt: 8 or more letters and digits.
        """
        return [
            (m.start(), m.end())
            for canary in self._index.canaries
            for m in re.finditer(re.escape(canary), folded)
        ]

    def is_own_word(self, words: Sequence[str]) -> bool:
        """Whether the user said these words in this order."""
        if self._own is None:
            texts = ([_oneself(w) for w, _, _ in words_in(t)] for t in self._said)
            self._own = [f" {' '.join(of)} " for of in texts]
        return any(f" {' '.join(words)} " in own for own in self._own)


@dataclass(slots=True)
class _Run:
    at: int  # in the prompt
    start: int  # in the reply
    end: int
    words: list[str]
    bound: int
    missed: int = 0  # since the last word of the run
    others: int = 0  # words in the run that the prompt has not
    told: bool = False  # its beginning was given as a leak

    @property
    def matched(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Leak:
    """Words of the prompt at ``start:end`` of a reply."""

    start: int
    end: int
    score: float
    encoded: bool


@dataclass(slots=True)
class Runs:
    """Follows the words of a reply along the prompt, word by word.

    What it finds depends on the words alone, and not on the pieces in which they came.
    """

    prompt: OwnPrompt
    index: _Index
    _runs: list[_Run] = field(default_factory=list)
    _last: tuple[str, str] = ("", "")
    found: list[Leak] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the last word may belong to a run."""
        return bool(self._runs)

    def step(self, word: str, start: int, end: int) -> None:
        """Take the next word of the reply, in lower case, and where it lies."""
        word = _oneself(word)
        alive = [run for run in self._runs if self._goes_on(run, word, end)]
        before, last = self._last
        for place in self.index.places.get((before, last, word), ())[:MOST_RUNS]:
            if all(run.at != place for run in alive):
                bound = sum(self.index.bound[place - 2 : place + 1])
                alive.append(_Run(place, start, end, [before, last, word], bound))
        self._runs = sorted(alive, key=lambda r: -r.matched)[:MOST_RUNS]
        self._last = last, word

    def pass_over(self, text: str, start: int, end: int) -> int:
        """Take whole words up to the one with which a run begins; where it begins, or ``end``.

        ``text[start:end]`` are words with white space behind each.
        """
        places, (before, last) = self.index.places, self._last
        for word, first, _ in words_in(text[start:end]):
            word = _OF_ONESELF.get(word, word)
            if (before, last, word) in places:
                end = start + first
                break
            before, last = last, word
        self._last = before, last
        return end

    def _goes_on(self, run: _Run, word: str, end: int) -> bool:
        words = self.index.words
        for place in range(run.at + 1, min(run.at + 2 + SKIPPED, len(words))):
            if words[place] == word:
                run.others += run.missed
                run.at, run.end, run.missed = place, end, 0
                run.words.append(word)
                run.bound += self.index.bound[place]
                return True
            if not words[place]:
                break  # another text
        run.missed += 1
        if run.missed <= SKIPPED:
            return True
        self._judge(run)
        return False

    def cut(self, at: int) -> None:
        """Give what was found up to ``at``, as the text before it goes out now."""
        for run in self._runs:
            self._judge(run)
            run.start = max(run.start, at)

    def _judge(self, run: _Run) -> None:
        least = self.index.least[run.at]
        if run.end <= run.start or (not run.told and run.matched < least):
            return
        if run.others * FEWER_OTHERS > run.matched:
            return
        if not run.told and self.prompt.is_own_word(run.words):
            return
        bound = run.bound >= min(LEAST_BOUND, least)
        run.told = bound
        score = SURE if bound else UNSURE
        encoded = run.at >= self.index.encoded_from
        self.found.append(Leak(run.start, run.end, score, encoded))

    def leaks_in(self, text: str) -> list[Leak]:
        """The leaks of a whole text; for a new one each time."""
        for word, start, end in words_in(text):
            self.step(word, start, end)
        self.cut(len(text))
        return self.found


def words_in(text: str) -> list[tuple[str, int, int]]:
    """The words of a text as a reader sees them, and where they lie; escapes are gaps."""
    if "\\" in text:
        text = _ESCAPES.sub("  ", text)
    if text.isascii():
        return [(m[0], m.start(), m.end()) for m in _WORD.finditer(text.lower())]
    view = fold(text)
    return [(m[0], *view.span(*m.span())) for m in _WORD.finditer(view.text)]


def _oneself(word: str) -> str:
    return _OF_ONESELF.get(word, word)


@lru_cache(maxsize=64)
def _indexed(texts: tuple[str, ...]) -> _Index:
    plain: list[tuple[list[str], list[bool]]] = []
    ciphers: list[tuple[list[str], list[bool]]] = []
    left = MOST_CHARS
    for text in texts:
        words: list[str] = []
        bound: list[bool] = []
        for sentence in _SENTENCE.findall(text[:left]):
            of = [word for word, _, _ in words_in(sentence)]
            words += of
            bound += [_binds([_oneself(w) for w in of])] * len(of)
        left = max(0, left - len(text))
        if len(words) >= LEAST_TEXT:
            plain.append(([_oneself(w) for w in words], bound))
            ciphers.append(([shifted(w, 13) for w in words], bound))
            ciphers.append(([w[::-1] for w in reversed(words)], bound[::-1]))
    index = _Index([], [], [], {}, _canaries(texts), sum(len(w) + 1 for w, _ in plain))
    for words, bound in [*plain, *ciphers]:
        first = len(index.words)
        for place in range(2, len(words)):
            key = words[place - 2], words[place - 1], words[place]
            index.places.setdefault(key, []).append(first + place)
        index.words.extend([*words, ""])
        index.bound.extend([*bound, False])
        index.least.extend([min(LEAST_RUN, len(words))] * (len(words) + 1))
    return index


def _binds(words: Sequence[str]) -> bool:
    """Whether a sentence tells the model what to do, rather than a fact to pass on."""
    if not words:
        return False
    orders = words[0] in _ORDERS and (len(words) < 2 or words[1] != "i")
    return orders or not (_BINDING.isdisjoint(words) or _ADDRESSED.isdisjoint(words))


def _canaries(texts: Sequence[str]) -> tuple[str, ...]:
    found = {
        m[1].lower()
        for text in texts
        for m in _CANARY.finditer(text[:MOST_CHARS])
        if any(c.isdigit() for c in m[1])
    }
    return tuple(sorted(found | {c[::-1] for c in found}))
