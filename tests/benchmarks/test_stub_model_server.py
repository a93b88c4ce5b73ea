"""The stub and the load generator measure what they say."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.load import TEMPLATE, prompt, word
from benchmarks.stub_model_server import TEXT

ROOT = Path(__file__).parent.parent.parent


def post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        url + "/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return bytes(reply.read())


def texts(stream: bytes) -> list[str]:
    events = [e.removeprefix(b"data: ") for e in stream.split(b"\n\n") if e]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    deltas = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    return [d for d in deltas if d]


def test_a_stream_says_what_the_whole_reply_says(fake_model_server: str) -> None:
    whole = json.loads(post(fake_model_server, {"model": "stub"}))
    said = texts(post(fake_model_server, {"model": "stub", "stream": True}))
    assert "".join(said) == whole["choices"][0]["message"]["content"]
    assert len(said) == 8
    assert len(TEXT) == len("".join(said))


def test_a_body_sets_the_number_and_the_size_of_its_chunks(fake_model_server: str) -> None:
    own = {"chunks": 70, "words": 1, "interval_ms": 0.1}
    said = texts(post(fake_model_server, {"stream": True, "stub": own}))
    assert len(said) == 70
    assert all(len(s.split()) == 1 for s in said)


def test_a_request_may_come_in_many_packets(fake_model_server: str) -> None:
    where = urlsplit(fake_model_server)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: stub\r\nContent-Length: 16\r\n\r\n"
        b'{"model":"stub"}'
    )
    with socket.create_connection((where.hostname, where.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # and the connection is kept
            for i in range(0, len(request), 7):
                sock.sendall(request[i : i + 7])
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_no_two_prompts_share_a_sentence_and_all_have_540_characters() -> None:
    one, other = prompt(1), prompt(2)
    assert len(one) == len(other) == len(TEMPLATE) == 540
    assert not set(one.split(". ")) & set(other.split(". "))
    assert len({word(i) for i in range(0, 16**6, 997)}) == len(range(0, 16**6, 997))


@pytest.mark.parametrize("stream", [False, True])
def test_the_load_generator_counts_every_reply(fake_model_server: str, stream: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.load"]
    command += ["--url", fake_model_server.removesuffix("/v1"), "--clients", "3"]
    command += ["--seconds", "0.3"]
    if stream:
        command += ["--stream", "--streams-each", "2", "--chunks", "3", "--interval-ms", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found["statuses"]) == {"200"} and found["broken"] == 0
    assert 0 < found["requests"] <= found["statuses"]["200"]
    if stream:
        assert found["requests"] == 6
        assert found["longest_gap_ms"]["p50"] > 15
        assert found["first_token_ms"]["p50"] < found["latency_ms"]["p50"]


def test_an_unknown_goal_names_the_known_ones() -> None:
    command = [sys.executable, "-m", "benchmarks.goals", "G99"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "G1, G2, G3, G4, G5, G6, G7, G8, G9, G10, G11, G12, G17" in done.stderr
