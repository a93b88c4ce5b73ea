"""Verification of OIDC access tokens (JWT, RFC 7519) against an issuer's key set."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from app.errors import Unauthenticated, Unavailable
from app.gateway.acting import MOST_GROUPS, is_name

log = logging.getLogger("ostiary.gateway")
# Asymmetric only: with HS256 in the list the public key could be used as a shared secret.
ALGORITHMS = ["RS256", "ES256", "EdDSA"]
LEEWAY_S = 30.0  # clocks of the issuer and ours differ
KEEP_S = 600.0
REFETCH_S = 30.0
MAX_JWKS_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says; ``expires_at`` in Unix seconds, leeway included."""

    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: float
    user: str | None = None  # as access lists name the bearer
    groups: frozenset[str] = frozenset()


class OidcVerifier:
    """Checks signature, issuer, audience and times; the issuer's keys are fetched and kept.

    The set is fetched again after ``KEEP_S`` and when a token names an unknown key, so that
    the issuer may rotate its keys; but at most every ``refetch_s`` seconds, so that forged
    tokens cannot make us flood the issuer, nor can its failure slow every call down.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        jwks_url: str,
        tenant_claim: str,
        scope_claim: str,
        *,
        user_claim: str = "sub",
        groups_claim: str = "groups",
        refetch_s: float = REFETCH_S,
    ) -> None:
        self._issuer, self._audience = issuer, audience
        self._jwks_url = jwks_url
        self._tenant_claim, self._scope_claim = tenant_claim, scope_claim
        self._user_claim, self._groups_claim = user_claim, groups_claim
        self._refetch_s = refetch_s
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at = self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Claims:
        """Return the token's claims.

        Raises:
            Unauthenticated: the token is malformed, not signed by the issuer, not for us,
                expired or not valid yet.
            Unavailable: the key set was never fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError("not in the list")
            key = await self._key(header.get("kid"))
            # PyJWT also refuses a token whose algorithm is not the one of the key.
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(
                "This token has expired. Get a new one from your identity provider.",
                code="expired_token",
            ) from None
        except (jwt.PyJWTError, UnicodeError):
            raise Unauthenticated(
                "This token was not accepted: its signature, issuer, audience or times are not "
                "what this gateway expects. Get a new one from your identity provider.",
                code="invalid_token",
            ) from None
        return Claims(
            str(claims["sub"]),
            str(claims.get(self._tenant_claim, "")),
            _scopes(claims.get(self._scope_claim)),
            float(claims["exp"]) + LEEWAY_S,
            _user(claims.get(self._user_claim)),
            _groups(claims.get(self._groups_claim)),
        )

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        """Return the key that a token names; a set of one key needs no name."""
        if self._wants_fetch(kid):
            async with self._lock:
                if self._wants_fetch(kid):  # another call may have fetched meanwhile
                    await self._fetch()
        if not self._keys:
            raise Unavailable(
                "The identity provider's keys cannot be fetched. Try again in a minute.",
                code="identity_unavailable",
                headers={"retry-after": str(max(1, round(self._refetch_s)))},
            )
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid is None or kid not in self._keys:
            raise jwt.InvalidKeyError("unknown key id")
        return self._keys[kid]

    def _wants_fetch(self, kid: str | None) -> bool:
        now = time.monotonic()
        if now - self._tried_at < self._refetch_s:
            return False
        return now - self._fetched_at > KEEP_S or (kid is not None and kid not in self._keys)

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            keys = jwt.PyJWKSet.from_json(await self._read()).keys
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            # the last good set still verifies what it knows
            log.warning("JWKS fetch failed: %s", type(error).__name__)
            return
        self._keys = {
            key.key_id or f"#{n}": key
            for n, key in enumerate(keys)
            if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
        }
        self._fetched_at = self._tried_at

    async def _read(self) -> str:
        if not self._jwks_url.startswith(("http://", "https://")):
            path = self._jwks_url.removeprefix("file://")
            return await asyncio.to_thread(Path(path).read_text)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(self._jwks_url) as reply,
        ):
            reply.raise_for_status()
            body = bytearray()
            async for chunk in reply.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError("the key set is too large")
            return body.decode()


def _scopes(claim: object) -> frozenset[str]:
    """Scopes as OAuth writes them, separated by spaces, or as a list."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    return frozenset(map(str, claim)) if isinstance(claim, list) else frozenset()


def _user(claim: object) -> str | None:
    return claim if isinstance(claim, str) and is_name(claim) else None


def _groups(claim: object) -> frozenset[str]:
    """Groups as a list of names; what is no name is not a group.

    Raises:
        Unauthenticated: more groups than are taken: none is dropped in silence.
    """
    if not isinstance(claim, list):
        return frozenset()
    if len(claim) > MOST_GROUPS:
        raise Unauthenticated(
            f"This token names more than {MOST_GROUPS} groups. Let your identity provider send "
            "only the groups that this gateway needs.",
            code="too_many_groups",
        )
    return frozenset(g for g in claim if isinstance(g, str) and is_name(g))
