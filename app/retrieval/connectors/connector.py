"""What a connector is, and what it knows of each document of its source."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.gateway.call import SEES_ALL, Principal
from app.retrieval.access import AccessList, access_list
from app.retrieval.connectors.base import Item, Part
from app.retrieval.types import (
    LONGEST_ATTRIBUTE,
    LONGEST_ATTRIBUTE_NAME,
    MOST_ATTRIBUTES,
    AttributeValue,
)

AS_IN_SOURCE = "source"  # the value of ``access`` that takes the lists of the source
LEAST_DELAY_S = 60.0  # after the first failure


@dataclass(frozen=True, slots=True)
class Connector:
    """A part of a source that a vector store follows; the state of its newest sync.

    Times are Unix seconds.
    """

    id: str
    tenant_id: str
    vector_store_id: str
    source: str
    path: str
    include: list[str]
    exclude: list[str]
    attributes: dict[str, AttributeValue]
    access: Any  # AS_IN_SOURCE, the stored form of an access list, or None
    chunking: dict[str, Any]
    owner: str
    freshness_s: int
    enabled: bool
    job_id: str | None
    began_at: float | None
    ended_at: float | None
    whole_at: float | None
    next_sync_at: float | None
    removed: int
    counts: dict[str, int] | None
    error: dict[str, str] | None
    failures: int
    allow_removal: bool
    listing: int
    listed: int
    created_at: float
    deleted_at: float | None
    keep_documents: bool

    @property
    def part(self) -> Part:
        """What of the source it follows."""
        return Part(self.path, tuple(self.include), tuple(self.exclude))

    @property
    def running(self) -> bool:
        """Whether a sync has begun and not ended."""
        return self.began_at is not None and self.ended_at is None

    @property
    def state(self) -> str:
        """``syncing``, ``paused``, ``failed`` or ``idle``."""
        if self.running:
            return "syncing"
        if not self.enabled:
            return "paused"
        return "failed" if self.error is not None else "idle"

    @property
    def fresh(self) -> bool:
        """Whether the last sync without an error ended within ``freshness_s``."""
        return self.whole_at is not None and time.time() - self.whole_at <= self.freshness_s

    @property
    def principal(self) -> Principal:
        """Who its syncs are: no access list binds them."""
        return Principal(self.tenant_id, f"connector:{self.id}", None, frozenset({SEES_ALL}))

    def made_by(self, who: Principal) -> bool:
        """Whether somebody made it, or no access list binds him."""
        return who.sees_all or who.owner == self.owner

    def readers(self, listed: AccessList | None) -> AccessList | None:
        """Who may see a document for which the source has this list."""
        if self.access == AS_IN_SOURCE:
            return listed
        return access_list(self.access)

    def labels(self, key: str, listed: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        """The attributes of a document: ours first, then the source's, then the connector's.

        What does not fit into an attribute, or is the seventeenth, is left out.
        """
        ours: dict[str, AttributeValue] = {"source": self.source}
        if len(key) <= LONGEST_ATTRIBUTE:
            ours["source_key"] = key
        found = {**ours}
        for name, value in (*listed.items(), *self.attributes.items()):
            fits = not isinstance(value, str) or len(value) <= LONGEST_ATTRIBUTE
            if 0 < len(name) <= LONGEST_ATTRIBUTE_NAME and fits and len(found) < MOST_ATTRIBUTES:
                found.setdefault(name, value)
        return found

    def delay_s(self) -> float:
        """How long to wait after one more failure: doubling, at most the freshness."""
        return min(float(self.freshness_s), LEAST_DELAY_S * 2.0 ** min(self.failures, 20))


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A document of the source, as it was listed last, and its files here."""

    id: str
    connector_id: str
    key: str
    key_hash: str
    fingerprint: str
    filename: str
    attributes: dict[str, AttributeValue]
    access: dict[str, list[str]] | None
    relabel: bool
    status: str  # pending, completed, failed
    error: dict[str, str] | None
    file_id: str | None
    next_file_id: str | None
    next_fingerprint: str | None
    listing: int
    outcome: str | None
    done_in: int | None

    @property
    def item(self) -> Item:
        """The document as its source listed it."""
        return Item(
            self.key,
            self.fingerprint,
            self.filename,
            dict(self.attributes),
            access_list(self.access),
        )
