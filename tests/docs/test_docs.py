"""What the documentation names exists: files, settings, commands, addresses, scopes, metrics."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
OTHER_VARIABLES = {
    "OSTIARY_MODEL_KEY",  # and any ending: keys of model servers
    "OSTIARY_API_KEY",
    "OSTIARY_URL",
    "OSTIARY_BENCH_DATA",
    "OSTIARY_BENCH_CACHE",
}
OWN_ADDRESS = re.compile(r"http://127\.0\.0\.1:8700(/[^\s\"'`)]*)?")
API_PATH = re.compile(r"`(?:(GET|POST|DELETE|PUT) )?(/v1/[^`\s?]*)[^`]*`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=name_of)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="session")
def routes() -> list[tuple[str, frozenset[str]]]:
    """(path, methods) of every route."""
    found: list[Any] = [c.original_route for c in iter_route_contexts(create_app().routes)]
    return [(r.path, frozenset(getattr(r, "methods", None) or ())) for r in found]


@pytest.fixture(scope="session")
def documented() -> list[tuple[str, frozenset[str]]]:
    """(path, methods) of the OpenAPI document."""
    paths = create_app().openapi()["paths"]
    return [(path, frozenset(m.upper() for m in methods)) for path, methods in paths.items()]


def exists(routes: list[tuple[str, frozenset[str]]], path: str, method: str | None) -> bool:
    """Whether a route takes ``path``, written with its parameters or with values in their place."""
    for pattern, methods in routes:
        if method is not None and method not in methods:
            continue
        wanted = re.sub(r"\\{\w+(:path)?\\}", "[^/]+", re.escape(pattern))
        if path == pattern or re.fullmatch(wanted, path):
            return True
    return False


def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if path.is_relative_to(ROOT / "docs" / "images"):
            continue  # pictures are made by a run of the product
        assert path.exists(), f"{name_of(page)}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads}
            assert anchor in anchors, f"{name_of(page)}: {target}"


def test_every_variable_is_a_setting(page: Path) -> None:
    known = {f"OSTIARY_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    named = set(re.findall(r"OSTIARY_[A-Z][A-Z_]*[A-Z]", page.read_text(encoding="utf-8")))
    assert named <= known


def commands_in(page: Path) -> list[str]:
    """What follows ``ostiary`` in inline code and in the lines of shell examples."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"`(?:\.venv/bin/)?ostiary ([^`\n]+)`", FENCE.sub("", text))
    for language, body in FENCE.findall(text):
        if language in ("sh", "text"):
            found += re.findall(r"^(?:\.venv/bin/)?ostiary ([^\n#]+)", body, re.MULTILINE)
    return found


def test_every_command_and_option_exists(page: Path) -> None:
    from typer.main import get_command

    from app.cli import cli

    for line in commands_in(page) if page.name != "limits.md" else ():  # names what is missing
        command: Any = get_command(cli)
        for word in shlex.split(line):
            if word == "COMMAND":  # "any command"
                break
            children = getattr(command, "commands", None)
            if children is not None:
                assert word in children, f"{name_of(page)}: ostiary {line}"
                command = children[word]
            elif word.startswith("--"):
                options = {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
                assert word in options | {"--help"}, f"{name_of(page)}: ostiary {line}"


def test_every_curl_address_is_in_the_openapi_document(
    page: Path, documented: list[tuple[str, frozenset[str]]]
) -> None:
    for _, body in FENCE.findall(page.read_text(encoding="utf-8")):
        for command in re.findall(r"curl (?:[^\n]|\\\n)*(?:\n  [^\n]*)*", body):
            address = OWN_ADDRESS.search(command)
            assert address is not None, f"{name_of(page)}: a curl without our address"
            path = (address[1] or "/").partition("?")[0]
            method = "POST" if re.search(r" -(d|F) ", command) else "GET"
            if given := re.search(r" -X ([A-Z]+) ", command):
                method = given[1]
            assert exists(documented, path, method), f"{name_of(page)}: {method} {path}"


def test_every_api_path_in_the_text_exists(
    page: Path, routes: list[tuple[str, frozenset[str]]]
) -> None:
    if page.name == "limits.md":
        return  # it names what is missing
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for method, path in API_PATH.findall(text):
        assert exists(routes, path, method or None), f"{name_of(page)}: {method} {path}"


def test_no_missing_address_is_listed_that_exists(
    routes: list[tuple[str, frozenset[str]]],
) -> None:
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    missing = text.partition("## Not there yet")[2]
    assert missing
    for _, path in API_PATH.findall(missing):
        assert not exists(routes, path, None), f"{path} exists by now; take it out of limits.md"


def test_identity_page_lists_exactly_the_scopes_of_the_routes() -> None:
    from app.gateway.corridor import GovernedRoute

    found: list[Any] = [c.original_route for c in iter_route_contexts(create_app().routes)]
    scopes = {r.required.name for r in found if isinstance(r, GovernedRoute)}
    text = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
    table = text.partition("## Scopes")[2].partition("## Tenants")[0]
    assert set(re.findall(r"^\| `([a-z_:]+)` \|", table, re.MULTILINE)) == scopes


def test_monitoring_page_lists_exactly_the_metrics() -> None:
    from app.monitoring.metrics import Metrics

    names = set()
    for family in Metrics().registry.collect():
        if family.name.startswith("process_"):
            continue  # as every Prometheus client has them
        names.add(family.name + ("_total" if family.type == "counter" else ""))
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(ostiary_\w+)` \|", text, re.MULTILINE)) == names


