"""Makes files last: what was synced here survives a kill and a power cut."""

from __future__ import annotations

import os
from pathlib import Path


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
