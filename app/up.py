"""Starting and stopping a gateway on this machine, with the sample knowledge base."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from app.client import Client
from app.settings import Settings

SAMPLE_STORE = "django-5.2-docs"
FIRST_QUESTION = "How long do sessions last by default?"
Say = Callable[[str], None]


class StartError(Exception):
    """The gateway did not come up; the message says where to look."""


def key_file(settings: Settings) -> Path:
    """The file, readable by its owner alone, that holds this machine's own admin key."""
    return settings.data_dir / "admin.key"


def base_url(settings: Settings) -> str:
    """Where the gateway of these settings answers."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return f"http://{host}:{settings.port}"


def pid_of(settings: Settings) -> int | None:
    """The process id of the running gateway, or None."""
    try:
        pid = int((settings.data_dir / "gateway.pid").read_text())
        os.kill(pid, 0)
        if _is_zombie(pid):
            return None
        command = Path(f"/proc/{pid}/cmdline")
        # empty for a moment while the process is being started
        words = command.read_bytes() if command.exists() else b""
        if words and b"app.cli" not in words:
            return None  # the id was given to another program
        return pid
    except (OSError, ValueError):
        return None


def start(settings: Settings) -> int:
    """Start ``ostiary serve`` in the background; returns its process id."""
    running = pid_of(settings)
    if running is not None:
        return running
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with (settings.data_dir / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    (settings.data_dir / "gateway.pid").write_text(str(process.pid))
    return process.pid


def stop(settings: Settings, timeout_s: float = 40) -> bool:
    """Stop the background gateway and wait for its end; False when none ran."""
    pid = pid_of(settings)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while pid_of(settings) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    (settings.data_dir / "gateway.pid").unlink(missing_ok=True)
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


async def wait_ready(settings: Settings, timeout_s: float) -> dict[str, Any]:
    """Wait for ``/readyz`` to answer 200; returns its body.

    Raises:
        StartError: the gateway ended, or was not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    log = settings.data_dir / "gateway.log"
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(base_url(settings) + "/readyz") as reply:
                    body: dict[str, Any] = await reply.json()
                    if reply.status == 200:
                        return body
            except (aiohttp.ClientError, OSError, ValueError):
                if pid_of(settings) is None:
                    raise StartError(f"The gateway ended while starting; see {log}") from None
            await asyncio.sleep(0.2)
    raise StartError(f"The gateway was not ready in {timeout_s:.0f} s; see {log}")


async def wait_llm(settings: Settings, timeout_s: float) -> str:
    """Wait while the model server starts; returns its state (``ready``, ``down``, …)."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = str((await wait_ready(settings, 30))["llm"])
        if state != "starting" or time.monotonic() > deadline:
            return state
        await asyncio.sleep(0.5)


async def load_sample(client: Client, settings: Settings, say: Say) -> str:
    """Load the sample knowledge base unless it is there; returns its vector store id."""
    from app.samples.django_docs import fetch, relative_name

    store_id, _ = await client.ensure_store(SAMPLE_STORE)
    pages = await asyncio.to_thread(fetch, settings.data_dir / "samples")
    store = await client.call("GET", f"v1/vector_stores/{store_id}")
    counts = store["file_counts"]
    if counts["completed"] >= len(pages):
        say(f"Sample knowledge base: {counts['completed']} documents, already loaded.")
        return store_id
    if counts["completed"] + counts["in_progress"] < len(pages):
        await _detach_failed(client, store_id)
        have = await _filenames(client, store_id)
        wanted = [p for p in pages if relative_name(p) not in have]
        gate = asyncio.Semaphore(8)

        async def send(page: Path) -> str:
            async with gate:
                return await client.upload(page, relative_name(page))

        ids = await asyncio.gather(*(send(page) for page in wanted))
        for i in range(0, len(ids), 500):
            await client.add_batch(store_id, list(ids[i : i + 500]))
        say(f"Uploaded {len(ids)} documents; embedding them.")
    progress = _Progress(say)  # also of files that an earlier run left waiting
    while True:
        store = await client.call("GET", f"v1/vector_stores/{store_id}")
        counts = store["file_counts"]
        if counts["in_progress"] == 0:
            break
        progress(counts)
        await asyncio.sleep(0.5)
    say(f"Sample knowledge base: {counts['completed']} documents, {counts['failed']} failed.")
    return store_id


async def _detach_failed(client: Client, store_id: str) -> None:
    """Make room for another try."""
    files = f"v1/vector_stores/{store_id}/files"
    while True:
        page = await client.call("GET", files, limit="100", filter="failed")
        for file in page["data"]:
            await client.call("DELETE", f"{files}/{file['id']}")
        if not page["has_more"]:
            return


async def _filenames(client: Client, store_id: str) -> set[str]:
    names: set[str] = set()
    after: dict[str, str] = {}
    attached: set[str] = set()
    while True:
        page = await client.call("GET", f"v1/vector_stores/{store_id}/files", limit="100", **after)
        attached |= {f["id"] for f in page["data"]}
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    after = {}
    while attached:
        page = await client.call("GET", "v1/files", limit="1000", **after)
        names |= {f["filename"] for f in page["data"] if f["id"] in attached}
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    return names


class _Progress:
    """Says how far a batch is, at most every 15 seconds."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.began = self.last = time.monotonic()
        self.first: int | None = None  # what was done before we began to look

    def __call__(self, counts: dict[str, int]) -> None:
        now = time.monotonic()
        done, total = counts["completed"] + counts["failed"], counts["total"]
        if self.first is None:
            self.first = done
        if now - self.last < 15 or done == self.first:
            return
        self.last = now
        left = (now - self.began) / (done - self.first) * (total - done)
        self.say(f"  {done} of {total} documents, about {left:.0f} s left")


def show_answer(response: dict[str, Any], say: Say) -> None:
    """Print an answer with its citations."""
    for item in response["output"]:
        if item["type"] != "message":
            continue
        for part in item["content"]:
            say("\n" + part["text"].strip() + "\n")
            for number, note in enumerate(part.get("annotations", []), 1):
                where = note.get("section") or ""
                if note.get("page"):
                    where = f"page {note['page']}"
                say(f"  [{number}] {note['filename']}" + (f" · {where}" if where else ""))
                if note.get("quote"):
                    say(f'      "{" ".join(note["quote"].split())}"')
