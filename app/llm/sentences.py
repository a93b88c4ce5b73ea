"""Sentences of a text, and how far one sentence's words are borne out by another text."""

from __future__ import annotations

import itertools
import re

_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z\"'(`<\d])|\n{2,}|\n(?=[-*•\d])|:\n")
_WORD = re.compile(r"[A-Za-z_][\w.'-]*|\d[\d.,]*")
_WORD_OR_END = re.compile(rf"{_WORD.pattern}|[.?!]")
_CODE = re.compile(r"[_\d]|[a-z][A-Z]|^[A-Z]{2,}")  # SESSION_URL, 5.2, DynamoDB, SSH
_NOT = re.compile(
    r"\b(?:no|not(?!\s+(?:only|just))|never|cannot|without|neither|nor|nope)\b(?!-)|n['’]t\b", re.I
)
_PROGRAM = re.compile(
    r'"""|\bdef \w+\(|\bclass \w+\(|(?:^|\s)#\s|\bself\.\w|^\s*(?:from \S+ )?import \w', re.M
)
_CONDITION = re.compile(r"\b(?:if|unless|when|whether|where)\b[^,;:]*$", re.I)
DENIED_WORDS = 3  # that a negation is taken to reach over, or further to a first content word
_STOP = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being
    below between both but by can could default did do does doing down during each either
    else etc few following for from further get had has have having he her here hers him his
    how however i if in into is it its itself just let like make many may me might more most
    much must my need new no nor not note of off on once one only or other our out over own
    per same shall she should so some such than that the their them then there these they
    this those through thus to too under until up upon use used uses using very via want was
    way we were what when where which while who whom whose why will with within without
    would yes you your yours
    """.split()  # noqa: SIM905 (a list of words reads as words)
)


def spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence of ``text``, without the white space around it."""
    found, start = [], 0
    for match in [*_END.finditer(text), None]:
        end = len(text) if match is None else match.start()
        piece = text[start:end]
        lead = len(piece) - len(piece.lstrip())
        if piece.strip():
            found.append((start + lead, start + lead + len(piece.strip())))
        start = end if match is None else match.end()
    return found


def windows(text: str, most_chars: int, *, across: bool = False) -> list[str]:
    """Exact parts of ``text``: each sentence, and each two neighbours if short enough.

    Neighbours stand in one paragraph, unless ``across``: the next entry of a list is about
    something else, but the line under a heading is not.
    """
    at = spans(text)
    found = [text[start:end] for start, end in at]
    for (start, _), (_, end) in itertools.pairwise(at):
        if end - start <= most_chars and (across or "\n\n" not in text[start:end]):
            found.append(text[start:end])
    return found


def terms(text: str) -> set[str]:
    """The content words of ``text``, lower case and cut to their stems' length."""
    found = set()
    for match in _WORD.finditer(text):
        word = match[0].lower().strip(".,'-")
        if word and word not in _STOP:
            found.add(_stem(word))
    return found


def _stem(word: str) -> str:
    for ending in ("ingly", "edly", "ing", "ies", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word  # create, creating


def names(text: str) -> set[str]:
    """The terms of ``text`` that name something: written as names, codes or numbers are."""
    found: set[str] = set()
    begins = True  # a capital at the start of a sentence names nothing
    for match in _WORD_OR_END.finditer(text):
        word = match[0].strip(".,'-")
        if word and (_CODE.search(word) or (word[0].isupper() and not begins)):
            found |= terms(word)
        begins = match[0] in ".?!"
    return found


def codes(text: str) -> set[str]:
    """The terms of ``text`` that are identifiers, abbreviations or numbers."""
    words = (m[0].strip(".,'-") for m in _WORD.finditer(text))
    return set[str]().union(*(terms(word) for word in words if _CODE.search(word)))


def numbers(text: str) -> set[str]:
    """The numbers in ``text``, without thousands separators."""
    return {n.replace(",", "").rstrip(".") for n in re.findall(r"\d[\d,.]*", text)}


def support(claim: str, source: str) -> float:
    """Share (0..1) of the claim's content words that the source has; 0 for a foreign number."""
    if numbers(claim) - numbers(source):
        return 0.0
    wanted = terms(claim)
    return len(wanted & terms(source)) / len(wanted) if wanted else 0.0


def contradicts(claim: str, source: str) -> bool:
    """Whether one of the two denies what the other says; blind to all but plain negations.

    A claim that denies needs a source that denies. A claim that does not may not hold all that
    a negation of the source reaches over, unless that stands in a condition.
    """
    if _NOT.search(claim):
        return _NOT.search(source) is None
    said = terms(claim)
    for start, end in spans(source):
        sentence = source[start:end]
        for match in _NOT.finditer(sentence):
            words = sentence[match.end() :].split()[: 2 * DENIED_WORDS]
            near = terms(" ".join(words[:DENIED_WORDS]))
            denied = near or next(filter(None, map(terms, words)), set[str]())
            if denied and denied <= said and not _CONDITION.search(sentence[: match.start()]):
                return True
    return False


def is_prose(sentence: str) -> bool:
    """Whether this is a whole sentence in words, not code, a label or a cut-off."""
    return (
        len(sentence.split()) >= 3
        and (sentence[0].isalnum() or sentence[0] in "`\"'(")
        and sentence.rstrip("\"')`").endswith((".", "!", "?"))
        and not sentence.endswith("...")
        and "```" not in sentence
        and not _PROGRAM.search(sentence)
    )
