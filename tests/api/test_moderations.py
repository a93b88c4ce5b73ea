"""Moderations by the guardrail policy, with the OpenAI SDK unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from app.guardrails.policy import load_policy
from tests.api.calls import send
from tests.conftest import Gateway

SECRET = "jane.roe@example.com"


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0)


@pytest.mark.parametrize("model", [None, "guardrails", "omni-moderation-latest"])
def test_each_text_is_judged_by_the_policy_in_force(client: OpenAI, model: str | None) -> None:
    named: dict[str, Any] = {} if model is None else {"model": model}
    raw = client.moderations.with_raw_response.create(
        input=["The door is open.", f"Ask {SECRET}."], **named
    )
    clean, found = raw.parse().results
    assert (clean.flagged, found.flagged) == (False, True)
    told: Any = found.to_dict()
    assert told["categories"]["pii/email_address"] is True
    assert told["category_scores"]["pii/email_address"] > 0.4
    assert told["categories"]["pii/credit_card"] is False
    policy = load_policy("default")
    assert told["ostiary"] == {
        "policy": "default",
        "action": policy.action("EMAIL_ADDRESS", "input"),
    }
    assert SECRET not in raw.text


def test_what_is_not_judged_is_null_and_not_false(client: OpenAI) -> None:
    told: Any = client.moderations.create(input="I hate doors.").results[0].to_dict()
    assert told["categories"]["hate"] is None
    assert told["category_scores"]["violence"] is None
    assert told["category_applied_input_types"]["hate"] == []


def test_parts_are_one_input_and_pictures_are_refused(client: OpenAI) -> None:
    parts: list[Any] = [{"type": "text", "text": "a"}, {"type": "text", "text": SECRET}]
    assert [r.flagged for r in client.moderations.create(input=parts).results] == [True]
    picture: Any = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(BadRequestError, match="Only text"):
        client.moderations.create(input=picture)
    with pytest.raises(NotFoundError):
        client.moderations.create(input="x", model="nope")


def test_what_was_found_is_audited_by_type_alone(gateway: Gateway) -> None:
    ids = {"x-request-id": "moderation-audited"}
    status, _, _ = send(gateway, "POST", "/v1/moderations", {"input": f"Ask {SECRET}"}, ids)
    assert status == 200
    status, page, _ = send(gateway, "GET", "/v1/audit?request_id=moderation-audited")
    (record,) = page["data"]
    assert SECRET not in str(record)
    assert "EMAIL_ADDRESS" in str(record["findings"]) and "flag" in str(record["findings"])
