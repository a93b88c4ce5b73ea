"""The policy file: what it says is what is done, and a wrong one is refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.guardrails.policy import PolicyError, load_policy


def test_default_policy_needs_no_language_model() -> None:
    policy = load_policy("default")
    assert not policy.needs_ner("input")
    assert not policy.needs_ner("output")
    assert policy.action("US_SSN", "input") == "block"
    assert policy.action("US_SSN", "output") == "mask"
    assert policy.action("EMAIL_ADDRESS", "input") == "mask"
    assert policy.action("IP_ADDRESS", "input") == "allow"
    assert policy.languages == ("en",)


def test_strict_policy_masks_names_both_ways() -> None:
    policy = load_policy("strict")
    assert policy.needs_ner("input")
    assert policy.needs_ner("output")
    assert policy.action("PERSON", "output") == policy.action("LOCATION", "input") == "mask"


def test_unlisted_entity_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[entities]\nEMAIL_ADDRESS = { output = "block" }\n')
    policy = load_policy(str(file))
    assert policy.action("CREDIT_CARD", "output") == "allow"
    assert policy.action("EMAIL_ADDRESS", "input") == "allow"
    assert policy.watched("output") == {"EMAIL_ADDRESS"}


def test_version_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[entities]\n')
    first = load_policy(str(file)).version
    assert len(first) == 12
    assert load_policy(str(file)).version == first
    file.write_text('name = "own"\nmin_score = 0.5\n[entities]\n')
    assert load_policy(str(file)).version != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('name = "own"\n[entities]\nEMAIL = { input = "mask" }\n', "unknown entity type EMAIL;"),
        (
            'name = "own"\n[entities]\nUS_SSN = { input = "hide" }\n',
            r"entities\.US_SSN\.input: Input should be 'mask', 'replace', 'hash'",
        ),
        ('name = "own"\nmin_score = 2\n[entities]\n', "min_score: .*less than or equal to 1"),
        ('name = "own"\nextra = 1\n[entities]\n', "extra: Extra inputs are not permitted"),
        (
            'name = "own"\nlanguage = "French"\n[entities]\n',
            r"language\.0: String should match pattern '\^\[a-z\]",
        ),
        ('name = "own"\nlanguages = []\n[entities]\n', "languages: .*at least 1 item"),
        (
            'name = "own"\nlanguage = "en"\nlanguages = ["fr"]\n[entities]\n',
            "language: Extra inputs are not permitted",
        ),
        (
            'name = "own"\nlanguages = ["en", "fr"]\n[entities]\nBADGE = { input = "mask" }\n'
            '[[recognizers]]\nentity = "BADGE"\ndeny_list = ["x1"]\nlanguage = "de"\n',
            "a recognizer of BADGE is for texts in 'de', which is not among .*: en, fr",
        ),
        ('name = "own"\n', "entities: Field required"),
        (
            'name = "own"\n[entities]\nUS_SSN = { input = "replace" }\n',
            r"entities\.US_SSN: .*'replace' and 'replacement' go together",
        ),
        ('name = "own"\n[entities]\nDE_TAX = {}\n', "did you mean DE_TAX_ID or"),
        (
            'name = "own"\n[entities]\nPROMPT_INJECTION = { output = "mask" }\n',
            "PROMPT_INJECTION: it is looked for in input and passages; a reply may instruct",
        ),
        (
            'name = "own"\n[entities]\nURL = { passages = "mask" }\n',
            "URL: passages are screened as output",
        ),
        ('name = "own"\n[entities]\n[sets]\nxx = {}\n', "unknown set xx; known are au, ca"),
        (
            'name = "own"\n[entities]\nBADGE = { input = "mask" }\n'
            '[[recognizers]]\nentity = "BADGE"\npatterns = [{ regex = "B-(" }]\n',
            r"recognizers\.0\.patterns\.0\.regex: .*not a regular expression",
        ),
        (
            'name = "own"\n[entities]\nBADGE = { input = "mask" }\n'
            '[[recognizers]]\nentity = "BADGE"\npatterns = [{ regex = "B?" }]\n',
            "matches an empty text",
        ),
        (
            'name = "own"\n[entities]\nBADGE = { input = "mask" }\n'
            '[[recognizers]]\nentity = "BADGE"\ndeny_list = ["x1"]\nchecksum = "luna"\n',
            r"recognizers\.0\.checksum: .*no checksum 'luna'",
        ),
        (
            'name = "own"\n[entities]\n[[recognizers]]\nentity = "BADGE"\ndeny_list = ["x1"]\n',
            "nothing is said about BADGE",
        ),
        ("name = \n", "own.toml: not valid TOML"),
    ],
)
def test_malformed_policy_is_refused_with_the_place(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(content)
    with pytest.raises(PolicyError, match=message):
        load_policy(str(file))


def test_unknown_policy_names_those_shipped() -> None:
    with pytest.raises(PolicyError, match="Shipped are default, guarded, strict"):
        load_policy("lenient")
