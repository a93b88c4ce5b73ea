"""Entity types by country: Presidio's recognizers, and ours where Presidio has none.

Presidio's own recognizers are patterns, a check of the digits and words of context; they are run
here by :class:`Recognizer`, which refuses a call where a pattern takes too long (Presidio leaves
the pattern out) and needs no language model for the context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from app.errors import MissingExtra
from app.guardrails.patterns import Pattern, Recognizer
from app.guardrails.urls import url_recognizer

# set -> entity type -> Presidio's class
_PRESIDIO = {
    "au": {
        "AU_ABN": "AuAbnRecognizer",
        "AU_ACN": "AuAcnRecognizer",
        "AU_MEDICARE": "AuMedicareRecognizer",
        "AU_TFN": "AuTfnRecognizer",
    },
    "ca": {"CA_POSTAL_CODE": "CaPostalCodeRecognizer", "CA_SIN": "CaSinRecognizer"},
    "de": {
        "DE_BSNR": "DeBsnrRecognizer",
        "DE_FUEHRERSCHEIN": "DeFuehrerscheinRecognizer",
        "DE_HANDELSREGISTER": "DeHandelsregisterRecognizer",
        "DE_HEALTH_INSURANCE": "DeHealthInsuranceRecognizer",
        "DE_ID_CARD": "DeIdCardRecognizer",
        "DE_KFZ": "DeKfzRecognizer",
        "DE_LANR": "DeLanrRecognizer",
        "DE_PASSPORT": "DePassportRecognizer",
        "DE_PLZ": "DePlzRecognizer",
        "DE_SOCIAL_SECURITY": "DeSocialSecurityRecognizer",
        "DE_TAX_ID": "DeTaxIdRecognizer",
        "DE_TAX_NUMBER": "DeTaxNumberRecognizer",
        "DE_VAT_ID": "DeVatIdRecognizer",
    },
    "es": {
        "ES_NIE": "EsNieRecognizer",
        "ES_NIF": "EsNifRecognizer",
        "ES_PASSPORT": "EsPassportRecognizer",
    },
    "fi": {"FI_PERSONAL_IDENTITY_CODE": "FiPersonalIdentityCodeRecognizer"},
    "in": {
        "IN_AADHAAR": "InAadhaarRecognizer",
        "IN_GSTIN": "InGstinRecognizer",
        "IN_PASSPORT": "InPassportRecognizer",
        "IN_VEHICLE_REGISTRATION": "InVehicleRegistrationRecognizer",
        "IN_VOTER": "InVoterRecognizer",
    },
    "it": {
        "IT_DRIVER_LICENSE": "ItDriverLicenseRecognizer",
        "IT_FISCAL_CODE": "ItFiscalCodeRecognizer",
        "IT_IDENTITY_CARD": "ItIdentityCardRecognizer",
        "IT_PASSPORT": "ItPassportRecognizer",
        "IT_VAT_CODE": "ItVatCodeRecognizer",
    },
    "kr": {
        "KR_BRN": "KrBrnRecognizer",
        "KR_DRIVER_LICENSE": "KrDriverLicenseRecognizer",
        "KR_FRN": "KrFrnRecognizer",
        "KR_PASSPORT": "KrPassportRecognizer",
        "KR_RRN": "KrRrnRecognizer",
    },
    "ng": {
        "NG_NIN": "NgNinRecognizer",
        "NG_VEHICLE_REGISTRATION": "NgVehicleRegistrationRecognizer",
    },
    "ph": {
        "PH_PASSPORT": "PhPassportRecognizer",
        "PH_TIN": "PhTinRecognizer",
        "PH_UMID": "PhUmidRecognizer",
    },
    "pl": {"PL_PESEL": "PlPeselRecognizer"},
    "se": {
        "SE_ORGANISATIONSNUMMER": "SeOrganisationsnummerRecognizer",
        "SE_PERSONNUMMER": "SePersonnummerRecognizer",
    },
    "sg": {"SG_NRIC_FIN": "SgFinRecognizer", "SG_UEN": "SgUenRecognizer"},
    "th": {"TH_TNIN": "ThTninRecognizer"},
    "tr": {
        "TR_LICENSE_PLATE": "TrLicensePlateRecognizer",
        "TR_NATIONAL_ID": "TrNationalIdRecognizer",
    },
    "uk": {
        "UK_DRIVING_LICENCE": "UkDrivingLicenceRecognizer",
        "UK_NHS": "NhsRecognizer",
        "UK_NINO": "UkNinoRecognizer",
        "UK_PASSPORT": "UkPassportRecognizer",
        "UK_POSTCODE": "UkPostcodeRecognizer",
        "UK_VEHICLE_REGISTRATION": "UkVehicleRegistrationRecognizer",
    },
    "us": {
        "ABA_ROUTING_NUMBER": "AbaRoutingRecognizer",
        "MEDICAL_LICENSE": "MedicalLicenseRecognizer",
        "US_BANK_NUMBER": "UsBankRecognizer",
        "US_CLAIM_NUMBER": "UsClaimNumberRecognizer",
        "US_DRIVER_LICENSE": "UsLicenseRecognizer",
        "US_HEALTH_INSURANCE_MEMBER_ID": "UsHealthInsuranceMemberIdRecognizer",
        "US_ITIN": "UsItinRecognizer",
        "US_MBI": "UsMbiRecognizer",
        "US_NPI": "UsNpiRecognizer",
        "US_PASSPORT": "UsPassportRecognizer",
        "US_PRESCRIPTION_NUMBER": "UsPrescriptionNumberRecognizer",
        "US_PRIOR_AUTHORIZATION_NUMBER": "UsPriorAuthorizationNumberRecognizer",
        "US_PROVIDER_TAX_ID": "UsProviderTaxIdRecognizer",
        "US_REFERRAL_NUMBER": "UsReferralNumberRecognizer",
    },
    "web": {
        "MAC_ADDRESS": "MacAddressRecognizer",
        "UUID": "UuidRecognizer",
    },
    "za": {
        "ZA_COMPANY_REGISTRATION": "ZaCompanyRegistrationRecognizer",
        "ZA_DRIVER_LICENSE": "ZaDriverLicenseRecognizer",
        "ZA_ID_NUMBER": "ZaIdNumberRecognizer",
        "ZA_INCOME_TAX_NUMBER": "ZaIncomeTaxNumberRecognizer",
        "ZA_LICENSE_PLATE": "ZaLicensePlateRecognizer",
        "ZA_PASSPORT": "ZaPassportRecognizer",
        "ZA_TRAFFIC_REGISTER_NUMBER": "ZaTrafficRegisterNumberRecognizer",
        "ZA_VAT_NUMBER": "ZaVatNumberRecognizer",
    },
}

# VAT numbers by member state, as the Commission's VIES page lists their forms; blanks, dots and
# hyphens may stand between the digits
_D = r"(?:[ .-]?\d)"
_VAT_FORMS = (
    rf"ATU{_D}{{8}}|BE ?[01]{_D}{{9}}|BG{_D}{{9,10}}|CY{_D}{{8}}[A-Z]|CZ{_D}{{8,10}}"
    rf"|(?:DE|EE|EL|PT){_D}{{9}}|(?:DK|FI|HU|LU|MT|SI){_D}{{8}}|(?:HR|IT|LV){_D}{{11}}"
    rf"|ES ?[A-Z0-9]{_D}{{7}}[A-Z0-9]|FR ?[A-Z0-9]{{2}}{_D}{{9}}"
    rf"|IE ?\d[A-Z0-9+*]{_D}{{5}}[A-Z]{{1,2}}|LT(?:{_D}{{12}}|{_D}{{9}})|NL{_D}{{9}} ?B{_D}{{2}}"
    rf"|(?:PL|SK){_D}{{10}}|RO{_D}{{6,10}}|SE{_D}{{12}}"
)
# set -> entity type -> (pattern, score), check of python-stdnum if any, context
_OURS: dict[str, dict[str, tuple[list[tuple[str, float]], str | None, tuple[str, ...]]]] = {
    "eu": {
        "EU_VAT": (
            [(rf"\b(?-i:{_VAT_FORMS})\b", 0.6)],
            "eu.vat",
            ("vat", "ust", "tva", "iva", "btw", "nip", "moms"),
        ),
    },
    "fr": {
        # sex, year, month, department, commune, order, key: INSEE's number in the national register
        "FR_NIR": (
            [
                (
                    r"\b[1-478] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB])"
                    r" ?\d{3} ?\d{3} ?\d{2}\b",
                    0.7,
                )
            ],
            "fr.nir",
            ("nir", "insee", "sécurité sociale", "sécu", "social"),
        ),
        "FR_NIF": (
            [(r"\b[0-3]\d ?\d{2} ?\d{3} ?\d{3} ?\d{3}\b", 0.2)],
            "fr.nif",
            ("fiscal", "spi", "impôt", "impôts", "tax"),
        ),
        "FR_SIRET": (
            [(r"\b\d{3} ?\d{3} ?\d{3} ?\d{5}\b", 0.3)],
            "fr.siret",
            ("siret", "établissement", "entreprise"),
        ),
        "FR_SIREN": (
            [(r"\b\d{3} ?\d{3} ?\d{3}\b", 0.1)],
            "fr.siren",
            ("siren", "entreprise", "société"),
        ),
    },
    "in": {
        # Presidio's third pattern takes any word of ten letters before a number for one
        "IN_PAN": (
            [(r"\b[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]\b", 0.5), (r"\b[A-Z]{5}\d{4}[A-Z]\b", 0.1)],
            None,
            ("permanent account number", "pan"),
        ),
    },
    "nl": {
        "NL_BSN": (
            [(r"\b\d{9}\b", 0.2), (r"\b\d{4}\.\d{2}\.\d{3}\b", 0.4)],
            "nl.bsn",
            ("bsn", "burgerservicenummer", "sofi", "sofinummer"),
        ),
        "NL_VAT": (
            [(r"\bNL ?\d{9} ?B ?\d{2}\b", 0.6)],
            "nl.btw",
            ("btw", "vat", "omzetbelasting"),
        ),
    },
    "pl": {
        "PL_NIP": (
            [(r"\b\d{3}-\d{3}-\d{2}-\d{2}\b", 0.5), (r"\b\d{10}\b", 0.2)],
            "pl.nip",
            ("nip", "podatnika"),
        ),
        "PL_REGON": (
            [(r"\b\d{9}\b|\b\d{14}\b", 0.1)],
            "pl.regon",
            ("regon",),
        ),
    },
}  # fmt: skip

_ALSO = {"eu": {"IBAN_CODE"}, "us": {"US_SSN"}, "web": {"URL"}}  # made in other modules

SETS: dict[str, frozenset[str]] = {
    name: frozenset({*_PRESIDIO.get(name, ()), *_OURS.get(name, ()), *_ALSO.get(name, ())})
    for name in sorted({*_PRESIDIO, *_OURS})
}
_BETWEEN = re.compile(r"[ .\-/]")  # what people write between the digits
CATALOGUE = frozenset(
    {"URL"} | {e for sets in (_PRESIDIO, _OURS) for types in sets.values() for e in types}
)


@cache
def recognizer(entity: str) -> Recognizer:
    """The recognizer of an entity type of the catalogue, made once.

    Raises:
        MissingExtra: Presidio or python-stdnum is not installed.
    """
    if entity == "URL":
        return url_recognizer()
    for entities in _OURS.values():
        if entity in entities:
            patterns, check, context = entities[entity]
            judge = checksum(check) if check else None
            return replace(made(entity, patterns, context, judge), digits=True)
    return _of_presidio(next(e[entity] for e in _PRESIDIO.values() if entity in e))


def made(
    entity: str,
    patterns: Sequence[tuple[str, float]],
    context: Sequence[str] = (),
    judge: Callable[[str], bool | None] | None = None,
    words: Sequence[str] = (),
) -> Recognizer:
    """A recognizer of patterns as they are written, in which capitals do not count.

    Args:
        judge: see :class:`Recognizer`.
        words: what ``\\L<words>`` in a pattern stands for.
    """
    import regex

    named = {"words": list(words), "ignore_unused": True}
    compiled = [
        Pattern(regex.compile(form, regex.IGNORECASE, **named), score) for form, score in patterns
    ]
    return Recognizer(entity, compiled, tuple(w.lower() for w in context), judge)


def checksum(name: str) -> Callable[[str], bool | None]:
    """The check of digits that python-stdnum has under ``name``, such as ``luhn`` or ``nl.bsn``.

    Returns a function from a value to False where the digits are wrong, else None: a checksum
    of one digit fits one number in ten.

    Raises:
        ValueError: there is no such check.
        MissingExtra: python-stdnum is not installed.
    """
    try:
        import stdnum
    except ImportError as error:
        raise MissingExtra("python-stdnum", "guardrails") from error
    from importlib import import_module

    try:
        valid = import_module(f"{stdnum.__name__}.{name}").is_valid
    except (ImportError, AttributeError):
        raise ValueError(
            f"there is no checksum '{name}'; give a module of python-stdnum such as luhn, "
            "iso7064.mod_97_10, verhoeff, de.idnr or nl.bsn"
        ) from None

    def judge(value: str) -> bool | None:
        return None if valid(_BETWEEN.sub("", value)) else False

    return judge


def _of_presidio(class_name: str) -> Recognizer:
    try:
        from presidio_analyzer import predefined_recognizers
    except ImportError as error:
        raise MissingExtra("Presidio", "guardrails") from error
    import regex

    theirs = getattr(predefined_recognizers, class_name)()
    flags = theirs.global_regex_flags
    patterns = [Pattern(regex.compile(p.regex, flags=flags), p.score) for p in theirs.patterns]

    def judge(value: str) -> bool | None:
        if theirs.invalidate_result(value):
            return False
        said = theirs.validate_result(value)
        return None if said is None else bool(said)

    context = tuple(word.lower() for word in theirs.context or ())
    entity = theirs.supported_entities[0]
    return Recognizer(entity, patterns, context, judge, digits=entity not in SETS["web"])
