"""The most specific assignment wins, in whatever order they are kept."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Unavailable
from app.guardrails.assignments import EVERY, ROUTE, Assignment, Choice, Mode, best, covers

CHAT, EMBEDDINGS = "POST /v1/chat/completions", "POST /v1/embeddings"
TENANTS = ("harbour", "customs")
ROUTES = (CHAT, EMBEDDINGS, "GET /v1/files/{file_id}", "job:ingest/convert")
PATTERNS = (
    EVERY,
    "/v1/*",
    "POST /v1/*",
    "/v1/chat/*",
    "POST /v1/chat/*",
    "/v1/chat/completions",
    CHAT,
    "GET /v1/chat/completions",
    "/v1/embeddings",
    "/v1/files/{file_id}",
)


def assigned(
    tenant_id: str, route: str, policy: str, mode: Mode = "enforce", mandatory: bool = False
) -> Assignment:
    return Assignment(
        f"pas_{policy}", tenant_id, route, mode, policy, None, None, mandatory, "key:a", 0.0
    )


def winner(rows: list[Assignment], tenant_id: str, route: str) -> str | None:
    found = best(rows, "enforce", tenant_id, route)
    return None if found is None else found.policy


def test_tenant_and_route_win_over_tenant_over_route_over_everybody() -> None:
    rows = [
        assigned(EVERY, EVERY, "everybody"),
        assigned(EVERY, CHAT, "route"),
        assigned("harbour", EVERY, "tenant"),
        assigned("harbour", CHAT, "both"),
    ]
    expected = ["both", "tenant", "route", "everybody", None]
    for wins in expected:
        assert winner(rows, "harbour", CHAT) == wins
        rows = [row for row in rows if row.policy != wins]


@pytest.mark.parametrize(
    ("tenant_id", "route", "policy"),
    [
        ("customs", CHAT, "route"),
        ("harbour", EMBEDDINGS, "tenant"),
        ("customs", EMBEDDINGS, None),
    ],
)
def test_what_is_assigned_to_others_governs_nobody_else(
    tenant_id: str, route: str, policy: str | None
) -> None:
    rows = [
        assigned("harbour", CHAT, "both"),
        assigned("harbour", EVERY, "tenant"),
        assigned(EVERY, CHAT, "route"),
    ]
    assert winner(rows, tenant_id, route) == policy


def test_of_two_routes_the_one_that_says_more_wins() -> None:
    rows = [assigned(EVERY, pattern, pattern) for pattern in PATTERNS]
    for wins in (
        CHAT,
        "/v1/chat/completions",
        "POST /v1/chat/*",
        "/v1/chat/*",
        "POST /v1/*",
        "/v1/*",
        EVERY,
    ):
        assert winner(rows, "harbour", CHAT) == wins
        rows = [row for row in rows if row.policy != wins]
    assert winner(rows, "harbour", CHAT) is None


def test_a_trial_is_chosen_apart_from_what_is_enforced() -> None:
    rows = [assigned("harbour", CHAT, "tried", "dry_run"), assigned(EVERY, EVERY, "enforced")]
    assert winner(rows, "harbour", CHAT) == "enforced"
    tried = best(rows, "dry_run", "harbour", CHAT)
    assert tried is not None and tried.policy == "tried"
    assert best(rows, "dry_run", "customs", CHAT) is None


@pytest.mark.parametrize(
    ("pattern", "route", "does"),
    [
        (EVERY, "job:ingest/convert", True),
        ("/v1/chat/*", CHAT, True),
        ("/v1/chat", CHAT, False),
        ("/v1/chat/completions", CHAT, True),
        ("GET /v1/chat/*", CHAT, False),
        ("/v1/files/{file_id}", "GET /v1/files/{file_id}", True),
        ("/v1/files/*", "DELETE /v1/files/{file_id}", True),
    ],
)
def test_a_pattern_covers_routes_as_they_are_named(pattern: str, route: str, does: bool) -> None:
    assert re.fullmatch(ROUTE, pattern)
    assert covers(pattern, route) is does


@pytest.mark.parametrize("pattern", ["", "v1/chat", "FETCH /v1/x", "/v1/*/x", "/v1/x y", "**"])
def test_what_is_no_route_is_no_pattern(pattern: str) -> None:
    assert not re.fullmatch(ROUTE, pattern)


def test_what_is_mandatory_goes_before_what_is_more_specific() -> None:
    rows = [
        assigned("harbour", CHAT, "both"),
        assigned(EVERY, EVERY, "house", mandatory=True),
        assigned(EVERY, CHAT, "chat", mandatory=True),
    ]
    assert winner(rows, "harbour", CHAT) == "chat"
    assert winner(rows, "harbour", "POST /v1/embeddings") == "house"


PLACES = st.tuples(st.sampled_from((EVERY, *TENANTS)), st.sampled_from(PATTERNS))


@given(
    st.lists(PLACES, unique=True),
    st.sampled_from(TENANTS),
    st.sampled_from(ROUTES),
    st.randoms(use_true_random=False),
)
def test_the_choice_does_not_depend_on_the_order_of_rows(
    places: list[tuple[str, str]], tenant_id: str, route: str, rng: random.Random
) -> None:
    rows = [assigned(*place, f"{number}") for number, place in enumerate(places)]
    first = best(rows, "enforce", tenant_id, route)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert best(shuffled, "enforce", tenant_id, route) == first
    governing = [row for row in rows if row.governs(tenant_id, route)]
    assert (first is None) == (not governing)
    if first is not None:  # none that governs says more about who or where
        assert first in governing
        said = [(row.tenant_id != EVERY, row.route != EVERY) for row in governing]
        assert (first.tenant_id != EVERY, first.route != EVERY) == max(said)


def test_a_choice_without_its_policy_lets_nothing_pass() -> None:
    with pytest.raises(
        Unavailable, match=r"'own@1'.*It is gone.*PUT /v1/admin/policies"
    ) as refusal:
        Choice("own@1", None, "It is gone.").require()
    assert refusal.value.code == "policy_unavailable"
