"""Whatever happens in whatever order, an incident's history is one that may be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from app.errors import Conflict
from app.monitoring.alerts import SEVERITIES
from app.settings import normal_url
from app.store.db import Database
from app.store.models import metadata
from app.store.models_incidents import webhook_deliveries
from tests.monitoring.desk import Desk, call_of

SUBJECTS = ("a", "b")
ACTIONS = ("approved", "action_started", "action_completed", "action_failed")


class Handled(RuleBasedStateMachine):
    """Conditions come and go, people do what they may, two gateways look."""

    runner: asyncio.Runner
    db: Database

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(self.db)
        self.run(self.desk.forget())
        self.run(
            self.desk.policy(
                action="reembed", vector_store_id="vs_1", approval=True, webhook_id="w"
            )
        )

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(subject=st.sampled_from(SUBJECTS))
    def turns(self, subject: str) -> None:
        self.desk.standing ^= {subject}

    @rule(after_s=st.sampled_from([0.0, 20.0, 50.0, 100.0, 1000.0]))
    def looks(self, after_s: float) -> None:
        self.run(self.desk.look(after_s))

    @rule(name=st.sampled_from(["acknowledge", "approve", "close"]), data=st.data())
    def asks(self, name: str, data: st.DataObject) -> None:
        found = self.run(self.desk.all())
        if not found:
            return
        incident = data.draw(st.sampled_from(found))
        more = ("enough",) if name == "close" else ()
        service = self.desk.gateways[data.draw(st.integers(0, 1))]
        try:
            changed = self.run(getattr(service, name)(call_of("key:jane"), incident.id, *more))
        except Conflict:
            assert incident.state == "closed" or (name, incident.action) != ("approve", "waiting")
        else:
            assert incident.state != "closed"
            assert changed.version >= incident.version

    @invariant()
    def histories_may_be(self) -> None:
        found = self.run(self.desk.all())
        opened = [i.subject for i in found if i.closed_at is None]
        assert len(opened) == len(set(opened))
        told = 0
        for incident in found:
            changes = self.run(self.desk.changes(incident))
            told += len(changes)
            counts = {change: changes.count(change) for change in changes}
            assert changes[0] == "opened" and counts["opened"] == 1
            assert counts.get("escalated", 0) == incident.escalations <= 2
            assert incident.severity == SEVERITIES[incident.escalations]
            assert incident.owner == ("first", "second", "third")[incident.escalations]
            assert counts.get("closed", 0) == (incident.state == "closed")
            assert all(counts.get(change, 0) <= 1 for change in ("acknowledged", *ACTIONS))
            if "acknowledged" in changes:
                assert "escalated" not in changes[changes.index("acknowledged") :]
            if "closed" in changes:
                assert set(changes[changes.index("closed") + 1 :]) <= set(ACTIONS)
            if "action_started" in changes:
                assert changes.index("approved") < changes.index("action_started")
        assert len(self.run(self.db.rows(select(webhook_deliveries)))) == told


@pytest.mark.timeout(120)
def test_every_order_of_events_leaves_a_history_that_may_be(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        db = Database(normal_url(None, tmp_path / "ostiary.db"))
        metadata.create_all(db.sync_engine)
        Handled.runner, Handled.db = runner, db
        run_state_machine_as_test(
            Handled,
            settings=settings(
                max_examples=8,
                stateful_step_count=15,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(db.close())
