"""Questions that lean on a conversation, made to stand alone."""

from __future__ import annotations

import asyncio
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.phrasing import needs_context, read, stem
from app.retrieval.rewrite import (
    LONG_TURN,
    MOST_CARRIED,
    Rewritten,
    Turn,
    rewrite,
    rewrite_by_rules,
)

# User turns, oldest first, split by " | "; words that the query must have beyond the last turn;
# words that it must not have. No words to have: the last turn must stay as it is.
CONVERSATIONS = [
    # pronouns
    ("How do I request parental leave? | How long does it take?", "parental leave", ""),
    ("What is the refund policy for damaged goods? | Does it cover shipping?", "refund policy", ""),
    ("How do I create an API key? | How do I revoke it?", "API key", "create"),
    ("Which documents does a new employee sign? | Where do I send them?", "documents", ""),
    ("What does error E1042 mean? | How do I fix that?", "E1042", ""),
    ("Who is the data protection officer? | What is her phone number?", "protection officer", ""),
    ("Tell me about the Falcon project. | When does it end?", "Falcon project", ""),
    ("We run PostgreSQL 15 on Debian. | How do I back it up?", "PostgreSQL 15 Debian", ""),
    ("How do I install the VPN client? | It's slow, why?", "VPN client", ""),
    ("What does --retain-days do? | Is that on by default?", "--retain-days", ""),
    ("How do I reset my password? | How often must I do this?", "password", ""),
    ("Are gifts from suppliers allowed? | What is their maximum value?", "gifts suppliers", ""),
    # what the turn leaves out
    ("What is the refund period for Germany? | And for Norway?", "refund period", "Germany"),
    ("What is the refund period for Germany? | What about Norway?", "refund period", "Germany"),
    ("How do I set the timezone in Django 5.2? | and in 4.1?", "timezone Django", "5.2"),
    ("What does error E1042 mean? | And E2001?", "error", "E1042"),
    ("How many days of holiday do managers get? | And trainees?", "days holiday", "managers"),
    ("How do I delete a key? | What about a file?", "delete", "key"),
    ("How do I reset my password? | And for admins?", "reset password", ""),
    ("What is the notice period? | Why?", "notice period", ""),
    ("How is overtime paid? | How much?", "overtime", ""),
    ("How do I request parental leave? | What is the deadline?", "parental leave", ""),
    ("How do I join the pension plan? | The deadline?", "pension plan", ""),
    ("How do I export invoices? | Is there a limit?", "export invoices", ""),
    ("Which laptops can I order? | Which one is lighter?", "laptops", ""),
    ("Which backup plans are there? | Which is the cheapest?", "backup plans", ""),
    ("How do I rotate the signing key? | Tell me more.", "signing key", ""),
    ("Can I expense train tickets? | Who approves?", "train tickets", ""),
    ("Is parking free for visitors? | On weekends too?", "parking free visitors", ""),
    ("How are passwords stored? | Can you give an example?", "passwords stored", ""),
    ("How much does a parcel to Norway cost? | No, to Sweden", "parcel cost", "Norway"),
    ("Are there discounts for students? | I meant teachers", "discounts", "students"),
    ("Can interns work from home? | What about contractors?", "work", "interns"),
    ("how does HNSW scale | what about IVF", "scale", "HNSW"),
    ("Who approves travel above 5000 euros? | And below that?", "travel euros", ""),
    ("How do I export a report as PDF? | As CSV?", "export report", "PDF"),
    ("Show me invoices from 2023 | now 2024", "invoices", "2023"),
    ("My laptop screen is broken. | How do I order a new one?", "laptop screen", ""),
    ("What are the rules for remote work? | Do they apply to interns?", "remote work", ""),
    ("What is the SLA for support? | Who can I call outside those hours?", "SLA support", ""),
    # further back, through turns that lean themselves and through thanks
    (
        "How do I request parental leave? | How long is it? | And in Norway?",
        "parental leave",
        "",
    ),
    ("What is the notice period? | Thanks! | Does it change after a year?", "notice period", ""),
    ("What does CWE-79 mean? | And CWE-89? | How do I prevent it?", "CWE-89", "CWE-79"),
    # a new subject: nothing may be carried
    ("How do I request parental leave? | How do I set up the VPN client?", "", "parental"),
    ("What is the refund policy? | What is a tombstone in Cassandra?", "", "refund"),
    ("How do I reset my password? | By the way, when does it open?", "", "password"),
    ("How do I reset my password? | Another question: who is he?", "", "password"),
    ("How do I reset my password? | travel expense policy", "", "password"),
    ("How do I make a backup? | What is FAISS?", "", "backup"),
    # pronouns with their own antecedent, or none
    ("What is the VPN for? | If a parcel is lost, who pays for it?", "", "VPN"),
    ("What is the VPN for? | How do I delete a key and restore it?", "", "VPN"),
    ("What is the VPN for? | Is it possible to export invoices as CSV?", "", "VPN"),
    ("What is the VPN for? | How do I check that a backup is complete?", "", "VPN"),
    ("What is the VPN for? | Which files that expire are deleted from disk?", "", "VPN"),
    ("What is the VPN for? | Which customers changed their address this week?", "", "VPN"),
    ("What is the VPN for? | What changed for invoices this month?", "", "VPN"),
    ("What is the VPN for? | In Django 5.2, how do I set the timezone?", "", "VPN"),
    # no question at all
    ("How do I reset my password? | Thanks, that helps!", "", "password"),
    ("How do I reset my password? | Hello", "", "password"),
]


