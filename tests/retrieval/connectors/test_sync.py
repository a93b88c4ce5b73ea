"""Syncs of a folder in this process: cut anywhere, claimed once, and told truly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ids import new_id
from app.retrieval.connectors.schedule import KIND, LEAST_S, Schedule
from app.store.db import Database
from app.store.jobs import Job
from app.store.models import connectors, jobs
from tests.retrieval.connectors.followed import Followed, followed
from tests.retrieval.stores import TENANT, made_call

QUERY = "When is the harbour gate opened?"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Followed]:
    async with followed(database_url, tmp_path) as made:
        yield made


class Cut(BaseException):
    """The process ends here."""


class Scissors:
    """Cuts a database off just before or just after its n-th commit."""

    def __init__(self, db: Database, last: int, after: bool) -> None:
        self.db, self.last, self.after, self.seen = db, last, after, 0
        self._write = db.write

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        self.seen += 1
        number = self.seen
        if number > self.last:
            raise Cut
        async with self._write() as connection:
            yield connection
            if number == self.last and not self.after:
                raise Cut
        if number == self.last:
            raise Cut

    def __enter__(self) -> Scissors:
        self.db.write = self.write  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.db.write = self._write  # type: ignore[method-assign]


async def claim(place: Followed, connector_id: str) -> Job:
    """Make a job the newest sync, as if it ran: the test runs its steps."""
    job_id = new_id("job_")
    async with place.house.db.write() as connection:
        await connection.execute(
            update(connectors)
            .where(connectors.c.id == connector_id)
            .values(job_id=job_id, began_at=1.0, ended_at=None, removed=0)
        )
        # as the jobs table has it while its steps run
        await connection.execute(
            insert(jobs).values(
                id=job_id,
                tenant_id=TENANT,
                kind=KIND,
                status="running",
                done=0,
                total=5,
                created_at=1.0,
                updated_at=1.0,
            )
        )
    return Job(job_id, TENANT, KIND, {"connector_id": connector_id, "subject": "s"})


async def run(place: Followed, job: Job) -> None:
    """What the job does, from its first step, as after a crash before any step was recorded."""
    for _, step in place.house.jobs._kinds[KIND]:
        await step(job)


async def restart(place: Followed) -> None:
    await place.house.reopen()
    place.build()
    await place.house.files.sweep()


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before a commit", "after a commit"])
@pytest.mark.timeout(300)
async def test_a_sync_that_is_cut_at_any_commit_neither_loses_nor_doubles_a_document(
    place: Followed, after: bool
) -> None:
    place.write("gate.md", "# Gate\n\nThe harbour gate is opened at six.\n")
    place.write("gone.md", "# Gone\n\nThe old lighthouse was torn down.\n")
    store = await place.house.new_store()
    connector_id = (await place.follow(store)).id
    await place.ended(connector_id)
    assert await place.left() == (2, 2, 2, 2)
    hour, last = 7, 0
    cut = True
    while cut:
        last += 1
        hour += 1
        place.write("gate.md", f"# Gate\n\nThe harbour gate is opened at {hour} o'clock.\n")
        place.write(f"new-{hour}.md", f"# New\n\nA boat of the name B{hour} lies at the pier.\n")
        (place.docs / f"new-{hour - 1}.md").unlink(missing_ok=True)
        (place.docs / "gone.md").unlink(missing_ok=True)
        job = await claim(place, connector_id)
        with Scissors(place.house.db, last, after) as scissors:
            try:
                await run(place, job)
                cut = scissors.seen > last
            except BaseException as error:
                if not isinstance(error, Cut):
                    raise
        hits = await found(place, store)
        assert len(hits) == 1, (last, hits)  # one version, the old or the new
        await restart(place)
        assert len(await found(place, store)) == 1, last
        await run(place, job)
        assert [f"at {hour} o'clock" in text for text in await found(place, store)] == [True]
        assert await place.left() == (2, 2, 2, 2), last
        items = await place.items(connector_id)
        assert sorted(items) == ["gate.md", f"new-{hour}.md"]
        assert {(i.status, i.next_file_id) for i in items.values()} == {("completed", None)}
    assert last > 15


async def found(place: Followed, store: str) -> list[str]:
    hits = await place.house.search(store, QUERY)
    return [h.passage.text for h in hits if "harbour gate" in h.passage.text]


async def test_nothing_prepared_is_left_of_a_document_that_changed_again_after_a_crash(
    place: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("gate.md", "# Gate\n\nThe harbour gate is opened at six.\n")
    store = await place.house.new_store()
    connector_id = (await place.follow(store)).id
    await place.ended(connector_id)

    async def cut(_: Job) -> None:
        raise Cut

    for last in ("it changed again", "it went"):
        place.write("gate.md", f"# Gate\n\nThe harbour gate was mended before {last}.\n")
        job = await claim(place, connector_id)
        with monkeypatch.context() as patched:
            patched.setattr(place.house.ingestion, "_index", cut)
            with pytest.raises(Cut):
                await run(place, job)
        assert (await place.left())[3] == 3  # the old, the new, and the passages of the new
        await restart(place)
        if last == "it went":
            (place.docs / "gate.md").unlink()
        else:
            place.write("gate.md", "# Gate\n\nThe harbour gate is opened at seven.\n")
        await run(place, job)
        left = 0 if last == "it went" else 1
        assert await place.left() == (left, left, left, left)
        assert len(await found(place, store)) == left


async def test_two_schedulers_on_one_database_begin_a_due_sync_once(place: Followed) -> None:
    place.write("a.md", "# A\n\nText.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    await place.ended(connector.id)
    for _ in range(5):
        await place.make_due(connector.id)
        others = [Schedule(Database(place.house.url), place.house.jobs) for _ in range(3)]
        before = await count(place)
        await asyncio.gather(*(s.look() for s in (place.schedule, *others)))
        assert await count(place) == before + 1
        ended = await place.ended(connector.id)
        assert ended.error is None and ended.counts is not None
        for other in others:
            await other._db.close()


async def count(place: Followed) -> int:
    async with place.house.db.read() as connection:
        query = select(func.count()).select_from(jobs).where(jobs.c.kind == KIND)
        return int(await connection.scalar(query) or 0)


async def test_a_claim_whose_gateway_died_before_it_submitted_the_job_is_taken_up(
    place: Followed,
) -> None:
    place.write("a.md", "# A\n\nText.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    await place.ended(connector.id)
    place.write("b.md", "# B\n\nText.\n")
    job_id = new_id("job_")
    await place.make_due(connector.id, job_id=job_id, began_at=1.0, ended_at=None)
    await place.schedule.look()
    ended = await place.ended(connector.id)
    assert ended.job_id == job_id and ended.error is None
    assert ended.counts is not None and ended.counts["added"] == 1


async def test_failures_wait_longer_each_time_and_at_most_the_freshness(place: Followed) -> None:
    store = await place.house.new_store()
    connector = await place.follow(store, freshness_s=300)
    await place.ended(connector.id)
    del place.declared["docs"]
    delays = []
    for _ in range(5):
        await place.make_due(connector.id)
        await place.schedule.look()
        ended = await place.ended(connector.id)
        assert ended.error is not None and ended.error["code"] == "source_revoked"
        assert ended.next_sync_at is not None and ended.ended_at is not None
        delays.append(round(ended.next_sync_at - ended.ended_at))
    assert delays == [60, 120, 240, 300, 300]


async def test_the_interval_is_half_the_freshness_from_beginning_to_beginning(
    place: Followed,
) -> None:
    store = await place.house.new_store()
    connector = await place.follow(store, freshness_s=1000)
    ended = await place.ended(connector.id)
    assert ended.began_at is not None and ended.next_sync_at is not None
    assert ended.next_sync_at - ended.began_at == pytest.approx(500)
    assert ended.fresh
    stale = await place.schedule.look()
    assert stale == 0
    await place.make_due(connector.id, whole_at=1.0, enabled=False)
    assert not (await place.row(connector.id)).fresh
    assert await place.schedule.look() == 0  # a paused one is not counted, nor begun
    assert (await place.row(connector.id)).job_id == ended.job_id


async def test_a_listing_that_breaks_off_removes_nothing(place: Followed) -> None:
    place.write("a/one.md", "# One\n\nThe harbour gate is opened at six.\n")
    place.write("b/two.md", "# Two\n\nText.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    assert (await place.ended(connector.id)).counts == {
        "found": 2, "added": 2, "changed": 0, "removed": 0, "failed": 0, "unchanged": 0,
    }  # fmt: skip
    (place.docs / "a/one.md").unlink()
    source = Breaking(place)
    with source:
        await place.schedule.begin(connector.id)
        ended = await place.ended(connector.id)
    assert ended.error is not None and ended.error["code"] == "source_unavailable"
    assert sorted(await place.items(connector.id)) == ["a/one.md", "b/two.md"]
    assert len(await found(place, store)) == 1
    await place.schedule.begin(connector.id)
    ended = await place.ended(connector.id)
    assert ended.error is None and ended.counts is not None and ended.counts["removed"] == 1
    assert await found(place, store) == []


class Breaking:
    """Takes away the folder that a source lists."""

    def __init__(self, place: Followed) -> None:
        self.docs, self.aside = place.docs, place.docs.with_name("aside")

    def __enter__(self) -> None:
        self.docs.rename(self.aside)

    def __exit__(self, *_: object) -> None:
        self.aside.rename(self.docs)


async def test_a_file_that_somebody_deleted_here_comes_back(place: Followed) -> None:
    place.write("gate.md", "# Gate\n\nThe harbour gate is opened at six.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    await place.ended(connector.id)
    (item,) = (await place.items(connector.id)).values()
    await place.house.attached.delete_file(made_call(), str(item.file_id))
    assert await found(place, store) == []
    await place.schedule.begin(connector.id)
    await place.ended(connector.id)
    assert len(await found(place, store)) == 1


async def test_documents_have_the_connectors_labels_and_its_makers_ownership(
    place: Followed,
) -> None:
    place.write("gate.md", "# Gate\n\nText.\n")
    store = await place.house.new_store()
    given = {f"a{n:02}": n for n in range(14)}
    connector = await place.follow(store, attributes={**given, "source": "mine"})
    await place.ended(connector.id)
    (item,) = (await place.items(connector.id)).values()
    entry = await place.house.attached.entry(TENANT, store, str(item.file_id))
    assert entry.attributes == {"source": "docs", "source_key": "gate.md", **given}
    file = await place.house.files.row(TENANT, str(item.file_id))
    assert (file.owner, file.filename) == (made_call().principal.owner, "gate.md")


async def test_a_deleted_store_takes_its_connectors_with_it(place: Followed) -> None:
    place.write("gate.md", "# Gate\n\nText.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    await place.ended(connector.id)
    await place.house.stores.delete(TENANT, store)
    assert await place.items(connector.id) == {}
    assert await place.schedule.look() == 0


async def test_a_cancelled_sync_stops_and_the_next_one_goes_on(place: Followed) -> None:
    for number in range(12):
        place.write(f"{number}.md", f"# Number {number}\n\nText.\n")
    store = await place.house.new_store()
    connector = await place.follow(store)
    await place.house.jobs.cancel(TENANT, str(connector.job_id))
    ended = await place.ended(connector.id)
    assert ended.error is not None and ended.error["code"] == "cancelled"
    await place.schedule.begin(connector.id)
    ended = await place.ended(connector.id)
    assert ended.error is None and await place.left() == (12, 12, 12, 12)


async def test_a_change_brings_the_next_sync_forward_also_while_one_runs(place: Followed) -> None:
    store = await place.house.new_store()
    connector = await place.follow(store)
    first = await place.ended(connector.id)
    assert first.next_sync_at is not None and first.ended_at is not None
    await place.schedule.wake("another")
    assert (await place.row(connector.id)).next_sync_at == first.next_sync_at
    await place.schedule.wake("docs")
    woken = await place.row(connector.id)
    assert woken.next_sync_at == pytest.approx(first.ended_at + LEAST_S)  # not at once again

    job = await claim(place, connector.id)
    await place.make_due(connector.id)
    await run(place, job)  # a change came after it had begun
    again = await place.row(connector.id)
    assert again.next_sync_at == again.ended_at

    for values in ({"enabled": False}, {"failures": 2}):
        usual = {"next_sync_at": 4e9, "enabled": True, "failures": 0}
        await place.set(connector.id, **{**usual, **values})
        await place.schedule.wake("docs")
        assert (await place.row(connector.id)).next_sync_at == 4e9
