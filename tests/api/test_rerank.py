"""Reranking as a service, through a real gateway with both models."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.calls import new_key, refused, send
from tests.conftest import Gateway

QUERY = "How many days of holiday do employees get?"
DOCUMENTS = [
    "Trains are booked through the travel desk.",
    "Employees receive 27 days of paid holiday each year.",
    {"text": "The canteen opens at noon."},
]


def rerank(gateway: Gateway, **fields: Any) -> Any:
    body = {"model": "cross-encoder", "query": QUERY, "documents": DOCUMENTS, **fields}
    return send(gateway, "POST", "/v1/rerank", body)


@pytest.mark.parametrize("model", ["cross-encoder", "late-interaction"])
def test_the_document_that_answers_comes_first(gateway: Gateway, model: str) -> None:
    status, reply, headers = rerank(gateway, model=model)
    assert status == 200, reply
    assert sorted(r["index"] for r in reply["results"]) == [0, 1, 2]
    assert reply["results"][0]["index"] == 1
    scores = [r["relevance_score"] for r in reply["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= s <= 1 for s in scores)
    assert reply["model"] == model
    # each document is read with the query before it
    assert reply["usage"]["total_tokens"] > 3 * 9
    assert float(headers["x-ostiary-cost-usd"]) > 0
    assert all("document" not in r for r in reply["results"])


def test_the_best_may_be_asked_for_with_their_texts(gateway: Gateway) -> None:
    _, reply, _ = rerank(gateway, top_n=1, return_documents=True)
    (best,) = reply["results"]
    assert best["document"] == {"text": DOCUMENTS[1]}


def test_more_documents_than_wait_at_once_all_get_a_score(gateway: Gateway) -> None:
    many = [f"Door {n} leads to room {n}." for n in range(150)]
    status, reply, _ = rerank(
        gateway, model="late-interaction", query="Where does door 77 lead?", documents=many
    )
    assert status == 200
    assert sorted(r["index"] for r in reply["results"]) == list(range(150))


def test_personal_data_reaches_neither_model_nor_reply(gateway: Gateway) -> None:
    _, reply, headers = rerank(
        gateway, documents=["Ask jane.roe@example.com."], return_documents=True
    )
    assert reply["results"][0]["document"] == {"text": "Ask <EMAIL_ADDRESS>."}
    assert headers["x-ostiary-guardrails"] == "masked=1;blocked=0"


def test_bad_bodies_and_keys_are_refused(gateway: Gateway) -> None:
    assert refused(rerank(gateway, model="nope"), 404)["code"] == "model_not_found"
    assert refused(rerank(gateway, documents=[]))["param"] == "documents"
    assert refused(rerank(gateway, query=""))["param"] == "query"
    assert refused(rerank(gateway, top_n=0))["param"] == "top_n"
    key = new_key(gateway)["key"]
    body = {"model": "cross-encoder", "query": QUERY, "documents": DOCUMENTS}
    reply = send(gateway, "POST", "/v1/rerank", body, {"authorization": f"Bearer {key}"})
    assert refused(reply, 403)["code"] == "insufficient_scope"


def test_the_rankers_are_listed_as_models(gateway: Gateway) -> None:
    _, listed, _ = send(gateway, "GET", "/v1/models")
    assert {"cross-encoder", "late-interaction"} <= {m["id"] for m in listed["data"]}
