"""The benchmark from upload to search measures files that are really found."""

from __future__ import annotations

from benchmarks import freshness


def test_each_phase_of_a_real_upload_is_timed_in_its_order() -> None:
    result = freshness.run(rounds=2, sizes={"a note": 60})
    runs = result["seconds"]["a note"]
    assert len(runs) == 2
    for took in runs:
        times = [took[phase] for phase in freshness.PHASES]
        assert times[0] > 0 and times == sorted(times)
    assert "| a note |" in freshness.as_markdown(result)
