"""Runs tasks on a Ray cluster that the nodes' operators started."""

from __future__ import annotations

import logging
from typing import Any

from app.errors import MissingExtra, Unavailable
from pipelines.embeddings.runners import ATTEMPTS, Outcome, Task, attempt


class RayRunner:
    """Ray tasks, as many at once as the cluster has processors for.

    The nodes need this package and access to the same inputs, output and model folder.

    Args:
        address: of the cluster's head, ``host:port`` or ``ray://host:port``; ``auto`` finds one
            on this machine.
        threads: processors that one task takes.
        gpus: that one task takes; 0 for none.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: no cluster answers there.
    """

    def __init__(self, address: str, threads: int, gpus: float = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("Ray", "ray") from error
        self._ray: Any = ray
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise Unavailable(
                    f"No Ray cluster answers at {address}: {str(error)[:200]}. Start one with "
                    "'ray start --head', or leave the runner local."
                ) from error
        processors = self._ray.cluster_resources().get("CPU", 1)
        self.slots = max(1, int(processors // threads))
        self._remote = self._ray.remote(
            num_cpus=threads,
            num_gpus=gpus,
            max_retries=ATTEMPTS - 1,  # of a lost worker or node
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}},
        )(attempt)
        self._running: dict[Any, tuple[Task, int]] = {}

    def submit(self, task: Task, tries: int = 1) -> None:
        self._running[self._remote.remote(task)] = (task, tries)

    def wait(self, timeout_s: float) -> list[Outcome]:
        if not self._running:
            return []
        ray = self._ray
        ended, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        outcomes = []
        for reference in ended:
            task, tries = self._running.pop(reference)
            try:
                value, code, error, again = ray.get(reference)
            except ray.exceptions.RayError as lost:
                value, code, again = None, "worker_died", False
                error = f"Its Ray worker was lost {ATTEMPTS} times: {type(lost).__name__}."
            if error and again and tries < ATTEMPTS:
                self.submit(task, tries + 1)
            else:
                outcomes.append(Outcome(task, value, code, error))
        return outcomes

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()
