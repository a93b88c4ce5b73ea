"""What stands around incidents: where alerts come from, what is done, opened with the services."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.gateway.budget import LEVELS
from app.gateway.budgets import Budgets
from app.gateway.call import Call
from app.llm.rollouts import Rollouts
from app.monitoring.alert_policies import AlertPolicies
from app.monitoring.alerts import Alert, Source
from app.monitoring.drift_looks import DriftLooks
from app.monitoring.incident import Incident
from app.monitoring.incident_actions import Begin, IncidentActions
from app.monitoring.incidents import Incidents
from app.monitoring.webhook_outbox import WebhookOutbox
from app.monitoring.webhook_post import WebhookPost
from app.monitoring.webhooks import Webhooks
from app.periodic import forever
from app.retrieval.builds import Builds
from app.retrieval.connectors.schedule import Schedule
from app.settings import Settings
from app.store.db import Database
from app.store.jobs import Jobs

DELIVER_S = 1.0
SWEEP_S = 3600.0


@dataclass(slots=True)
class Alerting:
    """The services around incidents."""

    policies: AlertPolicies
    incidents: Incidents
    actions: IncidentActions
    webhooks: Webhooks
    outbox: WebhookOutbox
    every_s: float

    def begin(self, stack: AsyncExitStack) -> None:
        """Look for alerts and send what is to be sent from now on; the jobs have been started."""

        async def deliver() -> None:
            while await self.outbox.deliver():
                pass

        async def look() -> None:
            await self.incidents.look()
            await self.actions.look()

        for work, every_s in (
            (look, self.every_s),
            (deliver, DELIVER_S),
            (self.outbox.sweep, SWEEP_S),
        ):
            task = asyncio.create_task(forever(work, every_s))
            stack.callback(task.cancel)


def open_alerting(
    settings: Settings,
    stack: AsyncExitStack,
    db: Database,
    jobs: Jobs,
    key: bytes,
    looks: DriftLooks,
    schedule: Schedule,
    budgets: Budgets,
    builds: Builds,
    rollouts: Rollouts,
) -> Alerting:
    """The services over the rooms that raise alerts and those that actions change."""
    post = WebhookPost(settings.webhook_origins, private=settings.webhook_private)
    stack.push_async_callback(post.aclose)
    webhooks, policies = Webhooks(db, post, key), AlertPolicies(db)
    every_s = settings.alert_every_s
    incidents = Incidents(db, policies, alert_sources(looks, schedule, budgets, every_s))
    actions = IncidentActions(db, jobs, incidents, _begin(builds, rollouts))
    outbox = WebhookOutbox(db, webhooks, post)
    return Alerting(policies, incidents, actions, webhooks, outbox, every_s)


def alert_sources(
    looks: DriftLooks, schedule: Schedule, budgets: Budgets, every_s: float
) -> Mapping[str, Source]:
    """What gives the alerts that stand, by kind, to one who asks every so many seconds."""

    async def drifted(tenant_id: str) -> list[Alert]:
        look = await looks.of(tenant_id, every_s / 2)
        return [
            Alert(tenant_id, "drift", feature, {"window": window})
            for feature, window in look.drifted
        ]

    async def late(tenant_id: str) -> list[Alert]:
        found = await schedule.late(tenant_id)
        return [
            Alert(tenant_id, "freshness", store_id, {"connectors": connectors})
            for store_id, connectors in found.items()
        ]

    async def reached(tenant_id: str) -> list[Alert]:
        return [
            Alert(
                tenant_id,
                "budget",
                f"{state.budget.name}@{level}",
                {"spent_usd": state.spent_nano_usd / 1e9, "amount_usd": state.budget.amount_usd},
            )
            for state in await budgets.states(tenant_id)
            for level in LEVELS
            if 100 * state.spent_nano_usd >= level * state.budget.amount_nano_usd
        ]

    return {"drift": drifted, "freshness": late, "budget": reached}


def _begin(builds: Builds, rollouts: Rollouts) -> Begin:
    async def begin(call: Call, incident: Incident, job_id: str) -> bool:
        rule = incident.rule
        if rule.model is not None:
            await rollouts.rollback(rule.model)
            return False
        store_id = rule.vector_store_id or incident.subject
        if rule.action == "fall_back":
            await builds.fall_back(call, store_id, job_id)
        else:
            await builds.begin(call, store_id, None, rule.embedding_model, True, job_id)
        return True

    return begin
