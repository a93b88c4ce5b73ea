"""The wire shapes of connectors and of what they follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.common import ListPage, second
from app.api.vector_store_shapes import Access, AttributeMap, ChunkingStrategy
from app.retrieval.access import AccessList

if TYPE_CHECKING:
    from app.gateway.call import Principal
    from app.retrieval.connectors.connector import Connector, KnownItem

# no control characters, which no source's names have
Pattern = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Patterns = Annotated[list[Pattern], Field(max_length=100)]
Freshness = Annotated[
    int,
    Field(
        strict=True,
        ge=60,
        le=604_800,
        description="Within how many seconds a change of the source is to be here.",
    ),
]


class SourceObject(BaseModel):
    object: Literal["source"] = "source"
    name: str
    kind: str


class SourceList(BaseModel):
    object: Literal["list"] = "list"
    data: list[SourceObject]


class ConnectorBody(BaseModel):
    """What to follow, and how."""

    model_config = ConfigDict(extra="forbid")
    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100,
            pattern=r"^[^\x00]*$",
            description="One of `GET /v1/sources`.",
        ),
    ]
    path: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field(
        "", description="Follow only documents whose keys begin with this."
    )
    include: Patterns = Field(
        [], description="Of whole keys, as a shell's; `*` crosses `/`. Empty: all."
    )
    exclude: Patterns = Field([], description="As `include`; what matches is left out.")
    freshness_s: Freshness = 900
    attributes: Annotated[AttributeMap, Field(max_length=14)] = Field(
        {}, description="Of each document, where the source gives no other value."
    )
    access: Literal["source"] | Access | None = Field(
        "source",
        description="Who may see the documents: as the source says, this list, or null for "
        "whoever may search the store.",
    )
    chunking_strategy: ChunkingStrategy | None = None

    def readers(self) -> AccessList | str | None:
        """The value that connectors take."""
        return self.access.readers() if isinstance(self.access, Access) else self.access


class ConnectorChange(BaseModel):
    model_config = ConfigDict(extra="forbid")
    enabled: Annotated[bool, Field(strict=True)] | None = Field(
        None, description="False pauses; what is here stays."
    )
    freshness_s: Freshness | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.enabled is None and self.freshness_s is None:
            raise ValueError("give enabled, or freshness_s")
        return self


class SyncBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    allow_removal: Annotated[bool, Field(strict=True)] = Field(
        False, description="Remove also more than half of the known documents."
    )


class SyncCounts(BaseModel):
    """Of documents; `changed` are those whose bytes were read again."""

    found: int
    added: int
    changed: int
    removed: int
    failed: int
    unchanged: int


class SyncObject(BaseModel):
    """The newest sync."""

    job_id: str
    began_at: int
    ended_at: int | None = Field(description="Null while it runs.")
    counts: SyncCounts | None = Field(description="Null while it runs.")


class ConnectorError(BaseModel):
    code: str
    message: str


class ConnectorObject(BaseModel):
    id: str
    object: Literal["vector_store.connector"] = "vector_store.connector"
    vector_store_id: str
    source: str
    path: str
    include: list[str]
    exclude: list[str]
    freshness_s: int
    attributes: dict[str, str | bool | float]
    access: Literal["source"] | Access | None
    enabled: bool
    state: Literal["idle", "syncing", "failed", "paused"]
    fresh: bool = Field(description="Whether the last whole sync ended within `freshness_s`.")
    last_sync: SyncObject | None
    error: ConnectorError | None = Field(description="Why the newest sync failed.")
    next_sync_at: int | None
    job_id: str | None = Field(description="Of the newest sync; see `/v1/jobs`.")
    created_at: int


class ConnectorList(ListPage[ConnectorObject]):
    pass


class ConnectorDeleted(BaseModel):
    id: str
    object: Literal["vector_store.connector.deleted"] = "vector_store.connector.deleted"
    deleted: Literal[True] = True
    job_id: str = Field(description="Of the job that removes what is not kept.")


class ItemObject(BaseModel):
    id: str
    object: Literal["vector_store.connector.item"] = "vector_store.connector.item"
    key: str = Field(description="What names the document in its source.")
    filename: str
    status: Literal["pending", "completed", "failed"]
    last_error: ConnectorError | None
    file_id: str | None = Field(description="The file that is searchable; null: none yet.")


class ItemList(ListPage[ItemObject]):
    pass


def show_connector(connector: Connector, who: Principal) -> ConnectorObject:
    """The wire shape of a connector for somebody.

    An error may name a document, so that others than who made it get its code alone.
    """
    error = None
    if connector.error is not None:
        error = ConnectorError(**connector.error)
        if not connector.made_by(who):
            error.message = "The sync failed. Who made the connector, or may see all, sees why."
    last = None
    if connector.began_at is not None:
        last = SyncObject(
            job_id=connector.job_id or "",
            began_at=int(connector.began_at),
            ended_at=second(connector.ended_at),
            counts=SyncCounts(**connector.counts) if connector.counts is not None else None,
        )
    access: Any = connector.access
    return ConnectorObject(
        id=connector.id,
        vector_store_id=connector.vector_store_id,
        source=connector.source,
        path=connector.path,
        include=connector.include,
        exclude=connector.exclude,
        freshness_s=connector.freshness_s,
        attributes=connector.attributes,
        access=Access(**access) if isinstance(access, dict) else access,
        enabled=connector.enabled,
        state=connector.state,
        fresh=connector.fresh,
        last_sync=last,
        error=error,
        next_sync_at=second(connector.next_sync_at),
        job_id=connector.job_id,
        created_at=int(connector.created_at),
    )


def show_item(known: KnownItem) -> ItemObject:
    """The wire shape of a document of a source."""
    return ItemObject(
        id=known.id,
        key=known.key,
        filename=known.filename,
        status=known.status,
        last_error=ConnectorError(**known.error) if known.error is not None else None,
        file_id=known.file_id,
    )
