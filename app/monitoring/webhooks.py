"""Webhooks: where incidents are told, with the secrets that sign what is sent."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, delete, func, select, update

from app.errors import Conflict, NotFound
from app.gateway.call import Call
from app.ids import new_id
from app.monitoring.webhook_post import Undelivered, WebhookPost
from app.store.db import Database
from app.store.models_incidents import alert_policies, webhook_deliveries, webhooks
from app.store.paging import Page, page_of

MOST = 50  # of a tenant
_W, _D = webhooks.c, webhook_deliveries.c


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of a tenant; its secret is not part of it."""

    id: str
    tenant_id: str
    url: str
    description: str
    created_at: float
    rotated_at: float | None
    old_until: float | None  # until when the secret of before signs too


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to a receiver, and how far it is. ``id`` is the same at each attempt."""

    id: str
    webhook_id: str
    incident_id: str
    event: str
    status: str  # pending, delivered, failed
    attempts: int
    next_at: float
    error: str | None
    created_at: float
    ended_at: float | None


_SHOWN = [_W[name] for name in Webhook.__slots__]
_TOLD = [_D[name] for name in Delivery.__slots__]


class Webhooks:
    """Keeps each secret encrypted (AES-GCM, bound to the webhook's id).

    Args:
        key: the secret that all gateways on the database share.
    """

    def __init__(self, db: Database, post: WebhookPost, key: bytes) -> None:
        self._db, self._post = db, post
        self._key = hmac.digest(key, b"ostiary webhooks\x01", "sha256")

    async def create(self, call: Call, url: str, description: str) -> tuple[Webhook, str]:
        """Add a receiver; returns its secret too, which is never told again.

        Raises:
            BadRequest: the operator does not allow the address.
            Conflict: the tenant has as many as it may have.
        """
        self._post.admit(url)
        made = Webhook(new_id("wh_"), call.tenant_id, url, description, time.time(), None, None)
        secret = new_secret()
        async with self._db.write() as connection:
            count = select(func.count()).where(_W.tenant_id == call.tenant_id)
            if (await connection.scalar(count) or 0) >= MOST:
                raise Conflict(f"This tenant has {MOST} webhooks, and no more fit. Delete some.")
            values = {name: getattr(made, name) for name in Webhook.__slots__}
            await connection.execute(
                self._db.insert(webhooks).values(**values, secret=self._sealed(made.id, secret))
            )
        return made, secret

    async def get(self, tenant_id: str, webhook_id: str) -> Webhook:
        """Raises NotFound for an unknown id or another tenant's."""
        query = select(*_SHOWN).where(_W.id == webhook_id, _W.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("webhook", webhook_id)
        return Webhook(**row)

    async def of(self, tenant_id: str) -> list[Webhook]:
        """All of a tenant, oldest first."""
        query = select(*_SHOWN).where(_W.tenant_id == tenant_id).order_by(_W.id)
        return [Webhook(**row) for row in await self._db.rows(query)]

    async def rotate(self, tenant_id: str, webhook_id: str, grace_s: float) -> tuple[Webhook, str]:
        """Give a new secret; the old one signs beside it for the grace period.

        Raises:
            NotFound: unknown, or another tenant's.
        """
        await self.get(tenant_id, webhook_id)
        now, secret = time.time(), new_secret()
        async with self._db.write() as connection:
            await connection.execute(
                update(webhooks)
                .where(_W.id == webhook_id)
                .values(
                    old_secret=_W.secret,
                    old_until=now + grace_s,
                    rotated_at=now,
                    secret=self._sealed(webhook_id, secret),
                )
            )
        return await self.get(tenant_id, webhook_id), secret

    async def delete(self, tenant_id: str, webhook_id: str) -> None:
        """Forget a receiver with what was still to be sent to it.

        Raises:
            NotFound: unknown, or another tenant's.
            Conflict: an alert policy names it.
        """
        await self.get(tenant_id, webhook_id)
        async with self._db.write() as connection:
            mine = select(alert_policies).where(alert_policies.c.tenant_id == tenant_id)
            for policy in (await connection.execute(mine)).mappings():
                if policy["rule"]["webhook_id"] == webhook_id:
                    raise Conflict(
                        f"The alert policy {policy['id']} names this webhook. Change it first."
                    )
            await connection.execute(delete(webhook_deliveries).where(_D.webhook_id == webhook_id))
            await connection.execute(delete(webhooks).where(_W.id == webhook_id))

    async def deliveries(
        self, tenant_id: str, webhook_id: str, status: str | None, **paging: Any
    ) -> Page[Delivery]:
        """One page of what was sent to a receiver, or is to be; raises NotFound."""
        await self.get(tenant_id, webhook_id)
        query = select(*_TOLD).where(_D.webhook_id == webhook_id)
        if status is not None:
            query = query.where(_D.status == status)
        found = await page_of(self._db, query, _D.id, **paging)
        return Page([Delivery(**row) for row in found.rows], found.has_more)

    async def headers(self, row: RowMapping, body: str, now: float) -> tuple[str, dict[str, str]]:
        """The address of a delivery, and the headers that sign its body as of ``now``.

        Raises:
            NotFound: its webhook was deleted.
            Undelivered: this gateway cannot read its secret.
        """
        from cryptography.exceptions import InvalidTag
        from standardwebhooks import Webhook as Signer

        query = select(webhooks).where(_W.id == row["webhook_id"])
        found = await self._db.one_or_none(query)
        if found is None:
            raise NotFound("webhook", row["webhook_id"])
        sealed = [found["secret"]]
        if found["old_secret"] is not None and now < found["old_until"]:
            sealed.append(found["old_secret"])
        at = datetime.fromtimestamp(int(now), UTC)
        try:
            opened = [self._opened(found["id"], each) for each in sealed]
        except InvalidTag:
            raise Undelivered(
                "The secret cannot be read with the key of this gateway. Operator: give all "
                "gateways the same OSTIARY_GUARDRAIL_KEY; else rotate the secret."
            ) from None
        signatures = [Signer(secret).sign(row["id"], at, body) for secret in opened]
        return found["url"], {
            "content-type": "application/json",
            "webhook-id": row["id"],
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(signatures),
        }

    def _sealed(self, webhook_id: str, secret: str) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        return nonce + AESGCM(self._key).encrypt(nonce, secret.encode(), webhook_id.encode())

    def _opened(self, webhook_id: str, sealed: bytes) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        opened = AESGCM(self._key).decrypt(sealed[:12], sealed[12:], webhook_id.encode())
        return opened.decode()


def new_secret() -> str:
    """256 random bits, as Standard Webhooks writes a secret."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
