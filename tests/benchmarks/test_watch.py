"""The benchmark of the watch: real calls through a real gateway, their parts summed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rig, timed_gateway, watch


def test_each_part_of_real_calls_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "KIB", (0.5, 4))
    with rig.stub(tmp_path / "stub") as direct:
        rows = watch.measure(tmp_path, "default", direct, 10)
    assert [(r["kib"], r["stream"]) for r in rows] == [
        (kib, stream) for kib in (0.5, 4) for stream in (False, True)
    ]
    for row in rows:
        parts = row["parts_ms"]
        assert set(parts) == set(watch.NAMES)
        assert all(parts[name]["p50"] > 0 for name in ("key", "screens", "audit record, durable"))
        assert row["through_ms"]["p50"] > row["direct_ms"]["p50"]
    result = {
        "machine": {**rig.machine(), "disk_sync_ms": rig.sync_ms(tmp_path, 10)},
        "versions": rig.versions(),
        "calls": 10,
        "rounds": watch.ROUNDS,
        "rows": rows,
        "screens_ms_a_kib": {"whole": watch.per_kib(rows, stream=False)},
    }
    text = watch.as_markdown(result)
    assert "| 4 KiB, streamed |" in text and "the rest" in text


def test_what_no_part_accounts_for_is_the_rest() -> None:
    parts = [{"key": 1.0, "screens": 2.0, timed_gateway.WHOLE: 9.0}] * 3
    found = watch.summed(parts, [0.010, 0.010, 0.010], [0.020, 0.021, 0.022])
    assert found["key"]["p50"] == 1.0 and found["screens"]["p50"] == 2.0
    assert found["the rest"]["p50"] == pytest.approx(8.0)
    assert timed_gateway.WHOLE not in found and "drift" not in found


def test_the_screens_cost_of_a_kib_is_their_slope() -> None:
    rows = [
        {
            "policy": "default",
            "stream": False,
            "kib": kib,
            "parts_ms": {"screens": {"p50": 0.5 + 0.25 * kib}},
        }
        for kib in (1.0, 2.0, 4.0)
    ]
    assert watch.per_kib(rows, stream=False) == {"default": 0.25}
