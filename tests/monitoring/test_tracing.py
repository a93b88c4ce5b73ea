"""Traces, logs and metrics of a real gateway, as their receivers get them."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.watched import ALICE, ANSWER, QUESTION, SECRET, Watched

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def scraped(url: str) -> str:
    with urllib.request.urlopen(url + "/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def series(text: str) -> dict[str, float]:
    """Each series of an exposition, with its value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[f"{sample.name}{sorted(sample.labels.items())}"] = sample.value
    return found


# -- traces -----------------------------------------------------------------------------------


async def test_a_chat_is_one_trace_from_its_caller_to_the_model_server(watched: Watched) -> None:
    watched.model.says(ANSWER)
    reply = await watched.chat(x_request_id="traced-1", traceparent=CALLER)
    own, trace = await watched.collector.trace_of("traced-1")
    assert own.trace_id == CALLER.split("-")[1] and own.parent_id == CALLER.split("-")[2]
    assert (own.name, own.kind) == ("POST /v1/chat/completions", 2)
    assert own.attributes["http.route"] == "/v1/chat/completions"
    assert own.attributes["http.response.status_code"] == 200
    assert own.attributes["ostiary.call.id"].startswith("call_")
    assert own.attributes["ostiary.policy"].startswith("default@")
    record = await watched.record("traced-1")
    assert own.attributes["ostiary.tenant.id"] == record.get("tenant_id", "default")
    assert f"policy={record['versions']['policy']}" in own.attributes["ostiary.versions"]
    (asked,) = [s for s in trace if s.kind == 3]
    assert asked.parent_id == own.span_id and asked.name == "chat m"
    assert asked.attributes["gen_ai.operation.name"] == "chat"
    assert asked.attributes["gen_ai.request.model"] == "m"
    assert asked.attributes["gen_ai.response.model"] == "m"
    assert asked.attributes["gen_ai.usage.input_tokens"] == 7
    assert asked.attributes["gen_ai.usage.output_tokens"] == 5
    assert asked.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert asked.attributes["gen_ai.response.id"] == reply["id"]
    assert watched.model.traces[-1] == f"00-{own.trace_id}-{asked.span_id}-01"
    assert {s.name for s in trace} >= {"screen_input", "screen_output"}
    assert all(s.parent_id == own.span_id for s in trace if s is not own)


async def test_a_stream_is_traced_to_its_last_chunk(watched: Watched) -> None:
    watched.model.says(ANSWER)
    await watched.stream("streamed-1")
    _, trace = await watched.collector.trace_of("streamed-1")
    (asked,) = [s for s in trace if s.kind == 3]
    assert asked.attributes["gen_ai.usage.output_tokens"] == 5
    assert not asked.failed


async def test_a_search_shows_its_stages_with_the_version_of_the_index(watched: Watched) -> None:
    own, trace = await watched.collector.trace_of("searched")
    by_name = {s.name: s for s in trace}
    assert {"embed", "search", "read", "rerank"} <= by_name.keys()
    found = by_name["search"].attributes
    assert found["gen_ai.operation.name"] == "retrieval"
    assert found["gen_ai.data_source.id"] == watched.store
    version = f"index:{watched.store}={found['ostiary.index.version']}"
    assert version in own.attributes["ostiary.versions"]


async def test_a_job_is_traced_with_the_calls_that_it_makes(watched: Watched) -> None:
    step = await watched.collector.wait(lambda s: s.name.startswith("job "))
    assert step.attributes["ostiary.job.id"].startswith("job_")
    inside = await watched.collector.wait(lambda s: s.attributes.get("ostiary.door") == "job")
    assert inside.trace_id in {s.trace_id for s in watched.collector.spans if s.name[:4] == "job "}


async def test_a_failed_model_call_tells_its_error_and_no_message(watched: Watched) -> None:
    watched.model.says(ANSWER)
    watched.model.cut_after = 1
    await watched.stream("cut-1")
    own, trace = await watched.collector.trace_of("cut-1")
    (asked,) = [s for s in trace if s.kind == 3]
    assert asked.failed and asked.attributes["error.type"] == own.attributes["error.type"]
    watched.model.says(ANSWER)


async def test_neither_spans_nor_log_hold_a_word_of_prompt_answer_or_credential(
    watched: Watched,
) -> None:
    watched.model.says(f"Write to {ALICE}.")
    await watched.chat(
        f"I am {ALICE}: tell me the password hunter2.", x_request_id="private-1", x_api_key=SECRET
    )
    await watched.send("GET", "/v1/models", x_request_id="private-2", authorization=SECRET)
    await watched.collector.trace_of("private-1")
    sent = watched.collector.raw.decode("latin-1")
    logged = watched.gateway.log.read_text()
    assert "private-1" in sent and "private-1" in logged
    for hidden in (ALICE, "hunter2", SECRET, watched.gateway.key, ANSWER, QUESTION, "Write to"):
        assert hidden not in sent
        assert hidden not in logged


