"""Whether the gateway stays as it is: memory and open files over half a million mixed calls.

A real ``ostiary serve`` with retrieval, audit, limits, cost, drift, a reply cache and a shadow that
gets copies of calls, before the stub model server. Callers send chats, streams, streams that they
leave, responses, moderations, embeddings, searches and bad requests. Resident memory and open
descriptors are read every few seconds; the slope is a line through the last two thirds.

    python -m benchmarks.soak                # 500,000 calls or an hour, whichever is first
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import uvloop

from benchmarks import rig
from benchmarks.load import TEMPLATE
from benchmarks.report import table

CLIENTS = 32
SAMPLE_S = 5.0
PLAN = {  # of a thousand calls
    "chat": 470,
    "stream": 250,
    "stream left": 50,
    "response": 90,
    "moderation": 50,
    "embedding": 20,
    "search": 20,
    "bad request": 50,
}
DOCUMENT = (
    "# Travel\n\nStaff book trains through the portal. A trip of more than three hours may be "
    "first class. Receipts are handed in within thirty days.\n"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gateway's process holds at a moment."""

    at_s: float
    calls: int
    rss_mb: float
    descriptors: int
    threads: int


class Load:
    """Callers that never pause."""

    def __init__(self, gateway: rig.Server, most: int, most_s: float) -> None:
        self._url, self.most, self._until = gateway.url, most, time.monotonic() + most_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"authorization": f"Bearer {gateway.key}"},
        )
        self._chance = random.Random(0)
        self.calls, self.wrong = 0, Counter[str]()
        self.kinds: Counter[str] = Counter()
        self.store = ""
        self._work: dict[str, Callable[[str], Awaitable[int]]] = {
            "chat": lambda text: self._post("chat/completions", chat(text)),
            "stream": lambda text: self._stream(text, None),
            "stream left": lambda text: self._stream(text, 2),
            "response": lambda text: self._post("responses", {"model": "stub", "input": text}),
            "moderation": lambda text: self._post("moderations", {"input": text}),
            "embedding": lambda text: self._post(
                "embeddings", {"model": "bge-small-en", "input": text[:60]}
            ),
            "search": lambda text: self._post(
                f"vector_stores/{self.store}/search", {"query": text[:60]}
            ),
            "bad request": lambda text: self._post("chat/completions", {"model": "stub"}),
        }

    async def prepare(self, shadow: str) -> None:
        """A store with a document, a cache, and a shadow of the model."""
        form = aiohttp.FormData()
        form.add_field("purpose", "assistants")
        form.add_field("file", DOCUMENT.encode(), filename="travel.md")
        async with self._session.post(f"{self._url}/v1/files", data=form) as response:
            file = (await response.json())["id"]
        body = {"name": "soak", "file_ids": [file]}
        async with self._session.post(f"{self._url}/v1/vector_stores", json=body) as response:
            self.store = (await response.json())["id"]
        added = {"model": "stub", "url": f"{shadow}/v1", "role": "shadow"}
        await self._post("admin/deployments", added, 201)
        changed = {"cache": {"ttl_s": 60.0}, "rollout": {"shadow_share": 0.02}}
        async with self._session.put(f"{self._url}/v1/admin/models/stub", json=changed) as response:
            assert response.status == 200, await response.text()

    async def run(self) -> None:
        """Call until there were enough, or the time is over."""
        await asyncio.gather(*(self._call_on() for _ in range(CLIENTS)))

    async def _call_on(self) -> None:
        kinds, weights = list(PLAN), list(PLAN.values())
        while self.calls < self.most and time.monotonic() < self._until:
            self.calls += 1
            (kind,) = self._chance.choices(kinds, weights)
            # one in ten was asked before, so that the cache answers
            number = self.calls if self._chance.random() < 0.9 else self.calls // 50 * 50
            status = await self._work[kind](TEMPLATE.replace("@@@@@@", f"{number:06d}"))
            self.kinds[kind] += 1
            if status != (400 if kind == "bad request" else 200):
                self.wrong[f"{kind}: {status}"] += 1

    async def _post(self, path: str, body: Any, wanted: int = 200) -> int:
        async with self._session.post(f"{self._url}/v1/{path}", json=body) as response:
            await response.read()
            assert wanted == 200 or response.status == wanted
            return response.status

    async def _stream(self, text: str, leave_after: int | None) -> int:
        body = {**chat(text), "stream": True, "stream_options": {"include_usage": True}}
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            lines = 0
            async for _ in response.content:
                lines += 1
                if lines == leave_after:
                    response.close()
                    break
            return response.status

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def chat(text: str) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": "stub", "messages": [{"role": "user", "content": text}]}


