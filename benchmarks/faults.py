"""What goes wrong between caller, gateway and model server: seen, charged and recorded.

First each fault alone, whole and streamed: what the caller saw, what was charged, what the audit
says. Then many mixed calls at once, before two servers of which one answers 500 to every tenth
call whatever it is, while the wall clock jumps by an hour back and forth (libfaketime). At the end
every call is compared with its audit record and with what the servers say they sent: none lost,
none doubled, none charged other than as seen.

    python -m benchmarks.faults              # 10,000 mixed calls, some three minutes
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from app.llm.token_estimate import estimate_prompt
from benchmarks import rig
from benchmarks.faulty_model_server import FAULTS, PAUSE_S, PROMPT_TOKENS, WORDS

MODEL = "m"
CLIENTS = 32
SILENCE_S = 1.0  # that the gateway bears of a server
PRICES = {
    "OSTIARY_PRICE_PROMPT_USD_PER_MTOK": "0.10",
    "OSTIARY_PRICE_COMPLETION_USD_PER_MTOK": "0.40",
}
NANO_PROMPT, NANO_COMPLETION = 100, 400
FAULTS_SHARE = 0.3  # of the mixed calls
JUMPS = ("+0", "+1h", "-1h", "+26h")
JUMP_EVERY_S = 2.0


@dataclass(slots=True)
class Seen:
    """What the caller of one call saw.

    ``end`` is ``whole``, ``done`` (of a stream), ``error`` or ``left`` (the caller went away).
    """

    id: str
    fault: str
    streamed: bool
    status: int = 0
    chunks: int = 0
    usage: dict[str, Any] | None = None
    code: str | None = None
    end: str = "error"
    text: list[str] = field(default_factory=list)

    def told(self) -> str:
        """In words."""
        if self.end == "left":
            return f"went away after {self.chunks} words" if self.chunks else "went away"
        if self.end == "error":
            after = f" after {self.chunks} words" if self.chunks else ""
            return f"{self.status} `{self.code}`{after}"
        return f"{self.status}, the whole answer"


class Caller:
    """Calls the gateway as an application does."""

    def __init__(self, gateway: rig.Server) -> None:
        self._url = gateway.url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"authorization": f"Bearer {gateway.key}"},
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, path: str, server: rig.Server | None = None) -> Any:
        """A reply of the gateway's own, or of a server."""
        url = self._url if server is None else server.url
        async with self._session.get(url + path) as response:
            return orjson.loads(await response.read())

    async def until(self, path: str, is_so: Callable[[Any], bool]) -> Any:
        """The reply, once it is so."""
        async with asyncio.timeout(30):
            while True:
                found = await self.get(path)
                if is_so(found):
                    return found
                await asyncio.sleep(0.05)

    async def post(self, path: str, body: Any) -> None:
        """Change something of the gateway."""
        async with self._session.post(self._url + path, json=body) as response:
            assert response.status == 201, await response.text()

    async def call(self, name: str, fault: str, streamed: bool, model: str = MODEL) -> Seen:
        """One chat that goes wrong as asked."""
        seen = Seen(name, fault, streamed)
        body = {**request_of(name), "fault": fault, "model": model}
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        patience = 3.5 * PAUSE_S if fault == "client leaves" and not streamed else 60.0
        try:
            async with (
                asyncio.timeout(patience),
                self._session.post(
                    self._url + "/v1/chat/completions", json=body, headers={"x-request-id": name}
                ) as response,
            ):
                seen.status = response.status
                if response.status != 200:
                    seen.code = orjson.loads(await response.read())["error"]["code"]
                elif streamed:
                    await self._read(response, seen)
                else:
                    seen.usage, seen.end = orjson.loads(await response.read())["usage"], "whole"
        except TimeoutError:
            seen.end = "left"
        return seen

    async def _read(self, response: aiohttp.ClientResponse, seen: Seen) -> None:
        async for line in response.content:
            data = line.removeprefix(b"data: ").strip()
            if not data:
                continue
            if data == b"[DONE]":
                seen.end = "done"
                return
            chunk = orjson.loads(data)
            if "error" in chunk:
                seen.code = chunk["error"]["code"]
                return
            seen.usage = chunk.get("usage") or seen.usage
            for choice in chunk["choices"]:
                seen.chunks += bool((choice.get("delta") or {}).get("content"))
            if seen.fault == "client leaves" and seen.chunks >= 2:
                response.close()
                seen.end = "left"
                return


