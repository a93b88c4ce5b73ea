"""Remembers finished shards while a run goes on, and tells them all at its end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from pipelines.embeddings.layout import MANIFEST, Unit
from pipelines.embeddings.shards import Embedded
from pipelines.embeddings.storage import Folder

_FLUSH_S = 1.0
_FLUSH_RECORDS = 256


class Journal:
    """Records of the folder's shards by unit id; those whose shard is gone are left out.

    Records are written in parts, because an object store cannot append. One that a crash took
    is made again from the shard itself.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._parts = folder.names("journal", ".jsonl")
        self._new: list[dict[str, Any]] = []
        self._written = time.monotonic()
        made = {name.removesuffix(".parquet") for name in folder.names("shards", ".parquet")}
        lines = [folder.read(f"journal/{part}") for part in sorted(self._parts)]
        if folder.exists(MANIFEST):
            lines.append(folder.read(MANIFEST))
        told = (json.loads(line) for data in lines for line in data.splitlines())
        self.records = {r["unit"]: Embedded(**_kept(r)) for r in told if r["unit"] in made}

    def add(self, record: Embedded) -> None:
        self.records[record.unit] = record
        self._new.append(asdict(record))
        late = time.monotonic() - self._written > _FLUSH_S
        if late or len(self._new) >= _FLUSH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        if self._new:
            name = f"{len(self._parts):08d}.jsonl"
            while name in self._parts:
                name = f"{int(name[:8]) + 1:08d}.jsonl"
            data = "".join(json.dumps(record) + "\n" for record in self._new)
            self._folder.write(f"journal/{name}", data.encode())
            self._parts.add(name)
            self._new = []
        self._written = time.monotonic()

    def publish(self, units: tuple[Unit, ...]) -> None:
        """Write the manifest: the shards of the inputs as they are now, in their order."""
        lines = [
            {
                **asdict(self.records[unit.id]),
                "seq": unit.seq,
                "shard": unit.shard,
                "source": unit.source.name,
                "first_row": unit.span.first,
                "rows": unit.span.rows,
            }
            for unit in units
            if unit.id in self.records
        ]
        data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        self.flush()
        self._folder.write(MANIFEST, data.encode())

    def clear(self) -> None:
        """Drop the parts, once the manifest tells what they told."""
        for part in sorted(self._parts):
            self._folder.delete(f"journal/{part}")
        self._parts = set()


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in Embedded.__dataclass_fields__}
