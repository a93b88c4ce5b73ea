"""What the checks of answers would do with a text, for a policy that is tried out."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.gateway.call import Direction
from app.guardrails.demands import DENIED_TOPIC, DISCLAIMER, INVALID_JSON, CheckAction
from app.guardrails.findings import Finding
from app.guardrails.json_answers import ANY_SCHEMA, json_fault
from app.guardrails.policy import Policy
from app.guardrails.topics import Topics


@dataclass(frozen=True, slots=True)
class Check:
    """A check that would act, and where in the text."""

    entity: str
    action: CheckAction
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What would be done to a text: what it would become, None where it would be refused."""

    text: str | None
    findings: list[Finding]
    checks: list[Check] = field(default_factory=list)  # of answers as a whole


async def rehearse_checks(
    topics: Topics, policy: Policy, text: str, direction: Direction
) -> tuple[str | None, list[Check]]:
    """What a text would become, None where it would be refused, and what would act.

    A retry is told and leaves the text; groundedness needs passages, so it is not tried.
    """
    hits = await topics.find(policy.topics_of(direction), text)
    found = [
        Check(DENIED_TOPIC, action, hit.start, hit.end, hit.score)
        for hit in hits
        if (action := hit.topic.input if direction == "input" else hit.topic.output) != "allow"
    ]
    replacements = [
        hit.topic.replacement
        for hit in hits
        if (hit.topic.input if direction == "input" else hit.topic.output) == "replace"
    ]
    wanted = policy.json_answers if direction == "output" else None
    is_json = wanted is not None and (wanted.every or wanted.form is not None)
    if wanted is not None and is_json and json_fault(text, wanted.form or ANY_SCHEMA):
        found.append(Check(INVALID_JSON, wanted.action, 0, len(text), 1.0))
        if wanted.action == "replace":
            replacements.append(wanted.replacement)
    if any(check.action == "block" for check in found):
        return None, found
    changed = replacements[0] if replacements and replacements[0] is not None else text
    if direction == "output" and not is_json:
        touched = {hit.topic.name for hit in hits}
        for one in policy.disclaimers:
            if (one.topic is None or one.topic in touched) and not stands(one.text, changed):
                found.append(Check(DISCLAIMER, "annotate", len(text), len(text), 1.0))
                changed = f"{changed}\n\n{one.text}"
    return changed, found


def stands(wanted: str, text: str) -> bool:
    """Whether a text holds another, however its blanks and capitals are."""
    return " ".join(wanted.split()).lower() in " ".join(text.split()).lower()
