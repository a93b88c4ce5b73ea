"""Phone numbers: what Presidio's recognizer finds, without asking regions in vain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from app.guardrails.segments import BLANK, PUNCT

# Seven digits with at most what phonenumbers takes between them. A number of fewer digits is
# a year, an amount or a code far more often than a phone: Presidio takes "1690" for one.
CORE = re.compile(rf"\d(?:[{PUNCT}{BLANK}]{{0,4}}\d){{6,}}", re.IGNORECASE)
_PLUS = "+\uff0b"
# the kinds that make a number valid (phonenumberutil's number types)
_KINDS = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip",
    "pager", "uan", "voicemail",
)  # fmt: skip


def phone_cores(piece: str) -> list[tuple[int, int]]:
    """The spans in which alone a phone number can lie."""
    return [m.span() for m in CORE.finditer(piece)]


class PhoneNumbers:
    """Presidio's recognizer asks eight regions about each text; most of them in vain.

    A region is asked when the digits hold a number of one of its kinds, and no more are asked
    once all that can be a number has been found: a number that one region's rules take whole
    is the same by the next ones'.
    """

    def __init__(self, theirs: Any) -> None:
        from phonenumbers import SUPPORTED_REGIONS

        self.context = theirs.context
        self._score, self._leniency = theirs.SCORE, theirs.leniency
        # Presidio's list has "UK" and "FE", by which only numbers with a + are found, as by any
        self._regions = [r for r in theirs.supported_regions if r in SUPPORTED_REGIONS]

    def analyze(self, piece: str, _entities: Sequence[str], more: Sequence[str] = ()) -> list[Any]:
        """Presidio's results for one piece; ``more`` are regions to ask besides its own."""
        from phonenumbers import PhoneNumberMatcher, normalize_digits_only
        from presidio_analyzer import EntityRecognizer, RecognizerResult

        cores = phone_cores(piece)
        digits = [normalize_digits_only(piece[a:b]) for a, b in cores]
        abroad = any(sign in piece for sign in _PLUS)
        found: list[Any] = []
        for region in (*self._regions, *more):
            if not abroad and not any(map(_numbers_of(region).search, digits)):
                continue
            abroad = False  # such numbers are the same for all regions
            found += [
                RecognizerResult("PHONE_NUMBER", match.start, match.end, self._score)
                for match in PhoneNumberMatcher(piece, region, leniency=self._leniency)
            ]
            if all(any(f.start <= a and b <= f.end for f in found) for a, b in cores):
                break
        unique: list[Any] = EntityRecognizer.remove_duplicates(found)
        return unique


@cache
def _numbers_of(region: str) -> re.Pattern[str]:
    """What the digits of a valid number hold, by the rules of a region and those it shares."""
    from phonenumbers import (
        COUNTRY_CODE_TO_REGION_CODE,
        PhoneMetadata,
        country_code_for_region,
    )

    code: int = country_code_for_region(region)
    forms: dict[str, None] = {}
    for shared in COUNTRY_CODE_TO_REGION_CODE[code]:
        data = PhoneMetadata.metadata_for_region(shared)
        kinds = [getattr(data, kind) for kind in _KINDS]
        forms |= {k.national_number_pattern: None for k in kinds if k and k.national_number_pattern}
    return re.compile("|".join(f"(?:{form})" for form in forms))
