"""kill -9 loses of drift at most what was not yet written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from app.wiring import FLUSH_DRIFT_S
from tests.api.access_house import Caller
from tests.conftest import Gateway, wait_for

LATENCY = "GET /v1/models|-|latency_s"


def kept(gateway: Gateway) -> int:
    """How many calls the written sketches hold."""
    query = "SELECT coalesce(sum(count), 0) FROM drift_sketches WHERE feature = ?"
    with sqlite3.connect(gateway.data_dir / "ostiary.db") as connection:
        return int(connection.execute(query, (LATENCY,)).fetchone()[0])


@pytest.mark.slow
def test_a_kill_loses_what_was_not_yet_written_and_nothing_else(
    new_gateway: Callable[..., Gateway],
) -> None:
    gateway = new_gateway(OSTIARY_LLM_URL="http://127.0.0.1:9/v1").start()
    admin = Caller(gateway, gateway.key)
    for _ in range(20):
        admin.ok("GET", "/v1/models")
    # written by itself, in the time that docs/drift.md promises
    wait_for(lambda: kept(gateway) == 20, FLUSH_DRIFT_S + 20, "the sketches")
    for _ in range(3):
        admin.ok("GET", "/v1/models")
    gateway.kill()  # -9
    before = kept(gateway)
    assert 20 <= before <= 23
    gateway.start()
    for _ in range(5):
        admin.ok("GET", "/v1/models")
    rows = {row["feature"]: row for row in admin.ok("GET", "/v1/drift?hours=2")["data"]}
    assert rows[LATENCY]["count"] == before + 5
    now = datetime.now(UTC)
    long_ago = (now - timedelta(hours=50)).isoformat(), (now - timedelta(hours=48)).isoformat()
    body = dict(zip(("since", "until"), long_ago, strict=True))
    status, refused = admin.send("POST", "/v1/drift/references", body)
    assert status == 422 and "empty_reference" in refused
    body["until"] = (now + timedelta(hours=2)).isoformat()
    made = admin.ok("POST", "/v1/drift/references", body)
    assert made["version"] == 1 and made["features"] >= 1
    last = admin.ok("GET", "/v1/audit?limit=1")["data"][0]
    assert last["lineage"]["drift_reference"]["frozen"] == 1
    assert admin.ok("DELETE", "/v1/drift/references/1")["deleted"]
    assert admin.ok("GET", "/v1/drift/references")["data"] == []
