"""The wire shapes of vector stores, as in OpenAI's API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.common import AccessName, ListPage, Metadata
from app.errors import BadRequest
from app.retrieval.access import MOST_NAMES, AccessList
from app.retrieval.types import DEFAULT_RANKING, Ranking

if TYPE_CHECKING:
    from app.retrieval.collections import VectorStore
    from app.retrieval.store_files import StoreFile
    from app.retrieval.types import Hit

Number = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no other
AttributeMap = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512)] | bool | Number,
    ],
    Field(max_length=16),
]
FileIds = Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=500)]
Name = Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")]


class ExpiresAfter(BaseModel):
    anchor: Literal["last_active_at"] = "last_active_at"
    days: Annotated[int, Field(strict=True, ge=1, le=365)]


class StaticChunking(BaseModel):
    max_chunk_size_tokens: Annotated[int, Field(strict=True, ge=100, le=4096)] = 800
    chunk_overlap_tokens: Annotated[int, Field(strict=True, ge=0, le=2048)] = 400


class ChunkingStrategy(BaseModel):
    """``auto`` cuts by structure at 256 tokens; ``static`` sets the size."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["auto", "static", "other"]
    static: StaticChunking | None = None

    def limits(self) -> dict[str, int]:
        """Tokens per chunk and overlap; {} for the default."""
        if self.type != "static":
            return {}
        chosen = self.static or StaticChunking()
        if chosen.chunk_overlap_tokens * 2 > chosen.max_chunk_size_tokens:
            raise BadRequest(
                "chunk_overlap_tokens may be at most half of max_chunk_size_tokens.",
                param="chunking_strategy.static.chunk_overlap_tokens",
            )
        return {
            "max_tokens": chosen.max_chunk_size_tokens,
            "overlap_tokens": chosen.chunk_overlap_tokens,
        }


class StoreExtras(BaseModel):
    """What the index is made with; the gateway's defaults where left out."""

    model_config = ConfigDict(extra="forbid")
    engine: Literal["faiss", "milvus"] | None = None
    embedding_model: Annotated[str, Field(max_length=200)] | None = None


AccessNames = Annotated[list[AccessName], Field(max_length=MOST_NAMES)]


class Access(BaseModel):
    """Who may see a file; without anybody in it, only keys with the scope `access:all`."""

    model_config = ConfigDict(extra="forbid")
    users: AccessNames = []
    groups: AccessNames = []

    def readers(self) -> AccessList:
        return AccessList(frozenset(self.users), frozenset(self.groups))


Readers = Annotated[
    Access | None, Field(description="Who may see it; null: whoever may search the store.")
]


class FileExtras(BaseModel):
    """What OpenAI's files of a vector store do not have."""

    model_config = ConfigDict(extra="forbid")
    access: Readers = None

    def readers(self) -> AccessList | None:
        return None if self.access is None else self.access.readers()


class CreateExtras(StoreExtras, FileExtras):
    """What the index is made with, and who may see the files of `file_ids`."""


class CreateBody(BaseModel):
    name: Name | None = None
    description: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")] | None = None
    file_ids: FileIds | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None
    metadata: Metadata | None = None
    ostiary: CreateExtras | None = None


class ChangeBody(BaseModel):
    name: Name | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class AttachBody(BaseModel):
    file_id: Annotated[str, Field(max_length=128)]
    attributes: AttributeMap | None = None
    chunking_strategy: ChunkingStrategy | None = None
    ostiary: FileExtras | None = None


class BatchBody(BaseModel):
    file_ids: Annotated[FileIds, Field(min_length=1)]
    attributes: AttributeMap | None = None
    chunking_strategy: ChunkingStrategy | None = None
    ostiary: FileExtras | None = None


class NewReaders(BaseModel):
    model_config = ConfigDict(extra="forbid")
    access: Readers


class AttributesBody(BaseModel):
    attributes: AttributeMap | None = Field(None, description="Left out, they stay as they are.")
    ostiary: NewReaders | None = Field(None, description="Left out, it stays as it is.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if "attributes" not in self.model_fields_set and self.ostiary is None:
            raise ValueError("give attributes, or ostiary.access")
        return self


Weight = Annotated[float, Field(strict=True, ge=0, le=1000)]


class HybridSearch(BaseModel):
    """Weights of reciprocal rank fusion; a weight of 0 leaves a side out."""

    embedding_weight: Weight
    text_weight: Weight

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if not self.embedding_weight and not self.text_weight:
            raise ValueError("one of embedding_weight and text_weight must be above 0")
        return self


class RankingOptions(BaseModel):
    """How what was found is ordered; without `hybrid_search` scores are fused, not ranks."""

    ranker: Literal["auto", "none", "default-2024-11-15", "cross-encoder", "late-interaction"] = (
        Field(
            "auto", description="A model that reads the best 20 of what was found; else none does."
        )
    )
    score_threshold: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    hybrid_search: HybridSearch | None = None


class Expand(BaseModel):
    """Give the text around what was found too; results that meet become one."""

    model_config = ConfigDict(extra="forbid")
    by: Literal["neighbours", "section"] = "neighbours"
    reach: Annotated[int, Field(strict=True, ge=0, le=10)] = Field(
        1, description="How many passages on each side, by `neighbours`."
    )
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=8192)] = Field(
        512, description="Of each result with what is added to it."
    )


