"""The word index of one collection: a Tantivy index in a local folder."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.errors import Unavailable

_ANALYZER = "ostiary_en"
_WRITER_BYTES = 15_000_000  # the least Tantivy takes for one thread
_MAX_TERMS = 128
_SECTION_BOOST = 0.5


def _analyzer(without_stopwords: bool) -> Any:
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

    builder = TextAnalyzerBuilder(Tokenizer.simple())
    builder = builder.filter(Filter.remove_long(64)).filter(Filter.lowercase())
    if without_stopwords:
        builder = builder.filter(Filter.stopword("english"))
    return builder.filter(Filter.ascii_fold()).filter(Filter.stemmer("english")).build()


class LexicalIndex:
    """Finds passages by their words (BM25, English stems).

    Many threads may search while one writes. Added rows are found after ``commit``; the writer
    opens at the first change and closes at ``commit``, so that idle collections hold no memory
    and no lock.
    """

    def __init__(self, folder: Path) -> None:
        import tantivy

        schema = (
            tantivy.SchemaBuilder()
            .add_text_field("passage_id", stored=True, tokenizer_name="raw", index_option="basic")
            .add_text_field("file_id", tokenizer_name="raw", index_option="basic")
            .add_text_field("section", tokenizer_name=_ANALYZER, index_option="freq")
            .add_text_field("text", tokenizer_name=_ANALYZER, index_option="freq")
            .build()
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._schema = schema
        self._index = tantivy.Index(schema, path=str(folder))
        self._words = _analyzer(without_stopwords=False)
        self._content_words = _analyzer(without_stopwords=True)
        self._index.register_tokenizer(_ANALYZER, self._words)
        self._index.config_reader("manual", 1)
        self._writer: Any = None
        self._writing = threading.RLock()

    @classmethod
    def open(cls, folder: Path) -> LexicalIndex:
        """Open the index in ``folder``, making it if there is none."""
        return cls(Path(folder))

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

    def add(self, rows: Iterable[tuple[str, str, str | None, str]]) -> None:
        """Add rows of (passage id, file id, section, text); a known passage is replaced."""
        from tantivy import Document

        with self._writing:
            writer = self._open_writer()
            for passage_id, file_id, section, text in rows:
                writer.delete_documents_by_term("passage_id", passage_id)
                document = Document()
                document.add_text("passage_id", passage_id)
                document.add_text("file_id", file_id)
                document.add_text("section", section or "")
                document.add_text("text", text)
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

    def terms(self, query: str) -> list[str]:
        """Return the stems a query is searched by; common words only if there are no others."""
        found = self._content_words.analyze(query) or self._words.analyze(query)
        return list(dict.fromkeys(found))[:_MAX_TERMS]

    def search(
        self, query: str, k: int, file_ids: set[str] | None = None
    ) -> list[tuple[str, float]]:
        """Return at most ``k`` pairs (passage id, BM25 score above 0), best first.

        Args:
            query: any text; it has no syntax and never fails to parse.
            k: how many to return.
            file_ids: search only the passages of these files.
        """
        from tantivy import Occur, Query

        terms = self.terms(query)
        if not terms or k < 1 or (file_ids is not None and not file_ids):
            return []
        clauses = []
        for term in terms:
            clauses.append((Occur.Should, Query.term_query(self._schema, "text", term, "freq")))
            heading = Query.term_query(self._schema, "section", term, "freq")
            clauses.append((Occur.Should, Query.boost_query(heading, _SECTION_BOOST)))
        wanted = Query.boolean_query(clauses)
        if file_ids is not None:
            inside = Query.term_set_query(self._schema, "file_id", sorted(file_ids))
            # The filter must not add to the score.
            inside = Query.const_score_query(inside, 0.0)
            wanted = Query.boolean_query([(Occur.Must, wanted), (Occur.Must, inside)])
        searcher = self._index.searcher()
        hits = searcher.search(wanted, limit=k, count=False).hits
        return [(searcher.doc(where)["passage_id"][0], float(score)) for score, where in hits]