async def measure(gateway: rig.Server, stub: str, calls: int, seconds: float) -> dict[str, Any]:
    """Put the load on and read the process meanwhile."""
    process = psutil.Process(gateway.pid)
    load = Load(gateway, calls, seconds)
    readings: list[Reading] = []
    began = time.monotonic()

    def read() -> None:
        with process.oneshot():
            readings.append(
                Reading(
                    round(time.monotonic() - began, 1),
                    load.calls,
                    round(process.memory_info().rss / 2**20, 1),
                    process.num_fds(),
                    process.num_threads(),
                )
            )

    async def keep_reading() -> None:
        while True:
            read()
            if len(readings) % 12 == 0:
                print(readings[-1], file=sys.stderr, flush=True)
            await asyncio.sleep(SAMPLE_S)

    try:
        await load.prepare(stub)
        reading = asyncio.create_task(keep_reading())
        await load.run()
        reading.cancel()
        took = time.monotonic() - began
    finally:
        await load.close()
    await asyncio.sleep(10)  # kept connections are closed, streams that were left are settled
    read()
    return {
        "calls": load.calls,
        "seconds": round(took, 1),
        "rps": round(load.calls / took, 1),
        "kinds": dict(load.kinds),
        "wrong": dict(load.wrong),
        "after": asdict(readings[-1]),
        "memory": slope(readings[:-1]),
        "readings": [asdict(r) for r in readings],
    }


def slope(readings: list[Reading]) -> dict[str, Any]:
    """A line through the last two thirds of the readings.

    The interval is of the slopes between halves of blocks, since neighbouring readings are alike.
    """
    late = readings[len(readings) // 3 :]
    calls = np.array([r.calls for r in late], dtype=np.float64)
    rss = np.array([r.rss_mb for r in late])
    fds = np.array([r.descriptors for r in late])
    per_call, start = np.polyfit(calls, rss, 1)
    return {
        "mib_per_100k_calls": round(float(per_call) * 1e5, 3),
        "mib_at_begin": round(float(start + per_call * calls[0]), 1),
        "mib_at_end": round(float(start + per_call * calls[-1]), 1),
        "mib_median_of_thirds": [
            round(float(np.median(part)), 1)
            for part in np.array_split(np.array([r.rss_mb for r in readings]), 3)
        ],
        "descriptors_per_100k_calls": round(float(np.polyfit(calls, fds, 1)[0]) * 1e5, 3),
        "descriptors_most": int(fds.max()),
    }


def run(folder: Path, calls: int, seconds: float) -> dict[str, Any]:
    """Start what is measured, and measure."""
    rig.allow_open_files()
    with ExitStack() as stack:
        stub: rig.Server = stack.enter_context(rig.stub(folder / "stub"))
        env = {
            **rig.LIMITS,
            "OSTIARY_LLM_URL": f"{stub.url}/v1",
            "OSTIARY_LLM_MODEL": "stub",
            "OSTIARY_CACHE_MB": "8",
            "OSTIARY_LOG_LEVEL": "error",
        }
        gateway: rig.Server = stack.enter_context(rig.gateway("ours", folder / "ours", env))
        found = uvloop.run(measure(gateway, stub.url, calls, seconds))
        found["database_mib"] = round(
            sum(p.stat().st_size for p in (folder / "ours").rglob("*.db*")) / 2**20, 1
        )
    return {
        "machine": rig.machine(),
        "versions": rig.versions("onnxruntime", "sqlalchemy"),
        "clients": CLIENTS,
        **found,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    memory, machine = result["memory"], result["machine"]
    first, after = result["readings"][0], result["after"]
    minutes = result["seconds"] / 60
    rows = [
        ["resident memory at the start, MiB", first["rss_mb"]],
        ["median of the first, second, last third", str(memory["mib_median_of_thirds"])],
        ["slope of the last two thirds, MiB a 100,000 calls", memory["mib_per_100k_calls"]],
        ["ten seconds after the end", after["rss_mb"]],
        ["open descriptors, most", memory["descriptors_most"]],
        ["their slope, a 100,000 calls", memory["descriptors_per_100k_calls"]],
        [
            "open descriptors ten seconds after the end (at the start)",
            f"{after['descriptors']} ({first['descriptors']})",
        ],
        ["threads after the end", after["threads"]],
        ["answered other than they should", sum(result["wrong"].values())],
    ]
    return "\n".join(
        [
            "# Half a million calls",
            "",
            f"{result['calls']:,} calls in {minutes:.1f} minutes ({result['rps']:.0f}/s, "
            f"{result['clients']} callers) on {machine['cpu']}, {machine['cores']} cores; "
            f"kinds: {result['kinds']}.",
            "",
            table(["figure", "value"], rows),
            f"The database, which keeps an audit record of each call, grew to "
            f"{result['database_mib']:,} MiB on disk.",
            "",
            "![memory](soak.png)",
            "",
        ]
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Memory and descriptors by calls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    readings = result["readings"]
    calls = [r["calls"] for r in readings]
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 5.5), sharex=True, layout="constrained")
    upper.plot(calls, [r["rss_mb"] for r in readings], color="#0072b2")
    upper.set(ylabel="resident memory, MiB", ylim=(0, None))
    lower.plot(calls, [r["descriptors"] for r in readings], color="#e69f00")
    lower.set(ylabel="open descriptors", xlabel="calls", ylim=(0, None))
    for axes in (upper, lower):
        axes.grid(True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Read the command line, measure, and write JSON, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    result = rig.in_scratch(lambda folder: run(folder, given.calls, given.seconds))
    rig.write_result("soak", result, as_markdown(result))
    plot(result, rig.RESULTS / "soak.png")
    print(as_markdown(result))


if __name__ == "__main__":
    main()
