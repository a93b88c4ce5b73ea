"""What a bulk embedding job is asked to do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from app.errors import BadRequest

FORMAT = 1  # of the output folder; a change makes every shard anew
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row keeps what; ``id`` None makes ids of the file's name and the row's number."""

    text: str = "text"
    id: str | None = None
    section: str | None = None
    attributes: tuple[str, ...] = ()

    def all(self) -> list[str]:
        named = [self.text, self.id, self.section, *self.attributes]
        return list(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which encoder makes the vectors; the same as the gateway's where shards go to it.

    Args:
        folder: of an ONNX model; None takes the packaged bge-small-en.
        file: the ONNX file in it; found where None.
        threads: of one forward pass.
        passage_prefix: put before a passage; the model's own where None.
        dimensions: cut vectors to as many, where the model allows it.
        url: a server of ``/v1/embeddings`` instead, which ``OSTIARY_EMBEDDING_API_KEY`` opens.
        name: the model's name there.
        max_tokens: that the server takes.
    """

    folder: str | None = None
    file: str | None = None
    threads: int = 1
    passage_prefix: str | None = None
    dimensions: int | None = None
    url: str | None = None
    name: str = ""
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """One output folder's work.

    Args:
        inputs: fsspec URLs of files, folders, globs and Delta tables.
        output: fsspec URL of the folder of shards.
        max_tokens: of a passage; 0 takes each row as one passage, uncut.
        overlap_tokens: that the next passage of a section repeats.
        shard_bytes: of uncompressed input in one work unit.
        shard_rows: at most so many rows in one work unit, whatever their bytes.
        buckets: into how many parts the keys are sorted to be matched, a power of two; one
            part is held in memory at a time. Fixed by the folder's first run.
    """

    inputs: tuple[str, ...]
    output: str
    columns: Columns = Columns()
    max_tokens: int = 256
    overlap_tokens: int = 32
    shard_bytes: int = 8 * MIB
    shard_rows: int = 1_000_000
    buckets: int = 256
    model: ModelSpec = ModelSpec()

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            BadRequest: names the field and what it allows.
        """
        if not self.inputs:
            raise BadRequest("No input was given; name a file, a folder or a glob.", param="input")
        if self.max_tokens < 0:
            raise BadRequest(
                f"max_tokens is {self.max_tokens}; give at least 1, or 0 to take rows whole.",
                param="max_tokens",
            )
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise BadRequest(
                f"overlap_tokens is {self.overlap_tokens}; give 0 to {self.max_tokens // 2}, "
                "half of max_tokens.",
                param="overlap_tokens",
            )
        if self.model.threads < 1:
            raise BadRequest(f"threads is {self.model.threads}; give at least 1.", param="threads")
        for name in ("shard_bytes", "shard_rows"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; give at least 1.", param=name)
        if not 1 <= self.buckets <= 65_536 or self.buckets & (self.buckets - 1):
            raise BadRequest(
                f"buckets is {self.buckets}; give a power of two up to 65536.", param="buckets"
            )

    def reading(self, fingerprint: str) -> str:
        """Return the SHA-256 of all that, beside the source, decides what a shard holds."""
        known = [
            FORMAT,
            fingerprint,
            asdict(self.columns),
            self.max_tokens,
            self.overlap_tokens,
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
