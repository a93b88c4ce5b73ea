"""Places in a page that its reader does not see, but a model does."""

from __future__ import annotations

import re
from collections.abc import Iterator

_UNSEEN_STYLE = (
    r"(?:display\s?:\s?none|visibility\s?:\s?hidden|opacity\s?:\s?0(?![.\d])"
    r"|font-size\s?:\s?[01](?![.\d])|color\s?:\s?(?:#fff|white|transparent)"
    r"|(?:left|top|text-indent)\s?:\s?-\d{3})"
)
# (a string without which the pattern cannot match, the pattern); its last group is the place
_PLACES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("<!--", re.compile(r"<!--(.{1,4000}?)-->", re.DOTALL)),
    ("]:", re.compile(r"\[[\w/]{1,20}\]:\s{0,4}#\s{0,4}[(\"']([^\n]{3,800})")),
    ("![", re.compile(r"!\[([^\]\n]{8,800})\]")),
    ("](", re.compile(r"\]\([^)\s]{1,800}\s{1,4}[\"']([^\"\n]{8,800})[\"']\)")),
    (
        "=",
        re.compile(
            r"\b(?:alt|title|aria-label|value|content|placeholder)\s?=\s?"
            r"(?:\"([^\"]{8,2000})\"|'([^']{8,2000})')"
        ),
    ),
    (
        "style",
        re.compile(rf"<\w{{1,12}}[^>]{{0,300}}{_UNSEEN_STYLE}[^>]{{0,300}}>([^<]{{4,4000}})"),
    ),
    ("hidden", re.compile(r"<\w{1,12}[^>]{0,300}\shidden\b[^>]{0,300}>([^<]{4,4000})")),
    ("<script", re.compile(r"<script\s[^>]{0,100}type=[^>]{0,100}>([^<]{4,4000})")),
    ("_note", re.compile(r"\"\w{0,20}_note\"\s?:\s?\"([^\"\n]{8,2000})\"")),
    ("<tool_result", re.compile(r"<tool_result>(.{8,4000}?)(?:</tool_result>|\Z)", re.DOTALL)),
)
# what stands in a comment of code counts only when it speaks of a model
_COMMENTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("/*", re.compile(r"/\*(.{1,4000}?)\*/", re.DOTALL)),
    ("#", re.compile(r"(?:\A|\n)[ \t]{0,40}#([^\n]{8,400})")),
    ("//", re.compile(r"(?:\A|\n)[ \t]{0,40}//([^\n]{8,400})")),
)
_MODEL = re.compile(
    r"\b(?:ai|llms?|gpt|chatgpt|copilot|claude|gemini|assistants?|chatbots?|agents?)\b"
)


def unseen(text: str) -> list[tuple[int, int]]:
    """The spans of a folded text that a page shows to nobody."""
    return list(_unseen(text))


def _unseen(text: str) -> Iterator[tuple[int, int]]:
    for sign, pattern in _PLACES:
        if sign not in text:
            continue
        for m in pattern.finditer(text):
            group = m.lastindex or 0
            yield m.start(group), m.end(group)
    for sign, pattern in _COMMENTS:
        if sign in text:
            for m in pattern.finditer(text):
                if _MODEL.search(m[1]):
                    yield m.span(1)
