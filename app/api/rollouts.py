"""Candidates of a model: their comparison, and one call that promotes them or takes them back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import require_platform
from app.api.admin_models import ModelName, ModelObject, PathModel, Platform, shown_model
from app.api.common import ERRORS
from app.gateway.corridor import GovernedRoute
from app.llm.deployment import Role

if TYPE_CHECKING:
    from app.services import Services

router = APIRouter(
    prefix="/v1/admin", route_class=GovernedRoute, tags=["administration"], responses=ERRORS
)


class SpreadObject(BaseModel):
    mean: float
    p50: float
    p95: float
    p99: float


class SideObject(BaseModel):
    """The calls of one server in one role; measures are null where nothing was measured."""

    deployment: str
    role: Role
    answered: int
    failed: int
    skipped: Annotated[int, Field(description="Copies that were not sent: too many under way.")]
    latency_ms: Annotated[SpreadObject | None, Field(description="To the whole answer.")]
    first_ms: Annotated[SpreadObject | None, Field(description="To the first text of a stream.")]
    completion_tokens: SpreadObject | None
    cost_usd: SpreadObject | None


class PairsObject(BaseModel):
    """Answers of shadows against those that were given to the same calls."""

    count: int
    equal: Annotated[float, Field(description="Share of the answers that are the same.")]
    token_f1: SpreadObject
    same_beginning: Annotated[
        SpreadObject, Field(description="Share of the tokens before the first difference.")
    ]
    cosine: Annotated[SpreadObject | None, Field(description="Null: no embedding model.")]


class DifferenceObject(BaseModel):
    """Mean of the candidates less mean of the stable servers, with its 95 % interval."""

    measure: Literal["latency_ms", "first_ms", "completion_tokens", "cost_usd", "failed"]
    role: Literal["canary", "shadow"]
    paired: Annotated[bool, Field(description="Both sides answered the same calls.")]
    stable: float
    candidate: float
    low: Annotated[float | None, Field(description="Null: fewer than ten calls of a side.")]
    high: float | None
    significant: bool


class ComparisonObject(BaseModel):
    object: Literal["model.comparison"] = "model.comparison"
    model: str
    since: AwareDatetime
    sides: list[SideObject]
    pairs: PairsObject | None
    differences: list[DifferenceObject]


class RollbackBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: ModelName


class PromotionBody(RollbackBody):
    role: Annotated[
        Literal["canary", "shadow"] | None,
        Field(description="Which candidates, where the model has both."),
    ] = None


@router.get("/comparisons/{model:path}")
async def compare_candidates(
    request: Request,
    call: Platform,
    model: PathModel,
    since: Annotated[
        AwareDatetime | None, Query(description="Default: when the shares were set last.")
    ] = None,
) -> ComparisonObject:
    """Compare a model's candidates with its stable servers, by what their calls measured."""
    require_platform(call)
    services: Services = request.app.state.services
    start, found = await services.rollouts.comparison(
        model, None if since is None else since.timestamp()
    )
    return ComparisonObject(
        model=model,
        since=datetime.fromtimestamp(start, UTC),
        sides=[SideObject.model_validate(asdict(side)) for side in found.sides],
        pairs=None if found.pairs is None else PairsObject.model_validate(asdict(found.pairs)),
        differences=[
            DifferenceObject.model_validate({**asdict(d), "significant": d.significant})
            for d in found.differences
        ],
    )


@router.post("/promotions")
async def promote(request: Request, call: Platform, body: PromotionBody) -> ModelObject:
    """Make the candidates the model's servers; those of now are drained and kept for going back."""
    require_platform(call)
    services: Services = request.app.state.services
    await services.rollouts.promote(body.model, body.role)
    return await shown_model(services, body.model)


@router.post("/rollbacks")
async def roll_back(request: Request, call: Platform, body: RollbackBody) -> ModelObject:
    """End a rollout that is under way; else undo the last promotion."""
    require_platform(call)
    services: Services = request.app.state.services
    await services.rollouts.rollback(body.model)
    return await shown_model(services, body.model)
