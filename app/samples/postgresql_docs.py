"""Fetches chapters of the PostgreSQL 15 manual, as HTML, from Debian's package.

The manual has the PostgreSQL licence. The chapters are those for users and administrators,
without reference pages of SQL commands, catalogues, internals and release notes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from app.samples.django_docs import SamplesUnavailable

PACKAGE = "postgresql-doc-15"
INSTALLED = Path("/usr/share/doc") / PACKAGE / "html"
FOLDER = "postgresql-15"
MARKER = ".complete"
MIN_CHARS = 400
MIN_PAGES = 250
TIMEOUT_S = 300

_PAGE = re.compile(
    r"(?:app|auth|backup|btree|client-authentication|config|continuous|creating|datatype|ddl|"
    r"different|disk|dml|event|explicit|fdw|functions|generic|gin|hot|high|indexes|jit|kernel|"
    r"locale|locking|logical|logfile|maintenance|manage|monitoring|multibyte|mvcc|parallel|"
    r"performance|pg|planner|plpgsql|populate|preventing|progress|queries|role|routine|rules|"
    r"runtime|server|sql-syntax|ssl|ssh|textsearch|transaction|trigger|tutorial|typeconv|"
    r"upgrading|user|using|view|wal|warm|when|xfunc|predefined|perm|collation|charset)"
    r"[a-z0-9-]*\.html"
)
_NOT = re.compile(r"view-pg-.*|catalog-.*|app-(?:ecpg|postmaster)\.html|pgbuffercache\.html")


def fetch(cache_dir: Path) -> list[Path]:
    """Return the sorted paths of the pages, taken from the installed package or from apt.

    Raises:
        SamplesUnavailable: neither the package nor apt is there, or it holds too few pages.
    """
    root = cache_dir / FOLDER
    if not (root / MARKER).is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".postgresql-", dir=cache_dir) as scratch:
            source = INSTALLED if INSTALLED.is_dir() else _download(Path(scratch))
            made = Path(scratch) / FOLDER
            _copy(source, made)
            if not root.exists():
                made.rename(root)
    return sorted(root.glob("*.html"))


def _download(into: Path) -> Path:
    """Download and unpack the package without installing it."""
    for command in (["apt-get", "download", "--quiet", PACKAGE], None):
        archives = sorted(into.glob("*.deb"))
        step = command or ["dpkg-deb", "-x", str(archives[0]) if archives else "", str(into)]
        try:
            done = subprocess.run(
                step, cwd=into, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is None or done.returncode:
            raise SamplesUnavailable(
                f"The package {PACKAGE} could not be fetched with apt. On Debian 12 run "
                f"'apt-get update' and try again, or install {PACKAGE}; elsewhere use another "
                "judged set."
            )
    return into / INSTALLED.relative_to("/")


def _copy(source: Path, into: Path) -> None:
    into.mkdir()
    kept = 0
    for page in source.glob("*.html"):
        if _PAGE.fullmatch(page.name) and not _NOT.fullmatch(page.name):
            text = re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8", errors="replace"))
            if len(text) >= MIN_CHARS:
                shutil.copyfile(page, into / page.name)
                kept += 1
    if kept < MIN_PAGES:
        raise SamplesUnavailable(
            f"Only {kept} pages were found in {PACKAGE}, at least {MIN_PAGES} are expected. "
            f"Reinstall {PACKAGE} and try again."
        )
    (into / MARKER).write_text(PACKAGE + "\n", encoding="utf-8")
