"""The house that is sent what is wrong, and stands: one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.calls import send
from tests.conftest import Gateway, serving


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fake_model_server: str,
) -> Iterator[Gateway]:
    env = {
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_MAX_FILE_BYTES": str(2 * 2**20),
    }
    with serving(request, tmp_path_factory.mktemp("bad") / "data", env) as server:
        yield server


@pytest.fixture(autouse=True)
def still_serves(house: Gateway) -> Iterator[None]:
    yield
    status, body, _ = send(
        house,
        "POST",
        "/v1/chat/completions",
        {"model": "stub", "messages": [{"role": "user", "content": "Are you there?"}]},
    )
    assert status == 200 and body["choices"]
