"""API keys and tenants as rows: made, listed, rotated, revoked."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.errors import BadRequest, Conflict, NotFound
from app.gateway.call import DEFAULT_TENANT
from app.ids import new_id
from app.store.db import Database
from app.store.models import api_keys, tenants

KEY = re.compile(r"osk-([0-9a-f]{16})-[A-Za-z0-9_-]{32,128}")
GIVEN_KEY = re.compile(r"osk-[!-~]{28,196}")  # what an operator may choose for the first key


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret; times in Unix seconds."""

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    rotated_to: str | None
    rate_rpm: int | None
    rate_tpm: int | None
    user: str | None = None
    groups: tuple[str, ...] = ()
    first_id: str | None = None
    max_streams: int | None = None
    budget_usd_per_day: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose data, keys and budget are apart from all others'; times in Unix seconds."""

    id: str
    name: str
    created_at: float
    disabled_at: float | None
    budget_usd_per_day: float | None


def new_secret() -> tuple[str, str]:
    """Return a fresh key id and the whole key, whose secret part holds 256 random bits."""
    key_id = secrets.token_hex(8)
    return key_id, f"osk-{key_id}-{secrets.token_urlsafe(32)}"


def hash_secret(key: str) -> str:
    """SHA-256, hex; enough for a secret of 256 random bits, which no dictionary holds."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_id_of(key: str) -> str:
    """The id written in ``key``, or for a key that an operator chose, one derived from it."""
    match = KEY.fullmatch(key)
    return match[1] if match else hash_secret(key)[:16]


class KeyStore:
    """Owns the tables of tenants and API keys.

    ``tenant_id`` None in a method means the keys of all tenants.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def forget(self, key_id: str | None) -> None:
        """Called after a key changed (None: any may have); who keeps keys in memory drops it."""

    async def bootstrap(self, secret: str | None) -> str | None:
        """Make the default tenant and the first admin key; return the key if made at random.

        A given ``secret`` is a valid admin key after every start, whatever was there before:
        the environment of the process belongs to the operator. Without one, a key is made
        only while there is none at all.

        Raises:
            ValueError: the given secret is too short or not of the form.
        """
        if secret is not None and not GIVEN_KEY.fullmatch(secret):
            raise ValueError(
                "OSTIARY_BOOTSTRAP_ADMIN_KEY must be 32 to 200 printable characters without "
                "spaces and start with 'osk-'."
            )
        now = time.time()
        async with self._db.write() as connection:
            # First, so that of two gateways starting at once on one database one waits here.
            await connection.execute(
                self._db.insert(tenants)
                .values(id=DEFAULT_TENANT, name=DEFAULT_TENANT, created_at=now)
                .on_conflict_do_nothing()
            )
            if secret is None:
                if (await connection.execute(select(api_keys.c.id).limit(1))).first() is not None:
                    return None
                key_id, key = new_secret()
            else:
                key_id, key = key_id_of(secret), secret
            values = {
                "tenant_id": DEFAULT_TENANT,
                "secret_hash": hash_secret(key),
                "scopes": ["*"],
                "expires_at": None,
                "revoked_at": None,
                "rotated_to": None,
            }
            await connection.execute(
                self._db.insert(api_keys)
                .values(id=key_id, name="first admin key", created_at=now, **values)
                .on_conflict_do_update(index_elements=["id"], set_=values)
            )
        self.forget(key_id)
        return key if secret is None else None

    async def create_tenant(self, name: str, budget_usd_per_day: float | None = None) -> Tenant:
        """Raises Conflict when the name is taken."""
        tenant = Tenant(new_id("tn_"), name, time.time(), None, budget_usd_per_day)
        try:
            async with self._db.write() as connection:
                await connection.execute(
                    insert(tenants).values(
                        id=tenant.id,
                        name=name,
                        created_at=tenant.created_at,
                        budget_usd_per_day=budget_usd_per_day,
                    )
                )
        except IntegrityError:
            raise Conflict("A tenant of this name exists. Choose another name.") from None
        return tenant

    async def list_tenants(self) -> list[Tenant]:
        """All tenants, oldest first."""
        rows = await self._db.rows(select(tenants).order_by(tenants.c.created_at))
        return [Tenant(**row) for row in rows]

    async def find_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant, disabled or not, or None."""
        row = await self._db.one_or_none(select(tenants).where(tenants.c.id == tenant_id))
        return None if row is None else Tenant(**row)

    async def budget_of(self, tenant_id: str) -> float | None:
        """The tenant's own budget in USD a day, or None for the default."""
        tenant = await self.find_tenant(tenant_id)
        return None if tenant is None else tenant.budget_usd_per_day

    async def disable_tenant(self, tenant_id: str) -> None:
        """From now on none of the tenant's keys and tokens is taken.

        Raises:
            Conflict: it is the default tenant, whose administrators manage the others.
            NotFound: there is no such tenant.
        """
        if tenant_id == DEFAULT_TENANT:
            raise Conflict("The default tenant cannot be disabled: its keys manage all others.")
        async with self._db.write() as connection:
            done = await connection.execute(
                update(tenants).where(tenants.c.id == tenant_id).values(disabled_at=time.time())
            )
        if not done.rowcount:
            raise NotFound("tenant", tenant_id)
        self.forget(None)

    async def create_key(
        self,
        tenant_id: str,
        name: str,
        scopes: Sequence[str],
        expires_at: float | None = None,
        rate_rpm: int | None = None,
        rate_tpm: int | None = None,
        user: str | None = None,
        groups: Sequence[str] = (),
        max_streams: int | None = None,
        budget_usd_per_day: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> tuple[ApiKey, str]:
        """Return the key's row and the whole key, which cannot be had again.

        ``user`` and ``groups`` are whom access lists take its bearer for; ``tags`` are those of
        all its calls.
        """
        if await self.find_tenant(tenant_id) is None:
            raise NotFound("tenant", tenant_id)
        if expires_at is not None and expires_at <= time.time():
            raise BadRequest("expires_at lies in the past. Give a later time.", param="expires_at")
        key_id, secret = new_secret()
        row = ApiKey(
            id=key_id,
            tenant_id=tenant_id,
            name=name,
            scopes=tuple(scopes),
            created_at=time.time(),
            expires_at=expires_at,
            revoked_at=None,
            rotated_to=None,
            rate_rpm=rate_rpm,
            rate_tpm=rate_tpm,
            user=user,
            groups=tuple(groups),
            max_streams=max_streams,
            budget_usd_per_day=budget_usd_per_day,
            tags=dict(tags or {}),
        )
        async with self._db.write() as connection:
            await connection.execute(insert(api_keys).values(_values(row, secret)))
        return row, secret

    async def list_keys(self, tenant_id: str | None) -> list[ApiKey]:
        """The keys of a tenant, newest first."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc())
        if tenant_id is not None:
            query = query.where(api_keys.c.tenant_id == tenant_id)
        return [_api_key(row) for row in await self._db.rows(query)]

    async def find_key(self, tenant_id: str | None, key_id: str) -> ApiKey:
        """Raises NotFound for an unknown key and for another tenant's."""
        query = select(api_keys).where(api_keys.c.id == key_id)
        if tenant_id is not None:
            query = query.where(api_keys.c.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("API key", key_id)
        return _api_key(row)

    async def rotate_key(
        self, tenant_id: str | None, key_id: str, grace_s: float
    ) -> tuple[ApiKey, str]:
        """Make a successor with the same rights; the old key works for ``grace_s`` seconds more.

        Raises:
            NotFound: there is no such key.
            Conflict: the key was revoked, has expired or has a successor already.
        """
        old = await self.find_key(tenant_id, key_id)
        now = time.time()
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise Conflict("This key was revoked or has expired. Create a new one instead.")
        new_id_, secret = new_secret()
        first = old.first_id or old.id
        new = replace(old, id=new_id_, created_at=now, rotated_to=None, first_id=first)
        until = now + grace_s if old.expires_at is None else min(now + grace_s, old.expires_at)
        async with self._db.write() as connection:
            # One transaction: a crash leaves no successor that nobody was shown.
            done = await connection.execute(
                update(api_keys)
                .where(
                    api_keys.c.id == key_id,
                    api_keys.c.rotated_to.is_(None),
                    api_keys.c.revoked_at.is_(None),
                )
                .values(expires_at=until, rotated_to=new.id)
            )
            if not done.rowcount:
                raise Conflict("This key was rotated before. Rotate its successor instead.")
            await connection.execute(insert(api_keys).values(_values(new, secret)))
        self.forget(key_id)
        return new, secret

    async def revoke_key(self, tenant_id: str | None, key_id: str) -> ApiKey:
        """Refuse the key from now on; revoking twice changes nothing."""
        key = await self.find_key(tenant_id, key_id)
        revoked_at = key.revoked_at or time.time()
        async with self._db.write() as connection:
            await connection.execute(
                update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=revoked_at)
            )
        self.forget(key_id)
        return replace(key, revoked_at=revoked_at)

    async def line_of(self, tenant_id: str, key_id: str) -> list[str]:
        """The ids of a key and of those that came of it or it came of by rotation, first first."""
        table = api_keys.c
        mine = table.tenant_id == tenant_id
        row = await self._db.one_or_none(select(api_keys).where(mine, table.id == key_id))
        first = key_id if row is None else row["first_id"] or row["id"]
        rows = await self._db.rows(select(table.id).where(mine, table.first_id == first))
        return [first, *(r["id"] for r in rows)]

    async def keys_of(self, tenant_id: str, user: str) -> list[str]:
        """The ids of the keys whose bearer access lists take for this user."""
        table = api_keys.c
        query = select(table.id).where(table.tenant_id == tenant_id, table.user == user)
        return [row["id"] for row in await self._db.rows(query)]

    async def forget_user(self, tenant_id: str, user: str) -> int:
        """Revoke the keys of a user and take the name off; how many there were."""
        table = api_keys.c
        revoked = func.coalesce(table.revoked_at, time.time())
        async with self._db.write() as connection:
            done = await connection.execute(
                update(api_keys)
                .where(table.tenant_id == tenant_id, table.user == user)
                .values(revoked_at=revoked, user=None, name="erased")
            )
        self.forget(None)
        return int(done.rowcount)


def _api_key(row: Mapping[Any, Any]) -> ApiKey:
    values = {name: value for name, value in row.items() if name != "secret_hash"}
    several = {"scopes": tuple(values["scopes"]), "groups": tuple(values["groups"] or ())}
    values["tags"] = values["tags"] or {}
    return ApiKey(**{**values, **several})


def _values(key: ApiKey, secret: str) -> dict[str, Any]:
    values = {name: getattr(key, name) for name in ApiKey.__dataclass_fields__}
    several = {"scopes": list(key.scopes), "groups": list(key.groups)}
    return {**values, **several, "secret_hash": hash_secret(secret)}
