"""Tokens are taken only when the issuer signed them, for us, for now."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.errors import Forbidden, Unauthenticated, Unavailable
from app.gateway.identity import Identity
from app.gateway.oidc import OidcVerifier
from app.store.db import Database

ISSUER, AUDIENCE = "https://id.example", "ostiary"
Key = Any


class Issuer:
    """An identity provider's key set behind a real HTTP server."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Key]] = {
            "rsa": ("RS256", rsa.generate_private_key(65537, 2048)),
            "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
        }
        self.fetches = 0
        self.broken = False
        self.url = ""

    def jwks(self) -> str:
        keys = []
        for kid, (algorithm, key) in self.keys.items():
            public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            keys.append({**public, "kid": kid, "use": "sig", "alg": algorithm})
        keys.append({"kty": "oct", "kid": "shared", "alg": "HS256", "k": "c2VjcmV0" * 8})
        return json.dumps({"keys": keys})

    async def serve(self, _: web.Request) -> web.Response:
        self.fetches += 1
        return web.Response(status=500) if self.broken else web.Response(text=self.jwks())

    def token(self, kid: str = "rsa", **claims: Any) -> str:
        algorithm, key = self.keys[kid]
        return jwt.encode(self.claims(**claims), key, algorithm, headers={"kid": kid})

    def claims(self, **claims: Any) -> dict[str, Any]:
        made = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "jane",
            "exp": time.time() + 300,
            "tenant": "default",
            "scope": "chat:write files:read",
            **claims,
        }
        return {name: value for name, value in made.items() if value is not None}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", made.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield made
    await runner.cleanup()


def verifier(issuer: Issuer, **options: Any) -> OidcVerifier:
    return OidcVerifier(ISSUER, AUDIENCE, issuer.url, "tenant", "scope", **options)


async def refusal(checks: OidcVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await checks.verify(token)
    return caught.value.code


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
async def test_a_token_of_each_allowed_algorithm_is_taken(issuer: Issuer, kid: str) -> None:
    claims = await verifier(issuer).verify(issuer.token(kid))
    assert (claims.subject, claims.tenant) == ("jane", "default")
    assert claims.scopes == {"chat:write", "files:read"}


async def test_scopes_may_be_a_list_and_nonsense_gives_none(issuer: Issuer) -> None:
    checks = verifier(issuer)
    assert (await checks.verify(issuer.token(scope=["a:b", "c"]))).scopes == {"a:b", "c"}
    assert (await checks.verify(issuer.token(scope=7))).scopes == frozenset()
    assert (await checks.verify(issuer.token(scope=None))).scopes == frozenset()


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 1.0}, "expired_token"),
        ({"nbf": time.time() + 3600}, "invalid_token"),
        ({"iss": "https://evil.example"}, "invalid_token"),
        ({"aud": "another"}, "invalid_token"),
        ({"aud": None}, "invalid_token"),
        ({"exp": None}, "invalid_token"),
        ({"sub": None}, "invalid_token"),
    ],
)
async def test_a_token_not_for_us_or_not_for_now_is_refused(
    issuer: Issuer, claims: dict[str, Any], code: str
) -> None:
    assert await refusal(verifier(issuer), issuer.token(**claims)) == code


