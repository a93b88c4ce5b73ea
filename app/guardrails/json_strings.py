"""Where the strings of JSON begin and end, as it comes in pieces."""

from __future__ import annotations


class JsonStrings:
    """Follows one text of JSON; ``inside``: a string is open at the end of what came."""

    def __init__(self) -> None:
        self.inside = self._escaped = False

    def follow(self, text: str) -> list[int]:
        """Take the next piece; where in it the quotes stand that open and close strings."""
        found = []
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = self.inside
            elif character == '"':
                self.inside = not self.inside
                found.append(place)
        return found
