"""What operators watch: the usage of their tenant."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from app.api.admin import reach
from app.api.audit import Time
from app.api.common import ERRORS
from app.errors import BadRequest
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.gateway.tags import NAME

if TYPE_CHECKING:
    from app.monitoring.usage import Total
    from app.services import Services

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["monitoring"], responses=ERRORS)


GROUP = rf"^(key_id|tenant_id|model|route|day|component|tag:{NAME})$"
Group = Annotated[str, Field(pattern=GROUP)]
DAY_S = 86_400


class UsageRow(BaseModel):
    group: Annotated[str | None, Field(description="The first of `groups`.")]
    groups: dict[str, str | None]
    calls: int
    prompt_tokens: Annotated[int | None, Field(description="Null by component.")]
    completion_tokens: int | None
    embedding_tokens: int | None
    cost_usd: float
    cost_nano_usd: Annotated[int, Field(description="As it was counted, exactly.")]


class UsageReport(BaseModel):
    object: Literal["usage"] = "usage"
    group_by: list[str]
    since: AwareDatetime
    until: AwareDatetime | None
    data: list[UsageRow]


@router.get(
    "/usage",
    response_model=UsageReport,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def get_usage(
    request: Request,
    call: Annotated[Call, Depends(Scope("monitoring:read"))],
    group_by: Annotated[
        list[Group],
        Query(
            min_length=1,
            max_length=6,
            description="Repeat for several: key_id, model, route, day, component, tag:NAME; "
            "tenant_id for the platform's administrators, over all tenants.",
        ),
    ] = ["route"],  # noqa: B006
    days: Annotated[int, Query(ge=1, le=366, description="Without `from`: so many back.")] = 30,
    from_: Annotated[
        Time | None, Query(alias="from", description="Calls that began from then.")
    ] = (None),
    to: Annotated[Time | None, Query(description="Calls that began before.")] = None,
) -> Any:
    """Sum calls, tokens and cost; equal to the sum of the audit records. CSV by `accept`."""
    if len(set(group_by)) < len(group_by):
        raise BadRequest("Name each thing to group by once.", param="group_by")
    since = time.time() - days * DAY_S if from_ is None else from_.timestamp()
    until = None if to is None else to.timestamp()
    if until is not None and until <= since:
        raise BadRequest("`to` is not after `from`. Give a later time.", param="to")
    services: Services = request.app.state.services
    whose = reach(call) if "tenant_id" in group_by else call.tenant_id
    found = await services.usage.totals(whose, group_by, since, until)
    if "text/csv" in request.headers.get("accept", ""):
        return Response(_csv(group_by, found), media_type="text/csv; charset=utf-8")
    return UsageReport(
        group_by=group_by,
        since=datetime.fromtimestamp(since, UTC),
        until=to,
        data=[
            UsageRow(
                **asdict(total),
                group=total.groups[group_by[0]],
                cost_usd=total.cost_nano_usd / 1e9,
            )
            for total in found
        ],
    )


def _csv(group_by: Sequence[str], found: Sequence[Total]) -> str:
    out = io.StringIO()
    sums = ("calls", "prompt_tokens", "completion_tokens", "embedding_tokens", "cost_nano_usd")
    writer = csv.writer(out)
    writer.writerow([*group_by, *sums, "cost_usd"])
    for total in found:
        nano = total.cost_nano_usd
        exact = f"{nano // 10**9}.{nano % 10**9:09}"
        groups = [_harmless(total.groups[name]) for name in group_by]
        writer.writerow([*groups, *(getattr(total, name) for name in sums), exact])
    return out.getvalue()


def _harmless(value: str | None) -> str | None:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if value is not None and value[:1] in ("=", "+", "-", "@") else value
