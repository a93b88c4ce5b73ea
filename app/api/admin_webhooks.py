"""Administration of webhooks: receivers of incidents, their secrets and what was sent to them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.admin import Admin, PathId, RotateBody
from app.api.common import ERRORS, Cursor, Deleted, Limit, ListPage, Order, one_cursor, with_times
from app.gateway.corridor import GovernedRoute

if TYPE_CHECKING:
    from app.alerting import Alerting
    from app.monitoring.webhooks import Webhook

router = APIRouter(
    prefix="/v1/admin/webhooks",
    route_class=GovernedRoute,
    tags=["administration"],
    responses=ERRORS,
)


class WebhookBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: Annotated[
        str,
        Field(
            min_length=8,
            max_length=2000,
            pattern=r"^https?://[!-~]+$",
            description="On an origin that the operator allows.",
        ),
    ]
    description: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class WebhookObject(BaseModel):
    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    description: str
    created_at: AwareDatetime
    rotated_at: AwareDatetime | None
    old_secret_until: Annotated[
        AwareDatetime | None, Field(description="Until when the secret of before signs too.")
    ]


class NewWebhookObject(WebhookObject):
    secret: Annotated[str, Field(description="Shown this once.")]


class WebhookList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WebhookObject]


class DeliveryObject(BaseModel):
    object: Literal["webhook.delivery"] = "webhook.delivery"
    id: Annotated[str, Field(description="The header `webhook-id` of every attempt.")]
    webhook_id: str
    incident_id: str
    event: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_at: Annotated[AwareDatetime | None, Field(description="Null: there is no next attempt.")]
    error: Annotated[str | None, Field(description="Of the last attempt.")]
    created_at: AwareDatetime
    ended_at: AwareDatetime | None


class DeliveryList(ListPage[DeliveryObject]):
    pass


def _alerting(request: Request) -> Alerting:
    alerting: Alerting = request.app.state.services.alerting
    return alerting


def _shown(webhook: Webhook) -> WebhookObject:
    times = {
        "created_at": webhook.created_at,
        "rotated_at": webhook.rotated_at,
        "old_at": webhook.old_until,
    }
    dates = with_times(times)
    return WebhookObject(
        id=webhook.id,
        url=webhook.url,
        description=webhook.description,
        created_at=dates["created_at"],
        rotated_at=dates["rotated_at"],
        old_secret_until=dates["old_at"],
    )


@router.post("", status_code=201)
async def create_webhook(request: Request, call: Admin, body: WebhookBody) -> NewWebhookObject:
    """Add a receiver; its secret is in this reply and nowhere else."""
    made, secret = await _alerting(request).webhooks.create(call, body.url, body.description)
    call.lineage["webhook"] = {"id": made.id, "change": "created"}
    return NewWebhookObject(secret=secret, **_shown(made).model_dump())


@router.get("")
async def list_webhooks(request: Request, call: Admin) -> WebhookList:
    """List the tenant's webhooks, without their secrets."""
    found = await _alerting(request).webhooks.of(call.tenant_id)
    return WebhookList(data=[_shown(webhook) for webhook in found])


@router.get("/{webhook_id}")
async def get_webhook(request: Request, call: Admin, webhook_id: PathId) -> WebhookObject:
    """Get a webhook, without its secret."""
    return _shown(await _alerting(request).webhooks.get(call.tenant_id, webhook_id))


@router.post("/{webhook_id}/rotate", status_code=201)
async def rotate_webhook(
    request: Request, call: Admin, webhook_id: PathId, body: RotateBody
) -> NewWebhookObject:
    """Give a new secret; for the grace period the old one signs beside it."""
    rotated, secret = await _alerting(request).webhooks.rotate(
        call.tenant_id, webhook_id, body.grace_seconds
    )
    call.lineage["webhook"] = {"id": webhook_id, "change": "rotated"}
    return NewWebhookObject(secret=secret, **_shown(rotated).model_dump())


@router.delete("/{webhook_id}")
async def delete_webhook(request: Request, call: Admin, webhook_id: PathId) -> Deleted:
    """Delete a webhook with what was still to be sent to it; 409 while a policy names it."""
    await _alerting(request).webhooks.delete(call.tenant_id, webhook_id)
    call.lineage["webhook"] = {"id": webhook_id, "change": "deleted"}
    return Deleted(id=webhook_id, object="webhook.deleted")


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    request: Request,
    call: Admin,
    webhook_id: PathId,
    status: Annotated[Literal["pending", "delivered", "failed"] | None, Query()] = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> DeliveryList:
    """List what was sent to a webhook, and what is still to be sent."""
    one_cursor(after, before)
    page = await _alerting(request).webhooks.deliveries(
        call.tenant_id, webhook_id, status, limit=limit, order=order, after=after, before=before
    )
    rows = [with_times(asdict(d)) for d in page.rows]
    for row in rows:
        row["next_at"] = row["next_at"] if row["status"] == "pending" else None
    return DeliveryList.of([DeliveryObject(**row) for row in rows], page.has_more)
