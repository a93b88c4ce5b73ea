"""The schema under test, read from a real gateway."""

import pytest
import schemathesis

from tests.conftest import Gateway


@pytest.fixture(scope="session")
def api_schema(gateway: Gateway) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
