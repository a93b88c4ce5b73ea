"""kill -9 of the real embedded vLLM in mid-stream: told, answered from passages, healed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.llm import tether
from tests.api.calls import multipart, send
from tests.api.governed import HANDBOOK, QUESTION
from tests.conftest import Gateway, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "smollm2-135m-instruct"
READY_S = 400.0
STORY = "Write a very long story about a keeper of a door."


@pytest.fixture(scope="module")
def house(
    vllm_python: Path, converted_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with its own vLLM, ready to answer."""
    env = {"OSTIARY_LLM_EMBEDDED": "true", "OSTIARY_VLLM_PYTHON": str(vllm_python)}
    server = Gateway(tmp_path_factory.mktemp("vllm") / "data", env)
    # test_up.py has a gateway convert its weights itself
    shutil.copytree(converted_model, server.data_dir / "models" / NAME, copy_function=os.link)
    server.start(120)
    until_ready(server)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def store(house: Gateway) -> str:
    file = ok(send(house, "POST", "/v1/files", *multipart(HANDBOOK, "handbook.md")))["id"]
    made = ok(send(house, "POST", "/v1/vector_stores", {"file_ids": [file]}))["id"]
    path = f"/v1/vector_stores/{made}"
    wait_for(lambda: send(house, "GET", path)[1]["file_counts"]["completed"] == 1)
    return str(made)


def ok(reply: tuple[int, dict[str, Any], dict[str, str]]) -> dict[str, Any]:
    assert reply[0] == 200, reply[1]
    return reply[1]


def llm_state(house: Gateway) -> str:
    with urllib.request.urlopen(house.url + "/readyz") as reply:
        return str(json.loads(reply.read())["llm"])


def until_ready(house: Gateway) -> None:
    wait_for(lambda: llm_state(house) == "ready", READY_S, "vLLM")


def family(house: Gateway) -> list[tether.Process]:
    noted = json.loads((house.data_dir / "vllm" / "vllm.pid").read_text())
    return tether.processes_of_session(int(noted["pid"]))


def kill_9(house: Gateway, victim: str) -> None:
    os.kill(next(p.pid for p in family(house) if victim in p.command), signal.SIGKILL)


def events_with_a_kill(
    house: Gateway, path: str, body: dict[str, Any], victim: str
) -> list[tuple[str | None, Any]]:
    """The events of a stream in whose middle vLLM is killed; the first text has come before."""
    request = urllib.request.Request(
        house.url + path,
        json.dumps({**body, "stream": True, "ignore_eos": True}).encode(),
        {"authorization": f"Bearer {house.key}", "content-type": "application/json"},
    )
    found: list[tuple[str | None, Any]] = []
    kind, killed = None, False
    with urllib.request.urlopen(request, timeout=120) as reply:
        for line in reply:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, value if value == "[DONE]" else json.loads(value)))
                kind = None
                if not killed and has_text(found[-1]):
                    kill_9(house, victim)
                    killed = True
    assert killed
    return found


def has_text(event: tuple[str | None, Any]) -> bool:
    kind, value = event
    if kind == "response.output_text.delta":
        return bool(value["delta"])
    choices = value.get("choices") if isinstance(value, dict) else None
    return bool(choices and choices[0]["delta"].get("content"))


def answer_from_the_passages(house: Gateway, store: str) -> None:
    """The next grounded call is answered without the model, and says so."""
    body = {
        "model": NAME,
        "input": QUESTION,
        "tools": [{"type": "file_search", "vector_store_ids": [store]}],
    }
    status, answer, headers = send(house, "POST", "/v1/responses", body)
    assert status == 200, answer
    assert headers["x-ostiary-degraded"] == "llm-unavailable"
    assert answer["metadata"]["ostiary_degraded"] == "llm-unavailable"
    (content,) = answer["output"][-1]["content"]
    assert "27 days" in content["text"]
    assert content["annotations"][0]["filename"] == "handbook.md"


def heals_without_a_restart(house: Gateway) -> None:
    assert house.process is not None and house.process.is_alive()
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 24,
    }

    def answered() -> tuple[int, dict[str, Any], dict[str, str]] | None:
        # a server whose engine was killed says for a moment more that it is well
        until_ready(house)
        reply = send(house, "POST", "/v1/chat/completions", body)
        assert reply[0] in (200, 503), reply[1]
        return reply if reply[0] == 200 else None

    _, answer, headers = wait_for(answered, READY_S, "an answer")
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert "x-ostiary-degraded" not in headers


@pytest.mark.parametrize("victim", ["EngineCore", "api_server"])
def test_a_chat_cut_by_a_kill_is_told_then_degraded_then_healed(
    house: Gateway, store: str, victim: str
) -> None:
    until_ready(house)
    body = {"model": NAME, "messages": [{"role": "user", "content": STORY}], "max_tokens": 1500}
    events = events_with_a_kill(house, "/v1/chat/completions", body, victim)
    answer_from_the_passages(house, store)
    error = events[-1][1]["error"]
    assert error["code"] == "upstream_cut" and "in mid-answer" in error["message"]
    assert error["request_id"] and error["type"] == "server_error"
    assert "[DONE]" not in [value for _, value in events]
    (record,) = send(house, "GET", f"/v1/audit?request_id={error['request_id']}")[1]["data"]
    assert (record["status"], record["error_code"]) == (503, "upstream_cut")
    assert record["completion_tokens"] > 0  # what was generated is charged
    heals_without_a_restart(house)


def test_a_response_cut_by_a_kill_is_told_then_degraded_then_healed(
    house: Gateway, store: str
) -> None:
    until_ready(house)
    body = {"model": NAME, "input": STORY, "max_output_tokens": 1500}
    events = events_with_a_kill(house, "/v1/responses", body, "EngineCore")
    answer_from_the_passages(house, store)
    kinds = [kind for kind, _ in events]
    assert kinds[-2:] == ["error", "response.failed"]
    assert "response.completed" not in kinds
    error, failed = events[-2][1], events[-1][1]["response"]
    assert error["code"] == failed["error"]["code"] == "upstream_cut"
    assert failed["status"] == "failed"
    heals_without_a_restart(house)
