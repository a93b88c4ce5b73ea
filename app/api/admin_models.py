"""Administration of the model servers: added, weighed, drained and removed while calls go on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import require_platform
from app.api.common import ERRORS
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.deployment import Role
from app.monitoring.cost import HourPrice, Price, TokenPrice

if TYPE_CHECKING:
    from app.llm.deployment import Deployment
    from app.llm.rollouts import Kept
    from app.llm.same_question import Check
    from app.services import Services

router = APIRouter(
    prefix="/v1/admin", route_class=GovernedRoute, tags=["administration"], responses=ERRORS
)
Platform = Annotated[Call, Depends(Scope("admin:platform"))]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
ModelName = Annotated[str, Field(pattern=NAME)]
PathModel = Annotated[str, Path(pattern=NAME)]
DeploymentId = Annotated[str, Path(pattern=NAME)]
Weight = Annotated[float, Field(strict=True, gt=0, le=1000)]
Concurrent = Annotated[
    int | None,
    Field(strict=True, ge=1, le=100_000, description="Calls that it is sent at a time."),
]
Usd = Annotated[float, Field(strict=True, ge=0, le=1e6)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class DeploymentBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: Annotated[ModelName, Field(description="The name that callers use.")]
    url: Annotated[str, Field(max_length=500, description="As http://10.0.0.5:8000/v1.")]
    served: Annotated[ModelName | None, Field(description="The server's own name of it.")] = None
    api_key_env: Annotated[
        str | None,
        Field(max_length=120, description="Variable OSTIARY_MODEL_KEY_… with the server's key."),
    ] = None
    weight: Weight = 1.0
    max_concurrent: Concurrent = None
    role: Annotated[
        Role, Field(description="Whom it answers: all, the canary's share, or nobody.")
    ] = "stable"


class DeploymentChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: Weight | None = None
    draining: Annotated[bool | None, Field(strict=True)] = None
    max_concurrent: Concurrent = None
    role: Role | None = None


class TokenPriceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt_usd_per_mtok: Usd
    completion_usd_per_mtok: Usd


class HourPriceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hour_usd: Annotated[Usd, Field(description="USD an hour of a server that is answering.")]
    tokens_per_s: Annotated[
        float,
        Field(
            strict=True,
            gt=0,
            le=1e9,
            description="Prompt and completion tokens a second of a server, until measured.",
        ),
    ]


class CacheBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ttl_s: Annotated[float, Field(strict=True, gt=0, le=30 * 86_400)] = 3600.0
    semantic_threshold: Annotated[
        float | None,
        Field(
            strict=True,
            ge=0.5,
            le=1,
            description="Least cosine of two questions that are taken for one. Null: exact only.",
        ),
    ] = None


class CacheCheck(BaseModel):
    """What the threshold does on the labelled questions that come with the package."""

    paraphrases: int
    found: int
    near_misses: int
    wrong: Annotated[int, Field(description="Would get the answer of another question.")]


class CacheObject(BaseModel):
    ttl_s: float
    semantic_threshold: float | None
    since: Annotated[AwareDatetime, Field(description="What was kept before is not given.")]
    check: Annotated[CacheCheck | None, Field(description="Where a threshold was just set.")] = None


class RolloutBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    canary_share: Annotated[
        Share, Field(description="Of the callers, whom canaries answer; each stays on its side.")
    ] = 0.0
    shadow_share: Annotated[
        Share, Field(description="Of the calls, of which shadows get copies.")
    ] = 0.0
    candidate_price: Annotated[
        TokenPriceBody | None,
        Field(description="Of candidates in the comparison. Null: as the model's."),
    ] = None


class RolloutObject(RolloutBody):
    since: Annotated[AwareDatetime, Field(description="When the shares were set last.")]
    promoted: Annotated[bool, Field(description="A rollback would undo a promotion.")]


class ModelBody(BaseModel):
    """What is left out stays.

    A null ``price`` is the settings', a null ``cache`` none; a null ``rollout`` ends it.
    """

    model_config = ConfigDict(extra="forbid")
    fallbacks: Annotated[list[ModelName] | None, Field(max_length=8)] = None
    hedge_ms: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1,
            le=600_000,
            description="Without a first byte, until a second server is asked too. Null: never.",
        ),
    ] = None
    price: TokenPriceBody | HourPriceBody | None = None
    cache: Annotated[
        CacheBody | None, Field(description="Setting it, the same again too, empties it.")
    ] = None
    rollout: Annotated[
        RolloutBody | None, Field(description="Who is sent to canaries and shadows.")
    ] = None


class DeploymentObject(BaseModel):
    object: Literal["deployment"] = "deployment"
    id: str
    model: str
    served: str
    role: Role
    weight: float
    state: Literal["ready", "down", "draining"]
    max_concurrent: Annotated[int, Field(description="Calls that it is sent at a time.")]
    outstanding: Annotated[int, Field(description="Calls of this gateway that it answers.")]
    waiting: Annotated[int, Field(description="Requests in its queue, as it told last.")]
    cache_usage: Annotated[float | None, Field(description="Of its key-value memory, 0 to 1.")]
    from_settings: bool


class ModelObject(BaseModel):
    object: Literal["model.deployments"] = "model.deployments"
    model: str
    fallbacks: list[str]
    hedge_ms: int | None
    waiting: Annotated[int, Field(description="Calls that wait until a server has room.")]
    price: Annotated[
        TokenPriceBody | HourPriceBody | None,
        Field(description="Null: as the settings say. By the hour: tokens_per_s as measured."),
    ]
    cache: CacheObject | None
    rollout: RolloutObject | None
    deployments: list[DeploymentObject]


class ModelObjects(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


def _shown(services: Services, found: Deployment) -> DeploymentObject:
    return DeploymentObject(
        id=found.id,
        model=found.model,
        served=found.served,
        role=found.role,
        weight=found.weight,
        state="draining" if found.draining else "ready" if found.up else "down",
        max_concurrent=found.most,
        outstanding=found.outstanding,
        waiting=found.waiting,
        cache_usage=found.cache_usage,
        from_settings=services.fleet.of_settings(found.id),
    )


def _hedge_ms(services: Services, model: str) -> int | None:
    found = services.router.hedge_s(model)
    return None if found is None else round(1e3 * found)


def _price(services: Services, model: str) -> TokenPriceBody | HourPriceBody | None:
    found = services.fleet.price(model)
    if isinstance(found, HourPrice):
        return HourPriceBody(hour_usd=found.hour_usd, tokens_per_s=found.tokens_s)
    return _token_price(found)


def _token_price(price: TokenPrice | None) -> TokenPriceBody | None:
    if price is None:
        return None
    return TokenPriceBody(
        prompt_usd_per_mtok=price.prompt, completion_usd_per_mtok=price.completion
    )


def _asked(body: TokenPriceBody | HourPriceBody | None) -> Price | None:
    if isinstance(body, HourPriceBody):
        return HourPrice(body.hour_usd, body.tokens_per_s)
    if body is None:
        return None
    return TokenPrice(body.prompt_usd_per_mtok, body.completion_usd_per_mtok)


def _cache(services: Services, model: str, seen: Check | None) -> CacheObject | None:
    found = services.fleet.cache(model)
    if found is None:
        return None
    return CacheObject(
        ttl_s=found.ttl_s,
        semantic_threshold=found.threshold,
        since=datetime.fromtimestamp(found.since, UTC),
        check=None
        if seen is None
        else CacheCheck(
            paraphrases=seen.same, found=seen.found, near_misses=seen.different, wrong=seen.wrong
        ),
    )


def _rollout(kept: Kept | None) -> RolloutObject | None:
    if kept is None:
        return None
    rollout = kept.rollout
    return RolloutObject(
        canary_share=rollout.canary_share,
        shadow_share=rollout.shadow_share,
        candidate_price=_token_price(rollout.price),
        since=datetime.fromtimestamp(rollout.since, UTC),
        promoted=kept.previous is not None,
    )


async def shown_model(services: Services, name: str, seen: Check | None = None) -> ModelObject:
    """A model with its servers, as it is now."""
    return ModelObject(
        model=name,
        fallbacks=list(services.router.fallbacks(name)),
        hedge_ms=_hedge_ms(services, name),
        waiting=services.router.waiting()[name],
        price=_price(services, name),
        cache=_cache(services, name, seen),
        rollout=_rollout(await services.rollouts.kept(name)),
        deployments=[_shown(services, d) for d in services.router.deployments(name)],
    )


@router.get("/models")
async def list_deployments(request: Request, call: Platform) -> ModelObjects:
    """List the models of model servers with their servers, and how those are."""
    require_platform(call)
    services: Services = request.app.state.services
    return ModelObjects(data=[await shown_model(services, n) for n in services.router.names])


@router.put("/models/{model:path}")
async def change_model(
    request: Request, call: Platform, model: PathModel, body: ModelBody
) -> ModelObject:
    """Set a model's price, its cache, its rollout, and which models answer when no server can."""
    require_platform(call)
    services: Services = request.app.state.services
    if body.fallbacks is not None:
        await services.fleet.set_fallbacks(model, body.fallbacks)
    if "hedge_ms" in body.model_fields_set:
        await services.fleet.set_hedge(model, body.hedge_ms)
    if "price" in body.model_fields_set:
        await services.fleet.set_price(model, _asked(body.price))
    seen = None
    if "cache" in body.model_fields_set:
        ttl_s, threshold = None, None
        if body.cache is not None:
            ttl_s, threshold = body.cache.ttl_s, body.cache.semantic_threshold
        seen = await services.fleet.set_cache(model, ttl_s, threshold)
    if "rollout" in body.model_fields_set:
        wanted = body.rollout or RolloutBody()
        price = _asked(wanted.candidate_price)
        assert not isinstance(price, HourPrice)
        await services.rollouts.set(model, wanted.canary_share, wanted.shadow_share, price)
    return await shown_model(services, model, seen)


