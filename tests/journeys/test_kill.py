"""kill -9 of the gateway at random moments, under load: nothing acknowledged is ever lost.

Ten kills on each database, twenty in all, so that the whole takes minutes on two cores; two
of each ten strike while the gateway is still starting. Set OSTIARY_KILL_SEED to repeat a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import string
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from sqlalchemy import Engine, create_engine, text

from app.retrieval.chunking import chunk
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.parsing import parse
from app.settings import normal_url
from tests.conftest import ROOT, Gateway

pytestmark = pytest.mark.slow

KILLS = 10
KILLS_WHILE_STARTING = (3, 7)
FILES = 40
CUT = (aiohttp.ClientError, OSError, asyncio.TimeoutError)
SLOWLY = {"chunks": 12, "interval_ms": 60, "words": 1}  # long enough to be cut in the middle


@dataclass
class Promise:
    """One file that the gateway said it has, and whether it said that it is attached."""

    content: bytes
    word: str
    filename: str
    attached: bool = False


@dataclass
class Seen:
    """What the clients were told."""

    files: dict[str, Promise] = field(default_factory=dict)  # by file id
    completed: list[str] = field(default_factory=list)  # request ids of answered chats
    keyed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    cut: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    wrong: list[str] = field(default_factory=list)


class Load:
    """Clients that upload, attach and chat, and send again what a kill has cut."""

    def __init__(
        self, gateway: Gateway, dice: random.Random, session: aiohttp.ClientSession
    ) -> None:
        self.gateway, self.dice, self.session = gateway, dice, session
        self.seen = Seen()
        self.up = asyncio.Event()
        self.over = False
        self.store = ""

    def name(self) -> str:
        return "".join(self.dice.choices(string.ascii_lowercase, k=14))

    async def once(self, method: str, path: str, **given: Any) -> Any:
        """One request whose whole answer is awaited; raises one of CUT."""
        async with self.session.request(method, self.gateway.url + path, **given) as reply:
            body = await reply.read()
            if reply.status >= 400:
                self.seen.wrong.append(f"{method} {path} {reply.status} {body[:300]!r}")
                raise RuntimeError(self.seen.wrong[-1])
            self.seen.replayed += reply.headers.get("idempotent-replayed") == "true"
            return orjson.loads(body)

    async def until_told(self, kind: str, send: Callable[[], Any]) -> Any:
        """Send again and again until the answer comes whole; returns it."""
        while True:
            await self.up.wait()
            try:
                return await send()
            except CUT:
                self.seen.cut[kind] += 1
                await asyncio.sleep(0.05)

    async def upload_and_attach(self) -> None:
        while not self.over and len(self.seen.files) < FILES:
            promise = made_promise(self.name(), self.dice)
            key = {"idempotency-key": f"up-{promise.word}"}

            async def upload(promise: Promise = promise, key: dict[str, str] = key) -> Any:
                form = aiohttp.FormData({"purpose": "assistants"})
                form.add_field("file", promise.content, filename=promise.filename)
                return await self.once("POST", "/v1/files", data=form, headers=key)

            file_id = (await self.until_told("upload", upload))["id"]
            self.seen.files[file_id] = promise
            path, body = f"/v1/vector_stores/{self.store}/files", {"file_id": file_id}
            key = {"idempotency-key": f"at-{promise.word}"}

            async def attach(path: str = path, body: Any = body, key: Any = key) -> Any:
                return await self.once("POST", path, json=body, headers=key)

            await self.until_told("attach", attach)
            promise.attached = True

    async def chat(self, streamed: bool, keyed: bool) -> None:
        while not self.over:
            name = self.name()
            key = {"idempotency-key": f"chat-{name}"} if keyed else {}

            async def send(name: str = name, key: dict[str, str] = key) -> bool:
                request_id = f"req-{self.name()}"
                if key:
                    self.seen.keyed[name].append(request_id)
                await self._chat(request_id, streamed, name, key)
                self.seen.completed.append(request_id)
                return True

            if keyed:
                await self.until_told("keyed chat", send)
                continue
            await self.up.wait()
            try:
                await send()
            except CUT:
                self.seen.cut["stream" if streamed else "chat"] += 1
                await asyncio.sleep(0.05)

    async def _chat(self, request_id: str, streamed: bool, words: str, key: dict[str, str]) -> None:
        body: dict[str, Any] = {
            "model": "stub",
            "messages": [{"role": "user", "content": f"Tell me about {words}."}],
        }
        if streamed:
            body |= {"stream": True, "stub": SLOWLY}
        async with self.session.post(
            f"{self.gateway.url}/v1/chat/completions",
            json=body,
            headers={"x-request-id": request_id, **key},
        ) as reply:
            data = await reply.read()
            if reply.status != 200:
                self.seen.wrong.append(f"chat {reply.status} {data[:300]!r}")
            elif streamed and not data.endswith(b"data: [DONE]\n\n"):
                raise aiohttp.ClientPayloadError("cut before [DONE]")
            self.seen.replayed += reply.headers.get("idempotent-replayed") == "true"

    @asynccontextmanager
    async def running(self) -> Any:
        work = [
            *(self.upload_and_attach() for _ in range(2)),
            self.chat(streamed=False, keyed=False),
            self.chat(streamed=True, keyed=False),
            self.chat(streamed=False, keyed=True),
            self.chat(streamed=True, keyed=True),
        ]
        tasks = [asyncio.create_task(w) for w in work]
        try:
            yield
            self.over = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def made_promise(word: str, dice: random.Random) -> Promise:
    sections = [
        f"## Part {n}\n\n" + " ".join(dice.choices(WORDS, k=120)) + f". The word is {word}.\n"
        for n in range(6)
    ]
    content = f"# About {word}\n\n" + "\n".join(sections)
    return Promise(content.encode(), word, f"{word}.md")


WORDS = [
    "river",
    "gate",
    "keeper",
    "lantern",
    "harbour",
    "winter",
    "ledger",
    "orchard",
    "bridge",
    "market",
    "engine",
    "valley",
    "signal",
    "copper",
    "garden",
    "window",
    "letter",
    "station",
    "morning",
    "paper",
]


@pytest.mark.timeout(540)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_kill_9_at_random_moments_loses_and_doubles_nothing(
    database: str,
    tmp_path: Path,
    fake_model_server: str,
    new_postgres_url: Callable[[], str],
) -> None:
    seed = int(os.environ.get("OSTIARY_KILL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"OSTIARY_KILL_SEED={seed}")
    env = {"OSTIARY_LLM_URL": fake_model_server, "OSTIARY_LLM_MODEL": "stub"}
    env["OSTIARY_RATE_RPM"] = "1000000"
    if database == "postgresql":
        env["OSTIARY_DATABASE_URL"] = new_postgres_url()
    gateway = Gateway(tmp_path / "data", env)
    moments = random.Random(seed)
    await asyncio.to_thread(gateway.start)
    try:
        async with client_of(gateway) as session:
            load = Load(gateway, random.Random(seed + 1), session)
            await suffer(load, moments)
            await until_ingested(load, 0)
            await prove(load, database)
    finally:
        await asyncio.to_thread(gateway.stop)


def client_of(gateway: Gateway) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"authorization": f"Bearer {gateway.key}"},
        timeout=aiohttp.ClientTimeout(total=60),
        connector=aiohttp.TCPConnector(force_close=True),
    )


async def suffer(load: Load, moments: random.Random) -> None:
    """Kill the gateway again and again while the clients go on."""
    gateway = load.gateway
    load.up.set()
    load.store = (await load.once("POST", "/v1/vector_stores", json={"name": "k"}))["id"]
    async with load.running():
        for number in range(KILLS):
            await asyncio.sleep(moments.uniform(0.2, 2.5))
            gateway.kill()
            load.up.clear()
            if number in KILLS_WHILE_STARTING:
                await asyncio.to_thread(kill_while_starting, gateway, moments.uniform(0.5, 5))
            await asyncio.to_thread(gateway.start)
            load.up.set()
        await until_ingested(load, 10)


def kill_while_starting(gateway: Gateway, after_s: float) -> None:
    """Start a gateway on the same data and kill it before it is ready."""
    with gateway.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=gateway.env,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    time.sleep(after_s)
    process.kill()
    process.wait()


async def until_ingested(load: Load, waiting: int) -> None:
    """Wait until at most so many files are still to be ingested."""
    async with asyncio.timeout(150):
        while True:
            store = await load.until_told(
                "poll", lambda: load.once("GET", f"/v1/vector_stores/{load.store}")
            )
            counts = store["file_counts"]
            if counts["total"] and counts["in_progress"] <= waiting:
                return
            await asyncio.sleep(0.2)


async def prove(load: Load, database: str) -> None:
    """Everything that the clients were told is true, and nothing happened twice."""
    seen, gateway = load.seen, load.gateway
    print(
        f"{len(seen.files)} files, {len(seen.completed)} chats, replayed {seen.replayed}, "
        f"cut: {dict(seen.cut)}"
    )
    assert seen.wrong == []
    assert len(seen.files) > 10 and len(seen.completed) > 50 and seen.cut
    await prove_files(load)
    verdict = await load.once("GET", "/v1/audit/verify")
    assert verdict["valid"], verdict["fault"]
    verify = subprocess.run(
        [sys.executable, "-m", "app.cli", "audit", "verify"],
        env=gateway.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr
    url = gateway.env.get("OSTIARY_DATABASE_URL")
    main = create_engine(normal_url(url, gateway.data_dir / "ostiary.db"))
    jobs = create_engine(normal_url(url, gateway.data_dir / "jobs.db"))
    schema = "" if database == "sqlite" else "dbos."
    try:
        records = [orjson.loads(r) for r in rows(main, "SELECT record FROM audit")]
        prove_chats(seen, records)
        prove_jobs(jobs, schema, records)
        prove_passages(main, load)
    finally:
        main.dispose()
        jobs.dispose()


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.scalars(text(query)))


async def prove_files(load: Load) -> None:
    """Each promised file is there once, byte-equal, completed, and found by its own word."""
    listed = (await load.once("GET", "/v1/files"))["data"]
    assert Counter(f["filename"] for f in listed).most_common(1)[0][1] == 1
    assert {f["id"] for f in listed} >= set(load.seen.files)
    for file_id, promise in load.seen.files.items():
        url = f"{load.gateway.url}/v1/files/{file_id}/content"
        async with load.session.get(url) as reply:
            assert await reply.read() == promise.content
        if not promise.attached:
            continue
        path = f"/v1/vector_stores/{load.store}"
        entry = await load.once("GET", f"{path}/files/{file_id}")
        assert (entry["status"], entry["last_error"]) == ("completed", None)
        query = {"query": f"What is said about {promise.word}?", "max_num_results": 3}
        hits = (await load.once("POST", f"{path}/search", json=query))["data"]
        assert hits[0]["file_id"] == file_id
        assert promise.word in hits[0]["content"][0]["text"]


def prove_chats(seen: Seen, records: list[dict[str, Any]]) -> None:
    """One record for each completed answer; one charge for each keyed chat."""
    chats = [r for r in records if r["route"] == "POST /v1/chat/completions"]
    count = Counter(r["request_id"] for r in chats)
    assert {i: count[i] for i in seen.completed if count[i] != 1} == {}
    assert max(count.values()) == 1
    charged: Counter[str] = Counter()
    for record in chats:
        if record["status"] == 200 and record["cost_nano_usd"]:
            charged[record["request_id"]] += 1
    for name, attempts in seen.keyed.items():
        assert sum(charged[i] for i in attempts) == 1, name


def prove_jobs(jobs: Engine, schema: str, records: list[dict[str, Any]]) -> None:
    """No step began after it had been recorded as finished; no file was charged twice."""
    query = (
        f"SELECT workflow_uuid, function_name, completed_at_epoch_ms FROM {schema}operation_outputs"
    )
    with jobs.connect() as connection:
        finished = {(r[0], r[1]): r[2] for r in connection.execute(text(query))}
    assert finished
    charges: Counter[str] = Counter()
    for record in records:
        if not record["route"].startswith("job:ingest_file/"):
            continue
        job, step = record["lineage"]["job"], record["route"].partition("/")[2]
        assert record["at"] * 1e3 <= finished[job, step] + 1, (job, step)
        charges[job] += record["embedding_tokens"] > 0
    assert max(charges.values()) == 1


def prove_passages(main: Engine, load: Load) -> None:
    """Each file has the passages, and as many, as it has without a kill."""
    embedder = OnnxEmbedder(packaged_bge_dir(), 2)
    with main.connect() as connection:
        query = "SELECT file_id, ordinal, text FROM passages ORDER BY file_id, ordinal"
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for file_id, ordinal, passage in connection.execute(text(query)):
            found[file_id].append((ordinal, passage))
    path = load.gateway.data_dir / "clean"
    for file_id, promise in load.seen.files.items():
        if promise.attached:
            path.write_bytes(promise.content)
            blocks = parse(path, promise.filename)
            clean = chunk(blocks, 256, 32, embedder.count_tokens)
            assert found[file_id] == [(c.ordinal, c.text) for c in clean]
