"""Budgets: what calls of a tenant, key, model, route or tag may cost in a day, week or month."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import IdText, Tags, reach
from app.api.common import ERRORS, Deleted, Id
from app.errors import BadRequest, Forbidden, NotFound
from app.gateway.budget import Budget, State
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.ids import new_id

if TYPE_CHECKING:
    from app.gateway.budgets import Budgets
    from app.services import Services

router = APIRouter(
    prefix="/v1/budgets", route_class=GovernedRoute, tags=["monitoring"], responses=ERRORS
)
Admin = Annotated[Call, Depends(Scope("admin"))]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f']+$")]
Amount = Annotated[float, Field(strict=True, ge=1e-6, le=1e9, description="USD.")]
Period = Annotated[
    Literal["day", "week", "month"],
    Field(description="In UTC; a week begins on Monday."),
]
Stop = Annotated[
    bool, Field(strict=True, description="Refuse calls once it is spent; false: only tell.")
]
RouteName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z:/_{}. -]+$")]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class BudgetBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Name
    amount_usd: Amount
    period: Period = "month"
    stop: Stop = True
    tenant_id: Annotated[
        IdText | None, Field(description="Yours when empty; another for the platform's own.")
    ] = None
    key_id: Annotated[
        IdText | None, Field(description="Of this key, and of those it is rotated to.")
    ] = None
    model: ModelName | None = None
    route: Annotated[
        RouteName | None, Field(description="As usage names it, `POST /v1/embeddings`.")
    ] = None
    tags: Annotated[Tags, Field(description="Of calls that have all of them.")] = {}


class BudgetChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Name | None = None
    amount_usd: Amount | None = None
    period: Period | None = None
    stop: Stop | None = None


class BudgetAlert(BaseModel):
    level: Annotated[int, Field(description="Percent of the amount.")]
    at: AwareDatetime
    spent_usd: float


class BudgetObject(BaseModel):
    object: Literal["budget"] = "budget"
    id: str
    tenant_id: str
    name: str
    amount_usd: float
    period: Period
    stop: bool
    key_id: str | None
    model: str | None
    route: str | None
    tags: dict[str, str]
    by_platform: bool
    created_at: AwareDatetime
    updated_at: AwareDatetime
    state: Annotated[
        Literal["within", "spent"], Field(description="spent: 100 % or more of the amount.")
    ]
    spent_usd: float
    began_at: AwareDatetime
    begins_anew_at: AwareDatetime
    alerts: Annotated[list[BudgetAlert], Field(description="Of this period.")]


class BudgetList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BudgetObject]


def _budgets(request: Request) -> Budgets:
    services: Services = request.app.state.services
    return services.budgets


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _shown(state: State) -> BudgetObject:
    of = state.budget
    values: dict[str, Any] = asdict(of)
    amount = values.pop("amount_nano_usd")
    return BudgetObject(
        **{**values, "created_at": _at(of.created_at), "updated_at": _at(of.updated_at)},
        amount_usd=of.amount_usd,
        state="spent" if state.spent_nano_usd >= amount else "within",
        spent_usd=state.spent_nano_usd / 1e9,
        began_at=_at(state.began_at),
        begins_anew_at=_at(state.begins_anew_at),
        alerts=[BudgetAlert(**{**alert, "at": _at(alert["at"])}) for alert in state.alerts],
    )


@router.post("", status_code=201)
async def create_budget(request: Request, call: Admin, body: BudgetBody) -> BudgetObject:
    """Set a budget; it counts what its calls have cost in this period already."""
    services: Services = request.app.state.services
    whose, now = reach(call), time.time()
    tenant_id = body.tenant_id or call.tenant_id
    if whose not in (None, tenant_id):
        raise Forbidden("Budgets of another tenant are set by the platform's administrators.")
    if await services.identity.find_tenant(tenant_id) is None:
        raise NotFound("tenant", tenant_id)
    if body.key_id is not None:
        await services.identity.find_key(tenant_id, body.key_id)
    given = body.model_dump(exclude={"amount_usd", "tenant_id"})
    budget = Budget(
        id=new_id("bdg_"),
        tenant_id=tenant_id,
        amount_nano_usd=round(body.amount_usd * 1e9),
        by_platform=tenant_id != call.tenant_id,
        created_at=now,
        updated_at=now,
        **given,
    )
    return _shown(await _budgets(request).create(budget))


@router.get("")
async def list_budgets(request: Request, call: Admin) -> BudgetList:
    """List the budgets with what was spent of them: the tenant's, or for the platform all."""
    found = await _budgets(request).states(reach(call))
    return BudgetList(data=[_shown(state) for state in found])


@router.get("/{budget_id}")
async def get_budget(request: Request, call: Admin, budget_id: Id) -> BudgetObject:
    """Show a budget with what was spent of it."""
    return _shown(await _budgets(request).get(reach(call), budget_id))


@router.post("/{budget_id}")
async def change_budget(
    request: Request, call: Admin, budget_id: Id, body: BudgetChange
) -> BudgetObject:
    """Change name, amount, period or what its end does; what is left out stays."""
    given = body.model_dump(exclude_none=True)
    if not given:
        raise BadRequest("Give at least one of name, amount_usd, period, stop.")
    if (amount := given.pop("amount_usd", None)) is not None:
        given["amount_nano_usd"] = round(amount * 1e9)
    return _shown(await _budgets(request).change(reach(call), budget_id, **given))


@router.delete("/{budget_id}")
async def delete_budget(request: Request, call: Admin, budget_id: Id) -> Deleted:
    """Delete a budget; it stops nothing from now on."""
    await _budgets(request).remove(reach(call), budget_id)
    return Deleted(id=budget_id, object="budget.deleted")
