"""Guardrail policies as documents: read, stored in versions, and tried on texts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import require_platform
from app.api.common import ERRORS, Cursor, Deleted, Limit, ListPage, Order, one_cursor, with_times
from app.gateway.call import DEFAULT_TENANT, Call, Direction
from app.gateway.corridor import GovernedRoute, Scope
from app.guardrails.demands import CheckAction
from app.guardrails.documents import BadDocument
from app.guardrails.entities import ATTACK_ENTITIES
from app.guardrails.policy import Action

if TYPE_CHECKING:
    from app.guardrails.library import Library, Version
    from app.guardrails.policy import Policy, Rule
    from app.guardrails.rehearsal import Rehearsed
    from app.services import Services

router = APIRouter(
    prefix="/v1/guardrails/policies",
    route_class=GovernedRoute,
    tags=["guardrails"],
    responses=ERRORS,
)
Read = Annotated[Call, Depends(Scope("guardrails:read"))]
Write = Annotated[Call, Depends(Scope("guardrails:write"))]
Use = Annotated[Call, Depends(Scope("guardrails:use"))]
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, Path(pattern=NAME)]
VERSION = r"^([0-9a-f]{12}|[1-9][0-9]{0,8})$"
Document = Annotated[
    dict[str, Any],
    Body(
        description="As a policy file, in JSON: `entities`, and what else is not as usual.",
        examples=[{"min_score": 0.5, "entities": {"US_SSN": {"input": "block"}}}],
    ),
]


class PolicyObject(BaseModel):
    object: Literal["guardrail.policy"] = "guardrail.policy"
    id: Annotated[str, Field(description="Of this version; the name where it is not stored.")]
    name: str
    version: Annotated[str, Field(description="Hash of the document.")]
    number: Annotated[int | None, Field(description="From 1; null: it is not stored.")]
    source: Literal["shipped", "settings", "stored"]
    own: Annotated[bool, Field(description="Stored by the caller's tenant.")]
    min_score: float | None
    entities: dict[str, Any]
    document: Annotated[dict[str, Any], Field(description="To be changed and stored again.")]
    fault: Annotated[str | None, Field(description="Why this gateway cannot read it.")]
    made_by: str | None
    created_at: AwareDatetime | None


class PolicyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PolicyObject]


class TrialBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    texts: Annotated[
        list[Annotated[str, Field(max_length=20_000)]], Field(min_length=1, max_length=50)
    ]
    direction: Direction
    version: Annotated[
        str | None, Field(pattern=VERSION, description="Hash or number. Null: the newest.")
    ] = None
    document: Annotated[
        dict[str, Any] | None, Field(description="Tried in place of what is stored.")
    ] = None


class TrialFinding(BaseModel):
    entity_type: str
    action: Action | CheckAction
    start: int
    end: int
    score: float


class TrialResult(BaseModel):
    text: Annotated[str | None, Field(description="As it would pass. Null: refused.")]
    findings: list[TrialFinding]


class TrialCount(BaseModel):
    entity_type: str
    action: Action | CheckAction
    count: int


class Trial(BaseModel):
    object: Literal["guardrail.trial"] = "guardrail.trial"
    policy: str
    version: str
    direction: Direction
    refused: Annotated[bool, Field(description="A call with these texts would be refused.")]
    counts: list[TrialCount]
    results: list[TrialResult]


def _library(request: Request) -> Library:
    services: Services = request.app.state.services
    return services.policies


def _shown(call: Call, found: Version) -> PolicyObject:
    try:
        policy: Policy | None = found.policy()
        fault = None
    except BadDocument as error:
        policy, fault = None, str(error)
    entities = {} if policy is None else policy.entities
    return PolicyObject(
        id=found.id or found.name,
        name=found.name,
        version=found.version,
        number=found.number,
        source=found.source,
        own=found.owner == call.tenant_id,
        min_score=None if policy is None else policy.min_score,
        entities={e: _rule(e, r) for e, r in entities.items()},
        document=found.document,
        fault=fault,
        **with_times(
            # who made another tenant's is not for the caller to know
            {
                "made_by": found.made_by if found.owner == call.tenant_id else None,
                "created_at": found.created_at,
            }
        ),
    )


def _rule(entity: str, rule: Rule) -> dict[str, Any]:
    """A rule with what its type can have: attacks are not looked for in output."""
    idle = {"output"} if entity in ATTACK_ENTITIES else {"passages"}
    return rule.model_dump(exclude_none=True, exclude=idle)


def _require_author(call: Call) -> None:
    """The default tenant's documents can be assigned to everybody: its users may not edit them."""
    if call.tenant_id == DEFAULT_TENANT:
        require_platform(call)


