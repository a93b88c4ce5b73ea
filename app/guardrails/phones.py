"""Phone numbers: what Presidio's recognizer finds, without asking regions in vain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate, takewhile
from typing import Any

from app.guardrails.segments import BLANK, PUNCT

# Seven digits with at most what phonenumbers takes between them. A number of fewer digits is
# a year, an amount or a code far more often than a phone: Presidio takes "1690" for one.
CORE = re.compile(rf"\d(?:[{PUNCT}{BLANK}]{{0,4}}\d){{6,}}", re.IGNORECASE)
SHORTEST, LONGEST = 7, 26  # digits: the longest has 5 to call abroad, 3 of a country, 17 and one
_GROUP = re.compile(r"\d+")
_EXTENSION = re.compile(r"[x~\uff5e]", re.IGNORECASE)  # what is behind it counts as digits too
_BARE = re.compile(r"\(?\\1\)?")  # how a number is written that needs nothing before it
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

    A region is asked when some of the groups of digits, read together, are a number of one of
    its kinds, and no more are asked once all that can be a number has been found: a number that
    one region's rules take whole is the same by the next ones'.
    """

    def __init__(self, theirs: Any) -> None:
        from phonenumbers import SUPPORTED_REGIONS

        self.context = theirs.context
        self._score, self._leniency = theirs.SCORE, theirs.leniency
        # Presidio's list has "UK" and "FE", by which only numbers with a + are found, as by any
        self._regions = [r for r in theirs.supported_regions if r in SUPPORTED_REGIONS]

    def analyze(
        self,
        piece: str,
        _entities: Sequence[str],
        more: Sequence[str] = (),
        cores: Sequence[tuple[int, int]] | None = None,
    ) -> list[Any]:
        """Presidio's results for one piece.

        Args:
            more: regions to ask besides Presidio's own.
            cores: the spans that matter; None: all.
        """
        from phonenumbers import PhoneNumberMatcher
        from presidio_analyzer import EntityRecognizer, RecognizerResult

        cores = phone_cores(piece) if cores is None else cores
        read = [number for a, b in cores for number in _readings(piece[a:b])]
        abroad = any(sign in piece for sign in _PLUS)
        found: list[Any] = []
        for region in (*self._regions, *more):
            if not abroad and not any(map(_numbers_of(region).fullmatch, read)):
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


def _readings(core: str) -> list[str]:
    """What a core's groups of digits are, read together from any one to any later one.

    A number begins and ends with a group: phonenumbers cuts at what stands between them.
    """
    from phonenumbers import normalize_digits_only

    digits = core if core.isascii() else normalize_digits_only(core, keep_non_digits=True)
    groups = _GROUP.findall(digits)
    least = 1 if _EXTENSION.search(core) else SHORTEST
    return [
        read
        for first in range(len(groups))
        for read in takewhile(lambda so_far: len(so_far) <= LONGEST, accumulate(groups[first:]))
        if len(read) >= least
    ]


@cache
def _numbers_of(region: str) -> re.Pattern[str]:
    """The digits of a valid number by the rules of a region and those it shares, as dialled.

    Before it stands what phonenumbers strips: the prefix for calls abroad, with whatever follows
    it, or the country's own code and its prefix for calls within, which some must have.
    """
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, country_code_for_region

    code: int = country_code_for_region(region)
    of: Callable[[str], Any] = PhoneMetadata.metadata_for_region
    shared = [of(each) for each in COUNTRY_CODE_TO_REGION_CODE[code]]
    kinds = [getattr(data, kind) for data in shared for kind in _KINDS]
    national = _any(k.national_number_pattern for k in kinds if k and k.national_number_pattern)
    must: list[str] = []
    free: list[str] = []
    for form in shared[0].number_format:
        rule = form.national_prefix_formatting_rule
        bare = not rule or form.national_prefix_optional_when_formatting or _BARE.fullmatch(rule)
        lead = form.leading_digits_pattern[-1:] or [""]
        (free if bare else must).append(f"(?={lead[0]}){form.pattern}")
    own = of(region)
    within = own.national_prefix_for_parsing or "(?!)"
    if own.national_prefix_transform_rule:  # it takes digits of the number itself
        within = r"\d{0,6}"
    alone = rf"(?:(?={_any(free)}\Z)|(?!{_any(must)}\Z))"
    return re.compile(
        rf"{code}(?:{within})?{national}|(?:{within}){national}|{alone}{national}"
        rf"|(?:{own.international_prefix or '(?!)'})\d+"
    )


def _any(forms: Iterable[str]) -> str:
    return "(?:" + "|".join(f"(?:{form})" for form in dict.fromkeys(forms)) + ")"
