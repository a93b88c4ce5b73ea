"""Administration of the guardrail policies: who obeys which, in force or on trial."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import Admin, PathId, reach
from app.api.common import ERRORS, Deleted, with_times
from app.api.policies import NAME, VERSION
from app.errors import BadRequest, Forbidden, NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute
from app.guardrails.assignments import EVERY, MANDATORY, ROUTE, Assignment, Mode, covers

if TYPE_CHECKING:
    from app.services import Services

router = APIRouter(
    prefix="/v1/admin/policies",
    route_class=GovernedRoute,
    tags=["administration"],
    responses=ERRORS,
)


class AssignmentBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    policy: Annotated[str, Field(pattern=NAME)]
    version: Annotated[
        str | None,
        Field(pattern=VERSION, description="Hash or number to stay at. Null: always the newest."),
    ] = None
    tenant_id: Annotated[
        str | None,
        Field(pattern=r"^(\*|[A-Za-z0-9_-]{1,64})$", description="Yours when empty; `*`: every."),
    ] = None
    route: Annotated[
        str,
        Field(
            pattern=ROUTE,
            max_length=256,
            description="As `POST /v1/chat/completions`, `/v1/embeddings` or `/v1/chat/*`; "
            "`*`: every.",
        ),
    ] = EVERY
    mode: Mode = "enforce"
    mandatory: Annotated[
        bool,
        Field(
            strict=True,
            description="No tenant can choose another policy for what this one governs; set by "
            "the platform's administrators.",
        ),
    ] = False


class AssignmentObject(BaseModel):
    object: Literal["guardrail.assignment"] = "guardrail.assignment"
    id: str
    tenant_id: Annotated[str, Field(description="`*`: every tenant.")]
    route: Annotated[str, Field(description="`*`: every route.")]
    mode: Mode
    policy: str
    version: Annotated[str | None, Field(description="Null: always the newest.")]
    mandatory: bool
    in_force: Annotated[
        str | None, Field(description="Policy and version. Null: calls are refused, see `fault`.")
    ]
    fault: Annotated[str | None, Field(description="Why it cannot be put in force.")]
    made_by: str | None
    created_at: AwareDatetime


class AssignmentList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AssignmentObject]


def _shown(services: Services, call: Call, found: Assignment) -> AssignmentObject:
    standing = services.in_force.standing(found)
    values = with_times(asdict(found))
    del values["owner"]
    if reach(call) not in (None, found.tenant_id):
        values["made_by"] = None  # of another tenant
    in_force = None if standing.policy is None else standing.named
    return AssignmentObject(**values, in_force=in_force, fault=standing.fault or None)


def _note(call: Call, found: Assignment, old: str | None, new: str | None) -> None:
    """For the audit record: what was in force by the assignment, and what is."""
    change: dict[str, Any] = {"assignment": found.id, "policy": found.policy}
    change |= {"tenant_id": found.tenant_id, "route": found.route, "mode": found.mode}
    change["mandatory"] = found.mandatory
    call.lineage["policy_change"] = {**change, "old": old, "new": new}


@router.get("")
async def list_assignments(request: Request, call: Admin) -> AssignmentList:
    """List what is assigned to the tenant's calls; for platform administrators, to all."""
    services: Services = request.app.state.services
    await services.in_force.sync()
    found = services.in_force.assigned(reach(call))
    return AssignmentList(data=[_shown(services, call, a) for a in found])


@router.put("")
async def assign_policy(request: Request, call: Admin, body: AssignmentBody) -> AssignmentObject:
    """Assign a policy to a tenant and a route, in place of what they had; no restart."""
    services: Services = request.app.state.services
    tenant_id = body.tenant_id or call.tenant_id
    if reach(call) not in (None, tenant_id):
        raise Forbidden(
            "Policies of other tenants are assigned by the platform's administrators. Leave "
            "tenant_id out to assign one to yours."
        )
    if body.mandatory and reach(call) is not None:
        raise Forbidden("Only the platform's administrators make an assignment mandatory.")
    if tenant_id != EVERY and await services.identity.find_tenant(tenant_id) is None:
        raise NotFound(
            "tenant", tenant_id, remedy="GET /v1/admin/tenants lists them.", param="tenant_id"
        )
    _require_route(request, body.route)
    found = await services.policies.find(call.tenant_id, body.policy, body.version)
    made, before = await services.in_force.assign(
        found.usable(),
        found.owner,
        tenant_id=tenant_id,
        route=body.route,
        mode=body.mode,
        pinned=body.version is not None,
        mandatory=body.mandatory,
        by_platform=reach(call) is None,
        made_by=call.principal.subject,
    )
    _note(call, made, before, f"{found.name}@{found.version}")
    return _shown(services, call, made)


def _require_route(request: Request, pattern: str) -> None:
    """A pattern that covers nothing would protect nobody."""
    routes = [r for r in request.app.routes if isinstance(r, GovernedRoute)]
    if not any(covers(pattern, f"{m} {r.path}") for r in routes for m in r.methods or ()):
        raise BadRequest(
            "No route is like that. Name one as docs/reference/scopes.md does, as "
            "`POST /v1/chat/completions`, or the beginning of some, as `/v1/chat/*`.",
            param="route",
        )


@router.delete("/{assignment_id}")
async def unassign_policy(request: Request, call: Admin, assignment_id: PathId) -> Deleted:
    """End an assignment; its calls obey the next specific one, or the policy of the settings."""
    services: Services = request.app.state.services
    await services.in_force.sync()
    whose = reach(call)
    for found in services.in_force.assigned(whose):
        if found.id != assignment_id:
            continue
        if whose not in (None, found.tenant_id):
            raise Forbidden("What is assigned to every tenant is ended by the platform.")
        if found.mandatory and whose is not None:
            raise Forbidden(MANDATORY)
        before = services.in_force.standing(found).named
        await services.in_force.unassign(found)
        _note(call, found, before, None)
        return Deleted(id=assignment_id, object="guardrail.assignment.deleted")
    raise NotFound("assignment", assignment_id, remedy="GET /v1/admin/policies lists them.")
