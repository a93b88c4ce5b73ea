"""Incidents: what alerts have opened, and what people do about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.common import (
    ERRORS,
    Cursor,
    Id,
    Limit,
    ListPage,
    Order,
    one_cursor,
    with_times,
)
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.monitoring.alerts import Action, Kind, Severity

if TYPE_CHECKING:
    from app.monitoring.incident import Incident
    from app.services import Services

router = APIRouter(
    prefix="/v1/incidents", route_class=GovernedRoute, tags=["monitoring"], responses=ERRORS
)
Read = Annotated[Call, Depends(Scope("incidents:read"))]
Write = Annotated[Call, Depends(Scope("incidents:write"))]
State = Literal["open", "acknowledged", "closed"]


class ActionObject(BaseModel):
    """What an incident has done; ``due`` waits for its turn, or for the end of a cool-down."""

    name: Action
    target: Annotated[str, Field(description="`vector_store/…` or `model/…`.")]
    state: Literal["waiting", "due", "starting", "started", "completed", "failed", "dropped"]
    began_at: AwareDatetime | None
    job_id: Annotated[str | None, Field(description="See `/v1/jobs`.")]
    error: str | None


class IncidentObject(BaseModel):
    object: Literal["incident"] = "incident"
    id: str
    kind: Kind
    subject: str
    state: State
    severity: Severity
    owner: str
    policy_id: Annotated[str, Field(description="That opened it; it keeps the policy as it was.")]
    details: Annotated[dict[str, Any], Field(description="Of the alert that opened it.")]
    escalations: int
    escalates_at: Annotated[
        AwareDatetime | None, Field(description="Next, unless it is acknowledged before.")
    ]
    action: ActionObject | None
    opened_at: AwareDatetime
    alerted_at: Annotated[AwareDatetime, Field(description="When its condition stood last.")]
    acknowledged_at: AwareDatetime | None
    acknowledged_by: str | None
    closed_at: AwareDatetime | None
    closed_by: str | None
    reason: Annotated[str | None, Field(description="Why it was closed.")]


class IncidentEvent(BaseModel):
    change: str
    by: str
    at: AwareDatetime
    details: dict[str, Any]


class IncidentWithHistory(IncidentObject):
    history: Annotated[list[IncidentEvent], Field(description="Oldest first.")]


class IncidentList(ListPage[IncidentObject]):
    pass


class CloseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: Annotated[
        str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]+$")
    ]


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _values(incident: Incident) -> dict[str, Any]:
    values = {name: getattr(incident, name) for name in incident.__slots__}
    action = None
    if incident.rule.action is not None:
        began = with_times({"began_at": incident.action_at})["began_at"]
        action = {
            "name": incident.rule.action,
            "target": incident.rule.target(incident.subject),
            "state": incident.action,
            "began_at": began,
            "job_id": incident.job_id,
            "error": incident.action_error,
        }
    values = {name: value for name, value in values.items() if name in IncidentObject.model_fields}
    return {**with_times(values), "action": action}


async def _whole(services: Services, incident: Incident) -> IncidentWithHistory:
    history = await services.alerting.incidents.history(incident)
    events = [
        IncidentEvent(**{**line, "at": datetime.fromtimestamp(line["at"], UTC)}) for line in history
    ]
    return IncidentWithHistory(**_values(incident), history=events)


@router.get("")
async def list_incidents(
    request: Request,
    call: Read,
    state: Annotated[State | None, Query()] = None,
    severity: Annotated[Severity | None, Query()] = None,
    kind: Annotated[Kind | None, Query()] = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> IncidentList:
    """List the tenant's incidents."""
    one_cursor(after, before)
    page = await _services(request).alerting.incidents.page(
        call.tenant_id,
        {"state": state, "severity": severity, "kind": kind},
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    return IncidentList.of([IncidentObject(**_values(i)) for i in page.rows], page.has_more)


@router.get("/{incident_id}")
async def get_incident(request: Request, call: Read, incident_id: Id) -> IncidentWithHistory:
    """Get an incident with its history."""
    services = _services(request)
    found = await services.alerting.incidents.get(call.tenant_id, incident_id)
    return await _whole(services, found)


@router.post("/{incident_id}/acknowledge")
async def acknowledge_incident(
    request: Request, call: Write, incident_id: Id
) -> IncidentWithHistory:
    """Take an incident on, so that it does not escalate any more."""
    services = _services(request)
    found = await services.alerting.incidents.acknowledge(call, incident_id)
    return await _whole(services, found)


@router.post("/{incident_id}/approve")
async def approve_incident(request: Request, call: Write, incident_id: Id) -> IncidentWithHistory:
    """Let the action that waits for approval begin; after its cool-down, where one is not over."""
    services = _services(request)
    found = await services.alerting.incidents.approve(call, incident_id)
    return await _whole(services, found)


@router.post("/{incident_id}/close")
async def close_incident(
    request: Request, call: Write, incident_id: Id, body: CloseBody
) -> IncidentWithHistory:
    """Close an incident by hand; if its condition stands, the next look opens another."""
    services = _services(request)
    found = await services.alerting.incidents.close(call, incident_id, body.reason)
    return await _whole(services, found)
