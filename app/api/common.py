"""Shapes that several doors share: the error body and cursor pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypeVar, cast

from fastapi import Path, Query
from pydantic import BaseModel, Field

from app.errors import BadRequest
from app.gateway.acting import LONGEST_NAME
from app.retrieval.types import LONGEST_ATTRIBUTE, LONGEST_ATTRIBUTE_NAME, MOST_ATTRIBUTES


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    request_id: str | None = None


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


# Referred to, as FastAPI makes a validator of each model that a route names: ten for each route,
# a fifth of the import, and never used. The route that names it brings it into the document.
_SHAPE = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": _SHAPE}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request is malformed, or a guardrail refused it."),
    401: _error("No credential, or one that is unknown, expired or revoked."),
    402: _error("The budget of the day is spent."),
    403: _error("The credential lacks the scope."),
    404: _error("Unknown, deleted, another tenant's, or not for the caller to see."),
    409: _error("The request contradicts the state of the thing."),
    413: _error("The body is too large."),
    422: _error("The content cannot be processed."),
    429: _error("A rate limit is reached; see `retry-after`."),
    503: _error("A part that the call needs does not work; the call was refused."),
}

Id = Annotated[str, Path(max_length=128, description="An id as this API returned it.")]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query()]
Cursor = Annotated[str | None, Query(max_length=128, description="An id of the last page.")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
AttributeMap = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=LONGEST_ATTRIBUTE_NAME)],
        Annotated[str, Field(max_length=LONGEST_ATTRIBUTE)] | bool | float,
    ],
    Field(max_length=MOST_ATTRIBUTES),
]

AccessName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_NAME,
        # no control characters, no blanks at the ends
        pattern=r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$",
        description="A user or group, exactly as tokens and keys name it.",
    ),
]


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


T = TypeVar("T")


class _WithId(Protocol):
    id: str


class ListPage(BaseModel, Generic[T]):  # no docstring: it would describe every list in the API
    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[T], has_more: bool) -> Self:
        """A page of objects that have an ``id``."""
        rows = cast("list[_WithId]", data)
        return cls(
            data=data,
            first_id=rows[0].id if rows else None,
            last_id=rows[-1].id if rows else None,
            has_more=has_more,
        )


def one_cursor(after: str | None, before: str | None) -> None:
    """Refuse a page that is asked for from both ends."""
    if after is not None and before is not None:
        raise BadRequest("Give `after` or `before`, not both.", param="before")


def second(at: float | None) -> int | None:
    """A time as OpenAI's shapes have it, in whole Unix seconds."""
    return None if at is None else int(at)


def with_times(row: dict[str, Any]) -> dict[str, Any]:
    """Unix seconds under names that end in ``_at`` as dates, which JSON writes by RFC 3339."""
    return {
        name: datetime.fromtimestamp(value, UTC)
        if name.endswith("_at") and value is not None
        else value
        for name, value in row.items()
    }
