"""An erasure that is killed goes on, and its report counts everything once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select

from app.gateway.call import Principal
from app.gateway.person import Person
from app.monitoring.audit import AuditLog
from app.monitoring.verification import verify
from app.settings import normal_url
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import responses
from app.store.models_audit import audit_bodies, audit_erasures, audit_tombstones
from tests.api.calls import send
from tests.conftest import Gateway, wait_for
from tests.monitoring.chains import call

COUNT = 3000  # records, of which every second one is of the person


@pytest.mark.slow
async def test_an_erasure_that_was_killed_goes_on_and_counts_once(
    new_gateway: Callable[..., Gateway],
) -> None:
    house = new_gateway(OSTIARY_EMBEDDED_RETRIEVAL="false")
    house.data_dir.mkdir(parents=True)
    db = Database(normal_url(None, house.data_dir / "ostiary.db"))
    await asyncio.to_thread(migrate, db)
    log = AuditLog(db)
    log.start()
    for number in range(COUNT):
        user = "jane" if number % 2 else "bob"
        entry = call(number, "default", text=f"said by {user}")
        entry.principal = Principal("default", "oidc:x", None, frozenset(), user=user)
        if number < COUNT - 1:
            asyncio.ensure_future(log.commit(entry, 200, 0.0, None))  # noqa: RUF006
        else:
            await log.commit(entry, 200, 0.0, None)
    log.close()
    kept = {"input": [], "body": {}, "created_at": 1.0, "tenant_id": "default"}
    async with db.write() as connection:
        for number in range(5):
            row = {"id": f"resp_{number}", "owner": "user:jane", **kept}
            await connection.execute(responses.insert().values(row))
    engine = create_engine(house.database_url)

    def asked(query: Any) -> Any:
        with engine.connect() as connection:
            return connection.scalar(query)

    house.start()
    status, made, _ = send(house, "POST", "/v1/audit/erasures", {"user": "jane"})
    assert status == 202
    stated = select(func.count()).select_from(audit_tombstones)
    wait_for(lambda: asked(stated) > 0, what="the first statement")
    house.kill()
    assert 0 < asked(stated) < COUNT // 2
    assert verify(db).faults == []
    house.start()
    ended = select(audit_erasures.c.ended_at)
    wait_for(lambda: asked(ended) is not None, what="the rest")
    _, done, _ = send(house, "GET", f"/v1/audit/erasures/{made['id']}")
    places = done["report"]["places"]
    counts = {name: (p["found"], p["removed"], p["left"]) for name, p in places.items()}
    assert counts["audit_bodies"] == (COUNT // 2, COUNT // 2, 0)
    assert counts["responses"] == (5, 5, 0)
    assert done["report"]["complete"]
    assert asked(select(audit_erasures.c.user)) is None
    left = select(func.count()).where(audit_bodies.c.bodies.like("%said by bob%"))
    assert asked(left) == asked(select(func.count()).select_from(audit_bodies)) == COUNT // 2
    assert verify(db).faults == []
    house.stop()
    engine.dispose()
    await db.close()


def test_a_person_is_who_calls_or_is_acted_for() -> None:
    jane = Person.known("t", "jane", ["k1"], "jane")
    assert jane.owners == {"user:jane", "oidc:jane"}
    assert jane.made({"principal": "key:k1"})
    assert jane.made({"principal": "key:other", "user": "jane"})
    assert jane.made({"principal": "key:app", "acting_for": {"user": "jane", "groups": []}})
    assert not jane.made({"principal": "key:k1", "acting_for": {"user": "bob", "groups": []}})
    assert not jane.made({"principal": "key:app", "acting_for": {"user": None, "groups": ["a"]}})
    app = Person.known("t", None, ["app", "app2"], None)
    assert app.owners == {"key:app"}
    assert app.made({"principal": "key:app2", "acting_for": {"user": None, "groups": ["a"]}})
    assert not app.made({"principal": "key:app", "acting_for": {"user": "jane", "groups": []}})
