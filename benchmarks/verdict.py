"""The targets that the gateway's figures are held against, and whether they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OURS, NER, BARE, PEER = "ours", "ours with NER", "bare proxy", "LiteLLM"


@dataclass(frozen=True, slots=True)
class Target:
    """One figure and its bound."""

    goal: str
    what: str
    value: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure is within the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "goal": self.goal,
            "what": self.what,
            "value": self.value,
            "bound": f"{'≥' if self.at_least else '≤'} {self.bound:g}",
            "target": self.bound,
            "unit": self.unit,
            "holds": self.holds,
        }


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts on what was measured."""
    found: list[Target] = []
    if "calls" in result:
        found += _on_calls(result["calls"])
    if "first_token" in result and "open_streams" in result:
        found += _on_streams(result["first_token"], result["open_streams"])
    return [t.as_dict() for t in found]


def _over(own: float, peer: float) -> float:
    """``own`` in multiples of ``peer``; a peer lost in the noise counts as 1 µs, not as good."""
    return round(own / max(peer, 0.001), 2)


def _on_calls(calls: dict[str, Any]) -> list[Target]:
    one, many = {n: c["1"] for n, c in calls.items()}, {n: c["16"] for n, c in calls.items()}
    share = round(many[OURS]["rps"] / many[BARE]["rps"], 3)
    p50 = _over(one[OURS]["added_p50_ms"], one[BARE]["added_p50_ms"])
    p99 = _over(many[OURS]["added_p99_ms"], many[BARE]["added_p99_ms"])
    found = [
        Target("issue", "added p50, 1 client", one[OURS]["added_p50_ms"], 1.5, "ms"),
        Target(
            "issue", "share of the bare proxy's throughput, 16 clients", share, 0.333, "×", True
        ),
        Target("G2", "added p50, 1 client, over the bare proxy's", p50, 3, "×"),
        Target("G2", "added p99, 16 clients, over the bare proxy's", p99, 2, "×"),
    ]
    if NER in one:
        ner = one[NER]["added_p50_ms"]
        found.insert(1, Target("issue", "added p50, 1 client, with NER", ner, 12, "ms"))
    if PEER in many:
        more = round(many[OURS]["rps"] / many[PEER]["rps"], 2)
        late = _over(many[OURS]["added_p99_ms"], many[PEER]["added_p99_ms"])
        found.append(Target("G1", "calls/s over LiteLLM's, 16 clients", more, 10, "×", True))
        found.append(Target("issue", "calls/s over LiteLLM's, 16 clients", more, 5, "×", True))
        found.append(Target("issue", "added p99 over LiteLLM's, 16 clients", late, 0.25, "×"))
    return found


def _on_streams(first: dict[str, Any], opened: dict[str, Any]) -> list[Target]:
    several = first["several words a chunk"]["targets"][OURS]["added_p50_ms"]
    many = opened["targets"][OURS]
    count = f"{opened['streams']:,} open streams"
    return [
        Target("G3", "time to first token added, 1 client", several, 2, "ms"),
        Target("G3", f"longest stall, {count}", many["stall_max_ms"], 50, "ms"),
        Target("G3", f"memory a stream, {count}", many["kb_a_stream"], 60, "KB"),
    ]
