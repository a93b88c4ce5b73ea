"""Embeddings, as in OpenAI's API, from the gateway's own embedding model."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.api.common import ERRORS
from app.errors import BadRequest
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.openai_types import EmbeddingsRequest, EmbeddingsResponse
from app.monitoring.language import language_of

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Embed = Annotated[Call, Depends(Scope("embeddings:write", screens=("input",)))]


@router.post("/embeddings")
async def create_embeddings(
    request: Request, call: Embed, body: EmbeddingsRequest
) -> EmbeddingsResponse:
    """Turn texts into unit vectors."""
    import numpy as np  # loaded by then: with the engines, not with the routes

    services: Any = request.app.state.services
    _, embedder = services.vector_stores.model(body.model)
    dimensions = body.dimensions or embedder.dim
    embedder.cut(np.zeros((0, embedder.dim), np.float32), dimensions)  # refuses before any work
    texts = _texts(body.input)
    call.asks(body.model)
    call.versions["model"] = embedder.fingerprint[:12]
    texts = await services.guardrails.screen(call, texts, "input")
    tokens = sum(embedder.count_tokens(t) for t in texts)
    call.usage.embedding_tokens += tokens
    call.features["input_length"] = float(sum(len(t) for t in texts))
    call.features["language"] = language_of(texts)
    vectors = embedder.cut(await embedder.embed_passages(texts), dimensions)
    call.embedding = vectors[0] if len(vectors) else None
    data: list[dict[str, Any]] = []
    for vector in vectors:
        as_text = base64.b64encode(vector.tobytes()).decode()
        value = as_text if body.encoding_format == "base64" else vector.tolist()
        data.append({"index": len(data), "embedding": value})
    return EmbeddingsResponse.model_validate(
        {
            "data": data,
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _texts(given: Any) -> list[str]:
    items = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(item, str) for item in items):
        raise BadRequest(
            "Token ids are not taken, because they belong to another model's vocabulary. Send "
            "text (in LangChain: check_embedding_ctx_length=False).",
            param="input",
        )
    return items
