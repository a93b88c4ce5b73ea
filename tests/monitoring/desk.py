"""Incidents as two gateways on one database follow them, by a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import delete, select

from app.gateway.call import Call, Principal
from app.ids import new_id
from app.monitoring.alert_policies import AlertPolicies
from app.monitoring.alerts import Alert, AlertPolicy, Rule
from app.monitoring.incident import Incident
from app.monitoring.incident_actions import IncidentActions
from app.monitoring.incidents import Incidents
from app.monitoring.webhook_outbox import WebhookOutbox
from app.monitoring.webhook_post import WebhookPost
from app.monitoring.webhooks import Webhooks
from app.store import models_incidents
from app.store.db import Database
from app.store.jobs import Jobs

TENANT = "t"
RULE: dict[str, Any] = {
    "kind": "drift",
    "subject": "*",
    "severity": "low",
    "owner": "first",
    "acknowledge_within_s": 100.0,
    "escalate_to": ["second", "third"],
    "webhook_id": None,
    "action": None,
    "vector_store_id": None,
    "model": None,
    "embedding_model": None,
    "cooldown_s": 1000.0,
    "approval": False,
    "close_after_s": 50.0,
}


class Desk:
    """Two of each service; ``standing`` are the subjects whose condition stands."""

    def __init__(self, db: Database) -> None:
        self.db, self.now = db, time.time()
        self.standing: set[str] = set()
        self.blind = False  # the source does not work
        self.begun: list[tuple[str, str]] = []  # target and job
        self.fails_at_begin: list[BaseException] = []
        self.calls: list[Call] = []  # that the gateways made by themselves
        self.policies = AlertPolicies(db)
        self.gateways = [self._incidents() for _ in range(2)]
        jobs = Jobs(db, "", "local")  # not started: what has become of a job is read alone
        self.actions = [IncidentActions(db, jobs, i, self._begin) for i in self.gateways]

    def _incidents(self) -> Incidents:
        made = Incidents(self.db, self.policies, {"drift": self._source}, clock=lambda: self.now)
        made.govern = self._govern
        return made

    @asynccontextmanager
    async def _govern(
        self, door: str, route: str, principal: Principal, *, duty: bool = False
    ) -> AsyncIterator[Call]:
        """A corridor that lets everything through and keeps what would be audited."""
        call = Call(new_id("call_"), new_id("req_"), door, route, principal)
        self.calls.append(call)
        yield call

    async def _source(self, tenant_id: str) -> list[Alert]:
        if self.blind:
            raise OSError("no answer")
        return [Alert(tenant_id, "drift", subject) for subject in sorted(self.standing)]

    async def _begin(self, call: Call, incident: Incident, job_id: str) -> bool:
        self.begun.append((incident.rule.target(incident.subject), job_id))
        if self.fails_at_begin:
            raise self.fails_at_begin.pop()
        return incident.rule.model is None

    async def policy(self, **changes: Any) -> AlertPolicy:
        return await self.policies.create(call_of("key:admin"), Rule.from_json(RULE | changes))

    async def look(self, after_s: float = 0.0) -> None:
        """Both gateways look at the same moment."""
        self.now += after_s
        await asyncio.gather(*(each.look() for each in self.gateways))
        await asyncio.gather(*(each.look() for each in self.actions))

    async def all(self) -> list[Incident]:
        table = models_incidents.incidents
        rows = await self.db.rows(select(table).order_by(table.c.id))
        return [Incident.from_row(row) for row in rows]

    async def one(self) -> Incident:
        (found,) = await self.all()
        return found

    async def changes(self, incident: Incident) -> list[str]:
        return [line["change"] for line in await self.gateways[0].history(incident)]

    def sending(self, origin: str, *, private: bool = True) -> tuple[WebhookPost, Webhooks]:
        post = WebhookPost([origin], private=private)
        return post, Webhooks(self.db, post, b"k" * 48)

    def outbox(self, post: WebhookPost, webhooks: Webhooks) -> WebhookOutbox:
        return WebhookOutbox(self.db, webhooks, post, clock=lambda: self.now)

    async def forget(self) -> None:
        """Everything, for the next example."""
        async with self.db.write() as connection:
            for table in (
                models_incidents.incidents,
                models_incidents.incident_events,
                models_incidents.alert_policies,
                models_incidents.alert_cooldowns,
                models_incidents.webhook_deliveries,
            ):
                await connection.execute(delete(table))


def call_of(subject: str, tenant_id: str = TENANT) -> Call:
    return Call(
        "call_1", "call_1", "rest", "POST /", Principal(tenant_id, subject, None, frozenset())
    )
