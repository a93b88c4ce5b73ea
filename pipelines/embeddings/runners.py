"""Runs tasks in processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from app.errors import OstiaryError

ATTEMPTS = 3


class Task(Protocol):
    """Picklable work whose repetition makes the same bytes, so that it may be tried again."""

    @property
    def label(self) -> str: ...

    def run(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: its result, or why there is none."""

    task: Task
    value: Any = None
    code: str = ""
    error: str = ""


class Runner(Protocol):
    """A bounded set of workers, on this machine or on a cluster."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        ...

    def submit(self, task: Task) -> None: ...

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended, after at most ``timeout_s`` seconds."""
        ...

    def close(self) -> None:
        """Stop the workers at once, whatever they do."""
        ...


def attempt(task: Task) -> tuple[Any, str, str, bool]:
    """Run a task in a worker.

    Returns:
        its value, an error's code and sentence, and whether another attempt may help.
    """
    try:
        return task.run(), "", "", False
    except OstiaryError as error:
        return None, error.code, error.message, error.code == "embedding_server_away"
    except OSError as error:  # a network file system's hiccup, or a full disk
        return None, "storage_error", f"{type(error).__name__}: {str(error)[:300]}", True
    except Exception as error:
        return None, "internal_error", f"{type(error).__name__}: {str(error)[:300]}", False


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parent = parent_process()
    if parent is not None:
        # a worker whose parent was killed would wait for work for ever
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


class LocalRunner:
    """Worker processes, each a pool of its own, so that a death is laid to the right task."""

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._context = get_context("spawn")
        self._idle: list[ProcessPoolExecutor] = []
        self._running: dict[Future[Any], tuple[Task, ProcessPoolExecutor, int]] = {}
        self._processes: dict[ProcessPoolExecutor, list[BaseProcess]] = {}
        self._waiting: deque[tuple[Task, int]] = deque()

    def submit(self, task: Task) -> None:
        self._waiting.append((task, 1))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            pool = self._idle.pop() if self._idle else self._pool()
            task, tries = self._waiting.popleft()
            try:
                future = pool.submit(attempt, task)
            except BrokenProcessPool:  # died idle; no task is to blame
                self._drop(pool)
                self._waiting.appendleft((task, tries))
                continue
            # the pool forgets its process when it breaks, and the process tells of what
            self._processes[pool] = list(pool._processes.values())
            self._running[future] = (task, pool, tries)

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin_worker)

    def wait(self, timeout_s: float) -> list[Outcome]:
        self._fill()
        ended = wait(self._running, timeout_s, FIRST_COMPLETED).done
        outcomes = []
        for future in ended:
            task, pool, tries = self._running.pop(future)
            try:
                value, code, error, again = future.result()
                self._idle.append(pool)
            except BrokenProcessPool:
                how = self._end_of(pool)
                self._drop(pool)
                value, code, again = None, "worker_died", True
                error = f"Its worker process died {tries} times, the last time {how}."
            if error and again and tries < ATTEMPTS:
                self._waiting.append((task, tries + 1))
            else:
                outcomes.append(Outcome(task, value, code, error))
        self._fill()
        return outcomes

    def pids(self) -> list[int]:
        """Return the worker processes' ids."""
        return [p.pid for found in self._processes.values() for p in found if p.pid is not None]

    def _end_of(self, pool: ProcessPoolExecutor) -> str:
        for process in self._processes.get(pool, []):
            process.join(5)
            if process.exitcode is not None and process.exitcode < 0:
                return f"of signal {-process.exitcode} (9 is also what running out of memory gives)"
            return f"with exit code {process.exitcode}"
        return "before it began"

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        self._processes.pop(pool, None)
        pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._waiting.clear()
        for pool, processes in list(self._processes.items()):
            for process in processes:
                process.kill()  # what it writes has a temporary name
            self._drop(pool)
        self._running.clear()
        self._idle.clear()