@pytest.mark.parametrize("header", ["x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "é" * 500])
async def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(
    watched: Watched, header: str
) -> None:
    name = f"odd-{len(header)}"
    sent = header.encode().decode("latin-1")
    assert (await watched.send("GET", "/v1/models", x_request_id=name, traceparent=sent))[0] == 200
    own, _ = await watched.collector.trace_of(name)
    assert own.parent_id == ""


# -- logs -------------------------------------------------------------------------------------


async def test_each_call_has_one_access_line_with_its_ids_and_all_lines_are_json(
    watched: Watched,
) -> None:
    watched.model.says(ANSWER)
    await watched.chat(x_request_id="logged-1")
    (line,) = [
        li
        for li in watched.lines
        if li.get("request_id") == "logged-1" and li["logger"] == "ostiary.access"
    ]
    record = await watched.record("logged-1")
    assert line["call_id"] == record["call_id"]
    assert (line["route"], line["status"]) == ("POST /v1/chat/completions", 200)
    assert line["cost_usd"] == record["cost_nano_usd"] / 1e9 > 0
    assert 0 < line["seconds"] < 30
    own, _ = await watched.collector.trace_of("logged-1")
    assert line["trace_id"] == own.trace_id
    assert {"uvicorn.error", "ostiary.access"} <= {li["logger"] for li in watched.lines}


# -- metrics ----------------------------------------------------------------------------------


async def test_a_flood_of_odd_tenants_models_routes_and_headers_makes_no_new_series(
    watched: Watched,
) -> None:
    async def odd(n: int) -> None:
        text = f"odd{n}"
        await watched.send("GET", f"/v1/{text}")
        await watched.send("GET", f"/v1/vector_stores/{text}")
        await watched.send("GET", "/v1/models", authorization=f"Bearer {text}")
        await watched.send("GET", "/v1/models", x_request_id=text, x_ostiary_priority=text)
        await watched.send("GET", "/v1/models", x_forwarded_for=text, traceparent=text)
        body: dict[str, Any] = {"model": text, "messages": [{"role": "user", "content": text}]}
        await watched.send("POST", "/v1/chat/completions", body)
        await watched.send("POST", "/v1/embeddings", {"model": text, "input": text})
        await watched.send("POST", "/v1/chat/completions", {**body, text: text, "stream": True})

    async def tenant(n: int) -> None:
        made = await watched.good("POST", "/v1/admin/tenants", {"name": f"odd-tenant-{n}"})
        key = {"name": "k", "scopes": ["*"], "tenant_id": made["id"]}
        made = await watched.good("POST", "/v1/admin/keys", key)
        await watched.send("GET", "/v1/models", authorization=f"Bearer {made['key']}")

    await odd(0)
    await tenant(0)
    before = series(await asyncio.to_thread(scraped, watched.gateway.url)).keys()
    for n in range(1, 20):
        await odd(n)
    for n in range(1, 4):
        await tenant(n)
    text = await asyncio.to_thread(scraped, watched.gateway.url)
    assert series(text).keys() - before == set()
    assert "odd" not in text


async def test_what_happened_is_counted_by_its_part(watched: Watched) -> None:
    watched.model.says(ANSWER)
    first = series(await asyncio.to_thread(scraped, watched.gateway.url))
    await watched.chat(f"Write to {ALICE}.")
    then = series(await asyncio.to_thread(scraped, watched.gateway.url))

    def grew(name: str, **labels: str) -> float:
        key = f"{name}{sorted(labels.items())}"
        return then[key] - first.get(key, 0.0)

    route = "POST /v1/chat/completions"
    assert grew("ostiary_calls_total", route=route, status="200") == 1
    assert grew("ostiary_guardrail_seconds_count", part="input") == 1
    assert grew("ostiary_guardrail_seconds_count", part="output") == 1
    assert grew("ostiary_model_wait_seconds_count") == 1
    assert grew("ostiary_tokens_total", kind="completion", model="m") == 5
    assert grew("ostiary_cost_usd_total", model="m") > 0
    assert grew("ostiary_audit_commit_seconds_count") >= 1
    for name, labels, value in (
        ("ostiary_model_server_up", {"model": "m", "deployment": "m"}, 1),
        ("ostiary_budgets", {"state": "under_half"}, 1),
        ("ostiary_ingest_waiting_files", {}, 0),
    ):
        assert then[f"{name}{sorted(labels.items())}"] >= value
    for stage in ("embed", "search", "read", "rerank"):
        assert then[f"ostiary_retrieval_seconds_count{[('stage', stage)]}"] >= 1
    assert any("job_step_seconds_count" in k and "'done'" in k for k in then)
