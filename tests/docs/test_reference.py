"""The committed reference is what the code gives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


def load_generator() -> ModuleType:
    """The script, which is no part of any package."""
    path = ROOT / "docs" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("name", sorted(GENERATOR.PAGES))
def test_committed_page_equals_what_the_code_generates(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # no ostiary.toml of the developer's
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == GENERATOR.PAGES[name](), "run: python docs/generate_reference.py"


def test_every_error_class_that_is_loaded_is_listed() -> None:
    import app.wiring  # noqa: F401  (loads every room)
    from app.errors import OstiaryError

    waiting: list[type[OstiaryError]] = [OstiaryError]
    known: set[str] = set()
    while waiting:
        kind = waiting.pop()
        known.add(kind.__name__)
        waiting += [k for k in kind.__subclasses__() if k.__module__.startswith("app.")]
    assert known <= {kind.__name__ for kind in GENERATOR.error_classes()}
