"""Where alerts come from: drift as the monitor tells it, stores as the schedule knows them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from sqlalchemy import delete, insert

from app.alerting import alert_sources
from app.gateway.budgets import Budgets
from app.monitoring.alerts import Alert, Source
from app.monitoring.drift import DriftMonitor
from app.monitoring.drift_looks import DriftLooks
from app.monitoring.drift_verdicts import Rules
from app.retrieval.connectors.schedule import Schedule
from app.store.db import Database
from app.store.jobs import Jobs
from app.store.models import connectors, vector_stores
from app.store.models_drift import drift_frozen, drift_sketches
from tests.api.test_incidents import connector_row, store_row
from tests.monitoring.desk import call_of

T = "default"


@pytest.fixture
async def sources(
    incident_db: Database,
) -> AsyncIterator[tuple[DriftMonitor, Mapping[str, Source]]]:
    monitor = DriftMonitor(incident_db)
    schedule = Schedule(incident_db, Jobs(incident_db, "", "local"))
    yield monitor, alert_sources(DriftLooks(monitor), schedule, Budgets(incident_db), 0.0)
    async with incident_db.write() as connection:
        for table in (drift_sketches, drift_frozen, connectors, vector_stores):
            await connection.execute(delete(table))


@pytest.mark.usefixtures("sources")  # cleans up
async def test_a_feature_that_drifts_is_an_alert_of_its_tenant(
    incident_db: Database,
) -> None:
    now = 7_200.0
    monitor = DriftMonitor(incident_db, Rules(reference_count=200), clock=lambda: now)
    schedule = Schedule(incident_db, Jobs(incident_db, "", "local"))
    found = alert_sources(DriftLooks(monitor), schedule, Budgets(incident_db), 0.0)
    for hour, latency_s in ((2, 0.1), (200, 9.9)):
        now = hour * 3_600.0
        for _ in range(200):
            monitor.observe(call_of("key:k", T), latency_s)
        await monitor.report(T)
    alerts = await found["drift"](T)
    assert [(a.tenant_id, a.kind, a.subject) for a in alerts] == [
        (T, "drift", "POST /|-|latency_s")
    ]
    assert await found["drift"]("another") == []


async def test_a_store_is_late_when_a_connector_that_follows_for_it_is(
    sources: tuple[DriftMonitor, Mapping[str, Source]], incident_db: Database
) -> None:
    _, found = sources
    late, fresh, paused, new = (connector_row(f"vs_{n}") for n in range(4))
    fresh["whole_at"] = new["created_at"] = 1e12
    new["whole_at"] = None
    paused["enabled"] = False
    async with incident_db.write() as connection:
        for row in (late, fresh, paused, new):
            await connection.execute(
                insert(vector_stores).values(store_row(row["vector_store_id"]))
            )
            await connection.execute(insert(connectors).values(row))
    alerts = await found["freshness"](T)
    assert alerts == [Alert(T, "freshness", "vs_0", {"connectors": [late["id"]]})]
    assert await found["freshness"]("another") == []