class SearchExtras(BaseModel):
    """What OpenAI's search does not have."""

    operators: bool = Field(
        True, description='Whether "exact words", +required and -excluded mean something.'
    )
    drop_near_duplicates: bool = Field(
        False, description="Keep one of passages that are the same but for a few words."
    )
    diversity: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="Maximal marginal relevance: 0 orders by relevance, 1 by difference."
    )
    rerank_budget_ms: Annotated[int, Field(strict=True, ge=1, le=60_000)] = Field(
        500, description="Time for the ranker; what it does not reach keeps its order."
    )
    expand: Expand | None = None


def ranking_of(options: RankingOptions | None, extras: SearchExtras | None = None) -> Ranking:
    """The ranking that a request asks for."""
    ranking = replace(DEFAULT_RANKING, operators=True)
    if options is not None and options.hybrid_search is not None:
        weights = options.hybrid_search
        ranking = replace(
            ranking,
            fusion="rrf",
            dense=weights.embedding_weight,
            lexical=weights.text_weight,
        )
    if options is not None and options.ranker in ("cross-encoder", "late-interaction"):
        ranking = replace(ranking, ranker=options.ranker)
    if extras is not None:
        ranking = replace(
            ranking,
            operators=extras.operators,
            near_duplicates=not extras.drop_near_duplicates,
            diversity=extras.diversity or 0.0,
            rerank_budget_ms=extras.rerank_budget_ms,
        )
    return ranking


class SearchBody(BaseModel):
    query: (
        Annotated[str, Field(min_length=1, max_length=8000)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=8000)]],
            Field(min_length=1, max_length=16),
        ]
    )
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(strict=True, ge=1, le=50)] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = Field(
        False,
        description="Make the last query stand alone: what it refers to comes from those before.",
    )
    ostiary: SearchExtras | None = None


class FileCounts(BaseModel):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreState(BaseModel):
    """The store's index as it is now."""

    engine: str
    recipes: tuple[str, ...] = Field(description="How its segments are searched.")
    vectors: int
    memory_bytes: int = Field(description="What a search keeps in memory, bytes.")
    disk_bytes: int
    recall_target: float
    recall: float | None = Field(description="recall@10 reached on held-out queries.")
    embedding_model: str
    build: str = Field(description="Which of the store's builds is searched.")


class StoreObject(BaseModel):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str | None
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    ostiary: StoreState | None = Field(None, description="Given for one store, not in lists.")


class StoreList(ListPage[StoreObject]):
    pass


class FileError(BaseModel):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StoreFileObject(BaseModel):
    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    usage_bytes: int
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    last_error: FileError | None
    attributes: dict[str, str | bool | float]
    chunking_strategy: dict[str, Any]
    ostiary: FileExtras


class StoreFileList(ListPage[StoreFileObject]):
    pass


class BatchObject(BaseModel):
    id: str
    object: Literal["vector_store.file_batch"] = "vector_store.file_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class TextContent(BaseModel):
    type: Literal["text"] = "text"
    text: str


class SearchHit(BaseModel):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | bool | float]
    content: list[TextContent]
    page: int | None
    section: str | None
    ordinal: int
    ordinals: list[int] = Field(description="The passages that the text is made of, in order.")


class SearchPage(BaseModel):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[SearchHit]
    has_more: bool = False
    next_page: str | None = None


class ContentPage(BaseModel):
    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextContent]
    has_more: bool = False
    next_page: str | None = None


def show_store(store: VectorStore, counts: dict[str, int]) -> StoreObject:
    """The wire shape of a store."""
    expires_at = store.expires_at
    status = "in_progress" if counts["in_progress"] else "completed"
    return StoreObject(
        id=store.id,
        created_at=int(store.created_at),
        name=store.name,
        description=store.description,
        usage_bytes=counts["bytes"],
        file_counts=FileCounts(**{k: v for k, v in counts.items() if k != "bytes"}),
        status="expired" if store.expired else status,
        expires_after=ExpiresAfter(days=store.expires_after_days)
        if store.expires_after_days
        else None,
        expires_at=int(expires_at) if expires_at else None,
        last_active_at=int(store.last_active_at),
        metadata=store.metadata,
    )


def show_file(file: StoreFile) -> StoreFileObject:
    """The wire shape of an attached file."""
    limits = file.chunking
    static = {
        "max_chunk_size_tokens": limits.get("max_tokens", 256),
        "chunk_overlap_tokens": limits.get("overlap_tokens", 32),
    }
    return StoreFileObject(
        id=file.file_id,
        usage_bytes=file.usage_bytes,
        created_at=int(file.created_at),
        vector_store_id=file.vector_store_id,
        status=file.status,
        last_error=FileError(**file.last_error) if file.last_error else None,
        attributes=file.attributes,
        chunking_strategy={"type": "static", "static": static},
        ostiary=FileExtras(access=Access(**file.access) if file.access is not None else None),
    )


def show_batch(batch: dict[str, Any]) -> BatchObject:
    """The wire shape of a batch of files."""
    counts = batch["counts"]
    if batch["cancelled_at"] is not None:
        status = "cancelled"
    elif counts["in_progress"]:
        status = "in_progress"
    else:
        status = "completed"
    return BatchObject(
        id=batch["id"],
        created_at=int(batch["created_at"]),
        vector_store_id=batch["vector_store_id"],
        status=status,
        file_counts=FileCounts(**counts),
    )


def show_hit(hit: Hit, text: str, ordinals: list[int]) -> SearchHit:
    """The wire shape of a search result, with its screened text and what that is made of."""
    passage = hit.passage
    return SearchHit(
        file_id=passage.file_id,
        filename=passage.filename,
        score=round(hit.score, 6),
        attributes=passage.attributes,
        content=[TextContent(text=text)],
        page=passage.page,
        section=passage.section,
        ordinal=passage.ordinal,
        ordinals=ordinals,
    )
