"""Worker processes that the pipeline's tests share: each loads the real model once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines.embeddings.job import EmbedJob
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.run import Report, embed
from pipelines.embeddings.runners import LocalRunner


def silent(line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="session")
def workers() -> Iterator[LocalRunner]:
    runner = LocalRunner(2)
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def run(workers: LocalRunner) -> Callable[..., Report]:
    """Run a job in the shared workers."""

    def run_job(job: EmbedJob, **more: Any) -> Report:
        return embed(job, workers, Progress(silent), **more)

    return run_job
