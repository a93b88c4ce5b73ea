"""Surrogates have the form of what they stand for, and every value comes back, in pieces too."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from phonenumbers import is_valid_number, parse
from stdnum import iban, luhn

from app.errors import GuardrailViolation, Unavailable
from app.gateway.call import Call, Principal
from app.guardrails.findings import Finding
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy, Rule
from app.guardrails.pseudonyms import Pseudonyms
from app.guardrails.service import Guardrails
from app.guardrails.tokens import Tokens
from app.pools import Pool
from tests.guardrails.texts import KEY
from tests.guardrails.texts import text as make_text

TYPES = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "US_SSN",
    "IP_ADDRESS",
    "CRYPTO",
    "PL_PESEL",
)
BOTH_WAYS = {entity: Rule(input="pseudonymize", output="mask") for entity in TYPES}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("ner", 1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def patterns(detector: PiiDetector, pool: Pool) -> Guardrails:
    policy = Policy(name="patterns", entities=BOTH_WAYS)
    return Guardrails(policy, detector, pool, keep=False, key=KEY)


@pytest.fixture(scope="module")
def names(detector: PiiDetector, pool: Pool) -> Guardrails:
    rules = BOTH_WAYS | {"PERSON": Rule(input="pseudonymize", output="mask")}
    policy = Policy(name="names", entities=rules)
    return Guardrails(policy, detector, pool, keep=True, key=KEY)


def new_call(tenant_id: str = "t") -> Call:
    principal = Principal(tenant_id, "key:1", "1", frozenset())
    return Call("call_1", "call_1", "rest", "POST /v1/chat/completions", principal)


def new(scope: str = "s", tenant_id: str = "t") -> Pseudonyms:
    return Pseudonyms(Tokens(KEY, tenant_id), scope)


def stand_in(own: Pseudonyms, entity: str, value: str) -> str:
    (stands,) = own.hide([value], [[Finding(entity, 0, len(value), 1.0)]])
    return stands[0].by


def hidden(own: Pseudonyms, text: str, values: Sequence[tuple[str, str]]) -> str:
    """A text with surrogates for the first place of each value, and wherever it is again."""
    found = [
        Finding(entity, at, at + len(value), 1.0)
        for entity, value in values
        if (at := text.find(value)) >= 0
    ]
    kept: list[Finding] = []
    for f in sorted(found, key=lambda f: f.start):
        if not kept or f.start >= kept[-1].end:
            kept.append(f)
    (stands,) = own.hide([text], [kept])
    parts, last = list[str](), 0
    for stand in stands:
        parts += [text[last : stand.start], stand.by]
        last = stand.end
    return "".join([*parts, text[last:]])


def test_surrogates_have_the_form_and_the_checks_of_their_type() -> None:
    own = new()
    assert re.fullmatch(
        r"[a-z]+\.[a-z]+@example\.(com|net|org)", stand_in(own, "EMAIL_ADDRESS", "ada@corp.io")
    )
    card = stand_in(own, "CREDIT_CARD", "4111 1111 1111 1111")
    assert re.fullmatch(r"4\d{3} \d{4} \d{4} \d{4}", card) and luhn.is_valid(card.replace(" ", ""))
    account = stand_in(own, "IBAN_CODE", "GB82 WEST 1234 5698 7654 32")
    assert iban.is_valid(account, check_country=False)
    assert re.fullmatch(r"GB\d\d [A-Z]{4} \d{4} \d{4} \d{4} \d\d", account)
    phone = stand_in(own, "PHONE_NUMBER", "+44 20 7946 0958")
    assert re.fullmatch(r"\+44 \d\d \d{4} \d{4}", phone) and is_valid_number(parse(phone))
    assert re.fullmatch(r"\d{3}-\d\d-\d{4}", stand_in(own, "US_SSN", "234-56-7891"))
    assert stand_in(own, "IP_ADDRESS", "10.0.0.1").startswith("198.1")
    assert stand_in(own, "IP_ADDRESS", "fe80::1").startswith("2001:db8")
    assert re.fullmatch(r"<CRYPTO_[A-Z]{4}>", stand_in(own, "CRYPTO", "1A1zP1eP5QGefi2DMPTfTL"))
    pesel = stand_in(own, "PL_PESEL", "44051401359")
    assert re.fullmatch(r"\d{11}", pesel) and pesel != "44051401359"
    assert len(set(own.values)) == len(own.values) and len(own.values) == 9


def test_a_name_is_another_name_and_its_words_stand_for_its_words() -> None:
    own = new()
    first = stand_in(own, "PERSON", "Dr. Ada Lovelace")
    title, given_name, family = first.split()
    assert title == "Dr." and given_name.istitle() and family.istitle()
    assert stand_in(own, "PERSON", "Ada Byron").split()[0] == given_name
    assert stand_in(own, "PERSON", "LOVELACE").isupper()
    assert own.restored(f"Dear Ms. {family}'s {given_name},") == "Dear Ms. Lovelace's Ada,"
    assert own.restored(family.upper()) in ("LOVELACE", "Lovelace".upper())
    assert own.restored(f"{given_name}x and x{family}") == f"{given_name}x and x{family}"


def test_the_same_is_the_same_in_one_conversation_and_other_in_others() -> None:
    one = stand_in(new(), "EMAIL_ADDRESS", "ada@corp.io")
    assert one == stand_in(new(), "EMAIL_ADDRESS", "ada@corp.io")
    assert one != stand_in(new("other"), "EMAIL_ADDRESS", "ada@corp.io")
    assert one != stand_in(new(tenant_id="u"), "EMAIL_ADDRESS", "ada@corp.io")


def test_no_surrogate_stands_in_the_text_or_for_two_values() -> None:
    first = new()
    taken = stand_in(first, "EMAIL_ADDRESS", "ada@corp.io")
    text = f"ada@corp.io wrote to {taken.upper()}"
    own = new()
    told = hidden(own, text, [("EMAIL_ADDRESS", "ada@corp.io")])
    assert not told.startswith(taken) and told.endswith(taken.upper())
    own = new()
    people = [f"person{n}@corp.io" for n in range(400)]
    assert len({stand_in(own, "EMAIL_ADDRESS", p) for p in people}) == 400


def test_what_is_a_surrogate_by_chance_comes_back_as_it_was_said() -> None:
    own = new()
    taken = stand_in(own, "PERSON", "Ada")
    told = hidden(own, f"Is {taken} there, and Ada?", [])
    assert re.fullmatch(rf"Is <VALUE_[A-Z]{{4}}> there, and {taken}\?", told)
    assert own.restored(told) == f"Is {taken} there, and Ada?"


def test_a_known_value_is_hidden_also_where_nothing_was_found() -> None:
    own = new()
    told = hidden(own, "Ada Lovelace: lovelace, Lovelace.", [("PERSON", "Ada Lovelace")])
    assert told.count(own.stands["Lovelace"][1]) == 2 and "lovelace" in told


def test_numbers_are_restored_however_the_model_groups_them() -> None:
    own = new()
    card = stand_in(own, "CREDIT_CARD", "4111 1111 1111 1111")
    plain = stand_in(own, "CREDIT_CARD", "4111111111111111")
    assert plain == card.replace(" ", "")
    assert own.restored(f"{card} {plain}") == "4111 1111 1111 1111 4111111111111111"
    assert own.restored(card.replace(" ", "-")) == "4111-1111-1111-1111"


def test_values_are_escaped_in_json_and_the_json_stays_valid() -> None:
    own = new()
    value = 'Ann "The\\Fox"\nLee'
    by = stand_in(own, "CASE_NAME", value)
    number = stand_in(own, "US_SSN", "234567891")
    phone = stand_in(own, "PHONE_NUMBER", "(415) 555-0132")
    bare = re.sub(r"\D", "", phone)
    written = f"\\u003c{by[1:-1]}\\u003e"
    raw = f'{{"a": "x \\n{by}", "b": {number}, "c": {bare}, "d": "{written}"}}'
    told = json.loads(own.restored(raw, structured=True))
    assert told == {"a": f"x \n{value}", "b": 234567891, "c": 4155550132, "d": value}
    assert json.loads(own.restored(f'{{"who": {by}}}', structured=True)) == {"who": value}


def test_a_name_behind_an_escape_in_json_is_restored() -> None:
    own = new()
    by = stand_in(own, "PERSON", "Ada")
    assert own.restored(f'{{"to": "Dear\\n{by}"}}', structured=True) == '{"to": "Dear\\nAda"}'


def test_a_sealed_map_opens_for_its_tenant_and_conversation_alone() -> None:
    own = new()
    by = stand_in(own, "PERSON", "Ada Lovelace")
    sealed = own.sealed("resp_1")
    assert b"Ada" not in sealed and by.encode() not in sealed
    again = Pseudonyms.opened(Tokens(KEY, "t"), sealed, "resp_1")
    assert again.restored(by) == "Ada Lovelace" and stand_in(again, "PERSON", "Ada") in by
    for tokens, of in (
        (Tokens(KEY, "u"), "resp_1"),
        (Tokens(KEY, "t"), "resp_2"),
        (Tokens(b"x" * 48, "t"), "resp_1"),
    ):
        with pytest.raises(Unavailable) as refusal:
            Pseudonyms.opened(tokens, sealed, of)
        assert refusal.value.code == "pseudonyms_unavailable"


VALUES = [
    ("PERSON", "Ada Lovelace"),
    ("PERSON", "Ada"),
    ("PERSON", "J. de la Cruz-Ortíz"),
    ("PERSON", "O'NEIL"),
    ("LOCATION", "New York"),
    ("ORGANIZATION", "acme corp"),
    ("EMAIL_ADDRESS", "ada@corp.io"),
    ("PHONE_NUMBER", "+1 415 555 0132"),
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("IBAN_CODE", "GB82WEST12345698765432"),
    ("US_SSN", "234-56-7891"),
    ("DATE_TIME", "3 May 1990"),
    ("CASE_NAME", 'a "quoted\\" one'),
]
BETWEEN = [" ", ", ", "\n", "x", "1", "-", "'s", "<", ">", '"', "é", "The ", "@", "_", "\U000f0001"]
PIECES = [v for _, v in VALUES] + BETWEEN


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    parts, at = list[str](), 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            return parts
        parts.append(text[at : at + size])
        at += size
    return parts


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14), more=st.text(max_size=12))
def test_hiding_and_restoring_is_the_identity(pieces: list[str], more: str) -> None:
    own = new()
    text = "".join([*pieces, more])
    told = hidden(own, text, VALUES)
    assert own.restored(told) == text
    assert own.restored(own.hidden(text)) == text  # as a kept response is


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.integers(0, 60), max_size=14),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    structured=st.booleans(),
)
@example(pieces=[0, 1, 2], sizes=[1], structured=True)
def test_a_stream_is_restored_as_the_whole_text_is(
    pieces: list[int], sizes: list[int], structured: bool
) -> None:
    own = new()
    hidden(own, " ".join(v for _, v in VALUES), VALUES)
    forms = [*own.values, *own.variants]
    halves = [s[: len(s) // 2] for s in forms]
    parts = [*forms, *halves, " ", ". ", "x", '"', "\\", "\\n", "\U000f0001"]
    text = "".join(parts[n % len(parts)] for n in pieces)
    cover = own.cover(structured=structured)
    out = [cover.reveal(cover.feed(c)) for c in cut(text, sizes)]
    assert "".join([*out, cover.reveal(cover.finish())]) == own.restored(
        text, structured=structured
    )


def test_no_more_is_held_than_can_still_become_a_surrogate() -> None:
    own = new()
    by = stand_in(own, "EMAIL_ADDRESS", "ada@corp.io")
    cover = own.cover()
    assert cover.feed("Hello there") == "Hello there"
    assert cover.feed(f" {by[:4]}") == " "
    assert cover.feed("~ no ") == f"{by[:4]}~ no "
    held = "".join(cover.feed(c) for c in by)
    assert held == "" and cover.reveal(cover.feed(".")) == "ada@corp.io."


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9))
async def test_a_screened_stream_is_the_whole_screened_and_gives_all_values_back(
    patterns: Guardrails, seed: int, sizes: list[int]
) -> None:
    text, known = make_text(seed, words=25)
    call = new_call()
    (told,) = await patterns.screen(call, [text], "input")
    assert not any(v.text in told for v in known if v.entity in TYPES)
    assert await patterns.screen(call, [told], "output") == [text]
    screen = patterns.stream(call)
    out = [await patterns.feed(screen, c) for c in cut(told, sizes)]
    assert "".join([*out, await patterns.finish(screen)]) == text


async def test_the_callers_own_come_back_and_what_the_model_made_up_is_masked(
    names: Guardrails,
) -> None:
    call = new_call()
    said = "My name is Ada Lovelace. Write to ada@corp.io about card 4111 1111 1111 1111."
    (told,) = await names.screen(call, [said], "input")
    assert not re.search("Ada|Lovelace|corp|4111", told)
    assert call.findings == {
        ("input", "PERSON", "pseudonymize"): 1,
        ("input", "EMAIL_ADDRESS", "pseudonymize"): 1,
        ("input", "CREDIT_CARD", "pseudonymize"): 1,
    }
    assert call.bodies["input"] == told
    answer = f"{told} Her friend Barack Obama has bob@corp.io."
    (shown,) = await names.screen(call, [answer], "output")
    assert shown == f"{said} Her friend <PERSON> has <EMAIL_ADDRESS>."
    assert "Ada" not in call.bodies["output"] and told in call.bodies["output"]
    assert {k: n for k, n in call.findings.items() if k[0] == "output"} == {
        ("output", "PERSON", "mask"): 1,
        ("output", "EMAIL_ADDRESS", "mask"): 1,
    }


async def test_what_blocks_still_blocks_beside_surrogates(
    detector: PiiDetector, pool: Pool
) -> None:
    rules = {"EMAIL_ADDRESS": Rule(input="pseudonymize", output="block")}
    guardrails = Guardrails(Policy(name="b", entities=rules), detector, pool, keep=False, key=KEY)
    call = new_call()
    (told,) = await guardrails.screen(call, ["I am ada@corp.io"], "input")
    assert await guardrails.screen(call, [told], "output") == ["I am ada@corp.io"]
    with pytest.raises(GuardrailViolation):
        await guardrails.screen(call, [f"{told}, not bob@corp.io"], "output")


async def test_other_actions_stand_beside_surrogates(detector: PiiDetector, pool: Pool) -> None:
    rules = {
        "EMAIL_ADDRESS": Rule(input="pseudonymize"),
        "US_SSN": Rule(input="mask"),
        "PHONE_NUMBER": Rule(input="flag"),
    }
    guardrails = Guardrails(Policy(name="m", entities=rules), detector, pool, keep=False, key=KEY)
    call = new_call()
    text = "ada@corp.io has 234-56-7891 and 415-555-0132."
    (told,) = await guardrails.screen(call, [text], "input")
    assert re.fullmatch(r"\S+@example\.\w+ has <US_SSN> and 415-555-0132\.", told)
    assert guardrails.restored(call, told) == "ada@corp.io has <US_SSN> and 415-555-0132."


async def test_trying_a_policy_shows_what_a_model_would_read(names: Guardrails) -> None:
    call = new_call()
    policy = names.policy_of(call)
    (tried,) = await names.rehearse(call, policy, ["Write to ada@corp.io"], "input")
    assert tried.text is not None and re.fullmatch(r"Write to \S+@example\.\w+", tried.text)
    assert call.pseudonyms is None and not call.findings


def test_pseudonyms_are_for_input_alone() -> None:
    with pytest.raises(ValueError, match="'pseudonymize' is for input"):
        Rule(output="pseudonymize")
