"""What lies elsewhere: an S3-compatible store, and a model behind ``/v1/embeddings``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.embeddings.job import ModelSpec
from pipelines.embeddings.load import load, vectors_of
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.run import embed, prune
from pipelines.embeddings.runners import LocalRunner
from tests.conftest import Gateway, package
from tests.pipelines.conftest import silent
from tests.pipelines.corpus import contents, document, job, read_all, write_lines


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket on a real HTTP server that speaks S3 (moto)."""
    package("s3fs")
    server_module = package("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("ostiary-test")
    yield "s3://ostiary-test"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_object_store_holds_the_same_bytes_as_a_folder(bucket: str, tmp_path: Path) -> None:
    import s3fs

    rows = [document(i % 20) | {"id": f"r{i}"} for i in range(24)]
    source = write_lines(tmp_path / "a.jsonl", rows)
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.put(str(source), "ostiary-test/in/a.jsonl")
    crew = LocalRunner(2)  # begun now, so that it knows the store's address
    try:
        report = embed(job(f"{bucket}/in", f"{bucket}/out"), crew, Progress(silent))
        assert (report.state, report.embedded, report.copied) == ("complete", 20, 4)
        again = embed(job(f"{bucket}/in", f"{bucket}/out"), crew, Progress(silent))
        assert (again.state, again.embedded, again.copied) == ("complete", 0, 0)
        # the same file under the same name, read from the store and written to a folder
        embed(job(f"{bucket}/in", tmp_path / "out"), crew, Progress(silent))
    finally:
        crew.close()
    store.get("ostiary-test/out", str(tmp_path / "fetched"), recursive=True)
    assert contents(tmp_path / "fetched") == contents(tmp_path / "out")
    seen: dict[str, int] = {}
    load(f"{bucket}/out", lambda file_id, numbers, vectors: seen.update({file_id: len(numbers)}))
    assert seen == {f"r{i}": 1 for i in range(24)}
    assert prune(f"{bucket}/out") == 0


def test_a_model_server_gives_the_vectors_of_its_model(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTIARY_EMBEDDING_API_KEY", gateway.key)
    source = write_lines(tmp_path / "a.jsonl", map(document, range(12)))
    crew = LocalRunner(2)  # begun now, so that it knows the key
    try:
        here = embed(job(source, tmp_path / "here"), crew, Progress(silent))
        spec = ModelSpec(url=f"{gateway.url}/v1", name="bge-small-en")
        there = embed(job(source, tmp_path / "there", model=spec), crew, Progress(silent))
        assert there.state == here.state == "complete"
        vectors = [vectors_of(read_all(tmp_path / name), 384) for name in ("here", "there")]
        assert np.allclose((vectors[0] * vectors[1]).sum(axis=1), 1, atol=1e-4)
    finally:
        crew.close()
