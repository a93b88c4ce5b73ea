"""Calls that go wrong, many at once: each is recorded once and charged as it was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults

CALLS = 400


@pytest.mark.slow
async def test_no_call_is_lost_doubled_or_charged_other_than_seen(tmp_path: Path) -> None:
    result = await faults.run(tmp_path, CALLS, seed=7)
    mixed = result["mixed"]
    assert mixed["wrong"] == []
    assert mixed["calls"] == mixed["records"] == CALLS
    assert mixed["usage_is_the_records_sum"] and mixed["chain_valid"]
    assert set(mixed["faults"]) == set(faults.FAULTS)
    assert mixed["clock_jumps"]
    by_fault = {(row["fault"], row["call"]): row for row in result["table"]}
    assert len(by_fault) == 2 * len(faults.FAULTS) + 1
    assert by_fault["connection refused", "whole"]["charged_nano_usd"] == 0
    for call in ("whole", "stream"):
        for fault in ("abort", "hang", "500"):
            row = by_fault[fault, call]
            assert row["charged_nano_usd"] == 0 and "503" in row["seen"], row
        assert by_fault["none", call]["charged_tokens"] == [20, 12]
        assert by_fault["drip", call]["charged_tokens"] == [20, 12]
    assert by_fault["client leaves", "whole"]["audit"]["outcome"] == "cut"
    assert "upstream_cut" in by_fault["cut", "stream"]["seen"]
    assert by_fault["cut", "stream"]["charged_tokens"][1] == 4
