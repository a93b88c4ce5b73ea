"""Sources are declared by the operator, each for named tenants, and their secrets stay hidden."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.retrieval.connectors.choice import open_source
from app.retrieval.connectors.folder import FolderSource
from app.retrieval.connectors.readers import MOST_NAMES, NOBODY, access_from
from app.retrieval.connectors.settings import (
    FolderSettings,
    S3Settings,
    SitemapSettings,
    SqlSettings,
)
from app.settings import Settings
from tests.conftest import ROOT

SECRET = "hunter2-of-the-test"
DECLARED: dict[str, dict[str, Any]] = {
    "handbook": {"kind": "folder", "tenants": ["acme"], "path": "handbook"},
    "archive": {
        "kind": "s3",
        "tenants": ["*"],
        "url": "s3://archive",
        "key": "k",
        "secret": SECRET,
    },
    "site": {
        **{"kind": "sitemap", "tenants": ["acme"], "url": "https://example.org/sitemap.xml"},
        "headers": {"authorization": SECRET},
    },
    "wiki": {
        **{"kind": "sql", "tenants": ["acme"], "url": f"postgresql://wiki:{SECRET}@db/wiki"},
        **{"query": "SELECT slug, body FROM pages", "key_column": "slug", "text_column": "body"},
    },
}


def test_sources_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTIARY_SOURCES", json.dumps(DECLARED))
    sources = Settings().sources
    kinds = {name: type(source) for name, source in sources.items()}
    assert kinds == {
        "handbook": FolderSettings,
        "archive": S3Settings,
        "site": SitemapSettings,
        "wiki": SqlSettings,
    }
    assert SECRET not in repr(sources)


def test_sources_are_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ostiary.toml").write_text(
        '[sources.handbook]\nkind = "folder"\ntenants = ["acme"]\npath = "handbook"\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    source = Settings().sources["handbook"]
    assert source == FolderSettings(kind="folder", tenants=["acme"], path=Path("handbook"))
    assert isinstance(open_source(source), FolderSource)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("handbook", {"tenants": []}),
        ("handbook", {"tenants": None}),
        ("handbook", {"kind": "ftp"}),
        ("handbook", {"permissions": "acl"}),
        ("archive", {"url": "https://archive"}),
        ("archive", {"secret": None}),
        ("archive", {"anonymous": True}),
        ("archive", {"sekret": SECRET}),
        ("site", {"url": "ftp://example.org/sitemap.xml"}),
        ("site", {"url": f"https://jane:{SECRET}@example.org/sitemap.xml"}),
        ("site", {"hosts": ["*.example.org"]}),
        ("site", {"max_pages": 0}),
        ("site", {"headers": {"authorization": f"{SECRET}\r\nx-other: 1"}}),
        ("site", {"headers": {"x y": SECRET}}),
        ("site", {"headers": {"Host": SECRET}}),
        ("wiki", {"text_column": "slug"}),
        ("wiki", {"pasword": SECRET}),
    ],
)
def test_what_is_wrong_is_said_without_secrets(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(sources={name: DECLARED[name] | change})  # type: ignore[dict-item]
    assert name in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_examples_of_the_page_are_valid() -> None:
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    kinds = set()
    for example in examples:
        for source in Settings(**tomllib.loads(example)).sources.values():
            kinds.add(source.kind)
    assert kinds == {"folder", "s3", "sitemap", "sql"}


def test_a_source_serves_the_tenants_that_it_names() -> None:
    declared = FolderSettings(kind="folder", tenants=["acme"], path=Path("a"))
    assert declared.serves("acme")
    assert not declared.serves("acme2")
    assert FolderSettings(kind="folder", tenants=["*"], path=Path("a")).serves("acme2")


def test_reading_the_settings_imports_nothing_heavy() -> None:
    program = (
        "import app.settings, sys\n"
        "heavy = ('fsspec', 's3fs', 'aiohttp', 'sqlalchemy', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert asked.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("users", "groups", "seen"),
    [
        (None, None, ([], [])),
        ("jane", None, (["jane"], [])),
        (" jane@example.org ,, max ", "", (["jane@example.org", "max"], [])),
        (["jane"], ("board", "audit"), (["jane"], ["board", "audit"])),
        (' ["a, b"]', "[]", (["a, b"], [])),
    ],
)
def test_lists_are_read_in_every_form(
    users: object, groups: object, seen: tuple[list[str], list[str]]
) -> None:
    found = access_from(users, groups)
    assert (found.users, found.groups) == (frozenset(seen[0]), frozenset(seen[1]))


@pytest.mark.parametrize(
    "broken",
    [
        *(7, True, {"users": ["a"]}, b"jane", [7], [None], [""], [" a"], ["a\n"], ["a" * 257]),
        *('["a"', '[["a"]]', "[1]", '["\\ud800"]', [f"u{n}" for n in range(MOST_NAMES + 1)]),
    ],
)
def test_what_is_no_list_hides_the_document(broken: object) -> None:
    """Also from those whom the other value names."""
    assert access_from("jane", broken) == NOBODY
    assert access_from(broken, ["board"]) == NOBODY
