"""What operators watch: the usage of their tenant."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel

from app.api.common import ERRORS
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

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