@router.post("/deployments", status_code=201)
async def add_deployment(
    request: Request, call: Platform, body: DeploymentBody
) -> DeploymentObject:
    """Take a model server in; it gets calls as soon as it is well."""
    require_platform(call)
    services: Services = request.app.state.services
    made = await services.fleet.add(
        body.model,
        body.url,
        served=body.served,
        api_key_env=body.api_key_env,
        weight=body.weight,
        max_concurrent=body.max_concurrent,
        role=body.role,
    )
    return _shown(services, made)


@router.post("/deployments/{deployment_id:path}")
async def change_deployment(
    request: Request, call: Platform, deployment_id: DeploymentId, body: DeploymentChange
) -> DeploymentObject:
    """Give a server another role or share, or drain it: streams go on to their end."""
    require_platform(call)
    services: Services = request.app.state.services
    changed = await services.fleet.change(
        deployment_id, body.weight, body.draining, body.max_concurrent, body.role
    )
    return _shown(services, changed)


@router.delete("/deployments/{deployment_id:path}", status_code=204)
async def remove_deployment(request: Request, call: Platform, deployment_id: DeploymentId) -> None:
    """Forget a server; the streams that it is in go on to their end."""
    require_platform(call)
    services: Services = request.app.state.services
    await services.fleet.remove(deployment_id)
