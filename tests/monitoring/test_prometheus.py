"""Prometheus itself: our metrics, rules and dashboards, and a real scrape of a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, answers, free_port, missing, wait_for
from tests.monitoring.watched import Watched

FOLDER = ROOT / "deploy" / "monitoring"
RULES, TESTS = FOLDER / "ostiary.rules.yml", FOLDER / "ostiary.rules.test.yml"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
NAME = re.compile(r"\b(?:ostiary|process)[_:][a-z0-9_:]+")
RECORDED = set(re.findall(r"- record: (\S+)", RULES.read_text()))
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(name, "apt-get install prometheus")
    return str(found)


def promtool(*args: str, given: str | None = None) -> str:
    done = subprocess.run(
        [tool("promtool"), *args], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions(dashboard: Path) -> list[str]:
    """What the panels ask, with Grafana's variables filled in."""
    panels = json.loads(dashboard.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [e.replace("$__rate_interval", "5m").replace("$__range", "6h") for e in found]


def exported(text: str) -> set[str]:
    """The names of all series that an exposition can have."""
    found = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return {name + suffix for name, kind in found for suffix in SUFFIXES[kind]}


async def scraped(watched: Watched) -> str:
    def read() -> str:
        with urllib.request.urlopen(watched.gateway.url + "/metrics", timeout=10) as reply:
            return str(reply.read().decode())

    return await asyncio.to_thread(read)


def test_promtool_finds_nothing_wrong_with_the_rules_and_their_tests_hold() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", TESTS.read_text())
    assert len(alerts) > 10
    assert sorted(tested) == sorted((a, quiet) for a in alerts for quiet in ("", " []"))


async def test_promtool_finds_nothing_wrong_with_the_metrics(watched: Watched) -> None:
    text = await scraped(watched)
    await asyncio.to_thread(promtool, "check", "metrics", given=text)


@pytest.mark.parametrize("source", [RULES, *DASHBOARDS], ids=lambda p: p.stem)
async def test_every_name_in_rules_and_dashboards_is_one_that_the_gateway_exports(
    watched: Watched, source: Path
) -> None:
    asked = [source.read_text()] if source == RULES else expressions(source)
    names = {name for text in asked for name in NAME.findall(text)}
    names -= {name for name in names if name in RECORDED}
    assert len(names) > 2
    if source == RULES:
        names -= {name for name in names if name.endswith(".yml")} | {"ostiary_rules"}
    assert names - exported(await scraped(watched)) == set()


class Prometheus:
    """A real server that scrapes one gateway."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as reply:
            told = json.loads(reply.read())
        assert told["status"] == "success", told
        return list(told["data"]["result"])


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with our example configuration, but for the address and the pace."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(RULES, folder)
    config = (FOLDER / "prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8700", f"127.0.0.1:{watched.gateway.port}")
    (folder / "prometheus.yml").write_text(config.replace("15s", "1s"))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: answers(f"http://{address}/-/ready") == 200, 30, "Prometheus")
        yield Prometheus(f"http://{address}")
    finally:
        server.terminate()
        server.wait(20)


async def test_a_real_prometheus_scrapes_the_gateway_and_answers_what_dashboards_ask(
    watched: Watched, prometheus: Prometheus
) -> None:
    await watched.good("GET", "/v1/models")
    calls = 'ostiary_calls_total{route="GET /v1/models",status="200"}'

    def counted() -> float:
        found = prometheus.ask(calls)
        return float(found[0]["value"][1]) if found else 0.0

    await asyncio.to_thread(wait_for, lambda: counted() >= 1, 20, "a scrape")
    assert prometheus.ask('up{job="ostiary"}')[0]["value"][1] == "1"
    before = counted()
    await watched.good("GET", "/v1/models")
    await asyncio.to_thread(wait_for, lambda: counted() == before + 1, 20, "another scrape")
    recorded = lambda: prometheus.ask("ostiary:calls:rate5m")  # noqa: E731
    await asyncio.to_thread(wait_for, recorded, 20, "a recorded rate")
    for dashboard in DASHBOARDS:
        for expression in expressions(dashboard):
            prometheus.ask(expression)  # an error of syntax or type fails
