"""The same shards from a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.embeddings.progress import Progress
from pipelines.embeddings.ray_runner import RayRunner
from pipelines.embeddings.run import embed
from pipelines.embeddings.runners import LocalRunner
from tests.conftest import ROOT, package
from tests.pipelines.conftest import silent
from tests.pipelines.corpus import contents, document, job, write_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a real cluster: two node processes, one processor each."""
    package("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # workers import this checkout's packages
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from ray.cluster_utils import Cluster

    store = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {**store, "include_dashboard": False}
    try:
        made = Cluster(initialize_head=True, head_node_args=head)
    except Exception:  # Ray's own type. It gives a node 30 s, too few when all is cold on disk
        made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**store)
    made.wait_for_nodes()
    yield made.address
    made.shutdown()


def test_two_nodes_make_the_same_bytes_as_local_workers(
    tmp_path: Path, workers: LocalRunner, cluster: str
) -> None:
    import ray

    rows = [document(i % 40) | {"id": f"r{i}"} for i in range(80)]
    source = write_lines(tmp_path / "in/a.jsonl", ["{", *rows])
    embed(job(source, tmp_path / "local"), workers, Progress(silent))
    runner = RayRunner(cluster, threads=1)
    try:
        assert runner.slots == 2
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        assert len(nodes) == 2
        report = embed(job(source, tmp_path / "ray"), runner, Progress(silent))
        assert (report.state, report.embedded, report.copied) == ("complete", 40, 40)
        assert contents(tmp_path / "ray") == contents(tmp_path / "local")
        # a task that cannot succeed fails alone there too
        (tmp_path / "in/b.parquet").write_bytes(b"broken")
        report = embed(job(tmp_path / "in", tmp_path / "ray2"), runner, Progress(silent))
        assert report.state == "incomplete" and "b.parquet" in report.failed[0]
    finally:
        runner.close()
