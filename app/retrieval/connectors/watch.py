"""Watches the folders that are sources, and lets their connectors sync soon after a change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from app.retrieval.connectors.folder import left_out
from app.retrieval.connectors.settings import FolderSettings, SourceSettings

log = logging.getLogger("ostiary.connectors")

GATHERED_MS = 1_000  # changes that follow each other are told as one, after so long at most
LOOK_MS = 5_000  # how often it is seen whether the folder is still the one that is watched
RETRY_S = 10.0

TOLD_S = 30.0  # that the database may take to note a change

Changed = Callable[[str], Coroutine[Any, Any, None]]  # told the name of a source


class FolderWatch:
    """A thread for each folder, with the system's own notices of changes.

    Notices are a hint, never the truth: what has changed is told by the listing of the sync that
    they bring forward, and what they miss (a network disk has none) is found by the next one in
    its time.
    """

    def __init__(self, declared: Mapping[str, SourceSettings], changed: Changed) -> None:
        self._folders = {
            name: Path(os.path.realpath(source.path))
            for name, source in declared.items()
            if isinstance(source, FolderSettings) and source.watch
        }
        self._changed = changed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to watch; changes since the gateway last ran count as one."""
        loop = asyncio.get_running_loop()
        for name, folder in self._folders.items():
            thread = threading.Thread(
                target=self._keep_watching, args=(loop, name, folder), name=f"watch-{name}"
            )
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _keep_watching(self, loop: asyncio.AbstractEventLoop, name: str, folder: Path) -> None:
        said = ""
        while not self._stop.is_set():
            try:
                self._watch(loop, name, folder)
                continue  # another folder stands at its path
            except Exception as error:  # whatever it is, the folder is listed in its time
                if said != (said := type(error).__name__):
                    log.warning("source '%s' cannot be watched (%s); it is listed", name, said)
            self._stop.wait(RETRY_S)

    def _watch(self, loop: asyncio.AbstractEventLoop, name: str, folder: Path) -> None:
        """Watch until stopped, or until the folders to watch are others (made, moved, mounted)."""
        from watchfiles import watch

        folders = _below(folder)

        def counts(_: object, path: str) -> bool:
            return path in folders or not left_out(Path(path).name)

        notices = watch(
            *folders,
            recursive=False,  # else it would go where links lead
            watch_filter=counts,
            debounce=GATHERED_MS,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        first = True  # comes at once or after a time: either way the watching has begun
        for changes in notices:
            if changes or first:
                self._tell(loop, name)
                if _below(folder) != folders:
                    return
            first = False
            if _identity(folder) != folders[str(folder)]:
                return

    def _tell(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        if not self._stop.is_set():
            asyncio.run_coroutine_threadsafe(self._changed(name), loop).result(TOLD_S)


def _below(root: Path) -> dict[str, tuple[int, int]]:
    """A folder and those below it that a listing would enter, each with what it is."""
    found = {str(root): _identity(root)}
    for folder, names, _ in os.walk(root):  # does not follow links
        names[:] = [name for name in names if not left_out(name)]
        for name in names:
            path = Path(folder) / name
            with contextlib.suppress(OSError):  # gone by now
                if not path.is_symlink():
                    found[str(path)] = _identity(path)
    return found


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
