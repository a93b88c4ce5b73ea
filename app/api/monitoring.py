"""What operators watch: usage and drift of their tenant."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel

from app.api.common import ERRORS
from app.errors import NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.monitoring.drift import Drift

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["monitoring"], responses=ERRORS)


class UsageRow(BaseModel):
    group: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
    embedding_tokens: int
    cost_usd: float


class UsageReport(BaseModel):
    object: Literal["usage"] = "usage"
    group_by: str
    since: AwareDatetime
    data: list[UsageRow]


class DriftRow(BaseModel):
    feature: str
    window: AwareDatetime  # its start
    count: int
    reference_count: int
    ks: float | None
    threshold: float
    drifted: bool
    quantiles: list[float]
    reference_quantiles: list[float]


class DriftReport(BaseModel):
    object: Literal["list"] = "list"
    data: list[DriftRow]


@router.get("/usage")
async def get_usage(
    request: Request,
    call: Annotated[Call, Depends(Scope("monitoring:read"))],
    group_by: Annotated[Literal["key_id", "model", "route"], Query()] = "route",
    days: Annotated[int, Query(ge=1, le=366)] = 30,
) -> UsageReport:
    """Sum calls, tokens and cost; equal to the sum of the audit records."""
    since = time.time() - days * 86_400
    rows = await request.app.state.services.audit.totals(call.tenant_id, since, group_by)
    return UsageReport(
        group_by=group_by,
        since=datetime.fromtimestamp(since, UTC),
        data=[UsageRow(cost_usd=r.pop("cost_nano_usd") / 1e9, **r) for r in rows],
    )


def _shown(drift: Drift) -> DriftRow:
    return DriftRow(**{**asdict(drift), "window": datetime.fromtimestamp(drift.window, UTC)})


@router.get("/drift")
async def list_drift(
    request: Request, call: Annotated[Call, Depends(Scope("monitoring:read"))]
) -> DriftReport:
    """Compare each feature's newest hour with its reference."""
    report = await request.app.state.services.drift.report(call.tenant_id)
    return DriftReport(data=[_shown(d) for d in report])


@router.get("/drift/{feature:path}")
async def get_drift(
    request: Request,
    call: Annotated[Call, Depends(Scope("monitoring:read"))],
    feature: Annotated[str, Path(max_length=300)],
) -> DriftRow:
    """Compare one feature's newest hour with its reference."""
    report = await request.app.state.services.drift.report(call.tenant_id, feature)
    if not report:
        raise NotFound("drift feature", feature, remedy="GET /v1/drift lists the known ones.")
    return _shown(report[0])
