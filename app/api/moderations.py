"""Moderations, as in OpenAI's API, answered by the guardrail policy that the call obeys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from app.api.common import ERRORS
from app.errors import BadRequest, NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.guardrails.demands import CheckAction
from app.guardrails.entities import ATTACK_ENTITIES
from app.guardrails.findings import Finding
from app.guardrails.moderation import actions_of, judge_topics, topics_judged
from app.guardrails.policy import ACTIONS, Action
from app.guardrails.topics import OnTopic
from app.ids import new_id
from app.llm.openai_types import ModerationRequest

if TYPE_CHECKING:
    from app.guardrails.policy import Policy
    from app.guardrails.service import Guardrails

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["guardrails"], responses=ERRORS)
Use = Annotated[Call, Depends(Scope("guardrails:use", screens=("input",)))]

MODEL = "guardrails"
# what SDKs send when nobody names a model
ALIASES = ("omni-moderation-latest", "text-moderation-latest", "text-moderation-stable")
# OpenAI's own categories, which this policy does not look for: null, not false
NOT_JUDGED = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


LEAST_OF_TOPIC = 0.0001  # a topic is found from its own min_score on, which may be below 0
# mildest first, of values and of topics
ORDER: tuple[Action | CheckAction, ...] = (
    "allow",
    "flag",
    "annotate",
    *ACTIONS[2:-1],
    "retry",
    "block",
)


class Enforcement(BaseModel):
    """What the gateway does with such a text: the strictest of what it does both ways."""

    policy: str
    action: Action | CheckAction


class ModerationResult(BaseModel):
    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    ostiary: Enforcement


class Moderation(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]


@router.post("/moderations")
async def create_moderation(request: Request, call: Use, body: ModerationRequest) -> Moderation:
    """Tell of each text whether the guardrails would change or refuse it, and why."""
    guardrails: Guardrails = request.app.state.services.guardrails
    if body.model not in (None, MODEL, *ALIASES):
        raise NotFound(
            "moderation model",
            body.model,
            remedy=f"Served is '{MODEL}'.",
            param="model",
            code="model_not_found",
        )
    call.model = MODEL
    texts = _texts(body)
    call.features["input_length"] = float(sum(map(len, texts)))
    found = await guardrails.judge(call, texts)
    topics = await judge_topics(guardrails, call, texts)
    policy = guardrails.policy_of(call)
    return Moderation(
        id=new_id("modr-"),
        model=MODEL,
        results=[_result(policy, *of) for of in zip(found, topics, strict=True)],
    )


def _texts(body: ModerationRequest) -> list[str]:
    """The texts that get a result each; parts that describe one input are one text."""
    if isinstance(body.input, str):
        return [body.input]
    if all(isinstance(item, str) for item in body.input):
        return [str(item) for item in body.input]
    parts = []
    for item in body.input:
        if isinstance(item, str) or item.type != "text" or item.text is None:
            raise BadRequest(
                "Only text is judged. Send texts, or parts of the type 'text'.", param="input"
            )
        parts.append(item.text)
    return ["\n".join(parts)]


def _category(entity: str) -> str:
    kind = "attack" if entity in ATTACK_ENTITIES else "pii"
    return f"{kind}/{entity.lower()}"


def _result(
    policy: Policy, findings: Sequence[Finding], topics: Sequence[OnTopic]
) -> ModerationResult:
    judged = sorted(policy.watched("input") | policy.watched("output"))
    scores = {_category(entity): 0.0 for entity in judged}
    scores |= {f"topic/{topic.name}": 0.0 for topic in topics_judged(policy)}
    actions: list[Action | CheckAction] = ["allow"]
    for finding in findings:
        name = _category(finding.entity)
        scores[name] = max(scores[name], round(finding.score, 4))
        actions += [policy.action(finding.entity, way) for way in ("input", "output")]
    for hit in topics:
        scores[f"topic/{hit.topic.name}"] = min(1.0, max(hit.score, LEAST_OF_TOPIC))
        actions += actions_of(hit.topic)
    action = max(actions, key=ORDER.index)
    nothing = dict.fromkeys(NOT_JUDGED)
    return ModerationResult(
        flagged=action != "allow",
        categories={**nothing, **{name: score > 0 for name, score in scores.items()}},
        category_scores={**nothing, **scores},
        category_applied_input_types={
            **{name: [] for name in NOT_JUDGED},
            **{name: ["text"] for name in scores},
        },
        ostiary=Enforcement(policy=policy.name, action=action),
    )
