"""The retrieval benchmark measures what it says."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.retrieval import measured
from benchmarks import collections, goals, retrieval, retrieval_data, retrieval_gateway, rig
from benchmarks import retrieval_peer as peer
from benchmarks.retrieval_ingest import filtered
from benchmarks.retrieval_peers import LeftOut, _child, at_recall
from benchmarks.retrieval_report import as_markdown, points, verdicts
from benchmarks.retrieval_sweep import Ours

COUNT, DIM = 3000, 32


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(retrieval_data, "CACHE", tmp_path)
    return retrieval_data.prepared(COUNT, DIM)


def test_the_vectors_are_the_same_each_time_and_of_length_one() -> None:
    drawn = [
        retrieval_data.mixture(COUNT, DIM).draw(np.random.default_rng(1), 100) for _ in range(2)
    ]
    assert np.array_equal(*drawn)
    assert np.allclose(np.linalg.norm(drawn[0], axis=1), 1, atol=1e-5)


def test_the_exact_answers_are_the_nearest_and_no_query_is_among_the_vectors(data: Path) -> None:
    base, queries = np.load(data / "base.npy"), np.load(data / "queries.npy")
    scores = queries @ base.T
    assert scores.max() < 0.9999
    best = np.sort(scores, axis=1)[:, -peer.K :].sum(1)
    truth = np.load(data / "truth.npy")
    assert np.allclose(np.take_along_axis(scores, truth, 1).sum(1), best, atol=1e-4)


def test_an_exact_engine_is_measured_as_exact(data: Path, tmp_path: Path) -> None:
    built = peer.work(Ours("flat"), "build", data, tmp_path / "ours flat")
    assert built["disk_bytes"] >= 4 * COUNT * DIM
    engine = Ours("flat")
    engine.open(tmp_path / "ours flat")
    (point,) = peer.measure(engine, data, seconds=0.05)
    assert point["recall"] == 1.0
    assert 0 < point["p50_ms"] <= point["p99_ms"] and point["qps"] > 0


def test_recall_is_the_share_of_the_true_nearest_that_was_found() -> None:
    truth = np.array([[1, 2], [3, 4]])
    assert peer.recall([[1, 9], [4, 3]], truth) == 0.75
    assert peer.recall([[1, 2]], truth) == 1.0  # of those that were asked


def test_the_best_point_is_the_fastest_that_finds_enough() -> None:
    swept = [{"recall": r, "qps": q} for r, q in ((0.9, 9), (0.95, 5), (0.99, 3))]
    assert at_recall(swept) == swept[1]
    assert at_recall(swept[:1]) is None


def test_filters_are_measured_against_the_exact_answers_among_what_passes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "POINT_S", 0.05)
    found = filtered(tmp_path / "store", COUNT, DIM)
    assert [f["recall"] for f in found] == [1.0] * 4  # so few are searched exactly
    assert [f["rows"] for f in found] == [50, 50, 300, COUNT]


def test_a_peer_that_ends_in_an_error_is_left_out_with_its_last_words() -> None:
    with pytest.raises(LeftOut, match="KeyError: 'no such peer'"):
        _child([sys.executable, "-P", str(Path(peer.__file__)), "build", "no such peer", "", ""], 1)


def test_the_table_and_the_points_say_what_the_figures_say() -> None:
    kept = retrieval.kept()
    assert (rig.RESULTS / "retrieval.md").read_text() == as_markdown(kept)
    assert json.loads(retrieval.POINTS.read_text()) == json.loads(json.dumps(points(kept)))
    assert {v["goal"] for v in verdicts(kept)} >= {"G5", "G6", "G7"}


def test_the_examples_of_plans_are_what_the_command_prints() -> None:
    examples = retrieval.EXAMPLE.findall(retrieval.PLAN_PAGE.read_text(encoding="utf-8"))
    assert len(examples) == 3
    for command, shown in examples:
        told = CliRunner().invoke(cli, command.split())
        assert told.output == shown, "run: python -m benchmarks.retrieval --parts --points"


@pytest.mark.slow
def test_a_goal_is_judged_from_what_is_measured_now_and_nothing_kept_is_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = (rig.RESULTS / "retrieval.json").read_text()
    results, own = rig.RESULTS, tmp_path / "results"
    monkeypatch.setattr(rig, "RESULTS", own)
    monkeypatch.setattr(retrieval, "SHORT", 25_000)
    monkeypatch.setattr(retrieval_gateway, "ROUNDS", 1)
    all_of = collections.files_of  # of which a few are enough: each passage is embedded
    monkeypatch.setattr(collections, "files_of", lambda *where: all_of(*where)[:40])
    found = goals.bytes_a_vector(short=True)
    assert found["target"] == [64.0] and 60 < found["value"][0] < 100
    assert found["holds"] is (found["value"][0] <= 64)
    assert found["peers"]["call, hybrid"]["p50_ms"] > 0
    assert (own / "G7.json").is_file() and not (own / "retrieval.json").exists()
    assert (results / "retrieval.json").read_text() == kept


def test_the_shipped_points_can_be_read_and_each_reaches_some_recall() -> None:
    for point in measured.shipped().points:
        assert asdict(point)["vectors"] > 0
        assert point.efforts and point.reaching(0.5) is not None
