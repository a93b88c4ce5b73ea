"""One search: find by vectors and by words, fuse, and read what SQL says is live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, bindparam, select

from app.errors import BadRequest, Unavailable
from app.gateway.call import Call, Principal
from app.monitoring.language import language_of
from app.monitoring.stages import stage
from app.pools import Pool
from app.retrieval.access import access_list, sees
from app.retrieval.analysis import names
from app.retrieval.collections import VectorStore, VectorStores, passage_of
from app.retrieval.diversity import diversify, drop_near_duplicates, word_likeness
from app.retrieval.engines.base import AllBut, Files
from app.retrieval.expansion import Window, widen
from app.retrieval.filters import Predicate, compile_filter
from app.retrieval.fusion import reciprocal_rank, weighted_sum
from app.retrieval.index import BuildChanged, StoreIndex
from app.retrieval.rankers import Rankers
from app.retrieval.types import (
    DEFAULT_RANKING,
    AttributeValue,
    Candidate,
    Hit,
    Passage,
    Ranker,
    Ranking,
)
from app.retrieval.visible import Row
from app.store.db import Database
from app.store.models import passages, vector_store_files

# bge-small cosines of unrelated texts lie near 0.4, of paraphrases near 0.9
COSINE_LOW, COSINE_HIGH = 0.4, 0.9
WIDE = 4  # times k are fused, 50 at least
LEAST_WIDE = 50
NAMED_DENSE = 0.4  # weight of the vectors where the query names an identifier
SWITCHES = 5  # of a store's index that one search follows
ANEW = 3  # times that one search begins again because files were replaced
RERANKED = 20  # best of the first stage that a ranker reads


_P, _F = passages.c, vector_store_files.c
_PASSAGES = select(passages, _F.access).join(
    vector_store_files,
    (_F.vector_store_id == _P.vector_store_id) & (_F.file_id == _P.file_id),
)
_BY_NUMBER = _PASSAGES.where(_P.number.in_(bindparam("numbers", expanding=True)))
_IN_FILE = _PASSAGES.where(
    _P.vector_store_id == bindparam("store"),
    _P.file_id == bindparam("file"),
    _P.ordinal.between(bindparam("first"), bindparam("last")),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A passage number with its fused score and what each side gave."""

    number: int
    score: float
    dense: float | None
    lexical: float | None


def find(
    index: StoreIndex,
    build: str,
    query: str,
    vector: NDArray[np.float32] | None,
    k: int,
    files: Files | None,
    ranking: Ranking = DEFAULT_RANKING,
) -> list[Found]:
    """Return the best passages of one store by fused vectors and words; blocking.

    The fused ranking is scaled by how near the best vector is, so that a query which nothing
    resembles gets low scores throughout.

    Args:
        build: of the index that the vector was made for.
        vector: float32 array of shape (dim,), unit norm; None to search by words alone.
        files: search these files only; all where None.

    Raises:
        BuildChanged: another build is searched now.
    """
    live = index.live
    if live.build != build:
        raise BuildChanged
    wide = max(WIDE * k, LEAST_WIDE)
    dense: dict[int, float] = {}
    if vector is not None and ranking.dense > 0:
        numbers, cosines = live.engine.search(vector, wide, files)
        dense = dict(zip(numbers.tolist(), cosines.tolist(), strict=True))
        if ranking.operators:
            kept = index.words.permitted(query, list(dense))
            dense = {n: c for n, c in dense.items() if n in kept}
    lexical: dict[int, float] = {}
    if ranking.lexical > 0:
        lexical = dict(index.words.search(query, wide, files, operators=ranking.operators))
    if not dense and not lexical:
        return []
    of_vectors, of_words = weights(query, ranking)
    chosen = [of_vectors if dense else 0.0, of_words if lexical else 0.0]
    if ranking.fusion == "rrf":
        by_rank = [sorted(side, key=lambda n: -side[n]) for side in (dense, lexical)]
        fused = reciprocal_rank(by_rank, chosen)
    else:
        fused = weighted_sum([list(dense.items()), list(lexical.items())], chosen)
    strength = 1.0
    if vector is not None and ranking.dense > 0:
        nearest = max(dense.values(), default=COSINE_LOW)
        strength = min(1.0, max(0.0, (nearest - COSINE_LOW) / (COSINE_HIGH - COSINE_LOW)))
    return [Found(n, score * strength, dense.get(n), lexical.get(n)) for n, score in fused[:wide]]


def weights(query: str, ranking: Ranking) -> tuple[float, float]:
    """What vectors and words weigh for a query.

    A name such as ``CWE-79`` or ``SESSION_COOKIE_AGE`` is one of many to an embedder and a
    rare word to the word index, so words weigh more where one is asked for, unless the caller
    chose the weights. Measured in docs/search.md.
    """
    if (ranking.dense, ranking.lexical) == (DEFAULT_RANKING.dense, DEFAULT_RANKING.lexical) and (
        names(query)
    ):
        return NAMED_DENSE, 1 - NAMED_DENSE
    return ranking.dense, ranking.lexical


