"""What the tests of every source ask of it."""

from __future__ import annotations

import io

from app.retrieval.connectors.base import Item, Part, Source

EVERYTHING = Part()
PLENTY = 1 << 20  # bytes


async def listed(source: Source, part: Part = EVERYTHING) -> dict[str, Item]:
    """The items of a part by key; each key comes once."""
    found = [item async for item in source.items(part)]
    by_key = {item.key: item for item in found}
    assert len(by_key) == len(found)
    return by_key


async def content(source: Source, item: Item, max_bytes: int = PLENTY) -> bytes:
    """The bytes of a document."""
    into = io.BytesIO()
    await source.fetch(item, into, max_bytes)
    return into.getvalue()
