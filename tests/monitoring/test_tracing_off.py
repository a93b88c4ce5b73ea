"""What tracing and logs do where nobody receives them, nothing is set or nothing installed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from app.monitoring.tracing import traces_address
from tests.conftest import ROOT, Gateway, wait_for


def test_a_collector_that_never_answers_neither_fails_nor_delays_calls_nor_the_stop(
    new_gateway: Callable[..., Gateway], fake_model_server: str
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # connects, and that is all
    house = new_gateway(
        OSTIARY_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        OSTIARY_LLM_URL=fake_model_server,
        OSTIARY_LLM_MODEL="stub",
        OSTIARY_EMBEDDED_RETRIEVAL="false",
    ).start()
    body = {"model": "stub", "messages": [{"role": "user", "content": "Hi"}]}
    head = {"authorization": f"Bearer {house.key}", "content-type": "application/json"}
    slowest = 0.0
    for _ in range(60):  # over more than one try to export
        began = time.perf_counter()
        asked = urllib.request.Request(
            house.url + "/v1/chat/completions", json.dumps(body).encode(), head
        )
        with urllib.request.urlopen(asked, timeout=10) as reply:
            assert reply.status == 200
        slowest = max(slowest, time.perf_counter() - began)
    wait_for(lambda: "opentelemetry" in house.log.read_text(), what="a try to export")
    assert slowest < 2.5  # a try takes 3 s
    began = time.perf_counter()
    house.stop()
    assert time.perf_counter() - began < 15
    silent.close()


def test_without_the_setting_nothing_of_the_sdk_is_loaded_whatever_its_own_variables_say() -> None:
    code = (
        "import sys; from app.main import create_app; import app.wiring, dbos;"
        "from app.settings import Settings; create_app(Settings());"
        "of = ('opentelemetry.sdk', 'opentelemetry.exporter');"
        "print([m for m in sys.modules if m.startswith(of)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin",
            "PYTHONPATH": str(ROOT),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_sdk_is_told_with_the_line_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from app.monitoring.tracing import Tracing\n"
        "Tracing('http://127.0.0.1:1', 1.0, 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "pip install 'ostiary[telemetry]'" in done.stderr


def test_an_endpoint_without_a_path_is_the_collectors_and_one_with_a_path_stands() -> None:
    assert traces_address("http://c:4318") == "http://c:4318/v1/traces"
    assert traces_address("http://c:4318/") == "http://c:4318/v1/traces"
    assert traces_address("https://c/otlp/v1/traces") == "https://c/otlp/v1/traces"


def test_lines_of_the_libraries_go_the_same_way() -> None:
    code = (
        "import logging, sys; from app.monitoring.logs import configure\n"
        "configure('info', 'json'); import dbos\n"
        "from dbos._logger import init_logger, dbos_logger; init_logger()\n"
        "dbos_logger.warning('one'); logging.getLogger('uvicorn.error').warning('two \\ud800')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(li["logger"], li["message"]) for li in lines] == [
        ("dbos", "one"),
        ("uvicorn.error", "two ?"),
    ]
