"""Who calls: the credential of a request, verified."""

from __future__ import annotations

import hmac
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping, select

from app.errors import Forbidden, Unauthenticated
from app.gateway.call import Principal
from app.gateway.cookie import cookie_of
from app.gateway.keys import (
    ApiKey,
    KeyStore,
    Tenant,
    hash_secret,
    key_id_of,
    new_secret,
)
from app.store.db import Database
from app.store.models import api_keys, tenants

if TYPE_CHECKING:
    from app.gateway.oidc import OidcVerifier

__all__ = ["ApiKey", "Identity", "Tenant", "new_secret"]

CACHE_S = 5.0
LOOKING_S = 1.0
CACHE_SIZE = 10_000
_NO_KEY = "0" * 64


class Identity(KeyStore):
    """Authenticates calls by API key, OIDC token or, for our own pages, a cookie.

    A verified credential is remembered for ``CACHE_S`` seconds, so that a call costs no
    query; revoking forgets it at once in this process and after that time, and the second or
    two that looking again may take, in the others.
    """

    def __init__(self, db: Database, oidc: OidcVerifier | None = None) -> None:
        super().__init__(db)
        self._oidc = oidc
        # SHA-256 of the credential -> kept until (monotonic), expires at (Unix), principal
        self._cache: dict[str, tuple[float, float | None, Principal]] = {}
        self._changes = 0

    async def authenticate(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]
    ) -> Principal:
        """Return who calls.

        Raises:
            Unauthenticated: no credential, or one that is unknown, expired or revoked.
            Forbidden: a valid credential of a tenant that does not exist or is disabled, or
                a page used from another site.
        """
        credential = _credential(scope, headers)
        digest = hash_secret(credential)
        known = self._cache.get(digest)
        if (
            known is not None
            and known[0] > time.monotonic()
            and (known[1] is None or known[1] > time.time())
        ):
            return known[2]
        changes = self._changes
        if known is not None and known[0] > time.monotonic() - CACHE_S:
            # while this call looks again, the others take what was known a moment ago
            self._cache[digest] = (time.monotonic() + LOOKING_S, known[1], known[2])
        try:
            principal, expires_at = await self._verify(credential, digest)
        except BaseException:
            self._cache.pop(digest, None)
            raise
        if changes == self._changes:  # else it may have been revoked while it was read
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[digest] = (time.monotonic() + CACHE_S, expires_at, principal)
        return principal

    def forget(self, key_id: str | None) -> None:
        """Drop a changed key, or all credentials for None, from the memory."""
        self._changes += 1
        if key_id is None:
            self._cache.clear()
            return
        for digest in [d for d, (_, _, p) in self._cache.items() if p.key_id == key_id]:
            del self._cache[digest]

    async def _verify(self, credential: str, digest: str) -> tuple[Principal, float | None]:
        if credential.startswith("osk-"):
            return await self._verify_key(credential, digest)
        if self._oidc is not None:
            return await self._verify_token(self._oidc, credential)
        raise _unknown()

    async def _verify_key(self, key: str, digest: str) -> tuple[Principal, float | None]:
        row = await self._key_row(key_id_of(key))
        # compared also when the id is unknown: both cases take the same time
        same = hmac.compare_digest(row["secret_hash"] if row is not None else _NO_KEY, digest)
        if row is None or not same:
            raise _unknown()
        _require_usable(row)
        principal = Principal(
            row["tenant_id"],
            f"key:{row['id']}",
            row["id"],
            frozenset(row["scopes"]),
            row["rate_rpm"],
            row["rate_tpm"],
            row["user"],
            frozenset(row["groups"] or ()),
            f"key:{row['first_id'] or row['id']}",
            row["max_streams"],
            row["budget_usd_per_day"],
            tags=tuple(sorted((row["tags"] or {}).items())),
        )
        return principal, row["expires_at"]

    async def _key_row(self, key_id: str) -> RowMapping | None:
        return await self._db.one_or_none(
            select(api_keys, tenants.c.disabled_at)
            .join(tenants, tenants.c.id == api_keys.c.tenant_id)
            .where(api_keys.c.id == key_id)
        )

    async def require_valid(self, principal: Principal) -> None:
        """Look whether who was let in earlier would be let in now; for work that goes on long.

        Raises:
            Unauthenticated: the key was revoked or has expired.
            Forbidden: the tenant is disabled.
        """
        if principal.key_id is not None:
            row = await self._key_row(principal.key_id)
            if row is None:
                raise _unknown()
            _require_usable(row)
            return
        tenant = await self.find_tenant(principal.tenant_id)
        if tenant is None or tenant.disabled_at is not None:
            raise _no_tenant()

    async def _verify_token(self, oidc: OidcVerifier, token: str) -> tuple[Principal, float]:
        claims = await oidc.verify(token)
        tenant = await self.find_tenant(claims.tenant)
        if tenant is None or tenant.disabled_at is not None:
            raise _no_tenant()
        principal = Principal(
            tenant.id,
            f"oidc:{claims.subject}",
            None,
            claims.scopes,
            user=claims.user,
            groups=claims.groups,
        )
        return principal, claims.expires_at


def _credential(scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"authorization", b"").decode("latin-1")
    kind, _, credential = given.partition(" ")
    if kind.lower() == "bearer" and credential.strip():
        return credential.strip()
    path = scope["path"]
    if not given and (path == "/" or path.startswith("/ui/")):
        # The browser adds the cookie by itself, so only our own pages may change anything
        # with it. Browsers that do not tell the site honour the cookie's SameSite.
        site = headers.get(b"sec-fetch-site", b"none")
        if scope["method"] not in ("GET", "HEAD") and site not in (b"same-origin", b"none"):
            raise Forbidden("This page can only be used from itself.", code="cross_site")
        credential = cookie_of(headers)
        if credential:
            return credential
    raise Unauthenticated("Send an API key: the header `Authorization: Bearer osk-…`.")


def _require_usable(row: RowMapping) -> None:
    if row["revoked_at"] is not None:
        raise Unauthenticated(
            "This API key was revoked. Ask an administrator for a new one.",
            code="revoked_api_key",
        )
    if row["expires_at"] is not None and row["expires_at"] <= time.time():
        raise Unauthenticated(
            "This API key has expired. Ask an administrator for a new one.",
            code="expired_api_key",
        )
    if row["disabled_at"] is not None:
        raise _no_tenant()


def _unknown() -> Unauthenticated:
    return Unauthenticated(
        "This credential is not known. Check it for missing characters, or ask an "
        "administrator for a new one."
    )


def _no_tenant() -> Forbidden:
    return Forbidden(
        "The tenant of this credential is unknown or disabled. Ask the platform's administrator.",
        code="tenant_unavailable",
    )
