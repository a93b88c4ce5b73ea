"""Reranking, in the shape that Jina's and Cohere's APIs and vLLM share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from app.api.common import ERRORS
from app.errors import NotFound, RateLimited
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.ids import new_id
from app.llm.openai_types import RerankRequest
from app.retrieval.types import Candidate

if TYPE_CHECKING:
    from app.services import Services

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Write = Annotated[Call, Depends(Scope("rerank:write", screens=("input",)))]
AT_ONCE = 64  # documents that wait in the model's queue; other calls take turns with them
LONGEST = 8192  # characters of a document; the model reads its first few hundred tokens


class RerankedText(BaseModel):
    text: str


class RerankResult(BaseModel):
    index: int
    relevance_score: float
    document: RerankedText | None = None


class RerankUsage(BaseModel):
    total_tokens: int


class RerankReply(BaseModel):
    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage


@router.post("/rerank", response_model_exclude_none=True)
async def create_rerank(request: Request, call: Write, body: RerankRequest) -> RerankReply:
    """Order documents by how well they answer a query, best first."""
    services: Services = request.app.state.services
    if body.model not in services.rankers.names:
        raise NotFound(
            "ranker",
            body.model,
            remedy=f"Served are {', '.join(services.rankers.names) or 'none'}.",
            param="model",
            code="model_not_found",
        )
    ranker = await services.rankers.get(body.model)
    call.asks(body.model)
    call.versions["model"] = body.model
    texts = [body.query, *body.document_texts()]
    call.features["input_length"] = float(sum(map(len, texts)))
    query, *documents = await services.guardrails.screen(call, texts, "input")
    _, counting = services.vector_stores.model()
    read = [document[:LONGEST] for document in documents]

    def count() -> int:  # every document is read together with the query
        return len(read) * counting.count_tokens(query) + sum(map(counting.count_tokens, read))

    tokens = await asyncio.to_thread(count)
    call.usage.embedding_tokens += tokens
    scores: list[float] = []
    for start in range(0, len(read), AT_ONCE):
        part = [Candidate(text, 0.0) for text in read[start : start + AT_ONCE]]
        done = await ranker.rerank(query, part, None, 1.0, LONGEST)
        call.usage.reranked += done.scored
        if done.scored < len(part):
            raise RateLimited(
                "The reranking model has more work than it can take. Send the call again soon.",
                code="reranker_busy",
                headers={"retry-after": "1"},
            )
        found = sorted(zip(done.order, done.relevance, strict=True))
        scores += [float(relevance or 0.0) for _, relevance in found]
    best = sorted(range(len(read)), key=lambda n: -scores[n])[: body.top_n]
    restored = services.guardrails.restored
    shown = [
        RerankResult(
            index=n,
            relevance_score=scores[n],
            document=RerankedText(text=restored(call, documents[n]))
            if body.return_documents
            else None,
        )
        for n in best
    ]
    return RerankReply(
        id=new_id("rerank-"),
        model=body.model,
        results=shown,
        usage=RerankUsage(total_tokens=tokens),
    )
