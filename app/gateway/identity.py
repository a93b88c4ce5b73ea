"""Who calls: API keys, tenants and what they may do."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from app.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from app.gateway.call import Principal
from app.gateway.oidc import OidcVerifier
from app.ids import new_id
from app.store.db import Database
from app.store.models import api_keys, tenants

KEY = re.compile(r"osk-([0-9a-f]{16})-([A-Za-z0-9_-]{32,128})")
COOKIE = "ostiary_session"
CACHE_S = 5.0
CACHE_SIZE = 10_000
DEFAULT_TENANT = "default"
_NO_KEY = "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret."""

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


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    name: str
    created_at: float
    disabled_at: float | None
    budget_usd_per_day: float | None


def new_secret() -> tuple[str, str]:
    """A fresh key id and the whole key, whose secret part holds 256 random bits."""
    key_id = secrets.token_hex(8)
    return key_id, f"osk-{key_id}-{secrets.token_urlsafe(32)}"


def hash_secret(key: str) -> str:
    """SHA-256, hex; enough for a secret of 256 random bits, which no dictionary holds."""
    return hashlib.sha256(key.encode()).hexdigest()


class Identity:
    """Authenticates calls; makes, rotates and revokes keys.

    A verified key is remembered for ``CACHE_S`` seconds, so that a call costs no query;
    revoking forgets it at once in this process and after that time in the others.
    """

    def __init__(self, db: Database, oidc: OidcVerifier | None = None) -> None:
        self._db = db
        self._oidc = oidc
        self._cache: dict[str, tuple[float, float | None, Principal]] = {}

    async def authenticate(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]
    ) -> Principal:
        """Return who calls.

        Raises:
            Unauthenticated: no credential, or one that is unknown, expired or revoked.
            Forbidden: a valid token of a tenant that does not exist or is disabled.
        """
        credential = self._credential(scope, headers)
        digest = hash_secret(credential)
        known = self._cache.get(digest)
        if known is not None and known[0] > time.monotonic():
            if known[1] is not None and known[1] <= time.time():
                raise _expired()
            return known[2]
        if credential.startswith("osk-"):
            principal, expires_at = await self._verify_key(credential, digest)
        elif self._oidc is not None:
            principal, expires_at = await self._verify_token(credential)
        else:
            raise _unknown()
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (time.monotonic() + CACHE_S, expires_at, principal)
        return principal

    def _credential(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]
    ) -> str:
        given = headers.get(b"authorization", b"").decode("latin-1")
        kind, _, credential = given.partition(" ")
        if kind.lower() == "bearer" and credential.strip():
            return credential.strip()
        if not given and scope["path"].startswith("/ui/"):
            # Only pages take the cookie, and only from themselves: no cross-site requests.
            if headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none"):
                raise Forbidden("This page can only be used from itself.", code="cross_site")
            credential = cookie_of(headers)
            if credential:
                return credential
        raise Unauthenticated("Send an API key: the header `Authorization: Bearer osk-…`.")

    async def _verify_key(self, key: str, digest: str) -> tuple[Principal, float | None]:
        match = KEY.fullmatch(key)
        async with self._db.read() as connection:
            rows = await connection.execute(
                select(api_keys, tenants.c.disabled_at)
                .join(tenants, tenants.c.id == api_keys.c.tenant_id)
                .where(api_keys.c.id == (match[1] if match else ""))
            )
            row = rows.mappings().one_or_none()
        # compared also when the id is unknown: both cases take the same time
        same = hmac.compare_digest(row["secret_hash"] if row else _NO_KEY, digest)
        if row is None or not same:
            raise _unknown()
        if row["revoked_at"] is not None:
            raise Unauthenticated(
                "This API key was revoked. Use another one.", code="revoked_api_key"
            )
        if row["expires_at"] is not None and row["expires_at"] <= time.time():
            raise _expired()
        if row["disabled_at"] is not None:
            raise Forbidden("This tenant is disabled. Ask the platform's administrator.")
        principal = Principal(
            row["tenant_id"],
            f"key:{row['id']}",
            row["id"],
            frozenset(row["scopes"]),
            row["rate_rpm"],
            row["rate_tpm"],
        )
        return principal, row["expires_at"]

    async def _verify_token(self, token: str) -> tuple[Principal, float | None]:
        assert self._oidc is not None
        claims = await self._oidc.verify(token)
        tenant = await self._tenant(claims.tenant)
        if tenant is None or tenant.disabled_at is not None:
            raise Forbidden("The token's tenant is unknown here or disabled.")
        return (
            Principal(tenant.id, f"oidc:{claims.subject}", None, claims.scopes),
            claims.expires_at,
        )

    async def bootstrap(self, secret: str | None) -> str | None:
        """Make the first tenant and admin key; returns the key if it was made at random.

        A given ``secret`` is valid after every start, whatever was there before.
        """
        if secret is not None and not KEY.fullmatch(secret):
            raise ValueError("OSTIARY_BOOTSTRAP_ADMIN_KEY must be osk-<16 hex>-<32 or more chars>")
        async with self._db.write() as connection:
            first = (await connection.execute(select(tenants.c.id).limit(1))).first() is None
            if first:
                await connection.execute(
                    insert(tenants).values(
                        id=DEFAULT_TENANT, name=DEFAULT_TENANT, created_at=time.time()
                    )
                )
            if secret is None and not first:
                return None
            key_id, key = new_secret() if secret is None else (secret[4:20], secret)
            known = await connection.execute(select(api_keys.c.id).where(api_keys.c.id == key_id))
            if known.first() is None:
                await connection.execute(
                    insert(api_keys).values(
                        id=key_id,
                        tenant_id=DEFAULT_TENANT,
                        name="first admin key",
                        secret_hash=hash_secret(key),
                        scopes=["*"],
                        created_at=time.time(),
                    )
                )
        return key if secret is None else None

    async def create_tenant(self, name: str, budget_usd_per_day: float | None) -> Tenant:
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
        async with self._db.read() as connection:
            rows = await connection.execute(select(tenants).order_by(tenants.c.created_at))
            return [Tenant(**r) for r in rows.mappings()]

    async def disable_tenant(self, tenant_id: str) -> None:
        """From now on none of the tenant's keys and tokens is taken."""
        async with self._db.write() as connection:
            done = await connection.execute(
                update(tenants)
                .where(tenants.c.id == tenant_id)
                .values(disabled_at=time.time())
            )
        if not done.rowcount:
            raise NotFound("tenant", tenant_id)
        self._cache.clear()

    async def budget_of(self, tenant_id: str) -> float | None:
        """The tenant's own budget in USD a day, or None for the default."""
        tenant = await self._tenant(tenant_id)
        return None if tenant is None else tenant.budget_usd_per_day

    async def _tenant(self, tenant_id: str) -> Tenant | None:
        async with self._db.read() as connection:
            rows = await connection.execute(select(tenants).where(tenants.c.id == tenant_id))
            row = rows.mappings().one_or_none()
        return None if row is None else Tenant(**row)

    async def create_key(
        self,
        tenant_id: str,
        name: str,
        scopes: list[str],
        *,
        expires_at: float | None = None,
        rate_rpm: int | None = None,
        rate_tpm: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Return the key's row and the secret, which cannot be had again."""
        if await self._tenant(tenant_id) is None:
            raise NotFound("tenant", tenant_id)
        if expires_at is not None and expires_at <= time.time():
            raise BadRequest("expires_at lies in the past.", param="expires_at")
        key_id, secret = new_secret()
        row = ApiKey(
            key_id,
            tenant_id,
            name,
            tuple(scopes),
            time.time(),
            expires_at,
            None,
            None,
            rate_rpm,
            rate_tpm,
        )
        async with self._db.write() as connection:
            await connection.execute(
                insert(api_keys).values(
                    id=key_id,
                    tenant_id=tenant_id,
                    name=name,
                    secret_hash=hash_secret(secret),
                    scopes=list(scopes),
                    created_at=row.created_at,
                    expires_at=expires_at,
                    rate_rpm=rate_rpm,
                    rate_tpm=rate_tpm,
                )
            )
        return row, secret

    async def list_keys(self, tenant_id: str | None) -> list[ApiKey]:
        """The keys of a tenant, or of all for None; newest first."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc())
        if tenant_id is not None:
            query = query.where(api_keys.c.tenant_id == tenant_id)
        async with self._db.read() as connection:
            return [_api_key(r) for r in (await connection.execute(query)).mappings()]

    async def rotate_key(
        self, tenant_id: str | None, key_id: str, grace_s: float
    ) -> tuple[ApiKey, str]:
        """Make a successor; the old key works for ``grace_s`` seconds more."""
        old = await self._key(tenant_id, key_id)
        if old.revoked_at is not None:
            raise Conflict("This key was revoked; create a new one instead.")
        new, secret = await self.create_key(
            old.tenant_id,
            old.name,
            list(old.scopes),
            expires_at=old.expires_at,
            rate_rpm=old.rate_rpm,
            rate_tpm=old.rate_tpm,
        )
        until = time.time() + grace_s
        if old.expires_at is not None:
            until = min(until, old.expires_at)
        await self._change(key_id, expires_at=until, rotated_to=new.id)
        return replace(new), secret

    async def revoke_key(self, tenant_id: str | None, key_id: str) -> ApiKey:
        """Refuse the key from now on."""
        key = await self._key(tenant_id, key_id)
        revoked_at = key.revoked_at or time.time()
        await self._change(key_id, revoked_at=revoked_at)
        return replace(key, revoked_at=revoked_at)

    async def _key(self, tenant_id: str | None, key_id: str) -> ApiKey:
        query = select(api_keys).where(api_keys.c.id == key_id)
        if tenant_id is not None:
            query = query.where(api_keys.c.tenant_id == tenant_id)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("API key", key_id)
        return _api_key(row)

    async def _change(self, key_id: str, **values: Any) -> None:
        async with self._db.write() as connection:
            await connection.execute(
                update(api_keys).where(api_keys.c.id == key_id).values(**values)
            )
        for digest in [d for d, (_, _, p) in self._cache.items() if p.key_id == key_id]:
            del self._cache[digest]


def cookie_of(headers: dict[bytes, bytes]) -> str:
    """The key in the session cookie, or ''."""
    for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _api_key(row: Any) -> ApiKey:
    values = {k: v for k, v in row.items() if k != "secret_hash"}
    return ApiKey(**{**values, "scopes": tuple(values["scopes"])})


def _unknown() -> Unauthenticated:
    return Unauthenticated("This credential is not known. Check it for missing characters.")


def _expired() -> Unauthenticated:
    return Unauthenticated(
        "This credential has expired. Ask an administrator for a new one.", code="expired_api_key"
    )
