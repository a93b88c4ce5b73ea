"""How far one word is from another in typing errors."""

from __future__ import annotations

_LETTERS, _LONG_LETTERS = 4, 8  # one wrong letter from 4 letters on, two from 8 on


def most_typos(word: str) -> int:
    """How many typing errors ``word`` may have: 0, 1 from 4 letters on, 2 from 8 on.

    Words with digits have none: 2024 is no typo of 2025.
    """
    if not word.isalpha():
        return 0
    return (len(word) >= _LETTERS) + (len(word) >= _LONG_LETTERS)


def typos_between(a: str, b: str, most: int) -> int | None:
    """Return the errors that turn ``a`` into ``b``; None above ``most``.

    An error is a letter too many, missing, wrong or swapped with its neighbour: the optimal
    string alignment distance (Boytsov, ACM JEA 16, 2011, section 2.2).
    """
    if abs(len(a) - len(b)) > most:
        return None
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and other == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most and min(last) > most:  # a swap reaches back two rows
            return None
        before, last = last, row
    return last[-1] if last[-1] <= most else None
