"""Samples of calls: written now and then, bounded in pace and in number."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.llm import samples as module
from app.llm.samples import AT_ONCE, Sample, Samples
from app.store.db import Database
from app.store.migrate import migrate


def a_sample(n: float, model: str = "m") -> Sample:
    return Sample(model, "server", "stable", n, "answered", latency_ms=n)


async def test_the_newest_are_kept_of_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEWEST", 10)
    monkeypatch.setattr(module, "_PRUNE_EVERY", 5)
    url = f"sqlite:///{tmp_path / 'o.db'}"
    db = Database(url)
    migrate(db)
    kept = Samples(db)
    for n in range(30):
        kept.add(a_sample(float(n)))
        kept.add(a_sample(float(n), "other"))
        await kept.flush()
    found = [s.at for s in await kept.since("m", 0.0)]
    assert found[-10:] == [float(n) for n in range(20, 30)] and len(found) <= 12
    assert [s.at for s in await kept.since("other", 28.0)] == [28.0, 29.0]
    await db.close()


async def test_a_busy_model_is_sampled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'o.db'}"
    db = Database(url)
    migrate(db)
    kept = Samples(db)
    for n in range(5_000):  # in five seconds
        kept.add(a_sample(n / 1000))
    assert len(await kept.since("m", 0.0)) == AT_ONCE + 99  # 20 more a second
    await db.close()
