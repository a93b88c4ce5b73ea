"""Makes files last: what was synced here survives a kill and a power cut."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from app.ids import new_id


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(draft: Path, path: Path) -> None:
    """Give a synced draft its name; the name lasts too."""
    draft.replace(path)
    sync(path.parent)


def secret_draft(path: Path, content: bytes) -> Path:
    """A synced file beside ``path`` that only this user can read; see :func:`settle`."""
    draft = path.with_name(new_id(f"{path.name}.partial-"))
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    return draft


def make_secret(path: Path, content: bytes) -> None:
    """Make a secret's file unless there is one, also when two gateways start at once."""
    draft = secret_draft(path, content)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        sync(path.parent)
    finally:
        draft.unlink()
