"""Findings in a text: which of several wins, and the text without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A value at ``text[start:end]``."""

    entity: str
    start: int
    end: int
    score: float


def without_overlaps(found: list[Finding]) -> list[Finding]:
    """The surest finding wins, then the longest; it grows over what overlaps it.

    Without growing, the rest of the loser would stay readable.
    """
    if len(found) < 2:
        return found
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: (f.start, -f.end)):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
            continue
        last = kept[-1]
        best = max(last, finding, key=lambda f: (f.score, f.end - f.start, f.entity))
        kept[-1] = Finding(best.entity, last.start, max(last.end, finding.end), best.score)
    return kept


def beside(found: list[Finding], others: Sequence[Finding], text: str) -> list[Finding]:
    """What of each finding lies beside the others, as far as it has letters or digits."""
    if not found or not others:
        return found
    spans = sorted((f.start, f.end) for f in others)
    parts = []
    for finding in found:
        start = finding.start
        for first, last in (*spans, (finding.end, finding.end)):
            if last <= start and first < finding.end:
                continue
            end = min(first, finding.end)
            if any(map(str.isalnum, text[start:end])):
                parts.append(Finding(finding.entity, start, end, finding.score))
            start = max(start, last)
            if start >= finding.end:
                break
    return parts


def exchanged(
    text: str, findings: Sequence[Finding], values: Sequence[str]
) -> tuple[str, list[Finding]]:
    """Put a value in the place of each finding; they are in order and do not overlap.

    Returns the text, and where the values lie in it.
    """
    parts, places, length, last = [], [], 0, 0
    for finding, value in zip(findings, values, strict=True):
        parts += [text[last : finding.start], value]
        start = length + finding.start - last
        length, last = start + len(value), finding.end
        places.append(Finding(finding.entity, start, length, finding.score))
    return "".join([*parts, text[last:]]), places


def replaced(text: str, findings: Sequence[Finding], by: Callable[[Finding], str]) -> str:
    """Put ``by(finding)`` in the place of each finding; they are in order and do not overlap."""
    return exchanged(text, findings, list(map(by, findings)))[0] if findings else text


def label(finding: Finding) -> str:
    """The type of a finding in angle brackets."""
    return f"<{finding.entity}>"


def mask(text: str, findings: Sequence[Finding]) -> str:
    """Replace each finding by its type in angle brackets."""
    return replaced(text, findings, label)
