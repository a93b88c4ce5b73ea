"""Vector stores: what is deleted never returns, what is reopened equals what was live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

import app.retrieval.collections as collections
import app.retrieval.search as search
from app.errors import BadRequest, Conflict, NotFound
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.index import StoreIndex
from app.retrieval.types import DEFAULT_RANKING
from app.store.models import files, passages, segments, vector_store_files, vector_stores
from tests.retrieval.stores import TENANT, TEXTS, House, files_of, made_call


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    made = House(database_url, "", tmp_path)
    await made.create_tables()
    yield made
    await made.close()


async def vectors_in_manifest(house: House, store_id: str) -> int:
    query = select(func.sum(segments.c.count)).where(segments.c.vector_store_id == store_id)
    async with house.db.read() as connection:
        return int(await connection.scalar(query) or 0)


# -- deleting -----------------------------------------------------------------------------


async def test_deleted_file_never_returns_even_before_compaction(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreIndex, "compact_soon", lambda self: None)
    store = await house.new_store()
    kept = await house.put(store, TEXTS[1])
    gone = await house.put(store, TEXTS[0])
    await house.attached.delete_file(made_call(), gone)
    assert files_of(await house.search(store, TEXTS[0])) == [kept]
    assert await vectors_in_manifest(house, store) == 2  # the vector is still in a segment
    await house.reopen()
    assert files_of(await house.search(store, TEXTS[0])) == [kept]
    with pytest.raises(NotFound):
        await house.attached.file(made_call(), store, gone)


async def test_a_crash_after_the_deletion_was_committed_brings_nothing_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await house.new_store()
    kept, gone = await house.put(store, TEXTS[1]), await house.put(store, TEXTS[0])

    async def crash(self: StoreIndex, file_id: str, version: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreIndex, "forget_file", crash)
        with pytest.raises(KeyboardInterrupt):
            await house.attached.delete_file(made_call(), gone)
    await house.reopen()
    assert files_of(await house.search(store, TEXTS[0])) == [kept]


async def test_a_deleted_file_leaves_every_store_and_no_other_file(house: House) -> None:
    one, two = await house.new_store(), await house.new_store()
    file_id = await house.put(one, TEXTS[0])
    assert await house.index(two, file_id, await house.attach(two, file_id), [TEXTS[0]])
    kept = await house.put(two, TEXTS[1])
    await house.attached.delete_file(made_call(), file_id)
    assert await house.search(one, TEXTS[0]) == []
    assert files_of(await house.search(two, TEXTS[0])) == [kept]
    with pytest.raises(NotFound):
        await house.attached.delete_file(made_call(), file_id)


async def test_another_tenant_cannot_delete_a_file(house: House) -> None:
    store = await house.new_store()
    file_id = await house.put(store, TEXTS[0])
    with pytest.raises(NotFound):
        await house.attached.delete_file(made_call("t2"), file_id)
    assert files_of(await house.search(store, TEXTS[0])) == [file_id]


async def test_a_deletion_that_meets_an_attachment_leaves_no_passage(house: House) -> None:
    store = await house.new_store()
    await house.put(store, TEXTS[1])
    for _ in range(8):
        file_id = await house.upload(TEXTS[0])

        async def attach_and_index(file_id: str = file_id) -> None:
            try:
                job_id = await house.attach(store, file_id)
                await house.index(store, file_id, job_id, [TEXTS[0]])
            except NotFound:
                pass

        await asyncio.gather(attach_and_index(), house.attached.delete_file(made_call(), file_id))
        assert file_id not in files_of(await house.search(store, TEXTS[0]))
        async with house.db.read() as connection:
            for table in (passages, vector_store_files):
                query = select(func.count()).where(table.c.file_id == file_id)
                assert await connection.scalar(query) == 0


async def test_a_deleted_store_leaves_no_row_and_no_file_and_comes_back_for_nobody(
    house: House,
) -> None:
    store = await house.new_store()
    file_id = await house.upload(TEXTS[0])
    job_id = await house.attach(store, file_id)
    async with house.using(store) as index:
        await house.stores.delete(TENANT, store)
        assert not await index.add(
            file_id, job_id, [], np.empty((0, 384), np.float32), 0, "original"
        )
    assert not (house.folder / "indexes" / store).exists()
    with pytest.raises(NotFound):
        async with house.using(store):
            pass
    assert not (house.folder / "indexes" / store).exists()
    for call in (house.search(store, "holiday"), house.stores.delete(TENANT, store)):
        with pytest.raises(NotFound):
            await call
    assert (await house.files.get(made_call(), file_id)).id == file_id


async def test_the_index_of_a_deleted_store_that_a_crash_left_is_swept(house: House) -> None:
    gone, kept = await house.new_store(), await house.new_store()
    await house.put(gone, TEXTS[0])
    await house.put(kept, TEXTS[1])
    async with house.db.write() as connection:
        await connection.execute(
            update(vector_stores).where(vector_stores.c.id == gone).values(deleted_at=1.0)
        )
    await house.reopen()
    await house.stores.sweep()
    assert [f.name for f in (house.folder / "indexes").iterdir()] == [kept]


# -- compaction and reopening -------------------------------------------------------------


async def test_compaction_keeps_the_results_and_drops_the_deleted_vectors(house: House) -> None:
    store = await house.new_store()
    ids = [await house.put(store, text) for text in TEXTS]
    await house.attached.detach(made_call(), store, ids[2])
    before = [(h.passage.id, h.score) for h in await house.search(store, "paid holiday")]
    await house.compact(store)
    assert await vectors_in_manifest(house, store) == 4
    on_disk = list((house.folder / "indexes" / store / "vectors").iterdir())
    assert len(on_disk) == 4  # too few of one size to be merged
    assert [(h.passage.id, h.score) for h in await house.search(store, "paid holiday")] == before
    await house.reopen()
    assert [(h.passage.id, h.score) for h in await house.search(store, "paid holiday")] == before


async def test_a_file_attached_again_has_its_new_vectors_after_a_restart(house: House) -> None:
    store = await house.new_store()
    file_id = await house.put(store, TEXTS[0])
    async with house.using(store) as index:
        index.compact_soon = lambda: None  # type: ignore[method-assign]
        await index.remove_file(file_id)
    job_id = await house.attach(store, file_id)
    assert await house.index(store, file_id, job_id, [TEXTS[2]])  # cut anew: the same ordinal
    before = (await house.search(store, TEXTS[2]))[0]
    assert before.dense == pytest.approx(1.0, abs=0.1)
    for _ in range(3):
        await house.reopen()
        assert (await house.search(store, TEXTS[2]))[0].dense == pytest.approx(before.dense)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, len(TEXTS) - 1)),
            st.tuples(st.just("remove"), st.integers(0, 5)),
            st.tuples(st.sampled_from(["reopen", "compact"]), st.just(0)),
        ),
        max_size=8,
    )
)
def test_a_reopened_store_equals_the_live_one(
    database_url: str, tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        house = House(database_url, "", tmp_path)
        await house.create_tables()
        store = await house.new_store()
        model: dict[str, str] = {}
        for kind, value in steps:
            if kind == "add":
                model[await house.put(store, TEXTS[value])] = TEXTS[value]
            elif kind == "remove" and model:
                file_id = sorted(model)[value % len(model)]
                del model[file_id]
                await house.attached.detach(made_call(), store, file_id)
            elif kind == "reopen":
                await house.reopen()
            elif kind == "compact":
                await house.compact(store)
        live = await house.search(store, TEXTS[0], k=50)
        await house.reopen()
        again = await house.search(store, TEXTS[0], k=50)
        assert {h.passage.file_id: h.passage.text for h in live} == model
        seen = {(h.passage.id, h.dense, round(h.score, 6)) for h in live}
        assert {(h.passage.id, h.dense, round(h.score, 6)) for h in again} == seen
        async with house.using(store) as index:
            assert index.engine.count == len(model)
        await house.close()

    thread = _Run(run)
    thread.start()
    thread.join()
    if thread.error is not None:
        raise thread.error


class _Run(threading.Thread):
    """Hypothesis calls plain functions: each example has an event loop of its own."""

    def __init__(self, work) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.work, self.error = work, None

    def run(self) -> None:
        try:
            asyncio.run(self.work())
        except BaseException as error:
            self.error = error


async def test_an_unfinished_segment_of_another_gateway_survives_the_opening_of_the_store(
    house: House,
) -> None:
    store = await house.new_store()
    await house.put(store, TEXTS[0])
    async with house.using(store) as index:
        vectors = await house.stores.embedder.embed_passages([TEXTS[1]])
        assert isinstance(index.engine, FaissEngine)
        unnamed = index.engine.write("file-x", np.array([7], np.int64), vectors)
        await index.load()
        assert unnamed.name in index.engine.segment_names()
        old = "seg_" + "0" * 32 + ".vec"
        (house.folder / "indexes" / store / "vectors" / old).write_bytes(b"left by a crash")
        await index.load()
        assert old not in index.engine.segment_names()


# -- opening and closing ------------------------------------------------------------------


async def test_a_store_in_use_is_not_closed_however_many_are_opened(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "OPEN_STORES", 2)
    stores = [await house.new_store() for _ in range(5)]
    async with house.using(stores[0]) as first:
        for store in stores:
            await house.put(store, TEXTS[0])
        async with house.using(stores[0]) as same:
            assert same is first
    assert len(house.stores._open) <= 3
    for store in stores:
        assert len(await house.search(store, TEXTS[0])) == 1


async def test_many_small_stores_are_filled_and_searched_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "OPEN_STORES", 2)
    stores = [await house.new_store() for _ in range(4)]

    async def fill(store: str) -> None:
        for text in TEXTS:
            await house.put(store, text)
            assert await house.search(store, text)

    await asyncio.gather(*map(fill, stores))
    for store in stores:
        assert len(await house.search(store, TEXTS[0], k=50)) == len(TEXTS)


async def test_filtered_searches_go_on_while_files_are_added(house: House) -> None:
    store = await house.new_store()
    wanted = await house.put(store, TEXTS[0], attributes={"team": "red"})
    filters = {"type": "eq", "key": "team", "value": "red"}

    async def add() -> None:
        for _ in range(12):
            await house.put(store, *TEXTS, attributes={"team": "blue"})

    adding = asyncio.create_task(add())
    while not adding.done():
        assert files_of(await house.search(store, TEXTS[0], filters)) == [wanted]
    await adding


# -- searching ----------------------------------------------------------------------------


async def test_filters_choose_files_by_their_attributes_as_they_are_now(house: House) -> None:
    store = await house.new_store()
    red = await house.put(store, TEXTS[0], attributes={"team": "red", "year": 2024.0})
    blue = await house.put(store, TEXTS[0], attributes={"team": "blue", "year": 2026.0})
    newer = {"type": "gt", "key": "year", "value": 2025}
    assert files_of(await house.search(store, "holiday", newer)) == [blue]
    await house.attached.set_attributes(made_call(), store, red, {"year": 2027.0})
    assert set(files_of(await house.search(store, "holiday", newer))) == {red, blue}
    is_red = {"type": "eq", "key": "team", "value": "red"}
    assert await house.search(store, "holiday", is_red) == []
    await house.reopen()
    assert set(files_of(await house.search(store, "holiday", newer))) == {red, blue}


async def test_a_malformed_filter_and_an_empty_query_are_refused(house: House) -> None:
    store = await house.new_store()
    with pytest.raises(BadRequest):
        await house.search(store, "holiday", {"type": "like", "key": "a", "value": "b"})
    with pytest.raises(BadRequest):
        await house.search(store, " ")


async def test_an_expired_store_takes_nothing_and_finds_nothing(house: House) -> None:
    store = await house.new_store(expires_after_days=1)
    await house.put(store, TEXTS[0])
    assert await house.search(store, TEXTS[0])
    file_id = await house.upload(TEXTS[1])
    async with house.db.write() as connection:
        await connection.execute(
            update(vector_stores).where(vector_stores.c.id == store).values(last_active_at=1.0)
        )
    with pytest.raises(Conflict, match="expired"):
        await house.search(store, TEXTS[0])
    with pytest.raises(Conflict, match="expired"):
        await house.attach(store, file_id)
    await house.stores.delete(TENANT, store)


async def test_two_stores_are_searched_as_one_and_a_foreign_one_refuses_both(
    house: House,
) -> None:
    one, two = await house.new_store(), await house.new_store()
    first, second = await house.put(one, TEXTS[0]), await house.put(two, TEXTS[0])
    hits = await house.searches.hits(made_call(), [one, two, one], TEXTS[0], 10)
    assert sorted(files_of(hits)) == sorted([first, second])
    with pytest.raises(NotFound):
        await house.searches.hits(made_call("t2"), [one], TEXTS[0], 10)


# -- attaching ----------------------------------------------------------------------------


async def test_a_file_attached_by_two_calls_at_once_is_ingested_by_one_job(house: House) -> None:
    store = await house.new_store()
    file_id = await house.upload(TEXTS[0])
    calls = [
        house.attached.attach(made_call(), store, [file_id, file_id], {}, {}) for _ in range(5)
    ]
    fresh = [found for _, found in await asyncio.gather(*calls)]
    assert sum(map(len, fresh)) == 1


async def test_a_second_job_for_a_file_changes_nothing(house: House) -> None:
    store = await house.new_store()
    file_id = await house.put(store, TEXTS[0])
    assert not await house.index(store, file_id, "job_other", [TEXTS[1]])
    (hit,) = await house.search(store, TEXTS[0])
    assert (hit.passage.text, hit.lexical is not None) == (TEXTS[0], True)


async def test_a_job_of_an_earlier_attachment_does_not_answer_for_a_later_one(
    house: House,
) -> None:
    store = await house.new_store()
    file_id = await house.upload(TEXTS[0])
    earlier = await house.attach(store, file_id)
    await house.attached.detach(made_call(), store, file_id)
    later = await house.attach(store, file_id)
    assert not await house.index(store, file_id, earlier, [TEXTS[1]])
    assert await house.index(store, file_id, later, [TEXTS[0]])
    assert [h.passage.text for h in await house.search(store, TEXTS[0])] == [TEXTS[0]]


async def test_a_cancelled_batch_stops_what_is_waiting_and_keeps_what_is_done(
    house: House,
) -> None:
    store = await house.new_store()
    ids = [await house.upload(text) for text in TEXTS[:2]]
    batch, fresh = await house.attached.attach(made_call(), store, ids, {}, {}, batch=True)
    assert batch is not None
    assert await house.index(store, ids[0], fresh[ids[0]], [TEXTS[0]])
    counts = (await house.attached.cancel_batch(TENANT, store, batch))["counts"]
    assert (counts["completed"], counts["cancelled"], counts["in_progress"]) == (1, 1, 0)
    assert not await house.index(store, ids[1], fresh[ids[1]], [TEXTS[1]])
    assert files_of(await house.search(store, TEXTS[1])) == [ids[0]]


# -- pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_forward_and_back_meet_every_store_once(house: House, order: str) -> None:
    made = [await house.new_store() for _ in range(7)]
    wanted = sorted(made, reverse=order == "desc")

    async def page(**cursor: str | None) -> tuple[list[str], bool]:
        found = await house.stores.page(TENANT, limit=3, order=order, **cursor)
        return [s.id for s in found.rows], found.has_more

    assert await page() == (wanted[:3], True)
    assert await page(after=wanted[2]) == (wanted[3:6], True)
    assert await page(after=wanted[5]) == (wanted[6:], False)
    assert await page(before=wanted[6]) == (wanted[3:6], True)
    assert await page(before=wanted[3]) == (wanted[:3], False)
    with pytest.raises(BadRequest, match="after"):
        await page(after="not an id\x00")


async def test_deleted_bytes_that_a_crash_left_are_swept(house: House) -> None:
    file_id = await house.upload(TEXTS[0])
    await house.attached.delete_file(made_call(), file_id)
    assert house.files.blobs.open(file_id).read()
    await house.files.sweep()
    with pytest.raises(FileNotFoundError):
        house.files.blobs.open(file_id)
    async with house.db.read() as connection:
        assert await connection.scalar(select(files.c.blob).where(files.c.id == file_id)) == ""


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("How is SESSION_COOKIE_AGE set?", (0.4, 0.6)),
        ("CWE-79", (0.4, 0.6)),
        ("How long does a session last?", (0.6, 0.4)),
    ],
)
def test_words_weigh_more_where_a_name_is_asked_for(
    query: str, expected: tuple[float, float]
) -> None:
    assert search.weights(query, DEFAULT_RANKING) == pytest.approx(expected)
    chosen = replace(DEFAULT_RANKING, dense=0.5, lexical=0.5)
    assert search.weights(query, chosen) == (0.5, 0.5)
