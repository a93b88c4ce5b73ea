"""The guardrail routes of a running gateway, with Presidio's request and response fields."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.calls import new_key, send
from tests.conftest import ADMIN_KEY, Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without a model server: guardrails need none."""
    server = Gateway(tmp_path_factory.mktemp("guarded") / "data", {}).start()
    yield server
    server.stop()


def ask(
    gateway: Gateway, path: str, body: dict[str, Any] | None = None, key: str = ADMIN_KEY
) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{gateway.url}/v1/guardrails/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_analyze_then_anonymize_masks_what_was_found(gateway: Gateway) -> None:
    text = "Mail jane.doe@example.com or call 415-555-0132."
    entities = ["EMAIL_ADDRESS", "PHONE_NUMBER"]
    status, found = ask(gateway, "analyze", {"text": text, "entities": entities})
    assert status == 200
    assert found == [
        {"entity_type": "EMAIL_ADDRESS", "start": 5, "end": 25, "score": 1.0},
        {"entity_type": "PHONE_NUMBER", "start": 34, "end": 46, "score": 0.75},
    ]
    status, masked = ask(gateway, "anonymize", {"text": text, "analyzer_results": found})
    assert status == 200
    assert masked["text"] == "Mail <EMAIL_ADDRESS> or call <PHONE_NUMBER>."


def test_unknown_entity_type_is_refused_by_name(gateway: Gateway) -> None:
    status, reply = ask(gateway, "analyze", {"text": "x", "entities": ["SHOE_SIZE"]})
    assert status == 404
    assert "SHOE_SIZE" in reply["error"]["message"]
    assert "EMAIL_ADDRESS" in reply["error"]["message"]


def test_findings_that_overlap_or_leave_the_text_are_refused(gateway: Gateway) -> None:
    for spans in ([(0, 3), (2, 4)], [(0, 99)], [(3, 1)]):
        results = [{"entity_type": "PERSON", "start": a, "end": b} for a, b in spans]
        status, reply = ask(gateway, "anonymize", {"text": "abcd", "analyzer_results": results})
        assert status == 422
        assert reply["error"]["param"] == "analyzer_results"


def test_policy_in_force_can_be_read(gateway: Gateway) -> None:
    status, policy = ask(gateway, "policies/default")
    assert status == 200
    assert policy["entities"]["US_SSN"] == {"input": "block", "output": "mask"}
    assert len(policy["version"]) == 12
    assert ask(gateway, "policies/other")[0] == 404


def test_presidios_operators_take_the_values_out_each_in_its_way(gateway: Gateway) -> None:
    text = "Ada, ada@example.com, 415-555-0132, GB33BUKB20201555555555, x@example.com"
    spans = {"PERSON": (0, 3), "EMAIL_ADDRESS": (5, 20), "PHONE_NUMBER": (22, 34),
             "IBAN_CODE": (36, 58), "URL": (60, 73)}  # fmt: skip
    results = [{"entity_type": e, "start": a, "end": b} for e, (a, b) in spans.items()]
    anonymizers = {
        "DEFAULT": {"type": "replace", "new_value": "[gone]"},
        "PERSON": {"type": "redact"},
        "EMAIL_ADDRESS": {"type": "encrypt"},
        "PHONE_NUMBER": {"type": "mask", "chars_to_mask": 8, "from_end": True},
        "URL": {"type": "keep"},
    }
    body = {"text": text, "analyzer_results": results, "anonymizers": anonymizers}
    status, made = ask(gateway, "anonymize", body)
    assert status == 200
    token = made["items"][1]["text"]
    assert made["text"] == f", {token}, 415-********, [gone], x@example.com"
    for item in made["items"]:
        assert made["text"][item["start"] : item["end"]] == item["text"]
    status, back = ask(gateway, "deanonymize", {"text": made["text"]})
    assert status == 200
    assert back["text"] == ", ada@example.com, 415-********, [gone], x@example.com"
    (item,) = back["items"]
    assert back["text"][item["start"] : item["end"]] == item["text"] == "ada@example.com"


def test_an_operator_that_is_not_complete_is_refused(gateway: Gateway) -> None:
    body = {"text": "Ada", "analyzer_results": [], "anonymizers": {"PERSON": {"type": "mask"}}}
    status, reply = ask(gateway, "anonymize", body)
    assert (status, reply["error"]["param"]) == (400, "anonymizers.PERSON.mask.chars_to_mask")


def test_a_token_is_turned_back_by_who_may_and_for_its_tenant_alone(gateway: Gateway) -> None:
    results = [{"entity_type": "EMAIL_ADDRESS", "start": 0, "end": 15}]
    anonymizers = {"DEFAULT": {"type": "encrypt"}}
    body = {"text": "ada@example.com", "analyzer_results": results, "anonymizers": anonymizers}
    token = ask(gateway, "anonymize", body)[1]["text"]
    may_not = new_key(gateway, scopes=["guardrails:use"])["key"]
    assert ask(gateway, "deanonymize", {"text": token}, may_not)[0] == 403
    status, tenant, _ = send(gateway, "POST", "/v1/admin/tenants", {"name": "other"})
    assert status == 201
    other = new_key(gateway, scopes=["guardrails:*"], tenant_id=tenant["id"])["key"]
    status, reply = ask(gateway, "deanonymize", {"text": token}, other)
    assert (status, reply) == (200, {"text": token, "items": [], "foreign": 1})


def test_values_stay_readable_by_the_key_of_the_first_start(gateway: Gateway) -> None:
    results = [{"entity_type": "EMAIL_ADDRESS", "start": 0, "end": 15}]
    anonymizers = {"DEFAULT": {"type": "encrypt"}}
    body = {"text": "ada@example.com", "analyzer_results": results, "anonymizers": anonymizers}
    token = ask(gateway, "anonymize", body)[1]["text"]
    assert (gateway.data_dir / "guardrails.key").stat().st_mode & 0o777 == 0o600
    gateway.kill()
    gateway.start()
    assert ask(gateway, "deanonymize", {"text": token})[1]["text"] == "ada@example.com"
