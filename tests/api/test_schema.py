"""The OpenAPI document is true: no undocumented status, no 5xx (schemathesis)."""

from __future__ import annotations

import json
import urllib.request

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.main import create_app
from app.settings import Settings
from tests.conftest import ADMIN_KEY, Gateway

document = create_app(Settings()).openapi()
schema = schemathesis.openapi.from_dict(document)


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


def test_the_document_is_served_with_the_shape_of_every_error(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"{gateway.url}/openapi.json") as reply:
        served = json.load(reply)
    assert served == json.loads(json.dumps(document))
    shape = served["components"]["schemas"]["ErrorBody"]
    assert shape["properties"]["error"] == {"$ref": "#/components/schemas/ErrorDetail"}
    assert "ErrorDetail" in served["components"]["schemas"]
    operations = [o for path in served["paths"].values() for o in path.values()]
    refused = [o["responses"]["429"] for o in operations if "429" in o["responses"]]
    assert len(refused) > 100
    for reply in refused:
        content = reply["content"]["application/json"]
        assert content == {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
