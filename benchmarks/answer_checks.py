"""How well denied topics are found, and how well sentences are told from what passages do not say.

    python -m benchmarks.answer_checks

The sets are `benchmarks/checked/{topics,grounded}.json`, written for this, each in two halves: the
weights and the threshold of topics were chosen on the dev half and on five more topics
(`topics_tuning.json`), the weights of groundedness on the dev half alone. A topic is
denied where its score reaches the default threshold; the harmless sentences look like the topic,
and those of the other topics should not be found either. A sentence of an answer is kept where
its score is 0.5 or more; the false ones change a number, a name or who does what, deny, or invent.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.guardrails.demands import Topic
from app.guardrails.topics import Topics
from app.llm.citations import cite
from app.llm.groundedness import Groundedness
from app.pools import Pool
from app.retrieval.embedding import (
    CrossEncoder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)
from app.retrieval.types import Passage
from benchmarks.report import table

SETS = Path(__file__).parent / "checked"
SPLITS = ("dev", "held")
KEPT_FROM = 0.5


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads((SETS / f"{name}.json").read_text()))


async def topic_rates(topics: Topics) -> list[tuple[str, str, str, str]]:
    """Of each half: how many sentences on, near and beside each topic are found."""
    rows = await _rates(topics, _read("topics_tuning"), ["tuning"])
    return rows + await _rates(topics, _read("topics"), SPLITS)


async def _rates(
    topics: Topics, told: dict[str, Any], splits: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    wanted = {
        name: Topic(name=name, examples=t["examples"], allowed=t["allowed"], output="block")
        for name, t in told.items()
    }

    async def found(topic: Topic, texts: Sequence[str]) -> int:
        return sum([bool(await topics.find([topic], text)) for text in texts])

    rows = []
    for split in splits:
        hits, alarms, others, beside = 0, 0, 0, 0
        for name, topic in wanted.items():
            hits += await found(topic, told[name][split]["denied"])
            alarms += await found(topic, told[name][split]["harmless"])
            rest = [
                text
                for other in told
                if other != name
                for text in (*told[other][split]["denied"], *told[other][split]["harmless"])
            ]
            others += len(rest)
            beside += await found(topic, rest)
        of = sum(len(t[split]["denied"]) for t in told.values())
        near = sum(len(t[split]["harmless"]) for t in told.values())
        rows.append((split, _share(hits, of), _share(alarms, near), _share(beside, others)))
    return rows


async def grounded_rates(judge: Groundedness) -> list[tuple[str, str, str, str, str]]:
    """Of each half: true sentences kept and false ones caught, alone and behind the citations."""
    rows = []
    for split, cases in _read("grounded").items():
        scores: dict[str, list[tuple[float, bool]]] = {"true": [], "false": []}
        for number, case in enumerate(cases):
            passage = _passage(number, case["passage"])
            for kind, of in scores.items():
                for sentence in case[kind]:
                    cited = cite(sentence, [passage]) is not None
                    of.append((await judge.score(sentence, passage), cited))
        row = [split]
        for both in (False, True):
            for kind, of in scores.items():
                kept = sum(score >= KEPT_FROM and (cited or not both) for score, cited in of)
                row.append(_share(kept if kind == "true" else len(of) - kept, len(of)))
        rows.append((row[0], row[1], row[2], row[3], row[4]))
    return rows


def _passage(number: int, text: str) -> Passage:
    return Passage(f"p{number}", "file-1", "a.md", number, text, None, None, {})


def _share(part: int, of: int) -> str:
    return f"{part} of {of} ({100 * part / of:.0f} %)"


async def measure() -> str:
    """Both tables, as Markdown."""
    embedder = OnnxEmbedder(packaged_bge_dir(), 2)
    scorer = CrossEncoder(packaged_reranker_dir(), 2)
    pool = Pool("judge", 1)
    executor = ThreadPoolExecutor(1)

    async def embed(texts: Sequence[str]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, embedder.encode_passages, texts)

    topics = Topics(lambda: embed)
    try:
        of_topics = await topic_rates(topics)
        grounds = await grounded_rates(Groundedness(scorer, topics.vectors, pool))
    finally:
        pool.close()
        executor.shutdown()
    head = ("half", "true kept", "false caught", "true kept, cited", "false caught, cited")
    return "\n\n".join(
        [
            "## Denied topics",
            table(("half", "on the topic", "look-alikes", "other topics"), of_topics),
            "## Groundedness",
            table(head, grounds),
        ]
    )


def main() -> None:
    """Print the tables."""
    sys.stdout.write(asyncio.run(measure()) + "\n")


if __name__ == "__main__":
    main()
