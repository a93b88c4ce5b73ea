"""What a connector reads from: a source lists its documents and gives their bytes."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

from app.errors import OstiaryError
from app.retrieval.access import AccessList
from app.retrieval.types import AttributeValue

NO_NAME = re.compile(r"[\x00-\x1f\x7f/\\]+")  # what no name of a file holds


class SourceError(OstiaryError):
    """The source cannot be read; the message tells its owner what to do, and holds no secret."""

    status = 502
    code = "source_unavailable"
    type = "server_error"


class ItemUnavailable(OstiaryError):
    """One document cannot be read; the others can."""

    status = 502
    code = "item_unavailable"
    type = "server_error"


@dataclass(frozen=True, slots=True)
class Item:
    """A document of a source, as it is listed.

    ``key`` names it in the source and stays; ``fingerprint`` changes whenever its bytes may
    have changed. ``access`` is who may see it there; None: the source keeps no lists.
    """

    key: str
    fingerprint: str
    filename: str
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    access: AccessList | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a source that a connector follows.

    ``path`` is a prefix of keys; ``include`` and ``exclude`` are patterns of whole keys, as a
    shell's, in which ``*`` crosses ``/``.
    """

    path: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def holds(self, key: str) -> bool:
        """Whether a key belongs to the part."""
        if not key.startswith(self.path):
            return False
        if self.include and not any(fnmatch.fnmatchcase(key, p) for p in self.include):
            return False
        return not any(fnmatch.fnmatchcase(key, p) for p in self.exclude)


class Source(Protocol):
    """A place whose documents can be followed: a folder, a bucket, a web site, a query."""

    def items(self, part: Part) -> AsyncIterator[Item]:
        """Every document of the part, each once.

        Raises:
            SourceError: the source cannot be listed to its end. What was not listed is then
                not taken for deleted.
        """
        ...

    async def fetch(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        """Write a document's bytes.

        Raises:
            ItemUnavailable: it is gone, larger than ``max_bytes``, or cannot be read.
            SourceError: nothing of the source can be read now.
        """
        ...

    async def aclose(self) -> None:
        """Let connections go."""
        ...
