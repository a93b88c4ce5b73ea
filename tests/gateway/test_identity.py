"""API keys: shown once, stored hashed, and refused as soon as they are not good any more."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select, update

from app.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from app.gateway.call import DEFAULT_TENANT, Principal
from app.gateway.identity import Identity
from app.store.db import Database
from app.store.models import api_keys

API = {"path": "/v1/models", "method": "GET"}


@pytest.fixture
async def identity(db: Database) -> Identity:
    made = Identity(db)
    await made.bootstrap(None)
    return made


async def enter(identity: Identity, key: str) -> Principal:
    return await identity.authenticate(API, {b"authorization": f"Bearer {key}".encode()})


async def refusal(identity: Identity, key: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await enter(identity, key)
    assert key[-8:] not in caught.value.message
    return caught.value.code


async def test_a_key_tells_its_tenant_scopes_and_rates(identity: Identity) -> None:
    row, key = await identity.create_key(
        DEFAULT_TENANT, "ci", ["chat:write", "files:*"], None, 10, 2000
    )
    assert key.startswith(f"osk-{row.id}-") and len(row.id) == 16 and len(key) >= 64
    who = await enter(identity, key)
    assert (who.tenant_id, who.key_id, who.subject) == (DEFAULT_TENANT, row.id, f"key:{row.id}")
    assert (who.rate_rpm, who.rate_tpm) == (10, 2000)
    assert who.may("files:read") and who.may("chat:write") and not who.may("chat:read")


async def test_the_secret_is_nowhere_in_the_database(identity: Identity, db: Database) -> None:
    _, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    async with db.read() as connection:
        rows = (await connection.execute(select(api_keys))).all()
    assert rows and key.rsplit("-", 1)[1] not in repr(rows)
    assert key not in repr(await identity.list_keys(None))


async def test_unknown_keys_and_wrong_secrets_get_the_same_answer(identity: Identity) -> None:
    row, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    assert await enter(identity, key)
    for wrong in (
        f"osk-{row.id}-{'A' * 43}",
        f"osk-{'0' * 16}-{'A' * 43}",
        "osk-",
        "osk-nonsense",
        key + "x",
        key[:-1],
        "not-a-key",
    ):
        assert await refusal(identity, wrong) == "invalid_api_key"


async def test_no_credential_or_another_scheme_is_refused(identity: Identity) -> None:
    _, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    for headers in ({}, {b"authorization": b"Basic abc"}, {b"authorization": b"Bearer "}):
        with pytest.raises(Unauthenticated):
            await identity.authenticate(API, headers)
    assert await identity.authenticate(API, {b"authorization": f"bearer  {key} ".encode()})


async def test_a_revoked_key_is_refused_at_once_though_it_was_in_memory(
    identity: Identity,
) -> None:
    row, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    await enter(identity, key)
    revoked = await identity.revoke_key(None, row.id)
    assert await refusal(identity, key) == "revoked_api_key"
    assert (await identity.revoke_key(None, row.id)).revoked_at == revoked.revoked_at
    assert await refusal(identity, f"osk-{row.id}-{'A' * 43}") == "invalid_api_key"


async def test_a_key_revoked_while_it_is_verified_is_not_remembered(identity: Identity) -> None:
    row, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    verify = identity._verify_key

    async def revoked_meanwhile(*args: str) -> tuple[Principal, float | None]:
        found = await verify(*args)
        await identity.revoke_key(None, row.id)
        return found

    identity._verify_key = revoked_meanwhile  # type: ignore[method-assign]
    await enter(identity, key)
    identity._verify_key = verify  # type: ignore[method-assign]
    assert await refusal(identity, key) == "revoked_api_key"


async def test_a_key_expires_though_it_is_in_memory(
    identity: Identity, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadRequest):
        await identity.create_key(DEFAULT_TENANT, "k", ["*"], time.time() - 1)
    _, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"], time.time() + 3)
    await enter(identity, key)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3.1)
    assert await refusal(identity, key) == "expired_api_key"


async def test_a_remembered_key_needs_no_database(identity: Identity, db: Database) -> None:
    _, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    who = await enter(identity, key)
    async with db.write() as connection:
        await connection.execute(update(api_keys).values(scopes=[]))
    assert await enter(identity, key) is who
    started = time.perf_counter()
    for _ in range(2000):
        await enter(identity, key)
    assert (time.perf_counter() - started) / 2000 < 100e-6


async def test_rotation_keeps_both_keys_until_the_grace_ends(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, old_key = await identity.create_key(DEFAULT_TENANT, "k", ["chat:write"], None, 7, 8)
    await enter(identity, old_key)
    new, new_key = await identity.rotate_key(None, old.id, 60)
    assert (new.scopes, new.rate_rpm, new.rate_tpm) == (("chat:write",), 7, 8)
    assert (await enter(identity, old_key)).key_id == old.id
    assert (await enter(identity, new_key)).key_id == new.id
    assert (await identity.find_key(None, old.id)).rotated_to == new.id
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert await refusal(identity, old_key) == "expired_api_key"
    assert (await enter(identity, new_key)).key_id == new.id


async def test_a_key_is_rotated_once_and_never_when_it_is_dead(identity: Identity) -> None:
    row, _ = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    before = len(await identity.list_keys(None))
    await identity.rotate_key(None, row.id, 60)
    with pytest.raises(Conflict):
        await identity.rotate_key(None, row.id, 60)
    dead, _ = await identity.create_key(DEFAULT_TENANT, "dead", ["*"])
    await identity.revoke_key(None, dead.id)
    with pytest.raises(Conflict):
        await identity.rotate_key(None, dead.id, 60)
    assert len(await identity.list_keys(None)) == before + 2


async def test_keys_of_another_tenant_cannot_be_seen_or_touched(identity: Identity) -> None:
    tenant = await identity.create_tenant("acme", 1.0)
    row, key = await identity.create_key(tenant.id, "k", ["*"])
    for act in (
        identity.find_key(DEFAULT_TENANT, row.id),
        identity.revoke_key(DEFAULT_TENANT, row.id),
        identity.rotate_key(DEFAULT_TENANT, row.id, 0),
    ):
        with pytest.raises(NotFound):
            await act
    assert row.id not in {k.id for k in await identity.list_keys(DEFAULT_TENANT)}
    assert [k.id for k in await identity.list_keys(tenant.id)] == [row.id]
    assert (await enter(identity, key)).tenant_id == tenant.id
    with pytest.raises(NotFound):
        await identity.create_key("tn_none", "k", ["*"])


async def test_a_disabled_tenant_is_out_at_once(identity: Identity) -> None:
    tenant = await identity.create_tenant("acme")
    _, key = await identity.create_key(tenant.id, "k", ["*"])
    await enter(identity, key)
    await identity.disable_tenant(tenant.id)
    with pytest.raises(Forbidden):
        await enter(identity, key)
    with pytest.raises(Conflict):
        await identity.disable_tenant(DEFAULT_TENANT)
    with pytest.raises(Conflict):
        await identity.create_tenant("acme")


async def test_the_first_key_is_made_once(db: Database) -> None:
    identity = Identity(db)
    key = await identity.bootstrap(None)
    assert key is not None and (await enter(identity, key)).may("admin:platform")
    assert await Identity(db).bootstrap(None) is None
    assert [t.id for t in await identity.list_tenants()] == [DEFAULT_TENANT]


@pytest.mark.parametrize(
    "given", ["osk-00000000000000aa-" + "t" * 43, "osk-chosen.by/an+operator=32chars"]
)
async def test_a_given_first_key_is_valid_after_every_start(db: Database, given: str) -> None:
    identity = Identity(db)
    assert await identity.bootstrap(given) is None
    assert await identity.bootstrap(given) is None
    who = await enter(identity, given)
    assert len(await identity.list_keys(None)) == 1 and who.may("anything")
    assert who.key_id is not None and len(who.key_id) == 16
    await identity.revoke_key(None, who.key_id)
    await identity.bootstrap(given)
    assert (await enter(identity, given)).key_id == who.key_id


async def test_a_weak_first_key_is_refused(db: Database) -> None:
    for weak in ("osk-short", "sk-" + "a" * 60, "osk-" + "a" * 30 + "\n"):
        with pytest.raises(ValueError, match="OSTIARY_BOOTSTRAP_ADMIN_KEY"):
            await Identity(db).bootstrap(weak)


async def test_the_cookie_opens_pages_only_and_only_from_themselves(identity: Identity) -> None:
    _, key = await identity.create_key(DEFAULT_TENANT, "k", ["*"])
    cookie = {b"cookie": f"a=b; ostiary_session={key}; c=d".encode()}
    for path in ("/", "/ui/", "/ui/ask"):
        assert await identity.authenticate({"path": path, "method": "GET"}, cookie)
    for path in ("/v1/models", "/uix", "/v1/ui/"):
        with pytest.raises(Unauthenticated):
            await identity.authenticate({"path": path, "method": "GET"}, cookie)
    post = {"path": "/ui/ask", "method": "POST"}
    for site in ({}, {b"sec-fetch-site": b"same-origin"}, {b"sec-fetch-site": b"none"}):
        assert await identity.authenticate(post, {**cookie, **site})
    for other in (b"cross-site", b"same-site"):
        with pytest.raises(Forbidden):
            await identity.authenticate(post, {**cookie, b"sec-fetch-site": other})
