"""How well a running gateway's search finds judged passages, measured over its REST API."""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.client import ApiError, Client
from app.errors import BadRequest, NotFound
from app.retrieval.quality.judged import JudgedQuery, load, load_documents
from app.retrieval.quality.matching import Returned
from app.retrieval.quality.report import as_html, as_text
from app.retrieval.quality.score import Measured, Row, as_dict, compare_measured, row_of

DEPTH = 20
SHIPPED = Path(__file__).parent / "samples" / "judged"
_OWN = ("query", "name")  # of a search body, what a configuration must not or need not set
_WARM_UP = "a first search that is not counted"
_BUSY_S, _BUSY_TIMES = 1.0, 120  # when the gateway's rate limit refuses a call


@dataclass(frozen=True, slots=True)
class Configuration:
    """A name and the options of a search body, everything but the query."""

    name: str = "default"
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many results each search asks for."""
        return int(self.body.get("max_num_results", DEPTH))


def load_configuration(path: Path | None) -> Configuration:
    """Read a search configuration from a TOML file; the gateway's own where there is none.

    Raises:
        BadRequest: the file cannot be read, is not TOML, or sets the query.
    """
    if path is None:
        return Configuration()
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"'{path.name}' cannot be read. Check the path.") from error
    except ValueError as error:
        raise BadRequest(f"'{path.name}' is not TOML: {error}.") from error
    if "query" in body:
        raise BadRequest(f"'{path.name}' sets 'query'; queries come from the judged set.")
    depth = body.get("max_num_results", DEPTH)
    if not isinstance(depth, int) or isinstance(depth, bool) or not 1 <= depth <= 50:
        raise BadRequest(f"'{path.name}' sets max_num_results to {depth!r}; give 1 to 50.")
    name = str(body.get("name") or path.stem)
    return Configuration(name, {k: v for k, v in body.items() if k not in _OWN})


async def measure(
    client: Client,
    store_id: str,
    queries: Sequence[JudgedQuery],
    configurations: Sequence[Configuration],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Search for every query with every configuration, one search at a time.

    The configurations take turns on each query, and who begins alternates, so that a machine
    which gets slower or a cache that gets warmer favours none of them.

    Raises:
        ApiError: the very first search is refused: the store, the key or an option is wrong.
        aiohttp.ClientError: the gateway does not answer.
    """
    for configuration in configurations:
        await search(client, store_id, _WARM_UP, configuration)
    rows: list[list[Row]] = [[] for _ in configurations]
    for number, query in enumerate(queries):
        turn = list(range(len(configurations)))
        for which in turn if number % 2 == 0 else reversed(turn):
            rows[which].append(await _asked(client, store_id, query, configurations[which]))
        progress(number + 1)
    return [Measured(c.name, tuple(r)) for c, r in zip(configurations, rows, strict=True)]


async def _asked(
    client: Client, store_id: str, query: JudgedQuery, configuration: Configuration
) -> Row:
    for _ in range(_BUSY_TIMES):
        began = time.perf_counter()
        try:
            found = await search(client, store_id, query.text, configuration)
        except ApiError as refused:
            if refused.status == 429:
                await asyncio.sleep(_BUSY_S)
                continue
            return row_of(query, (), configuration.depth, error=str(refused))
        ms = (time.perf_counter() - began) * 1e3
        return row_of(query, found, configuration.depth, ms)
    return row_of(query, (), configuration.depth, error="The rate limit refused every call.")


async def search(
    client: Client, store_id: str, text: str, configuration: Configuration
) -> list[Returned]:
    """One search; the results as the gateway returns them, best first.

    Raises:
        ApiError: the gateway refused.
    """
    body = {"max_num_results": DEPTH, **configuration.body, "query": text}
    page = await client.call("POST", f"v1/vector_stores/{store_id}/search", body)
    return [
        Returned(str(hit["filename"]), "\n".join(part["text"] for part in hit["content"]))
        for hit in page["data"]
    ]


def find_judged(path: Path) -> Path:
    """The path itself, or the shipped set of that name (``django``, ``cwe``, ``postgresql``)."""
    shipped = SHIPPED / f"{path}.jsonl"
    return shipped if not path.exists() and shipped.is_file() else path


def unpack(judged: Path, folder: Path) -> int:
    """Write the documents of a BEIR or Cranfield set as ``<id>.txt``; returns how many.

    Raises:
        BadRequest: there are no documents, or an id cannot be a file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for document in load_documents(judged):
        name = f"{document.id}.txt"
        if Path(name).name != name or "\0" in name or len(name.encode()) > 255:
            raise BadRequest(f"The document id '{document.id[:80]}' cannot name a file.")
        text = "\n\n".join(part for part in (document.title, document.text) if part)
        if text.strip():  # the gateway refuses files without text
            (folder / name).write_text(text + "\n", encoding="utf-8")
            written += 1
    return written


async def run(
    client: Client,
    store: str,
    judged: Path,
    config: Path | None,
    other: Path | None,
    out: Path | None,
    say: Callable[[str], None],
) -> list[Measured]:
    """Measure one configuration, or two against each other; print a table, write a report.

    Args:
        store: the id or the name of a vector store.
        judged: as `find_judged` takes it.
        out: ends in ``.html`` for a page, in ``.json`` for every number.

    Raises:
        BadRequest: a file is missing or malformed.
        NotFound: there is no store of that name.
        ApiError: the gateway refused the first search.
        aiohttp.ClientError: the gateway does not answer.
    """
    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise BadRequest(f"'{out.name}' is neither .html nor .json; give one of them.")
    judged = find_judged(judged)
    queries = load(judged)
    configurations = [load_configuration(config)]
    if other is not None:
        configurations.append(load_configuration(other))
        if configurations[0].name == configurations[1].name:
            raise BadRequest("Both configurations have one name; set `name` in one of them.")
    say(f"Asking {len(queries)} judged questions, {len(configurations)} searches each.")

    def progress(done: int) -> None:
        if done % 50 == 0 and done < len(queries):
            say(f"  {done} of {len(queries)}")

    async with client:
        store_id = await client.store_id(store)
        if store_id is None:
            raise NotFound("vector store", store, remedy="Ingest files into it first.")
        measured = await measure(client, store_id, queries, configurations, progress)
    say(as_text(measured))
    if out is not None:
        bodies = {c.name: {"max_num_results": DEPTH, **c.body} for c in configurations}
        page = (
            as_html(measured, judged.name, bodies)
            if out.suffix.lower() == ".html"
            else _json(measured, judged.name, bodies)
        )
        await asyncio.to_thread(out.write_text, page, "utf-8")
        say(f"Report: {out}")
    return measured


def _json(measured: Sequence[Measured], judged: str, bodies: dict[str, Any]) -> str:
    result: dict[str, Any] = {
        "judged": judged,
        "searches": bodies,
        "measured": [as_dict(m) for m in measured],
    }
    if len(measured) == 2:
        found = compare_measured(*measured)
        result["comparison"] = {name: asdict(c) for name, c in found.items()}
    return json.dumps(result, ensure_ascii=False, indent=1) + "\n"
