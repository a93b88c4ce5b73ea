"""Opens the models of the settings that turn text into vectors and judge passages."""

from __future__ import annotations

import asyncio

from app.retrieval.conversion import with_onnx
from app.retrieval.embedding import (
    CrossEncoder,
    Embedder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)
from app.retrieval.late_interaction import LateInteraction, packaged_colbert_dir
from app.retrieval.rankers import Rankers
from app.retrieval.remote_embedding import RemoteEmbedder
from app.settings import EmbeddingModel, Settings


def open_rankers(scorer: CrossEncoder | None, threads: int) -> Rankers:
    """The rankers of a gateway that retrieves; the second is loaded when first asked for."""
    if scorer is None:
        return Rankers({})
    return Rankers(
        {
            "cross-encoder": lambda: scorer.score,
            "late-interaction": lambda: LateInteraction(packaged_colbert_dir(), threads).score,
        }
    )


async def open_models(settings: Settings) -> tuple[dict[str, Embedder], CrossEncoder | None]:
    """The embedding models by their names, and what reads query and passage together."""
    models: dict[str, Embedder] = {}
    if not settings.embedded_retrieval:
        return models, None
    try:
        for name, wanted in _embedding_models(settings).items():
            models[name] = await _embedder(settings, name, wanted)
        folder = settings.reranker_dir or packaged_reranker_dir()
        return models, await asyncio.to_thread(CrossEncoder, folder, settings.cpu_threads)
    except BaseException:
        for model in models.values():
            await model.aclose()
        raise


def _embedding_models(settings: Settings) -> dict[str, EmbeddingModel]:
    """The embedding models by the name they are served under, the default one first."""
    first = EmbeddingModel(
        dir=settings.embedding_dir,
        file=settings.embedding_file,
        url=settings.embedding_url,
        api_key=settings.embedding_api_key,
        dimensions=settings.embedding_dimensions,
        query_prefix=settings.embedding_query_prefix,
        passage_prefix=settings.embedding_passage_prefix,
        max_tokens=settings.embedding_max_tokens,
    )
    return {settings.embedding_model: first} | settings.embedding_models


async def _embedder(settings: Settings, name: str, wanted: EmbeddingModel) -> Embedder:
    """A model on its server if it has one, else in this process."""
    if wanted.url is None:
        return await asyncio.to_thread(_load_embedder, settings, wanted)
    key = wanted.api_key
    remote = RemoteEmbedder(
        wanted.url,
        name,
        key.get_secret_value() if key else None,
        dimensions=wanted.dimensions,
        query_prefix=wanted.query_prefix,
        passage_prefix=wanted.passage_prefix,
        max_tokens=wanted.max_tokens,
    )
    try:
        await remote.start()
    except BaseException:
        await remote.aclose()
        raise
    return remote


def _load_embedder(settings: Settings, wanted: EmbeddingModel) -> OnnxEmbedder:
    threads = settings.cpu_threads
    few = threads <= 2  # beyond, one text is too little work to share among them
    embedder = OnnxEmbedder(
        with_onnx(wanted.dir or packaged_bge_dir(), settings.data_dir / "models"),
        threads if few else 1,
        wanted.query_prefix,
        wanted.passage_prefix,
        wanted.dimensions,
        wanted.file,
        workers=1 if few else threads,
    )
    embedder.encode_query("warm")
    _ = embedder.fingerprint  # read here, in a thread: it hashes the weights
    return embedder
