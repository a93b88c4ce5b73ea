"""Administration: tenants and API keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.common import ERRORS, AccessName, with_times
from app.errors import Forbidden
from app.gateway.acting import IMPERSONATE, MOST_GROUPS
from app.gateway.call import DEFAULT_TENANT, SEES_ALL, Call
from app.gateway.corridor import GovernedRoute, Scope
from app.gateway.scopes import require_known
from app.gateway.tags import MOST, NAME, VALUE

if TYPE_CHECKING:
    from app.gateway.identity import ApiKey, Identity, Tenant

router = APIRouter(
    prefix="/v1/admin", route_class=GovernedRoute, tags=["administration"], responses=ERRORS
)
Admin = Annotated[Call, Depends(Scope("admin"))]
Platform = Annotated[Call, Depends(Scope("admin:platform"))]
IdText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PathId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Tags = Annotated[
    dict[
        Annotated[str, Field(pattern=f"^{NAME}$")],
        Annotated[str, Field(pattern=f"^{VALUE}$")],
    ],
    Field(max_length=MOST),
]
ScopeName = Annotated[str, Field(pattern=r"^(\*|[a-z_]{1,40}(:(\*|[a-z_]{1,40}))?)$")]


class TenantBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    budget_usd_per_day: Annotated[float | None, Field(strict=True, ge=0, le=1e9)] = None


class TenantObject(BaseModel):
    object: Literal["tenant"] = "tenant"
    id: str
    name: str
    created_at: AwareDatetime
    disabled_at: AwareDatetime | None
    budget_usd_per_day: float | None


class TenantList(BaseModel):
    object: Literal["list"] = "list"
    data: list[TenantObject]


class KeyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=50)]
    tenant_id: Annotated[IdText | None, Field(description="Yours when empty.")] = None
    expires_at: AwareDatetime | None = None
    rate_rpm: Annotated[int | None, Field(strict=True, ge=1, le=2**31 - 1)] = None
    rate_tpm: Annotated[int | None, Field(strict=True, ge=1, le=2**31 - 1)] = None
    max_streams: Annotated[
        int | None, Field(strict=True, ge=1, le=2**31 - 1, description="Open at a time.")
    ] = None
    budget_usd_per_day: Annotated[float | None, Field(strict=True, ge=0, le=1e9)] = None
    user: Annotated[
        AccessName | None, Field(description="Whom access lists take the bearer for.")
    ] = None
    groups: Annotated[list[AccessName], Field(max_length=MOST_GROUPS)] = []
    tags: Annotated[Tags, Field(description="Of all its calls; these cannot change them.")] = {}


class RotateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    grace_seconds: Annotated[
        float,
        Field(strict=True, ge=0, le=30 * 86_400, description="How long the old key still works."),
    ] = 3600.0


class KeyObject(BaseModel):
    object: Literal["api_key"] = "api_key"
    id: str
    tenant_id: str
    name: str
    scopes: list[str]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    rotated_to: str | None
    rate_rpm: int | None
    rate_tpm: int | None
    max_streams: int | None
    budget_usd_per_day: float | None
    user: str | None
    groups: list[str]
    tags: dict[str, str]


class NewKeyObject(KeyObject):
    key: Annotated[str, Field(description="Shown this once.")]


class KeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyObject]


def _identity(request: Request) -> Identity:
    identity: Identity = request.app.state.services.identity
    return identity


def _shown(key: ApiKey) -> dict[str, Any]:
    values = {**with_times(asdict(key)), "scopes": list(key.scopes), "groups": list(key.groups)}
    return {name: value for name, value in values.items() if name != "first_id"}


def _tenant(tenant: Tenant) -> TenantObject:
    return TenantObject(**with_times(asdict(tenant)))


def reach(call: Call) -> str | None:
    """The tenant whose things the caller may manage; None for all."""
    platform = call.tenant_id == DEFAULT_TENANT and call.principal.may("admin:platform")
    return None if platform else call.tenant_id


def _require_scopes(call: Call, scopes: Sequence[str]) -> None:
    """Nobody can hand out rights that he lacks, neither in a new key nor in a successor."""
    if any(not call.principal.may(scope) for scope in scopes):
        raise Forbidden("This key would have scopes that yours lacks. Ask for fewer.")


def _require_sight(call: Call, user: str | None, groups: Sequence[str]) -> None:
    """Nobody can hand out sight that he lacks: as another user, or of another's groups."""
    who = call.principal
    if who.sees_all or who.may(IMPERSONATE):
        return
    if user not in (None, who.user) or not who.groups.issuperset(groups):
        raise Forbidden(
            f"This key would see files that yours may not. It takes the scope '{SEES_ALL}' to "
            "make keys for other users or groups.",
        )


