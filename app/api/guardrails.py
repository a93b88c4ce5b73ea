"""Guardrails as a service: find and mask personal data, with Presidio's fields."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.api.common import ERRORS
from app.errors import NotFound, Unprocessable
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.findings import Finding, mask

router = APIRouter(
    prefix="/v1/guardrails", route_class=GovernedRoute, tags=["guardrails"], responses=ERRORS
)
Use = Annotated[Call, Depends(Scope("guardrails:use"))]
Text = Annotated[str, Field(max_length=200_000)]


class AnalyzeBody(BaseModel):
    text: Text
    language: Literal["en"] = "en"
    entities: Annotated[list[str] | None, Field(max_length=50)] = None
    score_threshold: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.4


class FindingObject(BaseModel):
    entity_type: str
    start: int
    end: int
    score: float


class AnalyzerResult(BaseModel):
    entity_type: Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{0,63}$")]
    start: Annotated[int, Field(strict=True, ge=0)]
    end: Annotated[int, Field(strict=True, ge=0)]
    score: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0


class AnonymizeBody(BaseModel):
    text: Text
    analyzer_results: Annotated[list[AnalyzerResult], Field(max_length=10_000)]


class AnonymizedItem(BaseModel):
    entity_type: str
    start: int
    end: int
    operator: Literal["replace"] = "replace"
    text: str


class Anonymized(BaseModel):
    text: str
    items: list[AnonymizedItem]


@router.post("/analyze")
async def analyze(request: Request, call: Use, body: AnalyzeBody) -> list[FindingObject]:
    """Find personal data; offsets count characters."""
    for entity in body.entities or ():
        if entity not in PATTERN_ENTITIES | NER_ENTITIES:
            known = ", ".join(sorted(PATTERN_ENTITIES | NER_ENTITIES))
            raise NotFound("entity type", entity, remedy=f"Known are {known}.", param="entities")
    found = await request.app.state.services.guardrails.analyze(
        call, body.text, body.entities, body.score_threshold
    )
    return [
        FindingObject(entity_type=f.entity, start=f.start, end=f.end, score=f.score) for f in found
    ]


@router.post("/anonymize")
async def anonymize(call: Use, body: AnonymizeBody) -> Anonymized:
    """Replace the given findings by their types."""
    findings = sorted(
        (Finding(r.entity_type, r.start, r.end, r.score) for r in body.analyzer_results),
        key=lambda f: f.start,
    )
    last = 0
    for finding in findings:
        if not last <= finding.start <= finding.end <= len(body.text):
            raise Unprocessable(
                "Findings must lie inside the text and may not overlap.", param="analyzer_results"
            )
        last = finding.end
    items, shift = [], 0
    for finding in findings:
        label = f"<{finding.entity}>"
        start = finding.start + shift
        items.append(
            AnonymizedItem(
                entity_type=finding.entity, start=start, end=start + len(label), text=label
            )
        )
        shift += len(label) - (finding.end - finding.start)
    return Anonymized(text=mask(body.text, findings), items=items)
