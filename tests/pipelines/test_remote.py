"""Inputs and output in an S3-compatible store, spoken to over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.embeddings.load import load
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.run import embed, prune
from pipelines.embeddings.runners import LocalRunner
from tests.conftest import package
from tests.pipelines.conftest import silent
from tests.pipelines.corpus import contents, document, job, write_lines


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
