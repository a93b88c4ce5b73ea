"""Guardrails as a service: find and mask personal data, with Presidio's fields."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.api.common import ERRORS
from app.errors import NotFound, Unprocessable
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.guardrails.custom import EntityName
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.findings import Finding, exchanged
from app.guardrails.languages import Language
from app.guardrails.operators import Operator, Replace, operate
from app.guardrails.policy import KNOWN

if TYPE_CHECKING:
    from app.guardrails.tokens import Tokens

router = APIRouter(
    prefix="/v1/guardrails", route_class=GovernedRoute, tags=["guardrails"], responses=ERRORS
)
Use = Annotated[Call, Depends(Scope("guardrails:use"))]
Reveal = Annotated[Call, Depends(Scope("guardrails:reveal"))]
Text = Annotated[str, Field(max_length=200_000)]


class AnalyzeBody(BaseModel):
    text: Text
    language: Language = "en"
    entities: Annotated[list[str] | None, Field(max_length=50)] = None
    score_threshold: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.4
    passage: Annotated[
        bool, Field(strict=True, description="It is of a document: instructions are attacks.")
    ] = False


class FindingObject(BaseModel):
    entity_type: str
    start: int
    end: int
    score: float


class AnalyzerResult(BaseModel):
    entity_type: EntityName
    start: Annotated[int, Field(strict=True, ge=0)]
    end: Annotated[int, Field(strict=True, ge=0)]
    score: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0


class AnonymizeBody(BaseModel):
    """``anonymizers`` by entity type; ``DEFAULT`` is for the types that are not named."""

    text: Text
    analyzer_results: Annotated[list[AnalyzerResult], Field(max_length=10_000)]
    anonymizers: Annotated[
        dict[Annotated[str, Field(max_length=64)], Operator], Field(max_length=200)
    ] = {}


class AnonymizedItem(BaseModel):
    entity_type: str
    start: int
    end: int
    operator: Literal["replace", "redact", "mask", "hash", "encrypt", "keep"] = "replace"
    text: str


class Anonymized(BaseModel):
    text: str
    items: list[AnonymizedItem]


class DeanonymizeBody(BaseModel):
    text: Text


class RevealedItem(BaseModel):
    entity_type: str
    start: int
    end: int
    operator: Literal["decrypt"] = "decrypt"
    text: str


class Revealed(BaseModel):
    """``foreign`` counts tokens that another tenant or another key made; they are left alone."""

    text: str
    items: list[RevealedItem]
    foreign: int


@router.post("/analyze")
async def analyze(request: Request, call: Use, body: AnalyzeBody) -> list[FindingObject]:
    """Find personal data; offsets count characters."""
    for entity in body.entities or ():
        if entity not in KNOWN:
            near = difflib.get_close_matches(entity, sorted(KNOWN), 3)
            near = near or sorted(PATTERN_ENTITIES | NER_ENTITIES)
            remedy = f"There are {', '.join(near)}; docs/guardrails.md lists all."
            raise NotFound("entity type", entity, remedy=remedy, param="entities")
    found = await request.app.state.services.guardrails.analyze(
        call, body.text, body.entities, body.score_threshold, body.passage, body.language
    )
    return [
        FindingObject(entity_type=f.entity, start=f.start, end=f.end, score=f.score) for f in found
    ]


@router.post("/anonymize")
async def anonymize(request: Request, call: Use, body: AnonymizeBody) -> Anonymized:
    """Put something else in the place of the given findings."""
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
    tokens: Tokens = request.app.state.services.guardrails.tokens(call)
    usual = body.anonymizers.get("DEFAULT", Replace())
    operators = [body.anonymizers.get(f.entity, usual) for f in findings]
    text, places = exchanged(
        body.text,
        findings,
        [
            operate(operator, f, body.text[f.start : f.end], tokens)
            for operator, f in zip(operators, findings, strict=True)
        ],
    )
    return Anonymized(
        text=text,
        items=[
            AnonymizedItem(
                entity_type=place.entity,
                start=place.start,
                end=place.end,
                operator=operator.type,
                text=text[place.start : place.end],
            )
            for operator, place in zip(operators, places, strict=True)
        ],
    )


@router.post("/deanonymize")
async def deanonymize(request: Request, call: Reveal, body: DeanonymizeBody) -> Revealed:
    """Turn the tokens that "encrypt" made for this tenant back into their values."""
    opened = request.app.state.services.guardrails.tokens(call).open(body.text)
    call.lineage["revealed"] = dict(Counter(f.entity for f in opened.values))
    return Revealed(
        text=opened.text,
        items=[
            RevealedItem(
                entity_type=f.entity,
                start=f.start,
                end=f.end,
                text=opened.text[f.start : f.end],
            )
            for f in opened.values
        ],
        foreign=opened.foreign,
    )
