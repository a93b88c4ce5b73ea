"""The OpenAPI document is true: no undocumented status, no 5xx (schemathesis)."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.main import create_app
from app.settings import Settings
from tests.conftest import ADMIN_KEY, Gateway

schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_the_api_answers_as_its_schema_says(case: schemathesis.Case, gateway: Gateway) -> None:
    case.call_and_validate(
        base_url=gateway.url,
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        timeout=30,
        # what is well formed may still be refused for what it says: a date that has passed
        excluded_checks=[positive_data_acceptance],
    )
