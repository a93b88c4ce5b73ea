"""Makes the vector engine of a store, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.errors import BadRequest, Unavailable
from app.retrieval.engines.base import VectorEngine
from app.retrieval.engines.faiss import FaissEngine

ORIGINAL = "original"  # the build that a store begins with


@dataclass(frozen=True, slots=True)
class Engines:
    """What makes engines: new stores get ``default``, older ones keep the engine they have.

    Attributes:
        default: ``faiss`` or ``milvus``.
        recall_target: recall@10 that search effort is tuned to.
        recipe: how large FAISS segments are indexed; ``auto`` chooses by size.
        segments_url: fsspec URL of FAISS segments; None keeps them in the store's folder.
        milvus_url: a Milvus server or cluster, or the path of a Milvus Lite file.
        milvus_token: its credentials.
    """

    default: str = "faiss"
    recall_target: float = 0.95
    recipe: str = "auto"
    segments_url: str | None = None
    milvus_url: str | None = None
    milvus_token: str | None = None

    def check(self, kind: str) -> None:
        """Raises BadRequest when new vectors cannot be given to this engine."""
        if kind == "milvus" and not self.milvus_url:
            raise BadRequest(
                "Milvus is not configured. Operator: set OSTIARY_MILVUS_URL.",
                param="engine",
                code="milvus_not_configured",
            )

    def make(
        self, kind: str, store_id: str, dim: int, folder: Path, build: str = ORIGINAL
    ) -> VectorEngine:
        """The engine of one build of a store; blocking.

        Raises:
            Unavailable: the store lies in a Milvus that is not configured or not reached.
        """
        if kind == "faiss":
            local = folder / ("vectors" if build == ORIGINAL else f"vectors-{build}")
            url = f"{self.segments_url}/{store_id}" if self.segments_url else str(local)
            if self.segments_url and build != ORIGINAL:
                url += f"/{build}"
            return FaissEngine(url, dim, self.recall_target, recipe=self.recipe, cache=local)
        if not self.milvus_url:
            raise Unavailable(
                "This vector store lies in Milvus, which is not configured. Operator: set "
                "OSTIARY_MILVUS_URL.",
                code="milvus_not_configured",
            )
        from app.retrieval.engines.milvus import MilvusEngine

        return MilvusEngine(
            self.milvus_url,
            f"ostiary_{store_id}" if build == ORIGINAL else f"ostiary_{store_id}_{build}",
            dim,
            token=self.milvus_token,
            recall_target=self.recall_target,
        )