def _turns(said: str) -> list[Turn]:
    turns = []
    for text in said.split(" | "):
        turns += [Turn("user", text), Turn("assistant", "It takes Zebra-9 days by Quagga rules.")]
    return turns[:-1]


def _words(text: str) -> set[str]:
    return {stem(word) for word in re.findall(r"[\w.\-]*\w", text)}


@pytest.mark.parametrize(("said", "have", "lack"), CONVERSATIONS)
def test_the_rules_carry_what_the_last_turn_needs_and_no_more(
    said: str, have: str, lack: str
) -> None:
    last = said.split(" | ")[-1]
    found = rewrite_by_rules(_turns(said))
    added = _words(found.query) - _words(last)
    assert _words(have) <= added | _words(last), found
    assert not _words(lack) & added, found
    if not have:
        assert found == Rewritten(last, "kept")
    else:
        assert found.by == "rules"
        assert _words(" ".join(found.carried)) <= added | _words(last)
    assert not {"zebra-9", "quagga"} & {word.lower() for word in found.query.split()}


def test_the_assistants_words_are_never_carried() -> None:
    turns = [Turn("assistant", "Ask me about Quagga rules."), Turn("user", "How long is it?")]
    assert rewrite_by_rules(turns) == Rewritten("How long is it?", "kept")


def test_a_conversation_without_a_question_gives_an_empty_query() -> None:
    assert rewrite_by_rules([]) == Rewritten("", "kept")
    assert rewrite_by_rules([Turn("assistant", "Hello"), Turn("user", "  ")]).query == ""


def test_names_and_codes_survive_a_long_earlier_turn() -> None:
    noise = " ".join(random.Random(7).sample([f"{a}{b}um" for a in "bdfg" for b in "aeiou"], 20))
    said = f"Since noon {noise} fails with CVE-2024-3094 on Falcon. | Why is that?"
    found = rewrite_by_rules(_turns(said))
    assert {"CVE-2024-3094", "Falcon"} <= set(found.carried)
    assert len(found.carried) <= MOST_CARRIED


def test_a_long_last_turn_says_what_it_is_about() -> None:
    long = "The printer on floor two shows a red light. " * 12 + "Why is it?"
    assert len(long) > LONG_TURN
    assert rewrite_by_rules(_turns(f"What is the VPN for? | {long}")).by == "kept"


PARTS = ["it", "that", "and", "what", "about", "how", "does", "the", "key", "E1042", "Norway"]
PARTS += [
    "refund",
    "for",
    "in",
    "why",
    "?",
    ",",
    ".",
    "is",
    "possible",
    "thanks",
    "`x.y`",
    "-n",
    "返品",
    "\n",
    "can",
    "they",
]
TALK = st.lists(st.lists(st.sampled_from(PARTS), max_size=14).map(" ".join), max_size=6)