async def test_unsigned_and_confused_tokens_are_refused(issuer: Issuer) -> None:
    checks = verifier(issuer)
    public = issuer.keys["rsa"][1].public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert await refusal(checks, jwt.encode(issuer.claims(), "", "none", {"kid": "rsa"}))
    # HS256 with the public key as the secret, which PyJWT itself would not even sign
    import hashlib
    import hmac

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    for kid, secret in (("rsa", pem), ("shared", base64.b64decode("c2VjcmV0" * 8))):
        signed = part({"alg": "HS256", "typ": "JWT", "kid": kid}) + b"." + part(issuer.claims())
        mac = hmac.new(secret, signed, hashlib.sha256).digest()
        forged = (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
        assert await refusal(checks, forged) == "invalid_token"
    stranger = rsa.generate_private_key(65537, 2048)
    assert await refusal(checks, jwt.encode(issuer.claims(), stranger, "RS256", {"kid": "rsa"}))
    assert await refusal(checks, jwt.encode(issuer.claims(), stranger, "PS256", {"kid": "rsa"}))
    assert await refusal(checks, jwt.encode(issuer.claims(), stranger, "RS256", {"kid": "ec"}))
    head, _, signature = issuer.token().split(".")
    body = base64.urlsafe_b64encode(json.dumps(issuer.claims(sub="root")).encode()).decode()
    assert await refusal(checks, f"{head}.{body.rstrip('=')}.{signature}")
    for nonsense in ("", "a.b.c", "ünïcode", "...", head):
        assert await refusal(checks, nonsense) == "invalid_token"


async def test_a_rotated_key_is_fetched_but_not_more_often_than_allowed(issuer: Issuer) -> None:
    checks = verifier(issuer, refetch_s=0.0)
    await checks.verify(issuer.token())
    await checks.verify(issuer.token("ec"))
    assert issuer.fetches == 1
    issuer.keys["next"] = ("RS256", rsa.generate_private_key(65537, 2048))
    assert (await checks.verify(issuer.token("next"))).subject == "jane"
    assert issuer.fetches == 2

    careful = verifier(issuer, refetch_s=3600.0)
    stranger = rsa.generate_private_key(65537, 2048)
    for n in range(20):
        forged = jwt.encode(issuer.claims(), stranger, "RS256", {"kid": f"kid{n}"})
        assert await refusal(careful, forged) == "invalid_token"
    assert issuer.fetches == 3


async def test_a_failing_issuer_is_told_apart_and_does_not_stop_known_keys(issuer: Issuer) -> None:
    issuer.broken = True
    with pytest.raises(Unavailable):
        await verifier(issuer).verify(issuer.token())
    issuer.broken = False
    checks = verifier(issuer, refetch_s=0.0)
    await checks.verify(issuer.token())
    issuer.broken = True
    stranger = jwt.encode(issuer.claims(), issuer.keys["rsa"][1], "RS256", {"kid": "unknown"})
    assert await refusal(checks, stranger) == "invalid_token"
    assert (await checks.verify(issuer.token())).subject == "jane"


async def test_a_key_set_may_be_a_file_and_a_lone_key_needs_no_name(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.keys = {"rsa": issuer.keys["rsa"]}
    path = tmp_path / "jwks.json"
    path.write_text(issuer.jwks())
    checks = OidcVerifier(ISSUER, AUDIENCE, str(path), "tenant", "scope")
    nameless = jwt.encode(issuer.claims(), issuer.keys["rsa"][1], "RS256")
    assert (await checks.verify(nameless)).subject == "jane"


async def test_a_token_gives_its_tenants_rights_and_an_unknown_tenant_is_403(
    issuer: Issuer, db: Database
) -> None:
    identity = Identity(db, verifier(issuer))
    await identity.bootstrap(None)
    tenant = await identity.create_tenant("acme")
    scope = {"path": "/v1/models", "method": "GET"}

    def bearer(token: str) -> dict[bytes, bytes]:
        return {b"authorization": b"Bearer " + token.encode()}

    who = await identity.authenticate(scope, bearer(issuer.token(tenant=tenant.id)))
    assert (who.tenant_id, who.subject, who.key_id) == (tenant.id, "oidc:jane", None)
    assert who.may("chat:write") and not who.may("admin")
    for unknown in ("tn_nobody", None):
        with pytest.raises(Forbidden):
            await identity.authenticate(scope, bearer(issuer.token(tenant=unknown)))
    await identity.disable_tenant(tenant.id)
    with pytest.raises(Forbidden):
        await identity.authenticate(scope, bearer(issuer.token(tenant=tenant.id)))
