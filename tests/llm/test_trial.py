"""Copies of calls to a shadow: how many it is sent at a time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from app.gateway.call import Call
from app.llm.deployment import Deployment
from app.llm.rollout import Rollout
from app.llm.samples import Samples
from app.llm.trial import Trials
from app.llm.upstream import CHAT, Upstream
from app.monitoring.cost import Prices
from app.store.db import Database
from app.store.migrate import migrate
from tests.llm.fake_upstream import FakeUpstream


@pytest.mark.parametrize("left_before_it_is_sent", [False, True])
async def test_calls_of_one_moment_do_not_share_the_place_of_a_shadow(
    tmp_path: Path, left_before_it_is_sent: bool
) -> None:
    db = Database(f"sqlite:///{tmp_path / 'o.db'}")
    migrate(db)
    server, samples = FakeUpstream(), Samples(db)
    await server.start()
    trials = Trials(samples, Prices(1.0, 1.0, 1.0), lambda: None)
    shadow = Deployment("s", "m", Upstream(server.url, timeout_s=5), most=1, role="shadow")
    shadow.up = True
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    began = [
        trials.begin(
            Rollout(0.0, 1.0, None, 0.0),
            [shadow],
            Call(f"call_{n}", "r", "rest", "POST /v1/chat/completions", model="m"),
            body,
            CHAT,
            False,
        )
        for n in range(4)
    ]
    assert shadow.outstanding == 1
    if left_before_it_is_sent:
        began[0].over()
    await asyncio.wait_for(shadow.idle.wait(), 5)
    assert len(server.calls) == 1 - left_before_it_is_sent
    await trials.close()
    found = await samples.since("m", time.time() - 60)
    assert [s.outcome for s in found].count("skipped") == 3
    await shadow.upstream.close()
    await server.stop()
    await db.close()
