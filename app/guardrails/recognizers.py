"""Presidio's pattern recognizers, each with a condition that every value of it meets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app.errors import MissingExtra
from app.guardrails.phones import CORE, PhoneNumbers
from app.guardrails.urls import suffixes

Needs = Callable[[str], Any]
_CARD = re.compile(r"(?:\d[- ]?){12}\d")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]{4}")
_SSN = re.compile(r"[0-9]{3}[- .]?[0-9]{2}[- .]?[0-9]{4}")
_CRYPTO = re.compile(r"(?:bc1|[13])\w{25}", re.IGNORECASE)
_IP = re.compile(r"\d\.\d{1,3}\.\d|:[0-9A-Fa-f]{0,4}:")


def counts(entity: str, value: str) -> bool:
    """Whether a finding of Presidio counts: phone numbers need seven digits."""
    return entity != "PHONE_NUMBER" or CORE.search(value) is not None


@contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Import something as if these modules were not installed.

    Presidio and spaCy load torch wherever it is (the extra ``convert`` brings it), and use it for
    nothing here: four seconds of the start, and 300 MB.
    """
    unseen = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unseen))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in unseen:
            del sys.modules[name]


def pattern_recognizers() -> dict[str, tuple[Needs, Any]]:
    """Load the recognizers; slow the first time.

    Raises:
        MissingExtra: Presidio is not installed.
    """
    try:
        with hidden("torch", "transformers"):
            import tldextract
            from presidio_analyzer.predefined_recognizers import (
                CreditCardRecognizer,
                CryptoRecognizer,
                EmailRecognizer,
                IbanRecognizer,
                IpRecognizer,
                PhoneRecognizer,
                UsSsnRecognizer,
            )
    except ImportError as error:
        raise MissingExtra("Presidio", "guardrails") from error
    # Presidio writes the values that it cannot validate to its log.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL + 1)
    tldextract.tldextract.TLD_EXTRACTOR = suffixes()
    email = EmailRecognizer()
    email.analyze("a@example.com", ["EMAIL_ADDRESS"])  # reads that list now
    return {
        "EMAIL_ADDRESS": (re.compile(r"@\w").search, email),
        "CREDIT_CARD": (_CARD.search, CreditCardRecognizer()),
        "IBAN_CODE": (_IBAN.search, IbanRecognizer()),
        "US_SSN": (_SSN.search, UsSsnRecognizer()),
        "CRYPTO": (_CRYPTO.search, CryptoRecognizer()),
        "IP_ADDRESS": (_IP.search, IpRecognizer()),
        "PHONE_NUMBER": (CORE.search, PhoneNumbers(PhoneRecognizer())),  # last: the slowest
    }
