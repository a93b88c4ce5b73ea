"""The entity types that Ostiary finds, and how."""

from __future__ import annotations

PATTERN_ENTITIES = frozenset(
    {
        "EMAIL_ADDRESS",
        "PHONE_NUMBER",
        "CREDIT_CARD",
        "IBAN_CODE",
        "US_SSN",
        "IP_ADDRESS",
        "CRYPTO",
    }
)
# the label of a spaCy model -> Presidio's entity type, as Presidio maps it; and the labels of the
# Polish and Swedish models, which Presidio leaves unmapped
NER_LABELS = {
    "PERSON": "PERSON",
    "PER": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "LOCATION": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "ORGANIZATION": "ORGANIZATION",
    "NORP": "NRP",
    "DATE": "DATE_TIME",
    "TIME": "DATE_TIME",
    "persName": "PERSON",
    "placeName": "LOCATION",
    "geogName": "LOCATION",
    "orgName": "ORGANIZATION",
    "date": "DATE_TIME",
    "time": "DATE_TIME",
    "PRS": "PERSON",
    "TME": "DATE_TIME",
}
NER_ENTITIES = frozenset(NER_LABELS.values())
# see docs/attacks.md
ATTACK_ENTITIES = frozenset(
    {
        "PROMPT_INJECTION",
        "SYSTEM_PROMPT_LEAK",
        "SECRET",
        "EXFILTRATION",
        "HIDDEN_TEXT",
        "ENCODED_PAYLOAD",
    }
)
NER_SCORE = 0.85  # what Presidio gives a finding of a language model
