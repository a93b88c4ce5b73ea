"""Searching a vector store through the API: every option, on both databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.api.calls import multipart, send
from tests.conftest import Gateway, wait_for

DOCUMENTS = {
    "pumps.md": "# Pumps\n\nThe seal of a pump is changed every 2,000 hours of work.\n",
    "pumps-copy.md": "# Pumps\n\nThe seal of a pump is changed every 2,000 hours of work!\n",
    "errors.md": "# Errors\n\nERR_SEAL_4711 means that the gasket is worn and leaks.\n",
    "valves.md": "# Valves\n\nValves are greased in spring. Replace worn washers at once.\n",
    "canteen.md": "# Canteen\n\nThe canteen serves soup on Mondays and fish on Fridays.\n",
}


class Store:
    def __init__(self, gateway: Gateway, documents: Mapping[str, str] = DOCUMENTS) -> None:
        self.gateway = gateway
        self.id = self.ok("POST", "/v1/vector_stores", {"name": "shop"})["id"]
        for name, text in documents.items():
            body, headers = multipart(text.encode(), name)
            key = {"authorization": f"Bearer {gateway.key}"}
            status, file, _ = send(gateway, "POST", "/v1/files", body, {**key, **headers})
            assert status == 200, file
            attached = {"file_id": file["id"], "attributes": {"name": name, "words": len(text)}}
            self.ok("POST", f"/v1/vector_stores/{self.id}/files", attached)
        counts = wait_for(self._done, 60, "the documents")
        assert counts["completed"] == len(documents), counts

    def ok(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, found, _ = send(self.gateway, method, path, body)
        assert status < 300, found
        return found

    def _done(self) -> Any:
        counts = self.ok("GET", f"/v1/vector_stores/{self.id}")["file_counts"]
        return counts if not counts["in_progress"] else None

    def search(self, query: str | list[str], **options: Any) -> dict[str, Any]:
        body = {"query": query, **options}
        return self.ok("POST", f"/v1/vector_stores/{self.id}/search", body)

    def names(self, query: str | list[str], **options: Any) -> list[str]:
        return [hit["filename"] for hit in self.search(query, **options)["data"]]


@pytest.fixture(scope="module")
def store(gateway: Gateway) -> Store:
    return Store(gateway)


def test_a_store_tells_how_it_is_searched(store: Store) -> None:
    shown = store.ok("GET", f"/v1/vector_stores/{store.id}")["ostiary"]
    assert shown["engine"] == "faiss" and shown["recipes"] == ["flat"]
    assert shown["vectors"] == len(DOCUMENTS)
    assert shown["recall"] == 1.0 and shown["recall_target"] == 0.95
    assert shown["disk_bytes"] > 0
    listed = store.ok("GET", "/v1/vector_stores")["data"]
    assert all(s["ostiary"] is None for s in listed)


def test_words_alone_find_a_code_and_vectors_alone_a_meaning(store: Store) -> None:
    def weights(embedding: float, text: float) -> dict[str, Any]:
        return {"hybrid_search": {"embedding_weight": embedding, "text_weight": text}}

    assert store.names("err_seal_4711", ranking_options=weights(0, 1))[0] == "errors.md"
    meal = store.names("what is for lunch at the weekend?", ranking_options=weights(1, 0))
    assert meal[0] == "canteen.md" and len(meal) == len(DOCUMENTS)
    both = store.search("worn gasket", ranking_options=weights(1, 1))["data"]
    assert both[0]["filename"] == "errors.md"
    assert all(0 <= hit["score"] <= 1 for hit in both)


def test_a_misspelt_word_finds_what_was_meant(store: Store) -> None:
    weights = {"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}
    assert store.names("canteeen", ranking_options=weights) == ["canteen.md"]


def test_operators_hold_for_words_and_vectors(store: Store) -> None:
    asked = '"worn washers"'
    assert store.names(asked) == ["valves.md"]
    assert len(store.names(asked, ostiary={"operators": False})) > 1
    without = store.names("pump seal -gasket")
    assert "errors.md" not in without and "pumps.md" in without


@pytest.mark.parametrize("ranker", ["cross-encoder", "late-interaction"])
def test_a_ranker_reorders_within_its_budget(store: Store, ranker: str) -> None:
    query, chosen = "What does a worn gasket do?", {"ranker": ranker}
    ranked = store.search(query, ranking_options=chosen)["data"]
    assert ranked[0]["filename"] == "errors.md"
    scores = [hit["score"] for hit in ranked]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1
    assert scores != [hit["score"] for hit in store.search(query)["data"]]
    hurried = store.names(query, ranking_options=chosen, ostiary={"rerank_budget_ms": 1})
    assert sorted(hurried) == sorted(hit["filename"] for hit in ranked)


def test_near_duplicates_are_dropped_when_asked(store: Store) -> None:
    query = "How often is the seal of a pump changed?"
    assert {"pumps.md", "pumps-copy.md"} <= set(store.names(query))
    kept = store.names(query, ostiary={"drop_near_duplicates": True})
    assert len({"pumps.md", "pumps-copy.md"} & set(kept)) == 1


def test_diversity_puts_something_else_second(store: Store) -> None:
    query = "How often is the seal of a pump changed?"
    assert set(store.names(query)[:2]) == {"pumps.md", "pumps-copy.md"}
    varied = store.names(query, ostiary={"diversity": 0.7})
    assert len({"pumps.md", "pumps-copy.md"} & set(varied[:2])) == 1


def test_a_query_is_rewritten_from_those_before_it(store: Store) -> None:
    asked = ["When are valves greased?", "And how often are pump seals changed?", "And washers?"]
    found = store.search(asked, rewrite_query=True)
    assert len(found["search_query"]) == 1
    assert "washers" in found["search_query"][0]
    assert store.search("Valves?", rewrite_query=True)["search_query"] == ["Valves?"]


def test_filters_compare_numbers_and_text(store: Store) -> None:
    one = {"type": "eq", "key": "name", "value": "valves.md"}
    assert store.names("pump", filters=one) == ["valves.md"]
    long = {"type": "gt", "key": "words", "value": len(DOCUMENTS["valves.md"]) - 1}
    assert set(store.names("pump", filters={"type": "and", "filters": [one, long]})) == {
        "valves.md"
    }


@pytest.mark.parametrize(
    "options",
    [
        {"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}},
        {"ranking_options": {"hybrid_search": {"embedding_weight": -1, "text_weight": 1}}},
        {"ranking_options": {"ranker": "best"}},
        {"ostiary": {"diversity": 2}},
        {"ostiary": {"rerank_budget_ms": 0}},
    ],
)
def test_options_that_make_no_sense_are_refused(store: Store, options: dict[str, Any]) -> None:
    status, body, _ = send(
        store.gateway, "POST", f"/v1/vector_stores/{store.id}/search", {"query": "pump", **options}
    )
    assert status == 400, body
    assert body["error"]["param"], body


def test_results_are_widened_to_their_neighbours_or_their_section(gateway: Gateway) -> None:
    text = "# Log\n\n## Spring\n\n" + "\n\n".join(
        f"On day {n} the level of tank {n} was read and written down by hand. " * 12
        for n in range(1, 9)
    )
    text += "\n\n## Autumn\n\nThe tanks are emptied and left open until the new year. " * 10
    wide = Store(gateway, {"log.md": text})
    query = "the level of tank 4"
    narrow = wide.search(query, max_num_results=1)["data"][0]
    assert narrow["ordinals"] == [narrow["ordinal"]]
    expand = {"by": "neighbours", "reach": 1, "max_tokens": 2000}
    found = wide.search(query, max_num_results=1, ostiary={"expand": expand})["data"][0]
    at = narrow["ordinal"]
    assert found["ordinals"] == [n for n in (at - 1, at, at + 1) if n >= 0]
    assert narrow["content"][0]["text"].strip() in found["content"][0]["text"]
    expand = {"by": "section", "max_tokens": 8000}
    section = wide.search(query, max_num_results=1, ostiary={"expand": expand})["data"][0]
    assert "day 1 " in section["content"][0]["text"] and "day 8 " in section["content"][0]["text"]
    assert "emptied" not in section["content"][0]["text"]
    many = wide.search(query, max_num_results=5, ostiary={"expand": expand})["data"]
    assert len({tuple(hit["ordinals"]) for hit in many}) == len(many) <= 2
