"""How text becomes search terms, language by language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from app.errors import BadRequest

FORMAT = 2  # raise it when the same text gives other terms: older word indexes are then rebuilt

_NAMES = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "fi": "finnish", "fr": "french", "hu": "hungarian", "it": "italian",
    "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
STEMMED = tuple(sorted(_NAMES))
UNSTEMMED = ("ja", "km", "ko", "lo", "my", "th", "und", "zh")
LANGUAGES = STEMMED + UNSTEMMED

_WITHOUT_STOPWORDS = {"ar", "el", "ro", "ta", "tr"}  # Tantivy has a stemmer for them, no list
# Scripts whose vowel signs are marks: Tantivy's faster tokenizer would cut words at them.
_MARKED = {"ar", "ta", *UNSTEMMED}
_LONGEST_WORD = 64  # bytes
_LONGEST_IDENTIFIER = 100
_MOST_COMPONENTS = 8

# The English list of the Snowball project (snowballstem.org). Tantivy's has 33 words, without
# the words that questions are made of; this one lifts Cranfield's nDCG@10
# from 0.382 to 0.389.
_ENGLISH = (
    "i me my myself we us our ours ourselves you your yours yourself yourselves he him his "
    "himself she her hers herself it its itself they them their theirs themselves what which who "
    "whom this that these those am is are was were be been being have has had having do does did "
    "doing will would shall should can could may might must ought a an the and but if or because "
    "as until while of at by for with about against between into through during before after "
    "above below to from up down in out on off over under again further then once here there when "
    "where why how all any both each few more most other some such no nor not only own same so "
    "than too very"
)

# Han, kana, Hangul, Thai, Lao, Burmese, Khmer: written without spaces, or (Korean) with endings
# grown onto the words.
_UNSPACED = re.compile(
    "[\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\uac00-\ud7a3\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u1000-\u103f\u1780-\u17d3]+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CLUSTER = re.compile(
    r"[\u1100-\u11ff]+|.[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u3099\u309a]*", re.S
)
_IDENTIFIER = re.compile(
    r"""
      (?<![\w-])--?[A-Za-z]\w++(?:-\w++)*+                      # --no-deps -Wall
    | (?<!\w)\w++(?:(?:::|->|://|[-./\\@\#:$])\w++)++           # CVE-2024-3094 django.db.models.F
    | (?<!\w)(?=[^\W_]*+_|_*+\w*?[a-z0-9][A-Z])\w*[^\W_]\w*+    # foo_bar _Some fooBar
    | (?<![\w])[A-Za-z](?:\+\+|\#)(?!\w)                        # C++ C#
    """,
    re.X,
)
_COMPONENT = re.compile(r"::|->|://|[./\\@#:$]")
_CAMEL = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]")
_HUMP = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text.

    Attributes:
        stem: what it is searched by.
        surface: the word itself, in small letters without accents.
        start, end: its place in the text, in characters.
        common: whether it is one of the language's most common words, as ``the``.
    """

    stem: str
    surface: str
    start: int
    end: int
    common: bool


class Analysis:
    """The terms of one language; ``analysis(language)`` keeps one of each."""

    def __init__(self, language: str) -> None:
        from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

        if language not in LANGUAGES:
            raise BadRequest(
                f"There are no search terms for the language {language!r}. Choose one of "
                f"{', '.join(LANGUAGES)}; 'und' suits any other language.",
                param="language",
                code="unknown_language",
            )
        self.language = language

        def build(*filters: Any) -> Any:
            marked = language in _MARKED
            tokenizer = Tokenizer.regex(r"[\p{L}\p{M}\p{N}]+") if marked else Tokenizer.simple()
            builder = TextAnalyzerBuilder(tokenizer)
            for each in (Filter.remove_long(_LONGEST_WORD), Filter.lowercase(), *filters):
                builder = builder.filter(each)
            return builder.build()

        fold = [Filter.ascii_fold()]
        # Stemmers know the accents of their language, so that these go last; English has none.
        name = _NAMES.get(language)
        stem = [] if name is None else [Filter.stemmer(name)]
        self.stems = build(*fold, *stem) if language == "en" else build(*stem, *fold)
        self.surfaces = build(*fold)
        if language == "en":
            self._content = build(Filter.custom_stopword(_ENGLISH.split()))
        elif name is not None and language not in _WITHOUT_STOPWORDS:
            self._content = build(Filter.stopword(name))
        else:
            self._content = None

    def prepare(self, text: str) -> str:
        """Return ``text`` as both analysers take it: NFKC, unspaced scripts as bigrams."""
        if text.isascii():
            return text
        text = unicodedata.normalize("NFKC", _SURROGATE.sub("\ufffd", text))
        return _UNSPACED.sub(lambda run: f" {' '.join(_bigrams(run[0]))} ", text)

    def words(self, text: str) -> list[Word]:
        """Return the words of ``text`` in order; neighbouring bigrams overlap."""
        prepared, places = _mapped(text)
        stems = self.stems.pre_tokenize(prepared).tokens
        surfaces = self.surfaces.pre_tokenize(prepared).tokens
        words: list[Word] = []
        common: dict[str, bool] = {}
        for stem, surface in zip(stems, surfaces, strict=True):
            first, last = surface.char_offset_from, surface.char_offset_to - 1
            start, end = (
                (first, last + 1) if places is None else (places[first][0], places[last][1])
            )
            written = prepared[first : last + 1]
            if written not in common:
                common[written] = self._is_common(written)
            words.append(Word(stem.text, surface.text, start, end, common[written]))
        return words

    def content(self, text: str) -> dict[str, str]:
        """Return stem -> word for the words that tell something, those in humps included.

        Common words are among them only where there are no others.
        """
        words = self.words(text)
        # IT, US and WHO among small letters are names, not common words.
        shouted = text.isupper()
        found = {
            word.stem: word.surface
            for word in words
            if not word.common
            or (not shouted and word.end - word.start > 1 and text[word.start : word.end].isupper())
        }
        inside = " ".join(hump for name in sorted(names(text)) for hump in humps(name))
        for word in self.words(inside):
            found.setdefault(word.stem, word.surface)
        return found or {word.stem: word.surface for word in words}

    def _is_common(self, word: str) -> bool:
        return self._content is not None and not self._content.analyze(word)


@lru_cache(maxsize=len(LANGUAGES))
def analysis(language: str) -> Analysis:
    """Return the analysis of a language.

    Args:
        language: an ISO 639-1 code of ``LANGUAGES``; ``und`` for any other language.

    Raises:
        BadRequest: there is none for this language.
    """
    return Analysis(language)


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(max(1, len(run) - 1))]


def is_unspaced(word: str) -> bool:
    """Whether ``word`` is of a script that is searched by pairs of characters."""
    return _UNSPACED.fullmatch(word) is not None


def _mapped(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """Return ``prepare(text)`` with the place of each of its characters in ``text``.

    The places are None where nothing moved.
    """
    if text.isascii() or (
        unicodedata.is_normalized("NFKC", text)
        and not _UNSPACED.search(text)
        and not _SURROGATE.search(text)
    ):
        return text, None
    letters: list[str] = []
    places: list[tuple[int, int]] = []
    for cluster in _CLUSTER.finditer(_SURROGATE.sub("\ufffd", text)):
        for letter in unicodedata.normalize("NFKC", cluster[0]):
            letters.append(letter)
            places.append(cluster.span())
    plain, end = "".join(letters), 0
    out: list[str] = []
    moved: list[tuple[int, int]] = []
    for run in _UNSPACED.finditer(plain):
        out.append(plain[end : run.start()])
        moved += places[end : run.start()]
        end = run.end()
        for i, pair in enumerate(_bigrams(run[0]), start=run.start()):
            out.append(f" {pair}")
            moved += [places[i], *places[i : i + len(pair)]]
        out.append(" ")
        moved.append(places[end - 1])
    return "".join([*out, plain[end:]]), moved + places[end:]


def identifiers(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the names of code, files, versions and the like in ``text`` with their places.

    A name has a joint (``CVE-2024-3094``, ``django.db.models.F``, ``foo_bar``, ``a/b``), a hump
    (``HttpResponse``), leading dashes (``--no-deps``) or ends in ``++`` or ``#``.
    """
    for found in _IDENTIFIER.finditer(text):
        yield found[0][:_LONGEST_IDENTIFIER], found.start(), found.end()


def names(text: str) -> set[str]:
    """Return the names that ``identifiers`` finds; five times as fast on prose."""
    unusual = {
        chunk
        for chunk in set(text.split())
        if not (bare := chunk.rstrip(".,;:")).isalpha() or not (bare.islower() or bare.istitle())
    }
    return {name for chunk in unusual for name, _, _ in identifiers(chunk)}


def name_terms(name: str) -> list[str]:
    """Return the terms that an identifier is indexed by: itself, and what it is built of.

    ``django.db.models.F`` gives itself, ``db.models.f``, ``models.f`` and the ways to it,
    ``django.db`` and ``django.db.models``. Plain words in it are found in the text anyway.
    """
    whole = name.lower()
    terms = [whole]
    if whole.startswith("-"):
        terms.append(whole.lstrip("-"))
    parts = list(_COMPONENT.finditer(whole))[: _MOST_COMPONENTS - 1]
    if parts:
        tails = [whole[joint.end() :] for joint in parts[:-1]]
        terms += [tail for tail in tails if not tail[0].isdigit()]  # 2.3 is no way to say 1.2.3
        terms += [whole[: joint.start()] for joint in parts[1:]]
        terms += [part.lower() for part in _COMPONENT.split(name) if _IDENTIFIER.fullmatch(part)]
    return list(dict.fromkeys(terms))


def humps(name: str) -> list[str]:
    """Return the words inside the humps of a name: ``HttpResponse`` gives Http, Response."""
    return [
        hump
        for part in re.split(r"[\W_]+", name)
        if _CAMEL.search(part)
        for hump in _HUMP.findall(part)
        if len(hump) > 1
    ]