def require_platform(call: Call) -> None:
    """Refuse who administrates a tenant only.

    Raises:
        Forbidden: the caller is not of the platform's own administrators.
    """
    if reach(call) is not None:
        raise Forbidden("This is for the platform's own administrators.")


@router.post("/tenants", status_code=201)
async def create_tenant(request: Request, call: Platform, body: TenantBody) -> TenantObject:
    """Make a tenant."""
    require_platform(call)
    tenant = await _identity(request).create_tenant(body.name, body.budget_usd_per_day)
    return _tenant(tenant)


@router.get("/tenants")
async def list_tenants(request: Request, call: Platform) -> TenantList:
    """List the tenants."""
    require_platform(call)
    return TenantList(data=[_tenant(t) for t in await _identity(request).list_tenants()])


@router.delete("/tenants/{tenant_id}", status_code=204)
async def disable_tenant(request: Request, call: Platform, tenant_id: PathId) -> None:
    """Disable a tenant: none of its keys works from now on."""
    require_platform(call)
    await _identity(request).disable_tenant(tenant_id)


@router.post("/keys", status_code=201)
async def create_key(request: Request, call: Admin, body: KeyBody) -> NewKeyObject:
    """Make an API key; its secret is in this reply and nowhere else."""
    tenant_id = body.tenant_id or call.tenant_id
    if reach(call) not in (None, tenant_id):
        raise Forbidden("Keys of another tenant are made by the platform's administrators.")
    require_known(body.scopes)
    _require_scopes(call, body.scopes)
    _require_sight(call, body.user, body.groups)
    row, secret = await _identity(request).create_key(
        tenant_id,
        body.name,
        body.scopes,
        expires_at=None if body.expires_at is None else body.expires_at.timestamp(),
        rate_rpm=body.rate_rpm,
        rate_tpm=body.rate_tpm,
        max_streams=body.max_streams,
        budget_usd_per_day=body.budget_usd_per_day,
        user=body.user,
        groups=body.groups,
        tags=body.tags,
    )
    return NewKeyObject(key=secret, **_shown(row))


@router.get("/keys")
async def list_keys(request: Request, call: Admin) -> KeyList:
    """List the keys, without their secrets."""
    found = await _identity(request).list_keys(reach(call))
    return KeyList(data=[KeyObject(**_shown(k)) for k in found])


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    request: Request, call: Admin, key_id: PathId, body: RotateBody
) -> NewKeyObject:
    """Make a successor with the same rights; the old key works for the grace period."""
    identity, whose = _identity(request), reach(call)
    old = await identity.find_key(whose, key_id)
    _require_scopes(call, old.scopes)
    _require_sight(call, old.user, old.groups)
    row, secret = await identity.rotate_key(whose, key_id, body.grace_seconds)
    return NewKeyObject(key=secret, **_shown(row))


@router.delete("/keys/{key_id}")
async def revoke_key(request: Request, call: Admin, key_id: PathId) -> KeyObject:
    """Revoke a key at once."""
    return KeyObject(**_shown(await _identity(request).revoke_key(reach(call), key_id)))
