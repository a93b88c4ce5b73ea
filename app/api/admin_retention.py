"""How long a tenant's audit log is kept, where it differs from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api.admin import PathId, Platform, require_platform
from app.api.common import ERRORS
from app.errors import NotFound
from app.gateway.corridor import GovernedRoute

if TYPE_CHECKING:
    from app.services import Services

router = APIRouter(
    prefix="/v1/admin/tenants", route_class=GovernedRoute, tags=["administration"], responses=ERRORS
)
Days = Annotated[float, Field(strict=True, le=36_525)]


class RetentionBody(BaseModel):
    """Days by class of data; null keeps for ever."""

    model_config = ConfigDict(extra="forbid")
    records_days: Annotated[Days | None, Field(ge=1)]
    bodies_days: Annotated[Days | None, Field(ge=0)]


class RetentionObject(BaseModel):
    object: Literal["audit.retention"] = "audit.retention"
    tenant_id: str
    records_days: float | None
    bodies_days: float | None
    own: Annotated[bool, Field(description="Whether it is the tenant's, not the settings'.")]


async def _shown(request: Request, tenant_id: str) -> RetentionObject:
    services: Services = request.app.state.services
    if await services.identity.find_tenant(tenant_id) is None:
        raise NotFound("tenant", tenant_id)
    policy = await services.auditing.retention.policy(tenant_id)
    return RetentionObject(
        tenant_id=tenant_id,
        records_days=policy.records_days,
        bodies_days=policy.bodies_days,
        own=policy.own,
    )


@router.get("/{tenant_id}/audit_retention")
async def get_retention(request: Request, call: Platform, tenant_id: PathId) -> RetentionObject:
    """Tell how long a tenant's audit log is kept."""
    require_platform(call)
    return await _shown(request, tenant_id)


@router.put("/{tenant_id}/audit_retention")
async def set_retention(
    request: Request, call: Platform, tenant_id: PathId, body: RetentionBody
) -> RetentionObject:
    """Keep a tenant's audit log for so long, whatever the settings say."""
    from app.monitoring.retention import Policy

    require_platform(call)
    await _shown(request, tenant_id)
    services: Services = request.app.state.services
    await services.auditing.retention.set(
        tenant_id, Policy(body.records_days, body.bodies_days, True)
    )
    call.lineage["audit_retention"] = {"tenant": tenant_id, **body.model_dump()}
    return await _shown(request, tenant_id)


@router.delete("/{tenant_id}/audit_retention")
async def unset_retention(request: Request, call: Platform, tenant_id: PathId) -> RetentionObject:
    """Keep a tenant's audit log as the settings say again."""
    require_platform(call)
    await _shown(request, tenant_id)
    services: Services = request.app.state.services
    await services.auditing.retention.set(tenant_id, None)
    return await _shown(request, tenant_id)
