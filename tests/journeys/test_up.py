"""The first command of a new user: everything starts, and a real model gives a cited answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.conftest import ROOT, answers, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
Ostiary = Callable[..., str]
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="module")
def ostiary(vllm_python: Path, data: Path, port: int) -> Iterator[Ostiary]:
    """Runs the command with a data directory of its own, and returns what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OSTIARY_")}
    env |= {
        "OSTIARY_DATA_DIR": str(data),
        "OSTIARY_PORT": str(port),
        "OSTIARY_VLLM_PYTHON": str(vllm_python),
        "HF_HUB_OFFLINE": "1",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    run("down")


@pytest.fixture(scope="module")
def client(ostiary: Ostiary, data: Path, port: int) -> OpenAI:
    key = (data / "admin.key").read_text().strip()
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)


def test_up_ends_with_a_cited_answer_and_the_address_of_the_page(
    ostiary: Ostiary, port: int
) -> None:
    said = ostiary("up")
    assert "236 documents, 0 failed" in said
    assert "The model server is" not in said  # it is there, nothing is degraded
    assert "\n  [1] topics/http/sessions.txt" in said
    assert f"Web page: http://127.0.0.1:{port}/" in said
    assert answers(f"http://127.0.0.1:{port}/") == 200


def test_up_again_finds_everything_there(ostiary: Ostiary) -> None:
    said = ostiary("up")
    assert "236 documents, already loaded" in said
    assert "osk-" not in said  # the key is shown once


def test_the_command_line_asks_and_declines(ostiary: Ostiary) -> None:
    assert "I do not know" in ostiary("ask", "Who won the football world cup in 2018?")
    cited = ostiary("ask", "Which setting names the URL where requests are sent to log in?")
    assert "LOGIN_URL" in cited and "\n  [1] " in cited


def test_ones_own_folder_is_ingested_and_answers(ostiary: Ostiary, tmp_path: Path) -> None:
    (tmp_path / "travel.md").write_text("# Travel\n\nTrains are booked at the desk in Lyon.\n")
    assert "1 files searchable, 0 failed" in ostiary("ingest", "--store", "own", str(tmp_path))
    assert "Lyon" in ostiary("ask", "--store", "own", "Where are trains booked?")


class Light(BaseModel):
    colour: Literal["red", "green", "blue"]
    on: bool


def test_a_small_model_is_held_to_a_form(ostiary: Ostiary, client: OpenAI) -> None:
    answer = client.responses.parse(
        model=MODEL, input="The light is green and on.", text_format=Light, max_output_tokens=80
    )
    assert isinstance(answer.output_parsed, Light)


def test_a_stream_that_is_left_is_charged_what_vllm_told(ostiary: Ostiary, client: OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "Count from one to a hundred, in words."}]
    whole = client.chat.completions.create(model=MODEL, messages=asked, max_tokens=1)
    reply = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=asked, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(reply.parse())
    for _ in range(8):
        next(chunks)
    reply.http_response.close()
    found = wait_for(
        lambda: client.get(
            f"/audit?request_id={reply.headers['x-request-id']}", cast_to=dict[str, Any]
        )["data"],
        10,
        "the record of the stream",
    )
    assert whole.usage is not None
    assert (found[0]["outcome"], found[0]["prompt_tokens"]) == ("cut", whole.usage.prompt_tokens)
    assert 5 <= found[0]["completion_tokens"] < 400
    assert "usage" not in found[0]["lineage"]  # else it would be an estimate


def test_the_audit_log_of_all_this_verifies_and_down_stops_it(ostiary: Ostiary, port: int) -> None:
    assert "verified" in ostiary("audit", "verify")
    assert "Stopped" in ostiary("down")
    assert answers(f"http://127.0.0.1:{port}/healthz") == 0
