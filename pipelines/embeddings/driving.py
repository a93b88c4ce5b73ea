"""Keeps a runner busy, and stops it in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from pipelines.embeddings.progress import Progress
from pipelines.embeddings.runners import Outcome, Runner, Task

_POLL_S = 0.5


class Stopped(Exception):
    """The run was told to stop; what it has made is kept."""


class Driver:
    """Hands tasks to a runner.

    Args:
        stop: once true, no new task is begun.
        grace_s: seconds that running tasks then have to end.
    """

    def __init__(
        self, runner: Runner, progress: Progress, stop: Callable[[], bool], grace_s: float
    ) -> None:
        self._runner, self._progress = runner, progress
        self._stop, self._grace_s = stop, grace_s

    def drive(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Yield outcomes as they come; ``None`` among the tasks says: none is ready now.

        Raises:
            Stopped: ``stop`` became true, and nothing more will end.
        """
        source = iter(tasks)
        running, more = 0, True
        deadline: float | None = None
        while True:
            if deadline is None and self._stop():
                deadline = time.monotonic() + self._grace_s
            while deadline is None and more and running < self._runner.slots:
                try:
                    task = next(source)
                except StopIteration:
                    more = False
                    break
                if task is None:
                    break
                self._runner.submit(task)
                running += 1
            if deadline is not None and (running == 0 or time.monotonic() > deadline):
                raise Stopped
            if running == 0:
                return
            for outcome in self._runner.wait(_POLL_S):
                running -= 1
                yield outcome
            self._progress.tell()
