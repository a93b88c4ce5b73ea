"""Search is measured on a real gateway, as a user of its REST API gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.client import ApiError, Client
from app.errors import BadRequest, NotFound
from app.retrieval.quality.judged import load
from app.search_evaluation import (
    SHIPPED,
    Configuration,
    find_judged,
    load_configuration,
    measure,
    run,
    unpack,
)
from tests.conftest import ROOT, Gateway

PAGES = {
    "tides.txt": "The moon pulls the sea. High water comes twice a day, when the moon is overhead.",
    "bread.txt": "Knead the dough for ten minutes and let it rise until it has doubled in size.",
    "locks.txt": "A pin tumbler lock opens when every pin stands at the shear line.",
}
JUDGED = (
    '{"id": "t", "question": "why does the ocean go up and down", "kind": "paraphrase", '
    '"judged": [{"file": "tides.txt", "quote": "the moon pulls the sea", "grade": 2}]}\n'
    '{"id": "b", "question": "how long must dough be worked", "file": "bread.txt"}\n'
    '{"id": "l", "question": "tumbler", "file": "locks.txt", "kind": "identifier"}\n'
)
STORE = "search-evaluation-test"


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    file = tmp_path / "judged.jsonl"
    file.write_text(JUDGED)
    return file


@pytest.fixture(scope="session")
async def store(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vector store with the three pages."""
    folder = tmp_path_factory.mktemp("pages")
    async with Client(gateway.url, gateway.key) as client:
        made, _ = await client.ensure_store(STORE)
        ids = []
        for name, text in PAGES.items():
            (folder / name).write_text(text)
            ids.append(await client.upload(folder / name))
        done = await client.wait_batch(made, await client.add_batch(made, ids))
    assert done["file_counts"]["completed"] == len(PAGES)
    return made


async def test_a_real_gateway_is_measured_on_judged_questions(
    gateway: Gateway, store: str, judged: Path
) -> None:
    async with Client(gateway.url, gateway.key) as client:
        (found,) = await measure(client, store, load(judged), [Configuration()])
    assert [r.error for r in found.rows] == [None] * 3
    assert found.mean("success@5") == 1 and found.mean("MRR@10") == 1
    assert all(r.ms > 0 for r in found.rows)
    assert found.kinds == {"paraphrase": 1, "identifier": 1}


async def test_two_configurations_are_compared_and_reported(
    gateway: Gateway, store: str, judged: Path, tmp_path: Path
) -> None:
    words_only = tmp_path / "words.toml"
    words_only.write_text(
        'name = "words only"\nmax_num_results = 10\n'
        "[ranking_options.hybrid_search]\nembedding_weight = 0.0\ntext_weight = 1.0\n"
    )
    for suffix in ("html", "json"):
        out, said = tmp_path / f"report.{suffix}", list[str]()
        client = Client(gateway.url, gateway.key)
        await run(client, STORE, judged, None, words_only, out, said.append)
        assert any("words only" in line and "nDCG@10" in line for line in said)
        assert out.exists()
    assert "why does the ocean" in (tmp_path / "report.html").read_text()
    result = json.loads((tmp_path / "report.json").read_text())
    first, second = result["measured"]
    assert (first["name"], second["name"]) == ("default", "words only")
    # no word of the question stands in the page, so only vectors find it
    assert [r["first"] for r in first["rows"]] == [1, 1, 1]
    assert second["rows"][0]["first"] is None
    assert result["comparison"]["nDCG@10"]["difference"] < 0


async def test_a_wrong_option_or_store_is_told_before_anything_is_measured(
    gateway: Gateway, store: str, judged: Path
) -> None:
    queries = load(judged)
    async with Client(gateway.url, gateway.key) as client:
        wrong = Configuration("wrong", {"ranking_options": {"ranker": "magic"}})
        with pytest.raises(ApiError):
            await measure(client, store, queries, [wrong])
        with pytest.raises(ApiError):
            await measure(client, "vs_0", queries, [Configuration()])
    with pytest.raises(NotFound, match="Ingest"):
        await run(Client(gateway.url, gateway.key), "no such", judged, None, None, None, print)


def test_the_command_measures_and_says_what_is_wrong(
    gateway: Gateway, store: str, judged: Path, tmp_path: Path
) -> None:
    env = os.environ | {"OSTIARY_URL": gateway.url, "OSTIARY_API_KEY": gateway.key}

    def ostiary(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "eval", *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    out = tmp_path / "report.html"
    done = ostiary("retrieval", "--store", store, "--judged", str(judged), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "nDCG@10" in done.stdout and out.read_text().startswith("<!doctype html>")
    wrong = ostiary("retrieval", "--store", store, "--judged", str(tmp_path / "none"))
    assert wrong.returncode == 1 and "Check the path" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_configurations_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for text, says in (
        ("x =", "not TOML"),
        ('query = "q"', "sets 'query'"),
        ("max_num_results = 51", "give 1 to 50"),
        ("max_num_results = true", "give 1 to 50"),
    ):
        file.write_text(text)
        with pytest.raises(BadRequest, match=says):
            load_configuration(file)
    with pytest.raises(BadRequest, match="cannot be read"):
        load_configuration(tmp_path / "none.toml")
    file.write_text("max_num_results = 5")
    assert (load_configuration(file).name, load_configuration(file).depth) == ("c", 5)


async def test_a_report_of_an_unknown_kind_is_refused_before_searching(judged: Path) -> None:
    with pytest.raises(BadRequest, match=r"neither \.html nor \.json"):
        client = Client("http://127.0.0.1:1", "none")
        await run(client, "vs_0", judged, None, None, Path("report.pdf"), print)


def test_shipped_sets_are_found_by_name() -> None:
    assert find_judged(Path("cwe")) == SHIPPED / "cwe.jsonl"
    assert find_judged(Path("unknown")) == Path("unknown")


def test_documents_of_a_collection_become_files(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "body"}\n{"_id": "d2", "text": ""}\n'
    )
    assert unpack(tmp_path, tmp_path / "out") == 1  # one has no text
    assert (tmp_path / "out" / "d1.txt").read_text() == "T\n\nbody\n"
    (tmp_path / "corpus.jsonl").write_text('{"_id": "../d1", "text": "body"}\n')
    with pytest.raises(BadRequest, match="cannot name a file"):
        unpack(tmp_path, tmp_path / "out")