def _find_where(
    index: StoreIndex,
    build: str,
    query: str,
    vector: NDArray[np.float32] | None,
    k: int,
    visible: Files | None,
    accepts: Predicate | None,
    labelled: list[tuple[str, dict[str, AttributeValue]]],
    ranking: Ranking,
) -> list[Found]:
    """:func:`find` among the files that the caller may see and whose attributes are accepted.

    Args:
        visible: as :meth:`StoreAccess.visible_to` gives them; None: every file.
    """
    if accepts is None:
        return find(index, build, query, vector, k, visible, ranking)
    accepted = {file_id for file_id, labels in labelled if accepts(labels)}
    if isinstance(visible, AllBut):
        accepted -= visible.hidden
    elif visible is not None:
        accepted.intersection_update(visible)
    return find(index, build, query, vector, k, accepted, ranking)


def _thinned(hits: list[Hit], k: int, ranking: Ranking) -> list[Hit]:
    """Without near-duplicates, or with variety first, as the ranking asks."""
    if not ranking.near_duplicates:
        kept = drop_near_duplicates([h.passage.text for h in hits]).kept
        hits = [hits[place] for place in kept]
    if ranking.diversity > 0:
        likeness = word_likeness([h.passage.text for h in hits])
        order = diversify([h.score for h in hits], likeness, k, 1 - ranking.diversity)
        hits = [hits[place] for place in order]
    return hits


