"""The stored alert policies of all tenants."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import RowMapping, delete, func, select, update

from app.errors import Conflict, NotFound
from app.gateway.call import Call
from app.ids import new_id
from app.monitoring.alerts import AlertPolicy, Rule
from app.store.db import Database
from app.store.models_incidents import alert_policies

MOST = 200  # of a tenant; each look goes through them
_P = alert_policies.c


class AlertPolicies:
    """A change holds for incidents that open later; an open one keeps the rule it had."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, call: Call, rule: Rule) -> AlertPolicy:
        """Store a policy of the caller's tenant.

        Raises:
            Conflict: the tenant has as many as it may have.
        """
        now = time.time()
        made = AlertPolicy(new_id("ap_"), call.tenant_id, rule, call.principal.subject, now, now)
        async with self._db.write() as connection:
            count = select(func.count()).where(_P.tenant_id == call.tenant_id)
            if (await connection.scalar(count) or 0) >= MOST:
                raise Conflict(
                    f"This tenant has {MOST} alert policies, and no more fit. Delete some, or let "
                    "one pattern cover several subjects."
                )
            await connection.execute(
                self._db.insert(alert_policies).values(
                    id=made.id,
                    tenant_id=made.tenant_id,
                    rule=rule.as_json(),
                    made_by=made.made_by,
                    created_at=now,
                    updated_at=now,
                )
            )
        return made

    async def replace(self, tenant_id: str, policy_id: str, rule: Rule) -> AlertPolicy:
        """Put another rule in a policy's place; raises NotFound."""
        async with self._db.write() as connection:
            await connection.execute(
                update(alert_policies)
                .where(_P.id == policy_id, _P.tenant_id == tenant_id)
                .values(rule=rule.as_json(), updated_at=time.time())
            )
        return await self.get(tenant_id, policy_id)

    async def get(self, tenant_id: str, policy_id: str) -> AlertPolicy:
        """Raises NotFound for an unknown id or another tenant's."""
        query = select(alert_policies).where(_P.id == policy_id, _P.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("alert policy", policy_id)
        return _policy(row)

    async def of(self, tenant_id: str) -> list[AlertPolicy]:
        """All of a tenant, oldest first."""
        query = select(alert_policies).where(_P.tenant_id == tenant_id).order_by(_P.id)
        return [_policy(row) for row in await self._db.rows(query)]

    async def all(self) -> list[AlertPolicy]:
        """Those of all tenants."""
        return [_policy(row) for row in await self._db.rows(select(alert_policies))]

    async def delete(self, tenant_id: str, policy_id: str) -> None:
        """Forget a policy; raises NotFound. What it opened stays open."""
        await self.get(tenant_id, policy_id)
        async with self._db.write() as connection:
            await connection.execute(delete(alert_policies).where(_P.id == policy_id))


def _policy(row: RowMapping) -> AlertPolicy:
    values: dict[str, Any] = {**row, "rule": Rule.from_json(row["rule"])}
    return AlertPolicy(**values)
