"""Drift from observed calls to verdicts, over replicas, restarts and references."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.errors import NotFound, Unprocessable
from app.gateway.call import Call, Principal
from app.monitoring.drift import WINDOW_S, DriftMonitor
from app.monitoring.drift_verdicts import Drift, Rules
from app.settings import normal_url
from app.store.db import Database
from app.store.migrate import migrate
from tests.conftest import missing

PLACE = "POST /v1/x|m|"
BEGAN = 1_800_000_000 // WINDOW_S * WINDOW_S + 10.0
RULES = Rules(reference_count=300)


class House:
    """Two gateways on one database, and a clock that is set."""

    def __init__(self, db: Database, rules: Rules = RULES) -> None:
        self.db, self.now = db, BEGAN
        self.one = DriftMonitor(db, rules, lambda: self.now)
        self.two = DriftMonitor(db, rules, lambda: self.now)
        self.draw = np.random.default_rng(0)

    def feed(self, count: int, shift: float = 0.0, declined: float = 0.02) -> None:
        """Calls through both gateways in turn."""
        for i in range(count):
            call = Call("c", "c", "rest", "POST /v1/x", Principal("t", "s", None, frozenset()))
            call.model = "m"
            call.features = {
                "score": float(self.draw.normal(shift)),
                "language": "de" if self.draw.random() < 0.2 + shift / 3 else "en",
                "refusal": bool(self.draw.random() < declined),
            }
            call.embedding = self.draw.normal(shift, size=32).astype(np.float32)
            (self.one if i % 2 else self.two).observe(call, 0.1 + self.draw.random())

    async def report(self, hours: int = 1) -> dict[str, Drift]:
        await self.two.flush()
        found = await self.one.report("t", hours=hours)
        return {d.feature.removeprefix(PLACE): d for d in found}

    async def pass_on(self, hours: int = 1) -> None:
        await self.one.flush()
        await self.two.flush()
        self.now += hours * WINDOW_S


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    yield House(db)
    await db.close()


async def test_what_changed_is_told_and_what_did_not_is_not(house: House) -> None:
    house.feed(400)
    await house.pass_on()
    house.feed(400, 1.0, declined=0.12)
    await house.report()
    house.now += 120  # the first hour has ended for every gateway
    await house.one.look("t")
    found = await house.report()
    assert {name for name, d in found.items() if d.drifted} == {
        "score",
        "language",
        "refusal",
        "embedding",
        "embedding_distance",
    }
    assert found["score"].test == "ks" and found["score"].value == pytest.approx(0.38, abs=0.1)
    assert (found["score"].count, found["score"].reference_count) == (400, 400)
    assert found["score"].reference == 0
    histogram = found["language"].histogram
    assert histogram is not None and histogram.bins == ["en", "de"]
    assert histogram.window[1] > histogram.reference[1]
    of_numbers = found["score"].histogram
    assert of_numbers is not None and len(of_numbers.bins) == len(of_numbers.window) + 1
    for side in (of_numbers.window, of_numbers.reference):
        assert sum(side) == pytest.approx(1)
    assert not found["latency_s"].drifted
    assert {d.correction for d in found.values()} == {"holm"}
    assert all(d.p is not None and d.p_corrected is not None for d in found.values())
    assert all((d.p_corrected or 0) >= 0.999 * (d.p or 0) for d in found.values())


async def test_too_few_have_no_verdict_and_hours_before_are_taken_in(house: House) -> None:
    house.feed(400)
    await house.pass_on()
    house.feed(60, 1.0)
    house.now += 120
    few = (await house.report())["score"]
    assert (few.value, few.drifted, few.count) == (None, False, 60)
    await house.pass_on()
    house.feed(60, 1.0)
    both = (await house.report())["score"]
    assert (both.count, both.drifted) == (120, True)
    assert both.until - both.window == 2 * WINDOW_S


async def test_the_first_reference_stays_when_its_windows_are_forgotten(house: House) -> None:
    house.feed(400)
    await house.pass_on()
    house.now += 120
    await house.report()
    await house.pass_on(hours=24 * 31)
    house.feed(200, 1.0)
    await house.one.forget_old()
    found = (await house.report())["score"]
    assert (found.reference, found.reference_count, found.drifted) == (0, 400, True)


async def test_a_reference_can_be_frozen_and_left_again(house: House) -> None:
    house.feed(400)
    first = house.now
    await house.pass_on()
    house.feed(400, 1.0)
    second = house.now
    await house.pass_on()
    house.feed(400, 1.0)
    house.now += 120
    assert (await house.report())["score"].drifted
    made = await house.one.references.freeze("t", second - 10, second + WINDOW_S, "new", "key:k")
    assert made.version == 1 and made.features == 5
    found = (await house.report())["score"]
    assert (found.reference, found.drifted) == (1, False)
    assert [r.version for r in await house.one.references.all("t")] == [1]
    assert (await house.one.references.get("t", 1)).note == "new"
    assert await house.one.references.all("other") == []
    with pytest.raises(NotFound):
        await house.one.references.drop("other", 1)
    await house.one.references.drop("t", 1)
    assert (await house.report())["score"].drifted
    with pytest.raises(Unprocessable):
        await house.one.references.freeze("t", first - 90_000, first - 80_000, "", "key:k")


async def test_values_that_a_feature_cannot_take_are_left_out(house: House) -> None:
    call = Call("c", "c", "rest", "POST /v1/x", Principal("t", "s", None, frozenset()), model="m")
    call.features = {"score": 1.0, "odd": float("nan")}
    house.one.observe(call, 0.1)
    call.features = {"score": "one", "odd": 2.0}
    house.one.observe(call, 0.1)
    found = await house.report()
    assert (found["score"].count, found["odd"].count) == (1, 1)


async def test_flushes_at_the_same_time_lose_nothing(house: House) -> None:
    for _ in range(5):
        house.feed(20)
        await asyncio.gather(*(house.one.flush() for _ in range(3)), house.two.flush())
    assert (await house.report())["score"].count == 100


async def test_the_report_of_evidently_is_drawn_without_any_network(tmp_path: Path) -> None:
    if find_spec("evidently") is None:
        missing("evidently", "`make test` installs it")
    from app.monitoring.evidently_report import drawn, report

    house = House(Database(normal_url(None, tmp_path / "test.db")))
    await asyncio.to_thread(migrate, house.db)
    house.feed(400)
    await house.pass_on()
    house.now += 120
    house.feed(200, 1.0)
    await house.two.flush()
    columns = drawn(await house.one.pairs("t"))
    assert set(columns) == {PLACE + n for n in ("score", "language", "refusal", "latency_s")}
    assert {len(side) for sides in columns.values() for side in sides} == {500}
    page = await report({PLACE + "score": columns[PLACE + "score"]})
    assert b"<html" in page and b"POST /v1/x|m|score" in page
    await house.db.close()


async def test_the_process_of_a_report_can_reach_nobody() -> None:
    import subprocess
    import sys

    code = """
import sys, socket, subprocess
from app.monitoring.evidently_report import _refuse
sys.addaudithook(_refuse)
def reach(): socket.create_connection(("127.0.0.1", 9), 1)
def name(): socket.getaddrinfo("localhost", 80)
def child(): subprocess.Popen(["true"])
for attempt in (reach, name, child):
    try:
        attempt()
    except PermissionError:
        continue
    sys.exit(1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_missing_extra_names_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from app.errors import MissingExtra
    from app.monitoring import evidently_report

    monkeypatch.setattr(evidently_report, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'ostiary\[reports\]'"):
        await evidently_report.report({"a": ([1.0], [2.0])})