@given(TALK)
def test_any_conversation_gives_its_last_turn_and_words_of_earlier_ones(said: list[str]) -> None:
    found = rewrite_by_rules([Turn("user", text) for text in said])
    texts = [" ".join(text.split()) for text in said if text.strip()]
    last = texts[-1] if texts else ""
    assert found.query.endswith(read(last).body if last else "")
    assert len(found.carried) <= MOST_CARRIED
    assert all(any(word in text for text in texts[:-1]) for word in found.carried)
    assert (found.by == "kept") == (not found.carried)
    if found.by == "kept":
        assert found.query == last


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_makes_the_rules_fail(one: str, other: str) -> None:
    found = rewrite_by_rules([Turn("user", one), Turn("user", other)])
    assert isinstance(needs_context(other), bool)
    assert len(found.query) <= len(one) + len(other) + 1


def test_rewriting_takes_no_time_that_an_attacker_could_stretch() -> None:
    for part in ('"', "and ", "it ", "a-", "thanks ", "is it x ", "-", "is it a b possible "):
        text = (part * LONG_TURN)[:LONG_TURN]
        turns = [Turn("user", part * 20_000)] * 5 + [Turn("user", text)]
        began = time.process_time()
        rewrite_by_rules(turns)
        assert time.process_time() - began < 0.5


# -- with a language model; ``ask`` is what the model answered


ASKED = [
    Turn("user", "What is the refund period for order type B2B in Germany?"),
    Turn("assistant", "Fourteen days."),
    Turn("user", "And for Norway?"),
]


async def _said(reply: str, turns: list[Turn] = ASKED) -> Rewritten:
    async def ask(messages: list[dict[str, str]]) -> str:
        return reply

    return await rewrite(turns, ask)


@pytest.mark.parametrize(
    "reply",
    [
        "What is the refund period for order type B2B in Norway?",
        '"What is the refund period in Norway?"\n',
        "Rewritten question: What is the refund period in Norway?",
    ],
)
async def test_a_sound_rewrite_of_the_model_is_used(reply: str) -> None:
    found = await _said(reply)
    assert found.by == "model"
    assert found.query in reply
    assert found.query.startswith("What is the refund period")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n ",
        "What is the refund period in Norway? " * 20,  # too long
        "I am sorry, I cannot help you.",  # shares nothing with the conversation
        "What is the refund period in Germany?",  # lost what the last turn asks
        "The refund period in Norway is 30 days.",  # brings in a number: an answer
        "Sure!\nWhat is the refund period in Norway?",  # an explanation around it
        "Norway: fjords, mountains, salmon, skiing, oil.",  # mostly new words
    ],
)
async def test_a_reply_that_cannot_be_trusted_leaves_the_rules(reply: str) -> None:
    assert await _said(reply) == rewrite_by_rules(ASKED)


async def test_a_code_in_the_last_turn_may_not_be_lost() -> None:
    turns = [Turn("user", "What does error E1042 mean?"), Turn("user", "And error E2001?")]
    assert (await _said("What does error E1042 mean?", turns)).by != "model"
    assert (await _said("What does error E2001 mean?", turns)).by == "model"


async def test_a_model_that_fails_or_hangs_leaves_the_rules() -> None:
    async def fail(messages: list[dict[str, str]]) -> str:
        raise ConnectionError("gone")

    async def hang(messages: list[dict[str, str]]) -> str:
        await asyncio.Event().wait()
        return ""

    assert (await rewrite(ASKED, fail)).by == "rules"
    assert (await rewrite(ASKED, hang, timeout_s=0.01)).by == "rules"


async def test_a_first_question_and_thanks_do_not_cost_a_call_of_the_model() -> None:
    async def ask(messages: list[dict[str, str]]) -> str:
        raise AssertionError("asked")

    first = [Turn("user", "How long is it?")]
    assert await rewrite(first, ask) == Rewritten("How long is it?", "kept")
    thanks = [*ASKED, Turn("user", "Thanks!")]
    assert await rewrite(thanks, ask) == Rewritten("Thanks!", "kept")


async def test_the_prompt_holds_the_conversation_clipped_as_text_to_read() -> None:
    seen: list[dict[str, str]] = []

    async def ask(messages: list[dict[str, str]]) -> str:
        seen.extend(messages)
        return ""

    old = [Turn("system", "secret instructions"), Turn("user", "word " * 1000)]
    after = [Turn("assistant", "said after the last question")]
    await rewrite([*old, *ASKED, *after], ask)
    assert [message["role"] for message in seen] == ["system", "user"]
    talk = seen[1]["content"]
    assert "User: And for Norway?" in talk
    assert "secret instructions" not in talk
    assert "said after" not in talk
    assert len(talk) < 1200
