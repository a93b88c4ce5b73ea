"""What a site's robots.txt allows, after RFC 9309."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, unquote

MOST_BYTES = 512 * 1024  # the standard asks for 500 KiB; what comes after is not read
_UNRESERVED = "/?&=:@!$'()*+,;~"


class Robots:
    """The rules for one robot."""

    def __init__(self, text: str, agent: str) -> None:
        groups: dict[str, list[tuple[str, bool]]] = {}
        for agents, rules in _groups(text):
            for name in agents:
                groups.setdefault(name, []).extend(rules)
        self._rules = groups.get(agent.lower(), groups.get("*", []))

    def allow(self, path: str) -> bool:
        """Whether a path with its query may be read: the longest rule that matches decides."""
        path = _normal(path)
        matching = [(len(rule), allowed) for rule, allowed in self._rules if _matches(rule, path)]
        return max(matching, default=(0, True))[1]  # of two as long, the one that allows


def _groups(text: str) -> Iterator[tuple[list[str], list[tuple[str, bool]]]]:
    """The names of robots with their rules: (pattern, whether it allows)."""
    agents: list[str] = []
    rules: list[tuple[str, bool]] = []
    begun = False  # whether a rule came since the last name
    for line in text.splitlines():
        name, _, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if name == "user-agent":
            if begun:
                yield agents, rules
                agents, rules, begun = [], [], False
            agents.append(value.partition("/")[0].strip().lower())
        elif name in ("allow", "disallow"):
            begun = True
            if value:
                rules.append((_normal(value), name == "allow"))
    yield agents, rules


def _normal(path: str) -> str:
    """One way to write the same path."""
    return quote(unquote(path, errors="surrogateescape"), _UNRESERVED, errors="surrogateescape")


def _matches(rule: str, path: str) -> bool:
    """Whether a rule matches the beginning of a path; ``*`` is anything, ``$`` the end."""
    to_the_end = rule.endswith("$")
    first, *others = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for number, piece in enumerate(others, 1):
        if to_the_end and number == len(others):
            return path.endswith(piece) and len(path) - len(piece) >= at
        at = path.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return not to_the_end or at == len(path)