class Searches:
    """Searches the vector stores of one gateway.

    Access lists hold twice: :meth:`_in_store` looks among the files only that the caller may
    see, so that what he may not see takes no place of his results, and :meth:`_seen_rows` reads
    a text only together with the list that its file has in SQL at that moment.
    """

    def __init__(
        self, db: Database, stores: VectorStores, pool: Pool, rankers: Rankers | None = None
    ) -> None:
        self._db, self._stores, self._pool = db, stores, pool
        self._rankers = rankers or Rankers({})

    async def hits(
        self,
        call: Call,
        store_ids: Sequence[str],
        query: str,
        k: int,
        filters: dict[str, Any] | None = None,
        ranking: Ranking = DEFAULT_RANKING,
    ) -> list[Hit]:
        """Search stores of the caller's tenant, in the files that he may see; best first.

        Raises:
            NotFound: a store does not exist or is another tenant's.
            Conflict: a store has expired.
            BadRequest: the filter is malformed, or there is no query.
        """
        if not query.strip():
            raise BadRequest("The query is empty. Send some words.", param="query")
        call.usage.searches += 1
        accepts = compile_filter(filters) if filters else None
        vectors: dict[str, NDArray[np.float32]] = {}  # of the query, by model
        chosen_among = ranking.ranker or not ranking.near_duplicates or ranking.diversity > 0
        first = k + LEAST_WIDE if chosen_among else k
        for left in reversed(range(ANEW)):
            stores = [
                await self._stores.searchable(call.tenant_id, store_id)
                for store_id in dict.fromkeys(store_ids)
            ]
            found: list[tuple[Found, StoreIndex]] = []
            for store in stores:
                found += await self._in_store(call, store, query, k, accepts, ranking, vectors)
                await self._stores.touch(store)
            found.sort(key=lambda pair: -pair[0].score)
            with stage(call, "read"):
                hits = await self._read(call.principal, found[:first])
            if len(hits) == min(first, len(found)):
                break
            # what was removed a moment ago may have another in its place by now
            if not left or not await self._changed(call.tenant_id, stores):
                hits += await self._read(call.principal, found[first : first + LEAST_WIDE])
                break
        if ranking.ranker is not None:
            hits = await self._rerank(call, query, hits, ranking.ranker, ranking.rerank_budget_ms)
        if not ranking.near_duplicates or ranking.diversity > 0:
            hits = await self._pool.run(call.timed("retrieval", _thinned), hits, k, ranking)
        hits = hits[:k]
        call.features.setdefault("input_length", float(len(query)))
        call.features.setdefault("language", language_of([query]))
        call.embedding = next(iter(vectors.values()), call.embedding)
        call.features["retrieval_score"] = hits[0].score if hits else 0.0
        call.lineage["stores"] = [store.id for store in stores]
        return hits

    async def _changed(self, tenant_id: str, stores: Sequence[VectorStore]) -> bool:
        """Whether a store's contents are others than when the search began."""
        now = [await self._stores.searchable(tenant_id, s.id) for s in stores]
        return [s.version for s in now] != [s.version for s in stores]

    async def frequencies(
        self, call: Call, store_ids: Sequence[str], text: str
    ) -> tuple[int, dict[str, int]]:
        """How many passages the stores hold, and how many of them each telling word of ``text``.

        Raises:
            NotFound: a store does not exist or is another tenant's.
            Conflict: a store has expired.
        """
        held, frequencies = 0, Counter[str]()
        for store_id in dict.fromkeys(store_ids):
            store = await self._stores.searchable(call.tenant_id, store_id)
            async with self._stores.using(store, store.version) as index:
                held += index.words.count
                frequencies.update(await self._pool.run(index.words.frequencies, text))
        return held, dict(frequencies)

    async def widened(
        self,
        call: Call,
        store_id: str,
        hits: Sequence[Hit],
        by: Literal["neighbours", "section"],
        reach: int,
        max_tokens: int,
    ) -> list[Window]:
        """What one store's hits become with the text around them; see :func:`widen`."""
        store = await self._stores.get(call.tenant_id, store_id)
        count = self._stores.embedder_of(store).count_tokens
        async with self._stores.using(store, store.version) as index:

            async def fetch(file_id: str, first: int, last: int) -> list[Passage]:
                part = {"store": store_id, "file": file_id, "first": first, "last": last}
                rows = await self._seen_rows(call.principal, _IN_FILE, part)
                return [passage_of(row, index) for row in sorted(rows, key=lambda r: r["ordinal"])]

            return await widen([h.passage for h in hits], fetch, count, by, reach, max_tokens)

    async def _in_store(
        self,
        call: Call,
        store: VectorStore,
        query: str,
        k: int,
        accepts: Predicate | None,
        ranking: Ranking,
        vectors: dict[str, NDArray[np.float32]],
    ) -> list[tuple[Found, StoreIndex]]:
        """What one store has; begins again when its index was switched to another build."""
        for _ in range(SWITCHES):
            vector = None
            if ranking.dense > 0:
                model, embedder = store.embedding_model, self._stores.embedder_of(store)
                if model not in vectors:
                    call.usage.embedding_tokens += embedder.count_tokens(query)
                    told = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": model}
                    with stage(call, "embed", told):
                        vectors[model] = await embedder.embed_query(query)
                vector = vectors[model]
            async with self._stores.using(store, store.version) as index:
                visible = index.access.visible_to(call.principal)
                # a list of this moment: the thread must not walk what the loop changes
                labelled = list(index.attributes.items()) if accepts else []
                told = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": store.id}
                told["ostiary.index.version"] = str(index.version)
                try:
                    with stage(call, "search", told):
                        got = await self._pool.run(
                            call.timed("retrieval", _find_where),
                            index,
                            store.build,
                            query,
                            vector,
                            k,
                            visible,
                            accepts,
                            labelled,
                            ranking,
                        )
                except BuildChanged:
                    await index.load()
                    store = await self._stores.searchable(call.tenant_id, store.id)
                    continue
                call.versions[f"index:{store.id}"] = str(index.version)
            return [(f, index) for f in got]
        raise Unavailable("The index is being switched. Send the request again.", code="switching")

    async def _rerank(
        self, call: Call, query: str, hits: list[Hit], ranker: Ranker, budget_ms: int
    ) -> list[Hit]:
        reranker = await self._rankers.get(ranker)
        judged = hits[:RERANKED]
        candidates = [Candidate(h.passage.text, h.score) for h in judged]
        with stage(call, "rerank", {"ostiary.ranker": ranker}):
            done = await reranker.rerank(query, candidates, budget_ms)
        call.usage.reranked += done.scored
        call.lineage |= {"reranked": done.scored, "ranker": ranker}
        ordered = [
            replace(judged[place], score=score)
            for place, score in zip(done.order, done.scores, strict=True)
        ]
        # what was not judged stays below, in its order and with no higher score
        lowest = ordered[-1].score if ordered else 1.0
        return ordered + [replace(h, score=min(h.score, lowest)) for h in hits[RERANKED:]]

    async def _read(self, who: Principal, found: list[tuple[Found, StoreIndex]]) -> list[Hit]:
        """Read the texts; what SQL no longer has, or no longer shows, is not returned."""
        numbers = {"numbers": [f.number for f, _ in found]}
        rows = {row["number"]: row for row in await self._seen_rows(who, _BY_NUMBER, numbers)}
        return [
            Hit(passage_of(row, index), item.score, item.dense, item.lexical)
            for item, index in found
            if (row := rows.get(item.number)) is not None
            and row["vector_store_id"] == index.store_id
        ]

    async def _seen_rows(
        self, who: Principal, query: Select[Any], values: dict[str, Any]
    ) -> list[Row]:
        """The wanted passages of files that somebody may see, by the lists of this moment."""
        rows = await self._db.rows(query, values)
        return [row for row in rows if sees(who, access_list(row["access"]))]
