"""Verification of OIDC access tokens (JWT, RFC 7519) against an issuer's key set."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from app.errors import Unauthenticated, Unavailable

# Asymmetric only: with HS256 in the list the public key could be used as a shared secret.
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"]
REFETCH_S = 30.0
KEEP_S = 600.0


@dataclass(frozen=True, slots=True)
class Claims:
    subject: str
    tenant: str
    scopes: frozenset[str]
    expires_at: float


class OidcVerifier:
    """Checks signature, issuer, audience and times; keys are fetched and kept.

    A token with an unknown key id makes the set be fetched again, at most every
    ``REFETCH_S`` seconds, so that the issuer may rotate its keys.
    """

    def __init__(
        self, issuer: str, audience: str, jwks_url: str, tenant_claim: str, scope_claim: str
    ) -> None:
        self._issuer, self._audience = issuer, audience
        self._jwks_url = jwks_url
        self._tenant_claim, self._scope_claim = tenant_claim, scope_claim
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = -KEEP_S
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Claims:
        """Return the token's claims.

        Raises:
            Unauthenticated: the token is malformed, not signed by the issuer, not for us,
                expired or not valid yet.
            Unavailable: the key set cannot be fetched.
        """
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=30,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(
                "This token has expired. Get a new one from your identity provider.",
                code="expired_token",
            ) from None
        except jwt.PyJWTError:
            raise Unauthenticated(
                "This token was not accepted: its signature, issuer, audience or times are not "
                "what this gateway expects.",
                code="invalid_token",
            ) from None
        scopes = claims.get(self._scope_claim, "")
        return Claims(
            str(claims["sub"]),
            str(claims.get(self._tenant_claim, "")),
            frozenset(scopes.split() if isinstance(scopes, str) else map(str, scopes)),
            float(claims["exp"]),
        )

    async def _key(self, kid: str) -> jwt.PyJWK:
        age = time.monotonic() - self._fetched
        if age > KEEP_S or (kid not in self._keys and age > REFETCH_S):
            async with self._lock:
                if time.monotonic() - self._fetched >= min(age, REFETCH_S):
                    await self._fetch()
        if kid not in self._keys:
            raise jwt.InvalidKeyError("unknown key id")
        return self._keys[kid]

    async def _fetch(self) -> None:
        try:
            if self._jwks_url.startswith(("http://", "https://")):
                timeout = aiohttp.ClientTimeout(total=10)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as session,
                    session.get(self._jwks_url) as reply,
                ):
                    reply.raise_for_status()
                    text = await reply.text()
            else:
                text = await asyncio.to_thread(Path(self._jwks_url).read_text)
            keys = jwt.PyJWKSet.from_json(text).keys
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, jwt.PyJWTError) as error:
            if self._keys:  # the last good set still verifies what it knows
                self._fetched = time.monotonic() - KEEP_S + REFETCH_S
                return
            raise Unavailable(
                "The identity provider's keys cannot be fetched. Try again shortly.",
                code="identity_unavailable",
            ) from error
        self._keys = {str(k.key_id): k for k in keys}
        self._fetched = time.monotonic()
