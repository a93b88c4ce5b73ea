"""Administration: tenants and API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from app.api.common import ERRORS
from app.errors import Forbidden
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.gateway.identity import DEFAULT_TENANT, ApiKey, Identity

router = APIRouter(
    prefix="/v1/admin", route_class=GovernedRoute, tags=["administration"], responses=ERRORS
)
Admin = Annotated[Call, Depends(Scope("admin:keys"))]
Platform = Annotated[Call, Depends(Scope("admin:platform"))]
KeyId = Annotated[str, Path(max_length=64)]
ScopeName = Annotated[str, Field(pattern=r"^(\*|[a-z_]{1,40}(:(\*|[a-z_]{1,40}))?)$")]


class TenantBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    budget_usd_per_day: Annotated[float | None, Field(ge=0, le=1e9)] = None


class TenantObject(BaseModel):
    object: Literal["tenant"] = "tenant"
    id: str
    name: str
    created_at: float
    disabled_at: float | None
    budget_usd_per_day: float | None


class TenantList(BaseModel):
    object: Literal["list"] = "list"
    data: list[TenantObject]


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=50)]
    tenant_id: Annotated[str | None, Field(max_length=64, description="Yours when empty.")] = None
    expires_at: Annotated[
        float | None, Field(gt=0, le=32_503_680_000, description="Unix seconds.")
    ] = None
    rate_rpm: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    rate_tpm: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


class RotateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    grace_s: Annotated[
        float, Field(ge=0, le=30 * 86_400, description="How long the old key still works.")
    ] = 3600.0


class KeyObject(BaseModel):
    object: Literal["api_key"] = "api_key"
    id: str
    tenant_id: str
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    rotated_to: str | None
    rate_rpm: int | None
    rate_tpm: int | None


class NewKeyObject(KeyObject):
    key: Annotated[str, Field(description="Shown this once.")]


class KeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyObject]


def _identity(request: Request) -> Identity:
    identity: Identity = request.app.state.services.identity
    return identity


def _shown(key: ApiKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in KeyObject.model_fields if name != "object"}


def _reach(call: Call) -> str | None:
    """The tenant whose keys the caller may manage; None for all."""
    platform = call.tenant_id == DEFAULT_TENANT and call.principal.may("admin:platform")
    return None if platform else call.tenant_id


def _require_platform(call: Call) -> None:
    if _reach(call) is not None:
        raise Forbidden("Tenants are managed by the platform's own administrators.")


@router.post("/tenants", status_code=201)
async def create_tenant(request: Request, call: Platform, body: TenantBody) -> TenantObject:
    """Make a tenant."""
    _require_platform(call)
    tenant = await _identity(request).create_tenant(body.name, body.budget_usd_per_day)
    return TenantObject(**{n: getattr(tenant, n) for n in TenantObject.model_fields if n != "object"})


@router.get("/tenants")
async def list_tenants(request: Request, call: Platform) -> TenantList:
    """List the tenants."""
    _require_platform(call)
    found = await _identity(request).list_tenants()
    names = [n for n in TenantObject.model_fields if n != "object"]
    return TenantList(data=[TenantObject(**{n: getattr(t, n) for n in names}) for t in found])


@router.delete("/tenants/{tenant_id}", status_code=204)
async def disable_tenant(request: Request, call: Platform, tenant_id: KeyId) -> None:
    """Disable a tenant: none of its keys works from now on."""
    _require_platform(call)
    await _identity(request).disable_tenant(tenant_id)


@router.post("/keys", status_code=201)
async def create_key(request: Request, call: Admin, body: KeyBody) -> NewKeyObject:
    """Make an API key; its secret is in this reply and nowhere else."""
    tenant_id = body.tenant_id or call.tenant_id
    if _reach(call) not in (None, tenant_id):
        raise Forbidden("Keys of another tenant are made by the platform's administrators.")
    excess = [s for s in body.scopes if not call.principal.may(s)]
    if excess:
        raise Forbidden("A key cannot be given scopes that its maker lacks.")
    row, secret = await _identity(request).create_key(
        tenant_id,
        body.name,
        body.scopes,
        expires_at=body.expires_at,
        rate_rpm=body.rate_rpm,
        rate_tpm=body.rate_tpm,
    )
    return NewKeyObject(key=secret, **_shown(row))


@router.get("/keys")
async def list_keys(request: Request, call: Admin) -> KeyList:
    """List the keys, without their secrets."""
    found = await _identity(request).list_keys(_reach(call))
    return KeyList(data=[KeyObject(**_shown(k)) for k in found])


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    request: Request, call: Admin, key_id: KeyId, body: RotateBody
) -> NewKeyObject:
    """Make a successor with the same rights; the old key works for the grace period."""
    row, secret = await _identity(request).rotate_key(_reach(call), key_id, body.grace_s)
    return NewKeyObject(key=secret, **_shown(row))


@router.delete("/keys/{key_id}")
async def revoke_key(request: Request, call: Admin, key_id: KeyId) -> KeyObject:
    """Revoke a key at once."""
    return KeyObject(**_shown(await _identity(request).revoke_key(_reach(call), key_id)))
