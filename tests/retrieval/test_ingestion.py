"""Ingestion as a durable job: each file ends completed, failed or cancelled, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

import app.retrieval.ingestion as ingestion
from app.errors import BudgetExceeded, NotFound
from app.store.models import jobs, passages
from tests.retrieval.stores import TENANT, House, ended, files_of, job_over, made_call, running

HANDBOOK = "# Handbook\n\n## Holidays\n\nEmployees receive 27 days of paid holiday each year.\n"


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with running(database_url, tmp_path) as made:
        yield made


async def restart(house: House) -> None:
    await house.jobs.close()
    await house.reopen()
    await house.jobs.start()
    await house.jobs.resume_lost()
    await house.ingestion.resume()


async def begin(house: House, store: str, *file_ids: str) -> dict[str, str]:
    _, fresh = await house.attached.attach(made_call(), store, file_ids, {}, {})
    await house.ingestion.begin(made_call(), store, fresh)
    return fresh


def held(house: House, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the embedding up: (it has begun, let it go on)."""
    begun, gate = asyncio.Event(), asyncio.Event()
    embed = house.stores.embedder.embed_passages

    async def wait(texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        begun.set()
        await gate.wait()
        return await embed(texts)

    monkeypatch.setattr(house.stores.embedder, "embed_passages", wait)
    return begun, gate


async def count(house: House, file_id: str) -> int:
    async with house.db.read() as connection:
        query = select(func.count()).where(passages.c.file_id == file_id)
        return int(await connection.scalar(query) or 0)


async def test_a_file_becomes_searchable_with_its_section_and_leaves_no_scratch(
    house: House,
) -> None:
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = (await begin(house, store, file_id))[file_id]
    file = await ended(house, store, file_id)
    assert (file.status, file.last_error, file.job_id) == ("completed", None, job_id)
    assert file.usage_bytes > 0
    (hit,) = await house.search(store, "How many days of holiday?")
    assert "27 days" in hit.passage.text and hit.passage.section == "Handbook > Holidays"
    assert await job_over(house, job_id) == "completed"
    assert [p.name for p in (house.folder / "files").iterdir()] == [file_id]


async def test_broken_files_fail_alone_and_say_why(house: House) -> None:
    store = await house.new_store()
    good = await house.upload(HANDBOOK)
    bad = await house.upload(b"%PDF-1.7 no", "bad.pdf")
    odd = await house.upload(b"MZ", "tool.exe")
    await begin(house, store, good, bad, odd)
    assert (await ended(house, store, good)).status == "completed"
    told = (await ended(house, store, bad)).last_error
    assert told["code"] == "invalid_file" and "bad.pdf" in told["message"]
    assert (await ended(house, store, odd)).last_error["code"] == "unsupported_file"
    assert files_of(await house.search(store, "paid holiday")) == [good]


async def test_a_step_that_breaks_fails_the_job_and_the_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(texts: list[str]) -> None:
        raise RuntimeError("jane.roe@example.com")

    monkeypatch.setattr(house.stores.embedder, "embed_passages", broken)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = (await begin(house, store, file_id))[file_id]
    file = await ended(house, store, file_id)
    assert file.status == "failed"
    assert file.last_error == {"code": "server_error", "message": "The job failed: RuntimeError."}
    assert await job_over(house, job_id) == "failed"
    assert [p.name for p in (house.folder / "files").iterdir()] == [file_id]


async def test_a_spent_budget_fails_the_file_with_its_message(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise BudgetExceeded("The budget of 1.00 USD a day is spent.")

    monkeypatch.setattr(house.ingestion, "govern", refuse)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    await begin(house, store, file_id)
    file = await ended(house, store, file_id)
    assert file.last_error["message"] == "The budget of 1.00 USD a day is spent."


async def test_a_cancelled_job_cancels_its_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = held(house, monkeypatch)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = (await begin(house, store, file_id))[file_id]
    await begun.wait()
    await house.jobs.cancel(TENANT, job_id)
    assert (await house.attached.file(made_call(), store, file_id)).status == "cancelled"
    gate.set()
    other = await house.upload(HANDBOOK)
    await begin(house, store, other)
    await ended(house, store, other)
    assert files_of(await house.search(store, "paid holiday")) == [other]


Undo = Callable[[House, str, str], Any]


@pytest.mark.parametrize(
    "undo",
    [
        lambda h, s, f: h.attached.detach(made_call(), s, f),
        lambda h, s, f: h.attached.delete_file(made_call(), f),
        lambda h, s, f: h.stores.delete(TENANT, s),
    ],
    ids=["detached", "file deleted", "store deleted"],
)
async def test_what_is_removed_while_it_is_ingested_stays_removed(
    house: House, monkeypatch: pytest.MonkeyPatch, undo: Undo
) -> None:
    begun, gate = held(house, monkeypatch)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = (await begin(house, store, file_id))[file_id]
    await begun.wait()
    await undo(house, store, file_id)
    gate.set()
    assert await job_over(house, job_id) == "completed"
    assert await count(house, file_id) == 0
    with pytest.raises(NotFound):
        await house.attached.file(made_call(), store, file_id)
    assert not (house.folder / "files" / f"work-{job_id}").exists()
    for folder in (house.folder / "indexes").glob("*"):
        assert folder.name == store and not list((folder / "vectors").glob("*"))


async def test_a_file_attached_again_while_it_is_ingested_is_ingested_as_asked_last(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = held(house, monkeypatch)
    store = await house.new_store()
    file_id = await house.upload("\n\n".join(f"Fact {n} of the house is known." for n in range(60)))
    limits = {"max_tokens": 100, "overlap_tokens": 0}
    earlier = (await begin(house, store, file_id))[file_id]
    await begun.wait()
    await house.attached.detach(made_call(), store, file_id)
    _, fresh = await house.attached.attach(made_call(), store, [file_id], {}, limits)
    await house.ingestion.begin(made_call(), store, fresh)
    gate.set()
    await job_over(house, earlier)
    assert (await ended(house, store, file_id)).status == "completed"
    _, found = await house.attached.document(made_call(), store, file_id)
    assert len(found) > 4  # cut at 100 tokens, not at 256
    assert [p.ordinal for p in found] == list(range(len(found)))


async def test_an_attached_file_whose_job_was_never_begun_is_ingested_after_a_restart_once(
    house: House,
) -> None:
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = await house.attach(store, file_id)  # killed before its job was submitted
    await restart(house)
    assert (await ended(house, store, file_id)).job_id == job_id
    async with house.db.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(jobs)) == 1


async def test_a_restart_in_the_middle_of_an_ingest_neither_loses_nor_fails_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = ingestion.parse

    def counted(path: Path, filename: str) -> Any:
        parsed.append(filename)
        return parse(path, filename)

    monkeypatch.setattr(ingestion, "parse", counted)
    begun, _ = held(house, monkeypatch)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    await begin(house, store, file_id)
    await begun.wait()
    await restart(house)
    assert (await ended(house, store, file_id)).status == "completed"
    assert len(parsed) == 1  # the finished step was not run again
    assert files_of(await house.search(store, "paid holiday")) == [file_id]
    assert await count(house, file_id) == 1


async def test_a_file_whose_job_ended_before_it_was_told_is_told_after_a_restart(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, _ = held(house, monkeypatch)
    store, file_id = await house.new_store(), await house.upload(HANDBOOK)
    job_id = (await begin(house, store, file_id))[file_id]
    await begun.wait()

    async def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(house.jobs, "_tell", killed)
    with pytest.raises(KeyboardInterrupt):
        await house.jobs.cancel(TENANT, job_id)
    await restart(house)
    assert (await ended(house, store, file_id)).status == "cancelled"


async def test_a_keyed_upload_sent_again_after_a_crash_is_one_file(house: House) -> None:
    import io

    from app.errors import Conflict

    async def upload(data: bytes, key: str = "k", tenant: str = TENANT) -> str:
        call = made_call(tenant)
        file = await house.files.upload(call, "a.md", "assistants", io.BytesIO(data), key)
        return file.id

    first = await upload(b"one")
    assert await upload(b"one") == first  # the idempotency row was lost with the process
    assert await upload(b"one", "other") != first
    assert await upload(b"one", tenant="t2") != first
    with pytest.raises(Conflict, match="another file"):
        await upload(b"two")
    with house.files.blobs.open(first) as stream:
        assert stream.read() == b"one"
    assert len(list((house.folder / "files").iterdir())) == 3
    await house.attached.delete_file(made_call(), first)
    assert await upload(b"two") != first
