"""What of a call is watched for drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from app.gateway.call import Call
from app.guardrails.entities import ATTACK_ENTITIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REFUSED = "guardrail_violation"
_SORRY = ("i'm sorry", "i am sorry", "sorry,", "i apologize", "i apologise", "unfortunately")
_CANNOT = (
    *("i can't", "i cannot", "i'm not able to", "i am not able to", "i'm unable to"),
    *("i am unable to", "i won't", "i will not", "as an ai"),
)


def observed(
    call: Call, latency_s: float
) -> Iterator[tuple[str, float | str | bool | NDArray[np.float32]]]:
    """The features of a settled call: numbers, labels, yes or no, and an embedding."""
    yield "latency_s", latency_s
    yield from call.features.items()
    length = call.features.get("input_length")
    if length and "input" in call.screened:
        found = sum(n for (d, e, _), n in call.findings.items() if d == "input" and _is_pii(e))
        yield "pii_rate", found * 1000 / float(length)
    if call.screened and "refusal" not in call.features:
        # the guardrails' own; an answer's is noted where its text is known
        if call.error_code == REFUSED:
            yield "refusal", True
        elif call.error_code is None and "output_length" in call.features:
            yield "refusal", False
    if call.embedding is not None:
        yield "embedding", call.embedding


def _is_pii(entity: str) -> bool:
    return entity not in ATTACK_ENTITIES


def refuses(texts: Sequence[str]) -> bool:
    """Whether an answer begins as models do that decline, in English."""
    start = (texts[0][:80] if texts else "").strip().lower().replace("’", "'")
    return start.startswith(_CANNOT) or (
        start.startswith(_SORRY) and any(word in start for word in ("can't", "cannot", "unable"))
    )