def request_of(name: str) -> dict[str, Any]:
    """The request of a call; its name is the prompt, by which servers tell calls apart."""
    return {"model": MODEL, "messages": [{"role": "user", "content": name}]}


def faulty(folder: Path, name: str, fail_share: float) -> Any:
    """A model server that fails as asked."""
    port = rig.free_port()
    command = ["benchmarks.faulty_model_server", "--port", str(port)]
    command += ["--fail-share", str(fail_share)]
    return rig.running(name, command, port=port, ready="/health", env={}, folder=folder)


def faketime() -> Path | None:
    """The library that lets the wall clock of a process jump, where it is installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


@contextlib.contextmanager
def house(folder: Path) -> Iterator[tuple[rig.Server, list[rig.Server], Path | None]]:
    """The gateway, its two model servers, and the file that sets its clock."""
    clock, env = None, {**rig.LIMITS, **PRICES}
    library = faketime()
    if library is not None:
        clock = folder / "clock"
        clock.write_text("+0")
        env |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    with ExitStack() as stack:
        servers = [
            stack.enter_context(faulty(folder / name, name, share))
            for name, share in (("first", 0.0), ("second", 0.1))
        ]
        env |= {
            "OSTIARY_LLM_URL": f"{servers[0].url}/v1",
            "OSTIARY_LLM_MODEL": MODEL,
            "OSTIARY_LLM_TIMEOUT_S": str(SILENCE_S),
            "OSTIARY_EMBEDDED_RETRIEVAL": "false",
            "OSTIARY_LOG_LEVEL": "error",
        }
        gateway = stack.enter_context(rig.gateway("ours", folder / "ours", env))
        yield gateway, servers, clock


async def records(caller: Caller, prefix: str) -> list[dict[str, Any]]:
    """The audit records of the calls whose names begin so, read page by page."""
    found, after = list[dict[str, Any]](), ""
    while True:
        page = await caller.get(f"/v1/audit?limit=1000{after}")
        found += [r for r in page["data"] if r["request_id"].startswith(prefix)]
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


async def record_of(caller: Caller, name: str) -> dict[str, Any]:
    """The audit record of a call, once it is there: a caller that left does not wait for it."""
    page = await caller.until(f"/v1/audit?request_id={name}", lambda page: bool(page["data"]))
    return dict(page["data"][0])


async def nobody(caller: Caller) -> dict[str, Any]:
    """A model at whose address nobody listens."""
    url = f"http://127.0.0.1:{rig.free_port()}/v1"
    await caller.post("/v1/admin/deployments", {"model": "nobody", "url": url})
    seen = await caller.call("alone-refused", "none", False, model="nobody")
    return _row("connection refused", False, seen, await record_of(caller, seen.id))


async def alone(caller: Caller) -> list[dict[str, Any]]:
    """Each fault by itself: the rows of the table."""
    rows = []
    for fault in FAULTS:
        for streamed in (False, True):
            name = f"alone-{fault.replace(' ', '-')}-{'stream' if streamed else 'whole'}"
            await caller.until("/v1/admin/models", _all_ready)
            seen = await caller.call(name, fault, streamed)
            record = await record_of(caller, name)
            rows.append(_row(fault, streamed, seen, record))
    return rows


def _all_ready(models: Any) -> bool:
    """Whether the faulty servers have been looked at since they failed."""
    (faulty_,) = (m for m in models["data"] if m["model"] == MODEL)
    return all(d["state"] == "ready" for d in faulty_["deployments"])


def _row(fault: str, streamed: bool, seen: Seen, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "fault": fault,
        "call": "stream" if streamed else "whole",
        "seen": seen.told(),
        "charged_tokens": [record["prompt_tokens"], record["completion_tokens"]],
        "charged_nano_usd": record["cost_nano_usd"],
        "estimated": record["lineage"].get("usage") == "estimated",
        "audit": {k: record[k] for k in ("status", "outcome", "error_code")},
        "servers_tried": len(record["lineage"].get("failed_deployments", ()))
        + ("deployment" in record["lineage"] and seen.end != "error"),
    }


async def mixed(caller: Caller, calls: int, seed: int, clock: Path | None) -> list[Seen]:
    """Many calls at once, of which some go wrong, while the clock jumps."""
    chance = random.Random(seed)
    plan = iter(
        [
            (
                f"mixed-{number}",
                chance.choice(FAULTS[1:]) if chance.random() < FAULTS_SHARE else "none",
                chance.random() < 0.5,
            )
            for number in range(calls)
        ]
    )
    seen: list[Seen] = []

    async def work() -> None:
        for name, fault, streamed in plan:
            seen.append(await caller.call(name, fault, streamed))

    async with _jumping(clock, seed):
        await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return seen


@contextlib.asynccontextmanager
async def _jumping(clock: Path | None, seed: int) -> AsyncIterator[None]:
    async def jump() -> None:
        chance = random.Random(seed + 1)
        while clock is not None:
            await asyncio.sleep(JUMP_EVERY_S)
            clock.write_text(chance.choice(JUMPS))

    jumping = asyncio.create_task(jump())
    try:
        yield
    finally:
        jumping.cancel()
        if clock is not None:
            clock.write_text("+0")


def wrongs(
    seen: list[Seen], found: list[dict[str, Any]], sent: Counter[str]
) -> list[tuple[str, str]]:
    """Each call whose record is missing, doubled, or other than what was seen and sent."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        by_id.setdefault(record["request_id"], []).append(record)
    bad = []
    for call in seen:
        kept = by_id.pop(call.id, [])
        if len(kept) != 1:
            bad.append((call.id, f"{len(kept)} records"))
        else:
            why = _wrong(call, kept[0], sent[call.id])
            if why:
                bad.append((call.id, f"{call.fault}, {why}: {call.told()}, {kept[0]}"))
    return bad + [(name, "a record of a call that was not made") for name in by_id]


