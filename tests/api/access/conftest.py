"""The house whose files have access lists, on both databases: one for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.api.access_house import SECRET, SECRET_NAME, House, furnished
from tests.conftest import serving
from tests.gateway.test_oidc import AUDIENCE, ISSUER, Issuer


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fake_model_server: str,
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("doors")
    issuer = Issuer()
    (folder / "jwks.json").write_text(issuer.jwks())
    (folder / "minutes").mkdir()
    (folder / "minutes" / SECRET_NAME).write_text(SECRET)
    source = {"kind": "folder", "path": str(folder / "minutes"), "tenants": ["*"], "watch": False}
    env = {
        "OSTIARY_SOURCES": json.dumps({"minutes": source}),
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_OIDC_ISSUER": ISSUER,
        "OSTIARY_OIDC_AUDIENCE": AUDIENCE,
        "OSTIARY_OIDC_JWKS_URL": str(folder / "jwks.json"),
    }
    with serving(request, folder / "data", env) as gateway:
        yield furnished(gateway, issuer)