@router.get("")
async def list_policies(request: Request, call: Read) -> PolicyList:
    """List the policies that the tenant can see, each in its newest version."""
    found = await _library(request).all(call.tenant_id)
    return PolicyList(data=[_shown(call, version) for version in found])


@router.get("/{name}")
async def get_policy(
    request: Request,
    call: Read,
    name: Name,
    version: Annotated[
        str | None, Query(pattern=VERSION, description="Hash or number. Default: the newest.")
    ] = None,
) -> PolicyObject:
    """Get a policy."""
    return _shown(call, await _library(request).find(call.tenant_id, name, version))


@router.put("/{name}")
async def put_policy(request: Request, call: Write, name: Name, body: Document) -> PolicyObject:
    """Store a document as the newest version of a policy; the same again makes none."""
    _require_author(call)
    found, before = await _library(request).put(call.tenant_id, name, body, call.principal.subject)
    call.lineage["policy_change"] = {"policy": name, "old": before, "new": found.version}
    return _shown(call, found)


@router.get("/{name}/versions")
async def list_policy_versions(
    request: Request,
    call: Read,
    name: Name,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> ListPage[PolicyObject]:
    """List the versions of a policy, the newest first."""
    one_cursor(after, before)
    page = await _library(request).versions(
        call.tenant_id, name, limit=limit, order=order, after=after, before=before
    )
    return ListPage[PolicyObject].of([_shown(call, v) for v in page.rows], page.has_more)


@router.delete("/{name}")
async def delete_policy(request: Request, call: Write, name: Name) -> Deleted:
    """Forget a stored policy with all its versions; not while it is assigned."""
    _require_author(call)
    before = await _library(request).delete(call.tenant_id, name)
    call.lineage["policy_change"] = {"policy": name, "old": before, "new": None}
    return Deleted(id=name, object="guardrail.policy.deleted")


@router.post("/{name}/try")
async def try_policy(request: Request, call: Use, name: Name, body: TrialBody) -> Trial:
    """Tell what a policy, or a draft of it, would do to texts; nothing is done or stored."""
    services: Services = request.app.state.services
    library = services.policies
    if body.document is not None:
        policy = library.read(name, body.document)
    else:
        policy = (await library.find(call.tenant_id, name, body.version)).usable()
    found = await services.guardrails.rehearse(call, policy, body.texts, body.direction)
    results = [_result(policy, body.direction, rehearsed) for rehearsed in found]
    counts = Counter((f.entity_type, f.action) for result in results for f in result.findings)
    return Trial(
        policy=policy.name,
        version=policy.version,
        direction=body.direction,
        refused=any(result.text is None for result in results),
        counts=[
            TrialCount(entity_type=entity, action=action, count=count)
            for (entity, action), count in sorted(counts.items())
        ],
        results=results,
    )


def _result(policy: Policy, direction: Direction, rehearsed: Rehearsed) -> TrialResult:
    return TrialResult(
        text=rehearsed.text,
        findings=[
            TrialFinding(
                entity_type=f.entity,
                action=policy.action(f.entity, direction),
                start=f.start,
                end=f.end,
                score=f.score,
            )
            for f in rehearsed.findings
        ]
        + [
            TrialFinding(
                entity_type=c.entity, action=c.action, start=c.start, end=c.end, score=c.score
            )
            for c in rehearsed.checks
        ],
    )
