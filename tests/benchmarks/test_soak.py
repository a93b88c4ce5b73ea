"""The load of the soak: each kind of call is answered as it should be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import soak


@pytest.mark.slow
async def test_a_short_soak_answers_every_kind_and_reads_the_process(tmp_path: Path) -> None:
    result = await asyncio.to_thread(soak.run, tmp_path, 1_500, 120.0)
    assert result["wrong"] == {}
    assert set(result["kinds"]) == set(soak.PLAN)
    assert result["calls"] >= 1_500
    assert result["readings"][0]["rss_mb"] > 50 and result["after"]["descriptors"] > 10
    assert "1,5" in soak.as_markdown(result)
