"""Writes a list, nested or not, as lines that keep its marks and its indentation."""

from __future__ import annotations

DEEPEST = 12  # deeper levels are written at this indentation


class Listing:
    """Collects the items of one list with all the lists inside it."""

    def __init__(self) -> None:
        self._levels: list[int | None] = []  # the next number of each open list; None has bullets
        self._lines: list[str] = []
        self._mark: str | None = None  # the mark of an item that has no words yet

    @property
    def open(self) -> bool:
        return bool(self._levels)

    def enter(self, first: int | None = None) -> None:
        """Begin a list; ``first`` is its first number, None means bullets."""
        self._levels.append(first)
        self._mark = None

    def item(self) -> None:
        """Begin an item of the innermost list."""
        number = self._levels[-1] if self._levels else None
        self._mark = "- " if number is None else f"{number}. "
        if number is not None:
            self._levels[-1] = number + 1

    def add(self, text: str) -> None:
        """Write words of the current item; each call is a line of its own."""
        text = " ".join(text.split())
        if text:
            indent = "  " * (min(len(self._levels), DEEPEST) - 1)
            self._lines.append(f"{indent}{'  ' if self._mark is None else self._mark}{text}")
            self._mark = None

    def leave(self) -> None:
        """End the innermost list."""
        self._levels.pop()
        self._mark = None

    def take(self) -> str:
        """Return the lines collected so far and forget them."""
        text = "\n".join(self._lines)
        self._lines.clear()
        return text
