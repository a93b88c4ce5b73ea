"""Tantivy queries from what a user wrote."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from app.retrieval.analysis import Analysis, identifiers, is_unspaced, names
from app.retrieval.query_syntax import ParsedQuery
from app.retrieval.typos import most_typos, typos_between

_MOST_TERMS = 64
_MOST_NAMES = 16
_MOST_PHRASE_WORDS = 32
_MOST_TYPOS = 4  # looking for near words walks the dictionary: some ms each
_MOST_NEIGHBOURS = 400  # words with the same first two letters, the most frequent ones
_MOST_NEAR = 5
_HYPHENATED = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)+")
_PROSE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Boosts:
    """How much a match counts beside one in the text, which counts 1; 0 leaves a field out.

    Measured, one changed at a time, on Cranfield (titles as sections; nDCG@10) and on the links
    of Django's documentation (989 link texts, the page they lead to; MRR of pages).

    Attributes:
        section: a word in the section path. At 0.25, 0.5, 0.75, 1, 1.5: Cranfield 0.384, 0.386,
            0.389, 0.385, 0.381; links 0.759, 0.776, 0.776, 0.775, 0.756.
        title: a word in the title or file name. At 0, 0.25, 0.5, 0.75, 1: links 0.739, 0.761,
            0.776, 0.771, 0.764.
        name: a whole identifier, over the words it is built of. At 0, 1, 2, 3 the passages with
            one of 400 rare identifiers lead by 0.48, 0.77, 0.90, 0.93 (R-precision), and
            Cranfield has 0.389, 0.390, 0.389, 0.386.
        typo: words near one that is nowhere in the index. At 0, 0.25, 0.5, 0.75, 1: links whose
            longest word was misspelt 0.590, 0.653, 0.684, 0.704, 0.712 (spelt right: 0.777).
    """

    section: float = 0.75
    title: float = 0.5
    name: float = 2.0
    typo: float = 0.75


class QueryMaker:
    """Makes Tantivy's queries for one search of one index."""

    def __init__(self, schema: Any, terms: Analysis, searcher: Any, boosts: Boosts) -> None:
        self._schema, self._analysis = schema, terms
        self._searcher, self._boosts = searcher, boosts
        self._fields = (("text", 1.0), ("section", boosts.section), ("title", boosts.title))

    def plain(self, text: str, typos: bool) -> list[Any]:
        """Return what may match: words in every field, identifiers, words near unknown ones."""
        surface_of = self._analysis.content(text)
        rarity = {stem: self.frequency(stem) for stem in surface_of}
        unknown = [stem for stem, frequency in rarity.items() if not frequency]
        known = [stem for stem, frequency in rarity.items() if frequency]
        # The rarest words tell most; sorted() is stable.
        queries = [
            query
            for stem in sorted(known, key=rarity.__getitem__)[:_MOST_TERMS]
            for query in self._word(stem)
        ]
        if self._boosts.name > 0:
            found = sorted({name.lower() for name in names(text)})
            queries += [self._name(name) for name in found[:_MOST_NAMES]]
        queries += [self._single(s) for s in unknown if is_unspaced(s) and len(s) == 1]
        surfaces = sorted({surface_of[stem] for stem in unknown}, key=len, reverse=True)
        # Without its accents a word may have another stem, and still is the word as written.
        written = [s for s in surfaces if self._searcher.doc_freq("exact", s)]
        queries += [self._term("exact", surface) for surface in written[:_MOST_TERMS]]
        if typos and self._boosts.typo > 0:
            lost = [s for s in surfaces if s not in written]
            wrong = [s for s in lost if most_typos(s) and not is_unspaced(s)]
            queries += [query for each in wrong[:_MOST_TYPOS] for query in self._near(each)]
        return queries

    def strict(self, asked: ParsedQuery) -> tuple[list[Any], list[Any]]:
        """Return what must match, and what must not."""
        must = [self._literal(each) for each in asked.phrases]
        must += [self._required(each) for each in asked.required]
        must_not = [self._literal(each) for each in asked.excluded_phrases]
        must_not += [self._required(each) for each in asked.excluded]
        return [each for each in must if each], [each for each in must_not if each]

    def frequency(self, stem: str) -> int:
        """The number of passages with ``stem``; 0 only where no field of any has it."""
        count = self._searcher.doc_freq
        return int(count("text", stem) or count("section", stem) or count("title", stem))

    def _term(self, field: str, term: str) -> Any:
        from tantivy import Query

        return Query.term_query(self._schema, field, term, "freq")

    def _boosted(self, query: Any, boost: float) -> Any:
        from tantivy import Query

        return query if boost == 1 else Query.boost_query(query, boost)

    def _word(self, stem: str) -> list[Any]:
        return [self._boosted(self._term(f, stem), boost) for f, boost in self._fields if boost]

    def _name(self, name: str) -> Any:
        # two-dimensional may be a name, but mostly is prose that others write in two words.
        share = _PROSE_SHARE if _HYPHENATED.fullmatch(name) else 1.0
        return self._boosted(self._term("names", name), self._boosts.name * share)

    def _single(self, letter: str) -> Any:
        """One character of an unspaced script, which is indexed by pairs."""
        from tantivy import Query

        return Query.regex_query(self._schema, "text", f"{letter}.?|.{letter}")

    def _near(self, surface: str) -> list[Any]:
        """The words near one that is unknown; none where there are none.

        Typing errors are rare in the first letters (Pollock and Zamora, CACM 27(4), 1984), and
        the words with the same two are listed in 0.2 ms. Otherwise one error is looked for with
        an automaton, a walk through the whole dictionary: 2 ms for 50,000 words (two errors: 15).
        """
        from tantivy import Query

        most = most_typos(surface)
        listed = self._searcher.terms_with_prefix("exact", surface[:2], None, _MOST_NEIGHBOURS)
        near: dict[int, list[str]] = {}
        for word, _ in listed:
            errors = typos_between(surface, word, most)
            if errors is not None:
                near.setdefault(errors, []).append(word)
        if 1 not in near:
            automaton = Query.fuzzy_term_query(self._schema, "exact", surface, 1)
            found = self._searcher.search(automaton, limit=1, count=True).count
            if found:  # it scores 1 whatever it meets: give it the weight of a word as rare
                idf = math.log1p((self._searcher.num_docs - found + 0.5) / (found + 0.5))
                return [Query.const_score_query(automaton, self._boosts.typo * idf)]
        chosen = near[min(near)] if near else []
        return [
            self._boosted(self._term("exact", word), self._boosts.typo)
            for word in chosen[:_MOST_NEAR]
        ]

    def _literal(self, text: str) -> Any | None:
        """These words in this order, as they are written; an identifier as a whole."""
        from tantivy import Occur, Query

        prepared = self._analysis.prepare(text)
        words = self._analysis.surfaces.analyze(prepared)[:_MOST_PHRASE_WORDS]
        choices = []
        name = next(identifiers(text.strip()), None)
        is_name = name is not None and name[1:] == (0, len(text.strip()))
        if is_name and name is not None:
            choices.append(self._term("names", name[0].lower()))
        if len(words) > 1:
            choices.append(Query.phrase_query(self._schema, "exact", words))
        elif len(words) == 1 and not is_name:
            lone = is_unspaced(words[0]) and len(words[0]) == 1
            choices.append(self._single(words[0]) if lone else self._term("exact", words[0]))
        if not choices:
            return None
        return Query.boolean_query([(Occur.Should, each) for each in choices])

    def _required(self, text: str) -> Any | None:
        """This word, in any of its forms, in any field, a field that counts 0 too."""
        from tantivy import Occur, Query

        stems = self._analysis.stems.analyze(self._analysis.prepare(text))
        if len(stems) != 1 or is_unspaced(stems[0]) or next(identifiers(text), None):
            return self._literal(text)
        words = [self._boosted(self._term(f, stems[0]), boost) for f, boost in self._fields]
        return Query.boolean_query([(Occur.Should, word) for word in words])