def _wrong(call: Seen, record: dict[str, Any], sent: int) -> str | None:
    prompt, completion = record["prompt_tokens"], record["completion_tokens"]
    if record["cost_nano_usd"] != NANO_PROMPT * prompt + NANO_COMPLETION * completion:
        return "the cost is not that of the tokens"
    if call.end in ("whole", "done"):
        usage = call.usage or {}
        if (usage.get("prompt_tokens"), usage.get("completion_tokens")) != (prompt, completion):
            return "charged other than the usage that the caller was told"
        if record["status"] != 200:
            return "recorded as a failure"
        return None if sent >= 1 else "no server sent it"
    begun = estimate_prompt(request_of(call.id))
    if call.end == "error" and not call.chunks and call.status != 200:
        if record["status"] != call.status or record["error_code"] != call.code:
            return "recorded as another error"
        return "charged without an answer" if prompt or completion else None
    if prompt not in (0, begun, PROMPT_TOKENS):  # it may be over before anybody sees him leave
        return "another prompt was charged"
    words = sent if call.streamed else sent * len(WORDS)  # a whole answer is sent at once
    if not call.chunks <= completion <= words:
        return f"{completion} words charged, {words} sent"
    return None


async def run(folder: Path, calls: int, seed: int = 0) -> dict[str, Any]:
    """Measure; the result has ``table`` and ``mixed``."""
    with house(folder) as (gateway, servers, clock):
        caller = Caller(gateway)
        try:
            second = {"model": MODEL, "url": f"{servers[1].url}/v1"}
            await caller.post("/v1/admin/deployments", second)
            table = [await nobody(caller), *await alone(caller)]
            say("each fault alone: done")
            seen = await mixed(caller, calls, seed, clock)
            for call in seen:
                if call.end == "left":  # nobody waited for its record
                    await record_of(caller, call.id)
            found = await records(caller, "mixed-")
            sent: Counter[str] = Counter()
            for server in servers:
                sent.update(await caller.get("/sent", server))
            usage = await caller.get("/v1/usage?group_by=model&days=3")
            everything = await records(caller, "")
            verdict = await caller.get("/v1/audit/verify")
        finally:
            await caller.close()
    bad = wrongs(seen, found, sent)
    total = sum(r["cost_nano_usd"] for r in everything)
    told = sum(row["cost_usd"] for row in usage["data"])
    return {
        "machine": rig.machine(),
        "versions": rig.versions(),
        "words_an_answer": len(WORDS),
        "table": table,
        "mixed": {
            "calls": len(seen),
            "seed": seed,
            "clients": CLIENTS,
            "clock_jumps": clock is not None,
            "ends": dict(Counter(f"{s.end} {s.status or ''}".strip() for s in seen)),
            "faults": dict(Counter(s.fault for s in seen)),
            "faultless": sum(s.fault == "none" for s in seen),
            "faultless_failed": sum(s.fault == "none" and s.end == "error" for s in seen),
            "records": len(found),
            "wrong": bad[:20],
            "wrong_count": len(bad),
            "usage_is_the_records_sum": abs(told - total / 1e9) < 1e-12 * max(1, len(everything)),
            "chain_valid": verdict["valid"],
        },
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The tables."""
    mixed_ = result["mixed"]
    lines = [
        "# Faults: what the caller saw, what was charged, what the audit says",
        "",
        f"An answer has {result['words_an_answer']} words of a token each and a prompt of 20 "
        "tokens, as the server tells; two servers fail the same way. Tokens are prompt + "
        "completion; `~` marks those that are estimated or counted, since no server told them.",
        "",
        "| fault | call | the caller saw | charged | audit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["table"]:
        prompt, completion = row["charged_tokens"]
        audit = row["audit"]
        lines.append(
            f"| {row['fault']} | {row['call']} | {row['seen']} | "
            f"{'~' if row['estimated'] else ''}{prompt} + {completion} | "
            f"{audit['status']} {audit['outcome']}"
            f"{' `' + audit['error_code'] + '`' if audit['error_code'] else ''} |"
        )
    jumps = "the wall clock jumping by hours" if mixed_["clock_jumps"] else "no clock jumps"
    lines += [
        "",
        f"## {mixed_['calls']:,} mixed calls",
        "",
        f"{mixed_['clients']} callers at once, {jumps}, one server answering 500 to a tenth of "
        "all calls.",
        "",
        f"- How they ended: {json.dumps(mixed_['ends'])}",
        f"- Of the {mixed_['faultless']:,} that asked for no fault {mixed_['faultless_failed']:,} "
        "failed: a server that broke off is left alone until it was looked at, and of two both "
        "were, or the retries were spent.",
        f"- Audit records of them: {mixed_['records']:,}; the chain is "
        f"{'valid' if mixed_['chain_valid'] else 'BROKEN'}.",
        f"- Lost, doubled, or charged other than seen and sent: **{mixed_['wrong_count']}**.",
        f"- The usage report is the sum of the records: {mixed_['usage_is_the_records_sum']}.",
        "",
    ]
    return "\n".join(lines)


def say(line: str) -> None:
    """Progress, apart from the figures."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, measure, and write JSON and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=10_000)
    given = parser.parse_args()
    result = rig.in_scratch(lambda folder: asyncio.run(run(folder, given.calls)))
    table = as_markdown(result)
    rig.write_result("faults", result, table)
    print(table)
    if result["mixed"]["wrong_count"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
