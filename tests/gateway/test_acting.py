"""For whom a call acts: named by the key, the token, or the headers of who may name others."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest, Forbidden, Unauthenticated
from app.gateway.acting import GROUPS, MOST_GROUPS, USER, acting_for, is_name
from app.gateway.call import DEFAULT_TENANT, Principal
from app.gateway.identity import Identity
from app.gateway.oidc import OidcVerifier
from app.store.db import Database
from tests.gateway.test_identity import enter
from tests.gateway.test_oidc import Issuer, issuer, verifier

__all__ = ["issuer"]

PLAIN = Principal("t1", "key:k1", "k1", frozenset({"vector_stores:search"}))
APPLICATION = Principal(
    "t1", "key:k2", "k2", frozenset({"access:impersonate", "access:all"}), first="key:k0"
)


def headers(user: str | None = None, *groups: str) -> list[tuple[bytes, bytes]]:
    made = [(b"accept", b"*/*")]
    if user is not None:
        made.append((USER, quote(user).encode()))
    if groups:
        made.append((GROUPS, ",".join(map(quote, groups)).encode()))
    return made


def test_without_the_headers_nothing_changes() -> None:
    assert acting_for(PLAIN, headers()) is PLAIN


@pytest.mark.parametrize("given", [headers("ann"), headers(None, "staff"), [(USER, b"")]])
def test_a_key_without_the_scope_is_refused_and_not_just_ignored(
    given: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(Forbidden):
        acting_for(PLAIN, given)


@given(
    st.text(min_size=1, max_size=40).filter(is_name),
    st.sets(st.text(min_size=1, max_size=40).filter(is_name), max_size=5),
)
def test_any_name_can_be_sent_and_is_what_is_asked_for(user: str, groups: set[str]) -> None:
    who = acting_for(APPLICATION, headers(user, *groups))
    assert (who.user, who.groups, who.acting) == (user, groups, True)
    assert who.owner == f"user:{user}" and who.key_id == "k2"


def test_who_acts_for_somebody_sees_what_he_sees_and_no_more() -> None:
    assert APPLICATION.sees_all
    assert not acting_for(APPLICATION, headers("ann")).sees_all
    assert not acting_for(APPLICATION, headers(None, "staff")).sees_all


def test_what_was_made_for_nobody_by_name_is_kept_apart_by_groups() -> None:
    staff, board = (acting_for(APPLICATION, headers(None, g)).owner for g in ("staff", "board"))
    assert len({staff, board, APPLICATION.owner}) == 3
    assert APPLICATION.owner == "key:k0"  # as before the key was rotated


def test_no_owner_is_longer_than_its_column_and_none_is_anothers() -> None:
    from dataclasses import replace

    long = replace(PLAIN, subject="oidc:" + "s" * 400)
    longer = replace(PLAIN, subject="oidc:" + "s" * 401)
    assert len(long.owner) <= 300 and long.owner != longer.owner
    # a token's subject cannot pass for a key or a user
    assert replace(PLAIN, subject="oidc:key:k1").owner != PLAIN.owner


@pytest.mark.parametrize(
    "sent",
    [
        [(USER, b"")],
        [(USER, b"%00")],
        [(USER, b"%ff")],
        [(USER, "jäne".encode())],
        [(USER, b"%20ann")],
        [(USER, b"a" * 257)],
        [(GROUPS, b"a,%0a")],
        [(GROUPS, b",".join([b"g"] * (MOST_GROUPS + 1)))],
        [(USER, b"ann"), (USER, b"bob")],
        [(GROUPS, b"a"), (GROUPS, b"b")],
    ],
)
def test_headers_that_name_nobody_clearly_are_refused(sent: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadRequest):
        acting_for(APPLICATION, sent)


async def test_a_key_speaks_for_its_user_also_after_rotation(db: Database) -> None:
    identity = Identity(db)
    await identity.bootstrap(None)
    row, key = await identity.create_key(
        DEFAULT_TENANT, "ann's", ["files:read"], user="ann", groups=["staff", "board"]
    )
    who = await enter(identity, key)
    assert (who.user, who.groups, who.owner) == ("ann", {"staff", "board"}, "user:ann")
    plain, _ = await identity.create_key(DEFAULT_TENANT, "app", ["files:read"])
    second, _ = await identity.rotate_key(None, plain.id, 0)
    third, newest = await identity.rotate_key(None, second.id, 0)
    assert (await enter(identity, newest)).owner == f"key:{plain.id}" != f"key:{third.id}"
    _, again = await identity.rotate_key(None, row.id, 60)
    assert (await enter(identity, again)).groups == {"staff", "board"}


async def test_a_token_names_its_user_and_groups(issuer: Issuer, db: Database) -> None:
    checks = verifier(issuer)
    claims = await checks.verify(issuer.token(groups=["staff", 7, "", " x", "a\0b", "board"]))
    assert (claims.user, claims.groups) == ("jane", {"staff", "board"})
    assert (await checks.verify(issuer.token(groups="staff"))).groups == frozenset()
    assert (await checks.verify(issuer.token())).groups == frozenset()
    other = OidcVerifier(
        *("https://id.example", "ostiary", issuer.url, "tenant", "scope"),
        user_claim="email",
        groups_claim="roles",
    )
    claims = await other.verify(issuer.token(email="jane@example.org", roles=["staff"]))
    assert (claims.user, claims.groups) == ("jane@example.org", {"staff"})
    identity = Identity(db, other)
    await identity.bootstrap(None)
    nameless = await enter(identity, issuer.token(sub="ann"))
    assert (nameless.user, nameless.owner) == (None, "oidc:ann")
    named = await enter(identity, issuer.token(email="jane@example.org"))
    assert named.owner == "user:jane@example.org"


async def test_a_token_with_too_many_groups_is_refused_rather_than_cut(issuer: Issuer) -> None:
    many = [f"g{n}" for n in range(MOST_GROUPS + 1)]
    with pytest.raises(Unauthenticated) as caught:
        await verifier(issuer).verify(issuer.token(groups=many))
    assert caught.value.code == "too_many_groups"
    assert len((await verifier(issuer).verify(issuer.token(groups=many[:-1]))).groups) == 1000