def test_guardrails_page_example_is_a_valid_policy_and_lists_every_entity(tmp_path: Path) -> None:
    from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
    from app.guardrails.policy import load_policy

    text = (ROOT / "docs" / "guardrails.md").read_text(encoding="utf-8")
    example = next(body for language, body in FENCE.findall(text) if language == "toml")
    path = tmp_path / "support.toml"
    path.write_text(example, encoding="utf-8")
    policy = load_policy(str(path))
    assert policy.action("CREDIT_CARD", "input") == "block"
    assert policy.action("EMAIL_ADDRESS", "input") == "mask"
    for entity in PATTERN_ENTITIES | NER_ENTITIES:
        assert f"`{entity}`" in text


def test_knowledge_page_lists_every_supported_extension() -> None:
    from app.retrieval.parsing import SUPPORTED

    text = (ROOT / "docs" / "knowledge.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\.[a-z]+)`", text)) == set(SUPPORTED)


def test_models_page_has_the_checksums_of_the_installed_files() -> None:
    import hashlib

    from app.llm.weights import packaged_gguf
    from app.retrieval.embedding import packaged_bge_dir, packaged_reranker_dir
    from app.samples.django_docs import ARCHIVE_SHA256, VERSION

    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert ARCHIVE_SHA256 in text
    assert f"django=={VERSION}" in text
    files = [
        packaged_gguf(),
        *(packaged_bge_dir() / n for n in ("model.onnx", "tokenizer.json", "config.json")),
        *(packaged_reranker_dir() / n for n in ("model.onnx", "tokenizer.json")),
    ]
    for file in files:
        with file.open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() in text, file.name


def test_calibration_and_evaluation_counts_are_the_real_ones() -> None:
    import json

    folder = ROOT / "app" / "samples"
    text = (ROOT / "docs" / "answers.md").read_text(encoding="utf-8")
    for name, said in (
        ("calibration", "{total} questions, {yes} of them answerable"),
        ("questions", "({yes} answerable, {no} not)"),
    ):
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        answerable = [json.loads(line)["answerable"] for line in lines]
        yes, total = sum(answerable), len(answerable)
        assert said.format(total=total, yes=yes, no=total - yes) in text
