"""What the recognizers know of a language: context words, idle words and the region of phones."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from pydantic import Field

from app.monitoring.language import common_words

Language = Annotated[
    str, Field(pattern="^[a-z]{2,3}$", description="ISO 639 code of a language, as fr.")
]
Languages = tuple[str, ...]  # in alphabetical order
ENGLISH: Languages = ("en",)
LEAST_WORDS = 2  # common words of a language, from which on a text can be of it alone, and
TIMES = 2  # more than so many times what any other language of the policy has in it

# phone numbers written as within the country; Presidio's own list has US, DE, IL, IN, CA and BR
_REGION = {
    "da": "DK", "es": "ES", "fi": "FI", "fr": "FR", "it": "IT", "nl": "NL", "no": "NO", "pl": "PL",
    "pt": "PT", "sv": "SE", "tr": "TR",
}  # fmt: skip
# kinds of entity types, by how these end
_KINDS = {
    "card": ("CREDIT_CARD",),
    "phone": ("PHONE_NUMBER",),
    "account": ("IBAN_CODE", "US_BANK_NUMBER"),
    "passport": ("_PASSPORT",),
    "licence": ("_DRIVER_LICENSE", "_DRIVING_LICENCE", "_FUEHRERSCHEIN"),
    "vat": ("_VAT", "_VAT_ID", "_VAT_CODE", "_VAT_NUMBER"),
    "tax": ("DE_TAX_ID", "DE_TAX_NUMBER", "ES_NIF", "FR_NIF", "IT_FISCAL_CODE", "US_ITIN"),
    "identity": ("DE_ID_CARD", "ES_NIE", "ES_NIF", "IT_IDENTITY_CARD", "NL_BSN", "PL_PESEL"),
    "plate": ("DE_KFZ", "_LICENSE_PLATE", "_VEHICLE_REGISTRATION"),
    "social": ("DE_SOCIAL_SECURITY", "FR_NIR", "US_SSN", "UK_NINO"),
}
# what such values are called, in lower case, in the form of words_before(): a phrase has no idle
# words, and a part of a word is as good as it; English words are each recognizer's own
_CALLED = {
    "de": {
        "card": "kreditkarte, kartennummer",
        "phone": "telefon, tel, handy, mobil, anruf",
        "account": "konto, bankverbindung",
        "passport": "reisepass, passnummer",
        "licence": "führerschein, fahrerlaubnis",
        "vat": "umsatzsteuer, mwst, ust",
        "tax": "steuer",
        "identity": "ausweis",
        "plate": "kennzeichen",
        "social": "sozialversicherung",
    },
    "es": {
        "card": "tarjeta",
        "phone": "teléfono, tel, móvil, celular, llamar",
        "account": "cuenta",
        "passport": "pasaporte",
        "licence": "permiso conducir, carné conducir, licencia conducir",
        "vat": "iva",
        "tax": "fiscal, tributaria, hacienda",
        "identity": "identidad",
        "plate": "matrícula",
        "social": "seguridad social",
    },
    "fr": {
        "card": "carte",
        "phone": "téléphone, tél, tel, portable, mobile, appel, joindre",
        "account": "compte, rib",
        "passport": "passeport",
        "licence": "permis",
        "vat": "tva, intracommunautaire",
        "tax": "fiscal, impôt",
        "identity": "identité",
        "plate": "immatricul, plaque",
        "social": "sécurité sociale, sécu",
    },
    "it": {
        "card": "carta credito",
        "phone": "telefono, tel, cellulare, chiamare",
        "account": "conto corrente, numero conto",
        "passport": "passaporto",
        "licence": "patente",
        "vat": "iva",
        "tax": "fiscale",
        "identity": "identità",
        "plate": "targa",
        "social": "previdenza sociale",
    },
    "nl": {
        "card": "kaart, creditcard",
        "phone": "telefoon, tel, mobiel, bellen",
        "account": "rekening",
        "passport": "paspoort",
        "licence": "rijbewijs",
        "vat": "btw",
        "tax": "belasting",
        "identity": "identiteit",
        "plate": "kenteken",
        "social": "sofinummer",
    },
    "pl": {
        "card": "karta, karty, kartą",
        "phone": "telefon, tel, komórk",
        "account": "konto, konta, rachunek, rachunku",
        "passport": "paszport",
        "licence": "prawo jazdy, prawa jazdy",
        "vat": "vat",
        "tax": "podatk",
        "identity": "dowód, dowodu",
        "plate": "rejestracyjn",
        "social": "ubezpiecz",
    },
    "pt": {
        "card": "cartão",
        "phone": "telefone, tel, telemóvel, celular, ligar",
        "account": "conta",
        "passport": "passaporte",
        "licence": "condução",
        "vat": "iva",
        "tax": "fiscal, contribuinte",
        "identity": "identidade, cidadão",
        "plate": "matrícula",
        "social": "segurança social",
    },
}


def called(entity: str, languages: Languages) -> tuple[str, ...]:
    """The context words of an entity type in these languages, besides its own ones."""
    return () if languages == ENGLISH else _called(entity, languages)


@lru_cache(1024)  # tenants choose what comes here
def _called(entity: str, languages: Languages) -> tuple[str, ...]:
    return tuple(
        word
        for language in languages
        for kind, words in _CALLED.get(language, {}).items()
        if entity.endswith(_KINDS[kind])
        for word in words.split(", ")
    )


@lru_cache(1024)  # tenants choose what comes here
def regions(languages: Languages) -> tuple[str, ...]:
    """Where phone numbers are looked for as they are written within the country."""
    return tuple(_REGION[language] for language in languages if language in _REGION)


EVERY: Languages = tuple(sorted(_REGION))  # for what must hold whatever a text's language is


def spoken(text: str, languages: Languages) -> Languages:
    """The languages that a text may be in: one that it is in beyond doubt, else all of them."""
    if len(languages) == 1:
        return languages
    found = common_words(text)
    best = max(languages, key=lambda language: found.get(language, 0))
    words = found.get(best, 0)
    if words < LEAST_WORDS:
        return languages
    for language, count in found.items():
        if language != best and (
            count >= words or (language in languages and count * TIMES >= words)
        ):
            return languages
    return (best,)
