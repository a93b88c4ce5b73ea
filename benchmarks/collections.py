"""The judged collections of the quality benchmark, cut and indexed as in the product.

Vectors and reranker scores are kept in a cache under the temporary folder, by the hash of what
they were computed from: a second run embeds only what has changed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.retrieval.chunking import chunk
from app.retrieval.embedding import CrossEncoder, OnnxEmbedder
from app.retrieval.lexical import LexicalIndex
from app.retrieval.parsing import parse
from app.retrieval.quality.judged import JudgedQuery, load, load_documents
from app.retrieval.types import embedded_text
from app.samples import cwe_list, django_docs, postgresql_docs
from benchmarks.rig import ROOT

JUDGED = ROOT / "app" / "samples" / "judged"
CACHE = Path(os.environ.get("OSTIARY_BENCH_CACHE", tempfile.gettempdir())) / "ostiary-quality"
CRANFIELD = (
    Path(os.environ.get("OSTIARY_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cranfield"
)
MAX_TOKENS, OVERLAP_TOKENS = 256, 32  # the product's defaults
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage as it is indexed."""

    filename: str
    section: str | None
    text: str

    @property
    def embedded(self) -> str:
        """What the embedder reads: the passage under its section path, as in the product."""
        return embedded_text(self.section, self.text)


@dataclass(frozen=True, slots=True)
class Collection:
    """Judged questions with everything that is searched for them.

    ``vectors`` is a float32 array of shape (n, dim), rows of length 1, one for each piece; the
    word index numbers pieces by their place.
    """

    name: str
    files: int
    pieces: list[Piece]
    vectors: NDArray[np.float32]
    words: LexicalIndex
    queries: list[JudgedQuery]


class Cache:
    """Computed numbers by the hash of what they came from, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the reranker scores in a thread of its own, while its caller waits
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, value BLOB)")

    def close(self) -> None:
        self._db.close()

    def get(
        self,
        made_by: str,
        texts: Sequence[str],
        compute: Callable[[list[str]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """One row of ``compute`` a text, computed only where it is not kept.

        Args:
            made_by: what else the numbers depend on, such as the model's fingerprint.
            compute: from n texts to a float32 array of shape (n, ...).
        """
        keys = [hashlib.sha256(f"{made_by}\0{text}".encode()).digest() for text in texts]
        rows: dict[bytes, NDArray[np.float32]] = {}
        for key in set(keys):
            found = self._db.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
            if found is not None:
                rows[key] = np.frombuffer(found[0], np.float32)
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in rows}
        wanted = list(missing.items())
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            made = np.atleast_2d(compute([text for _, text in part]).T).T
            for (key, _), row in zip(part, made, strict=True):
                rows[key] = row
                self._db.execute("INSERT INTO kept VALUES (?, ?)", (key, row.tobytes()))
            self._db.commit()
        return np.stack([rows[key] for key in keys])


def files_of(name: str, folder: Path) -> list[tuple[Path, str]]:
    """The documents of a judged set, and the names under which its judgements know them.

    Raises:
        SamplesUnavailable: they cannot be had here.
    """
    if name == "django":
        return [(p, django_docs.relative_name(p)) for p in django_docs.fetch(folder)]
    fetch = {"cwe": cwe_list.fetch, "postgresql": postgresql_docs.fetch}[name]
    return [(p, p.name) for p in fetch(folder)]


def _read(name: str, embedder: OnnxEmbedder) -> tuple[list[Piece], list[JudgedQuery], int]:
    if name == "cranfield":
        # one abstract a passage, under its title, as the collection is used everywhere
        found = [d for d in load_documents(CRANFIELD) if (d.title + d.text).strip()]
        pieces = [Piece(f"{d.id}.txt", d.title or None, d.text or d.title) for d in found]
        return pieces, load(CRANFIELD), len(pieces)
    files = files_of(name, CACHE / "documents")
    pieces = [
        Piece(filename, c.section, c.text)
        for path, filename in files
        for c in chunk(parse(path, filename), MAX_TOKENS, OVERLAP_TOKENS, embedder.count_tokens)
    ]
    return pieces, load(JUDGED / f"{name}.jsonl"), len(files)


@contextmanager
def collection(
    name: str, embedder: OnnxEmbedder, cache: Cache, scratch: Path
) -> Iterator[Collection]:
    """Build one collection: ``django``, ``cwe``, ``postgresql`` or ``cranfield``.

    Raises:
        SamplesUnavailable: its documents cannot be had here.
        BadRequest: the Cranfield folder is not there.
    """
    pieces, queries, files = _read(name, embedder)
    vectors = cache.get(
        embedder.fingerprint, [p.embedded for p in pieces], embedder.encode_passages
    )
    with LexicalIndex.open(scratch / name) as words:
        words.add((n, p.filename, p.section, p.filename, p.text) for n, p in enumerate(pieces))
        words.commit()
        yield Collection(name, files, pieces, vectors, words, queries)


def scoring(model: CrossEncoder, cache: Cache) -> Callable[[str, list[str]], NDArray[np.float32]]:
    """The cross-encoder's `score` with a memory."""

    def score(query: str, texts: list[str]) -> NDArray[np.float32]:
        made_by = f"{model.fingerprint}\0{query}"
        return cache.get(made_by, texts, lambda part: model.score(query, part)).reshape(-1)

    return score
