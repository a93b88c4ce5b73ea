"""What a policy acts on in texts: values and attacks together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from app.guardrails.attacks import (
    ATTACK_ENTITIES,
    OwnPrompt,
    find_attacks,
    find_in_whole_reply,
)
from app.guardrails.dry_run import Tally
from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Place, Policy
from app.guardrails.segments import suspicion

INLINE_CHARS = 8_192  # patterns in so little text take less than a thread switch is worth,
INLINE_SIGNS = 40  # unless it is full of what values are made of; a phone number has two or three
INLINE_ANYWAY = 200  # characters hold few enough


def find_by_policy(
    detector: PiiDetector,
    policy: Policy,
    texts: Sequence[str],
    watched: Set[str],
    place: Place,
    start: int = 0,
    prompt: OwnPrompt | None = None,
) -> list[list[Finding]]:
    """Of each text the findings that change it, in order, then those that are told only.

    Args:
        watched: the types that are looked for.
        start: where to begin; what is before it is context.
        prompt: what the model was told in confidence, where the text is its reply.
    """
    flagged, attacks = policy.flagged[place], frozenset(watched & ATTACK_ENTITIES)
    found = []
    for text in texts:
        of = detector.detect(
            text,
            watched,
            policy.threshold,
            start=start,
            custom=policy.custom,
            apart=flagged,
            languages=policy.languages,
        )
        if attacks:
            if place == "output":
                more = find_in_whole_reply(text, attacks, prompt)
            else:
                more = find_attacks(text, attacks, untrusted=place == "passages")
            of = of + [f for f in more if f.score >= policy.threshold(f.entity)]
            changing = without_overlaps([f for f in of if f.entity not in flagged])
            of = changing + [f for f in of if f.entity in flagged]
        found.append(of)
    return found


def count_actions(policy: Policy, found: Sequence[Sequence[Finding]], place: Place) -> Tally:
    """How many values of each type there are, and what the policy does with them."""
    return Counter((f.entity, policy.action(f.entity, place)) for of in found for f in of)


def is_light(texts: Sequence[str]) -> bool:
    """Whether looking for patterns takes well under a millisecond or two."""
    length = sum(map(len, texts))
    if length > INLINE_CHARS:
        return False
    return length <= INLINE_ANYWAY or sum(map(suspicion, texts)) <= INLINE_SIGNS
