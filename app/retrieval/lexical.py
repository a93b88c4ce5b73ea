"""The word index of one collection: a Tantivy index in a local folder."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.errors import Unavailable
from app.retrieval.analysis import (
    FORMAT,
    analysis,
    humps,
    name_terms,
    names,
)
from app.retrieval.engines.base import AllBut, Files
from app.retrieval.lexical_query import Boosts, QueryMaker
from app.retrieval.query_syntax import parse

Row = tuple[int, str, str | None, str | None, str]

_WRITER_BYTES = 15_000_000  # the least Tantivy takes for one thread
_MADE_FOR = re.compile(r"ostiary_(\w+?)_(\d+)_stems")


class RebuildNeeded(Unavailable):
    """The folder's word index is damaged, or was made with another analysis.

    It holds nothing that SQL does not: delete the folder, open it anew and add every passage.
    """

    code = "word_index_rebuild_needed"

    def __init__(self, stored: str | None, wanted: str) -> None:
        damaged = stored is None or stored == wanted
        had = "is damaged" if damaged else f"was made for {stored}, and {wanted} is wanted"
        super().__init__(
            f"The collection's word index {had}. It has to be rebuilt from the stored passages "
            "before it can be searched."
        )
        self.stored, self.wanted = stored, wanted


class LexicalIndex:
    """Finds passages by their words (BM25 with k1 1.2 and b 0.75, which Tantivy fixes).

    Many threads may search while one writes. Added rows are found after ``commit``; the writer
    opens at the first change and closes at ``commit``, so that idle collections hold no memory
    and no lock.
    """

    def __init__(self, folder: Path, language: str = "en", boosts: Boosts | None = None) -> None:
        import tantivy

        self.language, self.boosts = language, boosts or Boosts()
        self._analysis = analysis(language)
        stems, surfaces, wholes = (
            f"ostiary_{language}_{FORMAT}_{kind}" for kind in ("stems", "surfaces", "names")
        )
        # Words are scored by stems without positions, phrases looked up in the words as written
        # with positions: smaller than positions for both, and phrases are exact.
        self._schema = (
            tantivy.SchemaBuilder()
            .add_integer_field("number", indexed=True, fast=True)
            .add_text_field("file_id", tokenizer_name="raw", index_option="basic")
            .add_text_field("title", tokenizer_name=stems, index_option="freq")
            .add_text_field("section", tokenizer_name=stems, index_option="freq")
            .add_text_field("text", tokenizer_name=stems, index_option="freq")
            .add_text_field("exact", tokenizer_name=surfaces, index_option="position")
            .add_text_field("names", tokenizer_name=wholes, index_option="freq")
            .build()
        )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # The names of the analysers are part of the schema, so another language is refused.
            self._index = tantivy.Index(self._schema, path=str(folder))
            self._index.register_tokenizer(stems, self._analysis.stems)
            self._index.register_tokenizer(surfaces, self._analysis.surfaces)
            whitespace = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
            self._index.register_tokenizer(wholes, whitespace)
            self._index.config_reader("manual", 1)
        except (ValueError, OSError) as error:
            wanted = _made_for(language, FORMAT)
            raise RebuildNeeded(_stored(folder), wanted) from error
        self._writer: Any = None
        self._writing = threading.RLock()

    @classmethod
    def open(cls, folder: Path, language: str = "en", boosts: Boosts | None = None) -> LexicalIndex:
        """Open the index in ``folder``, making it if there is none.

        Args:
            folder: a local folder.
            language: one of ``analysis.LANGUAGES``; it stays with the index.
            boosts: what a match counts, field by field; may differ at each opening.

        Raises:
            BadRequest: an unknown language.
            RebuildNeeded: the folder holds an index of another language or an older format,
                or a damaged one.
        """
        return cls(Path(folder), language, boosts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_writer(self) -> Any:
        if self._writer is None:
            try:
                self._writer = self._index.writer(_WRITER_BYTES, 1)
            except ValueError as error:
                raise Unavailable(
                    "Another process is writing this collection's word index. Wait for it to "
                    "finish, or let only one worker ingest a collection, and try again.",
                    code="index_locked",
                ) from error
        return self._writer

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows of (number, file id, section, title, text); a known number is replaced."""
        from tantivy import Document

        prepare = self._analysis.prepare
        with self._writing:
            writer = self._open_writer()
            for number, file_id, section, title, text in rows:
                writer.delete_documents_by_term("number", number)
                document = Document()
                document.add_integer("number", number)
                document.add_text("file_id", file_id)
                document.add_text("text", body := prepare(text))
                document.add_text("exact", body)
                for field, heading in (("section", section), ("title", title)):
                    if heading:
                        document.add_text(field, ready := prepare(heading))
                        document.add_text("exact", ready)
                if found := names(f"{text} {section or ''} {title or ''}"):
                    terms = {term for name in found for term in name_terms(name)}
                    document.add_text("names", " ".join(sorted(terms)))
                    if inside := [hump for name in sorted(found) for hump in humps(name)]:
                        document.add_text("text", " ".join(inside))
                writer.add_document(document)

    def delete_file(self, file_id: str) -> None:
        """Delete the passages of a file at the next ``commit``."""
        with self._writing:
            self._open_writer().delete_documents_by_term("file_id", file_id)

    def commit(self) -> None:
        """Make every change since the last commit durable and findable."""
        with self._writing:
            if self._writer is not None:
                self._writer.commit()
                self._release()
            self._index.reload()

    def close(self) -> None:
        """Drop changes that were not committed and free the lock."""
        with self._writing:
            if self._writer is not None:
                self._writer.rollback()
                self._release()

    def _release(self) -> None:
        writer, self._writer = self._writer, None
        writer.wait_merging_threads()

    @property
    def count(self) -> int:
        """The number of committed passages."""
        return int(self._index.searcher().num_docs)

    def search(
        self,
        query: str,
        k: int,
        file_ids: Files | None = None,
        *,
        operators: bool = True,
        typos: bool = True,
        boosts: Boosts | None = None,
    ) -> list[tuple[int, float]]:
        """Return at most ``k`` pairs (passage number, score above 0), best first.

        Args:
            query: any text; ``"words in order"``, ``+required`` and ``-excluded`` are marks.
            k: how many to return.
            file_ids: search only the passages of these files.
            operators: whether the marks mean something; without, all is plain text.
            typos: whether a word that is nowhere in the index finds the words near it.
            boosts: other boosts than those of the index, for this search.
        """
        from tantivy import Occur, Query

        if k < 1 or (file_ids is not None and not file_ids):
            return []
        searcher = self._index.searcher()
        asked = parse(query, operators)
        maker = QueryMaker(self._schema, self._analysis, searcher, boosts or self.boosts)
        must, must_not = maker.strict(asked)
        should = maker.plain(asked.plain, typos)
        if not should and not must:
            return []
        clauses = [(Occur.Must, each) for each in must]
        clauses += [(Occur.MustNot, each) for each in must_not]
        clauses += [(Occur.Should, each) for each in should]
        wanted = Query.boolean_query(clauses)
        if isinstance(file_ids, AllBut):
            hidden = Query.term_set_query(self._schema, "file_id", sorted(file_ids.hidden))
            wanted = Query.boolean_query([(Occur.Must, wanted), (Occur.MustNot, hidden)])
        elif file_ids is not None:
            inside = Query.term_set_query(self._schema, "file_id", sorted(file_ids))
            # The filter must not add to the score.
            inside = Query.const_score_query(inside, 0.0)
            wanted = Query.boolean_query([(Occur.Must, wanted), (Occur.Must, inside)])
        hits = searcher.search(wanted, limit=k, count=False).hits
        return [
            (number, float(score))
            for number, (score, _) in zip(_numbers(searcher, hits), hits, strict=True)
            if score > 0
        ]

    def unknown_words(self, query: str, *, operators: bool = True) -> set[str]:
        """Return the words of ``query`` whose stem no passage has: near ones are found."""
        asked = parse(query, operators)
        return {word for word, passages in self.frequencies(asked.plain).items() if not passages}

    def frequencies(self, text: str) -> dict[str, int]:
        """How many passages hold the stem of each telling word of ``text``."""
        maker = QueryMaker(self._schema, self._analysis, self._index.searcher(), self.boosts)
        content = self._analysis.content(text)
        return {word: maker.frequency(stem) for stem, word in content.items()}

    def permitted(self, query: str, numbers: Sequence[int], *, operators: bool = True) -> set[int]:
        """Return those of ``numbers`` that the query's quotes, pluses and minuses let through.

        What other searches found has to be held against them too.
        """
        from tantivy import Occur, Query

        asked = parse(query, operators)
        if not asked.strict or not numbers:
            return set(numbers)
        searcher = self._index.searcher()
        must, must_not = QueryMaker(self._schema, self._analysis, searcher, self.boosts).strict(
            asked
        )
        among = Query.term_set_query(self._schema, "number", list(numbers))
        clauses = [(Occur.Must, each) for each in (among, *must)]
        clauses += [(Occur.MustNot, each) for each in must_not]
        wanted = Query.boolean_query(clauses)
        hits = searcher.search(wanted, limit=len(numbers), count=False).hits
        return set(_numbers(searcher, hits))


def _numbers(searcher: Any, hits: list[tuple[Any, Any]]) -> list[int]:
    # A column read: 0.02 ms for 200 hits; stored in documents they took 0.22, ids as text 0.34.
    numbers: list[int] = searcher.fast_field_values("number", [where for _, where in hits])
    return numbers


def _stored(folder: Path) -> str | None:
    """What an index was made for, as far as its description can be read."""
    try:
        schema = json.loads((folder / "meta.json").read_text("utf-8"))["schema"]
        found = _MADE_FOR.search(json.dumps(schema))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _made_for(found[1], found[2]) if found else "an older format"


def _made_for(language: str, version: int | str) -> str:
    return f"'{language}' (format {version})"
