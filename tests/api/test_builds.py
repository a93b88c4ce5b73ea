"""Builds through the API: another engine and model for a store, beside what is searched."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import pytest

from app.retrieval.embedding import packaged_bge_dir
from tests.api.calls import send
from tests.api.test_search import DOCUMENTS, Store
from tests.conftest import Gateway, wait_for


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a second embedding model and Milvus Lite."""
    folder = tmp_path_factory.mktemp("builds")
    other = {"dir": str(packaged_bge_dir()), "query_prefix": "query: ", "passage_prefix": "text: "}
    env = {
        "OSTIARY_LLM_URL": "http://127.0.0.1:9/v1",
        "OSTIARY_MILVUS_URL": str(folder / "lite.db"),
        "OSTIARY_EMBEDDING_MODELS": json.dumps({"other": other}),
    }
    server = Gateway(folder / "data", env)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(own: Gateway) -> Store:
    return Store(own)


def ready(store: Store, build: dict[str, Any]) -> dict[str, Any]:
    job = wait_for(lambda: over(store, build["job_id"]), 60, "the build")
    assert job["status"] == "completed", job
    return store.ok("GET", f"/v1/vector_stores/{store.id}/builds/{build['id']}")


def over(store: Store, job_id: str) -> dict[str, Any] | None:
    job = store.ok("GET", f"/v1/jobs/{job_id}")
    return job if job["status"] not in ("queued", "running") else None


def test_a_store_moves_to_milvus_and_another_model_and_back(store: Store, own: Gateway) -> None:
    builds = f"/v1/vector_stores/{store.id}/builds"
    question = "What does ERR_SEAL_4711 mean?"
    first = store.ok("GET", builds)["data"]
    assert [(b["id"], b["engine"], b["searched"]) for b in first] == [("original", "faiss", True)]
    assert store.names(question)[0] == "errors.md"

    asked = {"engine": "milvus", "embedding_model": "other"}
    build = ready(store, store.ok("POST", builds, asked))
    assert (build["status"], build["searched"], build["recall"]) == ("ready", True, 1.0)
    assert build["passages"] == len(DOCUMENTS)
    state = store.ok("GET", f"/v1/vector_stores/{store.id}")["ostiary"]
    assert (state["engine"], state["embedding_model"], state["build"]) == (
        "milvus",
        "other",
        build["id"],
    )
    assert store.names(question)[0] == "errors.md"
    assert store.names("How often is the seal of a pump changed?")[0].startswith("pumps")

    own.kill()
    own.start()
    assert store.names(question)[0] == "errors.md"
    back = ready(store, store.ok("POST", f"{builds}/original/activate"))
    assert back["searched"] and store.names(question)[0] == "errors.md"
    status, refused, _ = send(own, "DELETE", f"{builds}/original")
    assert (status, refused["error"]["code"]) == (409, "build_in_use")
    deleted = store.ok("DELETE", f"{builds}/{build['id']}")
    assert deleted["deleted"] is True
    assert [b["id"] for b in store.ok("GET", builds)["data"]] == ["original"]


def test_a_kill_as_a_build_begins_leaves_both_it_and_its_job_or_neither(
    store: Store, own: Gateway
) -> None:
    builds = f"/v1/vector_stores/{store.id}/builds"

    def die_at(method: str) -> None:
        own.module, own.env["DIES_AT"] = "tests.api.dies_at", method
        own.start()
        with pytest.raises((OSError, HTTPException)):
            send(own, "POST", builds, {"embedding_model": "other"})
        assert own.process is not None
        own.process.join(20)
        assert own.process.exitcode == -signal.SIGKILL

    own.stop()
    try:
        die_at("record")  # the build's row is written, its job's not: nothing is committed
        die_at("enqueue")  # both are committed, and nobody runs the job
    finally:
        own.module = Gateway.module
        own.start()
    (first, build) = store.ok("GET", builds)["data"]  # none of the first kill's
    assert (first["id"], build["embedding_model"]) == ("original", "other")
    assert ready(store, build)["searched"]
    assert store.ok("DELETE", f"{builds}/original")["deleted"]


def test_both_models_are_served(own: Gateway) -> None:
    status, models, _ = send(own, "GET", "/v1/models")
    assert status == 200 and {"bge-small-en", "other"} <= {m["id"] for m in models["data"]}
    vectors = []
    for model in ("bge-small-en", "other"):
        status, made, _ = send(own, "POST", "/v1/embeddings", {"model": model, "input": "a door"})
        assert status == 200
        vectors.append(made["data"][0]["embedding"])
    assert len(vectors[0]) == len(vectors[1]) == 384 and vectors[0] != vectors[1]


def test_a_store_is_made_with_the_engine_and_model_that_are_asked_for(own: Gateway) -> None:
    body = {"name": "m", "ostiary": {"engine": "milvus", "embedding_model": "other"}}
    status, store, _ = send(own, "POST", "/v1/vector_stores", body)
    assert status == 200
    state = send(own, "GET", f"/v1/vector_stores/{store['id']}")[1]["ostiary"]
    assert (state["engine"], state["embedding_model"]) == ("milvus", "other")
    body = {"ostiary": {"embedding_model": "unknown"}}
    status, refused, _ = send(own, "POST", "/v1/vector_stores", body)
    assert (status, refused["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"engine": "lucene"}, 400), ({"recipe": "hnsw"}, 400), ({"embedding_model": "none"}, 404)],
)
def test_what_cannot_be_built_is_refused(
    store: Store, own: Gateway, body: dict[str, Any], status: int
) -> None:
    got, refused, _ = send(own, "POST", f"/v1/vector_stores/{store.id}/builds", body)
    assert got == status and refused["error"]["message"]
