"""The guardrail routes of a running gateway, with Presidio's request and response fields."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ADMIN_KEY, Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without a model server: guardrails need none."""
    server = Gateway(tmp_path_factory.mktemp("guarded") / "data", {}).start()
    yield server
    server.stop()


def ask(gateway: Gateway, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{gateway.url}/v1/guardrails/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"},
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
        {"entity_type": "PHONE_NUMBER", "start": 34, "end": 46, "score": 0.4},
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
