"""Another engine or model beside the searched one: nothing is lost, and going back is one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

import app.retrieval.builds as builds
from app.errors import BadRequest, Conflict, NotFound
from app.retrieval.build_check import measured_recall
from app.retrieval.builds import Build
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.engines.choice import Engines
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.index import StoreIndex
from app.store.models import build_files, index_builds, segments
from tests.retrieval.stores import (
    TENANT,
    TEXTS,
    House,
    embedder,
    ended,
    files_of,
    job_over,
    made_call,
    running,
    until,
)


@cache
def other_model() -> OnnxEmbedder:
    """The same weights over other texts: its vectors are of no use to the first."""
    return OnnxEmbedder(packaged_bge_dir(), 2, query_prefix="query: ", passage_prefix="passage: ")


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    models = {"bge-small-en": embedder(), "other": other_model()}
    engines = Engines(milvus_url=str(tmp_path / "lite.db"))
    async with running(database_url, tmp_path, engines, models) as made:
        yield made


async def over(house: House, store: str, build: str, status: str = "ready") -> Build:
    """The build, when its job is over."""
    begun = await house.builds.get(TENANT, store, build)
    assert begun.job_id is not None
    await job_over(house, begun.job_id, 60)
    found = await house.builds.get(TENANT, store, build)
    assert found.status == status, found.error
    return found


async def built(house: House, store: str, **given: Any) -> Build:
    wanted = {"engine": None, "model": None, "activate": True}
    build = await house.builds.begin(made_call(), store, **{**wanted, **given})
    return await over(house, store, build.id)


async def found(house: House, store: str) -> list[list[str]]:
    return [files_of(await house.search(store, text, k=3))[:1] for text in TEXTS]


async def filled(house: House) -> tuple[str, list[str]]:
    store = await house.new_store()
    return store, [await house.put(store, text) for text in TEXTS]


@pytest.mark.parametrize(
    ("engine", "model"), [("milvus", None), ("faiss", "other"), ("milvus", "other")]
)
async def test_a_store_moves_to_another_engine_or_model_and_finds_the_same(
    house: House, engine: str, model: str | None
) -> None:
    store, files = await filled(house)
    before = await found(house, store)
    build = await built(house, store, engine=engine, model=model)
    assert (build.passages, build.recall, build.error) == (5, 1.0, None)
    about = await house.stores.get(TENANT, store)
    state = await house.stores.state(about)
    assert (about.build, about.engine, state.engine, state.vectors) == (build.id, engine, engine, 5)
    assert about.embedding_model == (model or "bge-small-en")
    assert await found(house, store) == before == [[f] for f in files]
    await house.reopen()
    assert await found(house, store) == before
    new = await house.put(store, "The canteen opens at noon.")
    assert files_of(await house.search(store, "When can I eat?"))[0] == new


async def test_vectors_are_copied_not_computed_anew_where_the_model_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await filled(house)

    async def refused(texts: Any) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(house.stores.embedder, "embed_passages", refused)
    await built(house, store, engine="milvus")


async def test_what_changes_beside_a_build_is_in_it_and_going_back_finds_it_too(
    house: House,
) -> None:
    store, files = await filled(house)
    build = await built(house, store, engine="milvus", activate=False)
    about = await house.stores.get(TENANT, store)
    assert (about.build, about.engine) == ("original", "faiss")
    await house.attached.detach(made_call(), store, files[0])
    new = await house.put(store, "The canteen opens at noon.")
    await house.builds.activate(made_call(), store, build.id)
    assert (await over(house, store, build.id)).id == (await house.stores.get(TENANT, store)).build
    hits = files_of(await house.search(store, TEXTS[0]))
    assert files[0] not in hits and set(files[1:]) | {new} == set(hits)

    await house.attached.detach(made_call(), store, files[1])
    newer = await house.put(store, "Bicycles are parked behind the gate.")
    await house.builds.activate(made_call(), store, "original")
    await over(house, store, "original")
    await house.reopen()  # as a restart reads it
    about = await house.stores.get(TENANT, store)
    state = await house.stores.state(about)
    assert (about.build, about.engine, state.vectors) == ("original", "faiss", 5)
    assert set(files_of(await house.search(store, TEXTS[1]))) == {*files[2:], new, newer}


async def test_a_file_attached_anew_beside_a_build_keeps_its_new_passages(house: House) -> None:
    store, files = await filled(house)
    build = await built(house, store, activate=False)
    await house.attached.detach(made_call(), store, files[0])
    job_id = await house.attach(store, files[0])
    assert await house.index(store, files[0], job_id, ["Holidays are taken in August."])
    await house.builds.activate(made_call(), store, build.id)
    await over(house, store, build.id)
    await house.reopen()
    state = await house.stores.state(await house.stores.get(TENANT, store))
    assert state.vectors == 5
    hits = await house.search(store, "When do people go on vacation?")
    assert hits[0].passage.text == "Holidays are taken in August."
    assert TEXTS[0] not in [h.passage.text for h in hits]


async def test_searches_go_on_while_a_store_is_switched_to_and_fro(house: House) -> None:
    store, files = await filled(house)
    other = await built(house, store, model="other", activate=False)
    models = (embedder(), other_model())
    queries = [m.encode_query(TEXTS[2]) for m in models]
    vectors = [m.encode_passages([TEXTS[2]])[0] for m in models]
    right = [float(q @ v) for q, v in zip(queries, vectors, strict=True)]
    mixed = [float(q @ v) for q, v in zip(queries, vectors[::-1], strict=True)]
    assert min(abs(r - m) for r in right for m in mixed) > 0.01
    stopped = asyncio.Event()
    searched = 0

    async def search() -> None:
        nonlocal searched
        while not stopped.is_set():
            hits = await house.search(store, TEXTS[2], k=1)
            assert files_of(hits) == [files[2]]
            assert min(abs(float(hits[0].dense or 0) - r) for r in right) < 0.005
            searched += 1

    searching = [asyncio.create_task(search()) for _ in range(2)]
    for build in (other.id, "original", other.id):
        await house.builds.activate(made_call(), store, build)
        await over(house, store, build)
        assert (await house.stores.get(TENANT, store)).build == build
    stopped.set()
    await asyncio.gather(*searching)
    assert searched > 10


async def test_a_file_ingested_across_a_switch_has_vectors_of_the_new_model(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await filled(house)
    begun, gate = asyncio.Event(), asyncio.Event()
    embed = house.stores.embedder.embed_passages

    async def slowly(texts: Any) -> Any:
        begun.set()
        await gate.wait()
        return await embed(texts)

    monkeypatch.setattr(house.stores.embedder, "embed_passages", slowly)
    file_id = await house.upload("# Canteen\n\nThe canteen opens at noon.\n")
    _, fresh = await house.attached.attach(made_call(), store, [file_id], {}, {})
    await house.ingestion.begin(made_call(), store, fresh)
    await begun.wait()
    await built(house, store, model="other")
    gate.set()
    await ended(house, store, file_id)
    hits = await house.search(store, "canteen opens at noon", k=1)
    expected = (
        other_model().encode_query("canteen opens at noon")
        @ (other_model().encode_passages(["Canteen\nThe canteen opens at noon."])[0])
    )
    assert files_of(hits) == [file_id] and hits[0].dense == pytest.approx(float(expected), abs=0.02)


async def test_a_restart_in_the_middle_of_a_build_goes_on_with_the_files_that_are_missing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await filled(house)
    model = house.stores.models["other"]
    embed, seen = model.embed_passages, []

    async def two_then_wait(texts: Any) -> Any:
        if len(seen) == 2:
            await asyncio.Event().wait()  # until the restart
        seen.append(texts)
        return await embed(texts)

    monkeypatch.setattr(model, "embed_passages", two_then_wait)
    build = await house.builds.begin(made_call(), store, None, "other", True)
    await until(partial(_copied, house, 2))
    await house.jobs.close()
    await house.reopen()
    again: list[Any] = []
    fresh = house.stores.models["other"]
    embed_again = fresh.embed_passages

    async def counted(texts: Any) -> Any:
        again.append(texts)
        return await embed_again(texts)

    monkeypatch.setattr(fresh, "embed_passages", counted)
    await house.jobs.start()
    await over(house, store, build.id)
    assert len(again) == 3
    assert (await house.stores.get(TENANT, store)).build == build.id
    assert [len(f) for f in await found(house, store)] == [1] * 5


async def _copied(house: House, files: int) -> bool | None:
    """True once so many files are in a build."""
    async with house.db.read() as connection:
        return len((await connection.execute(select(build_files))).all()) >= files or None


async def test_a_build_that_finds_too_little_is_not_switched_to(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, files = await filled(house)
    monkeypatch.setattr(builds, "measured_recall", lambda *_: 0.5)
    build = await house.builds.begin(made_call(), store, "milvus", None, True)
    failed = await over(house, store, build.id, "failed")
    assert failed.error is not None and "50.0%" in failed.error["message"]
    assert (await house.stores.get(TENANT, store)).build == "original"
    assert await found(house, store) == [[f] for f in files]
    with pytest.raises(Conflict, match="failed"):
        await house.builds.activate(made_call(), store, build.id)
    await house.builds.drop(TENANT, store, build.id)


async def test_a_build_that_lacks_passages_is_not_switched_to(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await filled(house)
    build = await built(house, store, activate=False)
    monkeypatch.setattr(FaissEngine, "count", property(lambda self: 4))
    await house.builds.activate(made_call(), store, build.id)
    kept = await over(house, store, build.id)  # it stays ready, and says why
    assert kept.error is not None and "4 vectors of 5 passages" in kept.error["message"]
    assert (await house.stores.get(TENANT, store)).build == "original"


async def test_only_one_build_at_a_time_and_the_searched_one_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await filled(house)
    gate = asyncio.Event()

    async def waits(self: StoreIndex, live: Any) -> None:
        await gate.wait()

    monkeypatch.setattr(StoreIndex, "compact", waits)
    build = await house.builds.begin(made_call(), store, None, "other", True)
    with pytest.raises(Conflict, match="already"):
        await house.builds.begin(made_call(), store, None, None, True)
    with pytest.raises(Conflict, match="searched"):
        await house.builds.drop(TENANT, store, "original")
    gate.set()
    await over(house, store, build.id)


async def test_a_deleted_build_leaves_nothing(house: House) -> None:
    store, files = await filled(house)
    build = await built(house, store, activate=False)
    folder = house.folder / "indexes" / store / f"vectors-{build.id}"
    assert list(folder.iterdir())
    await house.builds.drop(TENANT, store, build.id)
    assert not list(folder.iterdir())
    with pytest.raises(NotFound):
        await house.builds.get(TENANT, store, build.id)
    async with house.db.read() as connection:
        assert not (await connection.execute(select(build_files))).all()
        kept = (await connection.execute(select(segments.c.build).distinct())).all()
    assert [r.build for r in kept] == ["original"]
    assert await found(house, store) == [[f] for f in files]


async def test_a_deleted_store_leaves_none_of_its_builds(house: House) -> None:
    store, _ = await filled(house)
    await built(house, store, engine="milvus")
    await built(house, store, model="other")
    await house.stores.delete(TENANT, store)
    assert not (house.folder / "indexes" / store).exists()
    from pymilvus import MilvusClient

    assert MilvusClient(str(house.folder / "lite.db")).list_collections() == []
    async with house.db.read() as connection:
        for table in (build_files, index_builds, segments):
            assert not (await connection.execute(select(table))).all()


async def test_what_cannot_be_built_is_refused_at_once(house: House) -> None:
    store, _ = await filled(house)
    with pytest.raises(NotFound, match="embedding model"):
        await house.builds.begin(made_call(), store, None, "unknown", True)
    with pytest.raises(NotFound, match="vector store"):
        await house.builds.begin(made_call("t2"), store, None, None, True)
    with pytest.raises(NotFound, match="build"):
        await house.builds.activate(made_call(), store, "ib_unknown")
    house.stores._engines = Engines()
    with pytest.raises(BadRequest, match="OSTIARY_MILVUS_URL"):
        await house.builds.begin(made_call(), store, "milvus", None, True)
    assert [b.id for b in await house.builds.all(TENANT, store)] == ["original"]


async def test_a_store_of_a_model_that_is_gone_or_changed_says_so(house: House) -> None:
    store = await house.new_store(embedding_model="other")
    about = await house.stores.get(TENANT, store)
    house.stores.models = {"bge-small-en": embedder()}
    with pytest.raises(Conflict, match="OSTIARY_EMBEDDING_MODELS"):
        house.stores.embedder_of(about)
    house.stores.models = {"other": embedder()}
    with pytest.raises(Conflict, match="not the one"):
        house.stores.embedder_of(about)
    house.stores.models = {"other": other_model()}
    assert house.stores.embedder_of(about) is other_model()


def test_recall_is_that_of_the_search_against_every_stored_vector(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    engine = FaissEngine(str(tmp_path), 16)
    for place in range(10):
        vectors = random.standard_normal((30, 16)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        engine.publish(engine.write(f"f{place}", np.arange(30) + 100 * place, vectors))
    files = [f"f{n}" for n in range(10)]
    assert measured_recall(engine, files, 16) == 1.0

    class Half(FaissEngine):
        def search(self, vector: Any, k: int, files: Any = None) -> Any:
            numbers, scores = super().search(vector, k, files)
            return numbers[::2], scores[::2]

    engine.__class__ = Half
    recall = measured_recall(engine, files, 16)
    assert recall is not None and 0.4 <= recall <= 0.6
    assert measured_recall(engine, [], 16) is None


async def test_falling_back_goes_to_older_builds_alone_and_ends_at_the_first(house: House) -> None:
    store, _ = await filled(house)
    for engine in ("milvus", "faiss"):
        await built(house, store, engine=engine)
    builds = [build.id for build in await house.builds.all(TENANT, store)]
    for expected in (builds[1], builds[0]):
        fallen = await house.builds.fall_back(made_call(), store)
        assert fallen.id == expected
        assert (await over(house, store, expected)).searched
    with pytest.raises(Conflict, match="no earlier build"):
        await house.builds.fall_back(made_call(), store)
