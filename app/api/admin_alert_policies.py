"""Administration of alert policies: what becomes of alerts of drift and freshness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from app.api.admin import Admin, PathId, require_platform
from app.api.common import ERRORS, AccessName, Deleted, with_times
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute
from app.monitoring.alerts import Action, Kind, Rule, Severity

if TYPE_CHECKING:
    from app.monitoring.alerts import AlertPolicy
    from app.services import Services

router = APIRouter(
    prefix="/v1/admin/alert_policies",
    route_class=GovernedRoute,
    tags=["administration"],
    responses=ERRORS,
)
DAY_S = 86_400
Seconds = Annotated[float, Field(strict=True, ge=0, le=366 * DAY_S)]
ObjectId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class AlertPolicyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Kind
    subject: Annotated[
        str,
        Field(
            min_length=1,
            max_length=700,
            pattern=r"^[^\x00-\x1f\x7f\[\]]+$",
            description="Pattern of whole subjects, with `*` and `?`: of drift a feature's name, "
            "of freshness the id of a vector store.",
        ),
    ] = "*"
    severity: Severity = "medium"
    owner: Annotated[AccessName, Field(description="Who is told of and answers for an incident.")]
    acknowledge_within_s: Annotated[
        Annotated[Seconds, Field(gt=0)] | None,
        Field(description="After which an incident escalates. Null: never."),
    ] = None
    escalate_to: Annotated[
        list[AccessName],
        Field(max_length=10, description="Owners after the first, one more at each escalation."),
    ] = []
    webhook_id: ObjectId | None = None
    action: Annotated[
        Action | None,
        Field(
            description="`reembed`: build the index of a vector store anew. `fall_back`: its "
            "earlier build, or the servers that a model had before."
        ),
    ] = None
    vector_store_id: Annotated[
        ObjectId | None,
        Field(description="What the action is done to. Null: the incident's own vector store."),
    ] = None
    model: Annotated[
        Name | None,
        Field(description="Instead, a model that falls back; by the platform's administrators."),
    ] = None
    embedding_model: Annotated[
        Name | None, Field(description="For `reembed`. Null: the store's.")
    ] = None
    cooldown_s: Annotated[
        Seconds, Field(description="Least time between two such actions on the same thing.")
    ] = float(DAY_S)
    approval: Annotated[
        bool, Field(strict=True, description="The action waits until somebody approves.")
    ] = False
    close_after_s: Annotated[
        Seconds, Field(description="How long the condition is over before an incident closes.")
    ] = 7200.0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.escalate_to and self.acknowledge_within_s is None:
            raise ValueError("escalate_to needs acknowledge_within_s")
        if self.action is None and (self.vector_store_id or self.model):
            raise ValueError("vector_store_id and model need an action")
        if self.vector_store_id and self.model:
            raise ValueError("give vector_store_id or model, not both")
        if self.model is not None and self.action != "fall_back":
            raise ValueError("a model can only fall back")
        if self.embedding_model is not None and self.action != "reembed":
            raise ValueError("embedding_model is for the action reembed")
        alone = self.vector_store_id is None and self.model is None
        if self.action is not None and self.kind != "freshness" and alone:
            raise ValueError(
                f"the subject of {self.kind} is no vector store: name vector_store_id or model"
            )
        return self

    def rule(self) -> Rule:
        """As the service keeps it."""
        return Rule.from_json(self.model_dump())


class AlertPolicyObject(BaseModel):
    object: Literal["alert.policy"] = "alert.policy"
    id: str
    kind: Kind
    subject: str
    severity: Severity
    owner: str
    acknowledge_within_s: float | None
    escalate_to: list[str]
    webhook_id: str | None
    action: Action | None
    vector_store_id: str | None
    model: str | None
    embedding_model: str | None
    cooldown_s: float
    approval: bool
    close_after_s: float
    made_by: str
    created_at: AwareDatetime
    updated_at: AwareDatetime


class AlertPolicyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AlertPolicyObject]


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _shown(policy: AlertPolicy) -> AlertPolicyObject:
    times = {"created_at": policy.created_at, "updated_at": policy.updated_at}
    return AlertPolicyObject(
        id=policy.id, made_by=policy.made_by, **policy.rule.as_json(), **with_times(times)
    )


async def _checked(services: Services, call: Call, body: AlertPolicyBody) -> Rule:
    """The rule, when what it names is there and the caller's to name."""
    rule = body.rule()
    if rule.webhook_id is not None:
        await services.alerting.webhooks.get(call.tenant_id, rule.webhook_id)
    if rule.vector_store_id is not None:
        await services.vector_stores.get(call.tenant_id, rule.vector_store_id)
    if rule.embedding_model is not None:
        services.vector_stores.model(rule.embedding_model)
    if rule.model is not None:
        require_platform(call)
        await services.rollouts.kept(rule.model)
    return rule


def _note(call: Call, policy_id: str, rule: Rule | None) -> None:
    """For the audit record: what holds from now on."""
    change: dict[str, Any] = {"policy": policy_id, "rule": rule.as_json() if rule else None}
    call.lineage["alert_policy_change"] = change


@router.post("", status_code=201)
async def create_alert_policy(
    request: Request, call: Admin, body: AlertPolicyBody
) -> AlertPolicyObject:
    """Make a policy for alerts of the tenant."""
    services = _services(request)
    made = await services.alerting.policies.create(call, await _checked(services, call, body))
    _note(call, made.id, made.rule)
    return _shown(made)


@router.get("")
async def list_alert_policies(request: Request, call: Admin) -> AlertPolicyList:
    """List the tenant's alert policies, oldest first."""
    found = await _services(request).alerting.policies.of(call.tenant_id)
    return AlertPolicyList(data=[_shown(policy) for policy in found])


@router.get("/{policy_id}")
async def get_alert_policy(request: Request, call: Admin, policy_id: PathId) -> AlertPolicyObject:
    """Get an alert policy."""
    return _shown(await _services(request).alerting.policies.get(call.tenant_id, policy_id))


@router.put("/{policy_id}")
async def replace_alert_policy(
    request: Request, call: Admin, policy_id: PathId, body: AlertPolicyBody
) -> AlertPolicyObject:
    """Put another policy in its place; incidents that are open keep the one they had."""
    services = _services(request)
    await services.alerting.policies.get(call.tenant_id, policy_id)
    rule = await _checked(services, call, body)
    replaced = await services.alerting.policies.replace(call.tenant_id, policy_id, rule)
    _note(call, policy_id, rule)
    return _shown(replaced)


@router.delete("/{policy_id}")
async def delete_alert_policy(request: Request, call: Admin, policy_id: PathId) -> Deleted:
    """Delete an alert policy; incidents that it opened stay open."""
    await _services(request).alerting.policies.delete(call.tenant_id, policy_id)
    _note(call, policy_id, None)
    return Deleted(id=policy_id, object="alert.policy.deleted")
